"""Labels of the categories or clusters of a model, and the error of a classification by them."""

from __future__ import annotations

from typing import Any

import torch
import torchmetrics
from torch import Tensor, nn


class ClusterCounts(torchmetrics.Metric):
    """Counts of each label in every category, and the label of the category's most confident row.

    A row belongs to the category with the largest probability. The result depends neither on the batches nor on the
    number of processes.

    Args:
        categories: number of categories or clusters.
        classes: number of labels.
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
            # Many probabilities are rounded to 1; their odds still differ.
            itself = torch.eye(self.categories, dtype=torch.bool, device=y.device)
            odds = logits - logits.unsqueeze(-2).masked_fill(itself, -torch.inf).logsumexp(-1)
            best, row = odds.max(0)
            found = torch.stack([best, y[row].double()], -1)
            self.most_confident = _most_confident(torch.stack([self.most_confident, found]))

    def compute(self) -> tuple[Tensor, Tensor]:
        """Counts `(categories, classes)`, and the label of each category's most confident row, `(categories,)`."""
        return self.counts, self.most_confident[:, 1].long()


class CategoryErrors(nn.Module):
    """The share of rows whose category is not their label, in validation and in test.

    A cluster has the label of its most confident validation row (Makhzani et al. 2015, section 6).

    Args:
        categories: number of categories or clusters.
        classes: number of labels.
        clusters: whether categories are clusters; otherwise category k is label k.
    """

    def __init__(self, categories: int, classes: int, clusters: bool) -> None:
        super().__init__()
        self.categories, self.clusters = categories, clusters
        self.counts = nn.ModuleDict({stage: ClusterCounts(categories, classes) for stage in ("val", "test")})

    def _of(self, stage: str) -> ClusterCounts:
        counts = self.counts[stage]
        assert isinstance(counts, ClusterCounts)
        return counts

    def reset(self, stage: str) -> None:
        """Forgets the rows of a stage, `val` or `test`."""
        self._of(stage).reset()

    def update(self, stage: str, logits: Tensor, y: Tensor) -> None:
        """Takes rows of a stage, see `ClusterCounts.update`."""
        self._of(stage).update(logits, y)

    def compute(self, stage: str) -> Tensor | None:
        """The error over all processes; None if there was no row with a label."""
        if not self._of(stage).update_called:
            return None
        counts, _ = self._of(stage).compute()
        categories = torch.arange(self.categories, device=counts.device)
        named, label = self._of("val").compute() if self.clusters else (counts, categories)
        if not (named.any() and counts.any()):
            return None
        return 1 - counts[categories, label].sum() / counts.sum()


def _most_confident(found: Tensor) -> Tensor:
    """Of several `(n, categories, 2)` log-odds and labels, those with the largest log-odds for every category."""
    best = found[..., 0].argmax(0)
    return found[best, torch.arange(found.shape[1], device=found.device)]
