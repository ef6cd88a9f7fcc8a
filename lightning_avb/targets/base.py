"""What a posterior is learned of: a log-density, known up to a constant, over named parameters."""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..batch import Shape
from ..errors import ConfigurationError, DensityError
from ..support import Parameters, Support
from .calls import Lenient, said


class Target(nn.Module, abc.ABC):
    """A log-density over named parameters, with the data in it as buffers.

    A subclass sets `kinds` and writes `log_density`.

    Attributes:
        kinds: name -> kind of every parameter, see `Support`.
        data_shape: shape of a data set x where the target is a family log p(x, theta), one posterior for every x;
            None: one posterior.
    """

    kinds: Mapping[str, str]
    data_shape: Shape | None = None
    plane: tuple[str, str] | None = None
    """The two columns that a picture shows, as `mu` and `theta[0]`; None: the first two."""

    @property
    def support(self) -> Support:
        return Support(self.kinds)

    @abc.abstractmethod
    def log_density(self, **theta: Tensor) -> Tensor:
        """log p(theta) up to a constant, in nats, `(...)`, by the parameters' names.

        Numbers come as `(...)`, vectors as `(..., n)`. A family gets `x`, `(batch, *data_shape)`, besides, and the
        last of the leading dimensions of a parameter is its row.
        """

    def derived(self, **theta: Tensor) -> Parameters:
        """Further quantities that are functions of the parameters, given back beside them."""
        return {}

    def reference(self, count: int, seed: int = 0) -> Parameters | None:
        """Exact draws by name, `(count, ...)`, or a long and checked run's, fewer if it has fewer; None: no draws."""
        return None

    def at(self, z: Tensor, **data: Any) -> Tensor:
        """log p(z) for z `(..., dim)` in the unconstrained coordinates, the Jacobian included, `(...)`."""
        theta, volume = self.support.constrain(z)
        return self.log_density(**data, **theta).to(volume) + volume

    @torch.no_grad()
    def density_at(self, values: Tensor, x: Tensor | None = None) -> Tensor:
        """The log-density without a Jacobian, `(...)`, at parameters side by side, `(..., n)`.

        -inf off the support, where the user's function is not asked, and where it is not a number or raises.
        """
        blocks = self.support.blocks
        parts = values.split([math.prod(block.shape) for block in blocks.values()], -1)
        theta = {
            name: part.reshape(*part.shape[:-1], *block.shape)
            for (name, block), part in zip(blocks.items(), parts, strict=True)
        }
        inside = self.support.contains(theta)
        z = self.support.unconstrain(theta).where(inside.unsqueeze(-1), values.new_zeros(()))
        value = Lenient(self)(z, x, most=256) - self.support.constrain(z)[1]
        return value.where(inside & ~torch.isnan(value), -torch.inf)

    @torch.no_grad()
    def named(self, z: Tensor) -> Parameters:
        """The parameters at z `(..., dim)`, with what is derived from them.

        Raises:
            DensityError: `derived` raises.
        """
        theta, _ = self.support.constrain(z)
        try:
            return {**theta, **self.derived(**theta)}
        except ConfigurationError:
            raise
        except Exception as error:
            raise DensityError(f"target: what {type(self).__name__} derives fails: {said(error)}") from error
