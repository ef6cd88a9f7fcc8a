"""Priors p(z)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..distributions import DiagonalNormal, Flow, NormalMixture
from ..errors import at_least
from ..networks.flows import AutoregressiveFlow, FlowKind


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


class MixturePrior(nn.Module):
    """A learned mixture of normals, p(z) = sum_k w_k N(z; m_k, diag(s_k^2)).

    Args:
        latent_dim: given by the model.
        components: how many.
    """

    def __init__(self, latent_dim: int, components: int = 10) -> None:
        super().__init__()
        at_least(1, components=components)
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(torch.randn(components, latent_dim))
        self.log_scale = nn.Parameter(torch.zeros(components, latent_dim))

    def forward(self) -> NormalMixture:
        return NormalMixture(self.logits, self.loc, self.log_scale.exp())


class FlowPrior(nn.Module):
    """A learned normalizing flow, N(0, I) at the start; coupling layers, cheap to draw from and to score.

    Args:
        latent_dim: given by the model.
        kind, transforms, flow_hidden, bins: see `AutoregressiveFlow`.
    """

    def __init__(
        self,
        latent_dim: int,
        kind: FlowKind = "spline",
        transforms: int = 4,
        flow_hidden: Sequence[int] = (64, 64),
        bins: int = 8,
    ) -> None:
        super().__init__()
        self.standard = StandardNormal(latent_dim)
        self.flow = AutoregressiveFlow(latent_dim, 0, kind, transforms, flow_hidden, bins, passes=2)

    def forward(self) -> Flow:
        return Flow(self.standard.loc, self.standard.scale, self.flow().inv)
