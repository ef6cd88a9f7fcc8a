"""The estimators behind the table of `test`, one class each."""

from .base import Estimator, RowEstimator
from .kernels import OnGrid, Parzen
from .own import Own, Parts
from .weights import Annealing, Bidirectional, Chains, Importance

__all__ = [
    "Annealing",
    "Bidirectional",
    "Chains",
    "Estimator",
    "Importance",
    "OnGrid",
    "Own",
    "Parts",
    "Parzen",
    "RowEstimator",
]
