"""Convolutional networks for pictures of any height and width.

A stage halves both sides of a picture and rounds up. With an odd kernel k and padding (k - 1) / 2, a convolution of
stride 2 leads from n pixels to m = ceil(n / 2), and a transposed convolution back to 2 m - 1 and as many more as its
output padding says, n - (2 m - 1), which is 0 or 1. `ConvNet` and `DeconvNet` thus pass through the same sizes.

Nothing is normalised over a batch, because rows must not see each other. Instead the weights keep the variance of what
passes (He et al. 2015), and residual blocks begin as the identity.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..batch import Shape
from ..errors import ConfigurationError, at_least
from .mlp import MLP, activation_function, check_widths


class ConvNet(nn.Module):
    """From pictures to anything: strided convolutions, then an MLP.

    On MNIST the AVB authors' convolutional encoder has channels (16, 32, 32), kernel 5 and hidden (800,); on CelebA
    channels (64, 128, 256, 512), kernel 5 and hidden ().

    Args:
        in_shape: of a picture, (channels, height, width) or (height, width).
        out_shape: of one row of the output.
        context_dim: length of the context, which the MLP reads besides the picture's features; 0: none.
        channels: of the stages, from the picture on; each halves height and width.
        kernel: side of every convolution, 3, 5 or another odd number.
        blocks: residual blocks in each stage.
        hidden: widths of the hidden layers of the MLP.
        activation: see `MLP`.

    Raises:
        ConfigurationError: `in_shape` is not that of a picture, or an argument makes no network.
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        context_dim: int = 0,
        channels: Sequence[int] = (32, 64, 64),
        kernel: int = 3,
        blocks: int = 0,
        hidden: Sequence[int] = (256,),
        activation: str = "silu",
    ) -> None:
        super().__init__()
        self.in_shape = tuple(in_shape)
        self.stages = _stages("ConvNet", "input", self.in_shape, channels, kernel, blocks)
        layers: list[nn.Module] = []
        for large, small in itertools.pairwise(self.stages):
            layers += [_down(large, small, kernel), *_blocks(small, kernel, blocks, activation)]
            layers += [activation_function(activation)]
        self.convolutions = nn.Sequential(*layers)
        self.dense = MLP(self.stages[-1], out_shape, context_dim, hidden, activation)
        self.to(memory_format=torch.channels_last)  # larger pictures: a quarter faster on a CPU

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        rows = x.shape[: x.ndim - len(self.in_shape)]
        features = self.convolutions(x.reshape(math.prod(rows), *self.stages[0]))
        return self.dense(features.reshape(*rows, *self.stages[-1]), context)


class DeconvNet(nn.Module):
    """From anything to pictures: the mirror of the `ConvNet` with the same channels, by transposed convolutions.

    On MNIST the AVB authors' convolutional decoder has channels (16, 32, 32), kernel 5 and hidden (300,); on CelebA
    channels (64, 128, 256, 512), kernel 5 and hidden ().

    Args:
        in_shape: of one row of the input.
        out_shape: of a picture, (channels, height, width) or (height, width).
        context_dim: length of the context, which the MLP reads besides the input; 0: none.
        channels: of the stages, from the picture on, as in `ConvNet`.
        kernel: side of every convolution, 3, 5 or another odd number.
        blocks: residual blocks in each stage.
        hidden: widths of the hidden layers of the MLP.
        activation: see `MLP`.

    Raises:
        ConfigurationError: `out_shape` is not that of a picture, or an argument makes no network.
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        context_dim: int = 0,
        channels: Sequence[int] = (32, 64, 64),
        kernel: int = 3,
        blocks: int = 0,
        hidden: Sequence[int] = (256,),
        activation: str = "silu",
    ) -> None:
        super().__init__()
        self.out_shape = tuple(out_shape)
        self.stages = _stages("DeconvNet", "output", self.out_shape, channels, kernel, blocks)
        self.dense = MLP(in_shape, self.stages[-1], context_dim, hidden, activation)
        layers: list[nn.Module] = []
        for small, large in itertools.pairwise(reversed(self.stages)):
            layers += [*_blocks(small, kernel, blocks, activation), activation_function(activation)]
            layers += [_up(small, large, kernel)]
        self.convolutions = nn.Sequential(*layers)
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        features = self.dense(x, context)
        rows = features.shape[:-3]
        pictures = self.convolutions(features.reshape(math.prod(rows), *self.stages[-1]))
        return pictures.reshape(*rows, *self.out_shape)


class ResidualConv(nn.Module):
    """`h + W2 * a(W1 * a(h))`: a residual block, activation first (He et al. 2016), that begins as the identity."""

    def __init__(self, channels: int, kernel: int, activation: str) -> None:
        super().__init__()
        first, second = (nn.Conv2d(channels, channels, kernel, padding=kernel // 2) for _ in range(2))
        self.branch = nn.Sequential(
            activation_function(activation),
            _initialised(first, channels * kernel**2),
            activation_function(activation),
            second,
        )
        for parameter in second.parameters():
            nn.init.zeros_(parameter)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.branch(h)


Stage = tuple[int, int, int]
"""Channels, height and width."""


def _stages(name: str, side: str, shape: Shape, channels: Sequence[int], kernel: int, blocks: int) -> list[Stage]:
    """The picture, then what each stage makes of it."""
    if len(shape) not in (2, 3):
        raise ConfigurationError(
            f"network: {name} needs pictures (channels, height, width) as {side}, and rows of shape {shape} are none; "
            "ConvNet reads pictures, DeconvNet makes them, MLP takes rows of any shape"
        )
    check_widths(channels=channels)
    if not channels:
        raise ConfigurationError("channels: a convolutional network needs at least one stage")
    if kernel < 3 or kernel % 2 == 0:
        raise ConfigurationError(f"kernel: {kernel} is not 3, 5 or another odd number of pixels")
    at_least(0, blocks=blocks)
    *first, height, width = shape
    stages = [(first[0] if first else 1, height, width)]
    for count in channels:
        height, width = math.ceil(height / 2), math.ceil(width / 2)
        stages.append((count, height, width))
    return stages


def _initialised(layer: nn.Conv2d | nn.ConvTranspose2d, inputs: float) -> nn.Module:
    """The layer with weights that keep the variance (He et al. 2015), where an output sums `inputs` numbers."""
    weight, bias = layer.parameters()
    nn.init.normal_(weight, std=math.sqrt(2 / inputs))
    nn.init.zeros_(bias)
    return layer


def _down(large: Stage, small: Stage, kernel: int) -> nn.Module:
    convolution = nn.Conv2d(large[0], small[0], kernel, stride=2, padding=kernel // 2)
    return _initialised(convolution, large[0] * kernel**2)


def _up(small: Stage, large: Stage, kernel: int) -> nn.Module:
    rest = large[1] - (2 * small[1] - 1), large[2] - (2 * small[2] - 1)
    convolution = nn.ConvTranspose2d(small[0], large[0], kernel, 2, kernel // 2, output_padding=rest)
    return _initialised(convolution, small[0] * kernel**2 / 4)  # a quarter of the kernel meets each pixel


def _blocks(stage: Stage, kernel: int, blocks: int, activation: str) -> list[nn.Module]:
    return [ResidualConv(stage[0], kernel, activation) for _ in range(blocks)]
