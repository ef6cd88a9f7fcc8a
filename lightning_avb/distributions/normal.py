"""Normal distributions and mixtures of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints, register_kl

from .. import noise

LOG_2PI = math.log(2 * math.pi)


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

    def from_noise(self, eps: Tensor) -> Tensor:
        """Draws from standard normal noise `(..., dim)`."""
        return torch.addcmul(self.loc, self.scale, eps)

    def rsample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        return self.from_noise(self._noise(sample_shape))

    def rsample_and_log_prob(self, sample_shape: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
        """Draws `(samples, batch, dim)` and their log-density `(samples, batch)`, computed from the same noise."""
        eps = self._noise(sample_shape)
        return self.from_noise(eps), self._log_density(eps)

    def log_prob(self, value: Tensor) -> Tensor:
        return self._log_density((value - self.loc) / self.scale)

    def _log_density(self, standardised: Tensor) -> Tensor:
        dim = self.loc.shape[-1]
        return -0.5 * (standardised.square().sum(-1) + dim * LOG_2PI) - self.scale.log().sum(-1)

    def entropy(self) -> Tensor:
        return self.scale.log().sum(-1) + 0.5 * self.loc.shape[-1] * (1 + LOG_2PI)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> DiagonalNormal:
        shape = (*batch_shape, *self.event_shape)
        return DiagonalNormal(self.loc.expand(shape), self.scale.expand(shape))


@register_kl(DiagonalNormal, DiagonalNormal)
def _kl_diagonal(q: DiagonalNormal, p: DiagonalNormal) -> Tensor:
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

    def from_noise(self, eps: Tensor) -> Tensor:
        """Draws from standard normal noise `(..., dim)`."""
        return self.loc + (self.scale_tril @ eps.unsqueeze(-1)).squeeze(-1)

    def rsample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        return self.rsample_and_log_prob(sample_shape)[0]

    def rsample_and_log_prob(self, sample_shape: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
        """Draws `(samples, batch, dim)` and their log-density `(samples, batch)`, computed from the same noise."""
        eps = noise.normal((*sample_shape, *self.loc.shape), self.loc)
        return self.from_noise(eps), self._log_density(eps)

    def log_prob(self, value: Tensor) -> Tensor:
        shift = (value - self.loc).unsqueeze(-1)
        return self._log_density(torch.linalg.solve_triangular(self.scale_tril, shift, upper=False).squeeze(-1))

    def _log_density(self, standardised: Tensor) -> Tensor:
        return -0.5 * (standardised.square().sum(-1) + self.loc.shape[-1] * LOG_2PI) - self._log_det

    @property
    def _log_det(self) -> Tensor:
        return self.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)


@register_kl(TriangularNormal, DiagonalNormal)
def _kl_triangular(q: TriangularNormal, p: DiagonalNormal) -> Tensor:
    shift = (q.loc - p.loc) / p.scale
    trace = (q.scale_tril / p.scale.unsqueeze(-1)).square().sum(-1)
    return 0.5 * (trace + shift.square() - 1).sum(-1) + p.scale.log().sum(-1) - q._log_det


class NormalMixture(Distribution):
    """A mixture of normal distributions. The rows of a batch share the components and may differ in the weights.

    Args:
        logits: `(components,)` or `(batch, components)`, unnormalised log-weights; -inf leaves a component out.
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
        log_components = self._normal(self.loc, self.scale).log_prob(value.unsqueeze(-2))
        return (log_components + self.logits).logsumexp(-1)

    @torch.no_grad()
    def sample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        eps = noise.normal((*sample_shape, *self.batch_shape, self.loc.shape[-1] + 1), self.loc)
        uniform, cumulative = torch.special.ndtr(eps[..., :1]), self.logits.exp().cumsum(-1)[..., :-1]
        component = (uniform > cumulative).sum(-1)
        return self._normal(self.loc[component], self.scale[component]).from_noise(eps[..., 1:])

    def given(self, component: Tensor) -> NormalMixture:
        """One component per row, `(batch,)` int64; row i is the whole mixture where `component[i]` is -1."""
        chosen = component.unsqueeze(-1)
        mask = (chosen == torch.arange(len(self.loc), device=chosen.device)) | (chosen < 0)
        return NormalMixture(self.logits.where(mask, -math.inf), self.loc, self.scale)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> NormalMixture:
        return NormalMixture(self.logits.expand(*batch_shape, len(self.loc)), self.loc, self.scale)
