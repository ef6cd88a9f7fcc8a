"""Hamiltonian Monte Carlo along the path of `annealing`: f_b(z) = r(z)^(1 - b) f(z)^b, b from 0 to 1.

A transition is a momentum v ~ N(0, I), some leapfrog steps, and a Metropolis test. With a lower triangular matrix L per
row (such as the scale of a fitted proposal) it works in the coordinates L^-1 z. Every leapfrog step costs one gradient
of log f. log f, log r and both gradients are stored for the current state, and a new b only changes their weights.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from .. import noise
from ..errors import at_least
from .importance import LogDensity

JITTER = 0.2
"""Every transition draws a step size within this relative range, so that trajectories do not become periodic."""


class State(NamedTuple):
    """States of chains: z `(chains, batch, dim)`, both log-densities `(chains, batch)`, and their gradients in z."""

    z: Tensor
    log_start: Tensor
    log_target: Tensor
    start_gradient: Tensor
    target_gradient: Tensor

    def log_density(self, beta: float) -> Tensor:
        return torch.lerp(self.log_start, self.log_target, beta)

    def gradient(self, beta: float) -> Tensor:
        return torch.lerp(self.start_gradient, self.target_gradient, beta)

    def accept(self, proposed: State, accepted: Tensor) -> State:
        vectors = accepted.unsqueeze(-1)
        return State(
            torch.where(vectors, proposed.z, self.z),
            torch.where(accepted, proposed.log_start, self.log_start),
            torch.where(accepted, proposed.log_target, self.log_target),
            torch.where(vectors, proposed.start_gradient, self.start_gradient),
            torch.where(vectors, proposed.target_gradient, self.target_gradient),
        )


class AnnealingPath:
    """The family f_b and the transitions that leave its members invariant."""

    def __init__(self, start: Distribution, log_target: LogDensity, scale_tril: Tensor | None, chunk: int) -> None:
        self.start, self.log_target, self.scale_tril = start, log_target, scale_tril
        self.chunk = at_least(1, chunk=chunk)

    def __call__(self, z: Tensor) -> State:
        log_start, start_gradient = with_gradient(self.start.log_prob, z)
        parts = [with_gradient(self.log_target, part) for part in z.split(max(1, self.chunk // z.shape[1]))]
        log_target, target_gradient = parts[0] if len(parts) == 1 else map(torch.cat, zip(*parts, strict=True))
        return State(z, log_start, log_target, start_gradient, target_gradient)

    def leapfrog(
        self, point: State, velocity: Tensor, beta: float, step: Tensor | float, leapfrogs: int
    ) -> tuple[State, Tensor]:
        """Leapfrog steps of the Hamiltonian -log f_b + |v|^2 / 2: they keep the volume and are reversible.

        Args:
            velocity: `(chains, batch, dim)`, in the coordinates L^-1 z.
            step: a number, or `(chains, batch, 1)`.
        """
        velocity = velocity + 0.5 * step * self._scaled_gradient(point, beta)
        for i in range(leapfrogs):
            shift = velocity if self.scale_tril is None else torch.einsum("bij,sbj->sbi", self.scale_tril, velocity)
            point = self(point.z + step * shift)
            last = i == leapfrogs - 1
            velocity = velocity + (0.5 if last else 1.0) * step * self._scaled_gradient(point, beta)
        return point, velocity

    def _scaled_gradient(self, point: State, beta: float) -> Tensor:
        """The gradient of log f_b in L^-1 z."""
        gradient = point.gradient(beta)
        return gradient if self.scale_tril is None else torch.einsum("bji,sbj->sbi", self.scale_tril, gradient)

    def transition(self, point: State, beta: float, step: float, leapfrogs: int) -> tuple[State, Tensor]:
        """One step of Hamiltonian Monte Carlo for f_b, and its probability of acceptance, `(chains, batch)`."""
        chains, batch, dim = point.z.shape
        velocity, test, length = noise.normal((chains, batch, dim + 2), point.z).split((dim, 1, 1), -1)
        # Reversible: the step size does not depend on the state.
        steps = step * (1 + JITTER * (2 * torch.special.ndtr(length) - 1))
        end, end_velocity = self.leapfrog(point, velocity, beta, steps, leapfrogs)
        energy = 0.5 * velocity.square().sum(-1) - point.log_density(beta)
        end_energy = 0.5 * end_velocity.square().sum(-1) - end.log_density(beta)
        log_ratio = (energy - end_energy).nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf)
        accepted = torch.special.log_ndtr(test.squeeze(-1)) < log_ratio
        return point.accept(end, accepted), log_ratio.exp().clamp_max(1)


def with_gradient(log_density: LogDensity, z: Tensor) -> tuple[Tensor, Tensor]:
    """The log-density `(chains, batch)` and its gradient in z; parameters get no gradient."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        value = log_density(z)
        (gradient,) = torch.autograd.grad(value.sum(), z)
    return value.detach(), gradient
