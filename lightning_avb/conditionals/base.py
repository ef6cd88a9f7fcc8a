"""What every encoder and every decoder is."""

from __future__ import annotations

import abc
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from ..batch import Shape
from ..errors import ConfigurationError


class Conditional(nn.Module):
    """A module that may depend on a label.

    Args:
        classes: number of labels; 0: labels are ignored.
    """

    def __init__(self, classes: int = 0) -> None:
        super().__init__()
        self.classes = classes

    def label(self, y: Tensor | None, like: Tensor) -> Tensor | None:
        """`(*y.shape, classes)`, the labels as the context of a network; None where they are ignored."""
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

    The distribution is an `Independent` whose `base_dist` tells the dimensions of x apart.

    Attributes:
        levels: number of values that a dimension of x can take, for data of which bits per dimension are reported;
            None: it is not reported.
    """

    levels: int | None = None

    @abc.abstractmethod
    def forward(self, z: Tensor, y: Tensor | None = None) -> Distribution: ...

    def check(self, x: Tensor) -> None:
        """Raises ConfigurationError if x is nothing that this likelihood can score."""

    def corrupt(self, x: Tensor, level: float) -> Tensor:
        """x with noise of the kind that `noisy` knows, drawn anew."""
        raise ConfigurationError(f"denoise: {type(self).__name__} has no model of noisy data")

    def noisy(self, z: Tensor, level: float, y: Tensor | None = None) -> Distribution:
        """p(x with noise | z), for noise of that level.

        Raises:
            ConfigurationError: a level that makes no sense, or no such model for this likelihood.
        """
        raise ConfigurationError(f"denoise: {type(self).__name__} has no model of noisy data")


EncoderRecipe = Callable[[Shape, int, int], Encoder]
"""(shape of a row of x, latent_dim, classes) -> encoder."""
DecoderRecipe = Callable[[Shape, int, int], Decoder]
"""(shape of a row of x, latent_dim, classes) -> decoder."""
PriorRecipe = Callable[[int], nn.Module]
"""latent_dim -> module whose call, without arguments, gives p(z)."""
