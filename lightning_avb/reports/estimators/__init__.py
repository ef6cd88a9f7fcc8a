"""Estimators of log p(x) for the report of likelihoods, one class each."""

from .annealing import AnnealedImportanceSampling, AnnealingOptions, BidirectionalMonteCarlo
from .base import LikelihoodEstimator, RowEstimator, Run
from .bound import ModelBound
from .bound_terms import BoundTerms
from .importance import ImportanceWeighting
from .parzen import ParzenWindow
from .quadrature import GridQuadrature

__all__ = [
    "AnnealedImportanceSampling",
    "AnnealingOptions",
    "BidirectionalMonteCarlo",
    "BoundTerms",
    "GridQuadrature",
    "ImportanceWeighting",
    "LikelihoodEstimator",
    "ModelBound",
    "ParzenWindow",
    "RowEstimator",
    "Run",
]
