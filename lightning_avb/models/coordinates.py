"""Where the coordinates of a posterior's sampler are placed, and what is checked of its target before training."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import noise
from ..errors import ConfigurationError, DensityError
from ..targets.calls import TolerantDensity, checked_simulation
from ..targets.checks import check_target, check_tensors, first_invalid
from .nearest_normal import Normal, cholesky_or_nan, nearest_normal

if TYPE_CHECKING:
    from .posterior import Posterior

WIDEST = 1e6
"""The widest posterior, in the unconstrained coordinates: what finds its width grows without end along a flat one."""


def place_coordinates(model: Posterior) -> None:
    """Checks the target and sets `location` and `scale_tril` of a model that is to be trained on it.

    Raises:
        ConfigurationError: see `Posterior`.
    """
    log_density = TolerantDensity(model.target)
    x = _simulated(model, 2)[1] if model.amortised else torch.ones(2, 1).to(model.location)
    check_target(model.target, noise.normal((64, 2, model.latent_dim), model.location), x)
    if model.standardise:
        _place(model, x[:1], log_density)
    _check_tails(model, x[:1], _check_start(model, x[:1]), log_density)
    log_density.warn()


def _simulated(model: Posterior, count: int) -> tuple[Tensor, Tensor]:
    """Parameters of the family, unconstrained `(count, latent_dim)`, and data sets `(count, *data_shape)`."""
    what = f"simulate({count}) of {type(model.target).__name__}"
    theta, x = checked_simulation(model.target, count)  # type: ignore[arg-type]
    check_tensors(what, theta, (count,), {name: block.shape for name, block in model.support.blocks.items()})
    check_tensors(what, {"x": x}, (count,), {"x": tuple(model.target.data_shape or ())})
    z = model.support.unconstrain(theta).to(model.location)
    if not torch.isfinite(z).all():
        raise ConfigurationError(f"target: {what} gives parameters off their support, {dict(model.target.constraints)}")
    return z, x.to(model.location)


def _place(model: Posterior, x: Tensor, log_density: TolerantDensity) -> None:
    """Places the coordinates; a family's by the moments of its parameters, whatever the data."""
    name, coordinates = type(model.target).__name__, model.support.coordinates
    if model.amortised:
        z, _ = _simulated(model, 4096)
        placed = Normal(z.mean(0), cholesky_or_nan(torch.cov(z.T).reshape(model.latent_dim, model.latent_dim)))
    else:
        placed = _nearest_normal(model, log_density)
    if not (torch.isfinite(placed.loc).all() and torch.isfinite(placed.scale_tril).all()):
        _check_start(model, x)  # if the density is no better around 0, it says so more clearly
        raise ConfigurationError(
            f"target: no normal distribution is nearest to the density of {name}; is it proper, and its support "
            "the right one? With standardise: false training begins around 0 in its support's coordinates"
        )
    widest = int((widths := placed.scale_tril.norm(dim=-1)).argmax())
    if widths[widest] > WIDEST:
        raise ConfigurationError(
            f"target: the density of {name} does not fall along {coordinates[widest]}, or is wider "
            f"than {WIDEST:g} there; is it proper? If it is, learn that parameter in other units"
        )
    model.location.copy_(placed.loc)
    model.scale_tril.copy_(placed.scale_tril)


def _nearest_normal(model: Posterior, log_density: TolerantDensity) -> Normal:
    """That of the target, however far away; each attempt begins where the last one ended, with longer strides."""
    origin = torch.zeros_like(model.location)

    def moved(z: Tensor) -> Tensor:
        return log_density((z + origin).flatten(0, -2), most=64).view(z.shape[:-1])

    for stride in (10.0, 100.0, 1e3, 1e4):
        placed = nearest_normal(moved, model.latent_dim, origin, stride=stride)
        origin = origin + placed.loc
        if placed.arrived or not torch.isfinite(origin).all():
            return placed._replace(loc=origin)
    farthest = int(origin.abs().argmax())
    name, where = model.support.coordinates[farthest], origin[farthest].item()
    raise ConfigurationError(
        f"target: the density of {type(model.target).__name__} still rises where {name} is {where:.3g} in the "
        "unconstrained coordinates; is it proper? If it is, shift that parameter"
    )


def _check_start(model: Posterior, x: Tensor) -> Tensor:
    """The highest log-density, without the Jacobian of the coordinates, among first draws of the sampler.

    Raises:
        ConfigurationError: it is not finite at one of them, or has no finite slope, or raises.
    """
    name = type(model.target).__name__
    u = noise.normal((4096, len(x), model.latent_dim), model.location).requires_grad_()
    try:
        with torch.enable_grad():
            value = model.log_density(u, x)
            (slope,) = torch.autograd.grad(value.sum(), u)
    except DensityError as error:
        raise ConfigurationError(f"{error}. There the sampler is to begin; is the support right?") from error
    theta, _ = model.support.constrain(model.to_z(u.detach()))
    for what, numbers in (("log-density", value.detach()), ("slope of the log-density", slope.sum(-1))):
        if len(wrong := numbers[~torch.isfinite(numbers)]):
            where = first_invalid(theta, numbers)
            raise ConfigurationError(
                f"target: the {what} of {name} is {wrong[0].item()} at {len(wrong)} of {numbers.numel()} points "
                f"where the sampler is to begin, for example at {where}; is the support right, the density proper?"
            )
    return value.detach().max() - model.scale_tril.diagonal().log().sum()


@torch.no_grad()
def _check_tails(model: Posterior, x: Tensor, highest: Tensor, log_density: TolerantDensity) -> None:
    """Raises ConfigurationError if the density is level far out along a coordinate, or falls as 1 / |u| does.

    What is 50 nats below the highest value there, overflows or raises is taken to have fallen.
    """
    sides = torch.cat([torch.eye(model.latent_dim), -torch.eye(model.latent_dim)]).to(model.location)
    # The highest of several points, in case the density goes up and down.
    along = torch.linspace(1, 2, 9).to(model.location).view(-1, 1, 1, 1) * sides.unsqueeze(1)
    rows = x if model.amortised else None
    near, far = (log_density(model.to_z(reach * along.flatten(0, 1)), rows).view(9, -1).amax(0) for reach in (1e4, 1e6))
    level = ((near - far).abs() <= 1.01 * math.log(100)) & ((highest - near).abs() < 50)
    if level.any():
        coordinate = model.support.coordinates[int(level.nonzero()[0]) % model.latent_dim]
        raise ConfigurationError(
            f"target: the density of {type(model.target).__name__} does not fall off along {coordinate}; is the "
            "support the right one, and the density proper?"
        )
