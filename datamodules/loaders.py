"""The batches of a split, in an order that is a function of the run's seed, divided among the processes."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_avb import noise
from lightning_avb.batch import Batch
from lightning_avb.errors import ConfigurationError

if TYPE_CHECKING:
    from .tensors import TensorDataModule

Item = TypeVar("Item")
Result = TypeVar("Result")


class TrainLoader:
    """Shuffled batches of the training split, with labelled rows in front where they are asked for.

    An incomplete last batch is left out. Where there are fewer rows than one batch over all processes, an epoch is one
    smaller batch, with as many rows on every process.

    Attributes:
        batch_size: rows of a batch on each process, beside the labelled ones in front.

    Raises:
        ConfigurationError: fewer rows than processes; fewer labelled rows than `labelled_per_batch`, or no others.
    """

    def __init__(self, data: TensorDataModule) -> None:
        self.data = data
        self.rank, self.processes = rank_and_world_size(data.trainer)
        self.rows = data.rows("train")
        self.batch_size = min(data.batch_size, self.rows // self.processes)
        if not self.batch_size:
            raise ConfigurationError(f"data: {self.rows} training rows are fewer than the {self.processes} processes")
        self.batches = self.rows // (self.batch_size * self.processes)
        y = data.split("train").y
        self.labelled_rows = torch.arange(0) if y is None else (y >= 0).nonzero()[:, 0].cpu()
        if data.labelled_per_batch > len(self.labelled_rows):
            raise ConfigurationError(
                f"data.labelled_per_batch: {data.labelled_per_batch} are more than the {len(self.labelled_rows)} "
                "training rows with a label"
            )
        if data.labelled_per_batch and len(self.labelled_rows) == self.rows:
            raise ConfigurationError(
                "data.labelled_per_batch: every training row has a label, so one stream is enough; leave it at 0"
            )

    def __len__(self) -> int:
        return self.batches

    def _position(self) -> tuple[int, int]:
        """The epoch, and how many of its batches are done: more than 0 where a run was resumed."""
        trainer = self.data.trainer
        if trainer is None:
            return 0, 0
        return trainer.current_epoch, trainer.fit_loop.epoch_loop.batch_progress.current.ready

    def _of_this_rank(self, rows: Tensor) -> Tensor:
        """`(batches, size)` from the rows of an epoch: this process's part of each batch."""
        return rows.view(self.batches, self.processes, -1)[:, self.rank]

    def _labelled(self, epoch: int) -> Tensor:
        """The labelled rows of an epoch: its part of an endless sequence of permutations."""
        needed, count = self.batches * self.processes * self.data.labelled_per_batch, len(self.labelled_rows)
        first, begin = divmod(epoch * needed, count)
        stop = -(-(epoch + 1) * needed // count)
        sequence = torch.cat([seeded_permutation(count, "labelled", number) for number in range(first, stop)])
        return self.labelled_rows[sequence[begin : begin + needed]]

    def __iter__(self) -> Iterator[Batch]:
        epoch, done = self._position()
        data, seed, labelled = self.data, noise.run_seed(), self.data.labelled_per_batch
        order = seeded_permutation(self.rows, "order", epoch)
        indices = self._of_this_rank(order[: self.batches * self.processes * self.batch_size])
        if labelled:
            indices = torch.cat([self._of_this_rank(self._labelled(epoch)), indices], 1)
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
        """Nothing: the position follows from the trainer's counters. Lightning asks whether this method exists."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""


class EvalLoader:
    """The rows of a split in order. Each of P processes takes every P-th row, so that no row counts twice.

    Where there are fewer rows than processes, a process without a row gets the first row with the index -1, since all
    must take part in the sums over processes; see `Batch.real_rows`.
    """

    def __init__(self, data: TensorDataModule, stage: str) -> None:
        self.data, self.stage = data, stage
        rank, processes = rank_and_world_size(data.trainer)
        self.index = torch.arange(data.rows(stage))[rank::processes]
        self.is_padding = not len(self.index)
        if self.is_padding:
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
                uniform = noise.row_uniform(key, index, math.prod(x.shape[1:])).view(x.shape)
            batch = data.batch(self.stage, index, x, uniform)
            yield batch._replace(index=torch.full_like(index, -1)) if self.is_padding else batch


def rank_and_world_size(trainer: pl.Trainer | None) -> tuple[int, int]:
    """The rank of this process and the number of processes."""
    return (trainer.global_rank, trainer.world_size) if trainer else (0, 1)


def seeded_permutation(count: int, *key: int | str) -> Tensor:
    """0..count - 1, `(count,)`, in an order that is a function of the run's seed and the key."""
    generator = torch.Generator().manual_seed(noise.mixed_seed(noise.run_seed(), *key))
    return torch.randperm(count, generator=generator)


def fast_uniform(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Uniform numbers in (0, 1) on a grid of 2^-16, four from every 64 random bits, in a third of torch.rand's time.

    P(u < p) is p to within 2^-17, exactly 0 for p = 0 and exactly 1 for p = 1.
    """
    count = math.prod(shape)
    low, high = -(1 << 63), (1 << 63) - 1
    bits = torch.randint(low, high, (-(-count // 4),), generator=generator, device=generator.device)
    return bits.view(torch.int16)[:count].view(*shape).float().add_(32768.5).mul_(2.0**-16)


def prefetch_map(
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item], depth: int
) -> Iterator[Result]:
    """`function(item)` for every item, in order, while the pool works on up to `depth` further items."""
    pending: deque[Future[Result]] = deque()
    for item in items:
        pending.append(pool.submit(function, item))
        if len(pending) > depth:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()
