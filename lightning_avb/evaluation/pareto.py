"""Checks of draws by importance weights, given the log-density that they should follow, up to a constant.

A density f is fitted to the draws, and new draws z ~ f get the weights w = p(z) / f(z):

    E_f[ log w ] = log Z - KL(f, p / Z),        E_f[ w ] = Z,

with the evidence Z, the integral of p. The shape k of the weights' tail says whether the second can be trusted.

Regions without draws of p and f are not detected: with draws of one of two distant modes, k is small, the weights are
nearly equal, and the evidence is that of one mode. Draws of several methods, or another estimate of the evidence, can
show it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from zuko.transforms import ComposedTransform, LULinearTransform

from .. import noise
from ..distributions import Flow
from ..errors import ConfigurationError, at_least
from ..networks.flows import AutoregressiveFlow
from ..objectives import log_mean_exp
from .importance import effective_samples
from .proposals import DefensiveStudent

FITTED_SHARE = 0.8
"""Share of the draws to which a flow is fitted; the others are compared with it."""

HELD_OUT = 0.1
"""Share of the draws of a fit that are held out to choose the epoch."""


class ParetoSmoothed(NamedTuple):
    """Smoothed weights and the shape of their tail.

    Attributes:
        log_weights: `(samples,)`; their exponentials sum to 1.
        k: below min(1 - 1 / log10(samples), 0.7) the estimates from the weights have the error that effective samples
            suggest; above 0.7 they are not to be trusted; from 1 the mean of the weights need not exist. -inf where the
            largest weights are equal: there is no tail. inf where fewer than 5 weights make it: it cannot be fitted.
    """

    log_weights: Tensor
    k: float


@torch.no_grad()
def pareto_smoothed(log_weights: Tensor) -> ParetoSmoothed:
    """Pareto-smoothed importance weights (Vehtari et al. 2024).

    The largest min(0.2 n, 3 n^(1/2)) of the n weights are replaced by the quantiles of a generalised Pareto
    distribution that is fitted to them, at most the largest weight.

    Args:
        log_weights: `(samples,)`, independent, in nats, up to a constant; -inf: a weight of 0.

    Raises:
        ConfigurationError: no vector of weights, or weights that are nan or inf or all 0.
    """
    if log_weights.ndim != 1 or not len(log_weights):
        raise ConfigurationError(f"log_weights: shape {tuple(log_weights.shape)} is not (samples,)")
    wrong = log_weights.isnan() | (log_weights == math.inf)
    if wrong.any() or (log_weights == -math.inf).all():
        what = "all weights are 0" if not wrong.any() else f"weight {int(wrong.nonzero()[0])} is no finite number"
        raise ConfigurationError(f"log_weights: {what}")
    n = len(log_weights)
    ordered, order = (log_weights.double() - log_weights.max()).sort()
    tail = min(math.ceil(min(0.2 * n, 3 * math.sqrt(n))), n - 1)
    cutoff = ordered[n - tail - 1].exp() if tail else ordered.new_tensor(1.0)
    excess = ordered[n - tail :].exp() - cutoff
    if not (excess > 0).any():
        k = -math.inf
    elif (excess > 0).sum() < 5:
        k = math.inf
    else:
        excess = excess[excess > 0]
        k, scale = fit_generalised_pareto(excess)
        level = (torch.arange(len(excess)).to(excess) + 0.5) / len(excess)
        quantiles = -torch.log1p(-level) if k == 0 else torch.expm1(-k * torch.log1p(-level)) / k
        ordered[n - len(excess) :] = (cutoff + scale * quantiles).log().clamp(max=0)
    smoothed = torch.empty_like(ordered).scatter_(0, order, ordered)
    return ParetoSmoothed((smoothed - smoothed.logsumexp(0)).to(log_weights), k)


def fit_generalised_pareto(excess: Tensor) -> tuple[float, float]:
    """Shape k and scale s of the distribution with P(excess > e) = (1 + k e / s)^(-1/k).

    The estimate is the posterior mean of b = -k / s under the prior of Zhang & Stephens 2009, over
    30 + n^(1/2) values; then k is pulled towards 0.5 as if by 10 more excesses (Vehtari et al. 2024).

    Args:
        excess: `(n,)`, positive, ascending.
    """
    n = len(excess)
    count = 30 + int(math.sqrt(n))
    spread = 1 - (count / (torch.arange(count).to(excess) + 0.5)).sqrt()
    b = 1 / excess[-1] + spread / (3 * excess[int(n / 4 + 0.5) - 1])
    shape = torch.log1p(-b.unsqueeze(1) * excess).mean(1)
    log_likelihood = n * ((-b / shape).log() - shape - 1)
    mean = (log_likelihood.softmax(0) * b).sum()
    k = torch.log1p(-mean * excess).mean().item()
    return (n * k + 10 * 0.5) / (n + 10), -k / mean.item()


def fit_density(
    draws: Tensor,
    transforms: int = 3,
    hidden: Sequence[int] = (64, 64),
    bins: int = 8,
    epochs: int = 30,
    batch_size: int = 512,
    learning_rate: float = 4e-3,
    seed: int = 0,
) -> Flow:
    """A neural spline flow fitted to draws by maximum likelihood; it starts as the Gaussian with their moments.

    It is trained by Adam with a cosine schedule. A tenth of the draws is held out, and the epoch with the best held-out
    likelihood is taken, or the Gaussian if no epoch is better. Beyond 5 standard deviations its tails are Gaussian.

    Args:
        draws: `(n, dim)`. The networks learn in single precision; the flow has the dtype and the device of the draws.
        transforms, hidden, bins: see `networks.AutoregressiveFlow`.
        epochs: 0: the Gaussian.
        batch_size: draws of a step.
        learning_rate: of the first step.
        seed: of the initial weights, the held-out draws and the order of the others; the states of torch's generators
            do not change.

    Raises:
        ConfigurationError: fewer than 20 draws or than 2 for every dimension, draws that are not finite or lie in a
            plane of fewer dimensions, an argument out of range.
    """
    if draws.ndim != 2 or not draws.shape[1]:
        raise ConfigurationError(f"draws: a sample of shape {tuple(draws.shape)} is not (rows, dim)")
    at_least(max(20, 2 * draws.shape[1]), draws=len(draws))
    at_least(0, epochs=epochs)
    at_least(1, batch_size=batch_size)
    if not draws.isfinite().all():
        raise ConfigurationError("draws: not all of them are finite")
    if not 0 < learning_rate < math.inf:
        raise ConfigurationError(f"learning_rate: {learning_rate} is not a positive number")
    mean, tril = _gaussian(draws)
    white = torch.linalg.solve_triangular(tril, (draws.double() - mean).T, upper=False).T.float()
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(noise.mixed_seed(seed, "fit_density"))
        flow = AutoregressiveFlow(draws.shape[1], 0, "spline", transforms, hidden, bins).to(white)
        white = white[torch.randperm(len(white)).to(white.device)]
        held_out = math.ceil(HELD_OUT * len(white))
        flow.load_state_dict(_train(flow, white[held_out:], white[:held_out], epochs, batch_size, learning_rate))
    flow = flow.to(draws).requires_grad_(False)
    transform = ComposedTransform(flow().inv, LULinearTransform(tril.to(draws)))
    return Flow(mean.to(draws), torch.ones_like(draws[0]), transform)


def _gaussian(draws: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and Cholesky factor of the covariance, in double precision."""
    draws = draws.double()
    tril, failed = torch.linalg.cholesky_ex(draws.T.cov().view(draws.shape[1], -1))
    if failed or (tril.diagonal() <= 1e-7 * draws.std(0)).any():
        raise ConfigurationError("draws: some dimension is constant, or a linear function of the others")
    return draws.mean(0), tril


