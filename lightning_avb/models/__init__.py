"""One file per method, its objective derived in the docstring."""

from .aae import AAE
from .avb import AVB
from .bigan import BiGAN
from .categorical_aae import CategoricalAAE
from .gan import GAN
from .posterior import Posterior
from .vae import VAE
from .vaegan import VAEGAN

__all__ = ["AAE", "AVB", "GAN", "VAE", "VAEGAN", "BiGAN", "CategoricalAAE", "Posterior"]
