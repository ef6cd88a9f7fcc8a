"""A mean over the rows of a data set that counts every row once, on any number of processes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class MeanOverRows(Metric):
    """Mean and standard error of a quantity over the rows of a data set.

    With several processes, samplers repeat rows so that every process has equally many, and a mean of means is wrong.
    Here every value comes with the index of its row, and every row counts once. Sums are in double precision.
    """

    full_state_update = False
    index: list[Tensor]
    value: list[Tensor]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_state("index", [], "cat")
        self.add_state("value", [], "cat")

    def update(self, value: Tensor, index: Tensor) -> None:
        """Takes values `(batch,)`, or several of every row, `(batch, figures)`, of the rows `(batch,)`."""
        self.index.append(index)
        self.value.append(value.double())

    def compute(self) -> dict[str, Tensor]:
        """`mean` and `standard_error` (of the mean, over rows), and all rows' `values` in the order of `index`."""
        index, order = dim_zero_cat(self.index).sort(stable=True)
        first = torch.ones_like(index, dtype=torch.bool)
        first[1:] = index[1:] != index[:-1]
        values = dim_zero_cat(self.value)[order][first]
        spread = values.std(0) if len(values) > 1 else values.new_full(values.shape[1:], float("nan"))
        error = spread / len(values) ** 0.5
        return {"mean": values.mean(0), "standard_error": error, "values": values, "index": index[first]}
