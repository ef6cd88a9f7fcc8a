"""Checks of a posterior's draws for the report of posteriors, one class each."""

from .base import PosteriorCheck, PosteriorDraws
from .calibration import SimulationBasedCalibration
from .chains import ChainCheck, ModeSearch
from .moments import Moments
from .reference import ReferenceComparison, compare
from .weights import WeightCheck

__all__ = [
    "ChainCheck",
    "ModeSearch",
    "Moments",
    "PosteriorCheck",
    "PosteriorDraws",
    "ReferenceComparison",
    "SimulationBasedCalibration",
    "WeightCheck",
    "compare",
]
