"""Adversarially trained latent-variable models on PyTorch Lightning."""

from .batch import Batch
from .conditionals import (
    AuxiliaryEncoder,
    BernoulliDecoder,
    BoundedNoiseEncoder,
    DiscretizedLogisticDecoder,
    FlowEncoder,
    FlowPrior,
    FullGaussianEncoder,
    GaussianDecoder,
    GaussianEncoder,
    MixturePrior,
    NoiseBasisEncoder,
    NoiseInjectionEncoder,
    SemiImplicitEncoder,
    StandardNormal,
)
from .contrasts import FlowContrast, GaussianContrast, PriorContrast
from .game import Cosine, Game, Phase, Play, Player
from .models import AVB, VAE
from .networks import MLP, ConvNet, DeconvNet, InnerProductCritic, ResidualCritic, ResidualMLP

__version__ = "0.1.0"

__all__ = [
    "AVB",
    "MLP",
    "VAE",
    "AuxiliaryEncoder",
    "Batch",
    "BernoulliDecoder",
    "BoundedNoiseEncoder",
    "ConvNet",
    "Cosine",
    "DeconvNet",
    "DiscretizedLogisticDecoder",
    "FlowContrast",
    "FlowEncoder",
    "FlowPrior",
    "FullGaussianEncoder",
    "Game",
    "GaussianContrast",
    "GaussianDecoder",
    "GaussianEncoder",
    "InnerProductCritic",
    "MixturePrior",
    "NoiseBasisEncoder",
    "NoiseInjectionEncoder",
    "Phase",
    "Play",
    "Player",
    "PriorContrast",
    "ResidualCritic",
    "ResidualMLP",
    "SemiImplicitEncoder",
    "StandardNormal",
]
