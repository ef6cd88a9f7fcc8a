"""Proposals for importance weighting and annealing, if q(z|x) has no density or too light tails.

A multivariate Student-t with the mean and the covariance of draws of q, mixed with a share s of the prior:

    r(z|x) = (1 - s) t(z; mean, inflate^2 covariance, df) + s p(z).

Its heavy tails and its inflated scale cover regions that q misses, and the prior's share bounds the weights:
p(x, z) / r(z|x) <= p(x|z) / s, whatever q is, so that the variance of p(x)'s estimate is finite wherever p(x|z) is
bounded (a defensive mixture, Hesterberg 1995). A better fit than q's own draws comes from draws of r itself, weighted
by p(x, z) / r(z|x): adaptive importance sampling (Cappé et al. 2004). Draws to which r was fitted are not used in the
estimate.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from .. import noise
from ..errors import ConfigurationError, at_least
from .importance import CHUNK, DRAWS_PER_CALL, LogDensity, effective_samples, evaluate_in_chunks
from .inputs import Prior, as_prior, as_row_distribution


class DefensiveStudent(Distribution):
    """(1 - share) t(mean, inflate^2 covariance, df) + share p(z), one for every row.

    Args:
        mean: `(batch, dim)`.
        covariance: `(batch, dim, dim)`, positive definite.
        prior: p(z); its `expand`, `sample` and `log_prob` are used.
        df: degrees of freedom of the Student-t; None: a Gaussian.
        inflate: factor on the scale.
        share: of the prior, in [0, 1).

    Attributes:
        scale_tril: `(batch, dim, dim)`, with scale_tril scale_tril^T = inflate^2 covariance.

    Raises:
        ConfigurationError: `df`, `inflate` or `share` out of range.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}  # type: ignore[assignment]
    support = constraints.real_vector

    def __init__(
        self,
        mean: Tensor,
        covariance: Tensor,
        prior: Distribution,
        df: int | None = 5,
        inflate: float = 1.2,
        share: float = 0.05,
    ) -> None:
        if df is not None:
            at_least(1, df=df)
        if not inflate > 0:
            raise ConfigurationError(f"inflate: {inflate} is not a positive factor")
        if not 0 <= share < 1:
            raise ConfigurationError(f"share: {share} is not a share of the prior; it must be at least 0 and below 1")
        self.loc, self.covariance, self.df, self.inflate, self.share = mean, covariance, df, inflate, share
        self.prior = prior.expand(mean.shape[:1])
        self.scale_tril = inflate * torch.linalg.cholesky(covariance)
        identity = torch.eye(mean.shape[-1], dtype=mean.dtype, device=mean.device)
        self._inverse = torch.linalg.solve_triangular(self.scale_tril, identity.expand_as(covariance), upper=False)
        self._log_det = self.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        super().__init__(mean.shape[:1], mean.shape[1:], validate_args=False)

    @torch.no_grad()
    def sample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        dim = self.loc.shape[-1]
        eps = noise.normal((*sample_shape, len(self.loc), 1 + dim + (self.df or 0)), self.loc)
        z = eps[..., 1 : dim + 1]
        if self.df is not None:  # chi-square: the sum of df squared normals
            z = z * (self.df / eps[..., dim + 1 :].square().sum(-1, keepdim=True)).sqrt()
        z = self.loc + _times(self.scale_tril, z)
        if not self.share:
            return z
        from_prior = torch.special.ndtr(eps[..., :1]) < self.share
        return torch.where(from_prior, self.prior.sample(sample_shape), z)

    def rsample_and_log_prob(self, sample_shape: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
        """Draws with their log-density. The draws of a mixture are not reparametrised: they are constants."""
        z = self.sample(sample_shape)
        return z, self.log_prob(z)

    def log_prob(self, value: Tensor) -> Tensor:
        squared = _times(self._inverse, value - self.loc).square().sum(-1)
        dim, df = self.loc.shape[-1], self.df
        if df is None:
            log_t = -0.5 * (squared + dim * math.log(2 * math.pi)) - self._log_det
        else:
            constant = math.lgamma((df + dim) / 2) - math.lgamma(df / 2) - 0.5 * dim * math.log(df * math.pi)
            log_t = constant - self._log_det - 0.5 * (df + dim) * torch.log1p(squared / df)
        if not self.share:
            return log_t
        return torch.logaddexp(math.log1p(-self.share) + log_t, math.log(self.share) + self.prior.log_prob(value))

    def refit(self, z: Tensor, log_weight: Tensor) -> DefensiveStudent:
        """The same with the moments of weighted draws, regularised by its own moments if few draws are effective.

        Args:
            z: `(samples, batch, dim)`.
            log_weight: `(samples, batch)`, logarithms of weights, up to a constant.
        """
        mean, covariance = _moments(z, log_weight, self.loc, self.covariance)
        return DefensiveStudent(mean, covariance, self.prior, self.df, self.inflate, self.share)


@torch.no_grad()
def fitted_proposal(
    q: Distribution,
    prior: Prior,
    draws: int = 256,
    df: int | None = 5,
    inflate: float = 1.2,
    share: float = 0.05,
    floor: float = 0.01,
) -> DefensiveStudent:
    """A proposal with the mean and the covariance of draws of q, for any q that can be drawn from.

    The covariance is shrunk towards its diagonal, more with fewer draws, and `floor`^2 is added to every variance, so
    that a deterministic q gives a proper proposal, too.

    Args:
        q: with `rsample` or `sample`, `batch_shape` `(batch,)`.
        prior: p(z), or a module or function whose call gives it.
        draws: of q, per row; at least 2.
        df, inflate, share: see `DefensiveStudent`.
        floor: smallest standard deviation, in the units of z.

    Raises:
        ConfigurationError: an argument out of range.
    """
    at_least(2, draws=draws)
    if not floor > 0:
        raise ConfigurationError(f"floor: {floor} is not a positive standard deviation")
    q = as_row_distribution(q, "q")
    z = torch.cat([q.sample((min(DRAWS_PER_CALL, draws - start),)) for start in range(0, draws, DRAWS_PER_CALL)])
    mean, covariance = _moments(z, z.new_zeros(z.shape[:2]), z.mean(0), torch.diag_embed(z.var(0, correction=0)))
    covariance = covariance + floor**2 * torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)
    return DefensiveStudent(mean, covariance, as_prior(prior), df, inflate, share)


