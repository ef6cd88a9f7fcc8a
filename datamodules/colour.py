"""Small colour pictures, through torchvision."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torchvision

from .fetched import Fetched
from .tensors import Split


class CIFAR10(Fetched):
    """60,000 colour pictures of 32x32 in ten classes (Krizhevsky 2009), values 0..255 scaled to [0, 1].

    Splits: the first 45,000 training pictures, the last 5,000 for validation, the 10,000 test pictures.

    Args:
        root: folder that holds `cifar-10-batches-py/`; used in place where the files are there, downloaded into where
            not.
        batch_size, eval_batch_size, binarize, labels, labelled_per_batch: see `TensorDataModule`.

    Raises:
        ConfigurationError: the files are not there and cannot be downloaded.
    """

    data_shape = (3, 32, 32)
    classes = 10
    source: Any = torchvision.datasets.CIFAR10
    folder = "cifar-10-batches-py"
    held_out = 5000

    def load(self) -> dict[str, Split]:
        train, test = (self._open(**part) for part in self.parts)
        self.label_names = train.classes
        whole, unseen = (
            Split(torch.from_numpy(part.data).permute(0, 3, 1, 2), torch.tensor(part.targets)) for part in (train, test)
        )
        return {**held_out(whole, self.held_out), "test": unseen}


class SVHN(Fetched):
    """99,289 colour pictures of house numbers, 32x32, values 0..255 scaled to [0, 1] (Netzer et al. 2011).

    Splits: the first 68,257 training pictures, the last 5,000 for validation, the 26,032 test pictures. The `extra`
    pictures are not used.

    Args:
        root: folder that holds `train_32x32.mat` and `test_32x32.mat`; used in place where they are there, downloaded
            into where not.
        batch_size, eval_batch_size, binarize, labels, labelled_per_batch: see `TensorDataModule`.

    Raises:
        ConfigurationError: the files are not there and cannot be downloaded.
    """

    data_shape = (3, 32, 32)
    classes = 10
    source: Any = torchvision.datasets.SVHN
    parts: ClassVar[tuple[dict[str, Any], ...]] = ({"split": "train"}, {"split": "test"})
    held_out = 5000

    def load(self) -> dict[str, Split]:
        whole, unseen = (
            Split(torch.from_numpy(part.data), torch.from_numpy(part.labels))
            for part in (self._open(**part) for part in self.parts)
        )
        return {**held_out(whole, self.held_out), "test": unseen}


def held_out(split: Split, rows: int) -> dict[str, Split]:
    """The last rows for validation, those before them for training."""
    order = torch.arange(split.size)
    return {"train": split._replace(rows=order[:-rows]), "val": split._replace(rows=order[-rows:])}
