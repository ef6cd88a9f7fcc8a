"""Densities with exact draws, to compare a sampler's draws with. Each is over one vector, `z`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..distributions import NormalMixture
from ..errors import ConfigurationError, at_least
from ..support import Parameters
from .base import Target
from .exact import rejection_draws, seeded_generator


def log_normal(value: Tensor, loc: Tensor | float, scale: Tensor | float) -> Tensor:
    """log N(value; loc, scale), of numbers that broadcast; `scale` is the standard deviation."""
    log_scale = scale.log() if isinstance(scale, Tensor) else math.log(scale)
    return -0.5 * ((value - loc) / scale).square() - log_scale - 0.5 * math.log(2 * math.pi)


def check_positive(**arguments: float) -> None:
    """Checks that arguments are positive numbers.

    Raises:
        ConfigurationError: one of them is not; the message names it.
    """
    for name, value in arguments.items():
        if not 0 < value < math.inf:
            raise ConfigurationError(f"{name}: {value} is not a positive number")


class Gaussian(Target):
    """A normal distribution, `log_density` normalised.

    Args:
        covariance: `dim` rows of `dim` numbers, symmetric and positive definite.
        mean: `dim` numbers; without it zero.

    Raises:
        ConfigurationError: no such covariance, or a mean of another length.
    """

    loc: Tensor
    scale_tril: Tensor

    def __init__(
        self,
        covariance: Sequence[Sequence[float]] = ((1.0, 0.9), (0.9, 1.0)),
        mean: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        dim = len(covariance)
        if not dim or any(len(row) != dim for row in covariance):
            raise ConfigurationError(f"covariance: {dim} rows need {dim} numbers each")
        matrix = torch.tensor([list(row) for row in covariance], dtype=torch.float64)
        scale_tril, wrong = torch.linalg.cholesky_ex(matrix)
        if wrong or not torch.allclose(matrix, matrix.T):
            raise ConfigurationError("covariance: is not symmetric and positive definite")
        if mean is not None and len(mean) != dim:
            raise ConfigurationError(f"mean: has {len(mean)} numbers, and covariance {dim} rows")
        self.constraints = {"z": f"real[{dim}]"}
        self.register_buffer("loc", torch.tensor([0.0] * dim if mean is None else list(mean), dtype=torch.float64))
        self.register_buffer("scale_tril", scale_tril)
        self.to(torch.get_default_dtype())

    def log_density(self, *, z: Tensor) -> Tensor:  # type: ignore[override]
        scale_tril, shift = self.scale_tril.to(z), (z - self.loc.to(z)).unsqueeze(-1)
        eps = torch.linalg.solve_triangular(scale_tril, shift, upper=False).squeeze(-1)
        return log_normal(eps, 0.0, 1.0).sum(-1) - scale_tril.diagonal().log().sum()

    def reference(self, count: int, seed: int = 0) -> Parameters:
        eps = torch.randn(at_least(1, count=count), len(self.loc), generator=seeded_generator(seed))
        return {"z": self.loc.cpu() + eps.to(self.loc.dtype) @ self.scale_tril.cpu().T}


class Rosenbrock(Target):
    """The banana, in any dimension: z_1 ~ N(location, scale), z_k ~ N(curvature z_{k-1}^2, width); normalised.

    Rosenbrock's function itself, exp(-((z_1 - 1)^2 + 100 (z_2 - z_1^2)^2) / 20), is location 1, scale sqrt(10),
    curvature 1, width sqrt(0.1).

    Args:
        dim: at least 2.
        location, scale: mean and standard deviation of z_1.
        curvature: of the parabola.
        width: standard deviation around it.

    Raises:
        ConfigurationError: a dimension below 2, a scale or width that is not positive.
    """

    def __init__(
        self, dim: int = 2, location: float = 0.0, scale: float = 1.0, curvature: float = 1.0, width: float = 0.5
    ) -> None:
        super().__init__()
        check_positive(scale=scale, width=width)
        self.dim, self.constraints = dim, {"z": f"real[{at_least(2, dim=dim)}]"}
        self.location, self.scale, self.curvature, self.width = location, scale, curvature, width

    def log_density(self, *, z: Tensor) -> Tensor:  # type: ignore[override]
        first = log_normal(z[..., 0], self.location, self.scale)
        return first + log_normal(z[..., 1:], self.curvature * z[..., :-1].square(), self.width).sum(-1)

    def reference(self, count: int, seed: int = 0) -> Parameters:
        eps = torch.randn(at_least(1, count=count), self.dim, generator=seeded_generator(seed))
        z = [self.location + self.scale * eps[:, 0]]
        for k in range(1, self.dim):
            z.append(self.curvature * z[-1].square() + self.width * eps[:, k])
        return {"z": torch.stack(z, -1)}


class Ring(Target):
    """A ring in the plane: log p(z) = -(|z| - radius)^2 / (2 width^2) up to a constant.

    The distance from the centre then has a density in proportion to r exp(-(r - radius)^2 / (2 width^2)).

    Args:
        radius: of the circle.
        width: of the ring across, as a standard deviation.

    Raises:
        ConfigurationError: one of them is not positive.
    """

    def __init__(self, radius: float = 2.0, width: float = 0.2) -> None:
        super().__init__()
        check_positive(radius=radius, width=width)
        self.constraints = {"z": "real[2]"}
        self.radius, self.width = radius, width

    def log_density(self, *, z: Tensor) -> Tensor:  # type: ignore[override]
        return -0.5 * ((z.norm(dim=-1) - self.radius) / self.width).square()

    def reference(self, count: int, seed: int = 0) -> Parameters:
        random = seeded_generator(seed)
        r = rejection_draws(lambda n: _distances(self.radius, self.width, n, random), count, random)
        return {"z": r.unsqueeze(-1) * _directions(count, random)}


class Torus(Target):
    """The neighbourhood of a torus in space: log p(z) = -d^2 / (2 width^2) up to a constant, d the distance to it.

    The torus goes around the third axis.

    Args:
        radius: from the axis to the middle of the tube.
        tube: radius of the tube.
        width: standard deviation across the surface.

    Raises:
        ConfigurationError: one of them is not positive, or the tube is wider than the hole allows.
    """

    def __init__(self, radius: float = 2.0, tube: float = 0.8, width: float = 0.15) -> None:
        super().__init__()
        check_positive(radius=radius, tube=tube, width=width)
        if tube >= radius:
            raise ConfigurationError(f"tube: {tube} is not below the radius, {radius}")
        self.constraints = {"z": "real[3]"}
        self.radius, self.tube, self.width = radius, tube, width

    def log_density(self, *, z: Tensor) -> Tensor:  # type: ignore[override]
        across = torch.stack([z[..., :2].norm(dim=-1) - self.radius, z[..., 2]], -1).norm(dim=-1)
        return -0.5 * ((across - self.tube) / self.width).square()

    def reference(self, count: int, seed: int = 0) -> Parameters:
        random = seeded_generator(seed)
        section = rejection_draws(lambda n: self._sections(n, random), count, random)
        around = section[:, :1] * _directions(count, random)
        return {"z": torch.cat([around, section[:, 1:]], -1)}

    def _sections(self, count: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Proposals of (distance from the axis, height), whose density is that of `log_density` times the distance.

        In polar coordinates around the middle of the tube it is t (radius + t cos) exp(-(t - tube)^2 / (2 width^2)).
        As 1 + u <= exp u, radius + t cos is below outer exp((t - tube) / outer) with outer = radius + tube, and that
        times the rest is the density of a ring with another radius.
        """
        outer = self.radius + self.tube
        t, probability = _distances(self.tube + self.width**2 / outer, self.width, count, random)
        section = t.unsqueeze(-1) * _directions(count, random) + torch.tensor([self.radius, 0.0])
        return section, probability * section[:, 0].clamp_min(0) / outer * ((self.tube - t) / outer).exp()


