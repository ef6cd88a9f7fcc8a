"""Log-densities to learn a posterior of, and what a log-density of one's own must have: `Target`."""

from .base import Target
from .bayes import (
    EightSchools,
    EightSchoolsNoncentered,
    Garch,
    KidScore,
    LogisticRegression,
    LowDimGaussMix,
    NormalSample,
)
from .densities import Funnel, Gaussian, Mixture, Ring, Rosenbrock, Torus

__all__ = [
    "EightSchools",
    "EightSchoolsNoncentered",
    "Funnel",
    "Garch",
    "Gaussian",
    "KidScore",
    "LogisticRegression",
    "LowDimGaussMix",
    "Mixture",
    "NormalSample",
    "Ring",
    "Rosenbrock",
    "Target",
    "Torus",
]
