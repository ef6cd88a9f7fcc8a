"""A distribution along a spiral."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from .. import noise


class SwissRoll(Distribution):
    """The spiral `radius (t / end) (cos t, sin t)`, 0 < t < end = 2 pi turns, with normal noise across it.

    Draws are uniform along the length of the spiral. It has no density.

    Args:
        begin, stop: `(batch,)` or `()`, where the section of the spiral for a row begins and stops, as shares of its
            length.
        turns: the number of turns.
        radius: distance of the end from the origin.
        width: standard deviation of the noise, at right angles to the spiral.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}  # type: ignore[assignment]
    support = constraints.real_vector

    def __init__(self, begin: Tensor, stop: Tensor, turns: float, radius: float, width: float) -> None:
        self.begin, self.stop, self.turns, self.radius, self.width = begin, stop, turns, radius, width
        super().__init__(begin.shape, torch.Size([2]), validate_args=False)

    @torch.no_grad()
    def sample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        eps = noise.normal((*sample_shape, *self.batch_shape, 2), self.begin)
        end = 2 * math.pi * self.turns
        length = _spiral_length(eps.new_full((), end))
        t = _spiral_angle(length * torch.lerp(self.begin, self.stop, torch.special.ndtr(eps[..., 0])))
        # In polar coordinates the spiral has the direction (1, t), and its normal is (-t, 1).
        tangential = self.width * eps[..., 1] / (1 + t.square()).sqrt()
        radial = self.radius / end * t - t * tangential
        cos, sin = t.cos(), t.sin()
        return torch.stack([radial * cos - tangential * sin, radial * sin + tangential * cos], -1)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> SwissRoll:
        begin, stop = self.begin.expand(tuple(batch_shape)), self.stop.expand(tuple(batch_shape))
        return SwissRoll(begin, stop, self.turns, self.radius, self.width)


def _spiral_length(t: Tensor) -> Tensor:
    """The length of the spiral `t (cos t, sin t)` from the origin to the angle t."""
    return 0.5 * (t * (1 + t.square()).sqrt() + t.asinh())


def _spiral_angle(length: Tensor) -> Tensor:
    """The inverse of `_spiral_length`, by Newton's method from above, which converges since the function is convex."""
    t = (2 * length).sqrt()
    for _ in range(5):
        t = t - (_spiral_length(t) - length) / (1 + t.square()).sqrt()
    return t
