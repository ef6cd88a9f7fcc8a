"""Per-sample terms of the objectives, as functions of tensors, in nats and not averaged.

Shapes are `(samples, batch)` throughout.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize, softplus

from . import noise
from .compiling import as_written
from .precision import full_precision_in_half


def density_ratio_loss(on_posterior: Tensor, on_reference: Tensor) -> Tensor:
    """The critic's logistic loss, -log sigmoid(T(x, z_q)) - log sigmoid(-T(x, z_r)).

    Its minimum over all functions T is T*(x, z) = log q(z|x) - log r(z|x)
    (Mescheder et al. 2017, equation 3.3 and proposition 1).
    """
    return softplus(-on_posterior) + softplus(on_reference)


def critic_accuracy(on_posterior: Tensor, on_reference: Tensor) -> Tensor:
    """The share of right signs of T in every pair of draws; 0.5 on average if T cannot tell them apart."""
    return 0.5 * ((on_posterior > 0).float() + (on_reference <= 0).float())


def log_mean_exp(log_weights: Tensor) -> Tensor:
    """log 1/K sum_k exp(log w_k), `(batch,)`, of `(samples, batch)`.

    With log w = log p(x, z) - log q(z|x) it is the importance-weighted bound: below log p(x) in expectation
    (Burda et al. 2016).
    """
    return log_weights.logsumexp(0) - math.log(len(log_weights))


def categorical_divergence(logits: Tensor, others: Tensor) -> Tensor:
    """KL(q, p), `(...)`, of two categorical distributions with unnormalised logits `(..., categories)`."""
    log_q = logits.log_softmax(-1)
    return (log_q.exp() * (log_q - others.log_softmax(-1))).sum(-1)


def marginal_divergence(logits: Tensor) -> Tensor:
    """KL(q(y), p(y)) in nats, as one share per row; q(y) is the mean of q(y|x) over a batch, and p(y) is uniform.

    Args:
        logits: of q(y|x), `(batch, categories)`.

    Returns:
        `(batch,)`; their mean over rows is the divergence. With few rows it is too large, since q(y) is an estimate.
    """
    log_q = logits.log_softmax(-1)
    # In logarithms, a category that no row has gives 0 times a large number, and not 0 times infinity.
    log_mean = log_q.logsumexp(0) - math.log(len(log_q))
    return (log_q.exp() * (log_mean + math.log(log_q.shape[-1]))).sum(-1)


def local_distributional_smoothness(
    network: Callable[[Tensor], Tensor], x: Tensor, logits: Tensor, radius: float
) -> Tensor:
    """KL(q(y|x), q(y|x + r)) in nats, `(batch,)`, where r of norm `radius` points where the divergence grows fastest.

    It is near zero where the category is the same all around x. As a loss it keeps the borders between categories away
    from the data (Miyato et al. 2018, *Virtual adversarial training*, equation 5).

    The paper finds r by one step of power iteration, with a finite difference from a random point near x. Here this
    point is five radii away, and r = radius g / |g| with the gradient g there: large enough for bfloat16. From one
    radius away, the divergences found on MNIST were smaller.

    Args:
        network: from `(batch, *data_shape)` to the logits of q(y|x), `(batch, categories)`.
        x: `(batch, *data_shape)`.
        logits: those of x, constant in the gradient: only q(y|x + r) is made smooth.
        radius: in the units of x.
    """
    q = logits.detach()
    with torch.enable_grad(), full_precision_in_half(x.device.type):
        direction = normalize(noise.normal((1, len(x), x[0].numel()), x)[0], dim=-1)
        start = (x + 5 * radius * direction.view_as(x)).requires_grad_()
        (slope,) = torch.autograd.grad(categorical_divergence(q, network(start)).sum(), start)
    worst = normalize(slope.flatten(1), dim=-1, eps=1e-30).view_as(x)
    return categorical_divergence(q, network(x + radius * worst))


def squared_slope(network: Callable[..., Tensor], inputs: Sequence[Tensor], context: Tensor | None = None) -> Tensor:
    """|grad T|^2 with respect to all inputs, of the shape of T, differentiable in the network's weights.

    Args:
        network: maps the inputs and the context to T.
        inputs: each with the leading dimensions of T; constants.
        context: a further input of the network, or None.
    """
    inputs = [part.detach().requires_grad_() for part in inputs]
    with full_precision_in_half(inputs[0].device.type), as_written():
        t = network(*inputs, context)
    slopes = torch.autograd.grad(t.sum(), inputs, create_graph=True)
    return torch.stack([slope.flatten(t.ndim).square().sum(-1) for slope in slopes]).sum(0)
