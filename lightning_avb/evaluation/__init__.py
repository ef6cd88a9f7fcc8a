"""Estimators of log p(x), as pure functions of a decoder, a prior and data."""

from .annealing import (
    Annealed,
    Annealing,
    Bidirectional,
    annealed_importance_sampling,
    bidirectional,
    schedule,
    simulate,
    tune,
)
from .diagnostics import Figure, diagnose, has_density
from .importance import Importance, importance_weighting, log_joint, resample
from .parzen import Parzen, parzen_window
from .posterior import (
    Decomposition,
    critic_error,
    decompose,
    decompose_draws,
    kl_of_aggregate,
    kl_of_draws,
    kl_to_posterior,
    neighbour_entropy,
    on_grid,
)
from .proposals import DefensiveStudent, fitted_proposal, refined_proposal
from .quadrature import Quadrature, log_likelihood
from .rows import over_rows

__all__ = [
    "Annealed",
    "Annealing",
    "Bidirectional",
    "Decomposition",
    "DefensiveStudent",
    "Figure",
    "Importance",
    "Parzen",
    "Quadrature",
    "annealed_importance_sampling",
    "bidirectional",
    "critic_error",
    "decompose",
    "decompose_draws",
    "diagnose",
    "fitted_proposal",
    "has_density",
    "importance_weighting",
    "kl_of_aggregate",
    "kl_of_draws",
    "kl_to_posterior",
    "log_joint",
    "log_likelihood",
    "neighbour_entropy",
    "on_grid",
    "over_rows",
    "parzen_window",
    "refined_proposal",
    "resample",
    "schedule",
    "simulate",
    "tune",
]
