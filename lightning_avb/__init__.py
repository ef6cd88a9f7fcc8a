"""Adversarially trained latent-variable models on PyTorch Lightning."""

from .batch import Batch
from .conditionals import (
    BernoulliDecoder,
    BoundedNoiseEncoder,
    GaussianDecoder,
    GaussianEncoder,
    NoiseBasisEncoder,
    NoiseInjectionEncoder,
    StandardNormal,
)
from .contrasts import GaussianContrast, PriorContrast
from .game import Cosine, Game, Phase, Play, Player
from .models import AVB, VAE
from .networks import MLP, InnerProductCritic, ResidualCritic

__version__ = "0.1.0"

__all__ = [
    "AVB",
    "MLP",
    "VAE",
    "Batch",
    "BernoulliDecoder",
    "BoundedNoiseEncoder",
    "Cosine",
    "Game",
    "GaussianContrast",
    "GaussianDecoder",
    "GaussianEncoder",
    "InnerProductCritic",
    "NoiseBasisEncoder",
    "NoiseInjectionEncoder",
    "Phase",
    "Play",
    "Player",
    "PriorContrast",
    "ResidualCritic",
    "StandardNormal",
]
