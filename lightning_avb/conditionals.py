"""Encoders and decoders: modules whose call returns a distribution.

An encoder's call gives q(z|x), a decoder's p(x|z), a prior's p(z). Under mixed precision the networks compute in
half precision and the distributions in the precision of x, where a small scale needs it. Encoders with a density return
`DiagonalNormal`; black-box encoders return `Implicit`, which has draws and moments and no density.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from . import noise
from .batch import Shape
from .distributions import Bernoulli, DiagonalNormal, Implicit
from .errors import ConfigurationError
from .networks import MLP, Network, NoiseBasis, NoisyMLP, activation_function, check_widths


class Encoder(nn.Module, abc.ABC):
    """`encoder(x, y)` is q(z|x): x `(batch, *data_shape)`, y labels or None, draws `(samples, batch, latent_dim)`."""

    @abc.abstractmethod
    def forward(self, x: Tensor, y: Tensor | None = None) -> Distribution: ...


class Decoder(nn.Module, abc.ABC):
    """`decoder(z, y)` is p(x|z): z `(..., latent_dim)`, `log_prob(x)` summed over the dimensions of x, `(...)`."""

    @abc.abstractmethod
    def forward(self, z: Tensor, y: Tensor | None = None) -> Distribution: ...

    def check(self, x: Tensor) -> None:
        """Raises ConfigurationError if x is nothing that this likelihood can score."""


EncoderRecipe = Callable[[Shape, int], Encoder]
"""(shape of a row of x, latent_dim) -> encoder."""
DecoderRecipe = Callable[[Shape, int], Decoder]
"""(shape of a row of x, latent_dim) -> decoder."""
PriorRecipe = Callable[[int], nn.Module]
"""latent_dim -> module whose call, without arguments, gives p(z)."""


class StandardNormal(nn.Module):
    """p(z) = N(0, I)."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.loc: Tensor
        self.scale: Tensor
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(latent_dim), persistent=False)

    def forward(self) -> DiagonalNormal:
        return DiagonalNormal(self.loc, self.scale)


class GaussianEncoder(Encoder):
    """q(z|x) = N(mean(x), diag(scale(x)^2)), both from one network (Kingma & Welling 2013, appendix C.2).

    Args:
        data_shape, latent_dim: given by the model.
        network: from x to the means and the logarithms of the scales.
    """

    def __init__(self, data_shape: Shape, latent_dim: int, network: Network = MLP) -> None:
        super().__init__()
        self.network = network(data_shape, (2 * latent_dim,))

    def forward(self, x: Tensor, y: Tensor | None = None) -> DiagonalNormal:
        mean, log_scale = self.network(x).to(x.dtype).chunk(2, -1)
        return DiagonalNormal(mean, log_scale.exp())


class NoiseInjectionEncoder(Encoder):
    """The paper's black-box posterior: Gaussian noise added at every layer of an MLP (Mescheder et al. 2017, fig. 2).

    Args:
        data_shape, latent_dim: given by the model.
        hidden: widths of the hidden layers.
        noise_dim: dimensions of the noise.
        every_layer: noise enters every layer; otherwise the first alone (the authors' four-point notebook).
        activation: see `MLP`.
    """

    def __init__(
        self,
        data_shape: Shape,
        latent_dim: int,
        hidden: Sequence[int] = (64, 64),
        noise_dim: int = 64,
        every_layer: bool = True,
        activation: str = "silu",
    ) -> None:
        super().__init__()
        self.latent_dim, self.noise_dim = latent_dim, noise_dim
        self.network = NoisyMLP(data_shape, latent_dim, hidden, noise_dim, every_layer, activation)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Implicit:
        features = self.network.features(x)

        def push(samples: int) -> Tensor:
            return self.network(features, noise.normal((samples, len(x), self.noise_dim), x)).to(x.dtype)

        return Implicit(push, x.shape[:1], torch.Size([self.latent_dim]))


class NoiseBasisEncoder(Encoder):
    """z = z0(x) + sum_i a_i(x) v_i(eps_i): noise vectors mixed by x, with closed moments (supplement of AVB).

    The noises are independent of each other and of x, so E[z|x] = z0 + sum_i a_i E[v_i] and
    Var[z|x] = sum_i a_i^2 Var[v_i], with the moments of v_i from noise draws of their own.

    Args:
        data_shape, latent_dim: given by the model.
        hidden: widths of the hidden layers that read x.
        basis: number of noise vectors.
        noise_dim: dimensions of each eps_i.
        basis_hidden: widths of the hidden layers of each noise network.
        start: a_i = ELU(raw_i - start) + 1. The authors' 5 begins with almost no noise (a of 0.007) and is slow to
            leave it at ordinary learning rates; 0 begins with a of 1.
        moment_draws: noise draws for the moments of v_i.
        activation: see `MLP`.
    """

    def __init__(
        self,
        data_shape: Shape,
        latent_dim: int,
        hidden: Sequence[int] = (300,),
        basis: int = 16,
        noise_dim: int = 32,
        basis_hidden: Sequence[int] = (128, 128, 128),
        start: float = 5.0,
        moment_draws: int = 512,
        activation: str = "silu",
    ) -> None:
        super().__init__()
        self.latent_dim, self.start, self.moment_draws = latent_dim, start, moment_draws
        self.network = MLP(data_shape, (latent_dim * (basis + 1),), hidden, activation)
        self.basis = NoiseBasis(basis, noise_dim, latent_dim, basis_hidden)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Implicit:
        raw = self.network(x).to(x.dtype).unflatten(-1, (-1, self.latent_dim))
        centre, mixing = raw[:, 0], nn.functional.elu(raw[:, 1:] - self.start) + 1

        def push(samples: int) -> Tensor:
            eps = noise.normal((samples, len(x), self.basis.count * self.basis.noise_dim), x)
            v = self.basis(eps.flatten(0, 1)).to(x.dtype).unflatten(0, (samples, len(x)))
            return centre + (mixing * v).sum(-2)

        def moments() -> tuple[Tensor, Tensor]:
            mean, variance = self.basis.moments(self.moment_draws)
            return centre + (mixing * mean).sum(-2), (mixing.square() * variance).sum(-2).sqrt()

        return Implicit(push, x.shape[:1], torch.Size([self.latent_dim]), moments)


