"""MNIST and data sets of its format, through torchvision."""

from __future__ import annotations

from typing import Any

import torchvision

from .splits import Split
from .tensors import TensorDataModule
from .torchvision_data import TorchvisionDataModule, read_npz


class MNIST(TorchvisionDataModule):
    """70,000 grey pictures of 28x28 (LeCun et al. 1998), values 0..255 scaled to [0, 1].

    Splits: the first 50,000 training images, the last 10,000 training images for validation, the 10,000 test images.

    Args:
        root: folder that holds `MNIST/raw/`; the files are downloaded where they are missing.
        batch_size, eval_batch_size, binarize, labels, labelled_per_batch: see `TensorDataModule`.

    Raises:
        ConfigurationError: the files are not there and cannot be downloaded.
    """

    data_shape = (1, 28, 28)
    classes = 10
    source: Any = torchvision.datasets.MNIST
    folder = "MNIST/raw"

    def load(self) -> dict[str, Split]:
        train, test = (self._open(**options) for options in self.source_options)
        x, y = train.data.unsqueeze(1), train.targets
        return {
            "train": Split(x[:50000], y[:50000]),
            "val": Split(x[50000:], y[50000:]),
            "test": Split(test.data.unsqueeze(1), test.targets),
        }


class FashionMNIST(MNIST):
    """70,000 grey pictures of clothes, 28x28, in MNIST's format and splits (Xiao et al. 2017)."""

    source: Any = torchvision.datasets.FashionMNIST
    folder = "FashionMNIST/raw"


class StaticMNIST(TensorDataModule):
    """Statically binarised MNIST (Larochelle & Murray 2011), on which published likelihoods are compared.

    Splits: those of the published files, 50,000, 10,000 and 10,000. There are no labels.

    Args:
        root: folder that holds `static_mnist/static_binarized_mnist.npz` with the arrays `train`, `valid` and `test`,
            `(rows, 784)` of 0 and 1: the published files `binarized_mnist_{train,valid,test}.amat` as they are.
        batch_size, eval_batch_size: see `TensorDataModule`.

    Raises:
        ConfigurationError: the file is not there.
    """

    data_shape = (1, 28, 28)

    def __init__(self, root: str = "data", batch_size: int = 100, eval_batch_size: int = 500) -> None:
        super().__init__(batch_size, eval_batch_size=eval_batch_size)
        self.root = root

    def load(self) -> dict[str, Split]:
        arrays = read_npz(self.root, "static_mnist/static_binarized_mnist.npz", ("train", "valid", "test"))
        return {
            stage: Split(x.view(-1, *self.data_shape))
            for stage, x in zip(("train", "val", "test"), arrays, strict=True)
        }
