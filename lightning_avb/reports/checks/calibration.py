"""Whether the posteriors of a family are calibrated."""

from __future__ import annotations

from ... import noise
from ...errors import at_least
from ...evaluation import calibration_ranks, uniformity
from ..base import Figure
from .base import PosteriorCheck, PosteriorDraws


class SimulationBasedCalibration(PosteriorCheck):
    """Simulation-based calibration (Talts et al. 2018), for the posteriors of a family.

    Args:
        simulations: number of data sets.
        ranks: draws of the posterior of each.
    """

    name = "calibration"

    def __init__(self, simulations: int = 1000, ranks: int = 99) -> None:
        self.simulations, self.ranks = at_least(100, simulations=simulations), at_least(1, ranks=ranks)

    def missing(self, draws: PosteriorDraws) -> str | None:
        return None if draws.model is not None and draws.model.amortised else "a sampler of a family of posteriors"

    def figures(self, draws: PosteriorDraws) -> list[Figure]:
        model = draws.model
        assert model is not None
        theta, x = model.target.simulate(self.simulations, noise.mixed_seed(draws.seed, "calibration"))  # type: ignore[operator]
        truth = model.support.unconstrain(theta).to(model.location)
        drawn = model.draw_z(self.ranks, x.to(model.location))
        p = uniformity(calibration_ranks(truth.cpu(), drawn.cpu()), self.ranks)
        note = f"that ranks among {self.ranks} draws are uniform, {self.simulations} data sets"
        names = zip(model.support.coordinates, p.tolist(), strict=True)
        return [Figure(f"p, {name}", value, note=note) for name, value in names]
