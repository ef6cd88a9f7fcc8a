"""Data as one tensor a split, kept on the device in its stored dtype, or read batch by batch where it does not fit.

A new data set is a subclass with a `load`. Batches are cut, scaled and binarised on the device; there are no loader
workers.

* The order of an epoch is a function of (seed, epoch), which labels are shown one of the seed, and the labelled rows of
  a batch one of (seed, number of the batch in the run). A run resumed in the middle of an epoch goes on where it was.
* With several processes, the batch of rank r is the r-th part of the batch that one process would see.
* Dynamic binarisation draws anew in every epoch, a function of (seed, epoch, batch, rank) in training and of
  (seed, stage, row) in validation and test; static binarisation is a function of the row alone.
* Where the tensor is kept changes no bit of a batch.
"""

from __future__ import annotations

import abc
import math
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
from lightning_avb.hyperparameters import Hyperparameters

Binarize = Literal["none", "dynamic", "static"]
Item = TypeVar("Item")
Result = TypeVar("Result")

CHUNK = 1000
"""Rows that are worked on at a time where a whole split passes by."""


class Split(NamedTuple):
    """A split of a data set.

    Attributes:
        x: `(rows, *data_shape)`, any dtype; may be mapped from a file.
        y: `(rows,)` int64 labels, -1 where a label is not known, or None.
        rows: int64, which rows of x and y make up the split, in order; None: all of them.
    """

    x: Tensor
    y: Tensor | None = None
    rows: Tensor | None = None

    @property
    def size(self) -> int:
        """The number of rows of the split."""
        return len(self.x if self.rows is None else self.rows)


class TensorDataModule(Hyperparameters, pl.LightningDataModule, abc.ABC):
    """Base class.

    Args:
        batch_size: rows of a training batch, on each process.
        eval_batch_size: rows of a batch in validation and test. No figure depends on it.
        binarize: `none`: x as it is; `dynamic`: x is the probability of a one, drawn anew each time; `static`: drawn
            once and for all.
        resident: True: the data lies in the memory of the device; False: it stays where `load` put it, in main memory
            or in a file, and every batch is moved; None: resident if it takes at most half of the memory that is free.
        labels: how many training rows keep their label, as evenly over the classes as can be; the others get y = -1.
            The seed draws them; more of them contain the fewer. None: all. Validation and test keep theirs.
        labelled_per_batch: 0: one stream of all training rows, with the labels that are known. L: two streams; every
            training batch has L + batch_size rows on each process, first L labelled ones, from one shuffled order of
            them after the other, then batch_size of all training rows, in the order that they have with 0, and each
            with y = -1.

    Attributes:
        data_shape: shape of a row of x; known after `setup` where the class does not say it.
        classes: the number of labels, 0..classes - 1; None: there are no labels.
        label_names: what the labels stand for, where that is known.
        columns: the names of the columns of a table.
        white: the stored value that stands for 1.

    Raises:
        ConfigurationError: the training split has fewer rows than one batch over all processes, or not the labels that
            are asked for; a label that is none of -1..classes - 1.
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
        for name, value in (("labels", labels or 0), ("labelled_per_batch", labelled_per_batch)):
            at_least(0, **{f"data.{name}": value})
        if binarize not in ("none", "dynamic", "static"):
            raise ConfigurationError(f"data.binarize: {binarize!r} is none of 'none', 'dynamic', 'static'")
        self.save_arguments("data.")
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
            self.data_shape = tuple(splits["train"].x.shape[1:])
            self._in_memory = self._fits(splits)
            self._splits = {name: self._moved(name, split) for name, split in splits.items()}
        return self._splits[stage]

    def rows(self, stage: str) -> int:
        """The number of rows of the split `train`, `val` or `test`."""
        return self.split(stage).size

    @property
    def labelled_rows(self) -> int:
        """The number of training rows whose label is shown."""
        y = self.split("train").y
        return 0 if y is None else int((y >= 0).sum())

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
        y = self._known(stage, split)
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

    def _known(self, stage: str, split: Split) -> Tensor | None:
        """The labels of a split's rows; of training rows those that are to be shown."""
        y = split.y if split.y is None or split.rows is None else split.y[split.rows]
        if y is not None and self.classes and len(wrong := ((y < -1) | (y >= self.classes)).nonzero()):
            row = int(wrong[0] if split.rows is None else split.rows[wrong[0]])
            raise ConfigurationError(
                f"data: row {row} ({stage}) has the label {int(y[wrong[0]])}; labels are 0 to {self.classes - 1}, and "
                "-1 where they are not known"
            )
        if stage != "train":
            return y
        if self.labels is not None:
            y = self._shown(y, self.labels)
        if y is not None and (known := int((y >= 0).sum())) < len(y):
            rank_zero_info(f"data: {known:,} of {len(y):,} training rows have a label")
        return y

    def _shown(self, y: Tensor | None, labels: int) -> Tensor:
        """`labels` of the labels, and -1 elsewhere: of rows in random order the first of each class, the second, ..."""
        if y is None or self.classes is None:
            raise ConfigurationError(f"data.labels: {labels}, and the data has no labels")
        order = _permutation(len(y), "labels")
        order = order[y[order] >= 0]
        counts = y[order].bincount(minlength=self.classes)
        share, rarest = labels // self.classes, int(counts.argmin())
        if share == 0:
            raise ConfigurationError(f"data.labels: {labels} are fewer than the {self.classes} classes")
        if labels > len(order):
            raise ConfigurationError(f"data.labels: {labels} are more than the {len(order)} training rows with a label")
        if share > counts[rarest]:
            name = rarest if self.label_names is None else repr(self.label_names[rarest])
            raise ConfigurationError(
                f"data.labels: {labels} are {share} of each class, and of {name} there are only {counts[rarest]} "
                "training rows with a label"
            )
        turn = torch.empty_like(order)
        turn[y[order].argsort(stable=True)] = torch.cat([torch.arange(count) for count in counts.tolist()])
        kept = order[turn.argsort(stable=True)[:labels]]
        return torch.full_like(y, -1).index_copy(0, kept, y[kept])

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


