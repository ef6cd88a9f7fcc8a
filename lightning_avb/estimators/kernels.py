"""The integral over z on a grid, and the Parzen window."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.distributions import Distribution

from .. import noise
from ..batch import Batch
from ..errors import ConfigurationError
from ..evaluation import Quadrature, log_likelihood_on_grid, parzen_window
from ..evaluation.parzen import log_density
from .base import Figures, RowEstimator


class OnGrid(RowEstimator):
    """The integral over z on a grid, for 1 or 2 latent dimensions."""

    name, side = "quadrature", "exact to the grid"

    def __init__(self, rows: int | None, pairs: int, seed: int) -> None:
        super().__init__("grid", rows, pairs, 1, seed)

    def refuse(self, trainer: pl.Trainer, model: Any) -> None:
        Quadrature.grid(model.latent_dim, cells=1)

    def estimate(self, model: Any) -> Callable[[Batch], Figures]:
        grid = Quadrature.grid(model.latent_dim, device=model.device)

        def estimate(rows: Batch) -> Figures:
            def decoder(z: Tensor) -> Distribution:
                return model.decoder(z.expand(-1, len(rows.x), -1), rows.y) if model.classes else model.decoder(z)

            return (log_likelihood_on_grid(decoder, model.prior, rows.x, grid),)

        return estimate


class Parzen(RowEstimator):
    """The Parzen window, whose width suits the first validation rows."""

    name, side = "parzen", "none: misorders models, for comparison with old papers only"
    VALIDATION = 1000

    def __init__(self, rows: int | None, samples: int, pairs: int, seed: int) -> None:
        super().__init__(f"{samples} samples", rows, pairs, 1, seed)
        self.samples = samples

    def refuse(self, trainer: pl.Trainer, model: Any) -> None:
        if trainer.world_size > 1 or model.classes or getattr(trainer, "datamodule", None) is None:
            raise ConfigurationError(
                "likelihood.estimators: 'parzen' needs one process, a datamodule, and a model without labels"
            )

    def begin(self, trainer: pl.Trainer, model: Any) -> None:
        """Means of p(x|z) for draws of the prior, and the width."""
        super().begin(trainer, model)
        key = self.seed, "parzen"
        with torch.no_grad(), noise.torch_seeded(*key), noise.use(noise.seeded(*key)):
            parts = [model.sample(min(500, self.samples - i)) for i in range(0, self.samples, 500)]
            batches = trainer.datamodule.val_dataloader()  # type: ignore[attr-defined]
            validation = torch.cat([Batch(*batch).x for batch in batches])[: self.VALIDATION]
        self.draws = torch.cat(parts)
        self.width = torch.tensor([parzen_window(self.draws, validation, validation[:1]).width])

    def estimate(self, model: Any) -> Callable[[Batch], Figures]:
        return lambda rows: (log_density(self.draws, rows.x, self.width)[0],)
