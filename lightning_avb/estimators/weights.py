"""Estimates from weights: importance weighting, annealing, and annealing from both sides."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.distributions import Distribution

from ..batch import Batch
from ..evaluation import (
    Annealer,
    DefensiveStudent,
    fitted_proposal,
    importance_weighting,
    log_joint,
    prior_of,
    refined_proposal,
    schedule,
    simulate,
)
from ..evaluation.importance import BLOCK, LogDensity
from ..evaluation.trust import annealing_objection, harmonic_mean, importance_objection
from ..tables import Line
from .base import BELOW, Estimator, Figures, RowEstimator


class Importance(RowEstimator):
    """Importance weighting, from a heavy-tailed proposal fitted to draws of q."""

    name, side, figures = "importance", BELOW, 2

    def __init__(self, rows: int | None, samples: int, pairs: int, seed: int) -> None:
        super().__init__(f"{samples} samples", rows, pairs, BLOCK, seed)
        self.samples, self.pairs = samples, pairs

    def estimate(self, model: Any) -> Callable[[Batch], Figures]:
        def estimate(rows: Batch) -> Figures:
            proposal, target = _proposal(model, rows, self.pairs), _target(model, rows)
            found = importance_weighting(proposal, target, self.samples, chunk=self.pairs)
            return found.bound, found.effective_samples

        return estimate

    def verdict(self, figures: Tensor) -> tuple[dict[str, float], str | None]:
        effective = figures[:, 0]
        return {"effective samples": harmonic_mean(effective)}, importance_objection(effective)


class Chains:
    """The annealing of a model's rows, tuned when it is first asked for; `Annealing` and `Bidirectional` share it.

    Args:
        chains, steps, leapfrogs, path, start, chunk, seed: see `likelihood.Likelihood`.

    Attributes:
        gap: what `Bidirectional` found, in nats; None: it was not run.
    """

    def __init__(
        self,
        chains: int,
        steps: int,
        leapfrogs: int,
        path: Literal["linear", "sigmoid"],
        start: Literal["proposal", "prior"],
        chunk: int,
        seed: int,
    ) -> None:
        self.betas, self.leapfrogs = schedule(steps, path), leapfrogs
        self.chains, self.chunk, self.start, self.seed = chains, chunk, start, seed
        self.settings = f"{chains} chains, {steps} steps of {leapfrogs} leapfrogs, {path}, from the {start}"
        self.gap: float | None = None
        self._annealer: Annealer | None = None

    def of(self, model: Any) -> Annealer:
        if self._annealer is None:

            def start(rows: Batch) -> tuple[Distribution, Tensor | None]:
                if self.start == "prior":
                    return prior_of(model.prior).expand((len(rows.x),)), None
                proposal = _proposal(model, rows, self.chunk)
                return proposal, proposal.scale_tril

            def simulated(rows: int, seed: int) -> tuple[Tensor, Batch]:
                index = torch.arange(rows, device=model.device)
                y = index % model.classes if model.classes else None
                z, x = simulate(lambda z: model.decoder(z, y), model.prior, rows, seed)
                return z, Batch(x, y, index)

            self._annealer = Annealer(
                lambda rows: _target(model, rows),
                start,
                simulated,
                self.betas,
                self.leapfrogs,
                self.chains,
                self.chunk,
                self.seed,
            )
        return self._annealer


class Annealing(RowEstimator):
    """Annealed importance sampling with Hamiltonian transitions."""

    name, side, figures = "annealing", BELOW, 3

    def __init__(self, rows: int | None, chains: Chains) -> None:
        super().__init__(chains.settings, rows, chains.chunk, chains.chains, chains.seed)
        self.chains = chains

    def begin(self, trainer: pl.Trainer, model: Any) -> None:
        super().begin(trainer, model)
        begin = time.perf_counter()
        self.chains.of(model)
        self.seconds = time.perf_counter() - begin

    def estimate(self, model: Any) -> Callable[[Batch], Figures]:
        def estimate(rows: Batch) -> Figures:
            found = self.chains.of(model).estimate(rows)
            return found.bound, found.effective_chains, found.acceptance

        return estimate

    def verdict(self, figures: Tensor) -> tuple[dict[str, float], str | None]:
        effective, acceptance = figures.unbind(1)
        diagnostics = {"effective chains": harmonic_mean(effective), "acceptance": acceptance.mean().item()}
        return diagnostics, annealing_objection(self.chains.chains, effective, acceptance, self.chains.gap)


class Bidirectional(Estimator):
    """The same on data simulated from the model, with the reverse chain: what `annealing` may lack."""

    name = "bidirectional"
    SIDES: ClassVar[dict[str, str]] = {
        "lower": BELOW,
        "upper": "above, in expectation",
        "gap": "none: what `lower` lacks at most, in expectation",
    }

    def __init__(self, simulated: int, chains: Chains) -> None:
        self.simulated, self.chains = simulated, chains

    def begin(self, trainer: pl.Trainer, model: Any) -> None:
        begin = time.perf_counter()
        self.found = self.chains.of(model).certified(self.simulated).summary()
        self.chains.gap = self.found["gap"][0]
        self.seconds = time.perf_counter() - begin

    def lines(self, model: Any) -> list[Line]:
        lines, volume = list[Line](), model.log_jacobian.item()
        for side, (mean, error) in self.found.items():
            mean, name = mean if side == "gap" else mean + volume, f"{self.name}, {side}"
            seconds = 0.0 if lines else self.seconds
            lines.append(
                Line(
                    name,
                    mean,
                    error,
                    self.simulated,
                    "simulated",
                    self.SIDES[side],
                    self.chains.settings,
                    seconds=seconds,
                )
            )
        return lines


def _target(model: Any, rows: Batch) -> LogDensity:
    return log_joint(lambda z: model.decoder(z, rows.y), model.prior, rows.x)


def _proposal(model: Any, rows: Batch, chunk: int) -> DefensiveStudent:
    fitted = fitted_proposal(model.encoder(rows.x, rows.y), model.prior)
    return refined_proposal(fitted, _target(model, rows), chunk=chunk)
