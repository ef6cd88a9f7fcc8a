"""The integral over z on a grid."""

from __future__ import annotations

from torch import Tensor
from torch.distributions import Distribution

from ...batch import Batch
from ...evaluation import Quadrature, log_likelihood_on_grid
from .base import RowEstimator, Run


class GridQuadrature(RowEstimator):
    """The integral over z on a grid, for 1 or 2 latent dimensions."""

    name, side, settings, precedence = "quadrature", "exact to the grid", "grid", 3

    def missing(self, run: Run) -> str | None:
        dim = run.model.latent_dim
        return f"1 or 2 latent dimensions, and the model has {dim}" if dim > 2 else None

    def begin(self, run: Run) -> None:
        super().begin(run)
        self.grid = Quadrature.grid(run.model.latent_dim, device=run.model.device)

    def estimate(self, run: Run, rows: Batch) -> tuple[Tensor, ...]:
        def decoder(z: Tensor) -> Distribution:
            model = run.model
            return model.decoder(z.expand(-1, len(rows.x), -1), rows.y) if model.classes else model.decoder(z)

        return (log_likelihood_on_grid(decoder, run.model.prior, rows.x, self.grid),)
