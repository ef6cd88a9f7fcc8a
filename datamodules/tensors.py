"""Data that fits in memory: one tensor a split, kept on the device in its stored dtype.

A new data set is a subclass with a `data_shape` and a `load`. Batches are cut, scaled and binarised on the device;
there are no loader workers.

* The order of an epoch is a function of (seed, epoch). A run resumed in the middle of an epoch goes on where it was.
* With several processes, the batch of rank r is the r-th part of the batch that one process would see.
* Dynamic binarisation draws anew in every epoch, a function of (seed, epoch, batch, rank) in training and of
  (seed, stage, row) in validation and test; static binarisation is a function of the row alone.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_avb import noise
from lightning_avb.batch import Batch, Shape
from lightning_avb.errors import ConfigurationError
from lightning_avb.recipes import class_path

Binarize = Literal["none", "dynamic", "static"]


class Split(NamedTuple):
    """A split of a data set.

    Attributes:
        x: `(rows, *data_shape)`, any dtype.
        y: `(rows,)` int64 labels, or None.
    """

    x: Tensor
    y: Tensor | None = None


class TensorDataModule(pl.LightningDataModule, abc.ABC):
    """Base class.

    Args:
        batch_size: rows of a training batch, on each process.
        eval_batch_size: rows of a batch in validation and test. No figure depends on it.
        binarize: `none`: x as it is; `dynamic`: x is the probability of a one, drawn anew each time; `static`: drawn
            once and for all.

    Attributes:
        data_shape: shape of a row of x.
        white: the stored value that stands for 1.

    Raises:
        ConfigurationError: the training split has fewer rows than one batch over all processes.
    """

    data_shape: Shape
    white: float = 1.0

    def __init__(self, batch_size: int, eval_batch_size: int = 500, binarize: Binarize = "none") -> None:
        super().__init__()
        for name, value in (("batch_size", batch_size), ("eval_batch_size", eval_batch_size)):
            if value < 1:
                raise ConfigurationError(f"data.{name}: {value} is not a positive number of rows")
        if binarize not in ("none", "dynamic", "static"):
            raise ConfigurationError(f"data.binarize: {binarize!r} is none of 'none', 'dynamic', 'static'")
        self.save_hyperparameters(logger=False)
        self._set_hparams({**self.hparams, "_class_path": class_path(type(self))})
        self.batch_size, self.eval_batch_size, self.binarize = batch_size, eval_batch_size, binarize
        self._splits: dict[str, Split] | None = None

    def setup(self, stage: str) -> None:
        """Loads the data, and checks that there is enough of it before anything else happens."""
        if stage == "fit":
            TrainLoader(self)

    @abc.abstractmethod
    def load(self) -> dict[str, Split]:
        """The splits `train`, `val` and `test`."""

    def split(self, stage: str) -> Split:
        """A split on the device where the batches are needed."""
        if self._splits is None:
            self._splits = {name: self._resident(name, split) for name, split in self.load().items()}
        return self._splits[stage]

    def _resident(self, stage: str, split: Split) -> Split:
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        if self.binarize == "static":
            split = split._replace(x=self._fixed(stage, split.x))
        return Split(split.x.to(device), split.y.to(device) if split.y is not None else None)

    def _fixed(self, stage: str, x: Tensor) -> Tensor:
        index = torch.arange(len(x))
        drawn = torch.empty_like(x, dtype=torch.uint8)
        for rows in index.split(1000):
            uniform = noise.uniform_of_rows(("static", stage), rows, x[0].numel()).view(x[rows].shape)
            drawn[rows] = (uniform < x[rows] / self.white).to(torch.uint8)
        return drawn

    def batch(self, stage: str, index: Tensor, uniform: Tensor | None) -> Batch:
        """Rows of a split as a model takes them; `uniform`, of the shape of x, binarises them and is lost."""
        split = self.split(stage)
        x = split.x.index_select(0, index).to(torch.get_default_dtype())
        if self.binarize != "static" and self.white != 1:
            x = x / self.white
        if uniform is not None:
            x = uniform.lt_(x).to(x.dtype)
        return Batch(x, split.y[index] if split.y is not None else None, index)

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


def _place(trainer: pl.Trainer | None) -> tuple[int, int]:
    """Rank and number of processes."""
    return (trainer.global_rank, trainer.world_size) if trainer else (0, 1)


def fast_uniform(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Uniform numbers in (0, 1) on a grid of 2^-16, four from every 64 random bits: a third of the time of torch.rand.

    P(u < p) is p to within 2^-17, and exactly 0 and 1 for those.
    """
    count = math.prod(shape)
    low, high = -(1 << 63), (1 << 63) - 1
    bits = torch.randint(low, high, (-(-count // 4),), generator=generator, device=generator.device)
    return bits.view(torch.int16)[:count].view(*shape).float().add_(32768.5).mul_(2.0**-16)


class TrainLoader:
    """Shuffled batches of the training split; an incomplete last batch is left out."""

    def __init__(self, data: TensorDataModule) -> None:
        self.data = data
        self.rank, self.processes = _place(data.trainer)
        self.rows = len(data.split("train").x)
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
        x = data.split("train").x
        order = torch.randperm(
            self.rows, generator=torch.Generator().manual_seed(noise.mixed_seed(seed, "order", epoch))
        )
        parts = order[: self.batches * self.processes * size].view(self.batches, self.processes, size)
        mine = parts[:, self.rank].to(x.device)
        generator = torch.Generator(x.device)
        for number in range(done, self.batches):
            uniform = None
            if data.binarize == "dynamic":
                generator.manual_seed(noise.mixed_seed(seed, "binarize", epoch, number, self.rank))
                uniform = fast_uniform((size, *x.shape[1:]), generator)
            yield data.batch("train", mine[number], uniform)

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
        self.index = torch.arange(rank, len(data.split(stage).x), processes)

    def __len__(self) -> int:
        return -(-len(self.index) // self.data.eval_batch_size)

    def __iter__(self) -> Iterator[Batch]:
        x = self.data.split(self.stage).x
        for index in self.index.to(x.device).split(self.data.eval_batch_size):
            uniform = None
            if self.data.binarize == "dynamic":
                key = (noise.run_seed(), self.stage, "binarize")
                uniform = noise.uniform_of_rows(key, index, x[0].numel()).view(-1, *x.shape[1:])
            yield self.data.batch(self.stage, index, uniform)
