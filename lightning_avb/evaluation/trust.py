"""When an estimate of log p(x) is not to be trusted."""

from __future__ import annotations

from torch import Tensor

ENOUGH_SAMPLES = 100
"""Effective samples, their harmonic mean over rows, from which on an importance-weighted bound is trusted."""
ENOUGH_CHAINS = 0.25
"""Share of effective chains."""
ACCEPTANCE = (0.2, 0.95)
GAP = 0.25
"""Nats."""


def harmonic_mean(values: Tensor) -> float:
    """It is near the smallest values where those are few: what a bound lacks goes with 1 / effective samples."""
    return 1 / values.double().reciprocal().mean().item()


def annealing_objection(effective_chains: Tensor, acceptance: Tensor, gap: float | None) -> str:
    return ""
