"""Estimators of log p(x), as pure functions of a decoder, a prior and data; and checks of posterior draws."""

from .annealing import (
    AnnealedEstimate,
    AnnealingSettings,
    BidirectionalBounds,
    annealed_importance_sampling,
    bidirectional,
    schedule,
    simulate,
    tune,
)
from .calibration import calibration_ranks, uniformity
from .chains import MissedMode, MovedDraws, Share, find_missed_mode, move_draws
from .clusters import CategoryErrors, ClusterCounts
from .elbo import (
    Decomposition,
    critic_error,
    decompose,
    decompose_draws,
    kl_of_aggregate,
    kl_of_draws,
    kl_to_posterior,
    on_grid,
)
from .importance import ImportanceEstimate, importance_weighting, log_joint, resample
from .inputs import as_prior, has_density
from .likelihood import Annealer, LogLikelihood, log_likelihood
from .neighbours import neighbour_entropy
from .pareto import (
    DrawsDiagnosis,
    ParetoSmoothed,
    diagnose_draws,
    fit_density,
    fit_generalised_pareto,
    pareto_smoothed,
)
from .parzen import ParzenEstimate, parzen_window
from .proposals import DefensiveStudent, fitted_proposal, refined_proposal
from .quadrature import Quadrature, log_likelihood_on_grid
from .resampling import Resampled, resample_posterior
from .rows import map_rows
from .two_sample import (
    MomentErrors,
    classifier_two_sample,
    marginal_quantiles,
    maximum_mean_discrepancy,
    median_distance,
    moment_errors,
    neighbour_kl,
    sliced_wasserstein,
    standardised,
)

__all__ = [
    "AnnealedEstimate",
    "Annealer",
    "AnnealingSettings",
    "BidirectionalBounds",
    "CategoryErrors",
    "ClusterCounts",
    "Decomposition",
    "DefensiveStudent",
    "DrawsDiagnosis",
    "ImportanceEstimate",
    "LogLikelihood",
    "MissedMode",
    "MomentErrors",
    "MovedDraws",
    "ParetoSmoothed",
    "ParzenEstimate",
    "Quadrature",
    "Resampled",
    "Share",
    "annealed_importance_sampling",
    "as_prior",
    "bidirectional",
    "calibration_ranks",
    "classifier_two_sample",
    "critic_error",
    "decompose",
    "decompose_draws",
    "diagnose_draws",
    "find_missed_mode",
    "fit_density",
    "fit_generalised_pareto",
    "fitted_proposal",
    "has_density",
    "importance_weighting",
    "kl_of_aggregate",
    "kl_of_draws",
    "kl_to_posterior",
    "log_joint",
    "log_likelihood",
    "log_likelihood_on_grid",
    "map_rows",
    "marginal_quantiles",
    "maximum_mean_discrepancy",
    "median_distance",
    "moment_errors",
    "move_draws",
    "neighbour_entropy",
    "neighbour_kl",
    "on_grid",
    "pareto_smoothed",
    "parzen_window",
    "refined_proposal",
    "resample",
    "resample_posterior",
    "schedule",
    "simulate",
    "sliced_wasserstein",
    "standardised",
    "tune",
    "uniformity",
]
