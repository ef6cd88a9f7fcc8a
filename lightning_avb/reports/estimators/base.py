"""What an estimator of log p(x) is.

`RowEstimator` is the usual case, one estimate for every row, and does all but the estimate. An estimator of your own:

    class Mine(RowEstimator):
        name, side = "mine", BELOW

        def __init__(self, samples: int = 100) -> None:
            self.samples = samples

        def estimate(self, run: Run, rows: Batch) -> tuple[Tensor, ...]:
            return (...,)  # (batch,), in nats

In a file `my_parts.py`: `test --likelihood.estimators+=my_parts.Mine`.
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
from ...evaluation import over_rows
from ...evaluation.metrics import MeanOverRows
from ..base import Estimator, Figure

BELOW = "below, in expectation"

Made = TypeVar("Made")


@dataclass
class Run:
    """The test that estimators take part in.

    Attributes:
        trainer, model: those of the test.
        rows: how many rows of the test data are evaluated, from the first; None: all.
        chunk: pairs (draw, row) that the decoder gets at a time.
        seed: every figure is a function of (seed, row).
    """

    trainer: pl.Trainer
    model: Any
    rows: int | None
    chunk: int
    seed: int
    _shared: dict[Hashable, Any] = field(default_factory=dict)

    def shared(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What several estimators need: made by the first that asks by this key."""
        if key not in self._shared:
            self._shared[key] = make()
        return self._shared[key]

    def evaluated(self, batch: Batch) -> Batch:
        """The rows of a batch that are evaluated."""
        batch = known_rows(batch)
        return batch if self.rows is None else _where(batch, batch.index < self.rows)  # type: ignore[operator, arg-type]


def known_rows(batch: Batch) -> Batch:
    """Rows of the data: an index below 0 stands in where a process has none."""
    return _where(batch, batch.index >= 0)  # type: ignore[operator, arg-type]


def _where(batch: Batch, mask: Tensor) -> Batch:
    return batch.at(mask.nonzero().squeeze(1))


class LikelihoodEstimator(Estimator[Run]):
    """Estimates log p(x) from the batches of a test.

    One object may serve several tests: what belongs to one is made in `begin`.
    """

    def begin(self, run: Run) -> None:
        """Before the first batch."""

    def update(self, run: Run, batch: Batch) -> None:
        """Takes a batch, with its `index`."""

    def gather(self, run: Run) -> None:
        """Joins what the processes have, on each of them."""


class RowEstimator(LikelihoodEstimator, abc.ABC):
    """An estimate for every row.

    Attributes:
        side: on which side of log p(x) it lies.
        columns: how many numbers `estimate` gives for a row.
        copies: draws of a row that one call of the decoder gets at least.
        settings: what it is made with, for the table.
        precedence: the model's own bound is compared with the estimate of the highest that nothing speaks against; 0:
            never.
        values: after `gather`, what `estimate` gave for all rows in the order of their index, `(rows, columns)`.
    """

    side: str
    columns: int = 1
    copies: int = 1
    settings: str = ""
    precedence: int = 0

    @abc.abstractmethod
    def estimate(self, run: Run, rows: Batch) -> tuple[Tensor, ...]:
        """The estimate for some rows, in nats of the model's units, and what tells how good it is, `(batch,)` each.

        Random numbers come from `noise` or from torch's own generators: they are then a function of (seed, row).
        """

    def check(self, columns: Tensor) -> tuple[dict[str, float] | None, str]:
        """Diagnostics and an objection, see `Figure`, from all but the first column, `(rows, columns - 1)`."""
        return None, ""

    def begin(self, run: Run) -> None:
        self.seconds = 0.0
        self.metric = MeanOverRows().to(run.model.device)
        # A process that gets no row has something to join as well.
        nothing = torch.zeros(0, self.columns, device=run.model.device)
        self.metric.update(nothing, torch.zeros(0, dtype=torch.int64, device=run.model.device))

    def update(self, run: Run, batch: Batch) -> None:
        batch = run.evaluated(batch)
        if not len(batch.x):
            return
        begin = time.perf_counter()
        together = max(1, run.chunk // self.copies)
        value, *rest = over_rows(lambda rows: self.estimate(run, rows), batch, together, run.seed, self.name)
        columns = torch.stack([value + self.offset(run), *rest], 1)
        self.metric.update(columns, batch.index)  # type: ignore[arg-type]
        self.seconds += time.perf_counter() - begin

    def offset(self, run: Run) -> Tensor:
        """What to add to have nats of the original units."""
        return run.model.log_jacobian

    def gather(self, run: Run) -> None:
        found = self.metric.compute()
        self.values = torch.atleast_2d(found["values"])  # torchmetrics squeezes a single number
        self.mean, self.standard_error = (found[name].flatten()[0].item() for name in ("mean", "standard_error"))

    def figures(self, run: Run) -> list[Figure]:
        diagnostics, objection = self.check(self.values[:, 1:])
        made = Figure(self.name, self.mean, self.standard_error, len(self.values), "", self.side, self.settings)
        return [made._replace(diagnostics=diagnostics, objection=objection, seconds=self.seconds)]
