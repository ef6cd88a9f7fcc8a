"""Reading tables as they come: `.csv`, `.tsv`, `.txt` and `.parquet`."""

from __future__ import annotations

import codecs
import csv
import io
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from lightning_avb.errors import ConfigurationError

from .labels import is_number
from .names import BLANKS, LINE, SHOWN, are_row_names, counted, listed, require_distinct, with_names

MISSING = ("", "na", "n/a", "nan", "null", "none", "<na>", "#n/a")
"""What stands for a missing field, in any case of letters."""
DELIMITERS = ",;\t|"
TABLES = (".csv", ".tsv", ".txt", ".parquet")
"""Files that hold tables."""
LOOK = 1000
"""Rows that tell whether the first line has names."""
MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
"""The first bytes of a text that names its encoding."""
DECIMAL = r"[+-]?\d*,?\d+([eE][+-]?\d+)?"
NO_NAMES = "no line with names; data.header: true if the first is one"


class TableFile(NamedTuple):
    """What a file holds.

    Attributes:
        frame: the fields of a text file as texts, those of a `.parquet` file with their types.
        said: a few words on how it was read.
        notes: what was decided or left out, a line each.
    """

    frame: pd.DataFrame
    said: str
    notes: list[str]


class Header(NamedTuple):
    """Whether the first line of a file names its columns, and a line that says so where it is not certain."""

    named: bool
    note: str | None = None


def read_table(
    path: Path,
    header: bool | None = None,
    delimiter: str | None = None,
    encoding: str = "utf-8",
    missing: Sequence[str] = (),
    known: Sequence[str] = (),
    new: bool = False,
) -> TableFile:
    """The fields of a file.

    Rows in which every field is empty are left out.

    Args:
        path: the file.
        header: whether the first line names the columns; None: guessed, from what stands below it.
        delimiter: between two fields; None: guessed.
        encoding: of the file.
        missing: further texts that stand for a missing field.
        known: names that the first line has if it names the columns.
        new: the rows are new ones for a trained model: UTF-8 is tried before `encoding`.

    Raises:
        ConfigurationError: the file cannot be read; the message names its lines.
    """
    source = f"{'input' if new else 'data.path'}: {str(path)!r}"
    if not path.is_file():
        raise ConfigurationError(f"{source.partition(':')[0]}: there is no file {str(path)!r}")
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return TableFile(_from_parquet(path, source), "parquet", [])
    if suffix not in TABLES:
        arrays = "; read it with --data Arrays" if suffix in (".npy", ".npz") else ""
        raise ConfigurationError(f"{source} ends in none of {', '.join(TABLES)}{arrays}")
    text, used = _text(path, source, [*dict.fromkeys(["utf-8", encoding] if new else [encoding])])
    lines = list(io.StringIO(text))
    delimiter = delimiter or _guess_delimiter(lines, suffix)
    rows, numbers, notes = _filled_rows(lines, delimiter, source)
    absent = {*MISSING, *(text.strip(BLANKS).lower() for text in missing)}
    row_names = header is not False and _rows_are_named(rows)
    if row_names:
        rows[0] = ["", *rows[0]]
        found = Header(True)
    elif header is not None:
        found = Header(header)
    elif known and {*known} <= {*rows[0]}:
        found = Header(True)
    else:
        found = _guess_header(rows[0], rows[1 : LOOK + 1], absent)
    names = rows[0] if found.named else [str(number) for number in range(len(rows[0]))]
    _check_widths(source, rows, numbers, len(names))
    require_distinct(names, source, "rename them, or set data.header to false if the first line has no names")
    body = [[None if field.lower() in absent else field for field in row] for row in rows[found.named :]]
    if not body:
        raise ConfigurationError(f"{source} has no rows")
    frame = pd.DataFrame(body, columns=names, dtype=object)
    frame.index = pd.Index(numbers[found.named :], name=LINE)
    with_commas = {} if delimiter == "," else _without_decimal_commas(frame)
    if with_commas:
        field = next(iter(with_commas.values()))
        notes.append(
            f"data: decimal commas in {listed(with_commas, SHOWN)}: {field} is read as {field.replace(',', '.')}"
        )
    marked = "" if used in (encoding, "utf-8-sig") else f"{used}, "
    header_said = "its first line names the columns" if found.named else NO_NAMES
    said = f"{marked}delimiter {delimiter!r}, {header_said}{', its first fields the rows' * row_names}"
    return TableFile(frame, said, [*([found.note] if found.note else []), *notes])


