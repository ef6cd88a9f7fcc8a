"""Draws of a sampler, corrected by importance weights: for remaining errors in tails and shares of modes.

The default sampler is a mixture of normal distributions, one for every value of its mixing noise. K of these, drawn
once and then fixed, have a density in closed form,

    r(z) = 1/K sum_k N(z; m(e_k), s_k^2),

whose draws z, weighted by p(z) / r(z), follow p. `WIDENINGS` makes r wider than the sampler: some components have more
extreme noise and larger scales, so that r covers tails that the sampler's draws miss (a defensive mixture, Hesterberg
1995). Draws are then resampled by their weights (Rubin 1988) and moved by some Hamiltonian transitions that leave p
invariant, which separates repeated draws (Gilks & Berzuini 2001).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from .. import noise
from ..distributions import DiagonalNormal, SemiImplicit, pairwise_log_prob
from ..errors import ConfigurationError, at_least
from ..targets.calls import TolerantDensity
from .chains import Chains
from .importance import effective_samples
from .pareto import pareto_smoothed

if TYPE_CHECKING:
    from ..models import Posterior

WIDENINGS = ((0.6, 1.0, 1.0), (0.2, 1.4, 1.5), (0.2, 2.0, 2.0))
"""Groups of components: their share, and the factors on the sampler's noise and on its scales."""

PROPOSALS, COMPONENTS = 10, 2048
"""Proposals per draw, and components of their density."""

TUNING_DRAWS = 1000
"""Draws for tuning the chains, even if fewer are asked for."""

LEAST_EFFECTIVE = 0.01
"""The smallest effective share of the proposals: with less, most draws are copies of a few."""


class Resampled(NamedTuple):
    """Draws by importance resampling.

    Attributes:
        z: `(count, batch, dim)`, in the unconstrained coordinates.
        effective: (sum w)^2 / sum w^2 as a share of the proposals, `(batch,)`.
        k: shape of the tail of the weights, see `ParetoSmoothed`, `(batch,)`.
    """

    z: Tensor
    effective: Tensor
    k: Tensor


@torch.no_grad()
def resample_posterior(
    model: Posterior, count: int, x: Tensor | None = None, seed: int = 0, transitions: int = 10, leapfrogs: int = 5
) -> Resampled:
    """Draws of a posterior whose sampler is a `PooledMixtureEncoder`, resampled by their importance weights.

    Each draw costs `PROPOSALS` log-densities, with `COMPONENTS` normal densities each, and (transitions + 1) leapfrogs
    gradients.

    Args:
        model: in its evaluation mode.
        count: of draws.
        x: data sets of a family, see `Posterior.draw_z`.
        seed: of all noise.
        transitions, leapfrogs: of the chains from the resampled draws; without transitions some draws are repeated.

    Raises:
        ConfigurationError: a sampler of another kind, see also `Posterior.draw_z`; or fewer effective proposals than
            the share `LEAST_EFFECTIVE`.
    """
    at_least(1, count=count)
    with noise.use(noise.seeded(seed, "resample")):
        found = [_resampled(model, count, row, transitions, leapfrogs) for row in model.checked_data_sets(x).split(1)]
    u, effective, k = zip(*found, strict=True)
    return Resampled(model.to_z(torch.stack(u, 1)), torch.tensor(effective), torch.tensor(k))


def _resampled(
    model: Posterior, count: int, x: Tensor, transitions: int, leapfrogs: int
) -> tuple[Tensor, float, float]:
    """Draws for one data set in the sampler's coordinates, `(count, dim)`, the effective share and k."""
    q, log_density = model.encoder(x), TolerantDensity(model.target)

    def log_p(u: Tensor) -> Tensor:
        rows = x if model.amortised else None
        parts = [log_density(model.to_z(part.unsqueeze(1)), rows).squeeze(1) for part in u.split(1 << 16)]
        return torch.cat(parts) + model.scale_tril.diagonal().log().sum()

    if not isinstance(q, SemiImplicit):
        sampler = type(model.encoder).__name__
        raise ConfigurationError(f"resample: needs the density of a PooledMixtureEncoder, and the sampler is {sampler}")
    u, log_r = _proposals(q, PROPOSALS * max(count, TUNING_DRAWS))
    log_weights = (log_p(u) - log_r).double().nan_to_num(nan=-math.inf, posinf=math.inf)
    weights, k = pareto_smoothed(log_weights)
    effective = effective_samples(log_weights).item() / len(u)
    if effective < LEAST_EFFECTIVE:
        raise ConfigurationError(
            f"resample: {effective:.2%} of the proposals are effective, and {LEAST_EFFECTIVE:.0%} is the least; the "
            "sampler is too far from the target: train it longer, or take its draws as they are"
        )
    u = _resample_by_weight(u, weights)
    if transitions:
        chains = Chains(log_p, u, leapfrogs)
        chains.tune(u[:1000])
        u = chains.run(u[:count], transitions)[1].z
    log_density.warn()
    return u[:count], effective, k


def _proposals(q: SemiImplicit, count: int) -> tuple[Tensor, Tensor]:
    """Draws of r, `(count, dim)`, and their log-density."""
    loc, scale = [], []
    for share, stretch, widen in WIDENINGS:
        with noise.scaled(stretch):
            components = q.components(round(share * COMPONENTS))
        loc.append(components.loc)
        scale.append(widen * components.scale)
    r = DiagonalNormal(torch.cat(loc), torch.cat(scale))
    every = torch.arange(count, device=r.loc.device) % len(r.loc)
    u = r.loc[every, 0] + r.scale[every, 0] * noise.normal((count, r.loc.shape[-1]), r.loc)
    log_r = [pairwise_log_prob(r, part.unsqueeze(1)).logsumexp(1).squeeze(1) for part in u.split(4096)]
    return u, torch.cat(log_r) - math.log(len(r.loc))


def _resample_by_weight(u: Tensor, log_weights: Tensor) -> Tensor:
    """A tenth of the proposals by their weights, each as often as its weight says to within one, in random order."""
    count = len(u) // PROPOSALS
    start, order = noise.normal((1, 1), u), noise.normal((count, 1), u)
    places = (torch.arange(count).to(log_weights) + torch.special.ndtr(start.squeeze()).to(log_weights)) / count
    chosen = torch.searchsorted(log_weights.exp().cumsum(0), places).clamp_max(len(u) - 1)
    return u[chosen[order.flatten().argsort()]]
