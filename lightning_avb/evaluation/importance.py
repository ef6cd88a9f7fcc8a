"""log p(x) by importance weighting, and functions for all estimators with weights.

Every estimator here and in `annealing` is a function of two things: a distribution with draws, and the logarithm of
the function to integrate over z, z -> log f(z). With f(z) = p(x|z) p(z), which `log_joint`
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
from .inputs import Decoder, Prior, Proposal, as_prior, checked_log_prob, draws_with_log_prob

LogDensity = Callable[[Tensor], Tensor]
"""z `(samples, batch, dim)` -> the logarithm of a function of z, one for every row, `(samples, batch)`."""


DRAWS_PER_CALL = 64
"""Draws in one call of a distribution. It is constant, since noise is a function of the row and the call's number."""

CHUNK = 4096
"""Pairs (draw, row) per call of the decoder, by default; only memory depends on it."""


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
    p = as_prior(prior)
    return lambda z: checked_log_prob(decoder(z), x, z.shape[:-1]) + p.log_prob(z)


class ImportanceEstimate(NamedTuple):
    """The results of importance weighting, `(batch,)` each.

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
        samples: K, draws per row.
        chunk: pairs (draw, row) per call of `log_target`; only memory depends on it.

    Raises:
        ConfigurationError: `samples` or `chunk` is not positive; the proposal has no density, or not one for every row.
    """
    at_least(1, samples=samples)
    draw, parts = draws_with_log_prob(proposal), []
    for start in range(0, samples, DRAWS_PER_CALL):
        z, log_q = draw((min(DRAWS_PER_CALL, samples - start),))
        parts.append(evaluate_in_chunks(log_target, z, chunk) - log_q)
    log_weight = torch.cat(parts)
    return ImportanceEstimate(log_mean_exp(log_weight), effective_samples(log_weight), log_weight.mean(0))


def evaluate_in_chunks(log_target: LogDensity, z: Tensor, chunk: int) -> Tensor:
    """The log-density of z `(samples, batch, dim)`, in calls of at most `chunk` pairs (draw, row)."""
    at_least(1, chunk=chunk)
    return torch.cat([log_target(part) for part in z.split(max(1, chunk // z.shape[1]))])


def effective_samples(log_weight: Tensor) -> Tensor:
    """(sum_k w_k)^2 / sum_k w_k^2 over the first dimension (Kong 1992): the equivalent number of equal weights."""
    return (2 * log_weight.logsumexp(0) - (2 * log_weight).logsumexp(0)).exp()


def resample(z: Tensor, log_weight: Tensor, draws: int) -> Tensor:
    """Draws of the target's normalised density, up to the error of the weights: z chosen in proportion to w.

    Args:
        z: `(samples, batch, dim)`.
        log_weight: `(samples, batch)`.
        draws: number per row, with replacement.

    Returns:
        `(draws, batch, dim)`.
    """
    cumulative = log_weight.softmax(0).cumsum(0).T.contiguous()
    uniform = torch.special.ndtr(noise.normal((draws, z.shape[1], 1), z)).squeeze(-1).T.contiguous()
    chosen = torch.searchsorted(cumulative, uniform * cumulative[:, -1:]).clamp_(max=len(z) - 1).T
    return z.gather(0, chosen.unsqueeze(-1).expand(-1, -1, z.shape[-1]))