def require_path(path: Any, what: str, instead: str) -> None:
    """Raises ConfigurationError if something else than a path is given."""
    if path is not None and not isinstance(path, (str, os.PathLike)):
        raise ConfigurationError(f"data.path: a {type(path).__name__} is no file; for {what} take {instead}")


def _from_parquet(path: Path, source: str) -> pd.DataFrame:
    try:
        frame = pd.read_parquet(path)
    except ImportError as error:
        raise ConfigurationError(
            "data.path: a .parquet file needs pyarrow; pip install 'lightning-avb[parquet]'"
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{source} cannot be read: {error}") from error
    return with_names(frame.reset_index(drop=True), source)


def _text(path: Path, source: str, encodings: Sequence[str]) -> tuple[str, str]:
    """The text of a file and its encoding: the one that its first bytes name, or the first that fits."""
    try:
        content = path.read_bytes()
        encodings = [code for mark, code in MARKS.items() if content.startswith(mark)] or encodings
        *others, last = encodings
        encoding = next((code for code in others if _fits(content, code)), last)
        return content.decode(encoding).replace("\r\n", "\n").replace("\r", "\n"), encoding
    except UnicodeDecodeError as error:
        line = 1 + content.count(b"\n", 0, error.start)
        place = f"line {line}: byte 0x{content[error.start]:02x}"
        advice = "if Excel or another program of Windows wrote it, set data.encoding to cp1252; else try latin-1"
        if source.startswith("input"):
            advice = "write it in UTF-8: iconv -f cp1252 -t utf-8 FILE > NEW_FILE, if a program of Windows wrote it"
        raise ConfigurationError(f"{source} is not in {' or '.join(encodings)} ({place}); {advice}") from error
    except (OSError, LookupError) as error:
        raise ConfigurationError(f"{source} cannot be read: {error}") from error


def _fits(content: bytes, encoding: str) -> bool:
    try:
        content.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _guess_delimiter(lines: Sequence[str], suffix: str) -> str:
    """The delimiter that splits most of the first lines into as many fields, and into numbers.

    A blank only where no other one does.
    """
    if suffix == ".tsv":
        return "\t"

    def rows(delimiter: str) -> list[list[str]]:
        reader = csv.reader(lines[:50], delimiter=delimiter, skipinitialspace=delimiter == " ")
        return [row for row in reader if any(field.strip(BLANKS) for field in row)]

    def agreement(delimiter: str) -> tuple[int, float, int]:
        split = rows(delimiter)
        first, *others = map(len, split or [[]])
        usual = Counter(others or [first]).most_common(1)[0][0]
        fields = [field for row in split for field in row]
        share = sum(map(_is_number, fields)) / max(1, len(fields))
        return ((first == usual) + others.count(usual), share, usual) if usual > 1 else (0, 0, 0)

    best = max(DELIMITERS, key=agreement)
    if agreement(best)[0] == 0 and _has_columns(rows(" "), [*lines, ""][0].startswith('"'), suffix == ".txt"):
        return " "
    return best


def _has_columns(rows: Sequence[Sequence[str]], quoted: bool, plain: bool) -> bool:
    """Whether lines that were split at blanks are a table, and not texts of some words.

    Args:
        rows: the lines, split.
        quoted: whether names are in quotes, as R writes them.
        plain: whether the file may be a table without R's names of rows.
    """
    first, *others = rows or [[]]
    if _rows_are_named(rows):
        return quoted or _counts([row[0] for row in others])
    numbers = any(_is_number(field) for row in others for field in row)
    return plain and numbers and len(first) > 1 and all(len(row) == len(first) for row in others)


def _filled_rows(lines: Sequence[str], delimiter: str, source: str) -> tuple[list[list[str]], list[int], list[str]]:
    """The rows with a field that is not empty, their lines, and what to say of the others."""
    rows, numbers, empty = [], [], []
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=delimiter == " ")
    try:
        for row in reader:
            fields = [field.strip(BLANKS) for field in row]
            if any(fields):
                rows.append(fields)
                numbers.append(reader.line_num)
            elif fields:
                empty.append(reader.line_num)
    except csv.Error as error:
        raise ConfigurationError(f"{source}, line {reader.line_num}: {error}") from error
    if not rows:
        raise ConfigurationError(f"{source} is empty")
    if not empty:
        return rows, numbers, []
    return rows, numbers, [f"data: {counted(len(empty), 'line')} without any field left out: {listed(empty, SHOWN)}"]


