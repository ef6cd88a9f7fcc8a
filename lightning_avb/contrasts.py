"""Contrasts: the reference density r(z|x) against which the critic is trained.

For the optimal critic T*(x, z) = log q(z|x) - log r(z|x) and any r,

    KL(q(z|x), p(z)) = E_q[ T*(x, z) + log r(z|x) - log p(z) ],

so the contrast is a free choice: the closer r is to q, the less the critic has to learn
(Mescheder, Nowozin & Geiger 2017, sections 2 and 3.1). r must be fixed given x. If it is estimated from draws, these
are not the draws that are scored, and the critic gets the estimates as its context.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from . import noise
from .batch import Shape
from .capabilities import HasMoments, Located, can, read_shape
from .conditionals import Conditional
from .distributions import DiagonalNormal, TriangularNormal
from .errors import at_least


class Reference(NamedTuple):
    """r(z|x) for the rows of one batch, and the coordinates of z that the critic gets.

    Attributes:
        to_critic: maps z, `(samples, batch, latent_dim)`, to the critic's coordinates, of the same shape, and to
            log r(z|x) - log p(z), `(samples, batch)` in nats.
        rsample: maps a number of samples to draws of r in the critic's coordinates, without gradient.
        context: `(batch, context_dim)`, the parameters of r as the critic gets them, or None.
        features: `(batch, feature_dim)`, what the critic gets in place of x; None: x itself.
    """

    to_critic: Callable[[Tensor], tuple[Tensor, Tensor]]
    rsample: Callable[[int], Tensor]
    context: Tensor | None = None
    features: Tensor | None = None


class Contrast(Conditional, abc.ABC):
    """`contrast(q, p, x, y)` is the `Reference` for posterior q, prior p and rows x with labels y.

    Attributes:
        context_dim: length of the context that the critic gets.
    """

    context_dim: int

    def critic_shape(self, encoder: Any, data_shape: Shape) -> Shape:
        """Shape of what the critic gets as a row of x: that of the data, or of the encoder's features."""
        return data_shape

    @abc.abstractmethod
    def forward(self, q: Distribution, p: Distribution, x: Tensor, y: Tensor | None = None) -> Reference: ...


ContrastRecipe = Callable[[Shape, int, int], Contrast]
"""(shape of a row of x, latent_dim, classes) -> contrast."""


class PriorContrast(Contrast):
    """r(z|x) = p(z): the paper's Algorithm 1.

    Args:
        data_shape, latent_dim, classes: given by the model.
    """

    context_dim = 0

    def __init__(self, data_shape: Shape, latent_dim: int, classes: int = 0) -> None:
        super().__init__(classes)

    def forward(self, q: Distribution, p: Distribution, x: Tensor, y: Tensor | None = None) -> Reference:
        def to_critic(z: Tensor) -> tuple[Tensor, Tensor]:
            # log r - log p is 0, and so is its gradient in z; but a learned prior is trained towards q: r is constant.
            log_p = p.log_prob(z.detach())
            return z, log_p.detach() - log_p if log_p.requires_grad else torch.zeros_like(log_p)

        return Reference(to_critic, lambda samples: p.expand(q.batch_shape).sample((samples,)))


def _moments(q: Any, draws: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of q, constants to the gradient, from `draws` draws where no closed form is known."""
    if can(q, HasMoments):
        mean, scale = q.moments(draws)
    else:
        mean, scale = q.mean.detach(), q.stddev.detach()
    return mean, scale.clamp_min(1e-6)  # r may be any density, so rows whose draws coincide cost nothing but accuracy


class GaussianContrast(Contrast):
    """r(z|x) = N(m, diag(s^2)) with the moments of q(z|x): adaptive contrast (section 3.1 of the paper).

    The critic gets standardised z, (z - m) / s, in which draws of r are N(0, I). If q has no moments in closed form,
    they are estimated from `draws` separate draws and vary from batch to batch.

    Of a black box nothing else is known: m and s are constants for the gradient, in the critic's input and in log r,
    and the critic gets x, m and log s. A q that is `Located` knows more. z = location + scale u, and only the moments
    of u have to be estimated. Those are constants, while location and scale, as functions of x, are attached to the
    gradient, which makes that of -sum log scale exact. The critic then gets the features in place of x, and the moments
    of u: all that the law of (z - m) / s depends on.

    Args:
        data_shape, latent_dim, classes: given by the model.
        draws: draws per row for the moments, at least 2; not used if q has moments in closed form.
    """

    def __init__(self, data_shape: Shape, latent_dim: int, classes: int = 0, draws: int = 32) -> None:
        super().__init__(classes)
        self.context_dim, self.draws = 2 * latent_dim, at_least(2, draws=draws)

    def critic_shape(self, encoder: Any, data_shape: Shape) -> Shape:
        return read_shape(encoder, data_shape)

    def forward(self, q: Distribution, p: Distribution, x: Tensor, y: Tensor | None = None) -> Reference:
        mean, scale = _moments(q, self.draws)
        known, features = (mean, scale.log()), None
        if can(q, Located):
            located: Located = q  # type: ignore[assignment]
            location, unit = located.location, located.scale
            shift, stretch = (mean - location.detach()) / unit.detach(), scale / unit.detach()
            mean, scale = location + unit * shift, unit * stretch
            known, features = (shift, stretch.log()), located.features.detach()
        r = DiagonalNormal(mean, scale)

        def to_critic(z: Tensor) -> tuple[Tensor, Tensor]:
            return (z - mean) / scale, r.log_prob(z) - p.log_prob(z)

        def rsample(samples: int) -> Tensor:
            return noise.normal((samples, *mean.shape), mean)

        return Reference(to_critic, rsample, torch.cat(known, -1), features)


class FullGaussianContrast(Contrast):
    """r(z|x) = N(m, L L^T) with mean and covariance of q(z|x): adaptive contrast with correlations.

    As `GaussianContrast`, with L^-1 (z - m) in place of (z - m) / s. The moments are estimated from separate draws.

    Args:
        data_shape, latent_dim, classes: given by the model.
        draws: draws per row for the moments; it should be several times latent_dim for a useful covariance.
    """

    def __init__(self, data_shape: Shape, latent_dim: int, classes: int = 0, draws: int = 128) -> None:
        super().__init__(classes)
        self.context_dim = latent_dim + latent_dim * (latent_dim + 1) // 2
        self.draws = at_least(latent_dim + 1, draws=draws)
        self.rows: Tensor
        self.columns: Tensor
        rows, columns = torch.tril_indices(latent_dim, latent_dim)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)

    def forward(self, q: Distribution, p: Distribution, x: Tensor, y: Tensor | None = None) -> Reference:
        with torch.no_grad():
            z = q.rsample((self.draws,))
            mean = z.mean(0)
            off = (z - mean).movedim(0, -1)
            covariance = off @ off.mT / (self.draws - 1)
            # r may be any density, so a ridge costs nothing but accuracy.
            ridge = 1e-4 * covariance.diagonal(dim1=-2, dim2=-1) + 1e-12
            tril = torch.linalg.cholesky(covariance + torch.diag_embed(ridge))
        r = TriangularNormal(mean, tril)

        def to_critic(z: Tensor) -> tuple[Tensor, Tensor]:
            off = (z - mean).unsqueeze(-1)
            return torch.linalg.solve_triangular(tril, off, upper=False).squeeze(-1), r.log_prob(z) - p.log_prob(z)

        def rsample(samples: int) -> Tensor:
            return noise.normal((samples, *mean.shape), mean)

        return Reference(to_critic, rsample, torch.cat([mean, tril[..., self.rows, self.columns]], -1))
