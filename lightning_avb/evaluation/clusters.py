"""Which labels the categories or clusters of a model hold."""

from __future__ import annotations

from typing import Any

import torch
import torchmetrics
from torch import Tensor


class ClusterCounts(torchmetrics.Metric):
    """How many rows of each label every category holds, and the label of the row that most surely belongs to it.

    A row belongs to the category with the largest probability. Neither the batches nor the number of processes change
    what comes out.

    Args:
        categories: how many categories or clusters.
        classes: how many labels.
        options: of torchmetrics.
    """

    full_state_update = False
    counts: Tensor
    most_confident: Tensor

    def __init__(self, categories: int, classes: int, **options: Any) -> None:
        super().__init__(**options)
        self.categories, self.classes = categories, classes
        self.add_state("counts", torch.zeros(categories, classes, dtype=torch.int64), dist_reduce_fx="sum")
        empty = torch.tensor([-torch.inf, 0.0], dtype=torch.float64).repeat(categories, 1)
        self.add_state("most_confident", empty, dist_reduce_fx=_most_confident)

    def update(self, logits: Tensor, y: Tensor) -> None:
        """Takes rows with the logits of their q(category|x), `(batch, categories)`, and labels; -1: not counted."""
        logits, y = logits[y >= 0].double(), y[y >= 0]
        cell = logits.argmax(-1) * self.classes + y
        self.counts += cell.bincount(minlength=self.counts.numel()).view_as(self.counts)
        if len(y):
            # Probabilities are 1 to the last digit for many rows; their odds still differ.
            itself = torch.eye(self.categories, dtype=torch.bool, device=y.device)
            odds = logits - logits.unsqueeze(-2).masked_fill(itself, -torch.inf).logsumexp(-1)
            best, row = odds.max(0)
            found = torch.stack([best, y[row].double()], -1)
            self.most_confident = _most_confident(torch.stack([self.most_confident, found]))

    def compute(self) -> tuple[Tensor, Tensor]:
        """Counts `(categories, classes)`, and the label of each category's most confident row, `(categories,)`."""
        return self.counts, self.most_confident[:, 1].long()


def _most_confident(found: Tensor) -> Tensor:
    """Of several `(n, categories, 2)` log-odds and labels, those with the largest log-odds for every category."""
    best = found[..., 0].argmax(0)
    return found[best, torch.arange(found.shape[1], device=found.device)]
