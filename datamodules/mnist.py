"""MNIST and its drop-in relatives, through torchvision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torchvision

from lightning_avb.errors import ConfigurationError

from .tensors import Binarize, Split, TensorDataModule


class MNIST(TensorDataModule):
    """70,000 grey pictures of 28x28 (LeCun et al. 1998), values 0..255 scaled to [0, 1].

    Splits: the first 50,000 training images, the last 10,000 training images for validation, the 10,000 test images.

    Args:
        root: folder that holds `MNIST/raw/`; used in place where the files are there, downloaded into where not.
        batch_size, eval_batch_size, binarize: see `TensorDataModule`.

    Raises:
        ConfigurationError: the files are not there and cannot be downloaded.
    """

    data_shape = (1, 28, 28)
    white = 255.0
    source: Any = torchvision.datasets.MNIST

    def __init__(
        self, root: str = "data", batch_size: int = 100, eval_batch_size: int = 500, binarize: Binarize = "none"
    ) -> None:
        super().__init__(batch_size, eval_batch_size, binarize)
        self.root = root

    def prepare_data(self) -> None:
        """Downloads the files where they are missing; Lightning calls this on one process only."""
        try:
            for train in (True, False):
                self.source(self.root, train=train, download=True)
        except (RuntimeError, OSError) as error:
            name = self.source.__name__
            reason = str(error).strip().splitlines()[0]
            raise ConfigurationError(
                f"data.root: no {name} files in {str(Path(self.root, name, 'raw'))!r}, and no download: {reason}"
            ) from error

    def load(self) -> dict[str, Split]:
        train, test = (self.source(self.root, train=part) for part in (True, False))
        x, y = train.data.unsqueeze(1), train.targets
        return {
            "train": Split(x[:50000], y[:50000]),
            "val": Split(x[50000:], y[50000:]),
            "test": Split(test.data.unsqueeze(1), test.targets),
        }


class FashionMNIST(MNIST):
    """70,000 grey pictures of clothes, 28x28, in MNIST's format and splits (Xiao et al. 2017)."""

    source: Any = torchvision.datasets.FashionMNIST
