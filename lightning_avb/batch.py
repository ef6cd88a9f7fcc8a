"""What a DataModule hands to a model."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

Shape = tuple[int, ...]


class Batch(NamedTuple):
    """Rows of a data set.

    Attributes:
        x: `(batch, *data_shape)` floating point; images in [0, 1], tables standardised.
        y: `(batch,)` int64 labels, -1 where a label is not known; None where there are none.
        index: `(batch,)` int64, the row's place in its data set. Noise in validation and test hangs on it.
    """

    x: Tensor
    y: Tensor | None = None
    index: Tensor | None = None

    def split(self, parts: int) -> list[Batch]:
        """The batch in at most `parts` pieces of nearly equal size."""
        size = -(-len(self.x) // parts)
        columns = [value.split(size) if value is not None else None for value in self]
        pieces = len(columns[0] or ())
        return [Batch(*(column[i] if column is not None else None for column in columns)) for i in range(pieces)]
