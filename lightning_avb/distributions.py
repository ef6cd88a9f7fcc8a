"""Distributions that torch.distributions lacks, or whose noise must come from `lightning_avb.noise`.

Shapes: `rsample((samples,))` is `(samples, batch, latent_dim)`, `log_prob` of that is `(samples, batch)`, in nats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints, register_kl

from . import noise

_LOG_2PI = math.log(2 * math.pi)


class DiagonalNormal(Distribution):
    """Normal distribution with independent dimensions.

    Args:
        loc: `(batch, dim)` or `(dim,)`, the mean.
        scale: the same shape, the standard deviation.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}  # type: ignore[assignment]
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        self.loc, self.scale = loc, scale
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def stddev(self) -> Tensor:
        return self.scale

    @property
    def variance(self) -> Tensor:
        return self.scale.square()

    def _noise(self, sample_shape: tuple[int, ...]) -> Tensor:
        return noise.normal((*sample_shape, *self.loc.shape), self.loc)

    def _at(self, eps: Tensor) -> Tensor:
        return torch.addcmul(self.loc, self.scale, eps)

    def rsample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        return self._at(self._noise(sample_shape))

    def rsample_and_log_prob(self, sample_shape: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
        """Draws with their log-density, without standardising them again."""
        eps = self._noise(sample_shape)
        return self._at(eps), self._log_density(eps)

    def log_prob(self, value: Tensor) -> Tensor:
        return self._log_density((value - self.loc) / self.scale)

    def _log_density(self, standardised: Tensor) -> Tensor:
        dim = self.loc.shape[-1]
        return -0.5 * (standardised.square().sum(-1) + dim * _LOG_2PI) - self.scale.log().sum(-1)

    def entropy(self) -> Tensor:
        return self.scale.log().sum(-1) + 0.5 * self.loc.shape[-1] * (1 + _LOG_2PI)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> DiagonalNormal:
        shape = (*batch_shape, *self.event_shape)
        return DiagonalNormal(self.loc.expand(shape), self.scale.expand(shape))


@register_kl(DiagonalNormal, DiagonalNormal)
def _kl(q: DiagonalNormal, p: DiagonalNormal) -> Tensor:
    ratio, shift = q.scale / p.scale, (q.loc - p.loc) / p.scale
    return 0.5 * (ratio.square() + shift.square() - 1).sum(-1) - ratio.log().sum(-1)


class TriangularNormal(Distribution):
    """Normal distribution with a full covariance, scale_tril scale_tril^T.

    Args:
        loc: `(batch, dim)`, the mean.
        scale_tril: `(batch, dim, dim)`, lower triangular with a positive diagonal.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}  # type: ignore[assignment]
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, loc: Tensor, scale_tril: Tensor) -> None:
        self.loc, self.scale_tril = loc, scale_tril
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        return self.scale_tril.square().sum(-1)

    @property
    def covariance_matrix(self) -> Tensor:
        return self.scale_tril @ self.scale_tril.mT

    def _at(self, eps: Tensor) -> Tensor:
        return self.loc + (self.scale_tril @ eps.unsqueeze(-1)).squeeze(-1)

    def rsample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        return self.rsample_and_log_prob(sample_shape)[0]

    def rsample_and_log_prob(self, sample_shape: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
        """Draws with their log-density, without solving for their noise again."""
        eps = noise.normal((*sample_shape, *self.loc.shape), self.loc)
        return self._at(eps), self._log_density(eps)

    def log_prob(self, value: Tensor) -> Tensor:
        shift = (value - self.loc).unsqueeze(-1)
        return self._log_density(torch.linalg.solve_triangular(self.scale_tril, shift, upper=False).squeeze(-1))

    def _log_density(self, standardised: Tensor) -> Tensor:
        return -0.5 * (standardised.square().sum(-1) + self.loc.shape[-1] * _LOG_2PI) - self._log_volume

    @property
    def _log_volume(self) -> Tensor:
        return self.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)


@register_kl(TriangularNormal, DiagonalNormal)
def _kl_triangular(q: TriangularNormal, p: DiagonalNormal) -> Tensor:
    shift = (q.loc - p.loc) / p.scale
    spread = (q.scale_tril / p.scale.unsqueeze(-1)).square().sum(-1)
    return 0.5 * (spread + shift.square() - 1).sum(-1) + p.scale.log().sum(-1) - q._log_volume


class NormalMixture(Distribution):
    """A mixture of normal distributions, the same for every row but for the weights.

    Args:
        logits: `(components,)` or `(batch, components)`, unnormalised log-weights; -inf: not this component.
        loc: `(components, dim)`, the means.
        scale: `(components, dim)`, standard deviations of independent dimensions, or `(components, dim, dim)`, the
            lower triangle of `TriangularNormal`.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}  # type: ignore[assignment]
    support = constraints.real_vector

    def __init__(self, logits: Tensor, loc: Tensor, scale: Tensor) -> None:
        self.logits, self.loc, self.scale = logits.log_softmax(-1), loc, scale
        self._normal = DiagonalNormal if scale.ndim == loc.ndim else TriangularNormal
        super().__init__(logits.shape[:-1], loc.shape[-1:], validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        parts = self._normal(self.loc, self.scale).log_prob(value.unsqueeze(-2))
        return (parts + self.logits).logsumexp(-1)

    @torch.no_grad()
    def sample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        eps = noise.normal((*sample_shape, *self.batch_shape, self.loc.shape[-1] + 1), self.loc)
        uniform, cuts = torch.special.ndtr(eps[..., :1]), self.logits.exp().cumsum(-1)[..., :-1]
        component = (uniform > cuts).sum(-1)
        return self._normal(self.loc[component], self.scale[component])._at(eps[..., 1:])

    def given(self, component: Tensor) -> NormalMixture:
        """Row i from one component alone, or from all of them where `component[i]` is -1; `(batch,)` int64."""
        asked = component.unsqueeze(-1)
        own = (asked == torch.arange(len(self.loc), device=asked.device)) | (asked < 0)
        return NormalMixture(self.logits.where(own, -math.inf), self.loc, self.scale)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> NormalMixture:
        return NormalMixture(self.logits.expand(*batch_shape, len(self.loc)), self.loc, self.scale)


class SwissRoll(Distribution):
    """The spiral `radius (t / end) (cos t, sin t)`, 0 < t < end = 2 pi turns, with normal noise across it.

    Equal lengths of the spiral are equally likely. It has draws and no density.

    Args:
        begin, stop: `(batch,)` or `()`, where a row's stretch of the spiral begins and stops, as shares of its length.
        turns: how often it goes round.
        radius: distance of its end from the origin.
        width: standard deviation of the noise, at right angles to the spiral.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}  # type: ignore[assignment]
    support = constraints.real_vector

    def __init__(self, begin: Tensor, stop: Tensor, turns: float, radius: float, width: float) -> None:
        self.begin, self.stop, self.turns, self.radius, self.width = begin, stop, turns, radius, width
        super().__init__(begin.shape, torch.Size([2]), validate_args=False)

    @torch.no_grad()
    def sample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        eps = noise.normal((*sample_shape, *self.batch_shape, 2), self.begin)
        end = 2 * math.pi * self.turns
        length = _spiral_length(eps.new_tensor(end))
        t = _spiral_angle(length * torch.lerp(self.begin, self.stop, torch.special.ndtr(eps[..., 0])))
        # In polar coordinates the spiral's direction is (1, t), and what is at right angles to it (-t, 1).
        across = self.width * eps[..., 1] / (1 + t.square()).sqrt()
        outwards = self.radius / end * t - t * across
        cos, sin = t.cos(), t.sin()
        return torch.stack([outwards * cos - across * sin, outwards * sin + across * cos], -1)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> SwissRoll:
        begin, stop = self.begin.expand(tuple(batch_shape)), self.stop.expand(tuple(batch_shape))
        return SwissRoll(begin, stop, self.turns, self.radius, self.width)


def _spiral_length(t: Tensor) -> Tensor:
    """Of `t (cos t, sin t)` from the origin."""
    return 0.5 * (t * (1 + t.square()).sqrt() + t.asinh())


def _spiral_angle(length: Tensor) -> Tensor:
    """The inverse of `_spiral_length`, by Newton's method from above: the function is convex."""
    t = (2 * length).sqrt()
    for _ in range(5):
        t = t - (_spiral_length(t) - length) / (1 + t.square()).sqrt()
    return t


class _Pushed(Distribution):
    """Draws that a network makes of noise; mean and deviation are known from draws alone."""

    arg_constraints: ClassVar[dict[str, Any]] = {}  # type: ignore[assignment]
    support = constraints.real_vector
    has_rsample = True

    @torch.no_grad()
    def moments(self, draws: int) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, `(batch, dim)` each, constants to the gradient.

        They come from `draws` new samples (at least 2) of every row, or from the closed form where there is one.
        """
        deviation, mean = torch.std_mean(self.rsample((draws,)), 0)
        return mean, deviation


class Implicit(_Pushed):
    """A black-box distribution: noise pushed through a network. It has draws and moments, and no density.

    Args:
        push: maps a number of samples to `(samples, batch, dim)` reparametrised draws, new ones at every call.
        batch_shape, event_shape: `(batch,)` and `(dim,)`.
        moments: mean and standard deviation, both `(batch, dim)`, where the architecture gives them in closed form;
            without it `moments` estimates them from draws.
    """

    def __init__(
        self,
        push: Callable[[int], Tensor],
        batch_shape: torch.Size,
        event_shape: torch.Size,
        moments: Callable[[], tuple[Tensor, Tensor]] | None = None,
    ) -> None:
        self._push, self._moments = push, moments
        super().__init__(batch_shape, event_shape, validate_args=False)

    def rsample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        draws = self._push(math.prod(sample_shape))
        return draws.reshape(*sample_shape, *draws.shape[1:])

    @torch.no_grad()
    def moments(self, draws: int) -> tuple[Tensor, Tensor]:
        if self._moments is None:
            return super().moments(draws)
        mean, deviation = self._moments()
        return mean.detach(), deviation.detach()


class Hierarchical(_Pushed):
    """q(z|x) = the integral of q(z|e, x) q(e|x) over e: a distribution whose density is known in expectation only.

    It has no `log_prob`. Its draws come with a number whose expectation, given z, is not below log q(z|x), so that
    an ELBO with it stays a lower bound in expectation.

    Args:
        draw: maps a number of samples to draws `(samples, batch, dim)` and those numbers, `(samples, batch)`.
        batch_shape, event_shape: `(batch,)` and `(dim,)`.
    """

    def __init__(
        self, draw: Callable[[int], tuple[Tensor, Tensor]], batch_shape: torch.Size, event_shape: torch.Size
    ) -> None:
        self._draw = draw
        super().__init__(batch_shape, event_shape, validate_args=False)

    def rsample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        return self.rsample_and_log_prob(sample_shape)[0]

    def rsample_and_log_prob(self, sample_shape: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
        """Draws, and for each the upper bound of its log-density."""
        z, log_q = self._draw(math.prod(sample_shape))
        return z.reshape(*sample_shape, *z.shape[1:]), log_q.reshape(*sample_shape, *log_q.shape[1:])


class PooledMixture(_Pushed):
    """q(z|x) = E_e[ N(z; m(x, e), diag(s(x, e)^2)) ], a Gaussian given its mixing noise e (Yin & Zhou 2018).

    Its density is known in expectation only. All draws of a call share their components: draw k made by e_k comes with

        log 1/K sum_j N(z_k; m(x, e_j), s(x, e_j)),      j = 1..K, its own among them,

    whose expectation given z_k is not below log q(z_k|x) (their equation 6), and which costs no further network call.

    Args:
        components: maps a number of samples to the Gaussians of that many new e, `(samples, batch, dim)`.
        batch_shape, event_shape: `(batch,)` and `(dim,)`.
    """

    def __init__(
        self, components: Callable[[int], DiagonalNormal], batch_shape: torch.Size, event_shape: torch.Size
    ) -> None:
        self.components = components
        super().__init__(batch_shape, event_shape, validate_args=False)

    def rsample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        draws = self.components(math.prod(sample_shape)).rsample()
        return draws.reshape(*sample_shape, *draws.shape[1:])

    def rsample_and_log_prob(self, sample_shape: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
        """Draws, and for each the upper bound of its log-density from all of them."""
        components = self.components(math.prod(sample_shape))
        z = components.rsample()
        log_q = pairwise_log_prob(components, z).logsumexp(1) - math.log(len(z))
        return z.reshape(*sample_shape, *z.shape[1:]), log_q.reshape(*sample_shape, *log_q.shape[1:])


def pairwise_log_prob(components: DiagonalNormal, z: Tensor) -> Tensor:
    """log N(z_k; m_j, s_j), `(samples, components, batch)`, by matrix products, for the rows of a batch.

    |z - m|^2 / s^2 is multiplied out, around the mean of a row's m, where it loses the fewest digits: some
    1e-7 |z / s|^2.
    """
    centre = components.loc.detach().mean(0)
    z, loc, precision = z - centre, components.loc - centre, components.scale.square().reciprocal()
    weighted = loc * precision
    with torch.autocast(z.device.type, enabled=False):
        products = torch.einsum("kbd,jbd->kjb", z.square(), precision) - 2 * torch.einsum("kbd,jbd->kjb", z, weighted)
    constant = (loc * weighted).sum(-1) + 2 * components.scale.log().sum(-1) + z.shape[-1] * _LOG_2PI
    return -0.5 * (products + constant)


class Flow(_Pushed):
    """A normalizing flow: z = loc + scale * transform(eps), eps ~ N(0, I) (Rezende & Mohamed 2015).

    Drawing goes through `transform`, the density of a given z through its inverse.

    Args:
        loc, scale: `(batch, dim)` or `(dim,)`.
        transform: a bijection of vectors with `call_and_ladj` (zuko's transforms have it).
    """

    def __init__(self, loc: Tensor, scale: Tensor, transform: Any) -> None:
        self.loc, self.scale, self.transform = loc, scale, transform
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=False)

    @property
    def _base(self) -> DiagonalNormal:
        return DiagonalNormal(torch.zeros_like(self.loc), torch.ones_like(self.scale))

    def rsample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        return self.rsample_and_log_prob(sample_shape)[0]

    def rsample_and_log_prob(self, sample_shape: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
        """Draws with their log-density: the flow is never inverted."""
        eps, log_base = self._base.rsample_and_log_prob(sample_shape)
        u, ladj = self.transform.call_and_ladj(eps)
        return torch.addcmul(self.loc, self.scale, u), log_base - ladj - self.scale.log().sum(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        eps, ladj = self.transform.inv.call_and_ladj((value - self.loc) / self.scale)
        return self._base.log_prob(eps) + ladj - self.scale.log().sum(-1)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Flow:
        shape = (*batch_shape, *self.event_shape)
        return Flow(self.loc.expand(shape), self.scale.expand(shape), self.transform)


class Bernoulli(torch.distributions.Bernoulli):
    """torch's Bernoulli by its logits, with a `log_prob` that takes a sixth of the time on a CPU.

    Args:
        logits: any shape.
    """

    def __init__(self, logits: Tensor) -> None:
        super().__init__(logits=logits, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        return _BernoulliLogProb.apply(*torch.broadcast_tensors(self.logits, value))

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Bernoulli:
        return Bernoulli(self.logits.expand(tuple(batch_shape)))


class _BernoulliLogProb(torch.autograd.Function):
    """x l - max(l, 0) + log sigmoid(|l|) for logits l: torch has no vectorised log1p, which the usual form needs."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, x: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(logits, x)
        return (x * logits).sub_(logits.relu()).add_(logits.abs().sigmoid_().log_())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None]:  # type: ignore[override]
        logits, x = ctx.saved_tensors
        return (x - logits.sigmoid()) * gradient, logits * gradient if ctx.needs_input_grad[1] else None


class DiscretizedLogistic(Distribution):
    """The values k / (levels - 1), k = 0 .. levels - 1, with the mass that a logistic density has around each.

    Args:
        loc: the logistic's location, in units of x.
        scale: its scale, broadcastable to `loc`.
        levels: number of values.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}  # type: ignore[assignment]

    def __init__(self, loc: Tensor, scale: Tensor, levels: int = 256) -> None:
        self.loc, self.scale, self.levels = loc, scale, levels
        super().__init__(loc.shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The location, kept to [0, 1]: the mean to within the mass that falls beyond."""
        return self.loc.clamp(0, 1)

    @torch.no_grad()
    def sample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        uniform = torch.rand((*sample_shape, *self.loc.shape), dtype=self.loc.dtype, device=self.loc.device)
        x = self.loc + self.scale * torch.logit(uniform, 1e-6)
        return (x * (self.levels - 1)).round().clamp(0, self.levels - 1) / (self.levels - 1)

    def log_prob(self, value: Tensor) -> Tensor:
        # F(b) - F(a) = (1 - exp(a - b)) sigmoid(b) sigmoid(-a): no difference of nearly equal numbers.
        half, top = 0.5 / (self.levels - 1), 1 - 0.25 / (self.levels - 1)
        above = (value - self.loc + half) / self.scale
        below = (value - self.loc - half) / self.scale
        width = torch.log(-torch.expm1(-2 * half / self.scale))
        log_above, log_below = nn.functional.logsigmoid(above), nn.functional.logsigmoid(-below)
        return torch.where(
            value < 1 - top, log_above, torch.where(value > top, log_below, log_above + log_below + width)
        )

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> DiscretizedLogistic:
        return DiscretizedLogistic(self.loc.expand(tuple(batch_shape)), self.scale, self.levels)
