"""Files of numbers: what a `.csv`, `.npy` or `.npz` file holds, and what in it cannot be used."""

from __future__ import annotations

import csv
import math
import zipfile
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_avb.errors import ConfigurationError

Label = int | str | None
_HINT = "; the column of the labels is to be named as data.label"


class Table(NamedTuple):
    """What a file holds.

    Attributes:
        x: `(rows, ...)`.
        labels: one for each row, None: there are none.
        columns: the columns' names, None: they have none.
    """

    x: np.ndarray
    labels: list[Any] | None = None
    columns: list[str] | None = None


def unusable(path: Path, row: int | str, column: int | str, problem: str) -> ConfigurationError:
    """The error that names a place in a file."""
    return ConfigurationError(f"data.path: {str(path)!r}, row {row}, column {column!r}: {problem}")


def read_table(path: Path, label: Label = None, name: str | None = None, delimiter: str = ",") -> Table:
    """The numbers of a file, apart from its labels.

    Args:
        path: the file; a `.npy` file is mapped, not read.
        label: the column of the labels, by name or number; in a `.npz` file also the name of an array.
        name: which array of a `.npz` file, if there are several and none is called `x`.
        delimiter: between two fields of a `.csv` file.

    Raises:
        ConfigurationError: what is wrong, with file, row and column.
    """
    if not path.is_file():
        raise ConfigurationError(f"data.path: there is no file {str(path)!r}")
    try:
        if path.suffix.lower() == ".csv":
            with path.open(newline="", encoding="utf-8-sig") as file:
                table = _csv(path, csv.reader(file, delimiter=delimiter), label)
        elif path.suffix.lower() == ".npy":
            table = _array(path, np.load(path, mmap_mode="c"), label)
        elif path.suffix.lower() == ".npz":
            with np.load(path) as arrays:
                table = _arrays(path, dict(arrays), label, name)
        else:
            raise ConfigurationError(f"data.path: {str(path)!r} ends in none of .csv, .npy, .npz")
    except (OSError, ValueError, EOFError, csv.Error, zipfile.BadZipFile) as error:
        raise ConfigurationError(f"data.path: {str(path)!r} cannot be read: {error}") from error
    if not table.x.size:
        raise ConfigurationError(f"data.path: {str(path)!r} holds no numbers")
    if table.x.dtype.kind not in "buif":
        at = ", ".join("0" * (table.x.ndim - 1))
        raise unusable(path, 0, at, f"{table.x.flat[0]!r}, and all of the array, is no number")
    return table


def _arrays(path: Path, arrays: dict[str, np.ndarray], label: Label, name: str | None) -> Table:
    names = [key for key in arrays if key != label]
    name = name or ("x" if "x" in names else names[0] if len(names) == 1 else None)
    if name not in names:
        problem = "which one is x" if name is None else f"there is no {name!r}"
        raise ConfigurationError(f"data.array: {problem}? {str(path)!r} holds {', '.join(names)}")
    if not isinstance(label, str):
        return _array(path, arrays[name], label)
    if label not in arrays:
        raise ConfigurationError(f"data.label: {str(path)!r} holds no {label!r}, only {', '.join(names)}")
    if arrays[label].shape != arrays[name].shape[:1]:
        raise ConfigurationError(
            f"data.label: {label!r} has shape {arrays[label].shape}, not one label for each row of {name!r}, "
            f"{arrays[name].shape}"
        )
    return Table(arrays[name], arrays[label].tolist())


def _array(path: Path, x: np.ndarray, label: Label) -> Table:
    if x.ndim < 2:
        x = x.reshape(-1, 1)
    if label is None:
        return Table(x)
    if isinstance(label, str) or x.ndim != 2:
        raise ConfigurationError(f"data.label: {label!r} is no column of the array {x.shape} in {str(path)!r}")
    column = _column(label, range(x.shape[1]))
    return Table(np.delete(x, column, 1), x[:, column].tolist())


def _column(label: int | str, names: Sequence[int | str]) -> int:
    """The number of the label's column."""
    if isinstance(label, int) and -len(names) <= label < len(names):
        return label % len(names)
    if label not in names or isinstance(label, int):
        raise ConfigurationError(f"data.label: there is no column {label!r}; there are {', '.join(map(str, names))}")
    return names.index(label)


def _csv(path: Path, lines: Any, label: Label) -> Table:
    rows: Iterator[list[str]] = (line for line in lines if line)
    first = next(rows, [])
    named = not any(map(is_number, first))
    names: list[Any] = [field.strip() for field in first] if named else list(range(len(first)))
    if len(names) == 1 and (mark := next((mark for mark in ";\t|" if mark in first[0]), None)):
        raise ConfigurationError(f"data.delimiter: {str(path)!r} has one column; is {mark!r} between the fields?")
    column = None if label is None else _column(label, names)
    kept = [name for number, name in enumerate(names) if number != column]
    values, labels, row = array("d"), list[str](), 0
    for row, fields in enumerate(rows if named else _again(first, rows), 1):
        place = f"{row} (line {lines.line_num})"
        if len(fields) != len(names):
            last = names[min(len(fields), len(names)) - 1]
            raise unusable(path, place, last, f"the row has {len(fields)} fields, the first one {len(names)}")
        if column is not None:
            labels.append(fields.pop(column).strip())
        try:
            numbers = [float(field) for field in fields]
        except ValueError:
            name, field = next((n, f) for n, f in zip(kept, fields, strict=True) if not is_number(f))
            raise unusable(
                path, place, name, f"{field!r} is no number{_HINT}" if field else "the field is empty"
            ) from None
        if not math.isfinite(sum(numbers)):
            for name, number in zip(kept, numbers, strict=True):
                if not math.isfinite(number):
                    raise unusable(path, place, name, f"{number} is not finite")
        values.extend(numbers)
    x = np.array(values).reshape(row, len(kept))
    return Table(x, labels if column is not None else None, kept if named else None)


def _again(first: list[str], rest: Iterator[list[str]]) -> Iterator[list[str]]:
    if first:
        yield first
    yield from rest


def is_number(field: Any) -> bool:
    """Whether it is a number, or text that spells one."""
    try:
        float(field)
    except (TypeError, ValueError):
        return False
    return True


def numbered(labels: list[Any], where: str) -> tuple[Tensor, list[str]]:
    """Labels as 0..k - 1 in sorted order, `(rows,)` int64, and what each number stands for.

    Numbers, also those that are spelled, are sorted as numbers, everything else as text; errors say `where` they are.
    An empty text, and -1 among numbers, is a label that is not known, and -1.

    Raises:
        ConfigurationError: numbers that are not whole: a quantity, and no label; fewer than two classes beside labels
            that are not known.
    """
    values: list[Any] = [str(label) for label in labels]
    if all(is_number(label) for label in labels if label != ""):
        broken = next((label for label in labels if label != "" and not float(label).is_integer()), None)
        if broken is not None:
            raise ConfigurationError(f"data.label: {where} has {broken}, a quantity; labels are words or whole numbers")
        values = [-1 if label == "" else int(float(label)) for label in labels]
    names = sorted(set(values) - {"", -1})
    if len(names) < min(2, len(set(values))):
        raise ConfigurationError(
            f"data.label: {where} has too few classes: {', '.join(map(repr, names)) or 'none'}; -1 or an empty field "
            "is a label that is not known"
        )
    numbers = {name: number for number, name in enumerate(names)}
    return torch.tensor([numbers.get(value, -1) for value in values]), [str(name) for name in names]
