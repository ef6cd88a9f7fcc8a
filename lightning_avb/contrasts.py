"""Contrasts: the reference density r(z|x) against which the critic is trained.

For the optimal critic T*(x, z) = log q(z|x) - log r(z|x) and any r,

    KL(q(z|x), p(z)) = E_q[ T*(x, z) + log r(z|x) - log p(z) ],

so that the contrast is a free choice: the closer r is to q, the less the critic has to learn
(Mescheder, Nowozin & Geiger 2017, sections 2 and 3.1). r must be fixed given x. Where it is built from random
draws, they are not the ones being scored, and the critic is told of them.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from . import noise
from .distributions import DiagonalNormal, Implicit
from .errors import at_least


class Reference(NamedTuple):
    """r(z|x) for the rows of one batch, and how the critic looks at z.

    Attributes:
        standardise: maps z, `(samples, batch, latent_dim)`, to what the critic sees of it.
        rsample: maps a number of samples to draws of r, as the critic sees them, constants to the gradient.
        log_ratio: log r(z|x) - log p(z) in nats, `(samples, batch)`, of z itself.
        context: `(batch, context_dim)` or None, what the critic must know of r.
    """

    standardise: Callable[[Tensor], Tensor]
    rsample: Callable[[int], Tensor]
    log_ratio: Callable[[Tensor], Tensor]
    context: Tensor | None


class Contrast(nn.Module, abc.ABC):
    """`contrast(q, p)` is the reference for posterior q and prior p.

    Attributes:
        context_dim: length of the context that the critic gets.
    """

    context_dim: int

    @abc.abstractmethod
    def forward(self, q: Distribution, p: Distribution) -> Reference: ...


ContrastRecipe = Callable[[int], Contrast]
"""latent_dim -> contrast."""


class PriorContrast(Contrast):
    """r(z|x) = p(z): the paper's Algorithm 1.

    Args:
        latent_dim: given by the model.
    """

    context_dim = 0

    def __init__(self, latent_dim: int) -> None:
        super().__init__()

    def forward(self, q: Distribution, p: Distribution) -> Reference:
        def rsample(samples: int) -> Tensor:
            return p.expand(q.batch_shape).sample((samples,))

        return Reference(lambda z: z, rsample, lambda z: z.new_zeros(z.shape[:-1]), None)


class GaussianContrast(Contrast):
    """r(z|x) = N(m, diag(s^2)) with the moments of q(z|x): adaptive contrast (section 3.1 of the paper).

    The critic sees z standardised, (z - m) / s, where draws of r are N(0, I), and m and log s as its context: they
    come from `draws` noise draws of their own for a q without closed moments, so they vary from batch to batch. They
    are constants to the gradient, here, in the critic's view and in log r alike.

    Args:
        latent_dim: given by the model.
        draws: noise draws per row for the moments, at least 2; unused where q knows its moments.
    """

    def __init__(self, latent_dim: int, draws: int = 16) -> None:
        super().__init__()
        self.context_dim, self.draws = 2 * latent_dim, at_least(2, draws=draws)

    def forward(self, q: Distribution, p: Distribution) -> Reference:
        mean, scale = q.moments(self.draws) if isinstance(q, Implicit) else (q.mean.detach(), q.stddev.detach())
        scale = scale.clamp_min(1e-6)  # r may be any density, so rows whose draws coincide cost nothing but accuracy
        r = DiagonalNormal(mean, scale)

        def rsample(samples: int) -> Tensor:
            return noise.normal((samples, *mean.shape), mean)

        return Reference(
            standardise=lambda z: (z - mean) / scale,
            rsample=rsample,
            log_ratio=lambda z: r.log_prob(z) - p.log_prob(z),
            context=torch.cat([mean, scale.log()], -1),
        )
