"""When an estimate of log p(x) from weights is not to be trusted.

Such estimates are too low when a few draws or chains have nearly all the weight. `python benchmarks/reliability.py`
measures by how much, where log p(x) is known; docs/likelihood.md has the figures. The error of a bound is proportional
to 1 / effective number of weights. Its mean over rows therefore follows their harmonic mean: the few bad rows dominate
both. The thresholds are at an error of about 0.1 nats.
"""

from __future__ import annotations

from torch import Tensor

ENOUGH_SAMPLES = 100
"""Effective samples that importance weighting needs, as the harmonic mean over rows."""

SPREAD = 0.1
"""The largest 1 / effective chains - 1 / chains for annealing: the square of a row's standard error in nats."""

ACCEPTANCE = 0.2
"""Mean acceptance below which chains hardly move."""

GAP = 0.25
"""The largest gap of the bounds on simulated data, in nats; about half of it is the error of the lower bound."""


def harmonic_mean(effective: Tensor) -> float:
    """The harmonic mean over rows: close to the smallest values."""
    return 1 / effective.double().reciprocal().mean().item()


def importance_objection(effective_samples: Tensor) -> str:
    """Why importance weighting should not be trusted, given `(batch,)` effective samples; empty: no objection."""
    effective = harmonic_mean(effective_samples)
    return f"{effective:.1f} effective samples, {ENOUGH_SAMPLES} are enough" if effective < ENOUGH_SAMPLES else ""


def annealing_objection(chains: int, effective_chains: Tensor, acceptance: Tensor, gap: float | None) -> str:
    """Why annealing should not be trusted; empty: no objection.

    Args:
        chains: per row.
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
