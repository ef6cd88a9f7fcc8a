"""Families of posteriors, one for every data set x, for amortised inference."""

from __future__ import annotations

import abc
import math

import torch
from torch import Tensor

from ..batch import Shape
from ..errors import at_least
from ..support import Parameters
from .base import Target
from .densities import check_positive, log_normal
from .exact import inverse_cdf_draws, seeded_generator


class Family(Target):
    """log p(x, theta), one posterior for every data set x, with draws of the joint distribution.

    A subclass sets `constraints` and `data_shape` and writes `log_density` and `simulate`.
    """

    data_shape: Shape

    @abc.abstractmethod
    def simulate(self, count: int, seed: int = 0) -> tuple[Parameters, Tensor]:
        """Draws of the joint distribution: theta by name, `(count, ...)`, and x, `(count, *data_shape)`.

        Each theta is thus an exact draw of the posterior of its x. The same seed, a number of up to 63 bits, gives the
        same draws.

        Raises:
            ConfigurationError: a count below 1.
        """

    def posterior(self, x: Tensor, count: int, seed: int = 0) -> Parameters | None:
        """Exact draws of the posterior of every row of x `(batch, *data_shape)`, by name, `(count, batch, ...)`.

        None: there is no way to draw them.

        Raises:
            ConfigurationError: a count below 1.
        """
        return None


class NormalMean(Family):
    """mu ~ N(0, prior_scale), x_1 .. x_n ~ N(mu, scale): a normal posterior, whose width is the same for every x.

    Args:
        observations: n.
        prior_scale: standard deviation of mu.
        scale: standard deviation of an observation.

    Raises:
        ConfigurationError: no observation, or a standard deviation that is not positive.
    """

    def __init__(self, observations: int = 4, prior_scale: float = 1.0, scale: float = 1.0) -> None:
        super().__init__()
        check_positive(prior_scale=prior_scale, scale=scale)
        self.constraints, self.data_shape = {"mu": "real"}, (at_least(1, observations=observations),)
        self.prior_scale, self.scale = prior_scale, scale

    def log_density(self, *, x: Tensor, mu: Tensor) -> Tensor:  # type: ignore[override]
        return log_normal(mu, 0.0, self.prior_scale) + log_normal(x, mu.unsqueeze(-1), self.scale).sum(-1)

    def simulate(self, count: int, seed: int = 0) -> tuple[Parameters, Tensor]:
        eps = torch.randn(at_least(1, count=count), 1 + self.data_shape[0], generator=seeded_generator(seed))
        mu = self.prior_scale * eps[:, 0]
        return {"mu": mu}, mu.unsqueeze(-1) + self.scale * eps[:, 1:]

    def posterior(self, x: Tensor, count: int, seed: int = 0) -> Parameters:
        precision = self.prior_scale**-2 + self.data_shape[0] * self.scale**-2
        mean = x.sum(-1) * self.scale**-2 / precision
        eps = torch.randn(at_least(1, count=count), len(x), generator=seeded_generator(seed)).to(x)
        return {"mu": mean + precision**-0.5 * eps}


class Parabola(Family):
    """z_1, z_2 ~ N(0, 1), x ~ N(z_1^2 + z_2, scale): the posterior lies along a parabola.

    Without z_2, the posterior of z_1 has one mode where x <= (1 + scale^2) / 2, and two where x is larger.

    Args:
        scale: standard deviation of x.

    Raises:
        ConfigurationError: the scale is not positive.
    """

    def __init__(self, scale: float = 0.3) -> None:
        super().__init__()
        check_positive(scale=scale)
        self.constraints, self.data_shape, self.scale = {"z": "real[2]"}, (1,), scale

    def log_density(self, *, x: Tensor, z: Tensor) -> Tensor:  # type: ignore[override]
        expected = z[..., 0].square() + z[..., 1]
        return log_normal(z, 0.0, 1.0).sum(-1) + log_normal(x.squeeze(-1), expected, self.scale)

    def simulate(self, count: int, seed: int = 0) -> tuple[Parameters, Tensor]:
        z, eps = torch.randn(at_least(1, count=count), 3, generator=seeded_generator(seed)).split([2, 1], -1)
        return {"z": z}, z[:, :1].square() + z[:, 1:] + self.scale * eps

    def posterior(self, x: Tensor, count: int, seed: int = 0) -> Parameters:
        """z_1 from its density on a fine grid, with z_2 integrated out; then z_2, which is normal given z_1."""
        x, random = x.squeeze(-1), seeded_generator(seed)
        shape = (at_least(1, count=count), len(x))
        grid = torch.linspace(-8, 8, 4001, dtype=torch.float64)
        spread = math.sqrt(1 + self.scale**2)
        log_marginal = log_normal(grid, 0.0, 1.0) + log_normal(x.cpu().double().unsqueeze(-1), grid.square(), spread)
        first = inverse_cdf_draws(grid, log_marginal, torch.rand(shape, generator=random, dtype=torch.float64)).to(x)
        eps = torch.randn(shape, generator=random).to(x)
        second = (x - first.square()) / spread**2 + self.scale / spread * eps
        return {"z": torch.stack([first, second], -1)}
