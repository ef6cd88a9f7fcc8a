"""Data sets: one file per kind, in the project's top-level folder `datamodules`. They know nothing of models.

Python knows these files under this name alone, so a project may have `datamodules` of its own beside them.
"""

from pathlib import Path

__path__ = [str(Path(__file__).resolve().parents[2] / "datamodules")]

from .arrays import Arrays
from .colour import CIFAR10, SVHN
from .digits import Digits
from .faces import CelebA, FreyFaces, Olivetti
from .four_points import FourPoints
from .image_folder import ImageFolder
from .loaders import EvalLoader, TrainLoader
from .mnist import MNIST, FashionMNIST, StaticMNIST
from .no_data import NoData
from .simulated import Simulated
from .splits import Split, random_splits
from .table import Table
from .tensors import Binarize, TensorDataModule

__all__ = [
    "CIFAR10",
    "MNIST",
    "SVHN",
    "Arrays",
    "Binarize",
    "CelebA",
    "Digits",
    "EvalLoader",
    "FashionMNIST",
    "FourPoints",
    "FreyFaces",
    "ImageFolder",
    "NoData",
    "Olivetti",
    "Simulated",
    "Split",
    "StaticMNIST",
    "Table",
    "TensorDataModule",
    "TrainLoader",
    "random_splits",
]
