"""One file a method, its objective derived in the docstring."""

from .aae import AAE, CategoricalAAE
from .avb import AVB
from .gan import GAN, BiGAN
from .posterior import Posterior
from .vae import VAE

__all__ = ["AAE", "AVB", "GAN", "VAE", "BiGAN", "CategoricalAAE", "Posterior"]
