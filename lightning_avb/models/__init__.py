"""One file per method, its objective derived in the docstring."""

from .aae import AAE, AAEPlayers
from .avb import AVB, AVBPlayers
from .bigan import BiGAN, BiGANPlayers
from .categorical_aae import CategoricalAAE, CategoricalAAEPlayers
from .gan import GAN, GANPlayers
from .latent import EncodingModel, GenerativeModel, LatentVariableModel
from .posterior import Posterior, PosteriorPlayers
from .vae import VAE, VAEPlayers
from .vaegan import VAEGAN, VAEGANPlayers

__all__ = [
    "AAE",
    "AVB",
    "GAN",
    "VAE",
    "VAEGAN",
    "AAEPlayers",
    "AVBPlayers",
    "BiGAN",
    "BiGANPlayers",
    "CategoricalAAE",
    "CategoricalAAEPlayers",
    "EncodingModel",
    "GANPlayers",
    "GenerativeModel",
    "LatentVariableModel",
    "Posterior",
    "PosteriorPlayers",
    "VAEGANPlayers",
    "VAEPlayers",
]
