"""Importance weighting, from a proposal that is fitted to draws of q."""

from __future__ import annotations

from torch import Tensor

from ...batch import Batch
from ...errors import at_least
from ...evaluation import importance_weighting
from ...evaluation.importance import DRAWS_PER_CALL
from ...evaluation.reliability import harmonic_mean, importance_objection
from ...inference import adapted_proposal, joint_density
from .base import BELOW, RowEstimator, Run


class ImportanceWeighting(RowEstimator):
    """The importance-weighted bound, from a heavy-tailed proposal fitted to draws of q.

    Args:
        samples: weighted draws per row.
    """

    name, side, columns, draws_per_row, precedence = "importance", BELOW, 2, DRAWS_PER_CALL, 1

    def __init__(self, samples: int = 1000) -> None:
        self.samples = at_least(1, samples=samples)
        self.settings = f"{samples} samples"

    def estimate(self, run: Run, rows: Batch) -> tuple[Tensor, ...]:
        proposal, target = adapted_proposal(run.model, rows, run.chunk), joint_density(run.model, rows)
        found = importance_weighting(proposal, target, self.samples, chunk=run.chunk)
        return found.bound, found.effective_samples

    def check(self, columns: Tensor) -> tuple[dict[str, float] | None, str]:
        effective = columns[:, 0]
        return {"effective samples": harmonic_mean(effective)}, importance_objection(effective)
