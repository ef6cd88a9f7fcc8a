"""What a DataModule hands to a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .errors import ConfigurationError

Shape = tuple[int, ...]


class Batch(NamedTuple):
    """Rows of a data set.

    Attributes:
        x: `(batch, *data_shape)` floating point; images in [0, 1], tables standardised.
        y: `(batch,)` int64 labels, -1 where a label is not known; None where there are none.
        index: `(batch,)` int64, the row's place in its data set, on which its noise in validation and test depends;
            where a loader does not give it, the number of the row in this pass. -1: a filler, for a process without
            rows of its own where there are fewer rows than processes.
    """

    x: Tensor
    y: Tensor | None = None
    index: Tensor | None = None  # type: ignore[assignment]

    @classmethod
    def of(cls, given: Any) -> Batch:
        """What a loader gives, `x`, `(x,)`, `(x, y)`, `(x, y, index)` or a dict with these names, as a `Batch`.

        Raises:
            ConfigurationError: it is none of these.
        """
        if isinstance(given, Mapping):
            if "x" not in given or not {*given} <= {*cls._fields}:
                raise ConfigurationError(
                    f"data: a batch has the keys {', '.join(map(str, given))}; x, y, index are known"
                )
            given = [given.get(name) for name in cls._fields]
        columns = (given,) if isinstance(given, Tensor) else given
        if not isinstance(columns, (tuple, list)) or not 1 <= len(columns) <= 3 or not isinstance(columns[0], Tensor):
            raise ConfigurationError(
                "data: a batch must be (x,), (x, y) or (x, y, index) of tensors, or a dict of them; this one is a "
                f"{type(given).__name__}"
            )
        return cls(*columns)

    def at(self, rows: slice | Tensor) -> Batch:
        """Some of its rows."""
        return Batch(*(None if column is None else column[rows] for column in self))  # type: ignore[arg-type]

    def first(self, rows: int) -> Batch:
        """Its first rows."""
        return self.at(slice(rows))

    @property
    def real_rows(self) -> Batch:
        """The rows of the data: not the filler of a process without rows."""
        is_filler = self.index is not None and len(self.index) == 1 and self.index[0] < 0
        return self.first(0) if is_filler else self

    def split(self, parts: int) -> list[Batch]:
        """The batch in at most `parts` pieces of nearly equal size."""
        if parts == 1:
            return [self]
        pieces = []
        for rows in torch.arange(len(self.x)).tensor_split(min(parts, len(self.x))):
            pieces.append(self.at(slice(int(rows[0]), int(rows[-1]) + 1)))
        return pieces
