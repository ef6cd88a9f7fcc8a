"""The model's own bound beside the estimates of log p(x)."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from ... import noise
from ...batch import Batch
from ...errors import at_least
from ..base import Figure
from .base import BELOW, RowEstimator, Run


class ModelBound(RowEstimator):
    """The model's ELBO, a lower bound of it, or its critic's estimate, from several draws of q.

    Adversarial autoencoders have none.

    Args:
        draws: of q.
    """

    SIDE: ClassVar[dict[str, str]] = {
        "elbo": BELOW,
        "elbo_lower": BELOW,
        "elbo_estimate": "the critic's estimate: either",
    }
    DISTANCE: ClassVar[dict[str, str]] = {
        "elbo": "none: the gap of the ELBO",
        "elbo_lower": "none: the gap of the ELBO, and of its bound",
        "elbo_estimate": "none: how far the critic's estimate is too low (negative: too high)",
    }

    def __init__(self, draws: int = 20) -> None:
        self.draws = self.draws_per_row = at_least(1, draws=draws)
        self.settings = f"{draws} draws of q"

    def begin(self, run: Run) -> None:
        super().begin(run)
        self.name, self.name_is_known = "", False

    def update(self, run: Run, batch: Batch) -> None:
        if not self.name_is_known:
            self.name_is_known = True
            with noise.use(noise.RowNoise(run.seed, "own", index=batch.index[:1])):  # type: ignore[index]
                scores = run.model.scores(batch.first(1))
            self.name = next((name for name in self.SIDE if name in scores), "")
        if self.name:
            self.side = self.SIDE[self.name]
            super().update(run, batch)

    def estimate(self, run: Run, rows: Batch) -> tuple[Tensor, ...]:
        samples, run.model.samples = run.model.samples, self.draws
        try:
            scores = run.model.scores(rows)
        finally:
            run.model.samples = samples
        return (scores[self.name].expand(self.draws, -1).mean(0),)

    def offset(self, run: Run) -> Tensor:
        return torch.zeros_like(run.model.log_jacobian)  # it is in the scores

    def gather(self, run: Run) -> None:
        if self.name:
            super().gather(run)

    def figures(self, run: Run) -> list[Figure]:
        return super().figures(run) if self.name else []

    def distance_to(self, estimate: RowEstimator, objection: str) -> Figure:
        """The mean over rows of an estimate of log p(x) minus this bound."""
        difference = estimate.values[:, 0] - self.values[:, 0]
        n = len(difference)
        error = difference.std().item() / math.sqrt(n) if n > 1 else math.nan
        expected = self.DISTANCE[self.name] + (", at least" if estimate.side == BELOW else "")
        name = f"{estimate.name} - {self.name}"
        return Figure(name, difference.mean().item(), error, n, "", expected, objection=objection)
