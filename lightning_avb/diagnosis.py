"""What `lightning-avb test` prints of a posterior: whether to trust its draws, and how near reference draws are."""

from __future__ import annotations

import json
import math
import time
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor

from . import noise
from .draws import flat
from .errors import ConfigurationError, at_least
from .evaluation import (
    calibration_ranks,
    classifier_two_sample,
    diagnose_draws,
    moment_errors,
    neighbour_kl,
    sliced_wasserstein,
    standardised,
    uniformity,
)
from .likelihood import columns
from .models import Posterior
from .runs import beside
from .support import Parameters
from .targets import Target


class Finding(NamedTuple):
    """A line of the table; `verdict` says what the value means."""

    quantity: str
    value: float
    verdict: str


class Diagnosis(pl.Callback):
    """Diagnoses a `Posterior` in `test`, prints a table and writes it as JSON beside the checkpoint.

    Without reference draws: a flow is fitted to the draws, and the importance weights of its draws tell whether they
    could be the target's (Pareto k), and give a lower bound of the log of the evidence. With reference draws, which
    the target has or has not: two-sample figures. For a family: simulation-based calibration.

    Args:
        draws: of the sampler.
        folds: of the two-sample classifier.
        simulations: data sets of a family, whose posteriors are checked for calibration.
        ranks: draws of each of these posteriors.
        seed: of the draws.
    """

    def __init__(
        self, draws: int = 10000, folds: int = 5, simulations: int = 1000, ranks: int = 99, seed: int = 0
    ) -> None:
        numbers = {"draws": draws, "folds": folds, "simulations": simulations, "ranks": ranks}
        for name, value in numbers.items():
            at_least({"draws": 200, "folds": 2, "simulations": 100}.get(name, 1), **{f"diagnosis.{name}": value})
        self.draws, self.folds, self.simulations, self.ranks, self.seed = draws, folds, simulations, ranks, seed

    def on_test_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if not (isinstance(pl_module, Posterior) and trainer.is_global_zero):
            return
        begin = time.perf_counter()
        # Lightning tests in inference mode, in which the flow of the diagnosis could not be fitted.
        with noise.use(noise.seeded(self.seed, "diagnosis")), torch.inference_mode(False):
            findings = calibration(pl_module, self) if pl_module.amortised else trust(pl_module, self)
        print(columns([("quantity", "value", "")] + [(f.quantity, f"{f.value:.4g}", f.verdict) for f in findings]))
        path = beside(trainer, "diagnosis")
        path.write_text(json.dumps([_plain(finding) for finding in findings], indent=1))
        print(f"diagnosis: {path} ({time.perf_counter() - begin:.0f} s)")


def _plain(finding: Finding) -> dict[str, Any]:
    value = finding.value if math.isfinite(finding.value) else None  # JSON has neither nan nor infinity
    return {**finding._asdict(), "value": value}


def trust(model: Posterior, settings: Diagnosis) -> list[Finding]:
    """What draws say of themselves, and beside reference draws where the target has them."""
    z = model.draw_z(settings.draws).squeeze(1)
    say = diagnose_draws(z, lambda points: model.target.at(points.to(z)), seed=settings.seed)
    apart = say.log_evidence - say.evidence_bound
    verdict = "draws and target agree where the draws are; a mode that no draw has found is not seen"
    if say.k >= 0.7:
        verdict = "not to be trusted without a closer look"
    elif not apart < 1:
        verdict = f"look closer: the two figures of the evidence are {apart:.2g} nats apart"
    findings = [
        Finding("Pareto k", say.k, verdict),
        Finding("effective samples", say.effective_samples, f"of {say.samples} draws of a flow fitted to the draws"),
        Finding("evidence bound", say.evidence_bound, f"+- {say.evidence_bound_error:.2g}; below log Z in expectation"),
        Finding("log evidence", say.log_evidence, f"+- {say.log_evidence_error:.2g}; by importance weighting"),
    ]
    known = model.target.reference(settings.draws)
    if known is None:
        return findings
    try:
        return [*findings, *compare(model.target, model.target.named(z), known, settings.folds)]
    except ConfigurationError as error:  # what the draws say of themselves is not lost
        return [*findings, Finding("reference", math.nan, str(error))]


def compare(target: Target, drawn: Parameters, known: Parameters, folds: int = 5) -> list[Finding]:
    """Draws of a target beside reference draws, derived quantities among them, by name, `(count, ...)`.

    The divergence is that of the parameters alone, in the unconstrained coordinates, where it is the same: with
    quantities that are functions of others there is no density. It is left out where the reference lacks one of them,
    or where many rows of the reference are the same.

    Raises:
        ConfigurationError: the reference has none of the names.
    """
    shared = [name for name in drawn if name in known]
    if not shared:
        raise ConfigurationError(
            f"target: {type(target).__name__} draws {', '.join(drawn)}, and its reference has {', '.join(known)}"
        )
    mine, theirs = (flat({name: of[name].double().cpu() for name in shared})[0] for of in (drawn, known))
    errors, support = moment_errors(mine, theirs), target.support
    findings = [
        Finding(
            "C2ST", classifier_two_sample(mine, theirs, folds), "0.5: cannot be told from the reference; 1: always"
        ),
        Finding("sliced Wasserstein", sliced_wasserstein(*standardised(mine, theirs)), "in reference deviations"),
        Finding("worst mean", errors.mean.abs().max().item(), "off by so many reference deviations"),
        Finding("worst deviation", errors.deviation.abs().max().item(), "relative error"),
    ]
    if all(name in shared for name in support.blocks):
        z = [support.unconstrain({name: of[name].double().cpu() for name in support.blocks}) for of in (drawn, known)]
        # A share that rounds to 1 lies at infinity.
        mine, theirs = (points[torch.isfinite(points).all(-1)] for points in z)
        apart = _apart(mine, theirs)
        if all(len(some) > 0.9 * len(of) for some, of in zip(apart, (mine, theirs), strict=True)):
            findings.insert(1, Finding("KL(draws, reference)", neighbour_kl(*apart), "nats, from nearest neighbours"))
    return findings


def _apart(mine: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """Two samples without rows that come twice, as single precision makes a few."""
    mine, theirs = mine.unique(dim=0), theirs.unique(dim=0)
    _, place, count = torch.cat([mine, theirs]).unique(dim=0, return_inverse=True, return_counts=True)
    return mine[count[place[: len(mine)]] == 1], theirs


def calibration(model: Posterior, settings: Diagnosis) -> list[Finding]:
    """Simulation-based calibration of a family's posteriors (Talts et al. 2018)."""
    theta, x = model.target.simulate(settings.simulations, noise.mixed_seed(settings.seed, "calibration"))  # type: ignore[operator]
    truth = model.support.unconstrain(theta).to(model.location)
    draws = model.draw_z(settings.ranks, x.to(model.location))
    p = uniformity(calibration_ranks(truth.cpu(), draws.cpu()), settings.ranks)
    verdict = f"that ranks among {settings.ranks} draws are uniform, {settings.simulations} data sets"
    return [
        Finding(f"p, {name}", value, verdict) for name, value in zip(model.support.coordinates, p.tolist(), strict=True)
    ]
