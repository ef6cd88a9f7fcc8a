"""What a split of a data set is, and how rows are split at random."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_avb.errors import ConfigurationError, at_least

from .names import counted


class Split(NamedTuple):
    """A split of a data set.

    Attributes:
        x: `(rows, *data_shape)`, any dtype; may be mapped from a file.
        y: `(rows,)` int64 labels, -1 where a label is not known, or None.
        rows: int64, the rows of x and y that make up the split, in order; None: all of them.
    """

    x: Tensor
    y: Tensor | None = None
    rows: Tensor | None = None

    @property
    def size(self) -> int:
        """The number of rows of the split."""
        return len(self.x if self.rows is None else self.rows)


def random_splits(rows: Tensor, seed: int, **shares: float) -> dict[str, Tensor]:
    """Random splits of some rows: one for each of `shares`, and the rest as `train`.

    The rows are permuted by torch's generator with that seed, not with the run's. Each split is taken from the front
    in turn and has at least one row.

    Args:
        rows: `(rows,)`, the numbers of the rows.
        seed: of the permutation.
        shares: name of a split -> its share of the rows.

    Raises:
        ConfigurationError: a share that is not between 0 and 1, or nothing left to train on.
    """
    for name, share in shares.items():
        if not 0 < share < 1:
            raise ConfigurationError(
                f"data.{name}_share: {share} is no share above 0 and below 1, such as 0.1; a split has at least one row"
            )
    at_least(0, **{"data.split_seed": seed})
    order = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))]
    counts = [max(1, round(share * len(rows))) for share in shares.values()]
    if sum(counts) >= len(rows):
        asked = " and ".join(f"data.{name}_share: {share}" for name, share in shares.items())
        raise ConfigurationError(f"{asked} leave none of {counted(len(rows), 'row')} to train on")
    *splits, rest = order.split([*counts, len(rows) - sum(counts)])
    return {**dict(zip(shares, splits, strict=True)), "train": rest}
