"""The per-sample mathematics of the objectives: tensors in, tensors out, in nats, never averaged.

Shapes are `(samples, batch)` throughout.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import normalize, softplus

from . import noise
from .errors import ConfigurationError

AdversarialForm = Literal["non_saturating", "minimax", "kl"]


def density_ratio_loss(on_posterior: Tensor, on_reference: Tensor) -> Tensor:
    """The critic's logistic loss, -log sigmoid(T(x, z_q)) - log sigmoid(-T(x, z_r)).

    Its minimum over all functions T is T*(x, z) = log q(z|x) - log r(z|x)
    (Mescheder et al. 2017, equation 3.3 and proposition 1).
    """
    return softplus(-on_posterior) + softplus(on_reference)


def critic_accuracy(on_posterior: Tensor, on_reference: Tensor) -> Tensor:
    """How often the sign of T is right, of every pair of draws: 0.5 on average where it cannot tell them apart."""
    return 0.5 * ((on_posterior > 0).float() + (on_reference <= 0).float())


def adversarial_loss(t: Tensor, form: AdversarialForm) -> Tensor:
    """What the player that a critic T judges loses: it falls where T, the logit of "this one is generated", falls.

    * `non_saturating`: -log sigmoid(-T), steep where the critic is sure (Goodfellow et al. 2014, section 3);
    * `minimax`: log sigmoid(T), minus the critic's own loss at these draws (their equation 1), flat there;
    * `kl`: T itself, whose mean is KL(generated, real) for the optimal critic T* = log generated - log real.

    Raises:
        ConfigurationError: no such form.
    """
    if form == "non_saturating":
        return softplus(t)
    if form == "minimax":
        return -softplus(-t)
    if form == "kl":
        return t
    raise ConfigurationError(f"loss: {form!r} is none of {', '.join(map(repr, get_args(AdversarialForm)))}")


def log_mean_exp(log_weights: Tensor) -> Tensor:
    """log 1/K sum_k exp(log w_k), `(batch,)`, of `(samples, batch)`.

    With log w = log p(x, z) - log q(z|x) it is the importance-weighted bound: below log p(x) in expectation
    (Burda et al. 2016).
    """
    return log_weights.logsumexp(0) - math.log(len(log_weights))


def categorical_divergence(logits: Tensor, others: Tensor) -> Tensor:
    """KL(q, p) of two categorical distributions by their logits, `(..., categories)`, which need no normalisation."""
    log_q = logits.log_softmax(-1)
    return (log_q.exp() * (log_q - others.log_softmax(-1))).sum(-1)


def marginal_divergence(logits: Tensor) -> Tensor:
    """KL(q(y), p(y)) in nats with q(y) the mean of q(y|x) over a batch and p(y) uniform, as a share for every row.

    Args:
        logits: of q(y|x), `(batch, categories)`.

    Returns:
        `(batch,)`; the mean over rows is the divergence. With few rows it is too large: q(y) is an estimate.
    """
    log_q = logits.log_softmax(-1)
    # In logarithms, where a category that no row has is 0 times a large number instead of 0 times infinity.
    log_mean = log_q.logsumexp(0) - math.log(len(log_q))
    return (log_q.exp() * (log_mean + math.log(log_q.shape[-1]))).sum(-1)


def local_distributional_smoothness(
    network: Callable[[Tensor], Tensor], x: Tensor, logits: Tensor, radius: float
) -> Tensor:
    """KL(q(y|x), q(y|x + r)) in nats, `(batch,)`, where r of norm `radius` points where the divergence grows fastest.

    It is near zero where the category is the same all around x: with it as a loss, borders between categories keep
    away from the data (Miyato et al. 2018, *Virtual adversarial training*, equation 5).

    They find r by a step of power iteration from a random point near x, a finite difference. Here that point is five
    radii away, r = radius g / |g| with g the gradient there, which bfloat16 can tell from nothing; from one radius away
    the divergences found on MNIST were smaller.

    Args:
        network: from `(batch, *data_shape)` to the logits of q(y|x), `(batch, categories)`.
        x: `(batch, *data_shape)`.
        logits: those of x. They are constants: what is to be smooth is q(y|x + r).
        radius: in the units of x.
    """
    q = logits.detach()
    with torch.enable_grad(), full_precision_in_half(x.device.type):
        direction = normalize(noise.normal((1, len(x), x[0].numel()), x)[0], dim=-1)
        start = (x + 5 * radius * direction.view_as(x)).requires_grad_()
        (slope,) = torch.autograd.grad(categorical_divergence(q, network(start)).sum(), start)
    worst = normalize(slope.flatten(1), dim=-1, eps=1e-30).view_as(x)
    return categorical_divergence(q, network(x + radius * worst))


def opposed(
    discriminator: Callable[..., Tensor], drawn: Sequence[Tensor], context: Tensor | None
) -> tuple[Tensor, Tensor]:
    """T of rows of two kinds, `(2, batch)`, from one pass: as its opponents see it, and as it sees itself.

    Losses of the first do not move T's weights, losses of the second nothing else.

    Args:
        discriminator: from what it reads and the context to a number a row.
        drawn: what it reads, `(2, batch, ...)` each.
        context: `(batch, context_dim)`, what it knows of a row besides, or None.

    Raises:
        ConfigurationError: it gives other than one number a row.
    """
    crossing = SharedPass()
    with full_precision_in_half(drawn[0].device.type):
        t = discriminator(*map(crossing.enter, drawn), context).to(drawn[0])
    if t.shape != drawn[0].shape[:2]:
        raise ConfigurationError(f"discriminator: gives {tuple(t.shape[2:])} numbers a row, and it is to give one")
    return crossing.leave(t)


class SharedPass:
    """One pass through the critic that serves two players.

    The model's loss needs a_i dT_i/dz_i with the critic's weights constant, the critic's loss needs
    sum_i b_i dT_i/dpsi with z constant, where a_i and b_i are the derivatives of the two losses by T_i. Written
    plainly that takes two forward and two backward passes. But T_i depends on z_i alone among the z, so one backward
    pass with the cotangents b_i leaves b_i dT_i/dz_i at the critic's input, and multiplying row i by a_i / b_i gives
    the model its gradient, while the critic's weights have received theirs.

        crossing = SharedPass()
        t = critic(x, crossing.enter(z))
        for_model, for_critic = crossing.leave(t)

    Whatever row i of T depends on may enter, one tensor after the other: in a BiGAN both x and z.

    A b_i that is zero, or smaller than 1e-20 |a_i|, is replaced by that floor: far below the rounding error of the
    critic's gradient. float16 has no room for such cotangents; keep the critic out of float16 autocast
    (`full_precision_in_half`).
    """

    def __init__(self) -> None:
        self.ratio: Tensor | None = None

    def enter(self, z: Tensor) -> Tensor:
        """z on its way into the critic, `(samples, batch, ...)`."""
        return _Enter.apply(z, self) if z.requires_grad and torch.is_grad_enabled() else z

    def leave(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """T as the model's loss and as the critic's loss see it; the values are the same."""
        return _Leave.apply(t, self) if t.requires_grad and torch.is_grad_enabled() else (t, t)


class _Enter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, crossing: SharedPass) -> Tensor:  # type: ignore[override]
        ctx.crossing = crossing
        return z.view_as(z)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        ratio = ctx.crossing.ratio
        return gradient * ratio.view(*ratio.shape, *[1] * (gradient.ndim - ratio.ndim)), None


class _Leave(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, t: Tensor, crossing: SharedPass) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        ctx.crossing = crossing
        return t.view_as(t), t.clone()

    @staticmethod
    def backward(ctx: Any, model: Tensor, critic: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        floor = (1e-20 * model.abs()).clamp_min(1e-35)
        cotangent = torch.where(critic.abs() < floor, floor, critic)
        ctx.crossing.ratio = model / cotangent
        return cotangent, None


def full_precision_in_half(device_type: str) -> torch.autocast:
    """A context that turns autocast off where it would compute in float16, and leaves bfloat16 and float32 alone."""
    half = torch.is_autocast_enabled(device_type) and torch.get_autocast_dtype(device_type) == torch.float16
    dtype = torch.get_autocast_dtype(device_type)
    return torch.autocast(device_type, dtype, enabled=torch.is_autocast_enabled(device_type) and not half)
