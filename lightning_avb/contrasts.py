"""Contrasts: the reference density r(z|x) against which the critic is trained.

For the optimal critic T*(x, z) = log q(z|x) - log r(z|x) and any r,

    KL(q(z|x), p(z)) = E_q[ T*(x, z) + log r(z|x) - log p(z) ],

so that the contrast is a free choice: the closer r is to q, the less the critic has to learn
(Mescheder, Nowozin & Geiger 2017, sections 2 and 3.1). r must be fixed given x. Where it is built from random
draws, they are not the ones being scored, and the critic is told of them.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.func import functional_call

from . import noise
from .batch import Shape
from .capabilities import HasMoments
from .conditionals import Conditional
from .distributions import DiagonalNormal, TriangularNormal
from .errors import at_least
from .networks import MLP, Network
from .networks.flows import AutoregressiveFlow, FlowKind


class Reference(NamedTuple):
    """r(z|x) for the rows of one batch, and how the critic looks at z.

    Attributes:
        to_critic: maps z, `(samples, batch, latent_dim)`, to what the critic sees of it, and to log r(z|x) - log p(z),
            `(samples, batch)` in nats. The parameters of r are constants in it.
        rsample: maps a number of samples to draws of r, as the critic sees them, constants to the gradient.
        context: `(batch, context_dim)` or None, what the critic must know of r.
        fit: maps z to -log r(z|x), `(samples, batch)`, whose minimum over the parameters of r fits r to q; None: r
            has no parameters.
    """

    to_critic: Callable[[Tensor], tuple[Tensor, Tensor]]
    rsample: Callable[[int], Tensor]
    context: Tensor | None = None
    fit: Callable[[Tensor], Tensor] | None = None


class Contrast(Conditional, abc.ABC):
    """`contrast(q, p, x, y)` is the reference for posterior q, prior p and the rows x with labels y.

    Attributes:
        context_dim: length of the context that the critic gets.
    """

    context_dim: int

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
            # log r - log p is 0, and so is its gradient in z. A learned prior still has to follow q: r is constant.
            log_p = p.log_prob(z.detach())
            return z, log_p.detach() - log_p if log_p.requires_grad else torch.zeros_like(log_p)

        return Reference(to_critic, lambda samples: p.expand(q.batch_shape).sample((samples,)))


def _moments(q: Distribution, draws: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of q, constants to the gradient, from `draws` draws where no closed form is known."""
    if isinstance(q, HasMoments):
        mean, scale = q.moments(draws)
    else:
        mean, scale = q.mean.detach(), q.stddev.detach()
    return mean, scale.clamp_min(1e-6)  # r may be any density, so rows whose draws coincide cost nothing but accuracy


class GaussianContrast(Contrast):
    """r(z|x) = N(m, diag(s^2)) with the moments of q(z|x): adaptive contrast (section 3.1 of the paper).

    The critic sees z standardised, (z - m) / s, where draws of r are N(0, I), and m and log s as its context: they
    come from `draws` noise draws of their own for a q without closed moments, so they vary from batch to batch. They
    are constants to the gradient, here, in what the critic sees and in log r alike.

    Args:
        data_shape, latent_dim, classes: given by the model.
        draws: noise draws per row for the moments, at least 2; unused where q knows its moments.
    """

    def __init__(self, data_shape: Shape, latent_dim: int, classes: int = 0, draws: int = 8) -> None:
        super().__init__(classes)
        self.context_dim, self.draws = 2 * latent_dim, at_least(2, draws=draws)

    def forward(self, q: Distribution, p: Distribution, x: Tensor, y: Tensor | None = None) -> Reference:
        mean, scale = _moments(q, self.draws)
        r = DiagonalNormal(mean, scale)

        def to_critic(z: Tensor) -> tuple[Tensor, Tensor]:
            return (z - mean) / scale, r.log_prob(z) - p.log_prob(z)

        def rsample(samples: int) -> Tensor:
            return noise.normal((samples, *mean.shape), mean)

        return Reference(to_critic, rsample, torch.cat([mean, scale.log()], -1))


