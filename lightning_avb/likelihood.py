"""What `lightning-avb test` prints: estimates of log p(x), which side of the truth each lies on, and how sure it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_info
from tqdm.auto import tqdm

from .batch import Batch
from .errors import ConfigurationError, at_least
from .estimators import (
    Annealing,
    Bidirectional,
    Chains,
    Estimator,
    Importance,
    OnGrid,
    Own,
    Parts,
    Parzen,
    RowEstimator,
)
from .estimators.base import evaluated
from .evaluation import has_density, schedule
from .runs import path_beside_checkpoint
from .tables import Line, table, write

Name = Literal["importance", "annealing", "bidirectional", "quadrature", "parzen"]

BEST = ("quadrature", "annealing", "importance")
"""Beside which the model's own figure is set: the first that is there and that nothing speaks against."""


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
        simulated: rows to simulate for `bidirectional`.
        parzen_samples: draws of the model for the Parzen window.
        draws: draws of q for the model's own figure, the ELBO or the critic's estimate of it.
        chunk: pairs (chain, row) that the decoder gets at a time; changes memory and nothing else.
        seed: of the estimates' own draws.

    Attributes:
        lines: of the table, on the first process, when the test has ended.

    Raises:
        ConfigurationError: an estimator that does not exist, or a number out of range.
    """

    def __init__(
        self,
        estimators: Sequence[Name] = ("importance", "annealing", "bidirectional"),
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
        for name in estimators:
            if name not in get_args(Name):
                raise ConfigurationError(f"likelihood.estimators: {name!r} is none of {', '.join(get_args(Name))}")
        numbers = {"samples": samples, "chains": chains, "steps": steps, "leapfrogs": leapfrogs, "chunk": chunk}
        numbers |= {"draws": draws, "parzen_samples": parzen_samples, "rows": 1 if rows is None else rows}
        for key, value in numbers.items():
            at_least(1, **{f"likelihood.{key}": value})
        at_least(2, **{"likelihood.simulated": simulated})
        if start not in ("proposal", "prior"):
            raise ConfigurationError(f"likelihood.start: {start!r} is neither 'proposal' nor 'prior'")
        schedule(steps, path)
        self.estimators, self.rows, self.samples, self.chains = tuple(estimators), rows, samples, chains
        self.steps, self.leapfrogs, self.path, self.start = steps, leapfrogs, path, start
        self.simulated, self.parzen_samples, self.draws = simulated, parzen_samples, draws
        self.chunk, self.seed = chunk, seed

    def _new(self) -> list[Estimator]:
        """All that a test runs, in the order of the table."""
        rows, chunk, seed = self.rows, self.chunk, self.seed
        chains = Chains(self.chains, self.steps, self.leapfrogs, self.path, self.start, chunk, seed)
        make: dict[Name, Callable[[], Estimator]] = {
            "importance": lambda: Importance(rows, self.samples, chunk, seed),
            "annealing": lambda: Annealing(rows, chains),
            "bidirectional": lambda: Bidirectional(self.simulated, chains),
            "quadrature": lambda: OnGrid(rows, chunk, seed),
            "parzen": lambda: Parzen(rows, self.parzen_samples, chunk, seed),
        }
        return [Own(rows, self.draws, chunk, seed), *(make[name]() for name in self.estimators), Parts(rows, seed)]

    def on_test_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        missing = lacking(pl_module)
        self.skipped = missing is not None
        if self.skipped:
            if hasattr(pl_module, "prior"):
                rank_zero_info(f"log p(x) is not estimated: {missing}")
            return
        if self.rows is not None and self.rows < trainer.world_size:
            raise ConfigurationError(f"likelihood.rows: {self.rows} are fewer than the {trainer.world_size} processes")
        self.lines: list[Line] = []
        self.running = self._new()
        for estimator in self.running:
            estimator.refuse(trainer, pl_module)
        rows = None if self.rows is None else -(-self.rows // trainer.world_size)
        self.bar = tqdm(total=rows, desc="log p(x)", unit="row", disable=not trainer.is_global_zero, leave=False)
        for estimator in self.running:
            estimator.begin(trainer, pl_module)

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self.skipped:
            return
        batch = Batch(*batch)
        if batch.index is None:
            raise ConfigurationError("likelihood: a batch without the index of its rows cannot be evaluated")
        for estimator in self.running:
            estimator.update(pl_module, batch)
        self.bar.update(len(evaluated(batch, self.rows).x))

    def on_test_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if self.skipped:
            return
        self.bar.close()
        for estimator in self.running:
            estimator.collect(trainer.world_size)
        path = path_beside_checkpoint(trainer, "likelihood")
        if not trainer.is_global_zero:
            return
        *estimators, parts = self.running
        self.lines = [line for estimator in estimators for line in estimator.lines(pl_module)]
        self.lines = in_order(self.lines + gap_of_own(estimators, self.lines))
        write(self.lines, path)  # the parts take a while
        self.lines = in_order(self.lines + parts.lines(pl_module))
        write(self.lines, path)
        print(table(self.lines))
        print(f"likelihoods: {path}")


def gap_of_own(estimators: Sequence[Estimator], lines: Sequence[Line]) -> list[Line]:
    """The best estimate minus the model's own figure, row by row."""
    by_name = {estimator.name: estimator for estimator in estimators if isinstance(estimator, RowEstimator)}
    objections = {line.estimate: line.objection for line in lines}
    own = next((estimator for estimator in estimators if isinstance(estimator, Own) and estimator.name), None)
    there = [by_name[name] for name in BEST if name in by_name]
    if own is None or not there:
        return []
    best = next((estimator for estimator in there if not objections[estimator.name]), there[0])
    return [own.lacking(best, objections[best.name])]


def in_order(lines: Sequence[Line]) -> list[Line]:
    """Figures of the same rows one below the other; the first rows are all rows, if there are no more."""
    count = next((line.rows for line in lines if not line.which), None)
    lines = [line._replace(which="") if (line.which, line.rows) == ("first", count) else line for line in lines]
    sets = list(dict.fromkeys((line.which, line.rows) for line in lines))
    return sorted(lines, key=lambda line: sets.index((line.which, line.rows)))


def lacking(model: Any) -> str | None:
    """Why there is no p(x) = E_p(z) p(x|z) to estimate from draws of q(z|x); None: there is."""
    if not (hasattr(model, "encoder") and hasattr(model, "decoder")):
        return "the model has no encoder and decoder"
    if not has_density(model.prior()):
        return "the prior has no density"
    if getattr(model, "choices", model.classes) != model.classes:
        return "a code is more than a draw of the prior"
    return None
