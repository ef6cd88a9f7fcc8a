"""Annealed importance sampling, and the same from both sides on data simulated from the model."""

from __future__ import annotations

import time
from typing import ClassVar, Literal, NamedTuple

from torch import Tensor

from ...batch import Batch
from ...errors import ConfigurationError, at_least
from ...evaluation import Annealer, schedule
from ...evaluation.reliability import annealing_objection, harmonic_mean
from ...inference import annealer
from ..base import Figure
from .base import BELOW, LikelihoodEstimator, RowEstimator, Run


class AnnealingOptions(NamedTuple):
    """How chains are annealed.

    Attributes:
        chains: per row.
        steps: temperatures.
        leapfrogs: leapfrog steps between two temperatures.
        path: `linear` or `sigmoid` spacing of the temperatures.
        start: chains begin at draws of the `proposal` or of the `prior`.
    """

    chains: int
    steps: int
    leapfrogs: int
    path: Literal["linear", "sigmoid"]
    start: Literal["proposal", "prior"]

    def checked(self) -> AnnealingOptions:
        """These options.

        Raises:
            ConfigurationError: a number out of range, or an unknown `path` or `start`.
        """
        at_least(1, chains=self.chains)
        at_least(1, steps=self.steps)
        at_least(1, leapfrogs=self.leapfrogs)
        if self.path not in ("linear", "sigmoid"):
            raise ConfigurationError(f"path: {self.path!r} is neither 'linear' nor 'sigmoid'")
        if self.start not in ("proposal", "prior"):
            raise ConfigurationError(f"start: {self.start!r} is neither 'proposal' nor 'prior'")
        return self

    def __str__(self) -> str:
        chains = f"{self.chains} chains, {self.steps} steps of {self.leapfrogs} leapfrogs"
        return f"{chains}, {self.path}, from the {self.start}"

    def annealer(self, run: Run) -> Annealer:
        """The tuned chains of a test's model, the same for all estimators with these options."""
        return run.shared(("annealer", self), lambda: self._tuned(run))

    def _tuned(self, run: Run) -> Annealer:
        betas = schedule(self.steps, self.path)
        return annealer(run.model, betas, self.leapfrogs, self.chains, self.start == "prior", run.chunk, run.seed)


class AnnealedImportanceSampling(RowEstimator):
    """Annealed importance sampling with Hamiltonian transitions.

    Args:
        chains, steps, leapfrogs, path, start: see `AnnealingOptions`.
    """

    name, side, columns, precedence = "annealing", BELOW, 3, 2

    def __init__(
        self,
        chains: int = 8,
        steps: int = 500,
        leapfrogs: int = 2,
        path: Literal["linear", "sigmoid"] = "sigmoid",
        start: Literal["proposal", "prior"] = "proposal",
    ) -> None:
        self.options = AnnealingOptions(chains, steps, leapfrogs, path, start).checked()
        self.settings, self.draws_per_row = str(self.options), chains

    def begin(self, run: Run) -> None:
        super().begin(run)
        begin = time.perf_counter()
        self.annealer = self.options.annealer(run)
        self.seconds = time.perf_counter() - begin

    def estimate(self, run: Run, rows: Batch) -> tuple[Tensor, ...]:
        found = self.annealer.estimate(rows)
        return found.bound, found.effective_chains, found.acceptance

    def check(self, columns: Tensor) -> tuple[dict[str, float] | None, str]:
        effective, acceptance = columns.unbind(1)
        diagnostics = {"effective chains": harmonic_mean(effective), "acceptance": acceptance.mean().item()}
        return diagnostics, annealing_objection(self.options.chains, effective, acceptance, self.annealer.gap)


class BidirectionalMonteCarlo(LikelihoodEstimator):
    """Annealing on data simulated from the model, with the reverse chain: a limit of the error of `annealing`.

    Args:
        simulated: rows to simulate.
        chains, steps, leapfrogs, path, start: see `AnnealingOptions`.
    """

    name = "bidirectional"
    SIDE: ClassVar[dict[str, str]] = {
        "lower": BELOW,
        "upper": "above, in expectation",
        "gap": "none: the largest error of `lower`, in expectation",
    }

    def __init__(
        self,
        simulated: int = 100,
        chains: int = 8,
        steps: int = 500,
        leapfrogs: int = 2,
        path: Literal["linear", "sigmoid"] = "sigmoid",
        start: Literal["proposal", "prior"] = "proposal",
    ) -> None:
        self.simulated = at_least(2, simulated=simulated)
        self.options = AnnealingOptions(chains, steps, leapfrogs, path, start).checked()

    def begin(self, run: Run) -> None:
        begin = time.perf_counter()
        self.found = self.options.annealer(run).certify(self.simulated).summary()
        self.seconds = time.perf_counter() - begin

    def figures(self, run: Run) -> list[Figure]:
        figures, log_jacobian, settings = list[Figure](), run.model.log_jacobian.item(), str(self.options)
        for bound, (mean, error) in self.found.items():
            value, name = mean if bound == "gap" else mean + log_jacobian, f"{self.name}, {bound}"
            figures.append(Figure(name, value, error, self.simulated, "simulated", self.SIDE[bound], settings))
        return [figures[0]._replace(seconds=self.seconds), *figures[1:]]
