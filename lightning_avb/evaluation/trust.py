"""When an estimate of log p(x) from weights is not to be trusted.

All of them are too low where few draws or chains have nearly all the weight. How much, was measured where log p(x) is
known (docs/likelihood.md): what importance weighting lacks is about 10 / effective samples nats, 2 to 50 dimensions and
100 to 5,000 samples taken together. Its mean over rows is therefore told by the harmonic mean of the effective samples,
which the few bad rows rule, as they rule what the mean lacks.
"""

from __future__ import annotations

from torch import Tensor

ENOUGH_SAMPLES = 100
"""Effective samples, their harmonic mean over rows: with fewer, importance weighting lacks about 0.1 nats or more."""

ENOUGH_CHAINS = 3
"""Effective chains, likewise, or half of all chains where those are fewer than 6: with more, annealing lacked 0.1 nats
or less, with fewer 0.1 to hundreds."""

ACCEPTANCE = 0.2
"""Mean acceptance below which chains hardly move."""

GAP = 0.25
"""Nats between the bounds on simulated data; a third to a half of them is what the lower one lacks."""


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
    effective, rate, enough = harmonic_mean(effective_chains), acceptance.mean().item(), min(ENOUGH_CHAINS, chains / 2)
    objections = [
        (effective < enough, f"{effective:.1f} effective chains, {enough:g} are enough"),
        (chains == 1 and gap is None, "one chain without `bidirectional` tells nothing of its error"),
        (rate < ACCEPTANCE, f"acceptance {rate:.2f}: the chains hardly move"),
        (gap is not None and not gap <= GAP, f"a gap of {gap:.2f} nats on simulated data" if gap is not None else ""),
    ]
    return "; ".join(text for holds, text in objections if holds)
