"""Where the parameters of a log-density live, and the way there from vectors of real numbers.

A posterior is learned over z in R^dim. Named parameters are made of it by bijections with known Jacobians,

    theta = b(z),      log p(z) = log p(theta) + log |det db/dz|,

torch.distributions' own where it has one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Transform, biject_to, constraints

from .errors import ConfigurationError

Parameters = dict[str, Tensor]
"""Name -> values, `(...)` for a number and `(..., n)` for a vector of n."""


class OrderedTransform(Transform):
    """Increasing vectors from any: c_1 = z_1, c_k = c_{k-1} + exp z_k."""

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def _call(self, x: Tensor) -> Tensor:
        return torch.cat([x[..., :1], x[..., 1:].exp()], -1).cumsum(-1)

    def _inverse(self, y: Tensor) -> Tensor:
        return torch.cat([y[..., :1], y.diff(dim=-1).log()], -1)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return x[..., 1:].sum(-1)


class _Block(NamedTuple):
    """One named parameter: its bijection, and how many real numbers it takes; `shape` is () or (n,)."""

    transform: Transform
    shape: tuple[int, ...]
    size: int


_KINDS: dict[str, Any] = {
    "real": constraints.real,
    "positive": constraints.positive,
    "unit_interval": constraints.unit_interval,
    "simplex": constraints.simplex,
    "ordered": None,
}


class Support:
    """A product of named supports.

    Args:
        kinds: name -> kind, in the order of the coordinates: `real`, `positive` or `unit_interval` for a number,
            `real[n]` and so on for n independent ones, `simplex[n]` for n shares that sum to 1, `ordered[n]` for n
            increasing numbers.

    Attributes:
        dim: how many real numbers make a point.
        coordinates: a name for each of them.

    Raises:
        ConfigurationError: no parameter, or a kind that does not exist, with its name.
    """

    def __init__(self, kinds: Mapping[str, str]) -> None:
        if not isinstance(kinds, Mapping):
            raise ConfigurationError(f"support: {kinds!r} does not map names to kinds, as {{mu: real}} does")
        if not kinds:
            raise ConfigurationError("support: names no parameter; say for example {mu: real, tau: positive}")
        self.blocks = {name: _block(name, str(kind)) for name, kind in kinds.items()}
        self.dim = sum(block.size for block in self.blocks.values())
        self.coordinates = [
            name if not block.shape else f"{name}[{i}]"
            for name, block in self.blocks.items()
            for i in range(block.size)
        ]

    def constrain(self, z: Tensor) -> tuple[Parameters, Tensor]:
        """The parameters at z `(..., dim)`, and log |det d theta / d z|, `(...)`.

        Raises:
            ConfigurationError: z has not `dim` coordinates.
        """
        if z.shape[-1] != self.dim:
            raise ConfigurationError(f"support: takes {self.dim} numbers, and a point has {z.shape[-1]}")
        theta: Parameters = {}
        volume = z.new_zeros(z.shape[:-1])
        parts = z.split([block.size for block in self.blocks.values()], -1)
        for (name, block), part in zip(self.blocks.items(), parts, strict=True):
            value = block.transform(part)
            ladj = block.transform.log_abs_det_jacobian(part, value)
            volume = volume + (ladj.sum(-1) if ladj.ndim == part.ndim else ladj)
            theta[name] = value if block.shape else value.squeeze(-1)
        return theta, volume

    def unconstrain(self, theta: Mapping[str, Tensor]) -> Tensor:
        """The z `(..., dim)` of parameters: the inverse of `constrain`.

        Raises:
            ConfigurationError: a parameter is missing.
        """
        missing = [name for name in self.blocks if name not in theta]
        if missing:
            raise ConfigurationError(f"support: {missing[0]} is not among {', '.join(theta)}")
        parts = []
        for name, block in self.blocks.items():
            value = theta[name] if block.shape else theta[name].unsqueeze(-1)
            parts.append(block.transform.inv(value))
        return torch.cat(parts, -1)


def _block(name: str, kind: str) -> _Block:
    match = re.fullmatch(r"(\w+?)(?:\[(\d+)\])?", kind)
    if match is None or match[1] not in _KINDS:
        raise ConfigurationError(
            f"support.{name}: {kind!r} is none of real, positive, unit_interval, each with [n] for a vector, "
            "simplex[n] and ordered[n]"
        )
    size = int(match[2]) if match[2] else None
    least = 2 if match[1] in ("simplex", "ordered") else 1
    if (size is None and least == 2) or (size is not None and size < least):
        raise ConfigurationError(f"support.{name}: {kind!r}; {match[1]}[n] needs an n from {least}")
    transform = OrderedTransform() if match[1] == "ordered" else biject_to(_KINDS[match[1]])
    shape = () if size is None else (size,)
    return _Block(transform, shape, math.prod(transform.inverse_shape(torch.Size(shape or (1,)))))
