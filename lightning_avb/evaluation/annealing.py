"""log p(x) by annealed importance sampling with Hamiltonian transitions, and its check by the reverse chain.

Between a start distribution r(z) and the function f(z) with the unknown integral Z, here p(x, z) with Z = p(x), lies
the path f_b(z) = r(z)^(1 - b) f(z)^b, b from 0 to 1. A chain starts with z_0 ~ r. For b_0 = 0 < b_1 < ... < b_T = 1

    log w += (b_t - b_{t-1}) (log f(z_{t-1}) - log r(z_{t-1})),      z_t ~ K_t(z_{t-1}),

where K_t leaves f_{b_t} invariant, gives E[w] = Z whether or not the chains mix (Neal 2001), so that the logarithm of
the mean weight is a lower bound of log p(x) in expectation. T = 1 is importance weighting. The reverse chain, from an
exact draw of the posterior, gives E[w] = 1 / Z and with it an upper bound (Grosse et al. 2015).

K_t is one step of Hamiltonian Monte Carlo, see `hamiltonian`.

Step sizes are tuned on pilot rows and then fixed: an adapting kernel would leave no distribution invariant, and a row's
estimate would depend on other rows.

From the prior, in the coordinates of z, the sigmoid schedule is much better. From a fitted proposal the schedule hardly
matters, but its `scale_tril` does: it makes one step size suit all rows. Few leapfrog steps (1 to 3) and many
temperatures are better than the reverse at the same cost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.nn.functional import interpolate

from .. import noise
from ..errors import ConfigurationError, at_least
from ..objectives import log_mean_exp
from .hamiltonian import AnnealingPath
from .importance import CHUNK, LogDensity, effective_samples
from .inputs import Decoder, Prior, as_prior, as_row_distribution


class AnnealingSettings(NamedTuple):
    """The settings of an annealing run, from `tune`.

    Attributes:
        betas: b_0 = 0 to b_T = 1.
        step_sizes: of the leapfrog at each of them; those at the ends are not used.
        leapfrogs: leapfrog steps of a transition.
    """

    betas: tuple[float, ...]
    step_sizes: tuple[float, ...]
    leapfrogs: int

    @property
    def evaluations(self) -> int:
        """Gradients of log f per chain."""
        return 1 + (len(self.betas) - 2) * self.leapfrogs


def schedule(steps: int, kind: Literal["linear", "sigmoid"] = "sigmoid", sharpness: float = 4.0) -> tuple[float, ...]:
    """b_0 = 0 to b_T = 1.

    Args:
        steps: T; there are T - 1 transitions between them.
        kind: `linear`, or `sigmoid`: dense at both ends (Wu et al. 2016, section 2.2).
        sharpness: the sigmoid goes from -sharpness to sharpness.

    Raises:
        ConfigurationError: fewer than one step, or no such kind.
    """
    at_least(1, steps=steps)
    line = torch.linspace(-1, 1, steps + 1, dtype=torch.float64)
    if kind == "sigmoid":
        line = torch.sigmoid(sharpness * line)
    elif kind != "linear":
        raise ConfigurationError(f"schedule: {kind!r} is neither 'linear' nor 'sigmoid'")
    return tuple(((line - line[0]) / (line[-1] - line[0])).tolist())


class AnnealedEstimate(NamedTuple):
    """The results of annealing.

    Attributes:
        log_weight: `(chains, batch)`, in nats. Weighted by it, `states` are draws of p(z|x); see `resample`.
        states: `(chains, batch, dim)`, where the chains ended.
        acceptance: `(batch,)`, the share of accepted transitions; 1 where there was none.
    """

    log_weight: Tensor
    states: Tensor
    acceptance: Tensor

    @property
    def bound(self) -> Tensor:
        """The logarithm of the mean weight, `(batch,)`: at most log p(x) in expectation."""
        return log_mean_exp(self.log_weight)

    @property
    def effective_chains(self) -> Tensor:
        """(sum w)^2 / sum w^2, `(batch,)`."""
        return effective_samples(self.log_weight)

    @property
    def standard_error(self) -> Tensor:
        """Of `bound`, `(batch,)`, by the jackknife: from the bounds with each chain left out; nan of a single chain.

        To first order it is the standard deviation of the weights divided by their mean and the root of their number.
        If one chain has nearly all the weight, that formula gives at most 1 nat; the jackknife grows without limit.
        """
        chains = len(self.log_weight)
        if chains < 2:
            return torch.full_like(self.bound, math.nan)
        itself = torch.eye(chains, dtype=torch.bool, device=self.log_weight.device).unsqueeze(-1)
        others = self.log_weight.unsqueeze(0).masked_fill(itself, -math.inf).logsumexp(1)
        return ((chains - 1) * others.var(0, correction=0)).sqrt()


class BidirectionalBounds(NamedTuple):
    """Bounds of log p(x) from both sides, `(batch,)` each, in nats.

    Attributes:
        lower: in expectation at most log p(x).
        upper: in expectation at least log p(x).
    """

    lower: Tensor
    upper: Tensor

    def summary(self) -> dict[str, tuple[float, float]]:
        """Mean and standard error over the rows of lower, upper and gap = upper - lower."""
        columns = {"lower": self.lower, "upper": self.upper, "gap": self.upper - self.lower}
        return {name: (c.mean().item(), c.std().item() / math.sqrt(len(c))) for name, c in columns.items()}


def annealed_importance_sampling(
    start: Distribution,
    log_target: LogDensity,
    settings: AnnealingSettings,
    chains: int,
    scale_tril: Tensor | None = None,
    chunk: int = CHUNK,
) -> AnnealedEstimate:
    """Annealed importance sampling from `start` to `log_target`.

    Args:
        start: r(z), `batch_shape` `(batch,)`: a proposal, or `prior().expand((batch,))`. `sample` and a differentiable
            `log_prob` are used.
        log_target: log f(z), differentiable; see `importance.log_joint`.
        settings: from `tune`.
        chains: independent chains per row.
        scale_tril: `(batch, dim, dim)`, the matrix L of every row; None: the identity.
        chunk: pairs (chain, row) per call of `log_target`; only memory depends on it.

    Raises:
        ConfigurationError: no chains, or a start without one distribution per row.
    """
    start = as_row_distribution(start, "start")
    z = start.sample((at_least(1, chains=chains),))
    return _anneal(AnnealingPath(start, log_target, scale_tril, chunk), z, settings)


def bidirectional(
    start: Distribution,
    log_target: LogDensity,
    exact: Tensor,
    settings: AnnealingSettings,
    chains: int,
    scale_tril: Tensor | None = None,
    chunk: int = CHUNK,
) -> BidirectionalBounds:
    """Bidirectional Monte Carlo (Grosse et al. 2015, 2016): log p(x) from below and from above.

    It checks a setting (schedule, step sizes, number of chains) on simulated data. There the two means enclose the mean
    of log p(x) in expectation, so that their difference limits the error of both. Other data have no exact posterior
    draws, and therefore no upper bound; that a setting works as well there is an assumption. The rows are independent:
    `BidirectionalBounds.summary` has standard errors.

    Args:
        start, log_target, settings, chains, scale_tril, chunk: see `annealed_importance_sampling`; for the x of
            `simulate`. A proposal may depend on x, not on `exact`.
        exact: `(batch, dim)`, one draw of p(z|x) for every row: the z of `simulate`.
    """
    start = as_row_distribution(start, "start")
    path = AnnealingPath(start, log_target, scale_tril, chunk)
    forward = _anneal(path, start.sample((at_least(1, chains=chains),)), settings)
    backward = settings._replace(betas=settings.betas[::-1], step_sizes=settings.step_sizes[::-1])
    reverse = _anneal(path, exact.expand(chains, *exact.shape), backward)
    return BidirectionalBounds(forward.bound, -reverse.bound)


@torch.no_grad()
def simulate(decoder: Decoder, prior: Prior, rows: int, seed: int) -> tuple[Tensor, Tensor]:
    """Data simulated from the model, with their z, which are exact draws of p(z|x), for `bidirectional`.

    Args:
        decoder: z `(rows, dim)` -> p(x|z).
        prior: p(z), or a module or function whose call gives it.
        rows: their number.
        seed: of the draws; the states of torch's generators do not change.

    Returns:
        z `(rows, dim)` and x `(rows, *data_shape)`.
    """
    with noise.torch_seeded(seed, "simulate"):
        z = as_prior(prior).sample((at_least(1, rows=rows),))
        return z, decoder(z).sample()


def tune(
    start: Distribution,
    log_target: LogDensity,
    betas: Sequence[float],
    leapfrogs: int = 2,
    chains: int = 4,
    scale_tril: Tensor | None = None,
    acceptance: float = 0.65,
    knots: int = 12,
    transitions: int = 20,
    chunk: int = CHUNK,
) -> AnnealingSettings:
    """Step sizes for all rows, with the desired acceptance on pilot rows.

    Chains of the pilot rows pass `knots` temperatures spread evenly over the schedule. At each, the logarithm of the
    step size is adapted to the mean acceptance of all chains (Robbins & Monro 1951); between them it is interpolated.

    Args:
        start, log_target, scale_tril, chunk: see `annealed_importance_sampling`, for the pilot rows: a few dozen
            typical rows. With `scale_tril` a step size is relative to the row's own scale.
        betas: from `schedule`.
        leapfrogs: leapfrog steps of a transition.
        chains: per pilot row.
        acceptance: desired acceptance; 0.65 is optimal in high dimensions (Beskos et al. 2013).
        knots: temperatures at which to tune; at least 2.
        transitions: at each of them.

    Raises:
        ConfigurationError: an argument out of range.
    """
    at_least(1, leapfrogs=leapfrogs)
    at_least(1, chains=chains)
    at_least(2, knots=knots)
    at_least(1, transitions=transitions)
    if not 0 < acceptance < 1:
        raise ConfigurationError(f"acceptance: {acceptance} is not a share of accepted transitions between 0 and 1")
    start = as_row_distribution(start, "start")
    path = AnnealingPath(start, log_target, scale_tril, chunk)
    point, log_step, log_steps = path(start.sample((chains,))), math.log(0.5), []
    for beta in _resized(betas, knots):
        visited = []
        for i in range(transitions):
            point, rate = path.transition(point, beta, math.exp(log_step), leapfrogs)
            log_step += 2 / math.sqrt(1 + i) * (rate.mean().item() - acceptance)
            visited.append(log_step)
        log_step = sum(visited[transitions // 2 :]) / len(visited[transitions // 2 :])
        log_steps.append(log_step)
    step_sizes = [math.exp(step) for step in _resized(log_steps, len(betas))]
    return AnnealingSettings(tuple(betas), tuple(step_sizes), leapfrogs)


def _resized(values: Sequence[float], count: int) -> list[float]:
    """The values, resampled to `count` by linear interpolation."""
    line = torch.tensor(values, dtype=torch.float64).view(1, 1, -1)
    return interpolate(line, count, mode="linear", align_corners=True).flatten().tolist()


@torch.no_grad()
def _anneal(path: AnnealingPath, z: Tensor, settings: AnnealingSettings) -> AnnealedEstimate:
    """The chains along the temperatures of `settings`, forwards or backwards."""
    betas, point = settings.betas, path(z)
    log_weight = torch.zeros_like(point.log_start, dtype=torch.float64)
    acceptance = torch.zeros_like(log_weight)
    for t in range(1, len(betas)):
        log_weight += (betas[t] - betas[t - 1]) * (point.log_target - point.log_start)
        if t < len(betas) - 1:
            point, rate = path.transition(point, betas[t], settings.step_sizes[t], settings.leapfrogs)
            acceptance += rate
    transitions = len(betas) - 2
    acceptance = acceptance.mean(0) / transitions if transitions else acceptance.mean(0) + 1
    return AnnealedEstimate(log_weight.to(z.dtype), point.z, acceptance.to(z.dtype))
