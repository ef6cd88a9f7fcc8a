"""Assertions about expectations, with their tolerance from the Monte Carlo error."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

ERRORS = 5.0
"""Allowed distance in standard errors: passed by chance in all but one of 2 million cases."""


def standard_error(draws: Tensor) -> Tensor:
    """Of the mean over the first dimension, whose entries are independent."""
    return draws.std(0) / len(draws) ** 0.5


def assert_mean(draws: Tensor, truth: Tensor | float, resolution: float) -> None:
    """The mean over the first dimension is `truth` within 5 standard errors, which are smaller than `resolution`."""
    allowed = ERRORS * standard_error(draws)
    assert allowed.max() < resolution, f"5 standard errors are {allowed.max():.3g}, too coarse a test"
    distance = (draws.mean(0) - truth).abs()
    assert (distance <= allowed + 1e-12).all(), f"off by {distance.max():.3g}, allowed {allowed.max():.3g}"


def flat_gradient(loss: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
    """The gradient by all parameters as one vector; zeros where the loss does not depend on one."""
    gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
    return torch.cat([gradient.flatten() for gradient in gradients])
