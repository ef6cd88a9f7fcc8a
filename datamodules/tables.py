"""Reading files of numbers: `.csv`, `.npy` and `.npz`."""

from __future__ import annotations

import csv
import itertools
import math
import zipfile
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_avb.errors import ConfigurationError, did_you_mean, not_utf8

Label = int | str | None
_LABEL_HINT = "; if it is a label, name its column as data.label"


class Table(NamedTuple):
    """The content of a file.

    Attributes:
        x: `(rows, ...)`.
        labels: one for each row; None: there are none.
        columns: the columns' names; None: they have none.
    """

    x: np.ndarray
    labels: list[Any] | None = None
    columns: list[str] | None = None


def cell_error(path: Path, row: int | str, column: int | str, problem: str) -> ConfigurationError:
    """The error that names a row and a column of a file."""
    return ConfigurationError(f"data.path: {str(path)!r}, row {row}, column {column!r}: {problem}")


def read_table(path: Path, label: Label = None, name: str | None = None, delimiter: str = ",") -> Table:
    """The numbers of a file, and its labels apart from them.

    Args:
        path: the file; a `.npy` file is mapped, not read.
        label: the column of the labels, by name or number; in a `.npz` file also the name of an array.
        name: the array of a `.npz` file, if there are several and none is called `x`.
        delimiter: the character between two fields of a `.csv` file.

    Raises:
        ConfigurationError: the file cannot be used; the message names file, row and column.
    """
    if not path.is_file():
        raise ConfigurationError(f"data.path: there is no file {str(path)!r}")
    try:
        if path.suffix.lower() == ".csv":
            with path.open(newline="", encoding="utf-8-sig") as file:
                table = _from_csv(path, csv.reader(file, delimiter=delimiter), label)
        elif path.suffix.lower() == ".npy":
            table = _from_array(path, np.load(path, mmap_mode="c"), label)
        elif path.suffix.lower() == ".npz":
            with np.load(path) as arrays:
                table = _from_arrays(path, dict(arrays), label, name)
        else:
            raise ConfigurationError(f"data.path: {str(path)!r} ends in none of .csv, .npy, .npz")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"data.path: {str(path)!r} {not_utf8(error)}") from error
    except (OSError, ValueError, EOFError, csv.Error, zipfile.BadZipFile) as error:
        raise ConfigurationError(f"data.path: {str(path)!r} cannot be read: {error}") from error
    if not table.x.size:
        raise ConfigurationError(f"data.path: {str(path)!r} holds no numbers")
    if table.x.dtype.kind not in "buif":
        at = ", ".join("0" * (table.x.ndim - 1))
        raise cell_error(path, 0, at, f"{table.x.flat[0]!r} is no number, nor is any other value")
    return table


def _from_arrays(path: Path, arrays: dict[str, np.ndarray], label: Label, name: str | None) -> Table:
    names = [key for key in arrays if key != label]
    name = name or ("x" if "x" in names else names[0] if len(names) == 1 else None)
    if name not in names:
        problem = "none is given" if name is None else f"there is no {name!r}"
        near = did_you_mean(name or "", names)
        raise ConfigurationError(f"data.array: {problem}; {str(path)!r} has the arrays {', '.join(names)}{near}")
    if not isinstance(label, str):
        return _from_array(path, arrays[name], label)
    if label not in arrays:
        raise ConfigurationError(
            f"data.label: {str(path)!r} holds no {label!r}, only {', '.join(names)}{did_you_mean(label, names)}"
        )
    if arrays[label].shape != arrays[name].shape[:1]:
        raise ConfigurationError(
            f"data.label: {label!r} has shape {arrays[label].shape}, not one label for each row of {name!r}, "
            f"{arrays[name].shape}"
        )
    return Table(arrays[name], arrays[label].tolist())


