"""Inputs of the estimators: a user's decoder, prior and proposal, checked and brought into one form.

A prior is a distribution of vectors `(dim,)`, or a module or function whose call gives one. A proposal or a start is
one such distribution per row, `batch_shape` `(batch,)`. Distributions with one factor per dimension, such as
`Normal(zeros(dim), ones(dim))`, are allowed: their dimensions are independent. For p(x|z) this would be ambiguous,
since a batch looks like a dimension: there `Independent` is needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, constraints

from .. import noise
from ..capabilities import ScoredDraws, can
from ..distributions.pushforward import Pushforward
from ..errors import ConfigurationError

Decoder = Callable[[Tensor], Distribution]
"""z -> p(x|z)."""

Prior = Distribution | Callable[[], Distribution]
"""p(z), or a function that returns it."""


Proposal = ScoredDraws | Distribution
"""q(z|x) for every row, with its density."""


def has_density(q: Distribution) -> bool:
    """Whether `log_prob` works: not if the class only inherits it from torch's base class, or from `Pushforward`."""
    unknown = (Distribution.log_prob, Pushforward.log_prob)
    return getattr(type(q), "log_prob", Distribution.log_prob) not in unknown


def as_prior(prior: Prior) -> Distribution:
    """p(z) with `batch_shape` `()` and `event_shape` `(dim,)`; expanded, it draws each row from the row's own noise.

    Raises:
        ConfigurationError: it is no distribution of vectors.
    """
    p = prior if isinstance(prior, Distribution) else prior() if callable(prior) else prior
    if not isinstance(p, Distribution):
        raise ConfigurationError(
            f"prior: a {type(p).__name__}; expected a distribution, or a function that returns one"
        )
    if not p.event_shape and len(p.batch_shape) == 1:
        p = Independent(p, 1, validate_args=False)
    if p.batch_shape or len(p.event_shape) != 1:
        raise ConfigurationError(
            f"prior: {_described(p)}; one distribution of vectors was expected, batch shape () and event shape (dim,)"
        )
    return _RowByRow(p) if type(p).__module__.startswith("torch.") else p


def as_row_distribution(q: Distribution, name: str) -> Distribution:
    """One distribution of vectors per row, `batch_shape` `(batch,)`.

    Args:
        q: the distribution.
        name: of the argument, for the message.

    Raises:
        ConfigurationError: it has other shapes, or is not a distribution.
    """
    if not isinstance(q, Distribution):
        raise ConfigurationError(f"{name}: a {type(q).__name__}; expected a distribution")
    if not q.event_shape and len(q.batch_shape) == 2:
        q = Independent(q, 1, validate_args=False)
    if len(q.batch_shape) != 1 or len(q.event_shape) != 1:
        raise ConfigurationError(
            f"{name}: {_described(q)}; one distribution for every row was expected, batch shape (batch,) and event "
            "shape (dim,); expand it"
        )
    return q


def draws_with_log_prob(q: Proposal) -> Callable[[tuple[int, ...]], tuple[Tensor, Tensor]]:
    """A shape of samples -> draws `(samples, batch, dim)` with their log-densities `(samples, batch)`.

    Raises:
        ConfigurationError: q has no density, or is not one distribution for every row.
    """
    given: Any = q
    if can(given, ScoredDraws):
        return given.rsample_and_log_prob
    p = as_row_distribution(given, "proposal")
    if not has_density(p):
        raise ConfigurationError(
            f"proposal: {type(p).__name__} has no density, which importance weights need; see fitted_proposal"
        )

    def draw(sample_shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        z = p.sample(torch.Size(sample_shape))
        return z, p.log_prob(z)

    return draw


def checked_log_prob(p: Any, x: Tensor, shape: Sequence[int]) -> Tensor:
    """log p(x|z), one number for every z.

    Args:
        p: the output of a decoder.
        x: `(*rows, *data_shape)`.
        shape: of z without its last dimension; x broadcasts to it.

    Raises:
        ConfigurationError: p is not a distribution over x, or x is not in its support.
    """
    if not isinstance(p, Distribution):
        raise ConfigurationError(
            f"decoder: returned a {type(p).__name__}; expected the distribution p(x|z), such as "
            "Independent(Bernoulli(logits=...), 1)"
        )
    extra = len(p.batch_shape) - len(shape)
    if extra > 0:
        raise ConfigurationError(
            f"decoder: {_described(p)} has one factor per dimension of x; expected one log-probability per z: wrap it "
            f"in Independent(..., {extra})"
        )
    data = x.shape[x.ndim - len(p.event_shape) :]
    if p.event_shape != data:
        raise ConfigurationError(
            f"decoder: {_described(p)} is not a distribution of x, whose rows end in {tuple(data) or '()'}"
        )
    try:
        value = p.log_prob(x)
    except ValueError as error:  # torch's check of the arguments
        raise ConfigurationError(f"x: {type(p).__name__} cannot score it: {str(error).splitlines()[0]}") from error
    if value.shape != torch.Size(shape):
        raise ConfigurationError(
            f"decoder: the log-probability of its {_described(p)} has the shape {tuple(value.shape)}; expected one "
            f"number per z, {tuple(shape)}"
        )
    return value


def _described(p: Distribution) -> str:
    return f"{type(p).__name__} with batch shape {tuple(p.batch_shape)} and event shape {tuple(p.event_shape)}"


class _RowByRow(Distribution):
    """A prior that draws from torch's generator, here with a separate seed from `noise` for every row.

    Args:
        base: `batch_shape` `()`, `event_shape` `(dim,)`.
        batch_shape: `()` or `(batch,)`.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}  # type: ignore[assignment]
    support = constraints.real_vector

    def __init__(self, base: Distribution, batch_shape: Sequence[int] = ()) -> None:
        self.base = base
        super().__init__(torch.Size(batch_shape), base.event_shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.base.log_prob(value)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:  # type: ignore[override]
        if not self.batch_shape:
            return self.base.sample(torch.Size(sample_shape))
        eps = noise.normal((1, *self.batch_shape, 1), torch.zeros((), dtype=torch.float64)).flatten()
        seeds = (torch.special.ndtr(eps) * 2.0**52).long().tolist()
        with noise.keep_torch_state():
            rows = [self._seeded(seed, math.prod(sample_shape)) for seed in seeds]
        z = torch.stack(rows, 1)
        return z.view(*sample_shape, *z.shape[1:])

    def _seeded(self, seed: int, samples: int) -> Tensor:
        noise.seed_torch(seed)
        return self.base.sample(torch.Size([samples]))

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> _RowByRow:
        return _RowByRow(self.base, batch_shape)
