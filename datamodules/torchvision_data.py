"""Base class of data sets that torchvision reads and downloads, and a reader of `.npz` files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from lightning_avb.errors import ConfigurationError

from .tensors import Binarize, TensorDataModule


class TorchvisionDataModule(TensorDataModule):
    """Base class of data sets that torchvision has.

    Args:
        root: folder of the files; the files are downloaded where they are missing.
        batch_size, eval_batch_size, binarize, labels, labelled_per_batch: see `TensorDataModule`.

    Attributes:
        source: torchvision's class.
        source_options: its arguments for the training set and for the test set.
        folder: where it keeps its files, below `root`.

    Raises:
        ConfigurationError: the files are not there and cannot be downloaded.
    """

    max_value = 255.0
    source: Any
    source_options: ClassVar[tuple[dict[str, Any], ...]] = ({"train": True}, {"train": False})
    folder: str = ""

    def __init__(
        self,
        root: str = "data",
        batch_size: int = 100,
        eval_batch_size: int = 500,
        binarize: Binarize = "none",
        labels: int | None = None,
        labelled_per_batch: int = 0,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            binarize=binarize,
            labels=labels,
            labelled_per_batch=labelled_per_batch,
        )
        self.root = root

    def prepare_data(self) -> None:
        """Downloads the files where they are missing; Lightning calls this on one process only."""
        for options in self.source_options:
            self._open(**options, download=True)

    def _open(self, **options: Any) -> Any:
        try:
            return self.source(self.root, **options)
        except (RuntimeError, OSError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ConfigurationError(
                f"data.root: no {type(self).__name__} files in {str(Path(self.root, self.folder))!r}: {reason}"
            ) from error


def read_npz(root: str, file: str, names: Sequence[str]) -> list[Tensor]:
    """The arrays of these names in `root/file`.

    Raises:
        ConfigurationError: there is no such file, or the arrays are not in it.
    """
    path = Path(root, file)
    if not path.is_file():
        raise ConfigurationError(
            f"data.root: there is no file {str(path)!r}; it must hold the arrays {', '.join(names)}"
        )
    with np.load(path) as arrays:
        missing = [name for name in names if name not in arrays]
        if missing:
            raise ConfigurationError(f"data.root: {str(path)!r} holds no array {missing[0]!r}")
        return [torch.from_numpy(arrays[name]) for name in names]
