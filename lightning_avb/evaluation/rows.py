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
def map_rows(estimate: Callable[[Batch], Result], batch: Batch, rows: int, *key: int | str) -> Result:
    """An estimate for many rows, some rows at a time, with noise that is a function of (key, row).

    The result depends neither on `rows` nor on which rows stand beside each other, to within rounding: a matrix product
    of another size may round otherwise. It works within `torch.inference_mode`, where gradients by z would not.

    It holds for anybody's distributions. Those of this library draw from `noise`, and torch's, as priors, do so through
    `inputs.as_prior`. Whatever else draws from torch's generator, a `torch.distributions` proposal or dropout, say,
    knows nothing of rows: where the generator is found to have moved, the rows are taken one at a time, each with the
    generator seeded by (key, row). That is slow, and as right.

    Args:
        estimate: from some rows to a tuple, named or not, of tensors `(batch, ...)` or `(samples, batch, ...)`, the
            first only with one dimension. Proposals are to be made within it. Random numbers come from `noise` or from
            torch's own generators; what keeps a generator of its own is beyond this.
        batch: with its `index`.
        rows: of one call: a budget of decoder rows, divided by the number of chains.
        key: numbers and names that tell this use of noise from others: the seed, the name of the estimate.
    """
    at_least(1, rows=rows)
    if batch.index is None:
        raise ValueError("noise that is a function of the row needs the batch's index")
    parts: list[Any] = []
    uses_row_noise = True
    with noise.keep_torch_state():
        for piece in batch.split(-(-len(batch.x) // rows)):
            if uses_row_noise and len(piece.x) > 1:
                before = noise.torch_state()
                found = _with_row_noise(estimate, piece, key)
                uses_row_noise = all(map(torch.equal, before, noise.torch_state()))
                if uses_row_noise:
                    parts.append(found)
                    continue
            for row in piece.split(len(piece.x)):
                noise.seed_torch(noise.mixed_seed(*key, "torch", int(row.index)))  # type: ignore[arg-type]
                parts.append(_with_row_noise(estimate, row, key))
    columns = (torch.cat(column, min(column[0].ndim - 1, 1)) for column in zip(*parts, strict=True))
    make: Any = getattr(type(parts[0]), "_make", tuple)
    return make(columns)


def _with_row_noise(estimate: Callable[[Batch], Result], rows: Batch, key: tuple[int | str, ...]) -> Result:
    with noise.use(noise.RowNoise(*key, index=rows.index)):  # type: ignore[arg-type]
        return estimate(rows._replace(x=rows.x.clone()))
