"""The report of posteriors: whether the draws of a sampler can be trusted, and a comparison with reference draws."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch

from .. import noise
from ..errors import ConfigurationError, at_least
from ..models import Posterior
from ..runs import path_beside_checkpoint
from ..trackers import show_table
from .base import Figure, cells, selected, table, write_json
from .checks import (
    ChainCheck,
    ModeSearch,
    Moments,
    PosteriorCheck,
    PosteriorDraws,
    ReferenceComparison,
    SimulationBasedCalibration,
    WeightCheck,
)

HEADINGS = {"name": "quantity", "value": "value", "expected": "should be", "note": ""}


class Diagnosis(pl.Callback):
    """Diagnoses a `Posterior` in `test`, prints a table and writes it as JSON beside the checkpoint.

    Args:
        draws: of the sampler.
        folds: of the two-sample classifier.
        simulations: simulated data sets of a family, to check the calibration of their posteriors.
        ranks: draws of each of these posteriors.
        seed: of the draws.
        checks: names: `chains`: Hamiltonian chains from the draws, which move them if they are wrong; `search`: chains
            from far away, which may find a mode without draws; `weights`: weighted draws of a flow that is
            fitted to the draws give the evidence and the shares that the draws should have; `moments`: of the
            parameters, of the draws and by these chains and weights; `reference`: two-sample figures, where the target
            has reference draws; `calibration`: simulation-based, for a family. Or classes of your own, subclasses of
            `PosteriorCheck`. Those that do not apply are left out.

    Raises:
        ConfigurationError: an unknown check, or a number out of range.
    """

    def __init__(
        self,
        draws: int = 10000,
        folds: int = 5,
        simulations: int = 1000,
        ranks: int = 99,
        seed: int = 0,
        checks: Sequence[PosteriorCheck | str] = (
            "chains",
            "search",
            "weights",
            "moments",
            "reference",
            "calibration",
        ),
    ) -> None:
        at_least(200, **{"diagnosis.draws": draws})
        try:
            comparison = ReferenceComparison(folds)
            calibration = SimulationBasedCalibration(simulations, ranks)
        except ConfigurationError as error:  # the message begins with the argument's name
            raise ConfigurationError(f"diagnosis.{error}") from error
        available = [ChainCheck(), ModeSearch(), WeightCheck(), Moments(), comparison, calibration]
        self.checks = selected("diagnosis.checks", checks, available)
        self.draws, self.seed = draws, seed

    def on_test_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if not (isinstance(pl_module, Posterior) and trainer.is_global_zero):
            return
        begin = time.perf_counter()
        # Lightning tests in inference mode, where the flow of the diagnosis cannot be fitted.
        with noise.use(noise.seeded(self.seed, "diagnosis")), torch.inference_mode(False):
            figures = self.of(pl_module)
        print(table(figures, HEADINGS))
        show_table(trainer, "test/diagnosis", cells(figures, HEADINGS))
        path = path_beside_checkpoint(trainer, "diagnosis")
        write_json(figures, path)
        print(f"diagnosis: {path} ({time.perf_counter() - begin:.0f} s)")

    def of(self, model: Posterior) -> list[Figure]:
        """The lines of the table. For draws of one posterior, the first is the conclusion."""
        draws = PosteriorDraws.of(model, self.draws, self.seed)
        figures = examine(draws, self.checks)
        return [conclusion(figures), *figures] if draws.of_one_posterior else figures


def examine(draws: PosteriorDraws, checks: Sequence[PosteriorCheck]) -> list[Figure]:
    """The figures of all checks that apply."""
    figures = [figure for check in checks if check.missing(draws) is None for figure in check.figures(draws)]
    draws.warn()
    return figures


def conclusion(figures: Sequence[Figure]) -> Figure:
    """The number of figures with an objection, and their objections."""
    objections = list(dict.fromkeys(figure.objection for figure in figures if figure.objection))
    note = "the draws agree with the target as far as can be seen; a small or narrow mode far away cannot"
    if objections:
        note = f"NOT RIGHT: {'; '.join(objections)}"
    return Figure("objections", sum(bool(figure.objection) for figure in figures), expected="0", note=note)