def _rows_are_named(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first fields name the rows, as R writes them: the first line has one field less than all others."""
    first, *others = rows or [[]]
    if not others or any(len(row) != len(first) + 1 for row in others) or not any(row[-1] for row in others):
        return False
    return are_row_names([row[0] for row in others])


def _guess_header(first: Sequence[str], body: Sequence[Sequence[str]], absent: set[str]) -> Header:
    """Whether a first line names columns, by what stands in it and below it."""
    below = list(zip(*body, strict=False)) if body else [()] * len(first)

    def of_numbers(fields: Sequence[str]) -> bool:
        held = [field for field in fields if field.lower() not in absent]
        return bool(held) and all(map(_is_number, held))

    columns = [of_numbers(fields) for fields in below]
    if not any(map(_is_number, first)):
        sure = any(columns) or not body
        return Header(True, None if sure else _note(first, "the names of the columns", "if it is a row", False))
    counting = [str(number) for number in range(len(first))]
    over_index = first[0] == "" and bool(body) and _counts(below[0])
    if list(first) == counting or list(first) == ["", *counting[:-1]] or over_index:
        return Header(True)
    numbers = [field for field in first if _is_number(field)]
    if len({*numbers}) < len(numbers) or not all(map(_is_whole, numbers)):
        return Header(False)
    over_fractions = len(numbers) > 1 and all(
        held and not all(_is_whole(field) for field in fields if field.lower() not in absent)
        for field, fields, held in zip(first, below, columns, strict=False)
        if _is_number(field)
    )
    word_over_numbers = any(
        held and field.lower() not in absent and not _is_number(field) and any(map(str.isalpha, field))
        for field, held in zip(first, columns, strict=False)
    )
    if over_fractions or word_over_numbers:
        return Header(True, _note(first, "the names of the columns", "if it is a row", False))
    return Header(False, _note(first, "a row", "if it names the columns", True))


def _note(first: Sequence[str], taken: str, otherwise: str, header: bool) -> str:
    asked = f"data.header: {str(header).lower()}"
    return f"data: the first line ({listed(first, SHOWN)}) is taken for {taken}; {otherwise}, {asked}"


def _is_number(field: str) -> bool:
    return is_number(field.replace(",", "."))


def _is_whole(field: str) -> bool:
    return re.fullmatch(r"[+-]?\d+", field) is not None


def _counts(fields: Sequence[str]) -> bool:
    """Whether fields are 0, 1, 2, ... or 1, 2, 3, ..."""
    return any(list(fields) == [str(start + i) for i in range(len(fields))] for start in (0, 1))


def _check_widths(source: str, rows: Sequence[Sequence[str]], numbers: Sequence[int], width: int) -> None:
    wrong = [(number, len(row)) for number, row in zip(numbers, rows, strict=True) if len(row) != width]
    if wrong:
        some = ", ".join(f"line {number}: {count}" for number, count in wrong[:SHOWN])
        raise ConfigurationError(
            f"{source}: {len(wrong)} of {counted(len(rows), 'line')} do not have the {counted(width, 'field')} of the "
            f"first ({some}{', ...' if len(wrong) > SHOWN else ''})"
        )


def _without_decimal_commas(frame: pd.DataFrame) -> dict[str, str]:
    """Puts 1.5 for 1,5 in columns of such numbers; their names, with the first number of each."""
    found = {}
    for name in frame.columns:
        fields = frame[name].dropna()
        if len(fields) and fields.str.fullmatch(DECIMAL).all() and fields.str.contains(",").any():
            frame[name] = frame[name].str.replace(",", ".")
            found[name] = fields[fields.str.contains(",")].iloc[0]
    return found
