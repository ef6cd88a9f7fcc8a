"""What `lightning-avb test` prints of a posterior: whether to trust its draws, and how near reference draws are."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor

from . import noise
from .draws import flat
from .errors import ConfigurationError, at_least
from .evaluation import (
    DrawsDiagnosis,
    Elsewhere,
    Moved,
    calibration_ranks,
    classifier_two_sample,
    diagnose_draws,
    look_elsewhere,
    moment_errors,
    move_draws,
    neighbour_kl,
    sliced_wasserstein,
    standardised,
    uniformity,
)
from .models import Posterior
from .runs import path_beside_checkpoint
from .support import Parameters
from .tables import columns
from .targets import Target
from .targets.calls import Lenient


class Finding(NamedTuple):
    """A line of the table.

    Attributes:
        quantity: its name.
        value: the number.
        verdict: what it means.
        bar: what the number should be, in words; nothing: it is there to be known.
        objection: what is wrong with the draws, if this number says so.
    """

    quantity: str
    value: float
    verdict: str
    bar: str = ""
    objection: str = ""


class Diagnosis(pl.Callback):
    """Diagnoses a `Posterior` in `test`, prints a table and writes it as JSON beside the checkpoint.

    Without reference draws: Hamiltonian chains from the draws, which move them where they are wrong; chains from far
    away, which may find a mode that has no draw; and a flow that is fitted to the draws, whose weighted draws give the
    evidence and the moments that the draws should have. With reference draws, which the target has or has not:
    two-sample figures. For a family: simulation-based calibration.

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
        rows = [(f.quantity, f"{f.value:.4g}", f.bar, f.verdict) for f in findings]
        print(columns([("quantity", "value", "should be", ""), *rows]))
        path = path_beside_checkpoint(trainer, "diagnosis")
        path.write_text(json.dumps([_plain(finding) for finding in findings], indent=1))
        print(f"diagnosis: {path} ({time.perf_counter() - begin:.0f} s)")


def _plain(finding: Finding) -> dict[str, Any]:
    value = finding.value if math.isfinite(finding.value) else None  # JSON has neither nan nor infinity
    return {**finding._asdict(), "value": value}


ERRORS = 4.0
"""Standard errors that a figure must be off by, beside its tolerance: dozens of figures are looked at."""

SHOWN = 8
"""Parameters whose moments are printed, those first that are farthest off."""


def trust(model: Posterior, settings: Diagnosis) -> list[Finding]:
    """What draws say of themselves, and beside reference draws where the target has them."""
    z = model.draw_z(settings.draws).squeeze(1)
    findings = examine(model.target, z, settings.seed)
    known = model.target.reference(settings.draws)
    if known is None:
        return findings
    try:
        return [*findings, *compare(model.target, model.target.named(z), known, settings.folds)]
    except ConfigurationError as error:  # what the draws say of themselves is not lost
        return [*findings, Finding("reference", math.nan, str(error))]


def examine(target: Target, z: Tensor, seed: int = 0) -> list[Finding]:
    """Whether draws are those of a target: a verdict, what it rests on, and moments.

    Args:
        target: the log-density.
        z: `(n, dim)`, independent draws in the unconstrained coordinates.
        seed: of all noise.
    """
    look = Lenient(target)

    def log_density(points: Tensor) -> Tensor:
        return look(points.to(z), most=64)  # far out, where chains begin, all points may raise

    moved = move_draws(z, log_density, target.support.coordinates, seed=seed)
    say = diagnose_draws(z, log_density, seed=seed)
    elsewhere = look_elsewhere(z, log_density, seed=seed)
    look.warn()
    weighted = by_weights(z, say, target.support.coordinates)
    grounds = [*by_chains(moved), by_search(target, elsewhere), *weighted]
    return [verdict(grounds), *grounds, *moments(target, z, moved.z, say)]


def verdict(grounds: Sequence[Finding]) -> Finding:
    """The first line: how many figures object, and to what."""
    objections = list(dict.fromkeys(finding.objection for finding in grounds if finding.objection))
    words = "the draws agree with the target as far as can be seen; a small or narrow mode far away cannot"
    if objections:
        words = f"NOT RIGHT: {'; '.join(objections)}"
    return Finding("objections", sum(bool(finding.objection) for finding in grounds), words, "0")


def by_chains(moved: Moved) -> list[Finding]:
    """What chains that leave the target as it is did to the draws."""
    low, high = "too few draws where the density is low: ridges are too thin", "draws where the density is low"
    rules = {
        "outside": ("out of the draws' central 90 %", 0.07, 0.14, "too wide", "too narrow"),
        "far": ("out of their central 99 %", 0.005, 0.02, "tails too long", "tails too short"),
        "beyond": ("beyond the radius of 99.9 %", 0.0, 0.003, "", "tails too short"),
        "dense": ("log p above their median", 0.45, 0.55, low, high),
        "thin": ("log p below that of 90 %", 0.07, 0.14, high, low),
        "thinnest": ("log p below that of 99 %", 0.005, 0.02, high, low),
    }
    middle = moved.shares["middle"]
    shifted = abs(moved.shift) > 0.1 and abs(middle.errors) > ERRORS
    findings = [
        Finding(
            f"shift, {middle.where}",
            moved.shift,
            "deviations by which short Hamiltonian chains from every draw move the middle, at worst",
            "-0.1 to 0.1",
            f"shifted in {middle.where}" if shifted else "",
        )
    ]
    for name, (what, least, most, below, above) in rules.items():
        share, objection = moved.shares[name], ""
        if abs(share.errors) > ERRORS and not least <= share.after <= most:
            objection = (below if share.after < least else above) + (f" in {share.where}" if share.where else "")
        words = f"share of the draws after these chains, {share.errors:+.1f} standard errors off"
        quantity = what + (f", {share.where}" if share.where else "")
        findings.append(Finding(quantity, share.after, words, f"{least:g} to {most:g}", objection))
    return findings


