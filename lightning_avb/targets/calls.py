"""Calls of a user's log-density or simulation, which may raise."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from ..errors import ConfigurationError, DensityError
from ..support import Parameters

if TYPE_CHECKING:
    from .base import Target
    from .families import Family

NOT_OF_THE_POINT = (ConfigurationError, torch.OutOfMemoryError)
"""What a log-density may raise that says nothing about the point."""


def called(target: Target, z: Tensor, x: Tensor | None = None) -> Tensor:
    """log p, `(samples, batch)`, for z `(samples, batch, dim)` and a family's data sets `(batch, ...)`.

    Raises:
        DensityError: the user's code raised. The message has the first point where it does.
    """
    data = {} if x is None else {"x": x}
    try:
        return target.at(z, **data)
    except NOT_OF_THE_POINT:
        raise
    except Exception as error:
        where = _described(target, _first_raising(target, z.detach(), data))
        raise DensityError(
            f"target: the log-density of {type(target).__name__} fails {where}: {said(error)}"
        ) from error


@torch.no_grad()
def _first_raising(target: Target, z: Tensor, data: dict[str, Any]) -> Tensor:
    """The smallest part of z that still raises, by halves: of the samples, then of the rows."""
    for axis in (0, 1):
        while z.shape[axis] > 1:
            for part in range(2):
                half = z.chunk(2, axis)[part]
                rows = {name: value.chunk(2)[part] for name, value in data.items()} if axis else data
                try:
                    target.at(half, **rows)
                except Exception:
                    z, data = half, rows
                    break
            else:
                return z
    return z


class Lenient:
    """The log-density for a look around: -inf where the user's code raises.

    Points among which some raise are tried again by halves, so that no point hides the others.

    Args:
        target: the log-density.

    Attributes:
        count: of points where it raised so far.
        first: the first of them in words, with what was raised.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.count, self.first = 0, ""

    def __call__(self, z: Tensor, x: Tensor | None = None, most: int = 1 << 16) -> Tensor:
        """log p, `(count, ...)`.

        Args:
            z: `(count, ..., dim)`.
            x: the data sets of a family.
            most: how often the user's code is called at most, about; what then still raises together counts together.
        """
        data = {} if x is None else {"x": x}
        waiting, found, calls = [(0, len(z))], {}, 0
        while waiting:
            begin, end = waiting.pop(0)
            calls += 1
            try:
                found[begin] = self.target.at(z[begin:end], **data)
            except NOT_OF_THE_POINT:
                raise
            except Exception as error:
                middle = (begin + end) // 2
                if middle > begin and calls < most:
                    waiting += [(begin, middle), (middle, end)]
                    continue
                points = z[begin:end]
                self.count += points[..., 0].numel()
                self.first = self.first or f"{_described(self.target, points.detach())}: {said(error)}"
                found[begin] = 0 * points.sum(-1) - torch.inf  # a part of the graph, like the others
        return torch.cat([found[begin] for begin in sorted(found)])

    def warn(self) -> None:
        """Says where it was -inf, if anywhere, in one warning."""
        if self.count:
            rank_zero_warn(
                f"target: the log-density of {type(self.target).__name__} fails at {self.count} points far from "
                f"where it was asked first, for example {self.first}. It counts as -inf there"
            )


def simulated(family: Family, count: int, seed: int = 0) -> tuple[Parameters, Tensor]:
    """`family.simulate(count, seed)`.

    Raises:
        ConfigurationError: the user's code raised.
    """
    try:
        return family.simulate(count, seed)
    except ConfigurationError:
        raise
    except Exception as error:
        raise ConfigurationError(
            f"target: simulate({count}) of {type(family).__name__} fails: {said(error)}"
        ) from error


def said(error: Exception) -> str:
    """An exception in a line."""
    return textwrap.shorten(f"{type(error).__name__}: {error}".rstrip(".: "), 300)


def _described(target: Target, z: Tensor) -> str:
    theta, _ = target.support.constrain(z)
    points = z[..., 0].numel()
    return f"{'at' if points == 1 else f'for {points} points together, as at'} {point(theta, (0,) * (z.ndim - 1))}"


def point(theta: Parameters, where: tuple[int, ...]) -> str:
    """A point in words, by its place in the leading dimensions."""
    return ", ".join(f"{name} = {_short(part[where].tolist())}" for name, part in theta.items())


def _short(value: Any) -> Any:
    return [_short(number) for number in value] if isinstance(value, list) else float(f"{value:.4g}")