class FullGaussianContrast(Contrast):
    """r(z|x) = N(m, L L^T) with mean and covariance of q(z|x): adaptive contrast that sees correlations.

    As `GaussianContrast`, with L^-1 (z - m) in place of (z - m) / s. The moments come from noise draws of their own.

    Args:
        data_shape, latent_dim, classes: given by the model.
        draws: noise draws per row for the moments; several times latent_dim, or the covariance means little.
    """

    def __init__(self, data_shape: Shape, latent_dim: int, classes: int = 0, draws: int = 128) -> None:
        super().__init__(classes)
        self.context_dim = latent_dim + latent_dim * (latent_dim + 1) // 2
        self.draws = at_least(latent_dim + 1, draws=draws)
        self.triangle = torch.tril_indices(latent_dim, latent_dim).unbind()

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

        rows, columns = self.triangle
        return Reference(to_critic, rsample, torch.cat([mean, tril[..., rows, columns]], -1))


class FlowContrast(GaussianContrast):
    """r(z|x): a conditional flow on top of the Gaussian with q's moments, fitted to draws of q by maximum likelihood.

    z standardised by q's moments, as in `GaussianContrast`, goes through a flow that sees features of x; the result,
    N(0, I) for draws of r, is what the critic sees. The flow is the identity at the start, which is adaptive
    contrast, and then takes over from the critic what q has of a shape. Scale and position stay matched by the
    moments: a flow that had to follow them would lag, and the encoder would run away from it. The player
    `contrast` moves the flow, on draws of q that are constants to it; in the model's loss its weights are constants.

    Args:
        data_shape, latent_dim, classes, draws: see `GaussianContrast`.
        network: from x to the features.
        features: how many.
        kind, transforms, flow_hidden, bins: see `AutoregressiveFlow`.
    """

    def __init__(
        self,
        data_shape: Shape,
        latent_dim: int,
        classes: int = 0,
        draws: int = 8,
        network: Network = partial(MLP, hidden=(128,)),
        features: int = 32,
        kind: FlowKind = "spline",
        transforms: int = 2,
        flow_hidden: Sequence[int] = (64, 64),
        bins: int = 8,
    ) -> None:
        super().__init__(data_shape, latent_dim, classes, draws)
        self.network = network(data_shape, (at_least(1, features=features),), classes)
        self.applied = _Applied(AutoregressiveFlow(latent_dim, features, kind, transforms, flow_hidden, bins))

    @property
    def flow(self) -> AutoregressiveFlow:
        """From standardised z to what the critic sees, given features of x."""
        return self.applied.flow

    def forward(self, q: Distribution, p: Distribution, x: Tensor, y: Tensor | None = None) -> Reference:
        mean, scale = _moments(q, self.draws)
        features = self.network(x, self.label(y, x)).to(mean.dtype)
        constant = {name: parameter.detach() for name, parameter in self.applied.named_parameters()}

        def density(u: Tensor, ladj: Tensor) -> Tensor:
            standard = DiagonalNormal(torch.zeros_like(mean), torch.ones_like(scale))
            return standard.log_prob(u) + ladj - scale.log().sum(-1)

        def to_critic(z: Tensor) -> tuple[Tensor, Tensor]:
            u, ladj = functional_call(self.applied, constant, ((z - mean) / scale, features.detach()))
            return u, density(u, ladj) - p.log_prob(z)

        def fit(z: Tensor) -> Tensor:
            return -density(*self.applied((z.detach() - mean) / scale, features))

        def rsample(samples: int) -> Tensor:
            return noise.normal((samples, *mean.shape), mean)

        return Reference(to_critic, rsample, torch.cat([mean, scale.log()], -1), fit)


class _Applied(nn.Module):
    """A flow as a function of (z, features), of which `functional_call` sees the whole: zuko reads weights late."""

    def __init__(self, flow: AutoregressiveFlow) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, z: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.flow(features).call_and_ladj(z)
