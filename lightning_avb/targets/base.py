"""What a posterior is learned of: a log-density, known up to a constant, over named parameters."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..batch import Shape
from ..support import Parameters, Support


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
        """Exact draws, or a long and checked run's, by name, `(count, ...)`; None: there are none."""
        return None

    def at(self, z: Tensor, **data: Any) -> Tensor:
        """log p(z) for z `(..., dim)` in the unconstrained coordinates, the Jacobian included, `(...)`."""
        theta, volume = self.support.constrain(z)
        return self.log_density(**data, **theta) + volume

    @torch.no_grad()
    def named(self, z: Tensor) -> Parameters:
        """The parameters at z `(..., dim)`, with what is derived from them."""
        theta, _ = self.support.constrain(z)
        return {**theta, **self.derived(**theta)}
