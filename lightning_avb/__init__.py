"""Adversarially trained latent-variable models on PyTorch Lightning."""

from .batch import Batch
from .conditionals import (
    AuxiliaryEncoder,
    BernoulliDecoder,
    BoundedNoiseEncoder,
    DeterministicEncoder,
    DiscretizedLogisticDecoder,
    FlowEncoder,
    FlowPrior,
    FullGaussianEncoder,
    GaussianDecoder,
    GaussianEncoder,
    MixturePrior,
    NoiseBasisEncoder,
    NoiseInjectionEncoder,
    NormalPrior,
    PetalPrior,
    SemiImplicitEncoder,
    StandardNormal,
    SwissRollPrior,
)
from .contrasts import FlowContrast, GaussianContrast, PriorContrast
from .game import Cosine, Game, Phase, Play, Player
from .models import AAE, AVB, GAN, VAE, BiGAN, CategoricalAAE
from .networks import MLP, ConvNet, DeconvNet, InnerProductCritic, InputNoise, ResidualCritic, ResidualMLP

__version__ = "0.1.0"

__all__ = [
    "AAE",
    "AVB",
    "GAN",
    "MLP",
    "VAE",
    "AuxiliaryEncoder",
    "Batch",
    "BernoulliDecoder",
    "BiGAN",
    "BoundedNoiseEncoder",
    "CategoricalAAE",
    "ConvNet",
    "Cosine",
    "DeconvNet",
    "DeterministicEncoder",
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
    "InputNoise",
    "MixturePrior",
    "NoiseBasisEncoder",
    "NoiseInjectionEncoder",
    "NormalPrior",
    "PetalPrior",
    "Phase",
    "Play",
    "Player",
    "PriorContrast",
    "ResidualCritic",
    "ResidualMLP",
    "SemiImplicitEncoder",
    "StandardNormal",
    "SwissRollPrior",
]
