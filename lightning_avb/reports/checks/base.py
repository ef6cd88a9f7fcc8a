"""The base class of checks of a posterior's draws."""

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

MOST_ERRORS = 4.0
"""A figure raises an objection only beyond this many standard errors, since there are dozens of figures."""


class PosteriorDraws:
    """Draws to check, with cached results that several checks need.

    Args:
        target: the log-density that they should follow.
        z: `(n, dim)`, independent draws in the unconstrained coordinates; None for a family, which has many
            posteriors.
        seed: of all noise.
        model: the sampler of the draws; None: they have another source.
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
        """`count` draws of a model's sampler."""
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
        return self._calls(points.to(self.z), most=64)  # all points may raise where chains begin far away

    @cached_property
    def moved(self) -> MovedDraws:
        """The draws after short Hamiltonian chains."""
        return move_draws(self.z, self.log_density, self.coordinates, self.transitions, self.leapfrogs, self.seed)

    @cached_property
    def weighted(self) -> DrawsDiagnosis:
        """Weighted draws of a flow that is fitted to the draws."""
        return diagnose_draws(self.z, self.log_density, seed=self.seed)

    @cached_property
    def reference(self) -> Parameters | None:
        """Equally many reference draws, by name, or None."""
        return self.target.reference(len(self.z))

    def warn(self) -> None:
        """Warns once if the log-density raised an exception anywhere."""
        self._calls.warn()


class PosteriorCheck(Estimator[PosteriorDraws]):
    """Checks the draws of a posterior.

    A check with something `missing` is left out of the report. By default a check needs draws of one posterior.
    """

    def missing(self, draws: PosteriorDraws) -> str | None:
        return None if draws.of_one_posterior else "draws of one posterior"
