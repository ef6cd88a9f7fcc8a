"""Priors as models make them from recipes, with checks."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..capabilities import HasParts, can
from ..errors import ConfigurationError


def make_prior(prior: Any, latent_dim: int) -> nn.Module:
    """The module that a recipe gives.

    Raises:
        ConfigurationError: it does not give a module.
    """
    try:
        made = prior(latent_dim)
    except TypeError as error:
        raise ConfigurationError(f"prior: {error}") from error
    if not isinstance(made, nn.Module):
        raise ConfigurationError(f"prior: {type(made).__name__} is no torch.nn.Module that returns a distribution")
    return made


def check_sampled_prior(prior: Any, latent_dim: int) -> None:
    """Checks a prior of which only draws are used.

    Raises:
        ConfigurationError: it has parameters to learn, or its draws have a wrong shape.
    """
    name = type(prior).__name__
    if any(parameter.requires_grad for parameter in prior.parameters()):
        raise ConfigurationError(f"prior: {name} learns, and here the prior cannot")
    parts: list[tuple[str, Any, tuple[int, ...]]] = [("", prior, (2, 3))]
    if can(prior, HasParts):
        y = torch.tensor([0, prior.parts - 1, 0])
        parts.append((".given(y) for three labels y", lambda: prior.given(y), (2,)))
    for what, distribution, shape in parts:
        try:
            with torch.random.fork_rng(devices=[]):
                drawn = tuple(distribution().sample(shape).shape)
        except Exception as error:
            raise ConfigurationError(f"prior: {name}{what} cannot be drawn from: {error}") from error
        if drawn != (2, 3, latent_dim):
            raise ConfigurationError(
                f"prior: sample({shape}) of {name}{what} has shape {drawn}, expected {(2, 3, latent_dim)}"
            )
