"""The Parzen window."""

from __future__ import annotations

import torch
from torch import Tensor

from ... import noise
from ...batch import Batch
from ...errors import at_least
from ...evaluation import parzen_window
from ...evaluation.parzen import log_density
from .base import RowEstimator, Run


class ParzenWindow(RowEstimator):
    """The Parzen window, with the best width for the first validation rows.

    Args:
        samples: draws of the model.
    """

    name, side = "parzen", "none: misorders models, for comparison with old papers only"
    VALIDATION_ROWS = 1000

    def __init__(self, samples: int = 10000) -> None:
        self.samples = at_least(1, samples=samples)
        self.settings = f"{samples} samples"

    def missing(self, run: Run) -> str | None:
        alone = run.trainer.world_size == 1 and not run.model.classes
        if alone and run.trainer.datamodule is not None:  # type: ignore[attr-defined]
            return None
        return "one process, a datamodule, and a model without labels"

    def begin(self, run: Run) -> None:
        """Means of p(x|z) for draws of the prior, and the width."""
        super().begin(run)
        key = run.seed, "parzen"
        with torch.no_grad(), noise.torch_seeded(*key), noise.use(noise.seeded(*key)):
            parts = [run.model.sample(min(500, self.samples - i)) for i in range(0, self.samples, 500)]
            batches = run.trainer.datamodule.val_dataloader()  # type: ignore[attr-defined]
            validation = torch.cat([Batch.of(batch).x for batch in batches])[: self.VALIDATION_ROWS]
        self.draws = torch.cat(parts)
        self.width = torch.tensor([parzen_window(self.draws, validation, validation[:1]).width])

    def estimate(self, run: Run, rows: Batch) -> tuple[Tensor, ...]:
        return (log_density(self.draws, rows.x, self.width)[0],)
