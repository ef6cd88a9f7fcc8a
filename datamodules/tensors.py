"""Data sets as one tensor per split, on the device in its stored dtype, or read batch by batch where it does not fit.

A new data set is a subclass with a `load`. Batches are taken, scaled and binarised on the device; there are no loader
workers.

* The order of an epoch is a function of (seed, epoch). Which labels are kept is a function of the seed. The labelled
  rows of a batch are a function of (seed, number of the batch in the run). A run that is resumed in the middle of an
  epoch continues where it was.
* With several processes, the batch of rank r is the r-th part of the batch that one process would have.
* Dynamic binarisation draws anew in every epoch: a function of (seed, epoch, batch, rank) in training and of
  (seed, stage, row) in validation and test. Static binarisation is a function of the row alone.
* No bit of a batch depends on where the tensor is kept.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from lightning_avb import noise
from lightning_avb.batch import Batch, Shape
from lightning_avb.errors import ConfigurationError, at_least
from lightning_avb.hyperparameters import Hyperparameters

from .labels import check_labels, keep_labels
from .loaders import EvalLoader, TrainLoader, prefetch_map, rank_and_world_size
from .names import SHOWN, counted
from .splits import Split

Binarize = Literal["none", "dynamic", "static"]

CHUNK = 1000
"""Rows that are read at a time where a whole split is read."""


class TensorDataModule(Hyperparameters, pl.LightningDataModule, abc.ABC):
    """Base class of data sets.

    Args:
        batch_size: rows of a training batch, on each process; where there are fewer, all of them, which is printed.
        eval_batch_size: rows of a batch in validation and test. No figure depends on it.
        binarize: `none`: x as it is; `dynamic`: x is the probability of a one, drawn anew each time; `static`: drawn
            once.
        resident: True: the data is kept in the memory of the device; False: it stays where `load` put it, in main
            memory or in a file, and every batch is moved; None: resident if it needs at most half of the free memory.
        labels: how many training rows keep their label, as evenly over the classes as can be; the others get y = -1.
            The seed draws them, and a larger number includes the rows of a smaller one. None: all. Validation and test
            keep theirs.
        labelled_per_batch: 0: one stream of all training rows, with the labels that are known. L: two streams. Every
            training batch then has L + batch_size rows on each process. The first L are labelled rows, from an endless
            sequence of permutations of them. The others are training rows of any kind, in the same order as with 0,
            each with y = -1.

    Attributes:
        data_shape: shape of a row of x; known after `setup` where the class does not say it.
        classes: the number of labels, which are 0..classes - 1; None: there are no labels.
        label_names: what the labels stand for, where that is known.
        without_label: which rows have no label, for messages; empty if all have one, or the data has none.
        columns: the names of the columns of a table.
        max_value: the stored value that stands for 1.

    Raises:
        ConfigurationError: the training split has fewer rows than there are processes, or fewer labels than are asked
            for; a label is none of -1..classes - 1.
    """

    data_shape: Shape | None = None
    classes: int | None = None
    label_names: list[str] | None = None
    without_label: str = ""
    columns: list[str] | None = None
    max_value: float = 1.0

    def __init__(
        self,
        batch_size: int,
        *,
        eval_batch_size: int = 500,
        binarize: Binarize = "none",
        resident: bool | None = None,
        labels: int | None = None,
        labelled_per_batch: int = 0,
    ) -> None:
        super().__init__()
        for name, value in (("batch_size", batch_size), ("eval_batch_size", eval_batch_size)):
            at_least(1, **{f"data.{name}": value})
        for name, value in (("labels", labels or 0), ("labelled_per_batch", labelled_per_batch)):
            at_least(0, **{f"data.{name}": value})
        if binarize not in ("none", "dynamic", "static"):
            raise ConfigurationError(f"data.binarize: {binarize!r} is none of 'none', 'dynamic', 'static'")
        self.save_arguments("data.")
        self.batch_size, self.eval_batch_size, self.binarize = batch_size, eval_batch_size, binarize
        self.resident, self.labels, self.labelled_per_batch = resident, labels, labelled_per_batch
        self._splits: dict[str, Split] | None = None
        self._device_of_splits: torch.device | None = None
        self.checkpoint_state: dict[str, Any] = {}

    # What a data set defines.

    @abc.abstractmethod
    def load(self) -> dict[str, Split]:
        """The splits `train`, `val` and `test`."""

    @property
    def log_jacobian(self) -> float:
        """What to add to log p(x) of a row to have it in nats of the original units."""
        return 0.0

    def restore(self, x: Tensor) -> Tensor:
        """Rows as a model gives them, `(..., *data_shape)`, in the original units."""
        return x

    def to_rows(self, x: Tensor) -> Any:
        """Rows of x `(rows, *data_shape)` as a user has them: an array in the original units."""
        return self.restore(x).cpu().numpy()

    def from_rows(self, rows: Any) -> Tensor:
        """x `(rows, *data_shape)` of an array or tensor in the original units; pictures of uint8 are 0 to 255."""
        stored = torch.as_tensor(rows)
        x = stored.to(torch.get_default_dtype())
        return x / 255 if stored.dtype == torch.uint8 and stored.max() > 1 else x

    def place(self, stage: str, row: int) -> str:
        """Where a row of the data set comes from, for messages."""
        return f"row {row} ({stage})"

    # Loading.

    def setup(self, stage: str) -> None:
        """Loads the data, and checks that there is enough of it before anything else happens."""
        self.split("train")
        if stage == "fit" and (size := TrainLoader(self).batch_size) < self.batch_size:
            rows = self.rows("train")
            rank_zero_info(
                f"data.batch_size: {size:,} in place of {self.batch_size:,}, of {counted(rows, 'training row')}"
            )

    @property
    def device(self) -> torch.device:
        """Where the batches are needed."""
        return self.trainer.strategy.root_device if self.trainer else torch.device("cpu")

    def split(self, stage: str) -> Split:
        """A split as batches are taken from it."""
        if self._splits is None or self._device_of_splits != self.device:
            splits, self._device_of_splits = self.load(), self.device
            self._check_checkpoint()
            self.data_shape = tuple(splits["train"].x.shape[1:])
            self.without_label = self._without_label(splits)
            self._is_resident = self._fits_in_memory(splits)
            self._splits = {name: self._placed(name, split) for name, split in splits.items()}
        return self._splits[stage]

    def _without_label(self, splits: dict[str, Split]) -> str:
        first, count = [], 0
        for stage, split in splits.items():
            if split.y is not None:
                rows = torch.arange(split.size) if split.rows is None else split.rows
                found = rows[split.y[rows] < 0]  # of a semi-supervised set nearly all
                first += [(stage, row) for row in found.sort().values[:SHOWN].tolist()]
                count += len(found)
        some = [self.place(*row) for row in sorted(first, key=lambda row: row[1])[:SHOWN]]
        more = ", ..." if count > SHOWN else ""
        have = "has" if count == 1 else "have"
        return f"{counted(count, 'row')} {have} no label ({', '.join(some)}{more})" if count else ""

    def rows(self, stage: str) -> int:
        """The number of rows of the split `train`, `val` or `test`."""
        return self.split(stage).size

    @property
    def labelled_rows(self) -> int:
        """The number of training rows whose label the model sees."""
        y = self.split("train").y
        return 0 if y is None else int((y >= 0).sum())

    def _fits_in_memory(self, splits: dict[str, Split]) -> bool:
        """Whether the data is to be resident; prints where it is kept."""
        one = splits["train"].x[:0]
        rows = sum(split.size for split in splits.values())
        needed, free = rows * math.prod(one.shape[1:]) * one.element_size(), free_memory(self.device)
        if self.device.type == "cpu":
            free /= rank_and_world_size(self.trainer)[1]
        resident = needed <= free / 2 if self.resident is None else self.resident
        where = f"kept on {self.device}" if resident else f"read batch by batch, used on {self.device}"
        memory = (
            f"{needed / 1e6:,.1f} MB, {free / 1e6:,.0f} MB free" if math.isfinite(free) else f"{needed / 1e6:,.1f} MB"
        )
        rank_zero_info(f"data: {counted(rows, 'row')} of shape {tuple(one.shape[1:])}, {where} ({memory})")
        return resident

    def _placed(self, stage: str, split: Split) -> Split:
        """The split, on the device if it is resident; the labels always are."""
        y = self._visible_labels(stage, split)
        y = y.to(self.device) if y is not None else None
        if not self._is_resident:
            return split._replace(y=y)
        dtype = torch.uint8 if self.binarize == "static" else split.x.dtype
        x = torch.empty((split.size, *split.x.shape[1:]), dtype=dtype, device=self.device)
        rows = torch.arange(split.size) if split.rows is None else split.rows
        # In the order of the file, whatever the order of the rows.
        for index in rows.argsort().split(CHUNK):
            part = split.x.index_select(0, rows[index])
            if self.binarize == "static":
                part = self._static_bits(stage, index, part)
            x[index.to(x.device)] = part.to(x.device)
        return Split(x, y)

    def _visible_labels(self, stage: str, split: Split) -> Tensor | None:
        """The labels of a split's rows; of training rows those that are kept."""
        y = split.y if split.y is None or split.rows is None else split.y[split.rows]
        if y is not None and self.classes:
            check_labels(y, self.classes, stage, split.rows)
        if stage != "train":
            return y
        if self.labels is not None:
            y = keep_labels(y, self.labels, self.classes, self.label_names)
        if y is not None and (known := int((y >= 0).sum())) < len(y):
            rank_zero_info(f"data: {known:,} of {len(y):,} training rows have a label")
        return y

    def _static_bits(self, stage: str, index: Tensor, x: Tensor) -> Tensor:
        """The bits of static binarisation, for stored rows."""
        uniform = noise.row_uniform(("static", stage), index, math.prod(x.shape[1:])).view(x.shape)
        return (uniform < x / self.max_value).to(torch.uint8)

    # Batches.

    def read(self, stage: str, indices: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """For each index `(batch,)` into a split: the index and the stored rows, both on the device.

        Rows that are not resident are read in advance by a thread.
        """
        split, device = self.split(stage), self.device
        if self._is_resident:
            yield from ((index, split.x.index_select(0, index)) for index in indices)
            return

        def fetch(index: Tensor) -> tuple[Tensor, Tensor]:
            x = split.x.index_select(0, index if split.rows is None else split.rows[index])
            return (index.pin_memory(), x.pin_memory()) if device.type == "cuda" else (index, x)

        with ThreadPoolExecutor(1) as pool:
            for index, x in prefetch_map(pool, fetch, indices, 2):
                yield index.to(device, non_blocking=True), x.to(device, non_blocking=True)

    def batch(self, stage: str, index: Tensor, x: Tensor, uniform: Tensor | None = None) -> Batch:
        """Stored rows as a model takes them; `uniform`, of the shape of x, binarises them and is overwritten."""
        y = self.split(stage).y
        if self.binarize == "static" and not self._is_resident:
            x = self._static_bits(stage, index, x)
        x = x.to(torch.get_default_dtype())
        if self.binarize != "static" and self.max_value != 1:
            x = x / self.max_value
        if uniform is not None:
            x = uniform.lt_(x).to(x.dtype)
        return Batch(x, y[index] if y is not None else None, index)

    def train_dataloader(self) -> TrainLoader:
        return TrainLoader(self)

    def val_dataloader(self) -> EvalLoader:
        return EvalLoader(self, "val")

    def test_dataloader(self) -> EvalLoader:
        return EvalLoader(self, "test")

    def predict_dataloader(self) -> EvalLoader:
        return EvalLoader(self, "test")

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """The batch: it is there already."""
        return batch

    # Checkpoints.

    def state_dict(self) -> dict[str, Any]:
        """The names that commands need which work from a checkpoint without the data."""
        return {name: getattr(self, name) for name in ("columns", "label_names") if getattr(self, name) is not None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.checkpoint_state = state
        if self._splits is not None:
            self._check_checkpoint()
        self.columns, self.label_names = (state.get(name, getattr(self, name)) for name in ("columns", "label_names"))

    def _check_checkpoint(self) -> None:
        """Raises ConfigurationError where labels or columns are not those of the checkpoint."""
        for name in ("columns", "label_names"):
            theirs, ours = self.checkpoint_state.get(name), getattr(self, name)
            if theirs is not None and theirs != ours:
                what = name.replace("_", " ")
                raise ConfigurationError(f"data: the {what} are {ours}, those of the checkpoint {theirs}")


def free_memory(device: torch.device) -> float:
    """Bytes that are free on a device; infinity where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo, limit = Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max")
    if not meminfo.exists():
        return math.inf
    available = next(int(line.split()[1]) << 10 for line in meminfo.read_text().splitlines() if "MemAvailable" in line)
    ours = limit.read_text().strip() if limit.exists() else "max"
    return min(available, math.inf if ours == "max" else int(ours))