@torch.no_grad()
def refined_proposal(
    proposal: DefensiveStudent, log_target: LogDensity, rounds: int = 3, draws: int = 512, chunk: int = CHUNK
) -> DefensiveStudent:
    """Adaptive importance sampling: in every round the proposal is fitted to its own draws, weighted by the target.

    Args:
        proposal: the initial proposal.
        log_target: see `importance.log_joint`.
        rounds: their number; costs `rounds` times `draws` decoder evaluations per row.
        draws: per round.
        chunk: pairs (draw, row) per call of `log_target`; only memory depends on it.
    """
    at_least(0, rounds=rounds)
    at_least(2, draws=draws)
    for _ in range(rounds):
        z, log_r = proposal.rsample_and_log_prob((draws,))
        proposal = proposal.refit(z, evaluate_in_chunks(log_target, z, chunk) - log_r)
    return proposal


def _moments(z: Tensor, log_weight: Tensor, mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Moments of weighted draws, shrunk as if 2 dim more draws had the given moments.

    Without shrinkage, ten effective draws in 32 dimensions would make the proposal worse.
    """
    weight = log_weight.softmax(0).unsqueeze(-1)
    found = (weight * z).sum(0)
    centred = (weight.sqrt() * (z - found)).transpose(0, 1)
    share = 2 * z.shape[-1] / (effective_samples(log_weight) + 2 * z.shape[-1])
    spread = torch.lerp(centred.mT @ centred, covariance, share.view(-1, 1, 1))
    ridge = 1e-5 * torch.diag_embed(spread.diagonal(dim1=-2, dim2=-1))  # for a Cholesky factor in float32
    return torch.lerp(found, mean, share.unsqueeze(-1)), spread + ridge


def _times(matrix: Tensor, z: Tensor) -> Tensor:
    """Every row's matrix times its vectors: `(batch, dim, dim)` and `(samples, batch, dim)`."""
    return torch.einsum("bij,sbj->sbi", matrix, z)
