"""What the columns of a table hold, by a look at their fields."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, get_args

import numpy as np
import pandas as pd

from lightning_avb.errors import ConfigurationError, did_you_mean

from .columns import FEW, MANY, SHOWN, Column, Columns, Kind, as_numbers, as_texts


class Finding(NamedTuple):
    """A column as it was found: a line of the printed table.

    Attributes:
        name: of the column.
        what: number, binary, category, or why it is left out.
        missing: share of missing fields.
        mean: of a number; the commonest value of others.
        span: from the least to the largest; or the values.
        treatment: what was done with it.
    """

    name: str
    what: str
    missing: str
    mean: str
    span: str
    treatment: str


def look_at(
    frame: pd.DataFrame,
    train: np.ndarray,
    types: Mapping[str, str] | None = None,
    drop: Sequence[str] = (),
    log: Sequence[str] = (),
) -> tuple[Columns, list[Finding]]:
    """The columns that a model can see, and what was found of all.

    Args:
        frame: the fields, as texts or with their types.
        train: the training rows; of these are the means and standard deviations.
        types: name -> `number`, `binary` or `category`, where the look is wrong.
        drop: columns to leave out.
        log: numbers to be modelled by their logarithms.

    Raises:
        ConfigurationError: columns that cannot be used, all in one message, with what to do.
    """
    types = dict(types or {})
    for key, names in {"types": types, "drop": drop, "log": log}.items():
        for name in names:
            require_column(name, frame.columns, f"data.{key}")
    for name, kind in types.items():
        if kind not in get_args(Kind):
            raise ConfigurationError(f"data.types: {name}: {kind!r} is none of {', '.join(get_args(Kind))}")
    columns, findings, problems = [], [], []
    for name in frame.columns:
        fields = frame[name]
        try:
            found = _column(name, fields, train, types.get(name), name in drop, name in log)
        except ConfigurationError as error:
            problems.append(str(error))
            continue
        if isinstance(found, Column):
            columns.append(found)
        findings.append(_finding(name, fields, found))
    if problems:
        raise ConfigurationError(f"data: {'; '.join(problems)}")
    if not columns:
        raise ConfigurationError("data: no column is left to model")
    return Columns(columns), findings


def require_column(name: Any, names: Sequence[str], key: str) -> None:
    """Raises ConfigurationError if there is no such column; the message has the nearest name."""
    there = [str(column) for column in names]
    if name not in there:
        near = did_you_mean(str(name), there)
        raise ConfigurationError(f"{key}: there is no column {name!r}; there are {', '.join(there)}{near}")


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
    if as_number and bad.any():
        raise ConfigurationError(_of_bad_fields(name, observed[bad.to_numpy()]))
    if as_number and np.isinf(numbers).any():
        raise ConfigurationError(_of_bad_fields(name, observed[np.isinf(numbers).to_numpy()]))
    if bad.any():
        return _of_texts(name, as_texts(observed), kind, masked, len(fields))
    whole = bool((numbers == numbers.round()).all())
    values = sorted(numbers.unique())
    values = [int(value) for value in values] if whole else values
    if kind is None:
        if len(values) == 1:
            return "constant"
        if whole and not masked and _counts_rows(name, numbers):
            return "row number"
        few = whole and len(values) <= FEW and len(numbers) >= 5 * len(values) and not log
        kind = "binary" if len(values) == 2 else "category" if few else "number"
    if kind != "number":
        return _of_values(name, kind, values, masked)
    if log and values[0] <= 0:
        raise ConfigurationError(f"{name!r} has the value {values[0]:g}, and data.log takes logarithms")
    inside = as_numbers(fields.iloc[train]).dropna().to_numpy()
    inside = np.log(inside) if log else inside
    if len(inside) == 0 or not inside.std() > 1e-9 * max(1.0, abs(float(inside.mean()))):
        raise ConfigurationError(f"{name!r} is constant in the training rows; leave it out: data.drop: [{name}]")
    return Column(name, "number", (), float(inside.mean()), float(inside.std()), log, whole, masked)


def _of_texts(name: str, texts: pd.Series, kind: Any, masked: bool, rows: int) -> Column | str:
    values = sorted(texts.unique())
    if kind is None and len(values) == 1:
        return "constant"
    if kind is None and _are_dates(values):
        raise ConfigurationError(_of_dates(name))
    if len(values) > MANY or (kind is None and len(values) > 5 and 2 * len(values) > rows):
        raise ConfigurationError(
            f"{name!r} has {len(values)} different texts in {rows} rows ({_some(values)}): a name or free text; leave "
            f"it out: data.drop: [{name}]"
        )
    return _of_values(name, kind or ("binary" if len(values) == 2 else "category"), values, masked)


def _of_values(name: str, kind: Kind, values: list[Any], masked: bool) -> Column:
    if kind == "binary" and len(values) != 2:
        raise ConfigurationError(f"data.types: {name}: 'binary', and it has {len(values)} values: {_some(values)}")
    if len(values) > MANY:
        raise ConfigurationError(f"data.types: {name}: 'category', and it has {len(values)} values: {_some(values)}")
    return Column(name, kind, tuple(values), masked=masked)


def _some(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values[:SHOWN])) + (", ..." if len(values) > SHOWN else "")


def _of_bad_fields(name: str, fields: pd.Series) -> str:
    count = len(fields)
    where = fields.index.name or "row"
    some = ", ".join(f"{where} {place}: {value!r}" for place, value in fields.iloc[:SHOWN].items())
    more = ", ..." if count > SHOWN else ""
    texts = ", ".join(dict.fromkeys(repr(str(value)) for value in fields.iloc[:SHOWN]))
    return (
        f"{name!r} has {count} field{'s' * (count > 1)} that {'are' if count > 1 else 'is'} no finite number "
        f"({some}{more}); if they are missing, data.missing: [{texts}]; if it holds words, data.types: "
        f"{{{name}: category}}"
    )


def _of_dates(name: str) -> str:
    return (
        f"{name!r} holds dates, which no likelihood here is made for; leave it out, data.drop: [{name}], or write it "
        "as numbers, such as days since a date, or month and weekday as columns of their own"
    )


def _are_dates(values: Sequence[str]) -> bool:
    some = pd.Series(values[:50])
    if not some.str.contains(r"\d+[-/.:]\d+").all():
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return bool(pd.to_datetime(some, errors="coerce", format="mixed").notna().all())


def _counts_rows(name: str, numbers: pd.Series) -> bool:
    """Whether a column without a name of its own only counts the rows, as pandas' index does."""
    counting = (np.diff(numbers.to_numpy()) == 1).all() and numbers.iloc[0] in (0, 1) and len(numbers) > 2
    return bool(counting) and name.strip().casefold() in ("", "0", "index", "id", "row", "unnamed: 0")


