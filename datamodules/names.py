"""Names and values of a table: as a user gives them, and as messages show them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lightning_avb.errors import ConfigurationError, did_you_mean

from .labels import is_number

Names = Sequence[int | str] | int | str
"""Names of columns, or one."""
BLANKS = " \t\r\n"
"""What is no part of a name or a field, at its ends. Python takes letters of some encodings for blanks too."""
LINE = "line"
"""The name of the index of rows that were read from a file: their lines."""
SHOWN = 5


def stripped(name: Any) -> str:
    """A name as a text without blanks around it."""
    return str(name).strip(BLANKS)


def names_of(given: Names) -> list[str]:
    """A list of names, from several or from one."""
    return [stripped(name) for name in ([given] if isinstance(given, (int, str)) else given)]


def with_names(frame: pd.DataFrame, source: str = "data") -> pd.DataFrame:
    """The same table, with the names of its columns as texts without blanks around them.

    Raises:
        ConfigurationError: two columns have one name.
    """
    names = [stripped(name) for name in frame.columns]
    require_distinct(names, source)
    return frame.set_axis(names, axis=1)


def require_distinct(names: Sequence[str], source: str, advice: str = "rename them") -> None:
    """Raises ConfigurationError if two columns have one name."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        shown_names = ", ".join(map(repr, twice))
        raise ConfigurationError(f"{source}: there is more than one column named {shown_names}; {advice}")


def require_column(name: str, names: Sequence[str], key: str) -> None:
    """Raises ConfigurationError if there is no such column; the message has the nearest name."""
    if name not in names:
        near = did_you_mean(name, names)
        raise ConfigurationError(f"{key}: there is no column {name!r}; there are {listed(names)}{near}")


def shown(value: Any) -> str:
    """A name or a value, in quotes where it would not be seen as one otherwise."""
    text = str(value)
    plain = text.isprintable() and text == text.strip() and not set(text) & set(",;[]{}'\"#")
    return text if plain and text else repr(text)


def listed(values: Iterable[Any], most: int | None = None) -> str:
    """Names or values with commas between them, the first `most` of them."""
    values = list(values)
    return ", ".join(map(shown, values[:most])) + (", ..." if most is not None and len(values) > most else "")


def counted(count: int, noun: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def are_row_names(fields: Sequence[str]) -> bool:
    """Whether fields can name the rows: all are different, and none is a number with a fraction."""
    return len({*fields}) == len(fields) and all(field.isdigit() or not is_number(field) for field in fields)


def places(fields: pd.Series, which: np.ndarray, values: bool = True) -> str:
    """Where some fields are, by line or by row from 0, and what they are; the first of them."""
    numbers = fields.index.to_numpy() if fields.index.name == LINE else np.arange(len(fields))
    some = np.flatnonzero(which)
    kind = LINE if fields.index.name == LINE else "row"
    found = [f"{kind} {numbers[i]}" + (f": {str(fields.iloc[i])!r}" if values else "") for i in some[:SHOWN]]
    return ", ".join(found) + (", ..." if len(some) > SHOWN else "")


def fields_that(name: str, fields: pd.Series, which: np.ndarray, are: str, values: bool = True) -> str:
    """`'x' has 2 fields that are no finite number (line 4: '?', line 7: '-')`, for a message.

    Args:
        name: of the column.
        fields: all of it.
        which: `(rows,)` bool, those that are meant.
        are: what they are.
        values: whether to show what they hold.
    """
    count = int(which.sum())
    verb = "is" if count == 1 else "are"
    return f"{name!r} has {counted(count, 'field')} that {verb} {are} ({places(fields, which, values)})"
