"""Data as one tensor a split, kept on the device in its stored dtype, or read batch by batch where it does not fit.

A new data set is a subclass with a `load`. Batches are cut, scaled and binarised on the device; there are no loader
workers.

* The order of an epoch is a function of (seed, epoch). A run resumed in the middle of an epoch goes on where it was.
* With several processes, the batch of rank r is the r-th part of the batch that one process would see.
* Dynamic binarisation draws anew in every epoch, a function of (seed, epoch, batch, rank) in training and of
  (seed, stage, row) in validation and test; static binarisation is a function of the row alone.
* Where the tensor is kept changes no bit of a batch.
* A semi-supervised model gets two streams in a batch: first labelled rows, then rows of all the data without labels.
  The labelled rows are a function of the seed, their order of (seed, epoch).
"""

from __future__ import annotations

import abc
import inspect
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from lightning_avb import noise
from lightning_avb.batch import Batch, Shape
from lightning_avb.errors import ConfigurationError, at_least
from lightning_avb.recipes import class_path

Binarize = Literal["none", "dynamic", "static"]
Item = TypeVar("Item")
Result = TypeVar("Result")

CHUNK = 1000
"""Rows that are worked on at a time where a whole split passes by."""


class Split(NamedTuple):
    """A split of a data set.

    Attributes:
        x: `(rows, *data_shape)`, any dtype; may be mapped from a file.
        y: `(rows,)` int64 labels, or None.
        rows: int64, which rows of x and y make up the split, in order; None: all of them.
    """

    x: Tensor
    y: Tensor | None = None
    rows: Tensor | None = None

    @property
    def size(self) -> int:
        """The number of rows of the split."""
        return len(self.x if self.rows is None else self.rows)

    def labels(self) -> Tensor | None:
        """`(size,)`, the labels of its rows."""
        return self.y if self.y is None or self.rows is None else self.y[self.rows]