def _finding(name: str, fields: pd.Series, found: Column | str) -> Finding:
    missing = f"{fields.isna().mean():.1%}"
    observed = fields.dropna()
    commonest = observed.astype("string").value_counts(normalize=True).head(1)
    mean = "".join(f"{value} {share:.0%}" for value, share in commonest.items())
    if isinstance(found, str):
        return Finding(name, found, missing, mean if found == "constant" else "", "", "left out")
    if found.kind != "number":
        treatment = "0 and 1" if found.kind == "binary" else f"one of {found.width}"
        return Finding(name, found.kind, missing, mean, _some(found.values), treatment)
    numbers = as_numbers(observed)
    treatment = "standardised" + (", its logarithm" if found.log else "")
    what = "whole number" if found.whole else "number"
    centre, span = numbers.mean(), f"{numbers.min():.4g} to {numbers.max():.4g}"
    centre = 0.0 if abs(centre) < 1e-9 * numbers.std() else centre
    return Finding(name, what, missing, f"{centre:.4g}", span, treatment)


def as_text(findings: Sequence[Finding]) -> str:
    """The findings as a table."""
    rows = [("column", "type", "missing", "mean", "range", "in the model"), *findings]
    widths = [min(32, max(len(row[i]) for row in rows)) for i in range(len(Finding._fields))]
    lines = ["  ".join(field[:width].ljust(width) for field, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(f"  {line.rstrip()}" for line in lines)
