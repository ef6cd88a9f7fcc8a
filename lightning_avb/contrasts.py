"""Contrasts: the reference density r(z|x) against which the critic is trained.

For the optimal critic T*(x, z) = log q(z|x) - log r(z|x) and any r,

    KL(q(z|x), p(z)) = E_q[ T*(x, z) + log r(z|x) - log p(z) ],

so the contrast is a free choice: the closer r is to q, the less the critic has to learn
(Mescheder, Nowozin & Geiger 2017, sections 2 and 3.1). r must be fixed given x. If it is estimated from draws, these
are not the draws that are scored, and the critic gets the estimates as its context.
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
    """r(z|x) for the rows of one batch, and the coordinates of z that the critic gets.

    Attributes:
        to_critic: maps z, `(samples, batch, latent_dim)`, to the critic's coordinates, of the same shape, and to
            log r(z|x) - log p(z), `(samples, batch)` in nats. The parameters of r are constants in it.
        rsample: maps a number of samples to draws of r in the critic's coordinates, without gradient.
        context: `(batch, context_dim)`, the parameters of r as the critic gets them, or None.
        fit: maps z to the loss of the parameters of r, -log r(z|x), `(samples, batch)`; None: r has no parameters.
    """

    to_critic: Callable[[Tensor], tuple[Tensor, Tensor]]
    rsample: Callable[[int], Tensor]
    context: Tensor | None = None
    fit: Callable[[Tensor], Tensor] | None = None


class Contrast(Conditional, abc.ABC):
    """`contrast(q, p, x, y)` is the `Reference` for posterior q, prior p and rows x with labels y.

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
            # log r - log p is 0, and so is its gradient in z; but a learned prior is trained towards q: r is constant.
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

    The critic gets standardised z, (z - m) / s, in which draws of r are N(0, I), and m and log s as context. If q has
    no moments in closed form, they are estimated from `draws` separate draws and vary from batch to batch. They are
    constants for the gradient, both in the critic's input and in log r.

    Args:
        data_shape, latent_dim, classes: given by the model.
        draws: draws per row for the moments, at least 2; not used if q has moments in closed form.
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

    z is standardised by q's moments, as in `GaussianContrast`, and goes through a flow that is conditioned on features
    of x. The critic gets the result, which is N(0, I) for draws of r. At the start the flow is the identity, which is
    adaptive contrast; then it learns the shape of q, so that the critic does not have to. Location and scale still come
    from the moments: a flow that had to follow them would lag behind a moving encoder. The player `contrast` trains the
    flow on draws of q, which are constants in its loss; in the model's loss the flow's weights are constants.

    Args:
        data_shape, latent_dim, classes, draws: see `GaussianContrast`.
        network: from x to the features.
        features: their number.
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
        self.flow_function = _FlowFunction(
            AutoregressiveFlow(latent_dim, features, kind, transforms, flow_hidden, bins)
        )

    @property
    def flow(self) -> AutoregressiveFlow:
        """From standardised z to the critic's coordinates, given features of x."""
        return self.flow_function.flow

    def forward(self, q: Distribution, p: Distribution, x: Tensor, y: Tensor | None = None) -> Reference:
        mean, scale = _moments(q, self.draws)
        features = self.network(x, self.label(y, x)).to(mean.dtype)
        constant = {name: parameter.detach() for name, parameter in self.flow_function.named_parameters()}

        def density(u: Tensor, ladj: Tensor) -> Tensor:
            standard = DiagonalNormal(torch.zeros_like(mean), torch.ones_like(scale))
            return standard.log_prob(u) + ladj - scale.log().sum(-1)

        def to_critic(z: Tensor) -> tuple[Tensor, Tensor]:
            u, ladj = functional_call(self.flow_function, constant, ((z - mean) / scale, features.detach()))
            return u, density(u, ladj) - p.log_prob(z)

        def fit(z: Tensor) -> Tensor:
            return -density(*self.flow_function((z.detach() - mean) / scale, features))

        def rsample(samples: int) -> Tensor:
            return noise.normal((samples, *mean.shape), mean)

        return Reference(to_critic, rsample, torch.cat([mean, scale.log()], -1), fit)


class _FlowFunction(nn.Module):
    """A flow as one function of (z, features) for `functional_call`: zuko reads weights when it is applied."""

    def __init__(self, flow: AutoregressiveFlow) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, z: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.flow(features).call_and_ladj(z)
