"""Priors p(z)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..distributions import DiagonalNormal, Flow, NormalMixture, SwissRoll
from ..errors import ConfigurationError, at_least
from ..networks.flows import AutoregressiveFlow, FlowKind


def _check_plane(prior: nn.Module, latent_dim: int) -> None:
    if latent_dim != 2:
        raise ConfigurationError(f"latent_dim: {latent_dim} must be 2 for a {type(prior).__name__}")


def _check_positive(**arguments: float) -> None:
    for name, value in arguments.items():
        if not value > 0:
            raise ConfigurationError(f"{name}: {value} is not positive")


def _check_parts(y: Tensor, parts: int) -> None:
    if not ((y >= -1) & (y < parts)).all():
        raise ConfigurationError(f"labels: from {y.min()} to {y.max()}; the prior has parts 0 to {parts - 1}, or -1")


class NormalPrior(nn.Module):
    """p(z) = N(0, scale^2 I).

    Args:
        latent_dim: given by the model.
        scale: the standard deviation.

    Raises:
        ConfigurationError: it is not positive.
    """

    def __init__(self, latent_dim: int, scale: float = 1.0) -> None:
        super().__init__()
        _check_positive(scale=scale)
        self.loc: Tensor
        self.scale: Tensor
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(latent_dim) * scale, persistent=False)

    def forward(self) -> DiagonalNormal:
        return DiagonalNormal(self.loc, self.scale)


class StandardNormal(NormalPrior):
    """p(z) = N(0, I)."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim)


class MixturePrior(nn.Module):
    """A learned mixture of normals, p(z) = sum_k w_k N(z; m_k, diag(s_k^2)).

    Args:
        latent_dim: given by the model.
        components: their number.

    Attributes:
        parts: number of parts for labels: the components.
    """

    def __init__(self, latent_dim: int, components: int = 10) -> None:
        super().__init__()
        self.parts = at_least(1, components=components)
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(torch.randn(components, latent_dim))
        self.log_scale = nn.Parameter(torch.zeros(components, latent_dim))

    def forward(self) -> NormalMixture:
        return NormalMixture(self.logits, self.loc, self.log_scale.exp())

    def given(self, y: Tensor) -> NormalMixture:
        """See `PetalPrior.given`."""
        _check_parts(y, self.parts)
        return self().given(y)


class PetalPrior(nn.Module):
    """Equally likely normals around the origin, like the petals of a flower (Makhzani et al. 2015, figure 4 a).

    Component k lies in direction 2 pi k / components and is elongated along the radius. With the defaults, 99.9 % of
    the draws are likeliest under their own component, and have |z| < 4.

    Args:
        latent_dim: given by the model; 2.
        components: their number.
        radius: distance of the means from the origin.
        radial, tangential: standard deviations along the radius and perpendicular to it.

    Attributes:
        parts: number of parts for labels: the components.

    Raises:
        ConfigurationError: latent_dim is not 2, there is no component, or a number is not positive.
    """

    def __init__(
        self,
        latent_dim: int,
        components: int = 10,
        radius: float = 2.3,
        radial: float = 0.5,
        tangential: float = 0.15,
    ) -> None:
        super().__init__()
        _check_plane(self, latent_dim)
        _check_positive(radius=radius, radial=radial, tangential=tangential)
        self.parts = at_least(1, components=components)
        angle = torch.arange(components) * (2 * math.pi / components)
        outwards = torch.stack([angle.cos(), angle.sin()], -1)
        across = torch.stack([-angle.sin(), angle.cos()], -1)
        axes = torch.stack([radial * outwards, tangential * across], -1)
        self.logits: Tensor
        self.loc: Tensor
        self.scale_tril: Tensor
        self.register_buffer("logits", torch.zeros(components), persistent=False)
        self.register_buffer("loc", radius * outwards, persistent=False)
        self.register_buffer("scale_tril", torch.linalg.cholesky(axes @ axes.mT), persistent=False)

    def forward(self) -> NormalMixture:
        return NormalMixture(self.logits, self.loc, self.scale_tril)

    def given(self, y: Tensor) -> NormalMixture:
        """p(z|y): row i is part `y[i]` of the prior, or the whole prior if `y[i]` is -1.

        Args:
            y: `(batch,)` int64.

        Returns:
            A distribution of batch shape `(batch,)`, with draws `(samples, batch, latent_dim)`.

        Raises:
            ConfigurationError: a label without a part.
        """
        _check_parts(y, self.parts)
        return self().given(y)


class SwissRollPrior(nn.Module):
    """A roll in the plane (Makhzani et al. 2015, figure 4 b), see `SwissRoll`: it has draws but no density.

    Args:
        latent_dim: given by the model; 2.
        parts: number of parts for labels: stretches of equal length, from the inside out.
        turns, radius, width: see `SwissRoll`.

    Raises:
        ConfigurationError: latent_dim is not 2, there is no part, or a number is not positive.
    """

    def __init__(
        self, latent_dim: int, parts: int = 10, turns: float = 2.0, radius: float = 3.7, width: float = 0.1
    ) -> None:
        super().__init__()
        _check_plane(self, latent_dim)
        _check_positive(turns=turns, radius=radius, width=width)
        self.parts, self.turns, self.radius, self.width = at_least(1, parts=parts), turns, radius, width
        self.ends: Tensor
        self.register_buffer("ends", torch.tensor([0.0, 1.0]), persistent=False)

    def forward(self) -> SwissRoll:
        begin, stop = self.ends
        return SwissRoll(begin, stop, self.turns, self.radius, self.width)

    def given(self, y: Tensor) -> SwissRoll:
        """See `PetalPrior.given`."""
        _check_parts(y, self.parts)
        stretch = (y.unsqueeze(-1) + self.ends) / self.parts
        begin, stop = torch.where(y.unsqueeze(-1) < 0, self.ends, stretch).unbind(-1)
        return SwissRoll(begin, stop, self.turns, self.radius, self.width)


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
