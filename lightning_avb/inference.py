"""What a trained model tells of rows: their codes, log p(x), and what is missing in them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from . import noise
from .batch import Batch
from .capabilities import HasLikelihood, HasMoments, can
from .errors import ConfigurationError, at_least
from .evaluation import (
    Annealer,
    DefensiveStudent,
    as_prior,
    fitted_proposal,
    importance_weighting,
    log_joint,
    map_rows,
    refined_proposal,
    schedule,
    simulate,
)
from .evaluation.importance import CHUNK, DRAWS_PER_CALL, LogDensity, evaluate_in_chunks, resample
from .evaluation.inputs import has_density
from .evaluation.restoration import draws_given

MEAN_DRAWS, ROWS = 256, 256
SAMPLES, CHAINS = 1000, 16
"""Draws per row for log p(x), by importance weighting and by annealing."""


def as_tensor(values: Any) -> Any:
    """An array of numbers as a tensor; anything else as it is."""
    if not isinstance(values, np.ndarray) or values.dtype == object:
        return values
    return torch.from_numpy(np.require(values, requirements="W"))  # pandas gives arrays that are read-only


def rows_of(model: Any, x: Any, y: Any = None) -> Batch:
    """Rows as a user has them, arrays or tensors, with the model's type and on its device.

    Args:
        model: a model of rows.
        x: `(batch, *data_shape)`, floating point.
        y: labels `(batch,)`, for a class-conditional model.

    Raises:
        ConfigurationError: x is no such rows, or a value is not finite.
    """
    _ = model.encoder  # says so if the model is not made yet
    rows, labels = as_tensor(x), as_tensor(y)
    model.check_rows(rows)
    if not rows.isfinite().all():
        value = rows[~rows.isfinite()][0].item()
        advice = "; `impute` draws what is missing in rows" if math.isnan(value) else ""
        raise ConfigurationError(f"x: a row has {value}{advice}")
    return Batch(rows.to(model.device, model.dtype), None if labels is None else labels.to(model.device))


def without_nan(x: Any, observed: Any = None) -> tuple[Any, Tensor | None]:
    """Rows with a possible value in the place of nan, and what is observed: not nan, and not said to be missing.

    Args:
        x: an array or a tensor `(batch, ...)`.
        observed: like x; None: all but nan, and None is returned where there is none.
    """
    rows, seen = as_tensor(x), as_tensor(observed)
    if not isinstance(rows, Tensor) or not rows.is_floating_point() or not (missing := rows.isnan()).any():
        return rows, seen
    possible = rows.new_zeros(()) if missing.all() else rows[~missing][0]
    return torch.where(missing, possible, rows), ~missing if seen is None else seen.to(missing.device) & ~missing


def why_no_likelihood(model: Any) -> str | None:
    """Why p(x) = E_p(z) p(x|z) cannot be estimated from draws of q(z|x); None: it can."""
    if not can(model, HasLikelihood):
        return "the model has no encoder and decoder"
    if not has_density(model.prior()):
        return "the prior has no density"
    if model.label_choices != model.classes:
        return "a code is more than a draw of the prior"
    return None


def require_likelihood(model: Any, what: str) -> None:
    """Raises ConfigurationError if the model has no likelihood, which a task such as `impute` needs."""
    missing = why_no_likelihood(model)
    if missing:
        raise ConfigurationError(f"{type(model).__name__} cannot {what}: {missing}")


def joint_density(model: Any, rows: Batch) -> LogDensity:
    """log p(x, z) of some rows as a function of z."""
    return log_joint(lambda z: model.decoder(z, rows.y), model.prior, rows.x)


def adapted_proposal(model: Any, rows: Batch, chunk: int = CHUNK) -> DefensiveStudent:
    """A proposal fitted to draws of q(z|x), and then to its own weighted draws."""
    fitted = fitted_proposal(model.encoder(rows.x, rows.y), model.prior)
    return refined_proposal(fitted, joint_density(model, rows), chunk=chunk)


def annealer(
    model: Any,
    betas: Sequence[float],
    leapfrogs: int = 2,
    chains: int = CHAINS,
    from_prior: bool = False,
    chunk: int = CHUNK,
    seed: int = 0,
) -> Annealer:
    """Annealed importance sampling of a model's rows, tuned on data simulated from it; see `evaluation.Annealer`.

    Args:
        model: with encoder, decoder and a prior that has a density.
        betas, leapfrogs, chains, chunk, seed: see `evaluation.Annealer`.
        from_prior: chains begin at draws of the prior, not of the proposal that is fitted to q(z|x).
    """

    def start(rows: Batch) -> tuple[Distribution, Tensor | None]:
        if from_prior:
            return as_prior(model.prior).expand((len(rows.x),)), None
        proposal = adapted_proposal(model, rows, chunk)
        return proposal, proposal.scale_tril

    def simulated(rows: int, seed: int) -> tuple[Tensor, Batch]:
        index = torch.arange(rows, device=model.device)
        y = index % model.classes if model.classes else None
        z, x = simulate(lambda z: model.decoder(z, y), model.prior, rows, seed)
        return z, Batch(x, y, index)

    def target(rows: Batch) -> LogDensity:
        return joint_density(model, rows)

    return Annealer(target, start, simulated, betas, leapfrogs, chains, chunk, seed)


@torch.no_grad()
def mean_of(q: Distribution) -> Tensor:
    """The mean of q(z|x), `(batch, latent_dim)`; of a q without one in closed form, from 256 draws, always the same."""
    if not can(q, HasMoments):
        return q.mean
    (rows,) = q.batch_shape
    like = torch.zeros(rows, dtype=torch.int64)
    with noise.use(noise.RowNoise("mean", index=like)):
        return q.moments(MEAN_DRAWS)[0]  # type: ignore[attr-defined]


class LogProb(NamedTuple):
    """log p(x) of rows, `(batch,)` each, in nats, of the data's own units.

    Attributes:
        value: in expectation at most log p(x).
        standard_error: of the value; where it is above a few tenths, the value is too low by about as much.
    """

    value: Tensor
    standard_error: Tensor


def log_prob(
    model: Any,
    batch: Batch,
    samples: int | None = None,
    annealing: int | None = None,
    seed: int = 0,
    chunk: int = CHUNK,
) -> LogProb:
    """log p(x) by importance weighting, from a proposal fitted to draws of q(z|x), or by annealing from it.

    Annealed importance sampling takes much longer, and is right where the proposal misses a part of p(z|x).

    Args:
        model: with encoder, decoder and a prior that has a density.
        batch: x `(batch, *data_shape)`, with labels for a class-conditional model; rows without `index` are numbered.
        samples: weighted draws per row; None: 1,000, or 16 chains.
        annealing: temperatures of annealed importance sampling, some hundreds; None: importance weighting.
        seed: every value is a function of x and (seed, index).
        chunk: pairs (draw, row) per call of the decoder; only memory depends on it.

    Raises:
        ConfigurationError: the model has no likelihood.
    """
    require_likelihood(model, "score rows")
    samples = at_least(2, samples=(SAMPLES if annealing is None else CHAINS) if samples is None else samples)
    chains = None if annealing is None else annealer(model, schedule(annealing), chains=samples, chunk=chunk, seed=seed)
    if batch.index is None:
        batch = batch._replace(index=torch.arange(len(batch.x), device=batch.x.device))

    def estimate(rows: Batch) -> LogProb:
        if chains is not None:
            annealed = chains.estimate(rows)
            return LogProb(annealed.bound + model.log_jacobian, annealed.standard_error)
        found = importance_weighting(adapted_proposal(model, rows, chunk), joint_density(model, rows), samples, chunk)
        error = (1 / found.effective_samples - 1 / samples).clamp_min(0).sqrt()
        return LogProb(found.bound + model.log_jacobian, error)

    draws = DRAWS_PER_CALL if chains is None else samples
    return map_rows(estimate, batch, max(1, chunk // draws), seed, "log_prob")


@torch.no_grad()
def impute(
    model: Any,
    batch: Batch,
    observed: Tensor | None = None,
    draws: int = 1,
    samples: int = 1000,
    seed: int = 0,
) -> Tensor:
    """Rows with what is missing drawn from p(missing|observed): z from p(z|observed), then x from p(x|z).

    Several draws are multiple imputations (Rubin 1987). Where the encoder knows what is missing, by the mask in a
    table's rows, z is chosen from `samples` weighted draws near q(z|x); else by annealing from the prior, which takes
    much longer.

    Args:
        model: with encoder, decoder and a prior that has a density.
        batch: x `(batch, *data_shape)`; values of missing dimensions do not matter, but must be possible.
        observed: like x, True where x is observed; None: what the mask in a table's rows says.
        draws: imputations per row.
        samples: weighted draws of z per row.
        seed: of the draws.

    Returns:
        `(draws, batch, *data_shape)`.

    Raises:
        ConfigurationError: the model has no likelihood, or nothing tells what is missing.
    """
    require_likelihood(model, "impute")
    at_least(1, draws=draws)
    if observed is not None and (observed.dtype != torch.bool or observed.shape != batch.x.shape):
        found = f"{str(observed.dtype).removeprefix('torch.')} {tuple(observed.shape)}"
        raise ConfigurationError(f"observed: {found}; bool {tuple(batch.x.shape)}, like x, was expected")
    parts = []
    with noise.torch_seeded(seed, "impute"):
        for rows in torch.arange(len(batch.x), device=batch.x.device).split(ROWS):
            piece = batch.at(rows)
            if observed is None:
                z, seen = _nearby(model, piece, draws, samples)
            else:
                z, seen = draws_given(model, piece, observed[rows], draws), observed[rows]
            parts.append(torch.where(seen, piece.x, model.decoder(z, piece.y).sample()))
    return torch.cat(parts, 1)


def _nearby(model: Any, rows: Batch, draws: int, samples: int) -> tuple[Tensor, Tensor]:
    """Draws of z given the observed fields of a table's rows, and which entries are observed."""
    proposal, target = adapted_proposal(model, rows), joint_density(model, rows)
    z = proposal.sample((samples,))
    log_weight = evaluate_in_chunks(target, z, CHUNK) - proposal.log_prob(z)
    z = resample(z, log_weight, draws)
    entries = model.decoder(z[:1], rows.y).base_dist
    if not hasattr(entries, "observed"):
        raise ConfigurationError("impute: nothing tells what is missing; give `observed`, or nan where it is")
    return z, entries.observed(rows.x) > 0
