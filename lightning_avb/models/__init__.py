"""One file a method, its objective derived in the docstring."""

from .avb import AVB
from .vae import VAE

__all__ = ["AVB", "VAE"]
