"""Reports: what `test`, `validate` and `predict` print, and write beside a checkpoint."""

from .base import Estimator, Figure
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
from .estimators import (
    AnnealedImportanceSampling,
    BidirectionalMonteCarlo,
    GridQuadrature,
    ImportanceWeighting,
    LikelihoodEstimator,
    ParzenWindow,
    RowEstimator,
    Run,
)
from .likelihood import Likelihood
from .posterior import Diagnosis
from .results import SaveMetrics, SavePredictions

__all__ = [
    "AnnealedImportanceSampling",
    "BidirectionalMonteCarlo",
    "ChainCheck",
    "Diagnosis",
    "Estimator",
    "Figure",
    "GridQuadrature",
    "ImportanceWeighting",
    "Likelihood",
    "LikelihoodEstimator",
    "ModeSearch",
    "Moments",
    "ParzenWindow",
    "PosteriorCheck",
    "PosteriorDraws",
    "ReferenceComparison",
    "RowEstimator",
    "Run",
    "SaveMetrics",
    "SavePredictions",
    "SimulationBasedCalibration",
    "WeightCheck",
]
