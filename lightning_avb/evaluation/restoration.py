"""Inpainting and denoising: the hidden part of a datum given the visible one, and the clean datum given a noisy one.

Both draw from p(z | observation), a posterior with another likelihood than the one of the encoder: of the visible
dimensions, or of the datum with noise. Chains annealed from the prior (see `annealing`) draw from it, and their weights
correct for chains that ended in the wrong mode; the encoder is not used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributions import Independent

from ..batch import Batch, Shape
from ..errors import ConfigurationError, at_least, did_you_mean
from .annealing import annealed_importance_sampling, schedule, tune
from .importance import resample

MASKS = ("left", "right", "top", "bottom", "center")
"""What `visible` can hide: a half of a picture, or the middle quarter."""


def visible(mask: str, data_shape: Shape) -> Tensor:
    """A mask of pictures, `(height, width)`, False where they are hidden: a half of them, or the middle quarter.

    Raises:
        ConfigurationError: no such mask, or the data are not pictures.
    """
    if mask not in MASKS:
        raise ConfigurationError(
            f"mask: {mask!r} is none of {', '.join(MASKS)}, and no file has that name{did_you_mean(mask, MASKS)}"
        )
    if len(data_shape) < 2:
        raise ConfigurationError(f"mask: rows of shape {tuple(data_shape)} are not pictures")
    height, width = data_shape[-2:]
    row = torch.arange(height).unsqueeze(1).expand(height, width)
    column = torch.arange(width).expand(height, width)
    middle = (
        (row >= height // 4) & (row < height - height // 4) & (column >= width // 4) & (column < width - width // 4)
    )
    hidden = {
        "left": column < width // 2,
        "right": column >= width - width // 2,
        "top": row < height // 2,
        "bottom": row >= height - height // 2,
        "center": middle,
    }
    return ~hidden[mask]


def inpaint(model: Any, batch: Batch, mask: Tensor, draws: int = 4, chains: int = 32, steps: int = 200) -> Tensor:
    """Draws of the hidden dimensions given the visible ones: means of p(x|z) for z ~ p(z|visible), x where visible.

    Args:
        model: with `decoder` and `prior`.
        batch: x `(batch, *data_shape)`, with labels for a class-conditional model.
        mask: broadcastable to x, True where x is visible.
        draws, chains, steps: see `posterior_draws`.

    Returns:
        `(draws, batch, *data_shape)`.
    """
    seen = mask.expand_as(batch.x)
    return torch.where(seen, batch.x, model.decode(draws_given(model, batch, seen, draws, chains, steps), batch.y))


def draws_given(model: Any, batch: Batch, seen: Tensor, draws: int, chains: int = 32, steps: int = 200) -> Tensor:
    """Draws of z given the dimensions of x that are seen, `(draws, batch, latent_dim)`; see `posterior_draws`.

    Args:
        model: with `decoder` and `prior`.
        batch: x `(batch, *data_shape)`, with labels for a class-conditional model.
        seen: like x, True where x is visible.
        draws, chains, steps: see `posterior_draws`.
    """
    dims = batch.x.ndim - 1

    def log_likelihood(z: Tensor) -> Tensor:
        p = cast(Independent, model.decoder(z, batch.y))
        return torch.where(seen, p.base_dist.log_prob(batch.x), 0.0).flatten(-dims).sum(-1)

    return posterior_draws(model.prior, log_likelihood, len(batch.x), draws, chains, steps)


def denoise(model: Any, batch: Batch, level: float, draws: int = 4, chains: int = 32, steps: int = 200) -> Tensor:
    """Draws of the clean datum given one with noise: means of p(x|z) for z ~ p(z|x with noise).

    Args:
        model: with `decoder` and `prior`.
        batch: x with noise.
        level: of the noise, see the decoder's `noisy`.
        draws, chains, steps: see `posterior_draws`.

    Returns:
        `(draws, batch, *data_shape)`.
    """

    def log_likelihood(z: Tensor) -> Tensor:
        return model.decoder.noisy(z, level, batch.y).log_prob(batch.x)

    return model.decode(posterior_draws(model.prior, log_likelihood, len(batch.x), draws, chains, steps), batch.y)


def posterior_draws(
    prior: Callable[[], Any],
    log_likelihood: Callable[[Tensor], Tensor],
    rows: int,
    draws: int,
    chains: int = 32,
    steps: int = 200,
) -> Tensor:
    """Draws of z from prior times likelihood, `(draws, rows, dim)`.

    Args:
        prior: its call gives p(z).
        log_likelihood: z `(chains, rows, dim)` -> `(chains, rows)`.
        rows: number of data.
        draws: per row, resampled from the ends of its chains by their weights.
        chains: per row.
        steps: temperatures between prior and posterior.
    """
    at_least(1, count=rows)
    at_least(1, draws=draws)
    p = prior()
    start = p.expand((rows,))

    def log_target(z: Tensor) -> Tensor:
        return log_likelihood(z) + p.log_prob(z)

    settings = tune(start, log_target, schedule(steps))
    annealed = annealed_importance_sampling(start, log_target, settings, chains)
    return resample(annealed.states, annealed.log_weight, draws)