def by_search(target: Target, found: Elsewhere) -> Finding:
    """Whether chains from far away have found a mode that no draw has."""
    words, objection = f"none of {found.starts} chains from far away found more", ""
    if found.share > 0.02:
        numbers, names = flat({name: value.unsqueeze(0) for name, value in target.named(found.where).items()})
        near = ", ".join(
            f"{name} = {value:.3g}" for name, value in zip(names[:SHOWN], numbers[0].tolist(), strict=False)
        )
        words = f"{found.chains} of {found.starts} chains from far away ended there, around {near}"
        objection = "a mode without draws"
    return Finding("mass where no draw is", found.share, words, "below 0.02", objection)


def by_weights(z: Tensor, say: DrawsDiagnosis, names: Sequence[str]) -> list[Finding]:
    """What weighted draws of a flow say, which is fitted to the draws."""
    trusted = say.smoothed.k < 0.7
    weights = "by the weights" if trusted else f"by weights that are not to be trusted, k {say.smoothed.k:.2f}"
    apart = say.shortfall > 0.05 and say.shortfall > ERRORS * say.shortfall_error
    # Shares and no moments: a variance that few far draws make comes out small where a flow does not reach them. For
    # the same reason too little far weight is no objection to the draws.
    lowest, low, middle, high, highest = (z.quantile(level, 0) for level in (0.005, 0.05, 0.5, 0.95, 0.995))
    rules = (
        ("below the draws' median", say.z < middle, 0.5, 0.46, 0.54, "shifted", "shifted"),
        ("out of their central 90 %", (say.z < low) | (say.z > high), 0.1, 0.07, 0.14, "", "too narrow"),
        (
            "out of their central 99 %",
            (say.z < lowest) | (say.z > highest),
            *(0.01, 0.005, 0.02),
            *("", "tails too short"),
        ),
    )
    shares = []
    for what, inside, before, least, most, below, above in rules:
        share, error = weighted_share(inside, say.smoothed.log_weights)
        # The draws have errors, too.
        error = (error.square() + before * (1 - before) / len(z)).sqrt()
        i = int(((share - before) / error).abs().argmax())
        value, off = share[i].item(), abs(share[i].item() - before) > ERRORS * error[i].item()
        wrong = below if value < before else above
        objects = trusted and off and wrong and not least <= value <= most
        objection = f"{wrong} in {names[i]}, as weights have it" if objects else ""
        words = f"share by weight, +- {error[i].item():.2g}; {weights}"
        shares.append(Finding(f"{what}, weighted, {names[i]}", value, words, f"{least:g} to {most:g}", objection))
    return [
        Finding("Pareto k", say.k, "of a flow fitted to the draws; above: flow or draws end too early", "below 0.7"),
        Finding("effective samples", say.effective_samples, f"of {say.samples} draws of this flow", "most"),
        Finding(
            "evidence bound",
            say.evidence_bound,
            f"+- {say.evidence_bound_error:.2g}; below log Z in expectation, by as much as the flow is off",
        ),
        Finding("log evidence", say.log_evidence, f"+- {say.log_evidence_error:.2g}; {weights}"),
        Finding(
            "shortfall of the draws",
            say.shortfall,
            f"+- {say.shortfall_error:.2g} nats; log evidence less the draws' own mean of log p - log flow",
            "below 0.05",
            "log evidence above the draws' own" if trusted and apart else "",
        ),
        *shares,
    ]


def weighted_share(inside: Tensor, log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Shares of weighted draws in sets `(n, sets)`, and their standard errors; weights sum to 1."""
    weight, inside = log_weights.double().exp().unsqueeze(-1), inside.double()
    share = (weight * inside).sum(0)
    return share.cpu(), (weight.square() * (inside - share).square()).sum(0).sqrt().cpu()


def moments(target: Target, z: Tensor, moved: Tensor, say: DrawsDiagnosis) -> list[Finding]:
    """Mean and deviation of every parameter side by side: of the draws, after the chains, and by the weights."""
    tables = [flat({name: of.double() for name, of in target.named(points).items()}) for points in (z, moved, say.z)]
    names, (drawn, after, fresh) = tables[0][1], (table.cpu() for table, _ in tables)
    weight = say.smoothed.log_weights.double().cpu().exp().unsqueeze(-1)
    mean = (weight * fresh).sum(0)
    deviation = (weight * (fresh - mean).square()).sum(0).sqrt()
    spread = drawn.std(0).clamp_min(1e-300)
    off = torch.stack([(of - drawn.mean(0)).abs() / spread for of in (after.mean(0), mean)])
    wide = torch.stack([(of / spread).log().abs() for of in (after.std(0), deviation)])
    order = torch.maximum(off, wide).amax(0).nan_to_num(0.0).argsort(descending=True)[:SHOWN]
    return [
        Finding(
            f"{what} of {names[i]}",
            own[i].item(),
            f"of the draws; {chains[i]:.4g} after the chains, {by[i]:.4g} by weights",
        )
        for i in order.tolist()
        for what, own, chains, by in (
            ("mean", drawn.mean(0), after.mean(0), mean),
            ("deviation", drawn.std(0), after.std(0), deviation),
        )
    ]


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
    # What is the same in all draws, as the upper triangle of a Cholesky factor, tells nothing.
    varies = (torch.cat([mine, theirs]) != theirs[0]).any(0)
    mine, theirs = mine[:, varies], theirs[:, varies]
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
