"""Faces: two small grey sets, each in one file, and CelebA through torchvision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torchvision

from lightning_avb.errors import ConfigurationError, at_least, did_you_mean

from .image_cache import cached_images
from .image_folder import height_and_width
from .splits import Split
from .tensors import Binarize, TensorDataModule
from .torchvision_data import TorchvisionDataModule, read_npz


class FreyFaces(TensorDataModule):
    """1,965 grey pictures of one face, 28x20, consecutive frames of a film (Roweis), values 0..255 scaled to [0, 1].

    Splits: neighbouring frames are nearly the same picture, so a random split would test on what was trained on. The
    film is divided into 39 pieces of 50 frames (the last has 65). A fixed permutation of the pieces (torch's, seed 0)
    gives 31 to training, 4 to validation and 4 to test: 1,565, 200 and 200 frames, all from the whole film.

    Args:
        root: folder that holds `frey_faces/freyfaces_1965x28x20.npz` with the array `x`.
        batch_size, eval_batch_size, binarize: see `TensorDataModule`.

    Raises:
        ConfigurationError: the file is not there.
    """

    data_shape = (1, 28, 20)
    max_value = 255.0

    def __init__(
        self, root: str = "data", batch_size: int = 100, eval_batch_size: int = 500, binarize: Binarize = "none"
    ) -> None:
        super().__init__(batch_size, eval_batch_size=eval_batch_size, binarize=binarize)
        self.root = root

    def load(self) -> dict[str, Split]:
        (x,) = read_npz(self.root, "frey_faces/freyfaces_1965x28x20.npz", ("x",))
        piece = (torch.arange(len(x)) // 50).clamp(max=38)
        test, val, train = torch.randperm(39, generator=torch.Generator().manual_seed(0)).split([4, 4, 31])
        pieces = {"train": train, "val": val, "test": test}
        return {
            stage: Split(x.unsqueeze(1), rows=torch.isin(piece, own).nonzero()[:, 0]) for stage, own in pieces.items()
        }


class Olivetti(TensorDataModule):
    """400 grey pictures of 40 people, 64x64, values 0..255 scaled to [0, 1] (AT&T Laboratories Cambridge).

    Splits: of the ten pictures of each person the first eight, the ninth for validation, the tenth for test. The label
    is the person.

    Args:
        root: folder that holds `olivetti/olivetti_400x64x64.npz` with the arrays `x` and `subject`.
        batch_size, eval_batch_size, binarize, labels, labelled_per_batch: see `TensorDataModule`.

    Raises:
        ConfigurationError: the file is not there.
    """

    data_shape = (1, 64, 64)
    classes = 40
    max_value = 255.0

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

    def load(self) -> dict[str, Split]:
        x, y = read_npz(self.root, "olivetti/olivetti_400x64x64.npz", ("x", "subject"))
        order = y.argsort(stable=True).view(40, 10)
        rows = {"train": order[:, :8], "val": order[:, 8], "test": order[:, 9]}
        return {stage: Split(x.unsqueeze(1), y.long(), own.flatten()) for stage, own in rows.items()}


class CelebA(TorchvisionDataModule):
    """202,599 colour pictures of faces (Liu et al. 2015), a square from the middle scaled to 64x64, in [0, 1].

    The AVB paper's own code cuts out 128x128 of the 178x218 pixels; 148 and 108 are other usual values. The pictures
    are decoded once, see `image_cache.py`; at 64x64 that takes 2.5 GB.

    Splits: the published ones, 162,770, 19,867 and 19,962.

    Args:
        root: folder that holds `celeba/` with `img_align_celeba/`, `list_eval_partition.txt` and, for an attribute,
            `list_attr_celeba.txt`; they are downloaded where they are missing, which needs `gdown`.
        size: a number for a square, or height and width.
        crop: side of the square, in pixels of the original.
        attribute: one of the 40, such as `Smiling`, as label 0 or 1; None: no labels.
        cache: folder for the decoded pictures; None: `root/celeba/.lightning_avb`.
        resident, batch_size, eval_batch_size, binarize, labels, labelled_per_batch: see `TensorDataModule`.

    Raises:
        ConfigurationError: the files are not there and cannot be downloaded, or there is no such attribute.
    """

    source: Any = torchvision.datasets.CelebA
    folder = "celeba"

    def __init__(
        self,
        root: str = "data",
        size: int | tuple[int, int] = 64,
        crop: int = 128,
        attribute: str | None = None,
        cache: str | None = None,
        resident: bool | None = None,
        batch_size: int = 100,
        eval_batch_size: int = 500,
        binarize: Binarize = "none",
        labels: int | None = None,
        labelled_per_batch: int = 0,
    ) -> None:
        super().__init__(
            root=root,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            binarize=binarize,
            labels=labels,
            labelled_per_batch=labelled_per_batch,
        )
        self.resident = resident
        self.size, self.crop = height_and_width(size), at_least(1, **{"data.crop": crop})
        self.data_shape = (3, *self.size)
        self.attribute = attribute
        self.classes = None if attribute is None else 2
        self.files = Path(root, self.folder)
        self.cache = Path(cache or self.files / ".lightning_avb")

    def prepare_data(self) -> None:
        """Downloads missing files and decodes the pictures; Lightning calls this on one process only."""
        if not (self.files / "img_align_celeba").is_dir() or not (self.files / "list_eval_partition.txt").is_file():
            self._open(download=True)
        self.load()

    def load(self) -> dict[str, Split]:
        lines = [line.split() for line in self._lines_of("list_eval_partition.txt")]
        partition = torch.tensor([int(number) for _, number in lines])
        names = [f"img_align_celeba/{name}" for name, _ in lines]
        x = cached_images(self.files, names, self.cache, self.size, 3, self.crop)
        y = None if self.attribute is None else self._attribute_labels(self.attribute)
        return {
            stage: Split(x, y, (partition == n).nonzero()[:, 0]) for n, stage in enumerate(("train", "val", "test"))
        }

    def _attribute_labels(self, attribute: str) -> torch.Tensor:
        _, names, *lines = self._lines_of("list_attr_celeba.txt")
        if attribute not in names.split():
            near = did_you_mean(attribute, names.split())
            raise ConfigurationError(
                f"data.attribute: there is no {attribute!r}; there are {', '.join(names.split())}{near}"
            )
        column = 1 + names.split().index(attribute)
        return torch.tensor([int(line.split()[column] == "1") for line in lines])

    def _lines_of(self, name: str) -> list[str]:
        path = self.files / name
        if not path.is_file():
            raise ConfigurationError(f"data.root: there is no file {str(path)!r}")
        return path.read_text().splitlines()