def _from_array(path: Path, x: np.ndarray, label: Label) -> Table:
    if x.ndim < 2:
        x = x.reshape(-1, 1)
    if label is None:
        return Table(x)
    if isinstance(label, str) or x.ndim != 2:
        raise ConfigurationError(f"data.label: {label!r} is no column of the array {x.shape} in {str(path)!r}")
    column = _column_number(label, range(x.shape[1]))
    return Table(np.delete(x, column, 1), x[:, column].tolist())


def _column_number(label: int | str, names: Sequence[int | str]) -> int:
    """The number of the label's column."""
    if isinstance(label, int) and -len(names) <= label < len(names):
        return label % len(names)
    if label not in names or isinstance(label, int):
        there = [str(name) for name in names]
        near = did_you_mean(str(label), there) if isinstance(label, str) else ""
        raise ConfigurationError(f"data.label: there is no column {label!r}; there are {', '.join(there)}{near}")
    return names.index(label)


def _from_csv(path: Path, lines: Any, label: Label) -> Table:
    rows: Iterator[list[str]] = (line for line in lines if line)
    first = next(rows, [])
    named = not any(map(is_number, first))
    names: list[Any] = [field.strip() for field in first] if named else list(range(len(first)))
    if len(names) == 1 and (mark := next((mark for mark in ";\t|" if mark in first[0]), None)):
        raise ConfigurationError(f"data.delimiter: {str(path)!r} has one column; is {mark!r} between the fields?")
    column = None if label is None else _column_number(label, names)
    kept = [name for number, name in enumerate(names) if number != column]
    values, labels, row = array("d"), list[str](), 0
    for row, fields in enumerate(rows if named else itertools.chain([first], rows), 1):
        position = f"{row} (line {lines.line_num})"
        if len(fields) != len(names):
            last = names[min(len(fields), len(names)) - 1]
            raise cell_error(path, position, last, f"the row has {len(fields)} fields, the first one {len(names)}")
        if column is not None:
            labels.append(fields.pop(column).strip())
        try:
            numbers = [float(field) for field in fields]
        except ValueError:
            name, field = next((n, f) for n, f in zip(kept, fields, strict=True) if not is_number(f))
            raise cell_error(
                path, position, name, f"{field!r} is no number{_LABEL_HINT}" if field else "the field is empty"
            ) from None
        if not math.isfinite(sum(numbers)):
            for name, number in zip(kept, numbers, strict=True):
                if not math.isfinite(number):
                    raise cell_error(path, position, name, f"{number} is not finite")
        values.extend(numbers)
    x = np.array(values).reshape(row, len(kept))
    return Table(x, labels if column is not None else None, kept if named else None)


def is_number(field: Any) -> bool:
    """Whether it is a number, or text that can be read as one."""
    try:
        float(field)
    except (TypeError, ValueError):
        return False
    return True


def encode_labels(labels: list[Any], source: str) -> tuple[Tensor, list[str]]:
    """Labels as 0..k - 1 in sorted order, `(rows,)` int64, and what each number stands for.

    If all labels can be read as numbers they are sorted as numbers, otherwise as text. An empty text, and -1 among
    numbers, is a label that is not known, and becomes -1.

    Args:
        labels: one for each row.
        source: where they come from, for the message.

    Raises:
        ConfigurationError: numbers that are not whole, which are quantities and no labels; fewer than two classes
            where some labels are not known.
    """
    values: list[Any] = [str(label) for label in labels]
    if all(is_number(label) for label in labels if label != ""):
        fraction = next((label for label in labels if label != "" and not float(label).is_integer()), None)
        if fraction is not None:
            raise ConfigurationError(
                f"data.label: {source} has {fraction}, a quantity; labels are words or whole numbers"
            )
        values = [-1 if label == "" else int(float(label)) for label in labels]
    names = sorted(set(values) - {"", -1})
    if len(names) < min(2, len(set(values))):
        raise ConfigurationError(
            f"data.label: {source} has too few classes: {', '.join(map(repr, names)) or 'none'}; -1 or an empty field "
            "is a label that is not known"
        )
    numbers = {name: number for number, name in enumerate(names)}
    return torch.tensor([numbers.get(value, -1) for value in values]), [str(name) for name in names]
