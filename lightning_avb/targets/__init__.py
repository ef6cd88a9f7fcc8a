"""Log-densities to learn a posterior of, and `Target`, the base class of a user's own."""

from .base import Target
from .bayes import EightSchools, LogisticRegression, NormalSample
from .densities import Funnel, Gaussian, Mixture, Ring, Rosenbrock, StudentT, Torus, grid_means
from .families import Family, NormalMean, Parabola
from .function import Function
from .posteriordb import EightSchoolsNoncentered, Garch, KidScore, LowDimGaussMix
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
