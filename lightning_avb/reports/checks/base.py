"""What a check of a posterior's draws is."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from torch import Tensor

from ...evaluation import DrawsDiagnosis, MovedDraws, diagnose_draws, move_draws
from ...models import Posterior
from ...support import Parameters
from ...targets import Target
from ...targets.calls import TolerantDensity
from ..base import Estimator

ERRORS = 4.0
"""Standard errors that a figure must be off by, beside its tolerance: dozens of figures are looked at."""


class PosteriorDraws:
    """Draws to check, and what several checks need of them, worked out once.

    Args:
        target: the log-density that they should follow.
        z: `(n, dim)`, independent draws in the unconstrained coordinates; None: those of a family, whose posteriors are
            many.
        seed: of all noise.
        model: that gave them; None: they are from elsewhere.
        transitions, leapfrogs: of the chains that move the draws.
    """

    def __init__(
        self,
        target: Target,
        z: Tensor | None,
        seed: int = 0,
        model: Posterior | None = None,
        transitions: int = 40,
        leapfrogs: int = 16,
    ) -> None:
        self.target, self.seed, self.model = target, seed, model
        self.transitions, self.leapfrogs = transitions, leapfrogs
        self._z = z
        self._calls = TolerantDensity(target)

    @classmethod
    def of(cls, model: Posterior, count: int, seed: int = 0) -> PosteriorDraws:
        """So many draws of a model's sampler."""
        return cls(model.target, None if model.amortised else model.draw_z(count).squeeze(1), seed, model)

    @property
    def of_one_posterior(self) -> bool:
        return self._z is not None

    @property
    def z(self) -> Tensor:
        assert self._z is not None
        return self._z

    @property
    def coordinates(self) -> Sequence[str]:
        """Names of the unconstrained coordinates."""
        return self.target.support.coordinates

    def log_density(self, points: Tensor) -> Tensor:
        """log p(z) `(n,)` of points `(n, dim)`; -inf where the user's code raises."""
        return self._calls(points.to(self.z), most=64)  # far out, where chains begin, all points may raise

    @cached_property
    def moved(self) -> MovedDraws:
        """What short Hamiltonian chains from every draw changed."""
        return move_draws(self.z, self.log_density, self.coordinates, self.transitions, self.leapfrogs, self.seed)

    @cached_property
    def weighted(self) -> DrawsDiagnosis:
        """Weighted draws of a flow that is fitted to the draws."""
        return diagnose_draws(self.z, self.log_density, seed=self.seed)

    @cached_property
    def reference(self) -> Parameters | None:
        """As many reference draws, by name, where the target has them."""
        return self.target.reference(len(self.z))

    def warn(self) -> None:
        """Says in one warning where the log-density raised, if anywhere."""
        self._calls.warn()


class PosteriorCheck(Estimator[PosteriorDraws]):
    """Looks at the draws of a posterior.

    Where something is `missing`, the report goes without it. The checks here are of one posterior's draws, unless they
    say otherwise.
    """

    def missing(self, draws: PosteriorDraws) -> str | None:
        return None if draws.of_one_posterior else "draws of one posterior"
