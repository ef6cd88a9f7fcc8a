"""scikit-learn's digits: real data that needs no download."""

from __future__ import annotations

import torch

from .splits import Split
from .tensors import Binarize, TensorDataModule


class Digits(TensorDataModule):
    """1,797 handwritten digits of 8x8 pixels (UCI ML, as embedded in scikit-learn), grey values 0..16 scaled to [0, 1].

    Splits: a fixed permutation of the rows (torch's, seed 0): 1,297 for training, 250 for validation, 250 for test.

    Args:
        batch_size, eval_batch_size, binarize, labels, labelled_per_batch: see `TensorDataModule`.
    """

    data_shape = (1, 8, 8)
    classes = 10
    max_value = 16.0

    def __init__(
        self,
        batch_size: int = 100,
        eval_batch_size: int = 250,
        binarize: Binarize = "none",
        labels: int | None = None,
        labelled_per_batch: int = 0,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            binarize=binarize,
            labels=labels,
            labelled_per_batch=labelled_per_batch,
        )

    def load(self) -> dict[str, Split]:
        from sklearn.datasets import load_digits

        digits = load_digits()
        order = torch.randperm(len(digits.images), generator=torch.Generator().manual_seed(0))
        x = torch.tensor(digits.images, dtype=torch.uint8).unsqueeze(1)[order]
        y = torch.tensor(digits.target, dtype=torch.int64)[order]
        ranges = {"train": slice(0, 1297), "val": slice(1297, 1547), "test": slice(1547, None)}
        return {stage: Split(x[rows], y[rows]) for stage, rows in ranges.items()}
