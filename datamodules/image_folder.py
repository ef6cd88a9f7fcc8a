"""The user's own pictures, in a folder."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Literal

import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from lightning_avb.errors import ConfigurationError, at_least

from .image_cache import cached_images
from .splits import Split, random_splits
from .tensors import Binarize, TensorDataModule

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""Name of a folder -> the split that it holds."""
UNLABELLED = {"unlabelled", "unlabeled"}
"""Names of a folder, beside those of the labels, of pictures whose label is not known."""


class ImageFolder(TensorDataModule):
    """Pictures of any height and width, grey or colour: all in one folder, or one folder per label.

    Pictures are found in all folders below `root`. The label is the name of the topmost folder, and labels are numbered
    in the order of their names; pictures in a single folder have no label. Beside at least two folders of labels there
    may be one that is called `unlabelled`, with pictures whose label is not known. Files without the extension of a
    picture, and names that begin with a dot, are left out.

    Pictures of one size keep it. If `size` is given, each is scaled to cover it, and what is too much is cut off evenly
    on both sides. They are turned upright as their EXIF data says, transparent ones are laid on white, and 16 bits
    become 8. They are decoded once, see `image_cache.py`.

    Splits: `root/train`, `root/val` (or `valid`, `validation`) and `root/test` where there is a `train`. A split
    without a folder is taken at random from the training pictures, or from all of them, the same ones every time.

    Args:
        root: the folder.
        size: a number for a square, or height and width; None: the size that all pictures have.
        channels: 1 for grey, 3 for colour; None: grey if all are stored so, else colour.
        val_share, test_share: shares of the pictures for validation and test, where they have no folder.
        split_seed: seed of the random splits.
        cache: folder for the decoded pictures; None: `root/.lightning_avb`.
        resident, batch_size, eval_batch_size, binarize, labels, labelled_per_batch: see `TensorDataModule`.

    Raises:
        ConfigurationError: no pictures; some that cannot be read; different sizes without `size`; pictures both beside
            folders and in them; a cache that cannot be written.
    """

    max_value = 255.0

    def __init__(
        self,
        root: str,
        size: int | tuple[int, int] | None = None,
        channels: Literal[1, 3] | None = None,
        val_share: float = 0.1,
        test_share: float = 0.1,
        split_seed: int = 0,
        cache: str | None = None,
        resident: bool | None = None,
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
            resident=resident,
            labels=labels,
            labelled_per_batch=labelled_per_batch,
        )
        if channels not in (None, 1, 3):
            raise ConfigurationError(f"data.channels: {channels} is neither 1 (grey) nor 3 (colour)")
        self.root, self.channels, self.cache = Path(root), channels, Path(cache or Path(root, ".lightning_avb"))
        self.size = None if size is None else height_and_width(size)
        self.val_share, self.test_share, self.split_seed = val_share, test_share, split_seed

    def prepare_data(self) -> None:
        """Decodes the pictures; Lightning calls this on one process only."""
        files, left_out = self._files()
        if left_out:
            rank_zero_info(f"data: files in {str(self.root)!r} that are no pictures were left out: {left_out}")
        self._splits_of(files)

    def load(self) -> dict[str, Split]:
        return self._splits_of(self._files()[0])

    def _splits_of(self, files: list[str]) -> dict[str, Split]:
        rows, names = self._assigned(files)
        x = cached_images(self.root, files, self.cache, self.size, self.channels)
        y = None
        if names is not None:
            self.label_names = sorted(set(names) - UNLABELLED)
            self.classes = len(self.label_names)
            numbers = {name: number for number, name in enumerate(self.label_names)}
            y = torch.tensor([numbers.get(name, -1) for name in names])
        return {stage: Split(x, y, own) for stage, own in rows.items()}

    def _files(self) -> tuple[list[str], str]:
        """The paths of the pictures below `root`, in the order of their names, and a list of the other files."""
        if not self.root.is_dir():
            raise ConfigurationError(f"data.root: there is no folder {str(self.root)!r}")
        found, others = [], Counter[str]()
        for folder, folders, names in os.walk(self.root, followlinks=True):
            folders[:] = [name for name in folders if not name.startswith(".")]
            below = Path(folder).relative_to(self.root).as_posix()
            for name in names:
                extension = os.path.splitext(name)[1].lower()
                if extension in EXTENSIONS and not name.startswith("."):
                    found.append(name if below == "." else f"{below}/{name}")
                elif not name.startswith("."):
                    others[extension or "no extension"] += 1
        left_out = ", ".join(f"{count} with {extension}" for extension, count in others.most_common(5))
        if not found:
            only = f", only files: {left_out}" if others else ""
            raise ConfigurationError(f"data.root: no pictures in {str(self.root)!r}{only}")
        return sorted(found), left_out

    def _assigned(self, files: list[str]) -> tuple[dict[str, Tensor], list[str] | None]:
        """The pictures of each split, and the name of every picture's label if there are labels."""
        paths = [file.split("/") for file in files]
        top_folders = {path[0] for path in paths if len(path) > 1}
        stages = top_folders & SPLIT_FOLDERS.keys()
        rows = {"train": torch.arange(len(files))}
        if "train" in top_folders and (len(stages) > 1 or len(top_folders) == 1):
            stray = next((file for file, path in zip(files, paths, strict=True) if path[0] not in stages), None)
            if stray is not None:
                raise ConfigurationError(
                    f"data.root: {str(self.root)!r} has folders {', '.join(sorted(stages))}, so every picture must be "
                    f"in one of them, and {stray!r} is not"
                )
            stage_of = [SPLIT_FOLDERS[path[0]] for path in paths]
            rows = {
                stage: torch.tensor([row for row, own in enumerate(stage_of) if own == stage])
                for stage in dict.fromkeys(stage_of)
            }
            paths = [path[1:] for path in paths]
        names = self._labels(files, paths)
        shares = {"test": self.test_share, "val": self.val_share}
        missing = {stage: share for stage, share in shares.items() if stage not in rows}
        if missing:
            rows |= random_splits(rows["train"], self.split_seed, **missing)
        return rows, names

    def _labels(self, files: list[str], paths: list[list[str]]) -> list[str] | None:
        beside = [file for file, path in zip(files, paths, strict=True) if len(path) == 1]
        within = [file for file, path in zip(files, paths, strict=True) if len(path) > 1]
        if beside and within:
            raise ConfigurationError(
                f"data.root: {str(self.root)!r} has pictures beside its folders ({beside[0]!r}) and in them "
                f"({within[0]!r}); put them all into folders, one per label, or all into one folder"
            )
        names = [path[0] for path in paths]
        return names if within and len(set(names) - UNLABELLED) > 1 else None


def height_and_width(size: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width, from one number or two.

    Raises:
        ConfigurationError: they are not positive whole numbers.
    """
    both = (size, size) if isinstance(size, int) else tuple(size)
    if len(both) != 2 or not all(isinstance(side, int) for side in both):
        raise ConfigurationError(f"data.size: {size} is neither a number nor height and width, such as 64 or [48, 40]")
    return (at_least(1, **{"data.size": both[0]}), at_least(1, **{"data.size": both[1]}))