def _train(
    flow: AutoregressiveFlow, x: Tensor, held_out: Tensor, epochs: int, batch_size: int, learning_rate: float
) -> dict[str, Tensor]:
    """The weights of the epoch with the highest held-out likelihood."""

    def loss(z: Tensor) -> Tensor:
        eps, ladj = flow().call_and_ladj(z)
        return (0.5 * eps.square().sum(-1) - ladj).mean()

    optimizer = torch.optim.Adam(flow.parameters(), learning_rate)
    steps = max(1, epochs * -(-len(x) // batch_size))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    with torch.no_grad():
        best_loss = loss(held_out).item()
    best = copy.deepcopy(flow.state_dict())
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).to(x.device).split(batch_size):
            optimizer.zero_grad()
            loss(x[rows]).backward()
            torch.nn.utils.clip_grad_norm_(flow.parameters(), 5.0)
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            epoch_loss = loss(held_out).item()
        if epoch_loss < best_loss:
            best_loss, best = epoch_loss, copy.deepcopy(flow.state_dict())
    return best


class DrawsDiagnosis(NamedTuple):
    """The results of new draws of a density fitted to the draws; logarithms in nats.

    Attributes:
        k: shape of the tail of the flow's weights p / flow, see `ParetoSmoothed`.
        effective_samples: of those weights, (sum w)^2 / sum w^2.
        evidence_bound: the mean of their logarithms: in expectation log Z - KL(flow, p / Z), a lower bound of log Z;
            -inf where p is 0 for a draw.
        evidence_bound_error: its standard error.
        log_evidence: log Z by importance weighting, with wider draws besides; see `diagnose_draws`.
        log_evidence_error: its standard error, (1 / effective samples - 1 / samples)^(1/2), if that is small.
        samples: number of draws of the flow.
        shortfall: log_evidence minus the mean of log p - log flow over draws to which the flow was not fitted. For
            correct draws it is in expectation -KL(p / Z, flow), at most 0 for any flow; for others it is
            KL(draws, p / Z) - KL(draws, flow).
        shortfall_error: its standard error.
        z: the new draws, including those of the wider distribution, `(n, dim)`.
        smoothed: their smoothed weights, with the shape of their tail.
    """

    k: float
    effective_samples: float
    evidence_bound: float
    evidence_bound_error: float
    log_evidence: float
    log_evidence_error: float
    samples: int
    shortfall: float
    shortfall_error: float
    z: Tensor
    smoothed: ParetoSmoothed


@torch.no_grad()
def diagnose_draws(
    draws: Tensor,
    log_density: Callable[[Tensor], Tensor],
    flow: Flow | None = None,
    samples: int = 10_000,
    share: float = 0.05,
    seed: int = 0,
) -> DrawsDiagnosis:
    """Pareto k, a bound and an estimate of the evidence, from draws and a log-density.

    k, the effective samples and the bound are of the flow alone, which is as narrow as the draws are. The estimate of
    the evidence is defensive: `share` of its draws come from a Student's t distribution with 5 degrees of freedom,
    1.2 times as wide as the draws, and all are weighted by the mixture of the two (Owen & Zhou 2000). Had k been of
    those weights, it would have been small for draws that are too narrow.

    A k above 0.7 says that the flow is too narrow somewhere: because the draws are, or because their tails are heavier
    than the flow's, which are Gaussian beyond 5 standard deviations. The bound tells these apart: of 10,000 exact draws
    of ten Student's t with 4 degrees of freedom k is 1, and the bound is 0.07 below log Z; of draws of N(0, 0.5^2 I)
    for N(0, I) in as many dimensions k is 1 too, and the bound 3.2 below. A mode that is missing from the draws is seen
    by none of these figures.

    The bound also depends on the quality of the flow. The shortfall does not: it compares the draws' mean of log p -
    log flow with the evidence, and for correct draws this mean is at least as high, for any flow.

    Args:
        draws: `(n, dim)`, independent, to be checked.
        log_density: z `(samples, dim)` -> log p(z) up to a constant, `(samples,)`; -inf where p is 0.
        flow: a density near that of the draws, fitted to other draws; None: `fit_density` of the first four fifths, and
            the shortfall is computed from the rest.
        samples: new draws, in one call of `log_density`.
        share: of the samples from the wider distribution, at most 0.5.
        seed: of the fit and of the new draws.

    Raises:
        ConfigurationError: see `fit_density`; an argument out of range; a log-density of another shape, or one that is
            nan or inf somewhere.
    """
    at_least(20, samples=samples)
    if not 0 <= share <= 0.5:
        raise ConfigurationError(f"share: {share} is not a share from 0 to 0.5")
    unseen = draws if flow is not None else draws[math.floor(FITTED_SHARE * len(draws)) :]
    flow = fit_density(draws[: math.floor(FITTED_SHARE * len(draws))], seed=seed) if flow is None else flow
    wider = round(share * samples)
    own = samples - wider
    with noise.use(noise.seeded(seed, "diagnose_draws")):
        z, log_flow = flow.rsample_and_log_prob((own,))
        log_f = log_flow
        if wider:
            mean, tril = (moment.to(draws).unsqueeze(0) for moment in _gaussian(draws))
            student = DefensiveStudent(mean, tril @ tril.mT, flow, share=0.0)
            others = student.sample((wider,)).squeeze(1)
            z, log_flow = torch.cat([z, others]), torch.cat([log_flow, flow.log_prob(others)])
            log_student = student.log_prob(z.unsqueeze(1)).squeeze(1)
            log_f = torch.logaddexp(log_flow + math.log(own / samples), log_student + math.log(wider / samples))
    log_p = log_density(z)
    if log_p.shape != (samples,):
        raise ConfigurationError(f"log_density: gives shape {tuple(log_p.shape)} for {samples} points")
    if log_p.isnan().any() or (log_p == math.inf).any() or (log_p == -math.inf).all():
        raise ConfigurationError("log_density: it is nan or inf somewhere, or -inf everywhere")
    of_flow, defensive = (log_p - log_flow)[:own].double(), (log_p - log_f).double()
    of_draws = (log_density(unseen) - flow.log_prob(unseen)).double()
    log_evidence = log_mean_exp(defensive).item()
    log_evidence_error = math.sqrt(max(0.0, 1 / effective_samples(defensive).item() - 1 / samples))
    return DrawsDiagnosis(
        pareto_smoothed(of_flow).k,
        effective_samples(of_flow).item(),
        of_flow.mean().item(),
        of_flow.std().item() / math.sqrt(own),
        log_evidence,
        log_evidence_error,
        own,
        log_evidence - of_draws.mean().item(),
        math.hypot(log_evidence_error, of_draws.std().item() / math.sqrt(len(of_draws))),
        z,
        pareto_smoothed(defensive),
    )
