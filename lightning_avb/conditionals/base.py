"""Base classes of encoders and decoders."""

from __future__ import annotations

import abc
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from ..batch import Shape
from ..errors import ConfigurationError


class Conditional(nn.Module):
    """Base class of modules that may have a label as input.

    Args:
        classes: number of labels; 0: labels are ignored.
    """

    def __init__(self, classes: int = 0) -> None:
        super().__init__()
        self.classes = classes

    def label(self, y: Tensor | None, like: Tensor) -> Tensor | None:
        """`(*y.shape, classes)`, the labels as one-hot context of a network; None if labels are ignored."""
        if not self.classes:
            return None
        if y is None:
            raise ValueError("a class-conditional module was called without labels")
        return (y.unsqueeze(-1) == torch.arange(self.classes, device=y.device)).to(like.dtype)


class Encoder(Conditional, abc.ABC):
    """`encoder(x, y)` is q(z|x): x `(batch, *data_shape)`, y labels or None, draws `(samples, batch, latent_dim)`."""

    @abc.abstractmethod
    def forward(self, x: Tensor, y: Tensor | None = None) -> Distribution: ...


class Decoder(Conditional, abc.ABC):
    """`decoder(z, y)` is p(x|z): z `(..., latent_dim)`, `log_prob(x)` summed over the dimensions of x, `(...)`.

    The distribution is an `Independent` whose `base_dist` has one factor per dimension of x.

    Attributes:
        levels: number of values of a dimension of x, for data with bits per dimension; None: bits per dimension are not
            reported.
    """

    levels: int | None = None

    @abc.abstractmethod
    def forward(self, z: Tensor, y: Tensor | None = None) -> Distribution: ...

    def check(self, x: Tensor) -> None:
        """Raises ConfigurationError if x is not in the support of this likelihood."""

    def corrupt(self, x: Tensor, level: float) -> Tensor:
        """x with new noise, of the kind that `noisy` models."""
        raise ConfigurationError(f"denoise: {type(self).__name__} has no model of noisy data")

    def noisy(self, z: Tensor, level: float, y: Tensor | None = None) -> Distribution:
        """p(x with noise | z), for noise of that level.

        Raises:
            ConfigurationError: a level out of range, or a likelihood without a model of noise.
        """
        raise ConfigurationError(f"denoise: {type(self).__name__} has no model of noisy data")


EncoderRecipe = Callable[[Shape, int, int], Encoder]
"""(shape of a row of x, latent_dim, classes) -> encoder."""
DecoderRecipe = Callable[[Shape, int, int], Decoder]
"""(shape of a row of x, latent_dim, classes) -> decoder."""
PriorRecipe = Callable[[int], nn.Module]
"""latent_dim -> module whose call, without arguments, gives p(z)."""
