"""Fully connected networks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from ..batch import Shape
from ..errors import ConfigurationError

Network = Callable[[Shape, Shape], nn.Module]
"""A recipe for a network: (shape of an input, shape of an output) -> module that maps `(..., *in)` to `(..., *out)`."""

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}


def activation_function(name: str) -> nn.Module:
    """The activation of that name.

    Raises:
        ConfigurationError: no such activation.
    """
    if name not in ACTIVATIONS:
        raise ConfigurationError(f"activation: {name!r} is not one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]()


def check_widths(**widths: Sequence[int]) -> None:
    """Raises ConfigurationError if a layer would have no units; the message names the argument."""
    for name, sizes in widths.items():
        if any(size < 1 for size in sizes):
            raise ConfigurationError(f"{name}: {list(sizes)} has a layer without units")


class MLP(nn.Module):
    """Linear layers with an activation between them.

    Args:
        in_shape, out_shape: of one row, without leading dimensions.
        hidden: widths of the hidden layers.
        activation: one of elu, gelu, relu, silu, softplus, tanh.
    """

    def __init__(
        self, in_shape: Shape, out_shape: Shape, hidden: Sequence[int] = (64, 64), activation: str = "silu"
    ) -> None:
        super().__init__()
        check_widths(hidden=hidden, out_shape=out_shape)
        self.in_shape, self.out_shape = tuple(in_shape), tuple(out_shape)
        layers: list[nn.Module] = []
        width = math.prod(self.in_shape)
        for size in hidden:
            layers += [nn.Linear(width, size), activation_function(activation)]
            width = size
        self.layers = nn.Sequential(*layers, nn.Linear(width, math.prod(self.out_shape)))

    def forward(self, x: Tensor) -> Tensor:
        rows = x.shape[: x.ndim - len(self.in_shape)]
        return self.layers(x.reshape(*rows, -1)).reshape(*rows, *self.out_shape)


class Residual(nn.Module):
    """`h + W2 a(W1 a(h))`: a residual block with the activation in front (He et al. 2016)."""

    def __init__(self, width: int, activation: str) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            activation_function(activation),
            nn.Linear(width, width),
            activation_function(activation),
            nn.Linear(width, width),
        )

    def forward(self, h: Tensor) -> Tensor:
        return h + self.branch(h)