class Funnel(Target):
    """Neal's funnel (2003): v = z_1 ~ N(0, scale), z_k ~ N(0, exp(v / 2)); normalised.

    Args:
        dim: at least 2.
        scale: standard deviation of v.

    Raises:
        ConfigurationError: a dimension below 2, or a scale that is not positive.
    """

    def __init__(self, dim: int = 10, scale: float = 3.0) -> None:
        super().__init__()
        check_positive(scale=scale)
        self.dim, self.scale, self.constraints = dim, scale, {"z": f"real[{at_least(2, dim=dim)}]"}

    def log_density(self, *, z: Tensor) -> Tensor:  # type: ignore[override]
        v, rest = z[..., 0], z[..., 1:]
        standardised = rest * (-0.5 * v).exp().unsqueeze(-1)
        within = log_normal(standardised, 0.0, 1.0).sum(-1) - 0.5 * (self.dim - 1) * v
        return log_normal(v, 0.0, self.scale) + within

    def reference(self, count: int, seed: int = 0) -> Parameters:
        eps = torch.randn(at_least(1, count=count), self.dim, generator=seeded_generator(seed))
        v = self.scale * eps[:, :1]
        return {"z": torch.cat([v, (0.5 * v).exp() * eps[:, 1:]], -1)}


class StudentT(Target):
    """A Student's t distribution around 0 in any dimension, all its coordinates of one radius; normalised.

    Args:
        dim: at least 1.
        df: degrees of freedom, a whole number; of 1 and 2 there is no covariance.

    Raises:
        ConfigurationError: a dimension or degrees of freedom below 1.
    """

    def __init__(self, dim: int = 10, df: int = 3) -> None:
        super().__init__()
        self.dim, self.df, self.constraints = dim, at_least(1, df=df), {"z": f"real[{at_least(1, dim=dim)}]"}
        constant = math.lgamma((df + dim) / 2) - math.lgamma(df / 2) - 0.5 * dim * math.log(df * math.pi)
        self.log_constant = constant

    def log_density(self, *, z: Tensor) -> Tensor:  # type: ignore[override]
        return self.log_constant - 0.5 * (self.df + self.dim) * torch.log1p(z.square().sum(-1) / self.df)

    def reference(self, count: int, seed: int = 0) -> Parameters:
        eps = torch.randn(at_least(1, count=count), self.dim + self.df, generator=seeded_generator(seed))
        # chi-square: the sum of df squared normals
        chi_square = eps[:, self.dim :].square().sum(-1, keepdim=True)
        return {"z": eps[:, : self.dim] * (self.df / chi_square).sqrt()}


