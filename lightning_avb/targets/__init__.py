"""Log-densities to learn a posterior of, and what a log-density of one's own must have: `Target`."""

from .base import Function, Target
from .bayes import (
    EightSchools,
    EightSchoolsNoncentered,
    Garch,
    KidScore,
    LogisticRegression,
    LowDimGaussMix,
    NormalSample,
)
from .densities import Funnel, Gaussian, Mixture, Ring, Rosenbrock, StudentT, Torus, grid_means
from .families import Family, NormalMean, Parabola
from .pyro_model import PyroModel

__all__ = [
    "EightSchools",
    "EightSchoolsNoncentered",
    "Family",
    "Function",
    "Funnel",
    "Garch",
    "Gaussian",
    "KidScore",
    "LogisticRegression",
    "LowDimGaussMix",
    "Mixture",
    "NormalMean",
    "NormalSample",
    "Parabola",
    "PyroModel",
    "Ring",
    "Rosenbrock",
    "StudentT",
    "Target",
    "Torus",
    "grid_means",
]
