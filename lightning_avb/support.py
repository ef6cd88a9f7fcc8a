"""The supports of a log-density's parameters, and bijections onto them from vectors of real numbers.

A posterior is learned over z in R^dim. Bijections with known Jacobians make named parameters of it,

    theta = b(z),      log p(z) = log p(theta) + log |det db/dz|,

those of torch.distributions where they are exact in single precision.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import CorrCholeskyTransform, Transform, biject_to, constraints
from torch.distributions.constraints import Constraint
from torch.distributions.utils import tril_matrix_to_vec, vec_to_tril_matrix
from torch.nn.functional import pad, softplus

from .errors import ConfigurationError

Parameters = dict[str, Tensor]
"""Name -> values: `(...)` for a number, `(..., n)` for a vector and `(..., n, n)` for a matrix."""


class _Increasing(Constraint):
    """Vectors of increasing numbers, all above 0 if `positive`."""

    is_discrete, event_dim = False, 1

    def __init__(self, positive: bool) -> None:
        self.positive = positive

    def check(self, value: Tensor) -> Tensor:
        return (value.diff(dim=-1) > 0).all(-1) & ((value[..., 0] > 0) | (not self.positive))


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


class PositiveOrderedTransform(Transform):
    """Increasing vectors of positive numbers from any: c_k = c_{k-1} + exp z_k from c_0 = 0.

    The exponential of an ordered vector would be such a vector, too, but it overflows: it is an exponential of
    exponentials.
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def _call(self, x: Tensor) -> Tensor:
        return x.exp().cumsum(-1)

    def _inverse(self, y: Tensor) -> Tensor:
        return pad(y, (1, 0)).diff(dim=-1).log()

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return x.sum(-1)


class CorrelationTransform(CorrCholeskyTransform):
    """torch's bijection, with the Jacobian computed from z: from the matrix it is inexact in single precision.

    Row i has L_ij = tanh z_ij prod_{k<j} sech z_ik for j < i, so that z_ik enters the determinant with sech^2 once and
    with sech for every j between k and i. The Jacobian is that of the numbers below the diagonal.
    """

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor, intermediates: Tensor | None = None) -> Tensor:
        row, column = torch.tril_indices(y.shape[-1], y.shape[-1], -1, device=x.device)
        log_sech = math.log(2.0) - x - softplus(-2 * x)
        return (log_sech * (1 + row - column)).sum(-1)


