"""Draws beside reference draws."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...draws import to_table
from ...errors import ConfigurationError, at_least
from ...evaluation import classifier_two_sample, moment_errors, neighbour_kl, sliced_wasserstein, standardised
from ...support import Parameters
from ...targets import Target
from ..base import Figure
from .base import PosteriorCheck, PosteriorDraws


class ReferenceComparison(PosteriorCheck):
    """Two-sample figures, where the target has reference draws.

    Args:
        folds: of the classifier.
    """

    name = "reference"

    def __init__(self, folds: int = 5) -> None:
        self.folds = at_least(2, folds=folds)

    def missing(self, draws: PosteriorDraws) -> str | None:
        return super().missing(draws) or (None if draws.reference is not None else "reference draws")

    def figures(self, draws: PosteriorDraws) -> list[Figure]:
        assert draws.reference is not None
        try:
            return compare(draws.target, draws.target.by_name(draws.z), draws.reference, self.folds)
        except ConfigurationError as error:  # the figures of the other checks are kept
            return [Figure("reference", math.nan, note=str(error))]


def compare(target: Target, drawn: Parameters, reference: Parameters, folds: int = 5) -> list[Figure]:
    """Compares draws of a target with reference draws, `(count, ...)` by name, including derived quantities.

    The divergence is of the parameters only, in the unconstrained coordinates, where it is the same: derived quantities
    are functions of the parameters and have no joint density. It is left out if the reference lacks a parameter, or if
    many of its rows are equal.

    Raises:
        ConfigurationError: the reference has none of the names.
    """
    shared = [name for name in drawn if name in reference]
    if not shared:
        raise ConfigurationError(
            f"target: {type(target).__name__} draws {', '.join(drawn)}, and its reference has {', '.join(reference)}"
        )
    mine, theirs = (to_table({name: draws[name].double().cpu() for name in shared})[0] for draws in (drawn, reference))
    # Constant columns, such as the upper triangle of a Cholesky factor, are left out.
    varies = (torch.cat([mine, theirs]) != theirs[0]).any(0)
    mine, theirs = mine[:, varies], theirs[:, varies]
    errors, support = moment_errors(mine, theirs), target.support
    accuracy = classifier_two_sample(mine, theirs, folds)
    distance = sliced_wasserstein(*standardised(mine, theirs))
    figures = [
        Figure("C2ST", accuracy, note="0.5: cannot be told from the reference; 1: always"),
        Figure("sliced Wasserstein", distance, note="in reference deviations"),
        Figure("worst mean", errors.mean.abs().max().item(), note="in reference deviations"),
        Figure("worst deviation", errors.deviation.abs().max().item(), note="relative error"),
    ]
    if all(name in shared for name in support.blocks):
        z = [
            support.unconstrain({name: draws[name].double().cpu() for name in support.blocks})
            for draws in (drawn, reference)
        ]
        # A share that is rounded to 1 becomes infinite.
        mine, theirs = (points[torch.isfinite(points).all(-1)] for points in z)
        unique = _unique_rows(mine, theirs)
        if all(len(rows) > 0.9 * len(points) for rows, points in zip(unique, (mine, theirs), strict=True)):
            divergence = Figure("KL(draws, reference)", neighbour_kl(*unique), note="nats, from nearest neighbours")
            figures.insert(1, divergence)
    return figures


def _unique_rows(mine: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """Two samples without repeated rows, of which single precision makes a few."""
    mine, theirs = mine.unique(dim=0), theirs.unique(dim=0)
    _, place, count = torch.cat([mine, theirs]).unique(dim=0, return_inverse=True, return_counts=True)
    return mine[count[place[: len(mine)]] == 1], theirs
