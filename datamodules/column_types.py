"""What the columns of a table hold, by a look at their fields."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, get_args

import numpy as np
import pandas as pd

from lightning_avb.errors import ConfigurationError

from .columns import FEW, MANY, Column, Columns, Kind, as_numbers, as_texts
from .names import SHOWN, are_row_names, counted, fields_that, listed, require_column, shown

UNNAMED = ("", "unnamed: 0")
"""Names of a column without one, as pandas reads them, in lower case."""
ROW_NUMBERS = (*UNNAMED, "0", "index", "id", "row")
"""Names of a column that, if it counts the rows, has nothing else to say."""
WHOLE = 2**53
"""Whole numbers up to this one are exact as floats."""
WIDEST = 32
"""Letters in a column of the printed table."""


class Finding(NamedTuple):
    """A column as it was found: a line of the printed table.

    Attributes:
        name: of the column.
        what: number, binary, category, or why it is left out.
        missing: share of missing fields.
        mean: of a number; the most frequent value of others.
        span: from the least to the largest; or the values.
        treatment: what was done with it.
        hint: what to consider, for a line below the table.
    """

    name: str
    what: str
    missing: str
    mean: str
    span: str
    treatment: str
    hint: str = ""


def look_at(
    frame: pd.DataFrame,
    train: np.ndarray,
    types: Mapping[str, str] | None = None,
    drop: Sequence[str] = (),
    log: Sequence[str] = (),
    columns: Sequence[str] | None = None,
) -> tuple[Columns, list[Finding]]:
    """The columns that a model can see, and what was found of all.

    Args:
        frame: the fields, as texts or with their types.
        train: the training rows; of these are the means and standard deviations.
        types: name -> `number`, `binary` or `category`, where the look is wrong.
        drop: columns to leave out.
        log: numbers to be modelled by their logarithms.
        columns: the only ones to use; None: all.

    Raises:
        ConfigurationError: columns that cannot be used, all in one message, with what to do.
    """
    types = dict(types or {})
    for name in columns or ():
        require_column(name, list(frame.columns), "data.columns")
    if columns is not None:
        frame = frame[[name for name in frame.columns if name in columns]]
    for key, names in {"types": types, "drop": drop, "log": log}.items():
        for name in names:
            require_column(name, list(frame.columns), f"data.{key}")
    for name, kind in types.items():
        if kind not in get_args(Kind):
            raise ConfigurationError(f"data.types: {name}: {kind!r} is none of {', '.join(get_args(Kind))}")
    used, findings, problems = [], [], []
    for name in frame.columns:
        fields = frame[name]
        try:
            found = _column(name, fields, train, types.get(name), name in drop, name in log)
        except ConfigurationError as error:
            problems.append(str(error))
            continue
        if isinstance(found, Column):
            used.append(found)
        findings.append(_finding(name, fields, found))
    if problems:
        raise ConfigurationError(f"data: {'; '.join(problems)}")
    if not used:
        raise ConfigurationError("data: no column is left to model")
    return Columns(used), findings


def _column(name: str, fields: pd.Series, train: np.ndarray, kind: Any, drop: bool, log: bool) -> Column | str:
    """The column, or why it is left out."""
    if drop:
        return "dropped"
    observed = fields.dropna()
    masked = len(observed) < len(fields)
    if not len(observed):
        return "empty"
    if pd.api.types.is_datetime64_any_dtype(fields) or pd.api.types.is_timedelta64_dtype(fields):
        raise ConfigurationError(_of_dates(name))
    numbers = as_numbers(observed)
    if pd.api.types.is_bool_dtype(observed):
        numbers = numbers * np.nan  # the texts True and False
    bad = numbers.isna()
    as_number = kind == "number" or (kind is None and 2 * bad.sum() < len(numbers))
    if kind is None and not masked and (index := _as_index(name, fields, numbers)):
        return index
    if as_number and (bad | np.isinf(numbers)).any():
        raise ConfigurationError(_of_bad_fields(name, fields))
    if bad.any():
        return _of_texts(name, as_texts(observed), kind, masked, log)
    whole = bool((numbers == numbers.round()).all() and numbers.abs().max() <= WHOLE)
    values = sorted(numbers.unique())
    values = [int(value) for value in values] if whole else values
    if kind is None:
        if len(values) == 1:
            return "constant"
        few = whole and len(values) <= FEW and len(numbers) >= 5 * len(values) and not log
        kind = "binary" if len(values) == 2 else "category" if few else "number"
    if kind != "number":
        return _of_values(name, kind, values, masked, log)
    if log and values[0] <= 0:
        raise ConfigurationError(f"{name!r} has the value {values[0]:g}, and data.log takes logarithms")
    inside = as_numbers(fields.iloc[train]).dropna().to_numpy()
    inside = np.log(inside) if log else inside
    if len(inside) == 0 or not inside.std() > 1e-9 * max(1.0, abs(float(inside.mean()))):
        raise ConfigurationError(f"{name!r} is constant in the training rows; leave it out: data.drop: [{shown(name)}]")
    return Column(name, "number", (), float(inside.mean()), float(inside.std()), log, whole, masked)


def _of_texts(name: str, texts: pd.Series, kind: Any, masked: bool, log: bool) -> Column | str:
    values = sorted(texts.unique())
    if kind is None and len(values) == 1:
        return "constant"
    if kind is None and _are_dates(values):
        raise ConfigurationError(_of_dates(name))
    if len(values) > MANY or (kind is None and len(values) > 5 and 2 * len(values) > len(texts)):
        raise ConfigurationError(
            f"{name!r} has {len(values)} different texts in {counted(len(texts), 'field')} ({listed(values, SHOWN)}): "
            f"a name or free text; leave it out: data.drop: [{shown(name)}]"
        )
    return _of_values(name, kind or ("binary" if len(values) == 2 else "category"), values, masked, log)


def _of_values(name: str, kind: Kind, values: list[Any], masked: bool, log: bool) -> Column:
    if log:
        raise ConfigurationError(f"{name!r} has the values {listed(values, SHOWN)}, and data.log takes logarithms")
    if len(values) > MANY or (kind == "binary" and len(values) != 2):
        raise ConfigurationError(
            f"data.types: {name}: {kind!r}, and it has {counted(len(values), 'value')}: {listed(values, SHOWN)}"
        )
    return Column(name, kind, tuple(values), masked=masked)


def _of_bad_fields(name: str, fields: pd.Series) -> str:
    bad = (fields.notna() & ~np.isfinite(as_numbers(fields))).to_numpy()
    texts = ", ".join(dict.fromkeys(repr(str(value)) for value in fields[bad][:SHOWN]))
    return (
        f"{fields_that(name, fields, bad, 'no finite number')}; if they are missing, data.missing: [{texts}]; if it "
        f"holds words, data.types: {{{shown(name)}: category}}"
    )


def _of_dates(name: str) -> str:
    return (
        f"{name!r} holds dates, which no likelihood here is made for; leave it out, data.drop: [{shown(name)}], or "
        "write it as numbers, such as days since a date, or month and weekday as columns of their own"
    )


def _are_dates(values: Sequence[str]) -> bool:
    some = pd.Series(values[:50])
    if not some.str.contains(r"\d+[-/.:]\d+").all():
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return bool(pd.to_datetime(some, errors="coerce", format="mixed").notna().all())


def _as_index(name: str, fields: pd.Series, numbers: pd.Series) -> str | None:
    """What is left out of a column without a name of its own: a number or a name of the row, as pandas and R write."""
    bare = name.casefold()
    if bare in ROW_NUMBERS and len(fields) > 2 and numbers.iloc[0] in (0, 1) and _rises(numbers):
        return "row number"
    return "row names" if bare in UNNAMED and are_row_names(as_texts(fields).tolist()) else None


def _rises(numbers: pd.Series) -> bool:
    """Whether every number is the one before and 1."""
    return bool((np.diff(numbers.to_numpy()) == 1).all())


def _finding(name: str, fields: pd.Series, found: Column | str) -> Finding:
    missing = f"{fields.isna().mean():.1%}"
    observed = fields.dropna()
    commonest = observed.astype("string").value_counts(normalize=True).head(1)
    mean = "".join(f"{shown(value)} {share:.0%}" for value, share in commonest.items())
    if isinstance(found, str):
        return Finding(name, found, missing, mean if found == "constant" else "", "", "left out")
    if found.kind != "number":
        treatment = "0 and 1" if found.kind == "binary" else f"one of {found.width}"
        return Finding(name, found.kind, missing, mean, listed(found.values, SHOWN), treatment)
    numbers = as_numbers(observed)
    treatment = "standardised" + (", its logarithm" if found.log else "")
    what = "whole number" if found.whole else "number"
    centre, span = numbers.mean(), f"{numbers.min():.4g} to {numbers.max():.4g}"
    centre = 0.0 if abs(centre) < 1e-9 * numbers.std() else centre
    counts = found.whole and not found.masked and _rises(numbers)
    hint = f"{name!r} looks like a counter of the rows; leave it out: data.drop: [{shown(name)}]" if counts else ""
    return Finding(name, what, missing, f"{centre:.4g}", span, treatment, hint)


def as_text(findings: Sequence[Finding]) -> str:
    """The findings as a table, with the hints below it."""
    titles = ("column", "type", "missing", "mean or most frequent", "range", "in the model")
    rows = [titles, *((found.name and shown(found.name), *found[1:-1]) for found in findings)]
    widths = [min(WIDEST, max(map(len, column))) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        line = "  ".join(_cut(field, width).ljust(width) for field, width in zip(row, widths, strict=True))
        lines.append(f"  {line.rstrip()}")
    return "\n".join([*lines, *(f"data: {found.hint}" for found in findings if found.hint)])


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