def _permutation(count: int, *key: int | str) -> Tensor:
    """0..count - 1 in an order that is a function of the run's seed and the key."""
    generator = torch.Generator().manual_seed(noise.mixed_seed(noise.run_seed(), *key))
    return torch.randperm(count, generator=generator)


class TrainLoader:
    """Shuffled batches of the training split, behind labelled rows where they are asked for.

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
        y = data.split("train").y
        self.known = torch.arange(0) if y is None else (y >= 0).nonzero()[:, 0].cpu()
        if data.labelled_per_batch > len(self.known):
            raise ConfigurationError(
                f"data.labelled_per_batch: {data.labelled_per_batch} are more than the {len(self.known)} training rows "
                "with a label"
            )
        if data.labelled_per_batch and len(self.known) == self.rows:
            raise ConfigurationError(
                "data.labelled_per_batch: every row has a label: one stream is enough, leave it at 0"
            )

    def __len__(self) -> int:
        return self.batches

    def _position(self) -> tuple[int, int]:
        """The epoch, and how many of its batches are done: more than 0 after resuming."""
        trainer = self.data.trainer
        if trainer is None:
            return 0, 0
        return trainer.current_epoch, trainer.fit_loop.epoch_loop.batch_progress.current.ready

    def _mine(self, rows: Tensor) -> Tensor:
        """`(batches, size)` from the rows of an epoch: the part of each batch that is this process's."""
        return rows.view(self.batches, self.processes, -1)[:, self.rank]

    def _labelled(self, epoch: int) -> Tensor:
        """The labelled rows of an epoch: its piece of an endless sequence of permutations."""
        each, count = self.batches * self.processes * self.data.labelled_per_batch, len(self.known)
        turn, begin = divmod(epoch * each, count)
        turns = range(turn, -(-(epoch + 1) * each // count))
        endless = torch.cat([_permutation(count, "labelled", turn) for turn in turns])
        return self.known[endless[begin : begin + each]]

    def __iter__(self) -> Iterator[Batch]:
        epoch, done = self._position()
        data, seed, labelled = self.data, noise.run_seed(), self.data.labelled_per_batch
        order = _permutation(self.rows, "order", epoch)
        indices = self._mine(order[: self.batches * self.processes * data.batch_size])
        if labelled:
            indices = torch.cat([self._mine(self._labelled(epoch)), indices], 1)
        indices = indices[done:].to(data.split("train").x.device)
        generator = torch.Generator(data.device)
        for number, (index, x) in enumerate(data.read("train", indices.unbind()), done):
            uniform = None
            if data.binarize == "dynamic":
                generator.manual_seed(noise.mixed_seed(seed, "binarize", epoch, number, self.rank))
                uniform = fast_uniform(x.shape, generator)
            batch = data.batch("train", index, x, uniform)
            if labelled and batch.y is not None:
                batch.y[labelled:] = -1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the position follows from the trainer's counters. Having this method tells Lightning so."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""


class EvalLoader:
    """The rows of a split in order; of P processes each takes every P-th row, and none twice.

    A process without a row, where there are fewer rows than processes, gets the first one with the index -1, since all
    must take part in the sums over processes; see `Batch.counted`.
    """

    def __init__(self, data: TensorDataModule, stage: str) -> None:
        self.data, self.stage = data, stage
        rank, processes = _place(data.trainer)
        self.index = torch.arange(data.rows(stage))[rank::processes]
        self.stands_in = not len(self.index)
        if self.stands_in:
            self.index = torch.zeros(1, dtype=torch.int64)

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
            batch = data.batch(self.stage, index, x, uniform)
            yield batch._replace(index=torch.full_like(index, -1)) if self.stands_in else batch