def grid_means(side: int = 5, spacing: float = 2.0) -> list[list[float]]:
    """The points of a square grid in the plane around 0, `side` times `side` of them: means of a `Mixture`."""
    places = [spacing * (i - 0.5 * (side - 1)) for i in range(side)]
    return [[x, y] for x in places for y in places]


def _on_circle(count: int, radius: float) -> list[list[float]]:
    angles = [2 * math.pi * k / count for k in range(count)]
    return [[radius * math.cos(angle), radius * math.sin(angle)] for angle in angles]


class Mixture(Target):
    """A mixture of normal distributions of equal width; normalised.

    Args:
        means: of its components, equally long; without them eight on a circle of radius 3.
        scale: standard deviation of every coordinate within a component.
        weights: of the components, positive, made to sum to one; without them equal.

    Raises:
        ConfigurationError: means of different lengths, a number of weights that does not fit, or a scale or weight
            that is not positive.
    """

    means: Tensor
    log_weights: Tensor

    def __init__(
        self,
        means: Sequence[Sequence[float]] | None = None,
        scale: float = 0.5,
        weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        check_positive(scale=scale)
        rows = [list(row) for row in means] if means is not None else _on_circle(8, 3.0)
        if not rows or not rows[0] or any(len(row) != len(rows[0]) for row in rows):
            raise ConfigurationError("means: a list of points of the same length was expected")
        shares = list(weights) if weights is not None else [1.0] * len(rows)
        if len(shares) != len(rows):
            raise ConfigurationError(f"weights: {len(shares)} of them for {len(rows)} means")
        for share in shares:
            check_positive(weights=share)
        self.scale, self.constraints = scale, {"z": f"real[{len(rows[0])}]"}
        self.register_buffer("means", torch.tensor(rows, dtype=torch.get_default_dtype()))
        log_weights = torch.tensor(shares, dtype=torch.float64).log().log_softmax(-1)
        self.register_buffer("log_weights", log_weights.to(torch.get_default_dtype()))

    def log_density(self, *, z: Tensor) -> Tensor:  # type: ignore[override]
        means = self.means.to(z)
        scale = torch.full_like(means, self.scale)
        return NormalMixture(self.log_weights.to(z), means, scale).log_prob(z)

    def reference(self, count: int, seed: int = 0) -> Parameters:
        random, means = seeded_generator(seed), self.means.cpu()
        weights = self.log_weights.cpu().exp()
        component = torch.multinomial(weights, at_least(1, count=count), replacement=True, generator=random)
        eps = torch.randn(count, means.shape[1], generator=random)
        return {"z": means[component] + self.scale * eps.to(means.dtype)}


def _directions(count: int, random: torch.Generator) -> Tensor:
    """Points of the unit circle, `(count, 2)`, all equally likely."""
    angle = 2 * math.pi * torch.rand(count, generator=random)
    return torch.stack([angle.cos(), angle.sin()], -1)


def _distances(radius: float, width: float, count: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Proposals of r > 0 with a density in proportion to r N(r; radius, width), and the probabilities to accept them.

    As r / mode <= exp(r / mode - 1), it is below a normal density around radius + width^2 / mode, and at r = mode,
    where both have their maximum, that is the mode itself.
    """
    mode = 0.5 * (radius + math.sqrt(radius**2 + 4 * width**2))
    r = mode + width * torch.randn(count, generator=random)
    return r, (r / mode).clamp_min(0) * (1 - r / mode).exp()
