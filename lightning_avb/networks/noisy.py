"""Networks with noise as input: the black-box posteriors of Mescheder et al. (2017)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .. import noise
from ..batch import Shape
from ..errors import ConfigurationError
from .mlp import Context, activation_function, check_widths


class NoisyMLP(nn.Module):
    """An MLP with Gaussian noise that is added to its layers, through a separate linear map for each.

    The part of the first layer with x and the context is computed once for all samples.

    Args:
        in_shape, out_dim: shape of a row of x, length of the output.
        hidden: widths of the hidden layers, at least one.
        noise_dim: dimensions of the noise, the same draw for every layer.
        context_dim: length of the context, 0: none.
        every_layer: noise enters every layer; otherwise the first alone.
        activation: see `MLP`.
    """

    def __init__(
        self,
        in_shape: Shape,
        out_dim: int,
        hidden: Sequence[int],
        noise_dim: int,
        context_dim: int = 0,
        every_layer: bool = True,
        activation: str = "silu",
    ) -> None:
        super().__init__()
        check_widths(hidden=hidden)
        if not hidden:
            raise ConfigurationError("hidden: a network with noise needs at least one hidden layer")
        if noise_dim < 1:
            raise ConfigurationError(f"noise_dim: {noise_dim} is not a positive number of dimensions")
        widths = [math.prod(in_shape), *hidden, out_dim]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.context = Context(context_dim, widths[1])
        noisy = len(self.layers) if every_layer else 1
        self.noise = nn.ModuleList(nn.Linear(noise_dim, b, bias=False) for b in widths[1 : noisy + 1])
        self.activation = activation_function(activation)

    def features(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """`(batch, hidden[0])`: the first layer of x and the context, before noise and activation."""
        return self.context(self.layers[0](x.flatten(1)), context)

    def forward(self, features: Tensor, eps: Tensor) -> Tensor:
        """`(samples, batch, out_dim)` from `features(x, context)` and noise `(samples, batch, noise_dim)`."""
        h = features + self.noise[0](eps)
        for i, layer in enumerate(self.layers[1:], start=1):
            h = layer(self.activation(h))
            if i < len(self.noise):
                h = h + self.noise[i](eps)
        return h


class NoiseBasis(nn.Module):
    """Noise vectors v_i(eps_i) from one small MLP each, computed as batched matrix products (supplement of AVB).

    Args:
        count: number of noise vectors.
        noise_dim: dimensions of each eps_i.
        out_dim: length of each v_i.
        hidden: widths of the hidden layers of each network.
    """

    def __init__(self, count: int, noise_dim: int, out_dim: int, hidden: Sequence[int] = (128, 128, 128)) -> None:
        super().__init__()
        check_widths(basis=[count], noise_dim=[noise_dim], basis_hidden=hidden)
        widths = [noise_dim, *hidden, out_dim]
        self.count, self.noise_dim = count, noise_dim
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for a, b in itertools.pairwise(widths):
            bound = a**-0.5
            self.weights.append(torch.empty(count, a, b).uniform_(-bound, bound))
            self.biases.append(torch.empty(count, 1, b).uniform_(-bound, bound))

    def forward(self, eps: Tensor) -> Tensor:
        """`(rows, count, out_dim)` from noise `(rows, count * noise_dim)`."""
        h = eps.view(len(eps), self.count, self.noise_dim).transpose(0, 1)
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = torch.baddbmm(bias, h if i == 0 else nn.functional.elu(h), weight)
        return h.transpose(0, 1)

    @torch.no_grad()
    def moments(self, draws: int) -> tuple[Tensor, Tensor]:
        """Mean and variance of every v_i, `(count, out_dim)` each, from `draws` separate noise vectors."""
        v = self(noise.normal((draws, self.count * self.noise_dim), self.weights[0]))
        variance, mean = torch.var_mean(v.to(self.weights[0].dtype), 0)
        return mean, variance
