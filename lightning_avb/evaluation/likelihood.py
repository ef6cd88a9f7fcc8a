"""log p(x) of any decoder in one call, by annealing of a whole data set.

One setting (schedule, step sizes, number of chains) is used for all rows. It is tuned on simulated rows and then fixed,
and `bidirectional` checks it on other simulated rows.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from .. import noise
from ..batch import Batch
from ..conditionals import Decoder as OwnDecoder
from ..distributions import DiagonalNormal
from ..errors import ConfigurationError, at_least
from .annealing import (
    AnnealedEstimate,
    AnnealingSettings,
    BidirectionalBounds,
    annealed_importance_sampling,
    bidirectional,
    schedule,
    simulate,
    tune,
)
from .importance import CHUNK, LogDensity
from .inputs import Decoder, Prior, as_prior, as_row_distribution, checked_log_prob
from .proposals import fitted_proposal, refined_proposal
from .reliability import annealing_objection
from .rows import map_rows

PILOT_ROWS = 32
"""Simulated rows on which the step sizes are tuned."""

TRIAL_DRAWS = 8
"""Draws of the prior on which the decoder is checked before the estimate."""


class Annealer:
    """Annealed importance sampling of the rows of a data set, with one setting for all.

    Args:
        target: rows -> log p(x, z); see `importance.log_joint`.
        start: rows -> the distribution where their chains start, and the scale matrix of every row's kernel, or None.
        simulated: a number of rows and a seed -> z and data simulated from the model, with their `index`.
        betas: from `schedule`.
        leapfrogs: leapfrog steps of a transition.
        chains: per row.
        chunk: pairs (chain, row) per call of the target; only memory depends on it.
        seed: every figure is a function of (seed, row).

    Attributes:
        settings: the tuned ones.
        gap: mean difference of the bounds from `certify`, in nats; None before it is called.
    """

    def __init__(
        self,
        target: Callable[[Batch], LogDensity],
        start: Callable[[Batch], tuple[Distribution, Tensor | None]],
        simulated: Callable[[int, int], tuple[Tensor, Batch]],
        betas: Sequence[float],
        leapfrogs: int = 2,
        chains: int = 16,
        chunk: int = CHUNK,
        seed: int = 0,
    ) -> None:
        self.target, self.start, self.simulated = target, start, simulated
        self.chains, self.chunk, self.seed = at_least(1, chains=chains), at_least(1, chunk=chunk), seed
        self.settings = self._tuned(betas, leapfrogs)
        self.gap: float | None = None

    @torch.inference_mode(False)
    @torch.no_grad()
    def _tuned(self, betas: Sequence[float], leapfrogs: int) -> AnnealingSettings:
        key = self.seed, "pilot"
        _, pilot = self.simulated(PILOT_ROWS, noise.mixed_seed(*key))
        with noise.torch_seeded(*key), noise.use(noise.RowNoise(*key, index=pilot.index)):  # type: ignore[arg-type]
            start, scale_tril = self.start(pilot)
            return tune(start, self.target(pilot), betas, leapfrogs, scale_tril=scale_tril, chunk=self.chunk)

    def estimate(self, rows: Batch) -> AnnealedEstimate:
        """The chains of some rows, for `map_rows`."""
        start, scale_tril = self.start(rows)
        return annealed_importance_sampling(
            start, self.target(rows), self.settings, self.chains, scale_tril, self.chunk
        )

    def certify(self, rows: int) -> BidirectionalBounds:
        """Bounds of log p(x) from both sides, for `rows` simulated rows."""
        exact, batch = self.simulated(rows, noise.mixed_seed(self.seed, "simulated"))

        def estimate(rows: Batch) -> BidirectionalBounds:
            start, scale_tril = self.start(rows)
            z = exact[rows.index]
            return bidirectional(start, self.target(rows), z, self.settings, self.chains, scale_tril, self.chunk)

        found = map_rows(estimate, batch, max(1, self.chunk // self.chains), self.seed, "bidirectional")
        self.gap = found.summary()["gap"][0]
        return found


class LogLikelihood(NamedTuple):
    """log p(x) in nats, with its errors. Everything is a function of (seed, row).

    Attributes:
        values: `(batch,)`, in expectation at most log p(x).
        standard_errors: `(batch,)`, of every value, from its chains: the jackknife of the logarithm of their mean
            weight. That of a row whose weights are all in one chain is large, and still too small.
        mean: of the values.
        standard_error: of the mean, over rows.
        gap: difference of a lower and an upper bound on simulated data: in expectation the largest error of `mean`, if
            real data are not harder.
        gap_standard_error: of the gap, over the simulated rows.
        acceptance: share of accepted transitions; the step sizes are tuned for 0.65.
        objection: why the values should not be trusted; empty: no objection.
    """

    values: Tensor
    standard_errors: Tensor
    mean: float
    standard_error: float
    gap: float
    gap_standard_error: float
    acceptance: float
    objection: str

    @property
    def trusted(self) -> bool:
        """Whether there is no objection."""
        return not self.objection

    def __str__(self) -> str:
        return (
            f"log p(x) = {self.mean:.3f} +- {self.standard_error:.3f} nats, {len(self.values)} rows; on simulated data "
            f"at most {self.gap:.3f} +- {self.gap_standard_error:.3f} too low; "
            + ("nothing speaks against it" if self.trusted else f"not to be trusted: {self.objection}")
        )


def log_likelihood(
    decoder: Decoder,
    x: Tensor,
    prior: Prior | None = None,
    latent_dim: int | None = None,
    encoder: Callable[[Tensor], Distribution] | None = None,
    chains: int = 16,
    steps: int = 500,
    leapfrogs: int = 2,
    simulated: int = 32,
    chunk: int = CHUNK,
    seed: int = 0,
) -> LogLikelihood:
    """log p(x) = log of the integral of p(x|z) p(z) by annealed importance sampling, for any decoder.

    Args:
        decoder: a module or function, z `(n, dim)` -> p(x|z), a torch distribution with `batch_shape` `(n,)` whose
            `log_prob` can be differentiated in z. It is always called with two dimensions: draws and rows are joined
            into one.
        x: `(batch, *data_shape)`.
        prior: p(z), or a module or function whose call gives it; None: N(0, I).
        latent_dim: length of z; needed without a prior and an encoder.
        encoder: x `(n, *data_shape)` -> q(z|x), any distribution with draws: chains then start near the posterior,
            which saves about 90 % of the steps. Without it they start at the prior.
        chains: per row, at least 2.
        steps: temperatures from start to posterior; a row costs about `chains * steps * leapfrogs` gradients.
        leapfrogs: leapfrog steps of a transition.
        simulated: rows to simulate for the gap, at least 2.
        chunk: pairs (chain, row) per call of the decoder; only memory depends on it.
        seed: every figure is a function of (seed, position of the row in x).

    Raises:
        ConfigurationError: an invalid argument, x that the decoder cannot score, or a log-probability that is not
            finite.
    """
    at_least(2, chains=chains)
    at_least(2, simulated=simulated)
    if not len(x):
        raise ConfigurationError("x: there are no rows")
    p = _prior(decoder, x, prior, latent_dim, encoder)
    _check_decoder(decoder, p, x, seed)

    def target(rows: Batch) -> LogDensity:
        def log_density(z: Tensor) -> Tensor:
            pairs = rows.x.expand(len(z), *rows.x.shape).flatten(0, 1)
            flat = z.flatten(0, 1)
            return checked_log_prob(decoder(flat), pairs, flat.shape[:1]).view(z.shape[:2]) + p.log_prob(z)

        return log_density

    def start(rows: Batch) -> tuple[Distribution, Tensor | None]:
        if encoder is None:
            return p.expand((len(rows.x),)), None
        fitted = fitted_proposal(as_row_distribution(encoder(rows.x), "encoder"), p)
        proposal = refined_proposal(fitted, target(rows), chunk=chunk)
        return proposal, proposal.scale_tril

    def simulated_rows(rows: int, seed: int) -> tuple[Tensor, Batch]:
        z, data = simulate(decoder, p, rows, seed)
        return z, Batch(data.to(x.dtype), index=torch.arange(rows, device=data.device))

    annealer = Annealer(target, start, simulated_rows, schedule(steps), leapfrogs, chains, chunk, seed)
    batch = Batch(x, index=torch.arange(len(x), device=x.device))
    found = map_rows(annealer.estimate, batch, max(1, chunk // chains), seed, "annealing")
    values = found.bound
    if not values.isfinite().all():
        row = int((~values.isfinite()).nonzero()[0])
        raise ConfigurationError(f"x: log p(x) of row {row} is {values[row].item()} at every point that was tried")
    gap, gap_error = annealer.certify(simulated).summary()["gap"]
    error = values.std().item() / math.sqrt(len(x)) if len(x) > 1 else math.nan
    objection = annealing_objection(chains, found.effective_chains, found.acceptance, gap)
    return LogLikelihood(
        values,
        found.standard_error,
        values.mean().item(),
        error,
        gap,
        gap_error,
        found.acceptance.mean().item(),
        objection,
    )


def _prior(
    decoder: Decoder,
    x: Tensor,
    prior: Prior | None,
    latent_dim: int | None,
    encoder: Callable[[Tensor], Distribution] | None,
) -> Distribution:
    """p(z), with the dimension from the prior, `latent_dim` or the encoder."""
    if prior is not None:
        p = as_prior(prior)
        if latent_dim not in (None, p.event_shape[0]):
            raise ConfigurationError(f"latent_dim: {latent_dim}, where the prior has {p.event_shape[0]} dimensions")
        return p
    if latent_dim is None:
        if encoder is None:
            raise ConfigurationError("latent_dim: needed without a prior and an encoder")
        with torch.no_grad():
            latent_dim = as_row_distribution(encoder(x[:1]), "encoder").event_shape[0]
    parameters = decoder.parameters() if isinstance(decoder, nn.Module) else iter(())
    like = next((p for p in parameters if p.is_floating_point()), x if x.is_floating_point() else torch.zeros(()))
    zeros = torch.zeros(at_least(1, latent_dim=latent_dim), dtype=like.dtype, device=like.device)
    return DiagonalNormal(zeros, zeros + 1)


@torch.no_grad()
def _check_decoder(decoder: Decoder, p: Distribution, x: Tensor, seed: int) -> None:
    """Raises ConfigurationError for an invalid decoder, and for rows that it cannot score."""
    if isinstance(decoder, OwnDecoder):
        decoder.check(x)
    if isinstance(decoder, nn.Module) and any(
        module.training and _depends_on_mode(module) for module in decoder.modules()
    ):
        raise ConfigurationError("decoder: dropout or batch normalisation in training mode; call decoder.eval() first")
    with noise.torch_seeded(seed, "try"):
        z = p.sample(torch.Size([TRIAL_DRAWS]))
    if x.device != z.device:
        raise ConfigurationError(f"x: on {x.device}, and draws of the prior are on {z.device}")
    try:
        given = decoder(z)
    except (RuntimeError, ValueError, IndexError) as error:
        why = textwrap.shorten(str(error), 300)
        raise ConfigurationError(f"decoder: does not take z of shape {tuple(z.shape)}: {why}") from error
    value, inside = checked_log_prob(given, x[:1].expand(TRIAL_DRAWS, *x.shape[1:]), (TRIAL_DRAWS,)), _inside(given, x)
    if value.isnan().any():
        raise ConfigurationError("decoder: its log-probability is nan where z is a draw of the prior")
    if not inside.all():
        family, row = _family(given), int((~inside).nonzero()[0])
        raise ConfigurationError(
            f"x: row {row} holds what {type(family).__name__} gives no probability, {family.support}"
        )


def _depends_on_mode(module: nn.Module) -> bool:
    return isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd))


def _family(p: Distribution) -> Distribution:
    return _family(p.base_dist) if isinstance(p, Independent) else p


def _inside(p: Distribution, x: Tensor) -> Tensor:
    """Which rows are in the support for some z; all rows if the distribution has no `support`."""
    try:
        support = p.support
    except NotImplementedError:
        return torch.ones(len(x), dtype=torch.bool)
    return torch.cat([support.check(row.expand(TRIAL_DRAWS, *row.shape)).any().view(1) for row in x])  # type: ignore[union-attr]
