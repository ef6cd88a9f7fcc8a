"""When an estimate of log p(x) from weights is not to be trusted.

All of them are too low where few draws or chains have nearly all the weight. How much, `python benchmarks/trust.py`
measures where log p(x) is known; docs/likelihood.md has the figures. What a bound lacks goes with 1 / effective number
of weights, so that its mean over rows is told by their harmonic mean, which the few bad rows rule, as they rule what
the mean lacks. The thresholds are where that is about 0.1 nats.
"""

from __future__ import annotations

from torch import Tensor

ENOUGH_SAMPLES = 100
"""Effective samples, their harmonic mean over rows, that importance weighting needs."""

SPREAD = 0.1
"""1 / effective chains - 1 / chains, the square of a row's standard error in nats, that annealing may have."""

ACCEPTANCE = 0.2
"""Mean acceptance below which chains hardly move."""

GAP = 0.25
"""Nats between the bounds on simulated data, of which the lower one lacks about half."""


def harmonic_mean(effective: Tensor) -> float:
    """Over rows: near the smallest where those are few."""
    return 1 / effective.double().reciprocal().mean().item()


def importance_objection(effective_samples: Tensor) -> str:
    """Why not to trust importance weighting, given the effective samples of every row `(batch,)`; empty: nothing."""
    effective = harmonic_mean(effective_samples)
    return f"{effective:.1f} effective samples, {ENOUGH_SAMPLES} are enough" if effective < ENOUGH_SAMPLES else ""


def annealing_objection(chains: int, effective_chains: Tensor, acceptance: Tensor, gap: float | None) -> str:
    """Why not to trust annealing; empty where nothing speaks against it.

    Args:
        chains: of every row.
        effective_chains: of every row, `(batch,)`.
        acceptance: of every row, `(batch,)`.
        gap: of `bidirectional`, in nats; None: it was not run.
    """
    effective, enough, rate = harmonic_mean(effective_chains), 1 / (SPREAD + 1 / chains), acceptance.mean().item()
    objections = []
    if effective < enough:
        objections.append(f"{effective:.1f} effective chains of {chains}, {enough:.1f} are enough")
    if chains == 1 and gap is None:
        objections.append("one chain without `bidirectional` tells nothing of its error")
    if rate < ACCEPTANCE:
        objections.append(f"acceptance {rate:.2f}: the chains hardly move")
    if gap is not None and not gap <= GAP:
        objections.append(f"a gap of {gap:.2f} nats on simulated data")
    return "; ".join(objections)
