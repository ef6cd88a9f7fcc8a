"""Noise on the input of a network."""

from __future__ import annotations

from torch import Tensor, nn

from .. import noise
from ..batch import Shape
from ..errors import ConfigurationError
from .mlp import MLP, Network, check_dropout


class InputNoise(nn.Module):
    """A network with noise on its input in training, and none in validation and test.

    Normal noise is added first, then torch's dropout is applied: a share of the values becomes 0, and the others are
    divided by 1 minus that share. The context has no noise. Makhzani et al. (2015) use normal noise of 0.3 with
    few labels, and a dropout of 0.2 for likelihoods.

    Args:
        in_shape, out_shape, context_dim: see `MLP`.
        network: of the noisy input.
        normal: standard deviation of the normal noise, in the units of the input.
        dropout: share of the values that become 0.

    Raises:
        ConfigurationError: `normal` is negative, or `dropout` is not in [0, 1).
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        context_dim: int = 0,
        network: Network = MLP,
        normal: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not normal >= 0:
            raise ConfigurationError(f"normal: {normal} is not a standard deviation")
        check_dropout(dropout)
        self.normal, self.dropout = normal, nn.Dropout(dropout)
        self.network = network(in_shape, out_shape, context_dim)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        if self.training and self.normal:
            x = x + self.normal * noise.normal(x.shape, x)
        return self.network(self.dropout(x), context)


def check_noiseless(**networks: nn.Module) -> None:
    """Raises ConfigurationError if a network adds noise in training; the message names the argument that forbids it."""
    for name, network in networks.items():
        for part in network.modules():
            dropout = isinstance(part, nn.modules.dropout._DropoutNd) and part.p
            if dropout or (isinstance(part, InputNoise) and part.normal):
                raise ConfigurationError(
                    f"{name}: noise in the encoder would hide the change that it measures; leave noise and dropout at 0"
                )
