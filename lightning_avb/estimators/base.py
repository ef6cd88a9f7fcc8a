"""What every estimator behind the table of `test` is.

A new one is a class in this folder and a line in `Likelihood`: it says what it cannot do (`refuse`), what it needs
before the first batch (`begin`), what it takes from a batch (`update`) and the `lines` it gives. `RowEstimator` is the
usual case, one figure a row, and does all but the figure. Every figure is a function of (seed, row).
"""

from __future__ import annotations

import abc
import time
from collections.abc import Callable
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from torch import Tensor

from ..batch import Batch
from ..evaluation import over_rows
from ..evaluation.metrics import MeanOverRows
from ..tables import Line

BELOW = "below, in expectation"

Figures = tuple[Tensor, ...]
"""Numbers of some rows, `(batch,)` each: the estimate, and what tells how good it is."""


class Estimator:
    """A part of the table."""

    name: str
    seconds: float = 0.0

    def refuse(self, trainer: pl.Trainer, model: Any) -> None:
        """Raises ConfigurationError for what cannot be done, before anything is."""

    def begin(self, trainer: pl.Trainer, model: Any) -> None:
        """Before the first batch."""

    def update(self, model: Any, batch: Batch) -> None:
        """Takes a batch, with its `index`."""

    def collect(self, processes: int) -> None:
        """Joins what the processes have, on each of them."""

    def lines(self, model: Any) -> list[Line]:
        """After `collect`, on the first process."""
        raise NotImplementedError


class RowEstimator(Estimator, abc.ABC):
    """An estimate of every row.

    Attributes:
        values: after `collect`, the figures of all rows in the order of their index, `(rows, figures)`.

    Args:
        settings: what it is made with, for the table.
        rows: evaluate the first so many rows of the test data; None: all.
        pairs: (draw, row) that the decoder gets at a time.
        copies: draws of a row in one call.
        seed: of its draws.
    """

    side: str
    figures: ClassVar[int] = 1
    """How many `estimate` gives of a row."""

    def __init__(self, settings: str, rows: int | None, pairs: int, copies: int, seed: int) -> None:
        self.settings, self.rows, self.together, self.seed = settings, rows, max(1, pairs // copies), seed
        self.metric = MeanOverRows()

    @abc.abstractmethod
    def estimate(self, model: Any) -> Callable[[Batch], Figures]:
        """A function from some rows to their figures, in nats of the model's units."""

    def verdict(self, figures: Tensor) -> tuple[dict[str, float] | None, str | None]:
        """Diagnostics and an objection from the other figures, `(rows, figures)`; see `tables.Line`."""
        return None, None

    def begin(self, trainer: pl.Trainer, model: Any) -> None:
        self.metric.to(model.device)
        # A process that gets no row has something to join as well.
        nothing = torch.zeros(0, self.figures, device=model.device)
        self.metric.update(nothing, torch.zeros(0, dtype=torch.int64, device=model.device))

    def update(self, model: Any, batch: Batch) -> None:
        batch = evaluated(batch, self.rows)
        if not len(batch.x):
            return
        begin = time.perf_counter()
        value, *rest = over_rows(self.estimate(model), batch, self.together, self.seed, self.name)
        figures = torch.stack([value + self.volume(model), *rest], 1)
        self.metric.update(figures, batch.index)  # type: ignore[arg-type]
        self.seconds += time.perf_counter() - begin

    def volume(self, model: Any) -> Tensor:
        """What to add to have nats of the original units."""
        return model.log_jacobian

    def collect(self, processes: int) -> None:
        found = self.metric.compute()
        self.values = torch.atleast_2d(found["values"])  # torchmetrics squeezes a single number
        self.mean, self.standard_error = (found[name].flatten()[0].item() for name in ("mean", "standard_error"))

    def lines(self, model: Any) -> list[Line]:
        diagnostics, objection = self.verdict(self.values[:, 1:])
        made = Line(self.name, self.mean, self.standard_error, len(self.values), "", self.side, self.settings)
        return [made._replace(diagnostics=diagnostics, objection=objection, seconds=self.seconds)]


def evaluated(batch: Batch, rows: int | None) -> Batch:
    """Those of its rows that are among the first so many; an index below 0 is that of no row of the data."""
    index = batch.index
    assert index is not None
    inside = index >= 0 if rows is None else (index >= 0) & (index < rows)
    return batch.at(inside.nonzero().squeeze(1))
