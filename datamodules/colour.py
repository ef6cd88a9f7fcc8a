"""Small colour pictures, through torchvision."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torchvision

from .splits import Split
from .torchvision_data import TorchvisionDataModule


class CIFAR10(TorchvisionDataModule):
    """60,000 colour pictures of 32x32 in ten classes (Krizhevsky 2009), values 0..255 scaled to [0, 1].

    Splits: the first 45,000 training pictures, the last 5,000 for validation, the 10,000 test pictures.

    Args:
        root: folder that holds `cifar-10-batches-py/`; the files are downloaded where they are missing.
        batch_size, eval_batch_size, binarize, labels, labelled_per_batch: see `TensorDataModule`.

    Raises:
        ConfigurationError: the files are not there and cannot be downloaded.
    """

    data_shape = (3, 32, 32)
    classes = 10
    source: Any = torchvision.datasets.CIFAR10
    folder = "cifar-10-batches-py"
    validation_rows = 5000

    def load(self) -> dict[str, Split]:
        train, test = (self._open(**options) for options in self.source_options)
        self.label_names = train.classes
        train_split, test_split = (
            Split(torch.from_numpy(source.data).permute(0, 3, 1, 2), torch.tensor(source.targets))
            for source in (train, test)
        )
        return {**hold_out_last(train_split, self.validation_rows), "test": test_split}


class SVHN(TorchvisionDataModule):
    """99,289 colour pictures of house numbers, 32x32, values 0..255 scaled to [0, 1] (Netzer et al. 2011).

    Splits: the first 68,257 training pictures, the last 5,000 for validation, the 26,032 test pictures. The `extra`
    pictures are not used.

    Args:
        root: folder that holds `train_32x32.mat` and `test_32x32.mat`; they are downloaded where they are missing.
        batch_size, eval_batch_size, binarize, labels, labelled_per_batch: see `TensorDataModule`.

    Raises:
        ConfigurationError: the files are not there and cannot be downloaded.
    """

    data_shape = (3, 32, 32)
    classes = 10
    source: Any = torchvision.datasets.SVHN
    source_options: ClassVar[tuple[dict[str, Any], ...]] = ({"split": "train"}, {"split": "test"})
    validation_rows = 5000

    def load(self) -> dict[str, Split]:
        train_split, test_split = (
            Split(torch.from_numpy(source.data), torch.from_numpy(source.labels))
            for source in (self._open(**options) for options in self.source_options)
        )
        return {**hold_out_last(train_split, self.validation_rows), "test": test_split}


def hold_out_last(split: Split, rows: int) -> dict[str, Split]:
    """The last rows for validation, those before them for training."""
    order = torch.arange(split.size)
    return {"train": split._replace(rows=order[:-rows]), "val": split._replace(rows=order[-rows:])}
