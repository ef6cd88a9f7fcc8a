"""Calls of a user's log-density or simulation, whose errors become messages or a log-density of -inf."""

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

_GENERAL_ERRORS = (ConfigurationError, torch.OutOfMemoryError)
"""What a log-density may raise that does not depend on the point."""


def checked_log_prob(target: Target, z: Tensor, x: Tensor | None = None) -> Tensor:
    """log p, `(samples, batch)`, at z `(samples, batch, dim)`, for a family's data sets x `(batch, ...)`.

    Raises:
        DensityError: the user's code raises. The message has the first point where it does.
    """
    data = {} if x is None else {"x": x}
    try:
        return target.log_prob(z, **data)
    except _GENERAL_ERRORS:
        raise
    except Exception as error:
        position = _described(target, _first_raising(target, z.detach(), data))
        raise DensityError(
            f"target: the log-density of {type(target).__name__} fails {position}: {one_line(error)}"
        ) from error


@torch.no_grad()
def _first_raising(target: Target, z: Tensor, data: dict[str, Any]) -> Tensor:
    """The smallest part of z that still raises, by bisection, first of the samples, then of the rows."""
    for axis in (0, 1):
        while z.shape[axis] > 1:
            for part in range(2):
                half = z.chunk(2, axis)[part]
                rows = {name: value.chunk(2)[part] for name, value in data.items()} if axis else data
                try:
                    target.log_prob(half, **rows)
                except Exception:
                    z, data = half, rows
                    break
            else:
                return z
    return z


class TolerantDensity:
    """The log-density far from the draws, where a user's code may raise: it is -inf there.

    A set of points that raises is divided in halves, until the points that raise are found.

    Args:
        target: the log-density.

    Attributes:
        count: the number of points where it raised so far.
        first: the first of them, and what was raised, for the message.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.count, self.first = 0, ""

    def __call__(self, z: Tensor, x: Tensor | None = None, most: int = 1 << 16) -> Tensor:
        """log p, `(count, ...)`.

        Args:
            z: `(count, ..., dim)`.
            x: the data sets of a family.
            most: approximate limit of the number of calls; a set that still raises then counts as a whole.
        """
        data = {} if x is None else {"x": x}
        pending, found, calls = [(0, len(z))], {}, 0
        while pending:
            begin, end = pending.pop(0)
            calls += 1
            try:
                found[begin] = self.target.log_prob(z[begin:end], **data)
            except _GENERAL_ERRORS:
                raise
            except Exception as error:
                middle = (begin + end) // 2
                if middle > begin and calls < most:
                    pending += [(begin, middle), (middle, end)]
                    continue
                points = z[begin:end]
                self.count += points[..., 0].numel()
                self.first = self.first or f"{_described(self.target, points.detach())}: {one_line(error)}"
                found[begin] = 0 * points.sum(-1) - torch.inf  # keeps the gradient defined
        return torch.cat([found[begin] for begin in sorted(found)])

    def warn(self) -> None:
        """Warns once, if it was -inf anywhere."""
        if self.count:
            rank_zero_warn(
                f"target: the log-density of {type(self.target).__name__} fails at {self.count} points far from "
                f"the first ones, for example {self.first}. It counts as -inf there"
            )


def checked_simulation(family: Family, count: int, seed: int = 0) -> tuple[Parameters, Tensor]:
    """`family.simulate(count, seed)`.

    Raises:
        ConfigurationError: the user's code raises.
    """
    try:
        return family.simulate(count, seed)
    except ConfigurationError:
        raise
    except Exception as error:
        raise ConfigurationError(
            f"target: simulate({count}) of {type(family).__name__} fails: {one_line(error)}"
        ) from error


def one_line(error: Exception) -> str:
    """An exception in one line, for a message."""
    return textwrap.shorten(f"{type(error).__name__}: {error}".rstrip(".: "), 300)


def _described(target: Target, z: Tensor) -> str:
    theta, _ = target.support.constrain(z)
    points = z[..., 0].numel()
    return f"{'at' if points == 1 else f'for {points} points together, as at'} {point(theta, (0,) * (z.ndim - 1))}"


def point(theta: Parameters, where: tuple[int, ...]) -> str:
    """The parameters of one point, for a message; `where` is its index in the leading dimensions."""
    return ", ".join(f"{name} = {_short(part[where].tolist())}" for name, part in theta.items())


def _short(value: Any) -> Any:
    return [_short(number) for number in value] if isinstance(value, list) else float(f"{value:.4g}")
