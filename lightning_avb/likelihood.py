"""What `lightning-avb test` prints: estimates of log p(x), which side of the truth each lies on, and how sure it is."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor
from torch.distributions import Distribution
from torchmetrics.utilities.distributed import gather_all_tensors
from tqdm.auto import tqdm

from . import noise
from .batch import Batch
from .errors import ConfigurationError, at_least
from .evaluation import (
    Annealing,
    DefensiveStudent,
    Quadrature,
    annealed_importance_sampling,
    bidirectional,
    diagnose,
    fitted_proposal,
    has_density,
    importance_weighting,
    log_joint,
    log_likelihood,
    over_rows,
    parzen_window,
    refined_proposal,
    schedule,
    simulate,
    tune,
)
from .evaluation.importance import BLOCK
from .evaluation.metrics import MeanOverRows
from .evaluation.parzen import log_density
from .runs import beside

Estimator = Literal["importance", "annealing", "bidirectional", "quadrature", "parzen"]

SIDES = {
    "elbo": "below, in expectation",
    "elbo_estimate": "the critic's estimate: either",
    "iw_bound": "below, in expectation",
    "importance": "below, in expectation",
    "annealing": "below, in expectation",
    "bidirectional, lower": "simulated data: below, in expectation",
    "bidirectional, upper": "simulated data: above, in expectation",
    "bidirectional, gap": "simulated data: what the lower bound lacks at most, in expectation",
    "quadrature": "exact to the grid",
    "parzen": "none; misorders models, for comparison with old papers only",
}
"""Where an estimate lies beside log p(x)."""


DIAGNOSTICS = {"importance": "effective samples", "annealing": "acceptance"}
"""What stands beside an estimate."""

DECOMPOSED = 1000
"""Rows over which I(x; z) is taken at most."""


class Line(NamedTuple):
    """A line of the table: the mean over n rows in nats, its standard error, and what it took."""

    estimate: str
    mean: float
    standard_error: float
    n: int
    side: str
    settings: str
    seconds: float


class _Values(NamedTuple):
    """Numbers of rows, `(batch,)` each: an estimate, and a diagnostic of it."""

    value: Tensor
    diagnostic: Tensor


class Likelihood(pl.Callback):
    """Estimates log p(x) of the test data, prints one table and writes it as JSON beside the checkpoint.

    Every figure is a function of (seed, row): it depends neither on the batch size nor on the number of processes.

    Args:
        estimators: `importance`: importance weighting, from a heavy-tailed proposal fitted to draws of q;
            `annealing`: annealed importance sampling with Hamiltonian transitions; `bidirectional`: the same on data
            simulated from the model, with the reverse chain, whose gap tells how far below the truth `annealing` may
            be; `quadrature`: exact, for 1 or 2 latent dimensions; `parzen`: the Parzen window.
        rows: evaluate the first so many rows of the test data; None: all.
        samples: of the importance-weighted bound.
        chains: of annealing, for every row.
        steps: temperatures of annealing.
        leapfrogs: leapfrog steps between two temperatures.
        path: `linear` or `sigmoid` spacing of the temperatures.
        start: chains begin at draws of the `proposal` or of the `prior`.
        simulated: rows to simulate for `bidirectional`, and for tuning the step sizes, which are frozen then.
        parzen_samples: draws of the model for the Parzen window.
        draws: draws of q for the model's own figure, the ELBO or the critic's estimate of it.
        chunk: pairs (chain, row) that the decoder gets at a time; changes memory and nothing else.
        seed: of the estimates' own draws.

    Raises:
        ConfigurationError: an estimator that does not exist, or a number out of range.
    """

    def __init__(
        self,
        estimators: Sequence[Estimator] = ("importance", "annealing", "bidirectional"),
        rows: int | None = 100,
        samples: int = 1000,
        chains: int = 8,
        steps: int = 500,
        leapfrogs: int = 2,
        path: Literal["linear", "sigmoid"] = "sigmoid",
        start: Literal["proposal", "prior"] = "proposal",
        simulated: int = 100,
        parzen_samples: int = 10000,
        draws: int = 20,
        chunk: int = 4096,
        seed: int = 0,
    ) -> None:
        known = ("importance", "annealing", "bidirectional", "quadrature", "parzen")
        for estimator in estimators:
            if estimator not in known:
                raise ConfigurationError(f"likelihood.estimators: {estimator!r} is none of {', '.join(known)}")
        numbers = {"samples": samples, "chains": chains, "steps": steps, "leapfrogs": leapfrogs, "chunk": chunk}
        for name, value in {
            **numbers,
            "draws": draws,
            "parzen_samples": parzen_samples,
            "rows": 1 if rows is None else rows,
        }.items():
            at_least(1, **{f"likelihood.{name}": value})
        at_least(2, **{"likelihood.simulated": simulated})
        if start not in ("proposal", "prior"):
            raise ConfigurationError(f"likelihood.start: {start!r} is neither 'proposal' nor 'prior'")
        schedule(steps, path)
        self.estimators, self.rows, self.samples, self.chains = tuple(estimators), rows, samples, chains
        self.steps, self.leapfrogs, self.path, self.start = steps, leapfrogs, path, start
        self.simulated, self.parzen_samples, self.draws = simulated, parzen_samples, draws
        self.chunk, self.seed = chunk, seed

    # The test loop.

    def on_test_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        missing = lacking(pl_module)
        self.skipped = missing is not None
        if self.skipped:
            if hasattr(pl_module, "prior"):
                rank_zero_info(f"log p(x) is not estimated: {missing}")
            return
        self._refuse(trainer, pl_module)
        self.own: str | None = None
        self.per_row = [name for name in self.estimators if name != "bidirectional"]
        diagnostics = [f"{name}, {DIAGNOSTICS[name]}" for name in self.per_row if name in DIAGNOSTICS]
        # The same on every process, whichever rows it gets: they are reduced together.
        self.metrics = {name: MeanOverRows().to(pl_module.device) for name in [*self.per_row, *diagnostics]}
        self.seconds = dict.fromkeys(self.metrics, 0.0)
        self.lines: list[Line] = []
        self.annealing: Annealing | None = None
        self.seen: list[Batch] = []
        rows = None if self.rows is None else -(-self.rows // trainer.world_size) * len(self.per_row)
        self.bar = tqdm(total=rows, desc="log p(x)", unit="row", disable=not trainer.is_global_zero, leave=False)
        if "parzen" in self.estimators:
            self.kernels = self._kernels(trainer, pl_module)
        if "annealing" in self.estimators or "bidirectional" in self.estimators:
            self._tune_and_certify(pl_module)

    def _refuse(self, trainer: pl.Trainer, model: Any) -> None:
        """Raises ConfigurationError for what cannot be done, before anything is."""
        if self.rows is not None and self.rows < trainer.world_size:
            raise ConfigurationError(f"likelihood.rows: {self.rows} are fewer than the {trainer.world_size} processes")
        if "quadrature" in self.estimators:
            Quadrature.grid(model.latent_dim, cells=1)
        if "parzen" in self.estimators and (
            trainer.world_size > 1 or model.classes or getattr(trainer, "datamodule", None) is None
        ):
            raise ConfigurationError(
                "likelihood.estimators: 'parzen' needs one process, a datamodule, and a model without labels"
            )

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self.skipped:
            return
        batch = Batch(*batch)
        if batch.index is None:
            raise ConfigurationError("likelihood: a batch without the index of its rows cannot be evaluated")
        if not self.seen:
            self._find_own(pl_module, batch)
        batch = batch.counted
        if sum(len(part.x) for part in self.seen) < DECOMPOSED:
            self.seen.append(batch)
        if self.rows is not None:
            batch = batch.at((batch.index < self.rows).nonzero().squeeze(1))
        if not len(batch.x):
            return
        if self.own:
            self._estimate(self.own, pl_module, batch)
        for name in self.per_row:
            self._estimate(name, pl_module, batch)
            self.bar.update(len(batch.x))

    def _find_own(self, model: Any, batch: Batch) -> None:
        """The model's own figure beside the others: an autoencoder has none."""
        with noise.use(noise.OfRows(self.seed, "own", index=batch.index[:1])):  # type: ignore[index]
            scores = model.scores(batch.first(1))
        self.own = next((name for name in ("elbo", "elbo_estimate") if name in scores), None)
        if self.own:
            self.metrics = {self.own: MeanOverRows().to(model.device), **self.metrics}
            self.seconds[self.own] = 0.0

    def on_test_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if self.skipped:
            return
        self.bar.close()
        for name, metric in self.metrics.items():
            mean, error, n = (value.item() for value in metric.compute().values())
            side, settings = SIDES.get(name, "a diagnostic"), self._described(name)
            self.lines.append(Line(name, mean, error, int(n), side, settings, self.seconds[name]))
        path, rows = beside(trainer, "likelihood"), self._rows(trainer)
        if not trainer.is_global_zero:
            return
        print(table(self.lines))
        print(_distance(self.lines))
        self._write(path)
        begin = time.perf_counter()
        parts = [Line(*figure, 0.0) for figure in diagnose(pl_module, rows, self.seed)]
        if parts:
            parts[0] = parts[0]._replace(seconds=time.perf_counter() - begin)
            print(table(parts))
            self.lines += parts
            self._write(path)
        print(f"likelihoods: {path}")

    def _rows(self, trainer: pl.Trainer) -> Batch:
        """The first rows of the test data, each once, on every process."""
        columns = [None if column[0] is None else torch.cat(column) for column in zip(*self.seen, strict=True)]
        if trainer.world_size > 1:
            columns = [None if column is None else torch.cat(gather_all_tensors(column)) for column in columns]
        index, order = columns[2].sort(stable=True)  # type: ignore[union-attr]
        first = index.diff(prepend=index[:1] - 1) > 0
        return Batch(*columns).at(order[first]).first(DECOMPOSED)  # type: ignore[arg-type]

    def _write(self, path: Path) -> None:
        def plain(value: Any) -> Any:  # JSON has neither nan nor infinity
            return None if isinstance(value, float) and not math.isfinite(value) else value

        lines = [{name: plain(value) for name, value in line._asdict().items()} for line in self.lines]
        path.write_text(json.dumps(lines, indent=1))

    # The estimates.

    def _estimate(self, name: str, model: Any, batch: Batch) -> None:
        own = name == self.own
        copies = {"importance": BLOCK, "annealing": self.chains}.get(name, self.draws if own else 1)
        begin, rows = time.perf_counter(), max(1, self.chunk // copies)
        estimate = self._own(model, name) if own else getattr(self, f"_{name}")(model)
        result = over_rows(estimate, batch, rows, self.seed, name)
        volume = 0.0 if own else model.log_volume
        self.metrics[name].update(result.value + volume, batch.index)  # type: ignore[arg-type]
        if name in DIAGNOSTICS:
            self.metrics[f"{name}, {DIAGNOSTICS[name]}"].update(result.diagnostic, batch.index)  # type: ignore[arg-type]
        self.seconds[name] += time.perf_counter() - begin

    def _own(self, model: Any, name: str) -> Callable[[Batch], _Values]:
        """The model's own bound, or its critic's estimate, from several draws a row."""

        def estimate(rows: Batch) -> _Values:
            samples, model.samples = model.samples, self.draws
            try:
                scores = model.scores(rows)
            finally:
                model.samples = samples
            value = scores[name].expand(self.draws, -1).mean(0)
            return _Values(value, value)

        return estimate

    def _described(self, name: str) -> str:
        moves = f"{self.steps} steps of {self.leapfrogs} leapfrogs, {self.path}"
        chains = f"{self.chains} chains, {moves}, from the {self.start}"
        return {
            "elbo": f"{self.draws} draws of q",
            "elbo_estimate": f"{self.draws} draws of q",
            "importance": f"{self.samples} samples",
            "annealing": chains,
            "bidirectional": chains,
            "quadrature": "grid",
            "parzen": f"{self.parzen_samples} samples",
        }.get(name, "")

    def _target(self, model: Any, rows: Batch) -> Callable[[Tensor], Tensor]:
        return log_joint(lambda z: model.decoder(z, rows.y), model.prior, rows.x)

    def _proposal(self, model: Any, rows: Batch) -> DefensiveStudent:
        fitted = fitted_proposal(model.encoder(rows.x, rows.y), model.prior())
        return refined_proposal(fitted, self._target(model, rows), chunk=self.chunk)

    def _importance(self, model: Any) -> Callable[[Batch], _Values]:
        def estimate(rows: Batch) -> _Values:
            found = importance_weighting(
                self._proposal(model, rows), self._target(model, rows), self.samples, chunk=self.chunk
            )
            return _Values(found.bound, found.effective_samples)

        return estimate

    def _begin(self, model: Any, rows: Batch) -> tuple[Distribution, Tensor | None]:
        """Where chains start, and the matrix that gives every row's kernel its scale."""
        if self.start == "prior":
            return model.prior().expand((len(rows.x),)), None
        proposal = self._proposal(model, rows)
        return proposal, proposal.scale_tril

    def _annealing(self, model: Any) -> Callable[[Batch], _Values]:
        def estimate(rows: Batch) -> _Values:
            start, scale_tril = self._begin(model, rows)
            assert self.annealing is not None
            found = annealed_importance_sampling(
                start, self._target(model, rows), self.annealing, self.chains, scale_tril, self.chunk
            )
            return _Values(found.bound, found.acceptance)

        return estimate

    def _tune_and_certify(self, model: Any) -> None:
        """Tunes the step sizes on simulated rows, freezes them, and brackets log p(x) of other simulated rows."""
        begin = time.perf_counter()

        def simulated(rows: int, seed: int) -> tuple[Tensor, Batch]:
            y = torch.arange(rows, device=model.device) % model.classes if model.classes else None
            z, x = simulate(lambda z: model.decoder(z, y), model.prior, rows, seed)
            return z, Batch(x, y, torch.arange(rows, device=model.device))

        with torch.inference_mode(False), torch.no_grad():
            _, pilot = simulated(32, noise.mixed_seed(self.seed, "pilot"))
            with noise.use(noise.OfRows(self.seed, "pilot", index=pilot.index)):  # type: ignore[arg-type]
                start, scale_tril = self._begin(model, pilot)
                betas = schedule(self.steps, self.path)
                self.annealing = tune(
                    start, self._target(model, pilot), betas, self.leapfrogs, scale_tril=scale_tril, chunk=self.chunk
                )
            if "bidirectional" not in self.estimators:
                return
            exact, batch = simulated(self.simulated, noise.mixed_seed(self.seed, "simulated"))

            def estimate(rows: Batch) -> Any:
                start, scale_tril = self._begin(model, rows)
                assert self.annealing is not None and rows.index is not None
                target, z = self._target(model, rows), exact[rows.index]
                return bidirectional(start, target, z, self.annealing, self.chains, scale_tril, self.chunk)

            found = over_rows(estimate, batch, max(1, self.chunk // self.chains), self.seed, "bidirectional")
        seconds, volume = time.perf_counter() - begin, model.log_volume.item()
        for side, (mean, error) in found.summary().items():
            name = f"bidirectional, {side}"
            mean = mean if side == "gap" else mean + volume
            self.lines.append(
                Line(name, mean, error, self.simulated, SIDES[name], self._described("bidirectional"), seconds)
            )
            seconds = 0.0

    def _quadrature(self, model: Any) -> Callable[[Batch], _Values]:
        grid = Quadrature.grid(model.latent_dim, device=model.device)

        def estimate(rows: Batch) -> _Values:
            def decoder(z: Tensor) -> Distribution:
                return model.decoder(z.expand(-1, len(rows.x), -1), rows.y) if model.classes else model.decoder(z)

            value = log_likelihood(decoder, model.prior, rows.x, grid)  # type: ignore[arg-type]
            return _Values(value, value)

        return estimate

    def _parzen(self, model: Any) -> Callable[[Batch], _Values]:
        samples, width = self.kernels

        def estimate(rows: Batch) -> _Values:
            value = log_density(samples, rows.x, width)[0]
            return _Values(value, value)

        return estimate

    def _kernels(self, trainer: pl.Trainer, model: Any) -> tuple[Tensor, Tensor]:
        """Means of p(x|z) for draws of the prior, and the width that suits the first validation rows."""
        with torch.no_grad(), noise.use(noise.seeded(self.seed, "parzen")):
            parts = [model.sample(min(500, self.parzen_samples - i)) for i in range(0, self.parzen_samples, 500)]
            batches = trainer.datamodule.val_dataloader()  # type: ignore[attr-defined]
            validation = torch.cat([Batch(*batch).x for batch in batches])[:DECOMPOSED]
        samples = torch.cat(parts)
        return samples, torch.tensor([parzen_window(samples, validation, validation[:1]).width])


def lacking(model: Any) -> str | None:
    """Why there is no p(x) = E_p(z) p(x|z) to estimate from draws of q(z|x); None: there is."""
    if not (hasattr(model, "encoder") and hasattr(model, "decoder")):
        return "the model has no encoder and decoder"
    if not has_density(model.prior()):
        return "the prior has no density"
    if getattr(model, "choices", model.classes) != model.classes:
        return "a code is more than a draw of the prior"
    return None


def table(lines: Sequence[Line]) -> str:
    """The lines in columns, one below the other."""
    rows = [("estimate", "nats per datum", "s.e.", "n", "side of log p(x)", "settings", "seconds")]
    for line in lines:
        error = "" if math.isnan(line.standard_error) else f"{line.standard_error:.3f}"
        rows.append(
            (line.estimate, f"{line.mean:.3f}", error, str(line.n), line.side, line.settings, f"{line.seconds:.1f}")
        )
    return columns(rows)


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Cells one below the other."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def _distance(lines: Sequence[Line]) -> str:
    """The model's own figure beside the most trusted one."""
    found = {line.estimate: line.mean for line in lines}
    own = next((name for name in ("elbo", "elbo_estimate") if name in found), None)
    trusted = next((name for name in ("quadrature", "annealing", "importance") if name in found), None)
    if own is None:
        return "the model has no bound of its own"
    if trusted is None:
        return "no estimate to set beside the model's own figure"
    what = "the gap of the ELBO" if own == "elbo" else "the critic's estimate lies this far below (negative: above)"
    return f"{trusted} - {own} = {found[trusted] - found[own]:.3f}: {what}"
