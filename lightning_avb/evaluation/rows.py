"""From an estimator of a few rows to one of many."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from .. import noise
from ..batch import Batch
from ..errors import at_least

Result = TypeVar("Result", bound=tuple[Tensor, ...])


@torch.inference_mode(False)
@torch.no_grad()
def over_rows(estimate: Callable[[Batch], Result], batch: Batch, rows: int, *key: int | str) -> Result:
    """An estimate for many rows, some rows at a time, with noise that is a function of (key, row).

    The result depends neither on `rows` nor on which rows stand beside each other, to within rounding: a matrix product
    of another size may round otherwise. It works within `torch.inference_mode`, where gradients by z would not.

    Args:
        estimate: from some rows to a named tuple of tensors `(batch, ...)` or `(samples, batch, ...)`, the first only
            with one dimension. Proposals are to be made within it.
        batch: with its `index`.
        rows: of one call: a budget of decoder rows, divided by the number of chains.
        key: numbers and names that tell this use of noise from others: the seed, the name of the estimate.
    """
    at_least(1, rows=rows)
    parts: list[Any] = []
    for piece in batch.split(-(-len(batch.x) // rows)):
        if piece.index is None:
            raise ValueError("noise that is a function of the row needs the batch's index")
        with noise.use(noise.OfRows(*key, index=piece.index)):
            parts.append(estimate(piece._replace(x=piece.x.clone())))
    return type(parts[0])(*(torch.cat(column, min(column[0].ndim - 1, 1)) for column in zip(*parts, strict=True)))
