"""Players, their optimizers and schedules, and the phases of one batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from .batch import Batch
from .errors import ConfigurationError, at_least

Losses = dict[str, Tensor]
"""Player -> loss of every sample, `(batch,)` or `(samples, batch)`."""


class PhaseResult(NamedTuple):
    """What the forward pass of a phase gives.

    Attributes:
        losses: one entry per player of the phase, per sample.
        scores: further per-sample quantities to log.
    """

    losses: Losses
    scores: dict[str, Tensor]


class Phase(NamedTuple):
    """One forward pass and one backward pass, after which all of its players step.

    Attributes:
        players: their names. No parameter belongs to two of them.
        compute: the forward pass.
    """

    players: tuple[str, ...]
    compute: Callable[[Batch], PhaseResult]


class Cosine(LambdaLR):
    """Cosine decay from the optimizer's learning rate to `final` times that, over the whole run.

    Args:
        optimizer: given by the engine.
        total: global steps until the end; None: the length of the run.
        warmup: steps of a linear rise from 0 at the start.
        final: the last learning rate, as a share of the first.
    """

    def __init__(self, optimizer: Optimizer, total: int | None = None, warmup: int = 0, final: float = 0.0) -> None:
        self.total, self.warmup, self.final = total, warmup, final
        super().__init__(optimizer, self.factor)

    def factor(self, step: int) -> float:
        """The factor of the learning rate at a global step."""
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        if self.total is None:
            return 1.0
        done = min(1.0, (step - self.warmup) / max(1, self.total - self.warmup))
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * done))


@dataclass(frozen=True)
class Player:
    """How the parameters of one player are updated.

    Args:
        optimizer: its optimizer; by default Adam with a learning rate of 1e-3.
        scheduler: its learning-rate schedule, in global steps; None: a constant learning rate.
        clip_norm: its gradient is clipped to this norm; None: no clipping.
        steps: optimizer steps per batch; more than one for critics and discriminators only.
    """

    optimizer: OptimizerCallable = torch.optim.Adam
    scheduler: LRSchedulerCallable | None = None
    clip_norm: float | None = None
    steps: int = 1

    def __post_init__(self) -> None:
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ConfigurationError(f"clip_norm: {self.clip_norm} is not a positive norm")
        at_least(0, steps=self.steps)

    def make_optimizer(self, name: str, parameters: list[nn.Parameter]) -> Optimizer:
        """The optimizer of the player of that name.

        Raises:
            ConfigurationError: options that it does not take.
        """
        try:
            optimizer = self.optimizer(parameters)
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"players.{name}.optimizer: {error}") from error
        # Fused optimizers would unscale float16 gradients within their step, after the clipping.
        optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
        return optimizer

    def make_scheduler(self, name: str, optimizer: Optimizer, total: int | None) -> LRScheduler | None:
        """The schedule of the player of that name, for a run of `total` steps, None: without an end.

        Raises:
            ConfigurationError: options that it does not take, or a schedule that does not count steps.
        """
        if self.scheduler is None or self.steps == 0:
            return None
        try:
            scheduler = self.scheduler(optimizer)
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"players.{name}.scheduler: {error}") from error
        if isinstance(scheduler, ReduceLROnPlateau):
            raise ConfigurationError(
                f"players.{name}.scheduler: ReduceLROnPlateau needs a metric; schedules here count steps"
            )
        if isinstance(scheduler, Cosine) and scheduler.total is None:
            scheduler.total = total
        return scheduler


def named_losses(losses: Losses) -> dict[str, Tensor]:
    """The losses under the names by which they are logged."""
    return {f"{player}_loss": loss for player, loss in losses.items()}
