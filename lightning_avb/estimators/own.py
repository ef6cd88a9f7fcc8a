"""The model's own figure beside the others, and what its bound is made of."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors

from .. import noise
from ..batch import Batch
from ..evaluation import diagnose
from ..tables import Line
from .base import BELOW, Estimator, Figures, RowEstimator, evaluated


class Own(RowEstimator):
    """The model's own bound, or its critic's estimate of it, from several draws of q; an autoencoder has none."""

    SIDES: ClassVar[dict[str, str]] = {"elbo": BELOW, "elbo_estimate": "the critic's estimate: either"}
    GAPS: ClassVar[dict[str, str]] = {
        "elbo": "none: what the ELBO lacks",
        "elbo_estimate": "none: how far the critic's estimate is too low (negative: too high)",
    }

    def __init__(self, rows: int | None, draws: int, pairs: int, seed: int) -> None:
        super().__init__(f"{draws} draws of q", rows, pairs, draws, seed)
        self.draws, self.name, self.asked = draws, "", False

    def update(self, model: Any, batch: Batch) -> None:
        if not self.asked:
            self.asked = True
            with noise.use(noise.OfRows(self.seed, "own", index=batch.index[:1])):  # type: ignore[index]
                scores = model.scores(batch.first(1))
            self.name = next((name for name in self.SIDES if name in scores), "")
        if self.name:
            self.side = self.SIDES[self.name]
            super().update(model, batch)

    def estimate(self, model: Any) -> Callable[[Batch], Figures]:
        def estimate(rows: Batch) -> Figures:
            samples, model.samples = model.samples, self.draws
            try:
                scores = model.scores(rows)
            finally:
                model.samples = samples
            return (scores[self.name].expand(self.draws, -1).mean(0),)

        return estimate

    def volume(self, model: Any) -> Tensor:
        return torch.zeros_like(model.log_jacobian)  # it is in the scores

    def collect(self, processes: int) -> None:
        if self.name:
            super().collect(processes)

    def lines(self, model: Any) -> list[Line]:
        return super().lines(model) if self.name else []

    def lacking(self, other: RowEstimator, objection: str | None) -> Line:
        """By how much an estimate of log p(x) is above this figure, row by row."""
        difference = other.values[:, 0] - self.values[:, 0]
        n = len(difference)
        error = difference.std().item() / math.sqrt(n) if n > 1 else math.nan
        side = self.GAPS[self.name] + (", at least" if other.side == BELOW else "")
        return Line(f"{other.name} - {self.name}", difference.mean().item(), error, n, "", side, objection=objection)


class Parts(Estimator):
    """What the bound is made of, and how far off q and the critic are; see `evaluation.diagnose`.

    Args:
        rows: fill a grid for no more rows than are evaluated.
        seed: of the draws.
    """

    name = "parts"
    DECOMPOSED = 1000
    """Rows over which I(x; z) is taken at most."""

    def __init__(self, rows: int | None, seed: int) -> None:
        self.rows, self.seed = rows, seed
        self.seen: list[Batch] = []

    def update(self, model: Any, batch: Batch) -> None:
        if sum(len(part.x) for part in self.seen) < self.DECOMPOSED:
            self.seen.append(evaluated(batch, None))

    def collect(self, processes: int) -> None:
        """The first rows of the test data, each once."""
        columns = [None if column[0] is None else torch.cat(column) for column in zip(*self.seen, strict=True)]
        if processes > 1:
            columns = [None if column is None else torch.cat(gather_all_tensors(column)) for column in columns]
        index, order = columns[2].sort(stable=True)  # type: ignore[union-attr]
        first = index.diff(prepend=index[:1] - 1) > 0
        self.batch = Batch(*columns).at(order[first]).first(self.DECOMPOSED)  # type: ignore[arg-type]

    def lines(self, model: Any) -> list[Line]:
        begin = time.perf_counter()
        figures = diagnose(model, self.batch, self.seed, self.rows)
        seconds = time.perf_counter() - begin
        lines = [Line(f.name, f.mean, f.standard_error, f.n, f.which, f.side, f.how) for f in figures]
        return [line._replace(seconds=seconds if line is lines[0] else 0.0) for line in lines]
