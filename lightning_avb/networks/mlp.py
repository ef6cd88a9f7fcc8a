"""Fully connected networks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from ..batch import Shape
from ..errors import ConfigurationError, at_least

Network = Callable[[Shape, Shape, int], nn.Module]
"""A recipe for a network: (shape of an input, shape of an output, context_dim) -> module.

`network(x, context)` maps x `(..., *in_shape)` to `(..., *out_shape)`. The context, such as a one-hot label or moments
for a critic, is `(..., context_dim)` with leading dimensions that broadcast to those of x; None if context_dim is 0.
"""

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


def check_dropout(dropout: float) -> None:
    """Raises ConfigurationError if this is not a dropout probability."""
    if not 0 <= dropout < 1:
        raise ConfigurationError(f"dropout: {dropout} is not a share from 0 to below 1")


def check_no_batch_norm(**networks: nn.Module) -> None:
    """Raises ConfigurationError if a network has batch normalisation; the message names the argument."""
    for name, network in networks.items():
        if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules()):
            raise ConfigurationError(f"{name}: batch_norm makes rows depend on each other, which this network must not")


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation of `(..., width)` over all leading dimensions."""

    def forward(self, h: Tensor) -> Tensor:
        rows = h.reshape(-1, h.shape[-1])
        if self.training and len(rows) == 1:
            raise ConfigurationError("batch_norm: a single row cannot be normalised; take batches of two or more")
        return super().forward(rows).view_as(h)


@contextmanager
def keep_statistics(network: nn.Module) -> Iterator[None]:
    """Within the block batch normalisation does not update its running statistics, for rows that are not data.

    In training mode these rows are still normalised over their own batch.
    """
    layers = [
        module
        for module in network.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
    ]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True


class Context(nn.Module):
    """Adds a linear map of the context to the first layer's output.

    This equals a layer on the concatenated vector, and maps a context that all samples share only once.
    """

    def __init__(self, context_dim: int, width: int) -> None:
        super().__init__()
        self.context_dim = at_least(0, context_dim=context_dim)
        self.linear = nn.Linear(context_dim, width, bias=False) if context_dim else None

    def forward(self, h: Tensor, context: Tensor | None) -> Tensor:
        """`(..., width)`.

        Raises:
            ValueError: the network was built for another length of the context.
        """
        given = 0 if context is None else context.shape[-1]
        if given != self.context_dim:
            raise ValueError(
                f"a network built for a context of {self.context_dim} dimensions was called with one of {given}"
            )
        return h if self.linear is None else h + self.linear(context)


class MLP(nn.Module):
    """Linear layers with an activation between them.

    Args:
        in_shape, out_shape: of one row, without leading dimensions.
        context_dim: length of the context, 0: none.
        hidden: widths of the hidden layers.
        activation: one of elu, gelu, relu, silu, softplus, tanh.
        init_scale: initial weights are normal with this standard deviation, and biases 0; None: torch's initialisation.
        batch_norm: normalises every hidden layer over the batch before its activation (Ioffe & Szegedy 2015). The rows
            of a training batch then depend on each other: not for critics and discriminators.
        dropout: probability that a hidden unit is 0 in training.

    Raises:
        ConfigurationError: a layer without units, no such activation, an init_scale that is not positive, or a dropout
            that is not in [0, 1).
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        context_dim: int = 0,
        hidden: Sequence[int] = (128, 128),
        activation: str = "silu",
        init_scale: float | None = None,
        batch_norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_widths(hidden=hidden, out_shape=out_shape)
        check_dropout(dropout)
        if init_scale is not None and not init_scale > 0:
            raise ConfigurationError(f"init_scale: {init_scale} is not a positive standard deviation")
        self.in_shape, self.out_shape = tuple(in_shape), tuple(out_shape)
        layers: list[nn.Module] = []
        width = math.prod(self.in_shape)
        for size in hidden:
            layers += [nn.Linear(width, size), *[BatchNorm(size)] * batch_norm, activation_function(activation)]
            layers += [nn.Dropout(dropout)] if dropout else []
            width = size
        self.layers = nn.Sequential(*layers, nn.Linear(width, math.prod(self.out_shape)))
        self.context = Context(context_dim, [*hidden, math.prod(self.out_shape)][0])
        if init_scale is not None:
            for layer in self.modules():
                if isinstance(layer, nn.Linear):
                    nn.init.normal_(layer.weight, std=init_scale)
                    if layer.bias is not None:
                        nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        rows = x.shape[: x.ndim - len(self.in_shape)]
        first, *rest = self.layers
        h = self.context(first(x.reshape(*rows, math.prod(self.in_shape))), context)
        for layer in rest:
            h = layer(h)
        return h.reshape(*h.shape[:-1], *self.out_shape)


class ResidualMLP(nn.Module):
    """Residual blocks between two linear layers.

    Args:
        in_shape, out_shape, context_dim: see `MLP`.
        width: of every layer.
        blocks: number of residual blocks.
        activation: see `MLP`.
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        context_dim: int = 0,
        width: int = 256,
        blocks: int = 2,
        activation: str = "silu",
    ) -> None:
        super().__init__()
        check_widths(width=[width])
        self.first = MLP(in_shape, (width,), context_dim, hidden=())
        self.trunk = nn.Sequential(
            *(Residual(width, activation) for _ in range(at_least(0, blocks=blocks))), activation_function(activation)
        )
        self.last = MLP((width,), out_shape, hidden=())

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.last(self.trunk(self.first(x, context)))


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
