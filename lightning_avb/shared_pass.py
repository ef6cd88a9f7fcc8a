"""One pass through a critic for two players: the critic, and the player that made its input."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class SharedPass:
    """One pass through the critic that serves two players.

    The model's loss needs a_i dT_i/dz_i with the critic's weights constant, the critic's loss needs
    sum_i b_i dT_i/dpsi with z constant, where a_i and b_i are the derivatives of the two losses with respect to T_i.
    Computed separately, this takes two forward and two backward passes. But T_i depends on z_i only, so one backward
    pass with the cotangents b_i gives the gradient of the critic's weights, and b_i dT_i/dz_i at the critic's input.
    Multiplying row i there by a_i / b_i gives the gradient of the model.

        shared = SharedPass()
        t = critic(x, shared.critic_input(z))
        for_model, for_critic = shared.critic_output(t)

    All inputs of the critic on which T_i depends can be passed through `critic_input`: in a BiGAN both x and z.

    A b_i that is zero, or smaller than 1e-20 |a_i|, is replaced by that floor: far below the rounding error of the
    critic's gradient. float16 cannot represent such cotangents; keep the critic out of float16 autocast
    (`precision.full_precision_in_half`).
    """

    def __init__(self) -> None:
        self.ratio: Tensor | None = None

    def critic_input(self, z: Tensor) -> Tensor:
        """z as the input of the critic, `(samples, batch, ...)`."""
        return _CriticInput.apply(z, self) if z.requires_grad and torch.is_grad_enabled() else z

    def critic_output(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """T for the model's loss and T for the critic's loss, with equal values."""
        return _CriticOutput.apply(t, self) if t.requires_grad and torch.is_grad_enabled() else (t, t)


class _CriticInput(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, shared: SharedPass) -> Tensor:  # type: ignore[override]
        ctx.shared = shared
        return z.view_as(z)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        ratio = ctx.shared.ratio
        return gradient * ratio.view(*ratio.shape, *[1] * (gradient.ndim - ratio.ndim)), None


class _CriticOutput(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, t: Tensor, shared: SharedPass) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        ctx.shared = shared
        return t.view_as(t), t.clone()

    @staticmethod
    def backward(ctx: Any, model: Tensor, critic: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        floor = (1e-20 * model.abs()).clamp_min(1e-35)
        cotangent = torch.where(critic.abs() < floor, floor, critic)
        ctx.shared.ratio = model / cotangent
        return cotangent, None
