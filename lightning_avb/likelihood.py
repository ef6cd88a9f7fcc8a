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
from torch import Tensor
from torch.distributions import Distribution
from tqdm.auto import tqdm

from . import noise
from .batch import Batch
from .callbacks import run_folder
from .distributions import Hierarchical, Implicit
from .errors import ConfigurationError, at_least
from .evaluation import (
    Annealing,
    DefensiveStudent,
    Quadrature,
    annealed_importance_sampling,
    bidirectional,
    critic_error,
    decompose,
    fitted_proposal,
    histogram,
    importance_weighting,
    log_joint,
    log_likelihood,
    on_grid,
    over_rows,
    parzen_window,
    refined_proposal,
    schedule,
    simulate,
    tune,
)
from .evaluation.metrics import MeanOverRows

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


DECOMPOSED, GRID_ROWS = 1000, 16
"""Rows over which I(x; z) is taken at most; and different rows for which a grid is filled at most."""


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
        for name, value in {**numbers, "draws": draws, "parzen_samples": parzen_samples, "rows": rows or 1}.items():
            at_least(1, **{f"likelihood.{name}": value})
        at_least(2, **{"likelihood.simulated": simulated})
        self.estimators, self.rows, self.samples, self.chains = tuple(estimators), rows, samples, chains
        self.steps, self.leapfrogs, self.path, self.start = steps, leapfrogs, path, start
        self.simulated, self.parzen_samples, self.draws = simulated, parzen_samples, draws
        self.chunk, self.seed = chunk, seed

    # The test loop.

    def on_test_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.skipped = not (hasattr(pl_module, "encoder") and hasattr(pl_module, "decoder"))
        if self.skipped:
            return
        self.lines: list[Line] = []
        self.metrics: dict[str, MeanOverRows] = {}
        self.seconds: dict[str, float] = {}
        self.settings: dict[str, str] = {}
        self.annealing: Annealing | None = None
        self.seen: list[Batch] = []
        passes = len([name for name in self.estimators if name != "bidirectional"])
        rows = None if self.rows is None else -(-self.rows // trainer.world_size) * passes
        self.bar = tqdm(total=rows, desc="log p(x)", unit="row", disable=not trainer.is_global_zero, leave=False)
        if "parzen" in self.estimators:
            self.kernels = self._kernels(trainer, pl_module)
        if "annealing" in self.estimators or "bidirectional" in self.estimators:
            self._tune_and_certify(pl_module)

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self.skipped:
            return
        batch = Batch(*batch)
        if batch.index is None:
            raise ConfigurationError("likelihood: a batch without the index of its rows cannot be evaluated")
        if self.rows is not None:
            batch = batch.at((batch.index < self.rows).nonzero().squeeze(1))
        if not len(batch.x):
            return
        self._own(pl_module, batch)
        self.seen.append(batch)
        for name in self.estimators:
            if name != "bidirectional":
                self._estimate(name, pl_module, batch)

    def on_test_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if self.skipped:
            return
        self.bar.close()
        for name, metric in self.metrics.items():
            result = {key: value.item() for key, value in metric.compute().items()}
            side, settings = SIDES.get(name, ""), self.settings.get(name, "")
            line = Line(name, result["mean"], result["standard_error"], int(result["n"]), side, settings, 0.0)
            self.lines.append(line._replace(seconds=self.seconds.get(name, 0.0)))
        if trainer.world_size == 1:
            rows = Batch(*(None if column[0] is None else torch.cat(column) for column in zip(*self.seen, strict=True)))  # type: ignore[arg-type]
            rows = _distinct(rows.first(DECOMPOSED))
            assert rows.index is not None
            with torch.no_grad(), noise.use(noise.OfRows(self.seed, "decomposition", index=rows.index)):
                self.lines += self._decompose(pl_module, rows)
        if trainer.is_global_zero:
            print(table(self.lines))
            print(_distance(self.lines))
            path = _beside(trainer)
            path.write_text(json.dumps([line._asdict() for line in self.lines], indent=1))
            print(f"likelihoods: {path}")

    # The estimates.

    def _add(self, name: str, value: Tensor, index: Tensor, seconds: float, settings: str) -> None:
        if name not in self.metrics:
            self.metrics[name] = MeanOverRows().to(value.device)
        self.metrics[name].update(value, index)
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        self.settings[name] = settings

    def _own(self, model: Any, batch: Batch) -> None:
        """The model's own bound, or its critic's estimate, from several draws a row."""
        samples, begin = model.samples, time.perf_counter()
        model.samples = self.draws
        try:
            with torch.no_grad(), noise.use(noise.OfRows(self.seed, "own", index=batch.index)):  # type: ignore[arg-type]
                scores = model.scores(batch)
        finally:
            model.samples = samples
        name = "elbo" if "elbo" in scores else "elbo_estimate"
        value = scores[name].expand(self.draws, -1).mean(0) if scores[name].ndim == 2 else scores[name]
        settings = f"{self.draws} draws of q"
        self._add(name, value, batch.index, time.perf_counter() - begin, settings)  # type: ignore[arg-type]

    def _estimate(self, name: str, model: Any, batch: Batch) -> None:
        rows = max(1, self.chunk // {"importance": 64, "annealing": self.chains}.get(name, 1))
        for piece in batch.split(-(-len(batch.x) // rows)):
            begin = time.perf_counter()
            result = over_rows(getattr(self, f"_{name}")(model), piece, rows, self.seed, name)
            value, seconds = result.value + model.log_volume, time.perf_counter() - begin
            self._add(name, value, piece.index, seconds, self._described(name))  # type: ignore[arg-type]
            if name in ("importance", "annealing"):
                diagnostic = {"importance": "effective samples", "annealing": "acceptance"}[name]
                self._add(f"{name}, {diagnostic}", result.diagnostic, piece.index, 0.0, "")  # type: ignore[arg-type]
            self.bar.update(len(piece.x))

    def _described(self, name: str) -> str:
        chains = (
            f"{self.chains} chains, {self.steps} steps of {self.leapfrogs} leapfrogs, {self.path}, from {self.start}"
        )
        return {
            "importance": f"{self.samples} samples",
            "annealing": chains,
            "bidirectional": chains,
            "quadrature": "grid",
            "parzen": f"{self.parzen_samples} samples",
        }[name]

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
                return model.decoder(z.expand(-1, len(rows.x), -1), rows.y)

            value = log_likelihood(decoder, model.prior, rows.x, grid)  # type: ignore[arg-type]
            return _Values(value, value)

        return estimate

    def _parzen(self, model: Any) -> Callable[[Batch], _Values]:
        samples, validation = self.kernels

        def estimate(rows: Batch) -> _Values:
            value = parzen_window(samples, validation, rows.x).log_likelihood
            return _Values(value, value)

        return estimate

    def _kernels(self, trainer: pl.Trainer, model: Any) -> tuple[Tensor, Tensor]:
        """Means of p(x|z) for draws of the prior, and the validation data that choose the width."""
        with torch.no_grad(), noise.use(_seeded(noise.mixed_seed(self.seed, "parzen"))):
            parts = [model.sample(min(500, self.parzen_samples - i)) for i in range(0, self.parzen_samples, 500)]
        validation = next(iter(trainer.datamodule.val_dataloader()))[0]  # type: ignore[attr-defined]
        return torch.cat(parts), trainer.strategy.broadcast(validation)

    # What the bound is made of.

    def _decompose(self, model: Any, batch: Batch) -> list[Line]:
        """I(x; z) and KL(q(z), p(z)) over these rows, all equally likely, and how far off the critic is."""
        begin, n = time.perf_counter(), len(batch.x)
        p, q = model.prior(), model.encoder(batch.x, batch.y)
        if model.latent_dim <= 2 and n <= GRID_ROWS:
            grid = Quadrature.grid(model.latent_dim, device=model.device)
            if hasattr(q, "log_prob") and not isinstance(q, (Implicit, Hierarchical)):
                log_q, how = on_grid(q.log_prob, grid, n), "on a grid"
            else:
                draws = torch.cat([q.rsample((1000,)) for _ in range(40)])
                log_q, how = histogram(draws, grid), "on a grid, q as a histogram of 40,000 draws"
            found = decompose(log_q, lambda z: model.decoder(z.expand(-1, n, -1), batch.y), model.prior, batch.x, grid)
            figures = {"I(x; z)": found.information, "KL(q(z), p(z))": found.kl_of_aggregate}
            if hasattr(model, "judge"):
                ratio = on_grid(lambda z: model.judge(batch, p, q, z).kl, grid, n)
                figures["critic's error, its KL - the true one"] = critic_error(ratio, log_q, model.prior, grid).mean()
        else:
            known = hasattr(q, "log_prob") and not isinstance(q, (Implicit, Hierarchical))
            r = q if known else fitted_proposal(q, p, df=None, inflate=1.0, share=0.0)
            how = "one draw a row" if known else "one draw a row, q as a Gaussian with its moments"
            z, log_q = r.rsample_and_log_prob((1,))
            every = torch.cat([r.log_prob(row.expand(1, n, -1)) for row in z[0].unsqueeze(1)])
            own = log_q[0]
            aggregate = every.logsumexp(1) - math.log(n)
            figures = {"I(x; z)": (own - aggregate).mean(), "KL(q(z), p(z))": (aggregate - p.log_prob(z[0])).mean()}
        seconds = time.perf_counter() - begin
        return [
            Line(name, float(value), math.nan, n, "diagnostic, over these rows", how, seconds)
            for name, value in figures.items()
        ]


def _distinct(batch: Batch) -> Batch:
    """Each row once, where there are few of them that repeat equally often: a data set of four points, say."""
    rows, place, counts = batch.x.flatten(1).unique(dim=0, return_inverse=True, return_counts=True)
    if len(rows) > GRID_ROWS or not (counts == counts[0]).all():
        return batch
    return batch.at(torch.stack([(place == i).nonzero()[0, 0] for i in range(len(rows))]))


def _seeded(seed: int) -> Callable[[tuple[int, ...], Tensor], Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def source(shape: tuple[int, ...], like: Tensor) -> Tensor:
        return torch.randn(shape, generator=generator).to(like)

    return source


def table(lines: Sequence[Line]) -> str:
    """The lines in columns, one below the other."""
    rows = [("estimate", "nats per datum", "s.e.", "n", "side of log p(x)", "settings", "seconds")]
    for line in lines:
        error = "" if math.isnan(line.standard_error) else f"{line.standard_error:.3f}"
        rows.append(
            (line.estimate, f"{line.mean:.3f}", error, str(line.n), line.side, line.settings, f"{line.seconds:.1f}")
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def _distance(lines: Sequence[Line]) -> str:
    """The model's own figure beside the most trusted one."""
    found = {line.estimate: line.mean for line in lines}
    own = next((name for name in ("elbo", "elbo_estimate") if name in found), None)
    trusted = next((name for name in ("quadrature", "annealing", "importance") if name in found), None)
    if own is None or trusted is None:
        return ""
    what = "the gap of the ELBO" if own == "elbo" else "the critic's estimate lies this far below (negative: above)"
    return f"{trusted} - {own} = {found[trusted] - found[own]:.3f}: {what}"


def _beside(trainer: pl.Trainer) -> Path:
    """A new JSON file beside the checkpoint, or in the run's folder."""
    checkpoint = Path(trainer.ckpt_path) if trainer.ckpt_path else None
    folder = checkpoint.parent if checkpoint else run_folder(trainer) or Path()
    stem, number = checkpoint.stem if checkpoint else "model", 0
    while (path := folder / f"{stem}.likelihood{f'_{number}' if number else ''}.json").exists():
        number += 1
    folder.mkdir(parents=True, exist_ok=True)
    return path
