"""log p(x) by importance weighting, and what all estimators from weights share.

Every estimator here and in `annealing` is a function of two things: a distribution that can be drawn from, and the
logarithm of the function whose integral over z is asked for, z -> log f(z). With f(z) = p(x|z) p(z), which `log_joint`
gives, the integral is p(x); with the likelihood of the visible pixels alone it is the probability of those, and the
weighted draws are draws of the hidden ones' z.

An unbiased estimate w of p(x), E[w] = p(x), gives log w with E[log w] <= log p(x): a lower bound in expectation, whose
single values may lie above.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .. import noise
from ..errors import at_least
from ..objectives import log_mean_exp
from .inputs import Decoder, Prior, Proposal, drawn_with_density, prior_of, score

LogDensity = Callable[[Tensor], Tensor]
"""z `(samples, batch, dim)` -> the logarithm of a function of z, one for every row, `(samples, batch)`."""


BLOCK = 64
"""Draws of one call of a distribution: a constant, as noise is a function of the row and the number of the call."""

CHUNK = 4096
"""Pairs (draw, row) of one call of the decoder, unless the caller says otherwise: a matter of memory alone."""


def log_joint(decoder: Decoder, prior: Prior, x: Tensor) -> LogDensity:
    """z -> log p(x|z) + log p(z).

    Args:
        decoder: z `(samples, batch, dim)` -> p(x|z); for a decoder that takes labels, `lambda z: decoder(z, y)`.
        prior: p(z), or a module or function whose call gives it.
        x: `(batch, *data_shape)`.

    Raises:
        ConfigurationError: the prior is no distribution of vectors; when the result is called, what the decoder gave is
            no distribution over x with one log-probability for every z, or x is no value of it.
    """
    p = prior_of(prior)
    return lambda z: score(decoder(z), x, z.shape[:-1]) + p.log_prob(z)


class ImportanceEstimate(NamedTuple):
    """What importance weighting says of every row; all `(batch,)`.

    Attributes:
        bound: log 1/K sum_k w_k with w_k = p(x, z_k) / q(z_k|x), in nats: at most log p(x) in expectation. Its
            standard error is about (1 / effective_samples - 1 / K)^(1/2), if that is small.
        effective_samples: (sum w)^2 / sum w^2, from 1 to K. Where it is a handful, the bound is far from log p(x).
        elbo: the mean of log w: the evidence lower bound with the proposal as posterior.
    """

    bound: Tensor
    effective_samples: Tensor
    elbo: Tensor


@torch.no_grad()
def importance_weighting(
    proposal: Proposal, log_target: LogDensity, samples: int, chunk: int = CHUNK
) -> ImportanceEstimate:
    """The importance-weighted bound (Burda et al. 2016, equation 8).

    Args:
        proposal: its density must be exact: an encoder's q, a distribution of torch's with `batch_shape` `(batch,)`, or
            for a q without density one of `proposals`.
        log_target: see `log_joint`.
        samples: K, draws a row.
        chunk: pairs (draw, row) of one call of `log_target`; changes memory and nothing else.

    Raises:
        ConfigurationError: `samples` or `chunk` is not positive; the proposal has no density, or not one for every row.
    """
    at_least(1, samples=samples)
    draw, parts = drawn_with_density(proposal), []
    for start in range(0, samples, BLOCK):
        z, log_q = draw((min(BLOCK, samples - start),))
        parts.append(evaluate(log_target, z, chunk) - log_q)
    log_weight = torch.cat(parts)
    return ImportanceEstimate(log_mean_exp(log_weight), effective_samples(log_weight), log_weight.mean(0))


def evaluate(log_target: LogDensity, z: Tensor, chunk: int) -> Tensor:
    """The log-density of z `(samples, batch, dim)`, with at most `chunk` pairs (draw, row) a call, but whole draws."""
    at_least(1, chunk=chunk)
    return torch.cat([log_target(part) for part in z.split(max(1, chunk // z.shape[1]))])


def effective_samples(log_weight: Tensor) -> Tensor:
    """(sum_k w_k)^2 / sum_k w_k^2 over the first dimension (Kong 1992): as many equal weights are worth as much."""
    return (2 * log_weight.logsumexp(0) - (2 * log_weight).logsumexp(0)).exp()


def resample(z: Tensor, log_weight: Tensor, draws: int) -> Tensor:
    """Draws of the target's normalised density, to within the error of the weights: some of z, as often as w says.

    Args:
        z: `(samples, batch, dim)`.
        log_weight: `(samples, batch)`.
        draws: how many a row, with replacement.

    Returns:
        `(draws, batch, dim)`.
    """
    cumulative = log_weight.softmax(0).cumsum(0).T.contiguous()
    uniform = torch.special.ndtr(noise.normal((draws, z.shape[1], 1), z)).squeeze(-1).T.contiguous()
    chosen = torch.searchsorted(cumulative, uniform * cumulative[:, -1:]).clamp_(max=len(z) - 1).T
    return z.gather(0, chosen.unsqueeze(-1).expand(-1, -1, z.shape[-1]))
