"""Encoders with a density or a bound of it, as a variational autoencoder needs, and a deterministic one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from .. import noise
from ..batch import Shape
from ..distributions import DiagonalNormal, Flow, Hierarchical, Implicit, SemiImplicit, TriangularNormal
from ..errors import ConfigurationError, at_least
from ..networks import MLP, Network, ResidualMLP, activation_function
from ..networks.flows import AutoregressiveFlow, FlowKind
from .base import Encoder


class DeterministicEncoder(Encoder):
    """z = network(x), the encoder of an ordinary autoencoder: all draws of a row are equal, and have no density.

    Args:
        data_shape, latent_dim, classes: given by the model.
        network: from x to z.
    """

    def __init__(self, data_shape: Shape, latent_dim: int, classes: int = 0, network: Network = MLP) -> None:
        super().__init__(classes)
        self.network = network(data_shape, (latent_dim,), classes)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Implicit:
        z = self.network(x, self.label(y, x)).to(x.dtype)
        moments = lambda: (z, torch.zeros_like(z))
        return Implicit(lambda samples: z.expand(samples, *z.shape), z.shape[:1], z.shape[1:], moments)


class GaussianEncoder(Encoder):
    """q(z|x) = N(mean(x), diag(scale(x)^2)), both from one network (Kingma & Welling 2013, appendix C.2).

    Args:
        data_shape, latent_dim, classes: given by the model.
        network: from x to the means and the logarithms of the scales.
    """

    def __init__(self, data_shape: Shape, latent_dim: int, classes: int = 0, network: Network = MLP) -> None:
        super().__init__(classes)
        self.network = network(data_shape, (2 * latent_dim,), classes)

    def forward(self, x: Tensor, y: Tensor | None = None) -> DiagonalNormal:
        mean, log_scale = self.network(x, self.label(y, x)).to(x.dtype).chunk(2, -1)
        return DiagonalNormal(mean, log_scale.exp())


class FullGaussianEncoder(Encoder):
    """q(z|x) = N(mean(x), L(x) L(x)^T) with a full covariance, L = S(x) (I + strictly lower triangle).

    Args:
        data_shape, latent_dim, classes: given by the model.
        network: from x to the means, the logarithms of the diagonal of L, and its triangle.
    """

    def __init__(self, data_shape: Shape, latent_dim: int, classes: int = 0, network: Network = MLP) -> None:
        super().__init__(classes)
        self.latent_dim = latent_dim
        self.network = network(data_shape, (2 * latent_dim + latent_dim * (latent_dim - 1) // 2,), classes)
        self.rows: Tensor
        self.columns: Tensor
        rows, columns = torch.tril_indices(latent_dim, latent_dim, -1)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)

    def forward(self, x: Tensor, y: Tensor | None = None) -> TriangularNormal:
        out = self.network(x, self.label(y, x)).to(x.dtype)
        mean, log_scale, triangle = out.tensor_split([self.latent_dim, 2 * self.latent_dim], -1)
        unit = torch.eye(self.latent_dim, dtype=x.dtype, device=x.device).repeat(len(x), 1, 1)
        unit = unit.index_put((torch.arange(len(x), device=x.device)[:, None], self.rows, self.columns), triangle)
        return TriangularNormal(mean, log_scale.exp().unsqueeze(-1) * unit)


class FlowEncoder(Encoder):
    """A Gaussian whose noise goes through a normalizing flow conditioned on features of x; Gaussian at the start.

    `affine` is the inverse autoregressive flow (Kingma et al. 2016), `spline` a chain of coupling splines (Durkan
    et al. 2019). Both draw with one pass per transform.

    Args:
        data_shape, latent_dim, classes: given by the model.
        network: from x to the means, the logarithms of the scales and the features.
        kind, transforms, flow_hidden, bins: see `AutoregressiveFlow`.
        features: number of features of x for the flow.
    """

    def __init__(
        self,
        data_shape: Shape,
        latent_dim: int,
        classes: int = 0,
        network: Network = MLP,
        kind: FlowKind = "affine",
        transforms: int = 2,
        flow_hidden: Sequence[int] = (64, 64),
        features: int = 32,
        bins: int = 8,
    ) -> None:
        super().__init__(classes)
        self.latent_dim = latent_dim
        self.network = network(data_shape, (2 * latent_dim + at_least(1, features=features),), classes)
        passes = 2 if kind == "spline" else None
        self.flow = AutoregressiveFlow(latent_dim, features, kind, transforms, flow_hidden, bins, passes)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Flow:
        out = self.network(x, self.label(y, x)).to(x.dtype)
        mean, log_scale, features = out.tensor_split([self.latent_dim, 2 * self.latent_dim], -1)
        return Flow(mean, log_scale.exp(), self.flow(features))


class _ShiftedByNoise(nn.Module):
    """A Gaussian with mean and log-scale from x, plus a correction from features and noise that is 0 at the start."""

    def __init__(self, latent_dim: int, features: int, noise_dim: int, activation: str) -> None:
        super().__init__()
        self.noise = nn.Linear(noise_dim, features, bias=False)
        self.activation = activation_function(activation)
        self.inner = nn.Linear(features, features)
        self.outer = nn.Linear(features, 2 * latent_dim)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, start: Tensor, features: Tensor, eps: Tensor) -> DiagonalNormal:
        h = self.activation(self.inner(self.activation(features + self.noise(eps))))
        mean, log_scale = (start + self.outer(h).to(start.dtype)).chunk(2, -1)
        return DiagonalNormal(mean, log_scale.exp())


class SemiImplicitEncoder(Encoder):
    """A Gaussian given its mixing noise e, q(z|x) = E_e[ N(z; mean(x, e), scale(x, e)^2) ] (Yin & Zhou 2018).

    log q(z|x) is unknown. Each draw comes with the logarithm of the average density over the e that made z and
    `mixing` others. Its expectation is at least log q(z|x) (their equation 6), so the ELBO with it is a lower bound,
    which gets tighter as `mixing` grows. A VAE with it cannot be `analytic`.

    Args:
        data_shape, latent_dim, classes: given by the model.
        network: from x to a Gaussian start and to features.
        mixing: further draws of e for the density, shared by all samples of a row.
        noise_dim: dimensions of e.
        features: width of the layers with e as input.
        activation: see `MLP`.
    """

    def __init__(
        self,
        data_shape: Shape,
        latent_dim: int,
        classes: int = 0,
        network: Network = MLP,
        mixing: int = 8,
        noise_dim: int = 16,
        features: int = 64,
        activation: str = "silu",
    ) -> None:
        super().__init__(classes)
        self.latent_dim, self.mixing = latent_dim, at_least(1, mixing=mixing)
        self.noise_dim = at_least(1, noise_dim=noise_dim)
        self.network = network(data_shape, (2 * latent_dim + at_least(1, features=features),), classes)
        self.conditional = _ShiftedByNoise(latent_dim, features, noise_dim, activation)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Hierarchical:
        out = self.network(x, self.label(y, x)).to(x.dtype)
        start, features = out.tensor_split([2 * self.latent_dim], -1)

        def draw(samples: int) -> tuple[Tensor, Tensor]:
            e = noise.normal((samples + self.mixing, len(x), self.noise_dim), x)
            q = self.conditional(start, features, e)
            own = DiagonalNormal(q.loc[:samples], q.scale[:samples])
            z, log_own = own.rsample_and_log_prob()
            others = DiagonalNormal(q.loc[samples:], q.scale[samples:]).log_prob(z.unsqueeze(1))
            log_q = torch.cat([log_own.unsqueeze(1), others], 1).logsumexp(1) - math.log(self.mixing + 1)
            return z, log_q

        return Hierarchical(draw, x.shape[:1], torch.Size([self.latent_dim]))


class PooledMixtureEncoder(Encoder):
    """A Gaussian given its mixing noise e; the draws of a row are a mixture of all their Gaussians, see `SemiImplicit`.

    e ~ N(0, I) has more dimensions than z. The mean is a linear map of e plus a correction; at the start it is `start`
    times the first coordinates of e. The scale is `narrow` times `start`, times a correction. Both corrections come
    from a residual network of e and features of x, and vanish at the start. The means give q its shape; the Gaussians
    only have to overlap with their neighbours. The bound gets tighter with more draws per row, so this encoder suits
    many draws of few rows. A VAE with it cannot be `analytic`.

    Args:
        data_shape, latent_dim, classes: given by the model.
        network: from x to the features, which are linear in x without hidden layers.
        extra_noise: dimensions of e besides those of z.
        width, blocks, activation: of the residual network, see `ResidualMLP`.
        start: standard deviation of the means at the start, in every coordinate.
        narrow: the components' scale at the start, as a share of that.
    """

    def __init__(
        self,
        data_shape: Shape,
        latent_dim: int,
        classes: int = 0,
        network: Network = partial(MLP, hidden=(64, 64)),
        extra_noise: int = 4,
        width: int = 64,
        blocks: int = 2,
        activation: str = "silu",
        start: float = 1.0,
        narrow: float = 0.4,
    ) -> None:
        super().__init__(classes)
        for name, value in {"start": start, "narrow": narrow}.items():
            if not value > 0:
                raise ConfigurationError(f"{name}: {value} is not a positive scale")
        self.latent_dim, self.log_start = latent_dim, math.log(start * narrow)
        self.noise_dim = latent_dim + at_least(0, extra_noise=extra_noise)
        self.network = network(data_shape, (width,), classes)
        self.mixing = ResidualMLP((self.noise_dim,), (2 * latent_dim,), width, width, blocks, activation)
        for parameter in self.mixing.last.parameters():
            nn.init.zeros_(parameter)
        self.linear_mean = nn.Linear(self.noise_dim, latent_dim)
        with torch.no_grad():
            self.linear_mean.weight.copy_(start * torch.eye(latent_dim, self.noise_dim))
            self.linear_mean.bias.zero_()

    def forward(self, x: Tensor, y: Tensor | None = None) -> SemiImplicit:
        features = self.network(x, self.label(y, x))

        def components(samples: int) -> DiagonalNormal:
            e = noise.normal((samples, len(x), self.noise_dim), x)
            shift, log_scale = self.mixing(e, features).to(x.dtype).chunk(2, -1)
            # A component much narrower than the distance to its neighbours would only cover its own draw.
            log_scale = 4 * torch.tanh(log_scale / 4) + self.log_start
            return DiagonalNormal(self.linear_mean(e).to(x.dtype) + shift, log_scale.exp())

        return SemiImplicit(components, x.shape[:1], torch.Size([self.latent_dim]))


class AuxiliaryEncoder(Encoder):
    """q(z|x) = E_a[ q(z|a, x) ], a ~ q(a|x), with a reverse model r(a|z, x).

    Ranganath et al. 2016, Maaloe et al. 2016. Draws come with log q(z|a, x) + log q(a|x) - log r(a|z, x), whose
    expectation exceeds log q(z|x) by KL(q(a|z, x), r(a|z, x)): the ELBO with it is a lower bound. A VAE with it
    cannot be `analytic`.

    Args:
        data_shape, latent_dim, classes: given by the model.
        network: from x to q(a|x), to a Gaussian start of q(z|a, x) and to features.
        auxiliary_dim: dimensions of a.
        features: width of the layers with a as input, and of those of r.
        activation: see `MLP`.
    """

    def __init__(
        self,
        data_shape: Shape,
        latent_dim: int,
        classes: int = 0,
        network: Network = MLP,
        auxiliary_dim: int = 8,
        features: int = 64,
        activation: str = "silu",
    ) -> None:
        super().__init__(classes)
        self.latent_dim, self.auxiliary_dim = latent_dim, at_least(1, auxiliary_dim=auxiliary_dim)
        self.widths = [2 * auxiliary_dim, 2 * latent_dim, at_least(1, features=features)]
        self.network = network(data_shape, (sum(self.widths),), classes)
        self.conditional = _ShiftedByNoise(latent_dim, features, auxiliary_dim, activation)
        self.reverse = MLP((latent_dim,), (2 * auxiliary_dim,), features, [features], activation)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Hierarchical:
        auxiliary, start, features = self.network(x, self.label(y, x)).to(x.dtype).split(self.widths, -1)
        mean, log_scale = auxiliary.chunk(2, -1)
        q_of_a = DiagonalNormal(mean, log_scale.exp())

        def draw(samples: int) -> tuple[Tensor, Tensor]:
            a, log_q_of_a = q_of_a.rsample_and_log_prob((samples,))
            z, log_q = self.conditional(start, features, a).rsample_and_log_prob()
            mean, log_scale = self.reverse(z, features).to(x.dtype).chunk(2, -1)
            return z, log_q + log_q_of_a - DiagonalNormal(mean, log_scale.exp()).log_prob(a)

        return Hierarchical(draw, x.shape[:1], torch.Size([self.latent_dim]))
