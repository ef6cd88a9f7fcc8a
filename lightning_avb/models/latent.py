"""What the models with an encoder, a decoder and a prior share: drawing, reconstructing, encoding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..batch import Batch, Shape
from ..conditionals import Decoder
from ..errors import at_least
from ..game import Game
from ..recipes import recipe


class LatentVariableModel(Game):
    """A model with `encoder`, `decoder` and `prior`, modules that return distributions."""

    encoder: nn.Module
    decoder: Decoder
    prior: nn.Module

    def __init__(
        self,
        latent_dim: int,
        recipes: dict[str, Any],
        samples: int,
        kl_warmup: int,
        players: Any,
        accumulate: int,
    ) -> None:
        super().__init__(latent_dim, players, accumulate)
        self.recipes = {name: recipe(value) for name, value in recipes.items()}
        self.samples, self.kl_warmup = at_least(1, samples=samples), at_least(0, kl_warmup=kl_warmup)

    def build(self, data_shape: Shape) -> None:
        self.encoder = self.recipes["encoder"](data_shape, self.latent_dim)
        self.decoder = self.recipes["decoder"](data_shape, self.latent_dim)
        self.prior = self.recipes["prior"](self.latent_dim)

    @property
    def kl_weight(self) -> float:
        """Weight of the KL term in the training loss: 1 once the warm-up is over."""
        return min(1.0, (self.global_step + 1) / self.kl_warmup) if self.kl_warmup else 1.0

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Checks that the likelihood fits the data, on the first batch of an epoch."""
        if batch_idx == 0:
            self.decoder.check(Batch(*batch).x)

    def on_validation_batch_start(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.on_train_batch_start(batch, batch_idx)

    def on_test_batch_start(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.on_train_batch_start(batch, batch_idx)

    @torch.no_grad()
    def sample(self, count: int) -> Tensor:
        """`(count, *data_shape)`: means of p(x|z) for z drawn from the prior."""
        return self.decoder(self.prior().sample((count,))).mean

    @torch.no_grad()
    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """`(batch, latent_dim)`: one draw of q(z|x) a row."""
        return self.encoder(x, y).rsample((1,))[0]

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Means of p(x|z), `(..., *data_shape)`, for z `(..., latent_dim)`."""
        return self.decoder(z).mean

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """One posterior draw a row: `z` `(batch, latent_dim)`, with the rows' `y` and `index`."""
        batch = Batch(*batch)
        with self._noise_of_rows("predict", batch):
            return {"z": self.encode(batch.x, batch.y), "y": batch.y, "index": batch.index}
