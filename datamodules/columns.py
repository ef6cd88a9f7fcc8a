"""Columns of a table: what they hold, and a model's rows x from their fields and back.

A row of x has one block of entries per column, the values, and after all blocks one entry per column in which fields
may be missing, the mask: 1 where the field is observed. The block of a missing field is 0.

* `number`: one entry, standardised, of its logarithm where asked for;
* `binary`: one entry, 0 or 1, the number of its value;
* `category`: one entry per value, one-hot.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lightning_avb.distributions import TableLayout
from lightning_avb.distributions.tables import MASK
from lightning_avb.errors import ConfigurationError

from .names import BLANKS, fields_that, listed

Kind = Literal["number", "binary", "category"]
FEW, MANY = 10, 200
"""Whole numbers with at most `FEW` values are categories; a category has at most `MANY`."""
VALUES = 8
"""Values of a category that messages show."""
BOOLEANS = ("False", "True")


@dataclass(frozen=True)
class Column:
    """What a column holds.

    Attributes:
        name: its name.
        kind: `number`, `binary` or `category`.
        values: of a binary column or a category, in order; numbers or texts.
        mean, std: of a number, of its logarithm with `log`, in the training rows.
        log: whether a number is modelled by its logarithm.
        whole: whether all numbers are whole.
        masked: whether fields may be missing.
    """

    name: str
    kind: Kind
    values: tuple[Any, ...] = ()
    mean: float = 0.0
    std: float = 1.0
    log: bool = False
    whole: bool = False
    masked: bool = False

    @property
    def width(self) -> int:
        """Entries of its block."""
        return len(self.values) if self.kind == "category" else 1

    def encode(self, fields: pd.Series, incomplete: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """The block `(rows, width)` of some fields, and which are observed, `(rows,)`.

        Raises:
            ConfigurationError: fields that the column cannot hold; the message says where, and what to do.
        """
        observed, problems = fields.notna().to_numpy(), []

        def refuse(which: np.ndarray, are: str, advice: str, values: bool = True) -> None:
            if which.any():
                problems.append(f"{fields_that(self.name, fields, which, are, values)}; {advice}")

        if not self.masked and not incomplete:
            advice = "the model has no mask for it; `impute` fills it"
            refuse(~observed, "empty, which none was in training", advice, values=False)
        correct = "correct it, or leave it empty" + ("" if self.masked else " and let `impute` fill it")
        if self.kind == "number":
            numbers = as_numbers(fields).to_numpy(np.float64)
            refuse(observed & ~np.isfinite(numbers), "no finite number", correct)
            if self.log:
                refuse(observed & (numbers <= 0), "not above 0, and has no logarithm", correct)
                numbers = np.log(np.where(observed & (numbers > 0), numbers, 1.0))
            block = np.where(observed, (numbers - self.mean) / self.std, 0.0)[:, None]
        else:
            keys = as_numbers(fields) if not isinstance(self.values[0], str) else as_texts(fields)
            code = keys.map({value: number for number, value in enumerate(self.values)}).to_numpy(np.float64)
            refuse(observed & np.isnan(code), f"none of {listed(self.values, VALUES)}", correct)
            if self.kind == "binary":
                block = np.where(observed, code, 0.0)[:, None]
            else:
                block = (code[:, None] == np.arange(self.width)).astype(np.float64)
        if problems:
            raise ConfigurationError("; ".join(problems))
        return block, observed

    def decode(self, block: np.ndarray) -> Any:
        """Fields, from a block `(rows, width)` of any real numbers."""
        if self.kind == "number":
            numbers = block[:, 0].astype(np.float64) * self.std + self.mean
            numbers = np.exp(numbers) if self.log else numbers
            return numbers.round() if self.whole else numbers
        code = block.argmax(1) if self.kind == "category" else (block[:, 0] > 0.5).astype(int)
        if self.values == BOOLEANS:
            return code.astype(bool)
        return np.array(self.values, dtype=object)[code]


class Columns(tuple[Column, ...]):
    """The columns of a table that a model sees, in order."""

    @classmethod
    def from_state(cls, state: Sequence[dict[str, Any]]) -> Columns:
        return cls(Column(**{**column, "values": tuple(column["values"])}) for column in state)

    def state(self) -> list[dict[str, Any]]:
        """Plain values, for a checkpoint."""
        return [{**asdict(column), "values": list(column.values)} for column in self]

    @property
    def names(self) -> list[str]:
        return [column.name for column in self]

    def observed(self, frame: pd.DataFrame) -> Tensor:
        """`(rows, entries)` bool: which entries of x are of a field that is observed; False for the mask."""
        seen = [np.repeat(frame[c.name].notna().to_numpy()[:, None], c.width, 1) for c in self]
        mask = np.zeros((len(frame), sum(column.masked for column in self)), dtype=bool)
        return torch.from_numpy(np.concatenate([*seen, mask], 1))

    def encode(self, frame: pd.DataFrame, incomplete: bool = False) -> Tensor:
        """x `(rows, entries)` of the rows of a table, in double precision.

        Args:
            frame: the rows.
            incomplete: whether fields may be missing also where none was in training; their entries are 0.

        Raises:
            ConfigurationError: a column is not there; or fields that columns cannot hold, all in one message.
        """
        absent = [name for name in self.names if name not in frame.columns]
        if absent:
            there = listed(frame.columns)
            raise ConfigurationError(f"data: there is no column {', '.join(map(repr, absent))}; there are {there}")
        blocks, masks, problems = [], [], []
        for column in self:
            try:
                block, observed = column.encode(frame[column.name], incomplete)
            except ConfigurationError as error:
                problems.append(str(error))
                continue
            blocks.append(block)
            if column.masked:
                masks.append(observed[:, None].astype(np.float64))
        if problems:
            raise ConfigurationError(f"data: {'; '.join(problems)}")
        return torch.from_numpy(np.concatenate(blocks + masks, 1))

    def decode(self, x: Tensor) -> pd.DataFrame:
        """Rows of a table from x `(rows, entries)`; a field is missing where its mask is below 1/2."""
        entries = x.double().cpu().numpy()
        fields, begin, mask = {}, 0, sum(column.width for column in self)
        for column in self:
            block, begin = entries[:, begin : begin + column.width], begin + column.width
            found = pd.Series(column.decode(block)).convert_dtypes()
            if column.masked:
                found = found.mask(entries[:, mask] < 0.5)
                mask += 1
            fields[column.name] = found
        return pd.DataFrame(fields)

    def layout(self) -> TableLayout:
        """What the entries of x are, for a likelihood."""
        kind, block, log_unit, shift, logged = [], [], [], [], []
        for number, column in enumerate(self):
            kind += [get_args(Kind).index(column.kind)] * column.width
            block += [number] * column.width
            log_unit += [math.log(column.std) if column.kind == "number" else 0.0] * column.width
            shift += [column.mean] * column.width
            logged += [column.log] * column.width
        masked = [number for number, column in enumerate(self) if column.masked]
        count = len(masked)
        return TableLayout(
            torch.tensor(kind + [MASK] * count),
            torch.tensor(block + masked),
            torch.tensor(log_unit + [0.0] * count, dtype=torch.float64),
            torch.tensor(shift + [0.0] * count, dtype=torch.float64),
            torch.tensor(logged + [False] * count),
        )


def as_numbers(fields: pd.Series) -> pd.Series:
    """Floats; nan where a field is missing or no number."""
    if fields.dtype == object or pd.api.types.is_string_dtype(fields):
        fields = fields.astype("string").str.strip(BLANKS)
    return pd.to_numeric(fields, errors="coerce").astype("Float64").astype(np.float64)


def as_texts(fields: pd.Series) -> pd.Series:
    """Texts without blanks around them; missing where a field is missing."""
    return fields.astype("string").str.strip(BLANKS).astype(object).where(fields.notna())
