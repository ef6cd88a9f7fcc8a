"""Data sets: one file a kind. They know nothing of models."""

from .digits import Digits
from .four_points import FourPoints
from .mnist import MNIST, FashionMNIST
from .tensors import Binarize, Split, TensorDataModule

__all__ = ["MNIST", "Binarize", "Digits", "FashionMNIST", "FourPoints", "Split", "TensorDataModule"]
