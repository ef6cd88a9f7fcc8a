"""For models that learn from no data: a row of ones a step."""

from __future__ import annotations

import torch

from .tensors import Split, TensorDataModule


class NoData(TensorDataModule):
    """One row, a single 1, in every batch: the posterior of a log-density needs no more.

    Args:
        steps: batches of an epoch, after which Lightning validates, saves and draws.
    """

    data_shape = (1,)
    no_data = True
    """Tells a model that learns from rows that these say nothing."""

    def __init__(self, steps: int = 500) -> None:
        super().__init__(1)
        self.steps = steps

    def load(self) -> dict[str, Split]:
        one = torch.ones(1, 1)
        return {"train": Split(one.expand(self.steps, 1)), "val": Split(one), "test": Split(one)}
