"""Checks of a target before a model is trained on it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..draws import to_table
from ..errors import ConfigurationError
from ..support import Parameters
from .base import Target
from .calls import TolerantDensity, one_line, point

RESERVED_NAMES = ("file", "index")
"""Names that have another meaning in files and predictions."""


def check_target(target: Target, z: Tensor, x: Tensor) -> None:
    """Checks all that a target returns.

    Args:
        z: `(64, 2, dim)`, unconstrained coordinates.
        x: `(2, *data_shape)`, the data sets of a family.

    Raises:
        ConfigurationError: a sampler cannot learn from this log-density, or something else that the target returns is
            not as `Target` says.
    """
    name, z = type(target).__name__, z.detach().requires_grad_()
    theta, log_jacobian = target.support.constrain(z)
    constant = {key: value.detach() for key, value in theta.items()}
    shapes = ", ".join(f"{key} {tuple(value.shape)}" for key, value in theta.items())
    data: dict[str, Any] = {"x": x} if target.data_shape is not None else {}
    try:
        with torch.enable_grad():
            value = target.log_density(**data, **theta)
        with torch.no_grad():
            # A wrong shape may be right by chance, but not for two numbers of points.
            one = {key: part[:1] for key, part in data.items()}
            few = target.log_density(**one, **{key: part[:7, :1] for key, part in constant.items()})
            derived, reference = target.derived(**constant), target.reference(16)
    except ConfigurationError:
        raise
    except Exception as error:
        tolerant = TolerantDensity(target)
        flat_z = z.detach()[:, :1] if data else z.detach().flatten(0, 1)
        tolerant(flat_z, x[:1] if data else None)
        # If all points fail, the point is not the cause.
        what = f"for {shapes}: {one_line(error)}" if tolerant.count in (0, len(flat_z)) else tolerant.first
        raise ConfigurationError(f"target: {name} fails {what}") from error
    for found, points in ((value, (64, 2)), (few, (7, 1))):
        if not isinstance(found, Tensor) or found.shape != points:
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ConfigurationError(
                f"target: the log-density of {name} should return one number per point, (64, 2) for {shapes}; "
                f"for {points} points it returned {got}"
            )
    _check_names(target, constant, derived, reference)
    flat_on_bounds = log_jacobian.requires_grad and bool((value == value.flatten()[0]).all())
    if not value.requires_grad and not flat_on_bounds:
        raise ConfigurationError(f"target: the log-density of {name} is not differentiable in its parameters")
    if torch.isnan(value).any():
        raise ConfigurationError(
            f"target: the log-density of {name} is not a number at {first_invalid(theta, value)}; is the support right?"
        )
    value = value + log_jacobian
    if not torch.isfinite(value).any():
        raise ConfigurationError(
            f"target: the log-density of {name} is {value.flatten()[0].item()} at all of 128 points around 0 in "
            f"the unconstrained coordinates, such as at {first_invalid(theta, value)}; shift or scale its parameters"
        )


def _check_names(target: Target, theta: Parameters, derived: Any, reference: Any) -> None:
    name = type(target).__name__
    check_tensors(f"`derived` of {name}", derived, (64, 2))
    for key in [*theta, *derived]:
        if key in RESERVED_NAMES or (key in theta and key in derived):
            raise ConfigurationError(f"target: {name} names a quantity {key!r}, which is the name of something else")
    columns = to_table({key: of[:, 0] for key, of in {**theta, **derived}.items()})[1]
    if missing := [column for column in target.plot_columns or () if column not in columns]:
        raise ConfigurationError(f"target: plot_columns of {name} has {missing[0]!r}, none of {', '.join(columns)}")
    if reference is not None:
        check_tensors(f"reference(16) of {name}", reference, ())
        counts = {value.shape[:1] for value in reference.values()}
        if len(counts) != 1:
            raise ConfigurationError(f"target: reference(16) of {name} gives different numbers of draws")
        ours = {key: tuple(value.shape[2:]) for key, value in {**theta, **derived}.items()}
        if not any(key in ours for key in reference):
            raise ConfigurationError(
                f"target: the reference draws of {name} are of {', '.join(reference)}, and it has {', '.join(ours)}"
            )
        shapes = {key: ours[key] for key in reference if key in ours}
        check_tensors(f"reference(16) of {name}", reference, tuple(*counts), shapes)


def check_tensors(
    what: str, found: Any, leading: tuple[int, ...], shapes: dict[str, tuple[int, ...]] | None = None
) -> None:
    """Checks tensors that a target returns by name.

    Args:
        what: what returned them, for the message.
        found: what should be a dict of tensors.
        leading: the leading dimensions of each.
        shapes: name -> the dimensions that follow; None: any.

    Raises:
        ConfigurationError: it is not such a dict.
    """
    gave: Any = type(found).__name__
    if isinstance(found, dict):
        gave = {name: tuple(of.shape) if isinstance(of, Tensor) else type(of).__name__ for name, of in found.items()}
        tensors = all(isinstance(of, Tensor) and of.shape[: len(leading)] == leading for of in found.values())
        if tensors and all(gave.get(name) == (*leading, *shape) for name, shape in (shapes or {}).items()):
            return
    expected: Any = f"({', '.join(map(str, [*leading, '...']))})"
    if shapes:
        expected = {name: (*leading, *shape) for name, shape in shapes.items()}
    raise ConfigurationError(f"target: {what} should return a dict of tensors {expected}; it returned {gave}")


def first_invalid(theta: Parameters, value: Tensor) -> str:
    """The first point whose log-density is not finite, for a message."""
    where = tuple((~torch.isfinite(value)).nonzero()[0].tolist())
    return point(theta, where)