class TensorDataModule(pl.LightningDataModule, abc.ABC):
    """Base class.

    Args:
        batch_size: rows of a training batch, on each process.
        eval_batch_size: rows of a batch in validation and test. No figure depends on it.
        binarize: `none`: x as it is; `dynamic`: x is the probability of a one, drawn anew each time; `static`: drawn
            once and for all.
        resident: True: the data lies in the memory of the device; False: it stays where `load` put it, in main memory
            or in a file, and every batch is moved; None: resident if it takes at most half of the memory that is free.

    Attributes:
        data_shape: shape of a row of x; known after `setup` where the class does not say it.
        classes: the number of labels, 0..classes - 1; None: there are no labels.
        label_names: what the labels stand for, where that is known.
        columns: the names of the columns of a table.
        white: the stored value that stands for 1.

    Raises:
        ConfigurationError: the training split has fewer rows than one batch over all processes, or not the labels that
            are asked for.
    """

    data_shape: Shape | None = None
    classes: int | None = None
    label_names: list[str] | None = None
    columns: list[str] | None = None
    white: float = 1.0

    def __init__(
        self,
        batch_size: int,
        eval_batch_size: int = 500,
        binarize: Binarize = "none",
        resident: bool | None = None,
        labels: int | None = None,
        labelled_per_batch: int = 0,
    ) -> None:
        super().__init__()
        for name, value in (("batch_size", batch_size), ("eval_batch_size", eval_batch_size)):
            at_least(1, **{f"data.{name}": value})
        at_least(0, **{"data.labelled_per_batch": labelled_per_batch})
        if binarize not in ("none", "dynamic", "static"):
            raise ConfigurationError(f"data.binarize: {binarize!r} is none of 'none', 'dynamic', 'static'")
        self.save_hyperparameters(logger=False)
        own = inspect.signature(type(self)).parameters
        for name, value in list(self.hparams.items()):
            if name not in own:  # an argument of a base class, which the class itself does not take
                del self.hparams[name]
            elif isinstance(value, os.PathLike):
                self.hparams[name] = os.fspath(value)
        self._set_hparams({"_class_path": class_path(type(self))})
        self.batch_size, self.eval_batch_size, self.binarize = batch_size, eval_batch_size, binarize
        self.resident, self.labels, self.labelled_per_batch = resident, labels, labelled_per_batch
        self._at: torch.device | None = None
        self._splits: dict[str, Split] | None = None
        self._restored: dict[str, Any] = {}

    # What a data set says.

    @abc.abstractmethod
    def load(self) -> dict[str, Split]:
        """The splits `train`, `val` and `test`."""

    @property
    def log_volume(self) -> float:
        """What to add to log p(x) of a row to have it in nats of the original units."""
        return 0.0

    def restore(self, x: Tensor) -> Tensor:
        """Rows as a model gives them, `(..., *data_shape)`, in the original units."""
        return x

    # Loading.

    def setup(self, stage: str) -> None:
        """Loads the data, and checks that there is enough of it before anything else happens."""
        self.split("train")
        if stage == "fit":
            TrainLoader(self)

    @property
    def device(self) -> torch.device:
        """Where the batches are needed."""
        return self.trainer.strategy.root_device if self.trainer else torch.device("cpu")

    def split(self, stage: str) -> Split:
        """A split as batches are cut from it."""
        if self._splits is None or self._at != self.device:
            splits, self._at = self.load(), self.device
            self._agree()
            self._check_labels(splits)
            splits["train"] = self._with_some_labels(splits["train"])
            self.data_shape = tuple(splits["train"].x.shape[1:])
            self._in_memory = self._fits(splits)
            self._splits = {name: self._moved(name, split) for name, split in splits.items()}
        return self._splits[stage]

    def _check_labels(self, splits: dict[str, Split]) -> None:
        for stage, split in splits.items():
            y = split.labels()
            if y is None or self.classes is None:
                continue
            wrong = ((y < -1) | (y >= self.classes)).nonzero()
            if len(wrong):
                row = int(wrong[0])
                expected = f"0..{self.classes - 1}, or -1 where it is not known"
                raise ConfigurationError(f"data: row {row} of {stage!r} has the label {y[row]}; expected {expected}")

    def _with_some_labels(self, split: Split) -> Split:
        """The training data with as many labels as there are to be."""
        y = split.labels()
        if y is None or self.classes is None:
            if self.labels is not None or self.labelled_per_batch:
                asked = "labels" if self.labels is not None else "labelled_per_batch"
                raise ConfigurationError(f"data.{asked}: the data has no labels")
            return split
        if self.labels is not None:
            kept = self._drawn_labels(y, self.labels)
            y = torch.full_like(y, -1).index_put((kept,), y[kept])
        known = int((y >= 0).sum())
        if self.labelled_per_batch and known == len(y):
            raise ConfigurationError(
                "data.labelled_per_batch: every row has a label, and one stream is enough; leave it at 0, or say in "
                "data.labels how many rows keep theirs"
            )
        if self.labelled_per_batch > known:
            raise ConfigurationError(
                f"data.labelled_per_batch: {self.labelled_per_batch}; only {known} rows have a label"
            )
        return split._replace(y=y if split.rows is None else split.y.index_put((split.rows,), y))  # type: ignore[union-attr]

    def _drawn_labels(self, y: Tensor, count: int) -> Tensor:
        """`(count,)` rows with a label, as many of one class as of another as far as that goes."""
        classes = self.classes or 0
        if count < classes:
            raise ConfigurationError(f"data.labels: {count} are fewer than the {classes} classes")
        generator = torch.Generator().manual_seed(noise.mixed_seed(noise.run_seed(), "labels"))
        order = torch.randperm(len(y), generator=generator)
        kept = []
        for place, label in enumerate(torch.randperm(classes, generator=generator).tolist()):
            share, rows = count // classes + (place < count % classes), order[y[order] == label]
            if len(rows) < share:
                raise ConfigurationError(
                    f"data.labels: {count} are {share} of class {label}, which has {len(rows)} rows with a label"
                )
            kept.append(rows[:share])
        return torch.cat(kept)

    def rows(self, stage: str) -> int:
        """The number of rows of the split `train`, `val` or `test`."""
        return self.split(stage).size

    def _fits(self, splits: dict[str, Split]) -> bool:
        """Whether the data is to be resident; says so."""
        one = splits["train"].x[:0]
        rows = sum(split.size for split in splits.values())
        needed, free = rows * math.prod(one.shape[1:]) * one.element_size(), free_memory(self.device)
        if self.device.type == "cpu":
            free /= _place(self.trainer)[1]
        resident = needed <= free / 2 if self.resident is None else self.resident
        where = f"kept on {self.device}" if resident else f"read batch by batch, used on {self.device}"
        memory = (
            f"{needed / 1e6:,.1f} MB, {free / 1e6:,.0f} MB free" if math.isfinite(free) else f"{needed / 1e6:,.1f} MB"
        )
        rank_zero_info(f"data: {rows:,} rows of shape {tuple(one.shape[1:])}, {where} ({memory})")
        return resident

    def _moved(self, stage: str, split: Split) -> Split:
        """The split where it is to lie."""
        y = split.labels()
        y = y.to(self.device) if y is not None else None
        if not self._in_memory:
            return split._replace(y=y)
        dtype = torch.uint8 if self.binarize == "static" else split.x.dtype
        x = torch.empty((split.size, *split.x.shape[1:]), dtype=dtype, device=self.device)
        rows = torch.arange(split.size) if split.rows is None else split.rows
        # A file is read from its beginning to its end, whatever the order of the rows.
        for index in rows.argsort().split(CHUNK):
            part = split.x.index_select(0, rows[index])
            if self.binarize == "static":
                part = self._drawn_once(stage, index, part)
            x[index.to(x.device)] = part.to(x.device)
        return Split(x, y)

    def _drawn_once(self, stage: str, index: Tensor, x: Tensor) -> Tensor:
        """The bits of static binarisation, for stored rows."""
        uniform = noise.uniform_of_rows(("static", stage), index, math.prod(x.shape[1:])).view(x.shape)
        return (uniform < x / self.white).to(torch.uint8)

    # Batches.

    def read(self, stage: str, indices: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """The rows that each index `(batch,)` into a split names: index and stored rows, on the device.

        Rows that are not resident are read ahead in a thread.
        """
        split, device = self.split(stage), self.device
        if self._in_memory:
            yield from ((index, split.x.index_select(0, index)) for index in indices)
            return

        def fetch(index: Tensor) -> tuple[Tensor, Tensor]:
            x = split.x.index_select(0, index if split.rows is None else split.rows[index])
            return (index.pin_memory(), x.pin_memory()) if device.type == "cuda" else (index, x)

        with ThreadPoolExecutor(1) as pool:
            for index, x in ahead(pool, fetch, indices, 2):
                yield index.to(device, non_blocking=True), x.to(device, non_blocking=True)

    def batch(self, stage: str, index: Tensor, x: Tensor, uniform: Tensor | None = None) -> Batch:
        """Stored rows as a model takes them; `uniform`, of the shape of x, binarises them and is lost."""
        y = self.split(stage).y
        if self.binarize == "static" and not self._in_memory:
            x = self._drawn_once(stage, index, x)
        x = x.to(torch.get_default_dtype())
        if self.binarize != "static" and self.white != 1:
            x = x / self.white
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
        """What a checkpoint must know to say something about the data without having it."""
        return {name: getattr(self, name) for name in ("columns", "label_names") if getattr(self, name) is not None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._restored = state
        if self._splits is not None:
            self._agree()
        self.columns, self.label_names = (state.get(name, getattr(self, name)) for name in ("columns", "label_names"))

    def _agree(self) -> None:
        """Raises ConfigurationError where labels or columns are not those of the checkpoint."""
        for name in ("columns", "label_names"):
            theirs, ours = self._restored.get(name), getattr(self, name)
            if theirs is not None and theirs != ours:
                what = name.replace("_", " ")
                raise ConfigurationError(f"data: the {what} are {ours}, those of the checkpoint {theirs}")


def _place(trainer: pl.Trainer | None) -> tuple[int, int]:
    """Rank and number of processes."""
    return (trainer.global_rank, trainer.world_size) if trainer else (0, 1)


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


def ahead(
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item], depth: int
) -> Iterator[Result]:
    """`function(item)` for every item, in order, with up to `depth` more of them under way in the pool."""
    waiting: deque[Future[Result]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > depth:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def cut(rows: Tensor, seed: int, **shares: float) -> dict[str, Tensor]:
    """Random parts of some rows, and the rest as `train`.

    The rows are permuted by torch's generator with that seed; each part is cut off in turn and has at least one row.

    Raises:
        ConfigurationError: a share that is not between 0 and 1, or nothing left to train on.
    """
    for name, share in shares.items():
        if not 0 < share < 1:
            raise ConfigurationError(f"data.{name}_share: {share} is not between 0 and 1")
    at_least(0, **{"data.split_seed": seed})
    order = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))]
    counts = [max(1, round(share * len(rows))) for share in shares.values()]
    if sum(counts) >= len(rows):
        asked = " and ".join(f"data.{name}_share: {share}" for name, share in shares.items())
        raise ConfigurationError(f"{asked} leave none of the {len(rows)} rows to train on")
    *parts, rest = order.split([*counts, len(rows) - sum(counts)])
    return {**dict(zip(shares, parts, strict=True)), "train": rest}


