"""Distributions whose log-density is only known through bounds in expectation."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .normal import LOG_2PI, DiagonalNormal
from .pushforward import Pushforward


class SemiImplicit(Pushforward):
    """q(z|x) = E_e[ N(z; m(x, e), diag(s(x, e)^2)) ], a Gaussian given its mixing noise e (Yin & Zhou 2018).

    Its density is intractable, but bounded from both sides by averages over components. With e_1..e_K drawn anew and
    e_0 the noise that made z,

        E[ log 1/K sum_{j=1..K} N(z; e_j) ]  <=  log q(z|x)  <=  E[ log 1/(K+1) sum_{j=0..K} N(z; e_j) ]

    given z, averaged over q on the right: the first is Jensen's inequality, the second their equation 6. Both get
    tighter as K grows (Molchanov et al. 2019).

    Args:
        components: maps a number of samples to the Gaussians of that many new e, `(samples, batch, dim)`.
        batch_shape, event_shape: `(batch,)` and `(dim,)`.
        others: further components for `rsample_and_log_prob`; the draws of one call share them and each other's.
        spread: as `components`, with noise that all rows share and that covers its distribution evenly, for moments.
    """

    instead = "`rsample_and_bounds` gives draws with bounds of it"

    def __init__(
        self,
        components: Callable[[int], DiagonalNormal],
        batch_shape: torch.Size,
        event_shape: torch.Size,
        others: int = 0,
        spread: Callable[[int], DiagonalNormal] | None = None,
    ) -> None:
        self.components, self.others, self.spread = components, others, spread or components
        super().__init__(batch_shape, event_shape, validate_args=False)

    @torch.no_grad()
    def moments(self, draws: int) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation from those of `draws` components, `(batch, dim)` each, without gradient."""
        components = self.spread(draws)
        variance = components.loc.var(0, correction=0) + components.scale.square().mean(0)
        return components.loc.mean(0), variance.sqrt()

    def rsample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        draws = self.components(math.prod(sample_shape)).rsample()
        return draws.reshape(*sample_shape, *draws.shape[1:])

    def rsample_and_log_prob(self, sample_shape: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
        """Draws `(samples, batch, dim)` and an upper bound of the log-density of each `(samples, batch)`."""
        samples = math.prod(sample_shape)
        components = self.components(samples + self.others)
        z = DiagonalNormal(components.loc[:samples], components.scale[:samples]).rsample()
        log_q = pairwise_log_prob(components, z).logsumexp(1) - math.log(samples + self.others)
        return z.reshape(*sample_shape, *z.shape[1:]), log_q.reshape(*sample_shape, *log_q.shape[1:])

    def rsample_and_bounds(self, samples: int, components: int) -> tuple[Tensor, Tensor, Tensor]:
        """Draws `(samples, batch, dim)`, and a lower and an upper bound of log q(z|x) at each, `(samples, batch)`.

        Args:
            samples: number of draws of a row.
            components: K, drawn anew and shared by all draws.
        """
        own, others = self.components(samples), self.components(components)
        z, log_own = own.rsample_and_log_prob()
        log_others = pairwise_log_prob(others, z).logsumexp(1)
        upper = torch.logaddexp(log_others, log_own) - math.log(components + 1)
        return z, log_others - math.log(components), upper


class LocatedMixture(SemiImplicit):
    """A semi-implicit distribution that knows where it lies: z = location + scale u.

    The law of u depends on x through `features` alone, so that log q(z|x) = log q(u | features) - sum log scale.

    Args:
        components, batch_shape, event_shape, others, spread: see `SemiImplicit`; components are of z.
        location, scale: `(batch, dim)`.
        features: `(batch, features)`.
    """

    def __init__(
        self,
        components: Callable[[int], DiagonalNormal],
        location: Tensor,
        scale: Tensor,
        features: Tensor,
        others: int = 0,
        spread: Callable[[int], DiagonalNormal] | None = None,
    ) -> None:
        self.location, self.scale, self.features = location, scale, features
        super().__init__(components, location.shape[:1], location.shape[1:], others, spread)


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
