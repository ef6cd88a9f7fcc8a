"""Distributions whose log-density is only known through an upper bound in expectation."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .normal import LOG_2PI, DiagonalNormal
from .pushforward import Pushforward


class Hierarchical(Pushforward):
    """q(z|x), the integral of q(z|e, x) q(e|x) over e: a distribution without a tractable density.

    It has no `log_prob`. Each draw z comes with a number whose expectation given z is at least log q(z|x), so that an
    ELBO that uses it is still a lower bound in expectation.

    Args:
        draw: maps a number of samples to draws `(samples, batch, dim)` and these numbers `(samples, batch)`.
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
        """Draws `(samples, batch, dim)` and an upper bound of the log-density of each `(samples, batch)`."""
        z, log_q = self._draw(math.prod(sample_shape))
        return z.reshape(*sample_shape, *z.shape[1:]), log_q.reshape(*sample_shape, *log_q.shape[1:])


class SemiImplicit(Pushforward):
    """q(z|x) = E_e[ N(z; m(x, e), diag(s(x, e)^2)) ], a Gaussian given its mixing noise e (Yin & Zhou 2018).

    Its density is intractable. The draws of one call share their components: draw z_k, made from e_k, comes with

        log 1/K sum_j N(z_k; m(x, e_j), s(x, e_j)),      j = 1..K, with e_k among them,

    whose expectation given z_k is at least log q(z_k|x) (their equation 6). This needs no further network call.

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
        """Draws `(samples, batch, dim)` and an upper bound of the log-density of each `(samples, batch)`."""
        components = self.components(math.prod(sample_shape))
        z = components.rsample()
        log_q = pairwise_log_prob(components, z).logsumexp(1) - math.log(len(z))
        return z.reshape(*sample_shape, *z.shape[1:]), log_q.reshape(*sample_shape, *log_q.shape[1:])


def pairwise_log_prob(components: DiagonalNormal, z: Tensor) -> Tensor:
    """log N(z_k; m_j, s_j) of every draw under every component, `(samples, components, batch)`.

    |z - m|^2 / s^2 is expanded around the mean of a row's m, so that it is a matrix product. The rounding error is
    about 1e-7 |z / s|^2.
    """
    centre = components.loc.detach().mean(0)
    z, loc, precision = z - centre, components.loc - centre, components.scale.square().reciprocal()
    weighted = loc * precision
    with torch.autocast(z.device.type, enabled=False):
        products = torch.einsum("kbd,jbd->kjb", z.square(), precision) - 2 * torch.einsum("kbd,jbd->kjb", z, weighted)
    constant = (loc * weighted).sum(-1) + 2 * components.scale.log().sum(-1) + z.shape[-1] * LOG_2PI
    return -0.5 * (products + constant)
