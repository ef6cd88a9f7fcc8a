"""Encoders whose posterior is a Gaussian given its mixing noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from .. import noise
from ..batch import Shape
from ..distributions import DiagonalNormal, LocatedMixture, SemiImplicit
from ..errors import ConfigurationError, at_least
from ..networks import MLP, Network, ResidualMLP, activation_function, check_widths
from .base import Encoder


class SemiImplicitEncoder(Encoder):
    """z = mean(x) + scale(x) (h(x, e) + w(x, e) eps): a Gaussian given its mixing noise e (Yin & Zhou 2018).

    With noise e ~ N(0, I) of at least latent_dim dimensions and features f(x) of the row

        h = sqrt(1 - narrow^2) e_1 + bound tanh(a(f, e) / bound),    w = narrow exp(width_range tanh(b(f, e))),

    where e_1 are the first latent_dim dimensions of e. a and b are 0 at the start, and q is then N(mean, scale^2)
    exactly; training gives it any shape within `bound` standard deviations of this Gaussian, blurred by w. Without the
    linear term nothing would depend on e at the start, nor would the slope of the loss: a saddle that training hardly
    leaves.

    q(z|x) has no density, but bounds of it: a VAE with this encoder is trained by the upper one, whose expectation is
    at least log q(z|x), so that the ELBO with it is a lower bound; it cannot be `analytic`. AVB needs draws alone, and
    uses what the encoder knows of itself: mean, scale and features, of which the last are all that the law of
    (z - mean) / scale depends on.

    Args:
        data_shape, latent_dim, classes: given by the model.
        network: from x to mean, log-scale and features.
        noise_hidden: widths of the hidden layers of (a, b); the first is the number of features.
        extra_noise: dimensions of e besides those of z.
        bound: largest shift of the noise by training, in standard deviations of the Gaussian start.
        narrow: w at the start, between 0 and 1.
        width_range: logarithm of the largest factor by which training may change w; 0: w is constant.
        mixing: further draws of e for the bound, shared by all samples of a row; for a VAE.
        activation: of (a, b), see `MLP`.

    Raises:
        ConfigurationError: an argument out of range.
    """

    def __init__(
        self,
        data_shape: Shape,
        latent_dim: int,
        classes: int = 0,
        network: Network = MLP,
        noise_hidden: Sequence[int] = (64, 64),
        extra_noise: int = 8,
        bound: float = 3.0,
        narrow: float = 0.8,
        width_range: float = 0.0,
        mixing: int = 8,
        activation: str = "silu",
    ) -> None:
        super().__init__(classes)
        if not bound > 0:
            raise ConfigurationError(f"bound: {bound} is not a positive number of standard deviations")
        if not 0 < narrow < 1:
            raise ConfigurationError(f"narrow: {narrow} is not a share between 0 and 1")
        if not width_range >= 0:
            raise ConfigurationError(f"width_range: {width_range} is negative")
        check_widths(noise_hidden=noise_hidden)
        if not noise_hidden:
            raise ConfigurationError("noise_hidden: the correction needs at least one hidden layer")
        self.latent_dim, self.bound, self.narrow, self.width_range = latent_dim, bound, narrow, width_range
        self.mixing = at_least(1, mixing=mixing)
        self.noise_dim = latent_dim + at_least(0, extra_noise=extra_noise)
        self.feature_dim, *rest = noise_hidden
        self.network = network(data_shape, (2 * latent_dim + self.feature_dim,), classes)
        self.noise = nn.Linear(self.noise_dim, self.feature_dim, bias=False)
        outputs = 2 * latent_dim if width_range else latent_dim
        last = MLP((self.feature_dim,), (outputs,), hidden=rest, activation=activation)
        self.shape = nn.Sequential(activation_function(activation), last)
        *_, weight, bias = self.shape.parameters()
        nn.init.zeros_(weight)
        nn.init.zeros_(bias)

    def forward(self, x: Tensor, y: Tensor | None = None) -> LocatedMixture:
        out = self.network(x, self.label(y, x)).to(x.dtype)
        mean, log_scale, features = out.tensor_split([self.latent_dim, 2 * self.latent_dim], -1)
        scale, linear = log_scale.exp(), math.sqrt(1 - self.narrow**2)

        def gaussians(e: Tensor) -> DiagonalNormal:
            out = self.shape(features + self.noise(e)).to(x.dtype)
            shift, width = out.tensor_split([self.latent_dim], -1)
            h = linear * e[..., : self.latent_dim] + self.bound * torch.tanh(shift / self.bound)
            w = (scale * self.narrow).expand_as(h)
            if self.width_range:
                w = w * torch.exp(self.width_range * torch.tanh(width))
            return DiagonalNormal(torch.addcmul(mean, scale, h), w)

        def components(samples: int) -> DiagonalNormal:
            return gaussians(noise.normal((samples, len(x), self.noise_dim), x))

        def spread(samples: int) -> DiagonalNormal:
            return gaussians(noise.spread(samples, self.noise_dim, x).unsqueeze(1))

        return LocatedMixture(components, mean, scale, features, self.mixing, spread)


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
