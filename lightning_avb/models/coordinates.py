"""Places the coordinates of a posterior's sampler, and checks its target before training."""

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
"""The largest standard deviation in the unconstrained coordinates: along a flat direction the search never ends."""


def place_coordinates(model: Posterior) -> None:
    """Checks the target, and sets `location` and `scale_tril` of the model.

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
    """Simulated parameters, unconstrained, `(count, latent_dim)`, and data sets `(count, *data_shape)`."""
    what = f"simulate({count}) of {type(model.target).__name__}"
    theta, x = checked_simulation(model.target, count)  # type: ignore[arg-type]
    check_tensors(what, theta, (count,), {name: block.shape for name, block in model.support.blocks.items()})
    check_tensors(what, {"x": x}, (count,), {"x": tuple(model.target.data_shape or ())})
    z = model.support.unconstrain(theta).to(model.location)
    if not torch.isfinite(z).all():
        raise ConfigurationError(f"target: {what} gives parameters off their support, {dict(model.target.constraints)}")
    return z, x.to(model.location)


def _place(model: Posterior, x: Tensor, log_density: TolerantDensity) -> None:
    """Places the coordinates; for a family by the moments of its parameters over all data sets."""
    name, coordinates = type(model.target).__name__, model.support.coordinates
    if model.amortised:
        z, _ = _simulated(model, 4096)
        placed = Normal(z.mean(0), cholesky_or_nan(torch.cov(z.T).reshape(model.latent_dim, model.latent_dim)))
    else:
        placed = _nearest_normal(model, log_density)
    if not (torch.isfinite(placed.loc).all() and torch.isfinite(placed.scale_tril).all()):
        _check_start(model, x)  # its message is clearer if the density is not finite around 0
        raise ConfigurationError(
            f"target: no normal distribution is nearest to the density of {name}; is it proper, and its support "
            "right? With standardise: false training begins around 0 in the unconstrained coordinates"
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
    """The nearest normal distribution; each attempt begins where the last one ended, with longer steps."""
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
        raise ConfigurationError(f"{error}. The sampler begins there; is the support right?") from error
    theta, _ = model.support.constrain(model.to_z(u.detach()))
    for what, numbers in (("log-density", value.detach()), ("slope of the log-density", slope.sum(-1))):
        if len(wrong := numbers[~torch.isfinite(numbers)]):
            where = first_invalid(theta, numbers)
            raise ConfigurationError(
                f"target: the {what} of {name} is {wrong[0].item()} at {len(wrong)} of {numbers.numel()} points "
                f"where the sampler begins, for example at {where}; is the support right, the density proper?"
            )
    return value.detach().max() - model.scale_tril.diagonal().log().sum()


@torch.no_grad()
def _check_tails(model: Posterior, x: Tensor, highest: Tensor, log_density: TolerantDensity) -> None:
    """Raises ConfigurationError if the density is flat far out along a coordinate, or falls only as 1 / |u|.

    Values that are 50 nats below the highest one, overflow or raise count as fallen.
    """
    directions = torch.cat([torch.eye(model.latent_dim), -torch.eye(model.latent_dim)]).to(model.location)
    # The highest of several points, in case the density oscillates.
    along = torch.linspace(1, 2, 9).to(model.location).view(-1, 1, 1, 1) * directions.unsqueeze(1)
    rows = x if model.amortised else None
    near, far = (log_density(model.to_z(reach * along.flatten(0, 1)), rows).view(9, -1).amax(0) for reach in (1e4, 1e6))
    flat = ((near - far).abs() <= 1.01 * math.log(100)) & ((highest - near).abs() < 50)
    if flat.any():
        coordinate = model.support.coordinates[int(flat.nonzero()[0]) % model.latent_dim]
        raise ConfigurationError(
            f"target: the density of {type(model.target).__name__} does not fall off along {coordinate}; is the "
            "support right, and the density proper?"
        )
