"""The four points of the AVB paper's first experiment."""

from __future__ import annotations

import torch

from .splits import Split
from .tensors import TensorDataModule


class FourPoints(TensorDataModule):
    """The four one-hot vectors of length 4, each in a quarter of the rows; the label is the number of the point.

    The best possible log-likelihood is -log 4 = -1.386 nats. Training, validation and test hold the same four points.

    Args:
        batch_size, eval_batch_size: see `TensorDataModule`.
        copies: rows per point in an epoch; validation and test have 128 rows per point.
    """

    data_shape = (4,)
    classes = 4

    def __init__(self, batch_size: int = 512, eval_batch_size: int = 512, copies: int = 12800) -> None:
        super().__init__(batch_size, eval_batch_size=eval_batch_size)
        self.copies = copies

    def load(self) -> dict[str, Split]:
        def split(copies: int) -> Split:
            y = torch.arange(4).repeat(copies)
            return Split(torch.eye(4, dtype=torch.uint8)[y], y)

        return {"train": split(self.copies), "val": split(128), "test": split(128)}
