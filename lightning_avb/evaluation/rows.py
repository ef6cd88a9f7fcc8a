"""Applies an estimator to many rows, in parts, with separate noise for every row."""

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

    The result depends neither on `rows` nor on how rows are grouped, up to rounding: matrix products of another size
    may round differently. It also works within `torch.inference_mode`, and can then use gradients in z.

    This holds for all distributions. Those of this library draw from `noise`, and torch's, as priors, do so through
    `inputs.as_prior`. Others, such as a proposal from `torch.distributions` or dropout, draw from torch's generator. If
    the state of this generator has changed, the rows are taken one at a time instead, each with the generator seeded
    by (key, row), which is slow but correct.

    Args:
        estimate: from some rows to a tuple, named or not, of tensors `(batch, ...)` or `(samples, batch, ...)`, the
            first only with one dimension. It must make its proposals itself. Random numbers must come from `noise` or
            from torch's generators, not from a separate generator.
        batch: with its `index`.
        rows: rows per call, such as a budget of decoder rows divided by the number of chains.
        key: numbers and names that identify this use of noise: the seed, the name of the estimate.
    """
    at_least(1, rows=rows)
    if batch.index is None:
        raise ValueError("noise per row needs the batch's index")
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
