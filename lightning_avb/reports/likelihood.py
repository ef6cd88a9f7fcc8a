"""The report of likelihoods: estimates of log p(x), on which side of the truth they lie, and how good they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_info
from tqdm.auto import tqdm

from ..capabilities import HasPrior, can
from ..errors import ConfigurationError, at_least
from ..inference import why_no_likelihood
from ..runs import path_beside_checkpoint
from ..trackers import show_table
from .base import Figure, cells, selected, table, write_json
from .estimators import (
    AnnealedImportanceSampling,
    BidirectionalMonteCarlo,
    BoundTerms,
    GridQuadrature,
    ImportanceWeighting,
    LikelihoodEstimator,
    ModelBound,
    ParzenWindow,
    RowEstimator,
    Run,
)

HEADINGS = {
    "name": "estimate",
    "value": "nats per datum",
    "standard_error": "s.e.",
    "rows": "rows",
    "expected": "side of log p(x)",
    "check": "check",
    "note": "settings",
    "seconds": "seconds",
}


class Likelihood(pl.Callback):
    """Estimates log p(x) of the test data, prints one table and writes it as JSON beside the checkpoint.

    Every figure is a function of (seed, row): it depends neither on the batch size nor on the number of processes.

    Args:
        estimators: names: `importance`: importance weighting, from a heavy-tailed proposal fitted to draws of q;
            `annealing`: annealed importance sampling with Hamiltonian transitions; `bidirectional`: the same on data
            simulated from the model, with the reverse chain, whose gap limits the error of `annealing` there;
            `quadrature`: exact, for 1 or 2 latent dimensions; `parzen`: the Parzen window. Or subclasses of
            `LikelihoodEstimator`.
        rows: number of rows of the test data, from the first; None: all.
        samples: of the importance-weighted bound.
        chains: of annealing, per row.
        steps: temperatures of annealing.
        leapfrogs: leapfrog steps between two temperatures.
        path: `linear` or `sigmoid` spacing of the temperatures.
        start: chains begin at draws of the `proposal` or of the `prior`.
        simulated: rows to simulate for `bidirectional`.
        parzen_samples: draws of the model for the Parzen window.
        draws: draws of q for the model's own figure, the ELBO or the critic's estimate of it.
        chunk: pairs (chain, row) per call of the decoder; only memory depends on it.
        seed: of the draws of the estimates.

    Attributes:
        figures: the lines of the table, on the first process, after the test.

    Raises:
        ConfigurationError: an unknown estimator, or a number out of range.
    """

    def __init__(
        self,
        estimators: Sequence[LikelihoodEstimator | str] = ("importance", "annealing", "bidirectional"),
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
        at_least(1, **{"likelihood.rows": 1 if rows is None else rows})
        at_least(1, **{"likelihood.parzen_samples": parzen_samples})
        at_least(1, **{"likelihood.chunk": chunk})
        try:
            self.bound = ModelBound(draws)
            available: list[LikelihoodEstimator] = [
                ImportanceWeighting(samples),
                AnnealedImportanceSampling(chains, steps, leapfrogs, path, start),
                BidirectionalMonteCarlo(simulated, chains, steps, leapfrogs, path, start),
                GridQuadrature(),
                ParzenWindow(parzen_samples),
            ]
        except ConfigurationError as error:  # the message begins with the argument's name
            raise ConfigurationError(f"likelihood.{error}") from error
        self.estimators = selected("likelihood.estimators", estimators, available)
        self.terms = BoundTerms()
        self.rows, self.chunk, self.seed = rows, chunk, seed

    def on_test_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.figures: list[Figure] = []
        reason = why_no_likelihood(pl_module)
        self.skipped = reason is not None
        if self.skipped:
            if can(pl_module, HasPrior):
                rank_zero_info(f"log p(x) is not estimated: {reason}")
            return
        if self.rows is not None and self.rows < trainer.world_size:
            raise ConfigurationError(f"likelihood.rows: {self.rows} are fewer than the {trainer.world_size} processes")
        self.run = Run(trainer, pl_module, self.rows, self.chunk, self.seed)
        for estimator in self.estimators:
            missing = estimator.missing(self.run)
            if missing is not None:
                raise ConfigurationError(f"likelihood.estimators: {estimator.name!r} needs {missing}")
        rows = None if self.rows is None else -(-self.rows // trainer.world_size)
        hidden = None if trainer.is_global_zero else True  # None: where the output is not a terminal
        self.bar = tqdm(total=rows, desc="log p(x)", unit="row", disable=hidden, leave=False)
        for estimator in self._all():
            estimator.begin(self.run)

    def _all(self) -> list[LikelihoodEstimator]:
        """All estimators of a test, in the order of the table."""
        return [self.bound, *self.estimators, self.terms]

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self.skipped:
            return
        for estimator in self._all():
            estimator.update(self.run, batch)
        self.bar.update(len(self.run.evaluated(batch).x))

    def on_test_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if self.skipped:
            return
        self.bar.close()
        for estimator in self._all():
            estimator.gather(self.run)
        path = path_beside_checkpoint(trainer, "likelihood")
        if not trainer.is_global_zero:
            return
        found = {estimator: estimator.figures(self.run) for estimator in (self.bound, *self.estimators)}
        self.figures = in_order([*(f for figures in found.values() for f in figures), *compared(self.bound, found)])
        write_json(self.figures, path)  # computing the terms takes long
        self.figures = in_order(self.figures + self.terms.figures(self.run))
        write_json(self.figures, path)
        print(table(self.figures, HEADINGS, ".3f"))
        show_table(trainer, "test/likelihood", cells(self.figures, HEADINGS, ".3f"))
        print(f"likelihoods: {path}")


def compared(bound: ModelBound, found: dict[LikelihoodEstimator, list[Figure]]) -> list[Figure]:
    """The best estimate minus the model's own bound, row by row."""
    rivals = [estimator for estimator in found if isinstance(estimator, RowEstimator) and estimator.precedence]
    if not bound.name or not rivals:
        return []
    objections = {rival: next((f.objection for f in found[rival] if f.objection), "") for rival in rivals}
    best = max(rivals, key=lambda rival: (not objections[rival], rival.precedence))
    return [bound.distance_to(best, objections[best])]


def in_order(figures: Sequence[Figure]) -> list[Figure]:
    """Figures grouped by their rows; the subset `first` is dropped if it has all rows."""
    count = next((figure.rows for figure in figures if not figure.subset), None)
    figures = [f._replace(subset="") if (f.subset, f.rows) == ("first", count) else f for f in figures]
    sets = list(dict.fromkeys((figure.subset, figure.rows) for figure in figures))
    return sorted(figures, key=lambda figure: sets.index((figure.subset, figure.rows)))
