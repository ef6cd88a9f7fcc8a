"""Distributions of noise that is pushed through a function: black boxes and normalizing flows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from .normal import DiagonalNormal


class Pushforward(Distribution):
    """Base class of distributions whose moments are estimated from draws, and whose density need not be known.

    Attributes:
        instead: what there is in place of a density, for the message.
    """

    instead: ClassVar[str] = ""
    arg_constraints: ClassVar[dict[str, Any]] = {}  # type: ignore[assignment]
    support = constraints.real_vector
    has_rsample = True

    def log_prob(self, value: Tensor) -> Tensor:
        raise NotImplementedError(
            f"the density of {type(self).__name__} is not known; {self.instead}, and "
            "`lightning_avb.evaluation.fitted_proposal` fits a distribution with a density to draws"
        )

    @torch.no_grad()
    def moments(self, draws: int) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, `(batch, dim)` each, without gradient.

        They are estimated from `draws` new samples (at least 2) of every row, or exact where there is a closed form.
        """
        deviation, mean = torch.std_mean(self.rsample((draws,)), 0)
        return mean, deviation


class Implicit(Pushforward):
    """A black-box distribution: noise pushed through a network. It has draws and moments, but no density.

    Args:
        push: maps a number of samples to reparametrised draws `(samples, batch, dim)`, new ones in every call.
        batch_shape, event_shape: `(batch,)` and `(dim,)`.
        moments: gives mean and standard deviation, both `(batch, dim)`, where they are known in closed form; None:
            they are estimated from draws.
    """

    instead = "`lightning_avb.DensityRatio` estimates log q - log p(z) with a critic"

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


class Flow(Pushforward):
    """A normalizing flow: z = loc + scale * transform(eps), eps ~ N(0, I) (Rezende & Mohamed 2015).

    Draws use `transform`, the density of a given z its inverse.

    Args:
        loc, scale: `(batch, dim)` or `(dim,)`.
        transform: a bijection of vectors with `call_and_ladj`, as zuko's transforms have.
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
        """Draws `(samples, batch, dim)` and their log-density `(samples, batch)`, without inverting the flow."""
        eps, log_base = self._base.rsample_and_log_prob(sample_shape)
        u, ladj = self.transform.call_and_ladj(eps)
        return torch.addcmul(self.loc, self.scale, u), log_base - ladj - self.scale.log().sum(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        eps, ladj = self.transform.inv.call_and_ladj((value - self.loc) / self.scale)
        return self._base.log_prob(eps) + ladj - self.scale.log().sum(-1)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Flow:
        shape = (*batch_shape, *self.event_shape)
        return Flow(self.loc.expand(shape), self.scale.expand(shape), self.transform)
