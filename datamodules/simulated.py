"""Data sets simulated from a family of log-densities, for amortised inference."""

from __future__ import annotations

from collections.abc import Callable

from lightning_avb.errors import at_least
from lightning_avb.recipes import from_config
from lightning_avb.targets import Family
from lightning_avb.targets.calls import checked_simulation

from .splits import Split
from .tensors import TensorDataModule


class Simulated(TensorDataModule):
    """Each row is a data set x, drawn from p(x, theta) together with a theta that is not kept.

    Args:
        family: the log-densities, the same as the model's `target`.
        batch_size, eval_batch_size: see `TensorDataModule`.
        rows: data sets for training.
        eval_rows: data sets for validation, and as many for test.
        seed: seed of the simulation.

    Raises:
        ConfigurationError: a number out of range. When the data is made: the family's `simulate` raised.
    """

    def __init__(
        self,
        family: Callable[[], Family],
        batch_size: int = 64,
        eval_batch_size: int = 100,
        rows: int = 20000,
        eval_rows: int = 500,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, eval_batch_size)
        self.family = from_config(family)()
        self.counts = [at_least(1, **{"data.rows": rows}), *[at_least(1, **{"data.eval_rows": eval_rows})] * 2]
        self.seed = seed
        self.data_shape = self.family.data_shape

    def load(self) -> dict[str, Split]:
        _, x = checked_simulation(self.family, sum(self.counts), self.seed)
        return dict(zip(("train", "val", "test"), map(Split, x.split(self.counts)), strict=True))
