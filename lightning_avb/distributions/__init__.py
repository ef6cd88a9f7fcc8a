"""Distributions that torch.distributions lacks, or whose noise must come from `lightning_avb.noise`.

Shapes: `rsample((samples,))` is `(samples, batch, latent_dim)`, `log_prob` of that is `(samples, batch)`, in nats.
"""

from .bounded import LocatedMixture, SemiImplicit, pairwise_log_prob
from .normal import DiagonalNormal, NormalMixture, TriangularNormal
from .observations import Bernoulli, DiscretizedLogistic
from .pushforward import Flow, Implicit
from .swiss_roll import SwissRoll
from .tables import TableEntries, TableLayout

__all__ = [
    "Bernoulli",
    "DiagonalNormal",
    "DiscretizedLogistic",
    "Flow",
    "Implicit",
    "LocatedMixture",
    "NormalMixture",
    "SemiImplicit",
    "SwissRoll",
    "TableEntries",
    "TableLayout",
    "TriangularNormal",
    "pairwise_log_prob",
]