def fast_uniform(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Uniform numbers in (0, 1) on a grid of 2^-16, four from every 64 random bits: a third of the time of torch.rand.

    P(u < p) is p to within 2^-17, and exactly 0 and 1 for those.
    """
    count = math.prod(shape)
    low, high = -(1 << 63), (1 << 63) - 1
    bits = torch.randint(low, high, (-(-count // 4),), generator=generator, device=generator.device)
    return bits.view(torch.int16)[:count].view(*shape).float().add_(32768.5).mul_(2.0**-16)


class TrainLoader:
    """Shuffled batches of the training split, labelled rows in front where the data says so.

    An incomplete last batch is left out.
    """

    def __init__(self, data: TensorDataModule) -> None:
        self.data = data
        self.rank, self.processes = _place(data.trainer)
        self.rows = data.rows("train")
        joined = data.batch_size * self.processes
        if joined > self.rows:
            each = f" on each of {self.processes} processes" if self.processes > 1 else ""
            raise ConfigurationError(
                f"data.batch_size: {data.batch_size} rows{each} are more than the {self.rows} rows of the training data"
            )
        self.batches = self.rows // joined

    def __len__(self) -> int:
        return self.batches

    def _position(self) -> tuple[int, int]:
        """The epoch, and how many of its batches are done: more than 0 after resuming."""
        trainer = self.data.trainer
        if trainer is None:
            return 0, 0
        return trainer.current_epoch, trainer.fit_loop.epoch_loop.batch_progress.current.ready

    def __iter__(self) -> Iterator[Batch]:
        epoch, done = self._position()
        data, seed, size = self.data, noise.run_seed(), self.data.batch_size
        order = torch.randperm(
            self.rows, generator=torch.Generator().manual_seed(noise.mixed_seed(seed, "order", epoch))
        )
        parts = order[: self.batches * self.processes * size].view(self.batches, self.processes, size)
        mine = torch.cat([self._labelled(epoch), parts], -1)[done:, self.rank].to(data.split("train").x.device)
        generator = torch.Generator(data.device)
        for number, (index, x) in enumerate(data.read("train", mine.unbind()), done):
            uniform = None
            if data.binarize == "dynamic":
                generator.manual_seed(noise.mixed_seed(seed, "binarize", epoch, number, self.rank))
                uniform = fast_uniform(x.shape, generator)
            batch = data.batch("train", index, x, uniform)
            if data.labelled_per_batch and batch.y is not None:
                batch.y[data.labelled_per_batch :] = -1
            yield batch

    def _labelled(self, epoch: int) -> Tensor:
        """`(batches, processes, labelled_per_batch)` rows: one permutation of the labelled rows after the other."""
        shape = self.batches, self.processes, self.data.labelled_per_batch
        count, y = math.prod(shape), self.data.split("train").y
        if y is None or not count:
            return torch.empty(shape, dtype=torch.int64)
        rows, start = (y >= 0).nonzero()[:, 0].cpu(), epoch * count
        rounds = range(start // len(rows), (start + count - 1) // len(rows) + 1)
        seeds = (noise.mixed_seed(noise.run_seed(), "labelled", number) for number in rounds)
        orders = [torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return rows[torch.cat(orders)[start % len(rows) :][:count]].view(shape)

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the position follows from the trainer's counters. Having this method tells Lightning so."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""


class EvalLoader:
    """The rows of a split in order; with several processes each takes every so-manieth row, and none twice."""

    def __init__(self, data: TensorDataModule, stage: str) -> None:
        self.data, self.stage = data, stage
        rank, processes = _place(data.trainer)
        self.index = torch.arange(rank, data.rows(stage), processes)

    def __len__(self) -> int:
        return -(-len(self.index) // self.data.eval_batch_size)

    def __iter__(self) -> Iterator[Batch]:
        data = self.data
        indices = self.index.to(data.split(self.stage).x.device).split(data.eval_batch_size)
        for index, x in data.read(self.stage, indices):
            uniform = None
            if data.binarize == "dynamic":
                key = (noise.run_seed(), self.stage, "binarize")
                uniform = noise.uniform_of_rows(key, index, math.prod(x.shape[1:])).view(x.shape)
            yield data.batch(self.stage, index, x, uniform)
