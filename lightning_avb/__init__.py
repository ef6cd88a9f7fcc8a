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
    PooledMixtureEncoder,
    SemiImplicitEncoder,
    StandardNormal,
    SwissRollPrior,
)
from .contrasts import FlowContrast, FullGaussianContrast, GaussianContrast, PriorContrast
from .game import Game
from .models import AAE, AVB, GAN, VAE, VAEGAN, BiGAN, CategoricalAAE, Posterior
from .networks import MLP, ConvNet, DeconvNet, InnerProductCritic, InputNoise, ResidualCritic, ResidualMLP
from .players import Cosine, Phase, PhaseResult, Player

__version__ = "0.1.0"

__all__ = [
    "AAE",
    "AVB",
    "GAN",
    "MLP",
    "VAE",
    "VAEGAN",
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
    "FullGaussianContrast",
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
    "PhaseResult",
    "Player",
    "PooledMixtureEncoder",
    "Posterior",
    "PriorContrast",
    "ResidualCritic",
    "ResidualMLP",
    "SemiImplicitEncoder",
    "StandardNormal",
    "SwissRollPrior",
]
