"""`Target`: a log-density, known up to a constant, over named parameters."""

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
from .calls import TolerantDensity, one_line


class Target(nn.Module, abc.ABC):
    """A log-density over named parameters, with the data in it as buffers.

    A subclass sets `constraints` and writes `log_density`.

    Attributes:
        constraints: name -> constraint of every parameter, see `Support`.
        data_shape: shape of a data set x where the target is a family log p(x, theta), with one posterior for every x;
            None: there is one posterior.
        plot_columns: the two columns that a picture shows, such as `mu` and `theta[0]`; None: the first two.
    """

    constraints: Mapping[str, str]
    data_shape: Shape | None = None
    plot_columns: tuple[str, str] | None = None

    @property
    def support(self) -> Support:
        return Support(self.constraints)

    @abc.abstractmethod
    def log_density(self, **theta: Tensor) -> Tensor:
        """log p(theta) up to a constant, in nats, `(...)`, of parameters by name.

        Numbers are `(...)`, vectors `(..., n)`, matrices `(..., n, n)`. A family also gets `x`,
        `(batch, *data_shape)`; then the last of the leading dimensions of a parameter is the row of x.
        """

    def derived(self, **theta: Tensor) -> Parameters:
        """Further quantities that are functions of the parameters, by name; they are reported with them."""
        return {}

    def reference(self, count: int, seed: int = 0) -> Parameters | None:
        """Exact draws, or those of a long run, by name, `(count, ...)`, or all if there are fewer; None: no draws."""
        return None

    def log_prob(self, z: Tensor, **data: Any) -> Tensor:
        """log p(z), `(...)`, at unconstrained coordinates z `(..., dim)`, with the Jacobian."""
        theta, log_jacobian = self.support.constrain(z)
        return self.log_density(**data, **theta).to(log_jacobian) + log_jacobian

    @torch.no_grad()
    def constrained_log_density(self, values: Tensor, x: Tensor | None = None) -> Tensor:
        """The log-density without the Jacobian, `(...)`, at parameters that are concatenated to `(..., n)`.

        It is -inf outside the support, where `log_density` is not called, and where that gives nan or raises.
        """
        blocks = self.support.blocks
        parts = values.split([math.prod(block.shape) for block in blocks.values()], -1)
        theta = {
            name: part.reshape(*part.shape[:-1], *block.shape)
            for (name, block), part in zip(blocks.items(), parts, strict=True)
        }
        inside = self.support.contains(theta)
        z = self.support.unconstrain(theta).where(inside.unsqueeze(-1), values.new_zeros(()))
        value = TolerantDensity(self)(z, x, most=256) - self.support.constrain(z)[1]
        return value.where(inside & ~torch.isnan(value), -torch.inf)

    @torch.no_grad()
    def by_name(self, z: Tensor) -> Parameters:
        """The parameters at unconstrained coordinates z `(..., dim)`, and what is derived from them, by name.

        Raises:
            DensityError: `derived` raises.
        """
        theta, _ = self.support.constrain(z)
        try:
            return {**theta, **self.derived(**theta)}
        except ConfigurationError:
            raise
        except Exception as error:
            raise DensityError(f"target: `derived` of {type(self).__name__} raises {one_line(error)}") from error
