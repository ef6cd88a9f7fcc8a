"""Models in which every quantity of the theory has a closed form."""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from lightning_avb import MLP, FullGaussianEncoder, GaussianDecoder, GaussianEncoder, SemiImplicitEncoder, noise
from lightning_avb.conditionals import Encoder
from lightning_avb.distributions import DiagonalNormal, Implicit

LINEAR = partial(MLP, hidden=())


def perturbed(module: nn.Module, by: float = 0.1) -> nn.Module:
    """The module with noise on all its parameters, since zeros at the start would be a special case."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(by * torch.randn_like(parameter))
    return module


def bounded_moments(z: Tensor) -> Tensor:
    """Functions of z, `(..., 2 * dim + 1)`, whose expectations tell distributions apart, whatever their tails."""
    z = z.tanh()
    return torch.cat([z, z.square(), z[..., :1] * z[..., -1:]], -1)


class LinearGaussian(NamedTuple):
    """p(z) = N(0, I) and p(x|z) = N(W z + b, s^2 I). By default W has orthogonal columns,
    which makes the posterior diagonal."""

    weight: Tensor
    bias: Tensor
    scale: float

    @classmethod
    def example(cls) -> LinearGaussian:
        """Three dimensions of x, two of z."""
        weight = torch.tensor([[1.0, 0.5], [1.0, -0.5], [0.0, 0.7]])
        return cls(weight, torch.tensor([0.3, -0.2, 0.5]), 0.6)

    @classmethod
    def correlated(cls) -> LinearGaussian:
        """The same with a W whose columns are not orthogonal: the posterior is not diagonal."""
        return cls.example()._replace(weight=torch.tensor([[1.0, 0.8], [1.0, 0.9], [0.0, 0.7]]))

    @classmethod
    def most_likely(cls, x: Tensor, latent_dim: int) -> LinearGaussian:
        """The maximum-likelihood solution for the rows of x: probabilistic PCA (Tipping & Bishop 1999)."""
        values, vectors = torch.linalg.eigh(x.T.cov(correction=0))
        noise_variance = values[:-latent_dim].mean()
        weight = vectors[:, -latent_dim:] * (values[-latent_dim:] - noise_variance).sqrt()
        return cls(weight, x.mean(0), noise_variance.sqrt().item())

    @property
    def latent_dim(self) -> int:
        return self.weight.shape[1]

    @property
    def data_shape(self) -> tuple[int]:
        return (len(self.weight),)

    def sample(self, rows: int) -> Tensor:
        z = torch.randn(rows, self.latent_dim)
        return z @ self.weight.T + self.bias + self.scale * torch.randn(rows, len(self.bias))

    def log_marginal(self, x: Tensor) -> Tensor:
        """log p(x)."""
        covariance = self.weight @ self.weight.T + self.scale**2 * torch.eye(len(self.bias))
        return MultivariateNormal(self.bias, covariance).log_prob(x)

    def decoder(self) -> GaussianDecoder:
        """p(x|z), with a learned scale."""
        decoder = GaussianDecoder(self.data_shape, self.latent_dim, network=LINEAR)
        layer = decoder.network.layers[0]
        with torch.no_grad():
            layer.weight.copy_(self.weight)
            layer.bias.copy_(self.bias)
            decoder.log_scale.fill_(math.log(self.scale))
        return decoder

    def encoder(self) -> GaussianEncoder:
        """The exact posterior."""
        precision = 1 + self.weight.square().sum(0) / self.scale**2
        slope = self.weight.T / self.scale**2 / precision.unsqueeze(-1)
        encoder = GaussianEncoder(self.data_shape, self.latent_dim, network=LINEAR)
        layer = encoder.network.layers[0]
        with torch.no_grad():
            layer.weight.copy_(torch.cat([slope, torch.zeros_like(slope)]))
            layer.bias.copy_(torch.cat([-slope @ self.bias, -0.5 * precision.log()]))
        return encoder

    def full_encoder(self) -> FullGaussianEncoder:
        """The exact posterior, for a W with any columns."""
        precision = torch.eye(self.latent_dim) + self.weight.T @ self.weight / self.scale**2
        covariance = precision.inverse()
        slope, tril = covariance @ self.weight.T / self.scale**2, torch.linalg.cholesky(covariance)
        rows, columns = torch.tril_indices(self.latent_dim, self.latent_dim, -1)
        diagonal = tril.diagonal()
        encoder = FullGaussianEncoder(self.data_shape, self.latent_dim, network=LINEAR)
        layer = encoder.network.layers[0]
        with torch.no_grad():
            layer.weight.zero_()[: self.latent_dim] = slope
            layer.bias.copy_(torch.cat([-slope @ self.bias, diagonal.log(), tril[rows, columns] / diagonal[rows]]))
        return encoder


class LinearMixture(NamedTuple):
    """z = mean + scale (B e + narrow eps) with normal e and eps: q(z) and q(e|z) are Gaussian."""

    weight: Tensor
    narrow: float

    def encoder(self, data_shape: tuple[int, ...], mixing: int) -> SemiImplicitEncoder:
        """This, with a linear network for mean and log-scale, and as many dimensions of e as of z."""
        dim = len(self.weight)
        encoder = SemiImplicitEncoder(
            data_shape, dim, network=LINEAR, noise_hidden=(dim,), extra_noise=0, bound=1e7, narrow=self.narrow,
            mixing=mixing,
        )  # fmt: skip
        with torch.no_grad():
            encoder.network.layers[-1].weight[2 * dim :], encoder.network.layers[-1].bias[2 * dim :] = 0, 0
            encoder.noise.weight.copy_(torch.eye(dim))
            encoder.shape = nn.Linear(dim, 2 * dim, bias=False)
            encoder.shape.weight.zero_()[:dim] = self.weight - math.sqrt(1 - self.narrow**2) * torch.eye(dim)
        return encoder

    def marginal(self, mean: Tensor, scale: Tensor) -> MultivariateNormal:
        """q(z)."""
        mixed = scale.unsqueeze(-1) * self.weight
        return MultivariateNormal(mean, (self.narrow * scale).square().diag_embed() + mixed @ mixed.mT)

    def reverse(self, mean: Tensor, scale: Tensor, z: Tensor) -> MultivariateNormal:
        """q(e|z)."""
        weighted = self.weight / self.narrow**2
        precision = torch.eye(self.weight.shape[1]) + self.weight.T @ weighted
        pull = ((z - mean) / scale) @ weighted
        return MultivariateNormal(torch.linalg.solve(precision, pull.mT).mT, precision_matrix=precision)


class BlackBox(Encoder):
    """A Gaussian posterior whose density only the test knows, and whose moments come from draws."""

    def __init__(self, inside: GaussianEncoder) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, x: Tensor, y: Tensor | None = None) -> Implicit:
        q = self.inside(x)
        return Implicit(lambda samples: q.rsample((samples,)), q.batch_shape, q.event_shape)

    def log_prob(self, x: Tensor, z: Tensor) -> Tensor:
        return self.inside(x).log_prob(z)


class TwoShapes(Encoder):
    """A posterior of one dimension with two modes at x = 0 that is Gaussian at x = 1; x is `(batch, 1)`.

    Mean and standard deviation are those of all x, so that nothing but x itself tells the shapes apart.
    z = mean + scale (a sign(eps_1) + sqrt(1 - a^2) eps_2) with a = spread (1 - x).
    """

    def __init__(self, mean: float = 0.5, scale: float = 0.4, spread: float = 0.95) -> None:
        super().__init__()
        self.mean, self.log_scale = nn.Parameter(torch.tensor(mean)), nn.Parameter(torch.tensor(math.log(scale)))
        self.spread = nn.Parameter(torch.tensor(spread))

    def _shape(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Half the distance and the width of the modes, in standard deviations of z."""
        a = self.spread * (1 - x)
        return a, (1 - a.square()).sqrt()

    def forward(self, x: Tensor, y: Tensor | None = None) -> Implicit:
        a, width = self._shape(x)

        def push(samples: int) -> Tensor:
            sign, eps = noise.normal((samples, len(x), 2), x).split(1, -1)
            return self.mean + self.log_scale.exp() * (a * sign.sign() + width * eps)

        def moments() -> tuple[Tensor, Tensor]:
            return self.mean.expand_as(x).detach(), self.log_scale.exp().expand_as(x).detach()

        return Implicit(push, x.shape[:1], torch.Size([1]), moments)

    def log_prob(self, x: Tensor, z: Tensor) -> Tensor:
        a, width = self._shape(x)
        standardised = (z - self.mean) * (-self.log_scale).exp()
        modes = torch.stack([DiagonalNormal(centre, width).log_prob(standardised) for centre in (-a, a)])
        return modes.logsumexp(0) - math.log(2) - self.log_scale

    def kl(self, x: Tensor) -> Tensor:
        """KL(q(z|x), N(0, 1)), `(batch,)`, by numerical integration."""
        cells = 20000
        line = torch.linspace(-5, 6, cells).view(-1, 1, 1)
        log_q = self.log_prob(x, line)
        log_p = DiagonalNormal(torch.zeros(1), torch.ones(1)).log_prob(line)
        return (log_q.exp() * (log_q - log_p)).sum(0) * (11 / (cells - 1))
