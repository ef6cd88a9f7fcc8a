"""The divergence of q(z|x) from the posterior p(z|x), and the terms of a bound of log p(x).

    log p(x) = ELBO(x) + KL(q(z|x), p(z|x)),
    E_x ELBO(x) = E_x E_q[ log p(x|z) ] - I(x; z) - KL(q(z), p(z)),      q(z) = E_x q(z|x),

with the mutual information I(x; z) = E_x KL(q(z|x), q(z)) (Hoffman & Johnson 2016). In one or two latent dimensions all
of them are integrals over a grid if q has a density. A black-box q only has draws: its entropy is estimated from the
distances between them, which blurs the edges of q by the distance to a neighbour.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import at_least
from .importance import CHUNK, LogDensity, importance_weighting
from .inputs import Decoder, Prior, Proposal, as_prior
from .neighbours import neighbour_entropy
from .quadrature import Quadrature, log_likelihood_on_grid


def kl_to_posterior(
    q: Proposal, log_target: LogDensity, log_likelihood: Tensor, samples: int, chunk: int = CHUNK
) -> Tensor:
    """KL(q(z|x), p(z|x)) = log p(x) - ELBO(x), `(batch,)`, in nats.

    The ELBO is estimated from draws; an error of `log_likelihood` is also an error of the result.

    Args:
        q: with its density.
        log_target: log p(x, z), see `importance.log_joint`.
        log_likelihood: log p(x), `(batch,)`, from a reliable estimator.
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
        mass: the integral of q(z|x) over the grid, `(batch,)`: 1 where the grid holds and resolves it, and for draws.
    """

    log_likelihood: Tensor
    reconstruction: Tensor
    kl: Tensor
    kl_to_posterior: Tensor
    information: Tensor
    kl_of_aggregate: Tensor
    mass: Tensor

    @property
    def elbo(self) -> Tensor:
        """-reconstruction - kl, `(batch,)`."""
        return -self.reconstruction - self.kl


@torch.no_grad()
def decompose(
    log_q: Tensor,
    decoder: Decoder,
    prior: Prior,
    x: Tensor,
    quadrature: Quadrature,
    elements: int = 1 << 22,
) -> Decomposition:
    """The parts of the bound by numerical integration.

    Args:
        log_q: log q(z|x_i) at every point of the grid for every row, `(points, batch)`: see `on_grid`.
        decoder, prior: give p(x|z) and p(z).
        x: `(batch, *data_shape)`, all rows at once: q(z) is their average.
        quadrature: the grid.
        elements: size of the output of one decoder call, at most; only memory depends on it.
    """
    p, size = as_prior(prior), max(1, elements // x.numel())
    sums, log_integrals = [], []
    for z, log_q_x in zip(quadrature.points.split(size), log_q.split(size), strict=True):
        log_x, log_p = decoder(z.unsqueeze(1)).log_prob(x), p.log_prob(z).unsqueeze(1)
        log_q_all = log_q_x.logsumexp(1, keepdim=True) - math.log(len(x))
        integrands = (-log_x, log_q_x - log_p, log_q_x - log_q_all, log_q_all - log_p, torch.ones_like(log_x))
        sums.append(torch.stack([_weighted_by_q(log_q_x, values).sum(0) for values in integrands]))
        log_integrals.append((log_x + log_p).logsumexp(0))
    log_likelihood = torch.stack(log_integrals).logsumexp(0) + quadrature.log_weight
    reconstruction, kl, information, aggregate, mass = torch.stack(sums).sum(0) * math.exp(quadrature.log_weight)
    to_posterior = mass * log_likelihood + reconstruction + kl
    return Decomposition(log_likelihood, reconstruction, kl, to_posterior, information.mean(), aggregate.mean(), mass)


@torch.no_grad()
def decompose_draws(
    z: Tensor,
    decoder: Decoder,
    prior: Prior,
    x: Tensor,
    quadrature: Quadrature,
    elements: int = 1 << 22,
) -> Decomposition:
    """The terms of the bound for a q that only has draws: log p(x) from the grid, the others from draws.

    Expectations and `neighbour_entropy` use the same draws, so that a small KL(q(z|x), p(z|x)) has little noise. The
    errors are those of `kl_of_draws` and `kl_of_aggregate`.

    Args:
        z: `(samples, batch, dim)`, independent draws of q(z|x).
        decoder, prior, x, quadrature, elements: see `decompose`.
    """
    log_x = torch.cat([decoder(part).log_prob(x) for part in z.split(max(1, elements // x.numel()))])
    reconstruction, kl = -log_x.mean(0), kl_of_draws(z, prior)
    log_p = log_likelihood_on_grid(decoder, prior, x, quadrature, elements)
    aggregate = kl_of_aggregate(z, prior)
    gap = log_p + reconstruction + kl
    return Decomposition(log_p, reconstruction, kl, gap, kl.mean() - aggregate, aggregate, torch.ones_like(kl))


@torch.no_grad()
def kl_of_draws(z: Tensor, prior: Prior) -> Tensor:
    """KL(q(z|x), p(z)) from draws `(samples, batch, dim)` of q, `(batch,)`, in nats; see `neighbour_entropy`."""
    return -neighbour_entropy(z) - as_prior(prior).log_prob(z).mean(0)


@torch.no_grad()
def kl_of_aggregate(z: Tensor, prior: Prior) -> Tensor:
    """KL(q(z), p(z)) of the average q(z) of all rows' q(z|x), a number, in nats; see `neighbour_entropy`.

    Equally many draws of every row are pooled. If the rows' distributions do not overlap, the estimate has the same
    error as their entropies, and the error of I(x; z) is smaller.

    Args:
        z: `(samples, batch, dim)`, draws of q(z|x).
        prior: p(z), or a module or function whose call gives it.
    """
    return kl_of_draws(z.reshape(-1, 1, z.shape[-1]), prior)[0]


@torch.no_grad()
def critic_error(log_ratio: Tensor, log_q: Tensor, prior: Prior, quadrature: Quadrature) -> Tensor:
    """The error of a critic's KL(q(z|x), p(z)): E_q[ log_ratio - (log q(z|x) - log p(z)) ], `(batch,)`.

    Args:
        log_ratio: the critic's log q(z|x) - log p(z) at every point of the grid, T(x, z) + log r(z|x) - log p(z) with
            the contrast r, `(points, batch)`.
        log_q: the true log q(z|x) there, `(points, batch)`.
        prior: p(z), or a module or function whose call gives it.
        quadrature: the grid.
    """
    truth = log_q - as_prior(prior).log_prob(quadrature.points).unsqueeze(1)
    return _weighted_by_q(log_q, log_ratio - truth).sum(0) * math.exp(quadrature.log_weight)


@torch.no_grad()
def on_grid(function: LogDensity, quadrature: Quadrature, rows: int, chunk: int = CHUNK) -> Tensor:
    """A function of z for every row, such as `encoder(x).log_prob` or a critic, on the grid: `(points, rows)`.

    Args:
        function: z `(samples, rows, dim)` -> `(samples, rows)`.
        quadrature: the grid.
        rows: their number.
        chunk: pairs (point, row) per call; only memory depends on it.
    """
    at_least(1, rows=rows)
    parts = quadrature.points.split(max(1, at_least(1, chunk=chunk) // rows))
    return torch.cat([function(z.unsqueeze(1).expand(-1, rows, -1)) for z in parts])


def _weighted_by_q(log_q: Tensor, values: Tensor) -> Tensor:
    """q times the values, 0 where q is 0."""
    return torch.where(log_q > -math.inf, log_q.exp() * values, 0.0)
