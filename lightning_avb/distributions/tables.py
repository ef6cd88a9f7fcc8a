"""Rows of a table: numbers, binary values and categories, some of them missing."""

from __future__ import annotations

import math
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.nn.functional import logsigmoid

from .normal import LOG_2PI

NUMBER, BINARY, CATEGORY, MASK = range(4)
"""Kinds of entries."""


class TableLayout(NamedTuple):
    """What the entries of a row x are: blocks of values, then a mask of 0 and 1.

    Attributes:
        kind: `(entries,)` int64: NUMBER, BINARY, CATEGORY (a one-hot block) or MASK.
        block: `(entries,)` int64, the number of the column; of a mask entry, the column that it is about.
        log_unit: `(entries,)`, the logarithm of a number's unit: original = unit x + shift.
        shift: `(entries,)`.
        logged: `(entries,)` bool, whether `original` is the logarithm of the number.
    """

    kind: Tensor
    block: Tensor
    log_unit: Tensor
    shift: Tensor
    logged: Tensor

    @property
    def of_numbers_alone(self) -> bool:
        """Whether all entries are numbers, none of them a logarithm or missing."""
        return bool((self.kind == NUMBER).all() and not self.logged.any())


class TableEntries(Distribution):
    """The entries of a row, from the outputs of a network: independent normals, bits, and categories.

    The entries of the mask are given, not modelled: they are 1 in a draw, and a missing entry has log-density 0. What
    is left is the density of the observed part. Given the observed part, it is the right likelihood if fields are
    missing at random (Rubin 1976).

    Args:
        outputs: `(..., entries)`: means of numbers, logits of others.
        scale: `(entries,)`, standard deviations of the numbers.
        layout: what the entries are.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}  # type: ignore[assignment]

    def __init__(self, outputs: Tensor, scale: Tensor, layout: TableLayout) -> None:
        self.outputs, self.scale, self.layout = outputs, scale, layout
        super().__init__(outputs.shape, validate_args=False)

    def _log_total(self) -> Tensor:
        """`(..., entries)`: log of the sum of exp of the logits of an entry's block."""
        logits, block = self.outputs, self.layout.block.expand_as(self.outputs)
        logits = torch.where(self.layout.kind == CATEGORY, logits, -math.inf)
        top = self._largest(logits.detach())
        top = torch.where(top.isfinite(), top, 0.0)
        total = torch.zeros_like(top).scatter_add(-1, block, (logits - top).exp()).gather(-1, block)
        total = torch.where(total > 0, total, 1.0)  # of other columns, whose infinite gradient would spread
        return total.log() + top

    def _largest(self, values: Tensor) -> Tensor:
        """`(..., entries)`: the largest value of an entry's block. There are at most as many blocks as entries."""
        block = self.layout.block.expand_as(values)
        return torch.full_like(values, -math.inf).scatter_reduce(-1, block, values, "amax").gather(-1, block)

    def _shares(self) -> Tensor:
        """`(..., entries)`: probabilities of the categories' values."""
        return (self.outputs - self._log_total()).exp()

    def observed(self, value: Tensor) -> Tensor:
        """`(..., entries)`, 1 for an entry of a field that is observed, else 0; 0 for the mask itself."""
        block, mask = self.layout.block, self.layout.kind == MASK
        seen = torch.ones_like(value)
        seen = seen.scatter(-1, block[mask].expand(*value.shape[:-1], -1), value[..., mask])
        return torch.where(mask, 0.0, seen.gather(-1, block.expand_as(value)))

    def log_prob(self, value: Tensor) -> Tensor:
        """`(..., entries)`, in nats, of numbers in the table's own units; of a category at the entry of its value."""
        value, outputs = torch.broadcast_tensors(value, self.outputs)
        kind, unit = self.layout.kind, self.layout.log_unit
        standardised = (value - outputs) / self.scale
        logarithm = torch.where(self.layout.logged, value * unit.exp() + self.layout.shift, 0.0)
        normal = -0.5 * (standardised.square() + LOG_2PI) - self.scale.log() - unit - logarithm
        bits = value * outputs + logsigmoid(-outputs)
        found = torch.where(kind == NUMBER, normal, bits)
        if (kind == CATEGORY).any():
            category = value * torch.where(kind == CATEGORY, outputs - self._log_total(), 0.0)
            found = torch.where(kind == CATEGORY, category, found)
        return found * self.observed(value)

    @property
    def mean(self) -> Tensor:
        kind = self.layout.kind
        found = torch.where(kind == NUMBER, self.outputs, self.outputs.sigmoid())
        found = torch.where(kind == CATEGORY, self._shares(), found)
        return torch.where(kind == MASK, 1.0, found)

    @torch.no_grad()
    def sample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        outputs, kind = self.outputs.expand(*sample_shape, *self.outputs.shape), self.layout.kind
        uniform = torch.rand_like(outputs)
        gumbel = outputs - (-uniform.log()).log()
        gumbel = torch.where(kind == CATEGORY, gumbel, -math.inf)
        chosen = gumbel == self._largest(gumbel)
        found = torch.where(
            kind == NUMBER, outputs + self.scale * torch.randn_like(outputs), uniform < outputs.sigmoid()
        )
        found = torch.where(kind == CATEGORY, chosen, found)
        return torch.where(kind == MASK, 1.0, found)
