"""Reading tables as they come: `.csv`, `.tsv`, `.txt` and `.parquet`."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from lightning_avb.errors import ConfigurationError

from .labels import is_number

MISSING = ("", "na", "n/a", "nan", "null", "none", "<na>", "#n/a")
"""What stands for a missing field, in any case of letters."""
DELIMITERS = ",;\t|"
TABLES = (".csv", ".tsv", ".txt", ".parquet")
"""Files that hold tables."""
SHOWN = 5


def read_table(
    path: Path,
    header: bool | None = None,
    delimiter: str | None = None,
    encoding: str = "utf-8",
    missing: Sequence[str] = (),
) -> tuple[pd.DataFrame, str]:
    """The fields of a file and a few words on how it was read.

    Args:
        path: the file.
        header: whether the first line names the columns; None: it does if it has no number, or numbers the columns.
        delimiter: between two fields; None: guessed.
        encoding: of the file.
        missing: further texts that stand for a missing field.

    Returns:
        The fields of a text file as texts, those of a `.parquet` file with their types.

    Raises:
        ConfigurationError: the file cannot be read; the message names its lines.
    """
    if not path.is_file():
        raise ConfigurationError(f"data.path: there is no file {str(path)!r}")
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _from_parquet(path), "parquet"
    if suffix not in TABLES:
        arrays = "; read it with --data Arrays" if suffix in (".npy", ".npz") else ""
        raise ConfigurationError(f"data.path: {str(path)!r} ends in none of {', '.join(TABLES)}{arrays}")
    try:
        text = path.read_text(encoding="utf-8-sig" if encoding == "utf-8" else encoding)
    except (OSError, UnicodeDecodeError, LookupError) as error:
        advice = "; if it was written as latin-1 or by an older Excel, set data.encoding to latin-1 or cp1252"
        advice = advice if isinstance(error, UnicodeDecodeError) else ""
        raise ConfigurationError(f"data.path: {str(path)!r} cannot be read: {error}{advice}") from error
    lines = text.splitlines(keepends=True)
    delimiter = delimiter or _guess_delimiter(lines, suffix)
    rows, numbers = [], []
    reader = csv.reader(lines, delimiter=delimiter)
    try:
        for fields in reader:
            if fields:
                rows.append([field.strip() for field in fields])
                numbers.append(reader.line_num)
    except csv.Error as error:
        raise ConfigurationError(f"data.path: {str(path)!r}, line {reader.line_num}: {error}") from error
    if not rows:
        raise ConfigurationError(f"data.path: {str(path)!r} is empty")
    named = _names_columns(rows[0]) if header is None else header
    names = rows[0] if named else [str(number) for number in range(len(rows[0]))]
    _check_widths(path, rows, numbers, len(names))
    _check_names(path, names)
    absent = {*MISSING, *(text.strip().lower() for text in missing)}
    body = [[None if field.lower() in absent else field for field in row] for row in rows[named:]]
    if not body:
        raise ConfigurationError(f"data.path: {str(path)!r} has no rows")
    frame = pd.DataFrame(body, columns=names, dtype=object)
    frame.index = pd.Index(numbers[named:], name="line")
    said = "its first line names the columns" if named else "no line with names; data.header: true if the first is one"
    return _without_decimal_commas(frame, delimiter), f"delimiter {delimiter!r}, {said}"


def _from_parquet(path: Path) -> pd.DataFrame:
    try:
        frame = pd.read_parquet(path)
    except ImportError as error:
        raise ConfigurationError(
            "data.path: a .parquet file needs pyarrow; pip install 'lightning-avb[parquet]'"
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"data.path: {str(path)!r} cannot be read: {error}") from error
    frame.columns = [str(name) for name in frame.columns]
    _check_names(path, list(frame.columns))
    return frame.reset_index(drop=True)


def _guess_delimiter(lines: Sequence[str], suffix: str) -> str:
    """The delimiter that splits most of the first lines into as many fields as the first one."""
    if suffix == ".tsv":
        return "\t"

    def agreement(delimiter: str) -> tuple[int, int]:
        widths = [len(row) for row in csv.reader(lines[:50], delimiter=delimiter) if row]
        return (widths.count(widths[0]), widths[0]) if widths and widths[0] > 1 else (0, 0)

    return max(DELIMITERS, key=agreement)


def _names_columns(first: Sequence[str]) -> bool:
    """Whether a first line names columns: it has no number, or it numbers the columns, as pandas does."""
    numbers = [field for field in first if is_number(field)]
    counting = [str(number) for number in range(len(first))]
    return not numbers or list(first) == counting or list(first) == ["", *counting[:-1]]


def _check_widths(path: Path, rows: Sequence[Sequence[str]], numbers: Sequence[int], width: int) -> None:
    wrong = [(number, len(row)) for number, row in zip(numbers, rows, strict=True) if len(row) != width]
    if wrong:
        some = ", ".join(f"line {number}: {count}" for number, count in wrong[:SHOWN])
        raise ConfigurationError(
            f"data.path: {str(path)!r}: {len(wrong)} of {len(rows)} lines do not have the {width} fields of the first "
            f"({some}{', ...' if len(wrong) > SHOWN else ''})"
        )


def _check_names(path: Path, names: Sequence[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        shown = ", ".join(repr(name) for name in twice)
        raise ConfigurationError(
            f"data.path: {str(path)!r} has more than one column named {shown}; rename them, or set data.header to "
            "false if the first line has no names"
        )


def _without_decimal_commas(frame: pd.DataFrame, delimiter: str) -> pd.DataFrame:
    """The same with 1.5 for 1,5 in columns of such numbers."""
    if delimiter == ",":
        return frame
    for name in frame.columns:
        fields = frame[name].dropna()
        if len(fields) and fields.str.fullmatch(r"[+-]?\d*,?\d+").all() and fields.str.contains(",").any():
            frame[name] = frame[name].str.replace(",", ".")
    return frame
