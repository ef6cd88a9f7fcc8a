"""Exact draws: by rejection, and by inverting a distribution function on a grid."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .. import noise
from ..errors import at_least


def generator(seed: int) -> torch.Generator:
    """The generator of a target's exact draws: a function of the seed alone, on the CPU."""
    return torch.Generator().manual_seed(noise.mixed_seed(seed, "reference"))


def accepted(propose: Callable[[int], tuple[Tensor, Tensor]], count: int, random: torch.Generator) -> Tensor:
    """Rejection sampling, `(count, ...)`.

    Args:
        propose: maps a number n to n proposals `(n, ...)` and the probabilities `(n,)` with which they are accepted.
        count: how many draws.
        random: decides.

    Raises:
        ConfigurationError: a count below 1.
    """
    at_least(1, count=count)
    kept: list[Tensor] = []
    found = 0
    while found < count:
        proposals, probability = propose(count)
        kept.append(proposals[torch.rand(count, generator=random) < probability])
        found += len(kept[-1])
    return torch.cat(kept)[:count]


def from_grid(grid: Tensor, log_density: Tensor, uniform: Tensor) -> Tensor:
    """Draws of densities on a line by the inverse of their distribution functions.

    Between the points of the grid the distribution function is a straight line: a histogram with that many bars.

    Args:
        grid: `(points,)`, increasing; beyond it there should be no mass.
        log_density: `(batch, points)` at them, up to a constant of the row.
        uniform: `(count, batch)`, in (0, 1).

    Returns:
        `(count, batch)`.
    """
    density = (log_density - log_density.amax(-1, keepdim=True)).exp()
    cumulative = torch.nn.functional.pad(torch.cumulative_trapezoid(density, grid), (1, 0))
    wanted = uniform.T.contiguous() * cumulative[:, -1:]
    right = torch.searchsorted(cumulative, wanted).clamp(1, len(grid) - 1)
    below, above = cumulative.gather(-1, right - 1), cumulative.gather(-1, right)
    share = (wanted - below) / (above - below)
    return torch.lerp(grid[right - 1], grid[right], share).T
