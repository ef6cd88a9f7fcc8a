"""For models that learn from no data: one constant row per step."""

from __future__ import annotations

import torch

from .splits import Split
from .tensors import TensorDataModule


class NoData(TensorDataModule):
    """One row with the number 1 in every batch: the posterior of a log-density needs no data.

    Args:
        steps: batches of an epoch, after which Lightning validates and saves.
    """

    data_shape = (1,)
    no_data = True
    """A model that learns from rows refuses data that has this attribute."""

    def __init__(self, steps: int = 500) -> None:
        super().__init__(1)
        self.steps = steps

    def _fits_in_memory(self, splits: dict[str, Split]) -> bool:
        return True  # and there is nothing to tell about it

    def load(self) -> dict[str, Split]:
        one = torch.ones(1, 1)
        return {"train": Split(one.expand(self.steps, 1)), "val": Split(one), "test": Split(one)}
