"""Base classes of estimators of log p(x).

`RowEstimator` is for estimators with one value per row, and does everything but the estimate. An example:

    class Mine(RowEstimator):
        name, side = "mine", BELOW

        def __init__(self, samples: int = 100) -> None:
            self.samples = samples

        def estimate(self, run: Run, rows: Batch) -> tuple[Tensor, ...]:
            return (...,)  # (batch,), in nats

If it is in a file `my_parts.py`: `test --likelihood.estimators+=my_parts.Mine`.
"""

from __future__ import annotations

import abc
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytorch_lightning as pl
import torch
from torch import Tensor

from ...batch import Batch
from ...evaluation import map_rows
from ...evaluation.metrics import MeanOverRows
from ..base import Estimator, Figure

BELOW = "below, in expectation"

T = TypeVar("T")


@dataclass
class Run:
    """The test in which estimators run.

    Attributes:
        trainer, model: of the test.
        rows: number of rows of the test data, from the first; None: all.
        chunk: pairs (draw, row) per call of the decoder.
        seed: every figure is a function of (seed, row).
    """

    trainer: pl.Trainer
    model: Any
    rows: int | None
    chunk: int
    seed: int
    _shared: dict[Hashable, Any] = field(default_factory=dict)

    def shared(self, key: Hashable, make: Callable[[], T]) -> T:
        """A value that several estimators need, made at the first call with this key."""
        if key not in self._shared:
            self._shared[key] = make()
        return self._shared[key]

    def evaluated(self, batch: Batch) -> Batch:
        """The rows of a batch to evaluate."""
        batch = without_fillers(batch)
        return batch if self.rows is None else _where(batch, batch.index < self.rows)  # type: ignore[operator, arg-type]


def without_fillers(batch: Batch) -> Batch:
    """The rows of the data: fillers, for processes without rows, have a negative index."""
    return _where(batch, batch.index >= 0)  # type: ignore[operator, arg-type]


def _where(batch: Batch, mask: Tensor) -> Batch:
    return batch.at(mask.nonzero().squeeze(1))


class LikelihoodEstimator(Estimator[Run]):
    """Estimates log p(x) from the batches of a test.

    One object may be used in several tests: `begin` resets it.
    """

    def begin(self, run: Run) -> None:
        """Before the first batch."""

    def update(self, run: Run, batch: Batch) -> None:
        """Takes a batch, with its `index`."""

    def gather(self, run: Run) -> None:
        """Joins the results of all processes, on each of them."""


class RowEstimator(LikelihoodEstimator, abc.ABC):
    """An estimator with one value per row.

    Attributes:
        side: its side of log p(x).
        columns: number of values of `estimate` per row.
        draws_per_row: draws of a row in one call of the decoder, at least.
        settings: a description for the table.
        precedence: the model's own bound is compared with the estimator of the highest precedence without an objection;
            0: never.
        values: after `gather`, the results of `estimate` for all rows in the order of their index, `(rows, columns)`.
    """

    side: str
    columns: int = 1
    draws_per_row: int = 1
    settings: str = ""
    precedence: int = 0

    @abc.abstractmethod
    def estimate(self, run: Run, rows: Batch) -> tuple[Tensor, ...]:
        """The estimate for some rows, in nats in the model's units, and values for `check`, `(batch,)` each.

        Random numbers must come from `noise` or from torch's generators; they are then a function of (seed, row).
        """

    def check(self, columns: Tensor) -> tuple[dict[str, float] | None, str]:
        """Diagnostics and an objection, see `Figure`, from all but the first column, `(rows, columns - 1)`."""
        return None, ""

    def begin(self, run: Run) -> None:
        self.seconds = 0.0
        self.metric = MeanOverRows().to(run.model.device)
        # So that a process without rows can join, too.
        no_values = torch.zeros(0, self.columns, device=run.model.device)
        self.metric.update(no_values, torch.zeros(0, dtype=torch.int64, device=run.model.device))

    def update(self, run: Run, batch: Batch) -> None:
        batch = run.evaluated(batch)
        if not len(batch.x):
            return
        begin = time.perf_counter()
        rows_per_call = max(1, run.chunk // self.draws_per_row)
        value, *rest = map_rows(lambda rows: self.estimate(run, rows), batch, rows_per_call, run.seed, self.name)
        columns = torch.stack([value + self.offset(run), *rest], 1)
        self.metric.update(columns, batch.index)  # type: ignore[arg-type]
        self.seconds += time.perf_counter() - begin

    def offset(self, run: Run) -> Tensor:
        """The term to add for a density in the original units, in nats."""
        return run.model.log_jacobian

    def gather(self, run: Run) -> None:
        found = self.metric.compute()
        self.values = torch.atleast_2d(found["values"])  # torchmetrics squeezes a single number
        self.mean, self.standard_error = (found[name].flatten()[0].item() for name in ("mean", "standard_error"))

    def figures(self, run: Run) -> list[Figure]:
        diagnostics, objection = self.check(self.values[:, 1:])
        made = Figure(self.name, self.mean, self.standard_error, len(self.values), "", self.side, self.settings)
        return [made._replace(diagnostics=diagnostics, objection=objection, seconds=self.seconds)]
