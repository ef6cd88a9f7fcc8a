"""Pictures of one's own, in a folder."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Literal

import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from lightning_avb.errors import ConfigurationError, at_least

from .decoded import decoded
from .tensors import Binarize, Split, TensorDataModule, cut

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
PARTS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""Folders that are splits."""
UNLABELLED = {"unlabelled", "unlabeled"}
"""Folders, beside those of the labels, of pictures whose label is not known."""


class ImageFolder(TensorDataModule):
    """Pictures of any height and width, grey or colour: one folder of them, or a folder a label.

    Pictures are found in all folders below `root`. The label is the name of the uppermost folder, labels are numbered
    in the order of their names; in a single folder, pictures have no label. Beside at least two folders of labels one
    that is called `unlabelled` has pictures whose label is not known. Names that begin with a dot and files with
    other endings than those of pictures are left out.

    Pictures of one size keep it. If `size` is given, each is scaled to cover it and what hangs over is cut off evenly.
    They are turned as their EXIF data says, transparent ones are laid on white, 16 bits become 8. They are decoded
    once, see `decoded.py`.

    Splits: `root/train`, `root/val` (or `valid`, `validation`) and `root/test` where there is a `train`. A split that
    has no folder is cut off the training pictures, or off all of them, at random, the same ones every time.

    Args:
        root: the folder.
        size: a number for a square, or height and width; None: the size that all pictures have.
        channels: 1 for grey, 3 for colour; None: grey if all are stored so, else colour.
        val_share, test_share: shares of the pictures for validation and test, where they have no folder.
        split_seed: another seed, other splits.
        cache: folder for the decoded pictures; None: `root/.lightning_avb`.
        resident, batch_size, eval_batch_size, binarize, labels, labelled_per_batch: see `TensorDataModule`.

    Raises:
        ConfigurationError: no pictures, some that cannot be read, different sizes without `size`, pictures both beside
            and in folders, a cache that cannot be written.
    """

    white = 255.0

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
        super().__init__(batch_size, eval_batch_size, binarize, resident, labels, labelled_per_batch)
        if channels not in (None, 1, 3):
            raise ConfigurationError(f"data.channels: {channels} is neither 1 (grey) nor 3 (colour)")
        self.root, self.channels, self.cache = Path(root), channels, Path(cache or Path(root, ".lightning_avb"))
        self.size = None if size is None else height_and_width(size)
        self.val_share, self.test_share, self.split_seed = val_share, test_share, split_seed

    def prepare_data(self) -> None:
        """Decodes the pictures; Lightning calls this on one process only."""
        files, left_out = self._files()
        if left_out:
            rank_zero_info(f"data: left out in {str(self.root)!r}, being no pictures: {left_out}")
        self._decoded(files)

    def load(self) -> dict[str, Split]:
        return self._decoded(self._files()[0])

    def _decoded(self, files: list[str]) -> dict[str, Split]:
        parts, names = self._sorted_out(files)
        x = decoded(self.root, files, self.cache, self.size, self.channels)
        y = None
        if names is not None:
            self.label_names = sorted(set(names) - UNLABELLED)
            self.classes = len(self.label_names)
            numbers = {name: number for number, name in enumerate(self.label_names)}
            y = torch.tensor([numbers.get(name, -1) for name in names])
        return {stage: Split(x, y, rows) for stage, rows in parts.items()}

    def _files(self) -> tuple[list[str], str]:
        """Paths of the pictures below `root`, in the order of their names, and what other files there are."""
        if not self.root.is_dir():
            raise ConfigurationError(f"data.root: there is no folder {str(self.root)!r}")
        found, others = [], Counter[str]()
        for folder, folders, names in os.walk(self.root, followlinks=True):
            folders[:] = [name for name in folders if not name.startswith(".")]
            below = Path(folder).relative_to(self.root).as_posix()
            for name in names:
                ending = os.path.splitext(name)[1].lower()
                if ending in ENDINGS and not name.startswith("."):
                    found.append(name if below == "." else f"{below}/{name}")
                elif not name.startswith("."):
                    others[ending or "no ending"] += 1
        left_out = ", ".join(f"{count} with {ending}" for ending, count in others.most_common(5))
        if not found:
            but = f", only files: {left_out}" if others else ""
            raise ConfigurationError(f"data.root: no pictures in {str(self.root)!r}{but}")
        return sorted(found), left_out

    def _sorted_out(self, files: list[str]) -> tuple[dict[str, Tensor], list[str] | None]:
        """Which pictures make up each split, and the name of every picture's label if there are labels."""
        paths = [file.split("/") for file in files]
        tops = {path[0] for path in paths if len(path) > 1}
        stages = tops & PARTS.keys()
        parts = {"train": torch.arange(len(files))}
        if "train" in tops and (len(stages) > 1 or len(tops) == 1):
            stray = next((file for file, path in zip(files, paths, strict=True) if path[0] not in stages), None)
            if stray is not None:
                raise ConfigurationError(
                    f"data.root: {str(self.root)!r} has folders {', '.join(sorted(stages))}, so every picture must be "
                    f"in one of them, and {stray!r} is not"
                )
            stage_of = [PARTS[path[0]] for path in paths]
            parts = {
                stage: torch.tensor([row for row, its in enumerate(stage_of) if its == stage])
                for stage in dict.fromkeys(stage_of)
            }
            paths = [path[1:] for path in paths]
        names = self._labels(files, paths)
        shares = {"test": self.test_share, "val": self.val_share}
        missing = {stage: share for stage, share in shares.items() if stage not in parts}
        if missing:
            parts |= cut(parts["train"], self.split_seed, **missing)
        return parts, names

    def _labels(self, files: list[str], paths: list[list[str]]) -> list[str] | None:
        beside = [file for file, path in zip(files, paths, strict=True) if len(path) == 1]
        within = [file for file, path in zip(files, paths, strict=True) if len(path) > 1]
        if beside and within:
            raise ConfigurationError(
                f"data.root: {str(self.root)!r} has pictures beside its folders ({beside[0]!r}) and in them "
                f"({within[0]!r}); put them all into folders, one a label, or all into one folder"
            )
        names = [path[0] for path in paths]
        return names if within and len(set(names) - UNLABELLED) > 1 else None


def height_and_width(size: int | tuple[int, int]) -> tuple[int, int]:
    """Both, from one number or two.

    Raises:
        ConfigurationError: they are not positive whole numbers.
    """
    both = (size, size) if isinstance(size, int) else tuple(size)
    if len(both) != 2 or not all(isinstance(side, int) for side in both):
        raise ConfigurationError(f"data.size: {size} is neither a number nor height and width, such as 64 or [48, 40]")
    return (at_least(1, **{"data.size": both[0]}), at_least(1, **{"data.size": both[1]}))
