"""Black-box encoders: noise pushed through a network, with draws and moments but no density."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .. import noise
from ..batch import Shape
from ..distributions import Implicit
from ..errors import at_least
from ..networks import MLP, Network, NoiseBasis, NoisyMLP
from .base import Encoder


class NoiseInjectionEncoder(Encoder):
    """The paper's black-box posterior: Gaussian noise added at every layer of an MLP (Mescheder et al. 2017, fig. 2).

    Args:
        data_shape, latent_dim, classes: given by the model.
        hidden: widths of the hidden layers.
        noise_dim: dimensions of the noise.
        every_layer: noise enters every layer; otherwise the first alone (the authors' four-point notebook).
        activation: see `MLP`.
    """

    def __init__(
        self,
        data_shape: Shape,
        latent_dim: int,
        classes: int = 0,
        hidden: Sequence[int] = (128, 128),
        noise_dim: int = 64,
        every_layer: bool = True,
        activation: str = "silu",
    ) -> None:
        super().__init__(classes)
        self.latent_dim, self.noise_dim = latent_dim, noise_dim
        self.network = NoisyMLP(
            data_shape, latent_dim, hidden, noise_dim, classes, every_layer=every_layer, activation=activation
        )

    def forward(self, x: Tensor, y: Tensor | None = None) -> Implicit:
        features = self.network.features(x, self.label(y, x))

        def push(samples: int) -> Tensor:
            return self.network(features, noise.normal((samples, len(x), self.noise_dim), x)).to(x.dtype)

        return Implicit(push, x.shape[:1], torch.Size([self.latent_dim]))


class NoiseBasisEncoder(Encoder):
    """z = z0(x) + sum_i a_i(x) v_i(eps_i): noise vectors mixed by x, with closed moments (supplement of AVB).

    The noises are independent of each other and of x, so E[z|x] = z0 + sum_i a_i E[v_i] and
    Var[z|x] = sum_i a_i^2 Var[v_i], with the moments of v_i from separate noise draws.

    Args:
        data_shape, latent_dim, classes: given by the model.
        network: from x to z0 and the a_i.
        basis: number of noise vectors.
        noise_dim: dimensions of each eps_i.
        basis_hidden: widths of the hidden layers of each noise network.
        start: a_i = ELU(raw_i - start) + 1. The authors' 5 begins with almost no noise (a of 0.007), which changes
            slowly at ordinary learning rates; 0 begins with a of 1.
        moment_draws: noise draws for the moments of v_i.
    """

    def __init__(
        self,
        data_shape: Shape,
        latent_dim: int,
        classes: int = 0,
        network: Network = MLP,
        basis: int = 16,
        noise_dim: int = 32,
        basis_hidden: Sequence[int] = (128, 128, 128),
        start: float = 5.0,
        moment_draws: int = 512,
    ) -> None:
        super().__init__(classes)
        self.latent_dim, self.start = latent_dim, start
        self.moment_draws = at_least(2, moment_draws=moment_draws)
        self.network = network(data_shape, (latent_dim * (basis + 1),), classes)
        self.basis = NoiseBasis(basis, noise_dim, latent_dim, basis_hidden)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Implicit:
        raw = self.network(x, self.label(y, x)).to(x.dtype).unflatten(-1, (-1, self.latent_dim))
        centre, mixing = raw[:, 0], nn.functional.elu(raw[:, 1:] - self.start) + 1

        def push(samples: int) -> Tensor:
            eps = noise.normal((samples, len(x), self.basis.count * self.basis.noise_dim), x)
            v = self.basis(eps.flatten(0, 1)).to(x.dtype).unflatten(0, (samples, len(x)))
            return centre + (mixing * v).sum(-2)

        def moments() -> tuple[Tensor, Tensor]:
            mean, variance = self.basis.moments(self.moment_draws)
            return centre + (mixing * mean).sum(-2), (mixing.square() * variance).sum(-2).sqrt()

        return Implicit(push, x.shape[:1], torch.Size([self.latent_dim]), moments)
