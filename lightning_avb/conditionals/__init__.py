"""Encoders, decoders and priors: modules whose call returns a distribution.

An encoder's call gives q(z|x), a decoder's p(x|z), a prior's p(z). Under mixed precision the networks compute in half
precision and the distributions in the precision of x, where a small scale needs it. In a class-conditional model
encoder and decoder also get the label y, as a one-hot context of their networks.
"""

from .base import Conditional, Decoder, DecoderRecipe, Encoder, EncoderRecipe, PriorRecipe
from .categorical import CategoricalEncoder
from .decoders import BernoulliDecoder, DiscretizedLogisticDecoder, GaussianDecoder, TableDecoder
from .encoders import (
    DeterministicEncoder,
    FlowEncoder,
    FullGaussianEncoder,
    GaussianEncoder,
)
from .implicit import NoiseBasisEncoder, NoiseInjectionEncoder
from .priors import FlowPrior, MixturePrior, NormalPrior, PetalPrior, StandardNormal, SwissRollPrior
from .semi_implicit import PooledMixtureEncoder, SemiImplicitEncoder

__all__ = [
    "BernoulliDecoder",
    "CategoricalEncoder",
    "Conditional",
    "Decoder",
    "DecoderRecipe",
    "DeterministicEncoder",
    "DiscretizedLogisticDecoder",
    "Encoder",
    "EncoderRecipe",
    "FlowEncoder",
    "FlowPrior",
    "FullGaussianEncoder",
    "GaussianDecoder",
    "GaussianEncoder",
    "MixturePrior",
    "NoiseBasisEncoder",
    "NoiseInjectionEncoder",
    "NormalPrior",
    "PetalPrior",
    "PooledMixtureEncoder",
    "PriorRecipe",
    "SemiImplicitEncoder",
    "StandardNormal",
    "SwissRollPrior",
    "TableDecoder",
]
