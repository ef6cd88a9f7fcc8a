"""The normal distribution nearest to a log-density, where a posterior's sampler begins."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .. import noise


class Normal(NamedTuple):
    """N(loc, scale_tril scale_tril^T); `(dim,)` and `(dim, dim)`. `arrived`: whether the iteration has converged."""

    loc: Tensor
    scale_tril: Tensor
    arrived: bool = True


@torch.no_grad()
def nearest_normal(
    log_density: Callable[[Tensor], Tensor],
    dim: int,
    like: Tensor,
    starts: int = 6,
    reach: float = 3.0,
    steps: int = 300,
    draws: int = 128,
    stride: float = 10.0,
) -> Normal:
    """The normal distribution with the moments of a mixture of local solutions, the nearest to p from each start.

    N(m, L L^T) with the least KL(N, p) has E[w] = 0 and E[w eps^T] = -I with w = L^T grad log p at z = m + L eps
    (Opper & Archambeau 2009). The natural gradient moves m by rho L E[w], and L by rho/2 L (I + E[w eps^T]): Newton's
    step if p is normal and L right. Lengths are in standard deviations of N, and long steps are cut. This needs no
    learning rate in the units of z: it finds a normal target dozens of units away, or a thousandth as wide.

    If p has several modes, such a minimum lies in one of them. The first iteration starts at N(0, I), the others at
    N(reach eps, I), and their results are weighted by their evidence bounds. If no draw has a finite density and slope,
    or a step overflows, an iteration stays and narrows, and has no weight if it ends like this.

    Args:
        log_density: z `(..., dim)` -> `(...)`, differentiable.
        dim: of z.
        like: gives dtype and device.
        starts: their number.
        reach: standard deviation of their locations.
        steps: iterations; rho falls over the second half.
        draws: per step and start, in pairs eps and -eps.
        stride: the longest step, in standard deviations, before it is multiplied by rho.
    """
    loc = reach * noise.normal((starts, dim), like)
    loc[0] = 0
    identity = torch.eye(dim, dtype=like.dtype, device=like.device)
    tril, bound, active_steps = identity.expand(starts, dim, dim), like.new_zeros(starts), like.new_zeros(starts)
    for step in range(steps):
        rho = 0.3 * min(1.0, 2 * (1 - step / steps))
        eps = noise.normal((draws // 2, starts, dim), like).transpose(0, 1)
        eps = torch.cat([eps, -eps], 1)
        with torch.enable_grad():
            z = (loc.unsqueeze(1) + eps @ tril.mT).requires_grad_()
            value = log_density(z)
            usable = torch.isfinite(value)
            (slope,) = torch.autograd.grad(value.where(usable, value.new_zeros(())).sum(), z)
        usable &= torch.isfinite(slope).all(-1)
        share = usable.to(z) / usable.sum(1, keepdim=True).clamp_min(1)
        w = (slope.where(usable.unsqueeze(-1), slope.new_zeros(())) @ tril) * share.unsqueeze(-1)
        shift, tril_update = w.sum(1), identity + eps.mT @ w
        tril_update = 0.5 * (tril_update + tril_update.mT)
        active = usable.any(1) & torch.isfinite(torch.cat([shift, tril_update.flatten(1)], 1)).all(1)
        shift = shift.where(active[:, None], shift.new_zeros(()))
        tril_update = tril_update.where(active[:, None, None], -identity / rho)
        excess = shift.norm(dim=-1, keepdim=True) / stride
        shift = shift / excess.clamp_min(1)
        tril_update = tril_update * (1 / torch.linalg.matrix_norm(tril_update, 2)).clamp_max(1)[:, None, None]
        average = (value.where(usable, value.new_zeros(())) * share).sum(1)
        reached = average + tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        active_steps = active_steps + active
        bound = bound.lerp(reached, (1 / active_steps.clamp_min(1)).clamp_min(0.05)).where(active, bound)
        loc = loc + rho * (tril @ shift.unsqueeze(-1)).squeeze(-1)
        # L (I + rho/2 B) is a square root of the new covariance; its triangle is another.
        tril = _triangle(tril @ (identity + 0.5 * rho * tril_update))
    weight = bound.where(active & torch.isfinite(bound), -torch.inf).softmax(0)[:, None, None]
    mean = (weight.squeeze(-1) * loc).sum(0)
    off = (loc - mean).unsqueeze(-1)
    arrived = bool((weight.flatten() * (excess.flatten() <= 1)).sum() > 0.5)
    return Normal(mean, cholesky_or_nan((weight * (tril @ tril.mT + off @ off.mT)).sum(0)), arrived)


def cholesky_or_nan(covariance: Tensor) -> Tensor:
    """The Cholesky factor of a covariance; nan if it is not positive definite."""
    tril, wrong = torch.linalg.cholesky_ex(covariance)
    return tril.where(wrong == 0, torch.nan)


def _triangle(root: Tensor) -> Tensor:
    """The lower triangle with a positive diagonal of the same covariance."""
    lower = torch.linalg.qr(root.mT).R.mT
    return lower * lower.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)
