"""Exact draws: by rejection sampling, and by inverting a distribution function on a grid."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .. import noise
from ..errors import at_least


def seeded_generator(seed: int) -> torch.Generator:
    """The generator of a target's exact draws, on the CPU: a function of the seed alone."""
    return torch.Generator().manual_seed(noise.mixed_seed(seed, "reference"))


def rejection_draws(propose: Callable[[int], tuple[Tensor, Tensor]], count: int, random: torch.Generator) -> Tensor:
    """Draws by rejection sampling, `(count, ...)`.

    Args:
        propose: maps a number n to n proposals `(n, ...)` and the probabilities `(n,)` with which they are accepted.
        count: number of draws.
        random: generator of the decisions.

    Raises:
        ConfigurationError: a count below 1.
    """
    at_least(1, count=count)
    kept: list[Tensor] = []
    total = 0
    while total < count:
        proposals, probability = propose(count)
        kept.append(proposals[torch.rand(count, generator=random) < probability])
        total += len(kept[-1])
    return torch.cat(kept)[:count]


def inverse_cdf_draws(grid: Tensor, log_density: Tensor, uniform: Tensor) -> Tensor:
    """Draws of densities on a line, by the inverse of their distribution functions.

    Between the points of the grid the distribution function is linear.

    Args:
        grid: `(points,)`, increasing; there should be no mass outside of it.
        log_density: `(batch, points)`, at the points of the grid, up to a constant for each row.
        uniform: `(count, batch)`, uniform numbers in (0, 1).

    Returns:
        The draws, `(count, batch)`.
    """
    density = (log_density - log_density.amax(-1, keepdim=True)).exp()
    cumulative = torch.nn.functional.pad(torch.cumulative_trapezoid(density, grid), (1, 0))
    target = uniform.T.contiguous() * cumulative[:, -1:]
    right = torch.searchsorted(cumulative, target).clamp(1, len(grid) - 1)
    below, above = cumulative.gather(-1, right - 1), cumulative.gather(-1, right)
    fraction = (target - below) / (above - below)
    return torch.lerp(grid[right - 1], grid[right], fraction).T
