"""Invertible networks for normalizing flows, from zuko: modules that return a bijection."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from ..errors import ConfigurationError, at_least
from .mlp import check_widths


@contextmanager
def _argument_checks_kept() -> Iterator[None]:
    """Restores torch's default for checking arguments of distributions, which zuko turns off on import."""
    before = Distribution._validate_args
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)


with _argument_checks_kept():
    from zuko.flows import MaskedAutoregressiveTransform
    from zuko.transforms import ComposedTransform, MonotonicRQSTransform

FlowKind = Literal["affine", "spline"]


class AutoregressiveFlow(nn.Module):
    """A chain of autoregressive bijections of vectors, which starts as the identity.

    Each takes the dimensions in the reverse order of the one before. One direction takes one pass, the other `passes`
    passes. For drawing, `affine` is the inverse autoregressive flow of Kingma et al. (2016); `spline` is the
    rational-quadratic one of Durkan et al. (2019) on [-5, 5], the identity beyond.

    Args:
        dim: length of the vectors.
        context_dim: length of the context of the bijection; 0: none.
        kind: `affine` or `spline`.
        transforms: length of the chain.
        hidden: widths of the hidden layers of each masked network.
        bins: pieces of a spline.
        passes: 2 makes coupling layers, cheap in both directions; None: fully autoregressive.
    """

    def __init__(
        self,
        dim: int,
        context_dim: int = 0,
        kind: FlowKind = "affine",
        transforms: int = 2,
        hidden: Sequence[int] = (64, 64),
        bins: int = 8,
        passes: int | None = None,
    ) -> None:
        super().__init__()
        if kind not in ("affine", "spline"):
            raise ConfigurationError(f"kind: {kind!r} is neither 'affine' nor 'spline'")
        at_least(1, transforms=transforms)
        at_least(2, bins=bins)
        check_widths(flow_hidden=hidden)
        spline = {"univariate": MonotonicRQSTransform, "shapes": ([bins], [bins], [bins - 1])}
        options: dict[str, Any] = {"hidden_features": tuple(hidden), **(spline if kind == "spline" else {})}
        orders = [torch.arange(dim), torch.arange(dim - 1, -1, -1)]
        self.layers = nn.ModuleList(
            MaskedAutoregressiveTransform(dim, context_dim, passes, orders[i % 2], **options) for i in range(transforms)
        )
        for layer in self.layers:
            # In one dimension without context, zuko's layer has free parameters in place of a network.
            network = getattr(layer, "hyper", None)
            for parameter in (layer if network is None else network[-1]).parameters():
                nn.init.zeros_(parameter)
            if network is not None:
                layer.hyper = _FullPrecision(network)

    def forward(self, context: Tensor | None = None) -> ComposedTransform:
        return ComposedTransform(*(layer(context) for layer in self.layers))


class _FullPrecision(nn.Module):
    """A network without autocast: densities need more than half precision."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return self.network(x)