class CovarianceTransform(Transform):
    """Lower triangular matrices with a positive diagonal, row by row from vectors, the diagonal by exp.

    The Jacobian is that of the numbers on and below the diagonal.
    """

    domain = constraints.real_vector
    codomain = constraints.lower_cholesky
    bijective = True

    def _call(self, x: Tensor) -> Tensor:
        matrix = vec_to_tril_matrix(x)
        return matrix.tril(-1) + matrix.diagonal(dim1=-2, dim2=-1).exp().diag_embed()

    def _inverse(self, y: Tensor) -> Tensor:
        return tril_matrix_to_vec(y.tril(-1) + y.diagonal(dim1=-2, dim2=-1).log().diag_embed())

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return vec_to_tril_matrix(x).diagonal(dim1=-2, dim2=-1).sum(-1)

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        n = math.isqrt(2 * shape[-1])
        return torch.Size((*shape[:-1], n, n))

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        return torch.Size((*shape[:-2], shape[-1] * (shape[-1] + 1) // 2))


class _Constraint(NamedTuple):
    """The meaning of a constraint's name.

    Attributes:
        bounds: number of bounds in parentheses.
        constraint: torch's constraint from these bounds. Its event is a number, of which [n] makes n independent ones,
            a vector of n, or an n by n matrix.
        transform: the bijection; None: torch's for this constraint.
    """

    bounds: int
    constraint: Callable[..., Any]
    transform: Callable[[], Transform] | None = None


_CONSTRAINTS = {
    "real": _Constraint(0, lambda: constraints.real),
    "positive": _Constraint(0, lambda: constraints.positive),
    "unit_interval": _Constraint(0, lambda: constraints.unit_interval),
    "interval": _Constraint(2, constraints.interval),
    "above": _Constraint(1, constraints.greater_than),
    "below": _Constraint(1, constraints.less_than),
    "simplex": _Constraint(0, lambda: constraints.simplex),
    "ordered": _Constraint(0, lambda: _Increasing(positive=False), OrderedTransform),
    "positive_ordered": _Constraint(0, lambda: _Increasing(positive=True), PositiveOrderedTransform),
    "correlation_cholesky": _Constraint(0, lambda: constraints.corr_cholesky, CorrelationTransform),
    "covariance_cholesky": _Constraint(0, lambda: constraints.lower_cholesky, CovarianceTransform),
}


class _Block(NamedTuple):
    """One named parameter.

    Attributes:
        constraint: on its values.
        transform: the bijection onto it.
        shape: of the parameter: (), (n,) or (n, n).
        size: number of unconstrained coordinates.
    """

    constraint: Any
    transform: Transform
    shape: tuple[int, ...]
    size: int

    def coordinates(self, name: str) -> list[str]:
        if not self.shape:
            return [name]
        if len(self.shape) == 1:
            return [f"{name}[{i}]" for i in range(self.size)]
        diagonal = 0 if self.size > math.comb(self.shape[0], 2) else -1
        return [f"{name}[{i},{j}]" for i, j in torch.tril_indices(self.shape[0], self.shape[0], diagonal).T.tolist()]


class Support:
    """A product of named supports.

    Args:
        constraints: name of a parameter -> its constraint, in the order of the coordinates. A number is `real`,
            `positive`, in the `unit_interval`, in an `interval(low, high)`, `above(low)` or `below(high)`; `real[n]`
            and so on are vectors of n independent ones. Other vectors are `simplex[n]`, n shares that sum to 1,
            `ordered[n]`, n increasing numbers, and `positive_ordered[n]`. Matrices, n by n, are lower triangular
            matrices L with a positive diagonal, such that L L^T is a correlation matrix, `correlation_cholesky[n]`, or
            a covariance matrix, `covariance_cholesky[n]`.

    Attributes:
        blocks: name of a parameter -> its constraint, bijection and shape.
        dim: number of unconstrained coordinates.

    Raises:
        ConfigurationError: there is no parameter, or no such constraint; the message names the parameter.
    """

    def __init__(self, constraints: Mapping[str, str]) -> None:
        if not isinstance(constraints, Mapping):
            raise ConfigurationError(
                f"support: {constraints!r} does not map names to constraints, as {{mu: real}} does"
            )
        if not constraints:
            raise ConfigurationError("support: there is no parameter; {mu: real, tau: positive} would be an example")
        self.blocks = {name: _block(name, str(constraint)) for name, constraint in constraints.items()}
        self.dim = sum(block.size for block in self.blocks.values())

    @property
    def coordinates(self) -> list[str]:
        """A name for each of the unconstrained coordinates: `mu`, `theta[0]`, `tril[1,0]`."""
        return [label for name, block in self.blocks.items() for label in block.coordinates(name)]

    def constrain(self, z: Tensor) -> tuple[Parameters, Tensor]:
        """The parameters at z `(..., dim)`, and log |det d theta / d z|, `(...)`.

        Raises:
            ConfigurationError: z does not have `dim` coordinates.
        """
        if z.shape[-1] != self.dim:
            raise ConfigurationError(f"support: a point has {z.shape[-1]} numbers; {self.dim} were expected")
        theta: Parameters = {}
        log_jacobian = z.new_zeros(z.shape[:-1])
        parts = z.split([block.size for block in self.blocks.values()], -1)
        for (name, block), part in zip(self.blocks.items(), parts, strict=True):
            value = block.transform(part)
            ladj = block.transform.log_abs_det_jacobian(part, value)
            log_jacobian = log_jacobian + (ladj.sum(-1) if ladj.ndim == part.ndim else ladj)
            theta[name] = value if block.shape else value.squeeze(-1)
        return theta, log_jacobian

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

    def contains(self, theta: Mapping[str, Tensor]) -> Tensor:
        """Whether all parameters satisfy their constraints, `(...)`."""
        inside = []
        for name, block in self.blocks.items():
            satisfied = block.constraint.check(theta[name])
            independent = len(block.shape) - block.constraint.event_dim
            inside.append(satisfied.all(-1) if independent else satisfied)
        return functools.reduce(torch.logical_and, inside)


@functools.cache
def _block(name: str, text: str) -> _Block:
    match = re.fullmatch(r"(\w+)(?:\(([^()]*)\))?(?:\[(\d+)\])?", text.strip())
    if match is None or match[1] not in _CONSTRAINTS:
        raise ConfigurationError(
            f"support.{name}: {text!r} is none of real, positive, unit_interval, interval(low, high), above(low), "
            "below(high), each with [n] for a vector, simplex[n], ordered[n], positive_ordered[n], "
            "correlation_cholesky[n] and covariance_cholesky[n]" + "; in YAML's {} it needs quotes" * ("(" in text)
        )
    named = _CONSTRAINTS[match[1]]
    constraint = named.constraint(*_bounds(name, text, match[2], named.bounds))
    size, smallest = int(match[3]) if match[3] else None, 2 if constraint.event_dim else 1
    if (size is None and constraint.event_dim) or (size is not None and size < smallest):
        raise ConfigurationError(f"support.{name}: {text!r}; {match[1]}[n] needs an n of at least {smallest}")
    transform = named.transform() if named.transform else biject_to(constraint)
    shape = () if size is None else (size,) * max(1, constraint.event_dim)
    return _Block(constraint, transform, shape, math.prod(transform.inverse_shape(torch.Size(shape or (1,)))))


def _bounds(name: str, text: str, inside: str | None, expected: int) -> list[float]:
    """The `expected` bounds in `inside`, the text between the parentheses of a constraint."""
    bounds = []
    for bound in inside.split(",") if inside is not None else []:
        try:
            bounds.append(float(bound))
        except ValueError:
            raise ConfigurationError(f"support.{name}: {text!r}; {bound.strip()!r} is no number") from None
    if len(bounds) != expected:
        raise ConfigurationError(f"support.{name}: {text!r}; has {len(bounds)} bounds, and needs {expected}")
    if not all(math.isfinite(bound) for bound in bounds):
        raise ConfigurationError(
            f"support.{name}: {text!r}; a bound must be finite; real, above(low) and below(high) have fewer bounds"
        )
    if expected == 2 and not bounds[0] < bounds[1]:
        raise ConfigurationError(f"support.{name}: {text!r}; {bounds[0]:g} is not below {bounds[1]:g}")
    return bounds
