"""How far q(z|x) is from the posterior p(z|x), and where a bound's distance from log p(x) comes from.

    log p(x) = ELBO(x) + KL(q(z|x), p(z|x)),
    E_x ELBO(x) = E_x E_q[ log p(x|z) ] - I(x; z) - KL(q(z), p(z)),      q(z) = E_x q(z|x),

with the mutual information I(x; z) = E_x KL(q(z|x), q(z)) (Hoffman & Johnson 2016). In one or two latent dimensions all
of them are integrals over a grid, also for a black-box q whose density on the grid is known some other way.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from ..errors import at_least
from .importance import CHUNK, LogDensity, Proposal, importance_weighting
from .quadrature import Quadrature


def kl_to_posterior(
    q: Proposal, log_target: LogDensity, log_likelihood: Tensor, samples: int, chunk: int = CHUNK
) -> Tensor:
    """KL(q(z|x), p(z|x)) = log p(x) - ELBO(x), `(batch,)`, in nats.

    The ELBO comes from draws; an error of `log_likelihood` is an error of the result.

    Args:
        q: with its density.
        log_target: log p(x, z), see `importance.log_joint`.
        log_likelihood: log p(x), `(batch,)`, from an estimator that one trusts.
        samples: draws of q.
        chunk: pairs (draw, row) of one call of `log_target`; changes memory and nothing else.
    """
    return log_likelihood - importance_weighting(q, log_target, samples, chunk).elbo


class Decomposition(NamedTuple):
    """The parts of the bound, in nats.

    Attributes:
        log_likelihood: log p(x), `(batch,)`.
        reconstruction: -E_q log p(x|z), `(batch,)`.
        kl: KL(q(z|x), p(z)), `(batch,)`.
        kl_to_posterior: KL(q(z|x), p(z|x)), `(batch,)`.
        information: I(x; z), where x is one of the rows, all equally likely: a number, at most log batch.
        kl_of_aggregate: KL(q(z), p(z)), a number.
        mass: the integral of q(z|x) over the grid, `(batch,)`: 1 where the grid holds and resolves it.
    """

    log_likelihood: Tensor
    reconstruction: Tensor
    kl: Tensor
    kl_to_posterior: Tensor
    information: Tensor
    kl_of_aggregate: Tensor
    mass: Tensor


@torch.no_grad()
def decompose(
    log_q: Tensor,
    decoder: Callable[[Tensor], Distribution],
    prior: Callable[[], Distribution],
    x: Tensor,
    quadrature: Quadrature,
    elements: int = 1 << 22,
) -> Decomposition:
    """The parts of the bound by numerical integration.

    Args:
        log_q: log q(z|x_i) at every point of the grid for every row, `(points, batch)`: see `on_grid` and `histogram`.
        decoder, prior: modules whose calls give p(x|z) and p(z).
        x: `(batch, *data_shape)`, all rows at once: q(z) is their average.
        quadrature: the grid.
        elements: numbers that one decoder call may give; fewer need less memory, and change nothing else.
    """
    p, size = prior(), max(1, elements // x.numel())
    sums, log_integrals = [], []
    for z, log_q_x in zip(quadrature.points.split(size), log_q.split(size), strict=True):
        log_x, log_p = decoder(z.unsqueeze(1)).log_prob(x), p.log_prob(z).unsqueeze(1)
        log_q_all = log_q_x.logsumexp(1, keepdim=True) - math.log(len(x))
        integrands = (-log_x, log_q_x - log_p, log_q_x - log_q_all, log_q_all - log_p, torch.ones_like(log_x))
        sums.append(torch.stack([_under(log_q_x, values).sum(0) for values in integrands]))
        log_integrals.append((log_x + log_p).logsumexp(0))
    log_likelihood = torch.stack(log_integrals).logsumexp(0) + quadrature.log_weight
    reconstruction, kl, information, aggregate, mass = torch.stack(sums).sum(0) * math.exp(quadrature.log_weight)
    gap = mass * log_likelihood + reconstruction + kl
    return Decomposition(log_likelihood, reconstruction, kl, gap, information.mean(), aggregate.mean(), mass)


@torch.no_grad()
def critic_error(log_ratio: Tensor, log_q: Tensor, prior: Callable[[], Distribution], quadrature: Quadrature) -> Tensor:
    """By how much a critic's KL(q(z|x), p(z)) is off: E_q[ log_ratio - (log q(z|x) - log p(z)) ], `(batch,)`.

    Args:
        log_ratio: the critic's log q(z|x) - log p(z) at every point of the grid, T(x, z) + log r(z|x) - log p(z) with
            the contrast r, `(points, batch)`.
        log_q: the true log q(z|x) there, `(points, batch)`.
        prior: module whose call gives p(z).
        quadrature: the grid.
    """
    truth = log_q - prior().log_prob(quadrature.points).unsqueeze(1)
    return _under(log_q, log_ratio - truth).sum(0) * math.exp(quadrature.log_weight)


@torch.no_grad()
def on_grid(function: LogDensity, quadrature: Quadrature, rows: int, chunk: int = CHUNK) -> Tensor:
    """A function of z for every row, such as `encoder(x).log_prob` or a critic, on the grid: `(points, rows)`.

    Args:
        function: z `(samples, rows, dim)` -> `(samples, rows)`.
        quadrature: the grid.
        rows: how many.
        chunk: pairs (point, row) of one call; changes memory and nothing else.
    """
    at_least(
        1,
        rows=rows,
    )
    parts = quadrature.points.split(max(1, at_least(1, chunk=chunk) // rows))
    return torch.cat([function(z.unsqueeze(1).expand(-1, rows, -1)) for z in parts])


def histogram(z: Tensor, quadrature: Quadrature) -> Tensor:
    """log q(z|x) on the grid for a q that can be drawn from and no more, `(points, batch)`.

    Draws beside the grid are lost, which shows in `Decomposition.mass`. The entropy of q comes out too small, and
    divergences from it too large, by about (cells that q covers) / (2 draws) nats.

    Args:
        z: `(samples, batch, dim)`, draws of q.
        quadrature: a grid from `Quadrature.grid`.
    """
    points, dim = quadrature.points.shape
    cells, width = round(points ** (1 / dim)), math.exp(quadrature.log_weight / dim)
    place = ((z - quadrature.points[0]) / width + 0.5).floor().long()
    inside = ((place >= 0) & (place < cells)).all(-1)
    strides = cells ** torch.arange(dim - 1, -1, -1, device=z.device)
    cell = torch.where(inside, (place * strides).sum(-1), points)
    counts = torch.stack([row.bincount(minlength=points + 1)[:points] for row in cell.unbind(1)], 1)
    return (counts.to(z.dtype) / len(z)).log() - quadrature.log_weight


def _under(log_q: Tensor, values: Tensor) -> Tensor:
    """q times the values, 0 where q is 0."""
    return torch.where(log_q > -math.inf, log_q.exp() * values, 0.0)