class BoundedNoiseEncoder(Encoder):
    """z = mean(x) + scale(x) * (eps + bound * tanh(g(x, eps, eps') / bound)), with g = 0 at the start.

    A Gaussian posterior at the first step, whatever the weights; then a shift of the noise that cannot exceed
    `bound` standard deviations. An encoder that could run away from its critic cannot do so here, which makes it
    the stable default.

    Args:
        data_shape, latent_dim: given by the model.
        hidden: widths of the hidden layers that read x.
        noise_hidden: widths of the hidden layers of g.
        extra_noise: dimensions of eps', besides the latent_dim of eps.
        bound: the largest shift, in standard deviations of the Gaussian start.
        activation: see `MLP`.
    """

    def __init__(
        self,
        data_shape: Shape,
        latent_dim: int,
        hidden: Sequence[int] = (64, 64),
        noise_hidden: Sequence[int] = (64, 64),
        extra_noise: int = 8,
        bound: float = 3.0,
        activation: str = "silu",
    ) -> None:
        super().__init__()
        if not bound > 0:
            raise ConfigurationError(f"bound: {bound} is not a positive number of standard deviations")
        check_widths(noise_hidden=noise_hidden)
        if not noise_hidden:
            raise ConfigurationError("noise_hidden: the correction needs at least one hidden layer")
        self.latent_dim, self.bound = latent_dim, bound
        self.noise_dim = latent_dim + extra_noise
        first, *rest = noise_hidden
        self.network = MLP(data_shape, (2 * latent_dim + first,), hidden, activation)
        self.noise = nn.Linear(self.noise_dim, first, bias=False)
        self.correction = nn.Sequential(activation_function(activation), MLP((first,), (latent_dim,), rest, activation))
        *_, weight, bias = self.correction.parameters()
        nn.init.zeros_(weight)
        nn.init.zeros_(bias)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Implicit:
        mean, log_scale, features = self.network(x).to(x.dtype).tensor_split([self.latent_dim, 2 * self.latent_dim], -1)
        scale = log_scale.exp()

        def push(samples: int) -> Tensor:
            eps = noise.normal((samples, len(x), self.noise_dim), x)
            correction = self.correction(features + self.noise(eps)).to(x.dtype)
            shift = self.bound * torch.tanh(correction / self.bound)
            return torch.addcmul(mean, scale, eps[..., : self.latent_dim] + shift)

        return Implicit(push, x.shape[:1], torch.Size([self.latent_dim]))


class BernoulliDecoder(Decoder):
    """p(x|z) = prod_j Bernoulli(x_j; sigmoid(network(z)_j)), for data in {0, 1}.

    Args:
        data_shape, latent_dim: given by the model.
        network: from z to the logits.
    """

    def __init__(self, data_shape: Shape, latent_dim: int, network: Network = MLP) -> None:
        super().__init__()
        self.dims = len(data_shape)
        self.network = network((latent_dim,), tuple(data_shape))

    def check(self, x: Tensor) -> None:
        if not ((x == 0) | (x == 1)).all():
            raise ConfigurationError(
                "data.binarize: BernoulliDecoder scores zeros and ones, and the data has other values, which "
                "it cannot; set it to 'dynamic' or 'static', or take a GaussianDecoder"
            )

    def forward(self, z: Tensor, y: Tensor | None = None) -> Distribution:
        return Independent(Bernoulli(self.network(z).to(z.dtype)), self.dims, validate_args=False)


class GaussianDecoder(Decoder):
    """p(x|z) = N(x; network(z), scale^2 I).

    Args:
        data_shape, latent_dim: given by the model.
        network: from z to the means.
        scale: the standard deviation, in the units of x; None: one number learned for all dimensions.
    """

    def __init__(self, data_shape: Shape, latent_dim: int, network: Network = MLP, scale: float | None = None) -> None:
        super().__init__()
        if scale is not None and not scale > 0:
            raise ConfigurationError(f"scale: {scale} is not a positive standard deviation")
        self.dims = len(data_shape)
        self.network = network((latent_dim,), tuple(data_shape))
        log_scale = torch.tensor(0.0 if scale is None else math.log(scale))
        if scale is None:
            self.log_scale = nn.Parameter(log_scale)
        else:
            self.register_buffer("log_scale", log_scale)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Distribution:
        return Independent(
            Normal(self.network(z).to(z.dtype), self.log_scale.exp(), validate_args=False), self.dims, False
        )
