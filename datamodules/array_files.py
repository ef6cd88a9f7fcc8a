"""Reading arrays: `.npy` and `.npz`."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lightning_avb.errors import ConfigurationError, did_you_mean

from .mapping import map_array
from .table_files import TABLES

Label = int | str | None


class ArrayFile(NamedTuple):
    """The content of a file.

    Attributes:
        x: `(rows, ...)`.
        labels: one for each row; None: there are none.
    """

    x: np.ndarray
    labels: list[Any] | None = None


def described(path: Path | None) -> str:
    """A file, or an array in memory, within a message."""
    return "the array" if path is None else repr(str(path))


def source_of(path: Path | None) -> str:
    """A file, or an array in memory, at the beginning of a message."""
    return f"data{'' if path is None else '.path'}: {described(path)}"


def cell_error(path: Path | None, row: int | str, column: int | str, problem: str) -> ConfigurationError:
    """The error that names a row and a column of a file."""
    return ConfigurationError(f"{source_of(path)}, row {row}, column {column!r}: {problem}")


def read_array(path: Path, label: Label = None, name: str | None = None) -> ArrayFile:
    """The numbers of a file, and its labels apart from them.

    Args:
        path: the file; a `.npy` file is mapped, not read.
        label: the column of the labels, by its number; in a `.npz` file also the name of an array.
        name: the array of a `.npz` file, if there are several and none is called `x`.

    Raises:
        ConfigurationError: the file cannot be used; the message names file, row and column.
    """
    if not path.is_file():
        raise ConfigurationError(f"data.path: there is no file {str(path)!r}")
    suffix = path.suffix.lower()
    if suffix in TABLES:
        raise ConfigurationError(f"data.path: {str(path)!r} is a table; read it with --data Table")
    if suffix not in (".npy", ".npz"):
        raise ConfigurationError(f"data.path: {str(path)!r} ends in neither .npy nor .npz")
    try:
        if suffix == ".npy":
            found = _from_array(path, map_array(path), label)
        else:
            with np.load(path) as arrays:
                found = _from_arrays(path, dict(arrays), label, name)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigurationError(f"data.path: {str(path)!r} cannot be read: {error}") from error
    _require_numbers(path, found.x)
    return found


def array_in_memory(x: np.ndarray, y: np.ndarray | None = None, label: Label = None) -> ArrayFile:
    """The same of an array in memory, with labels `(rows,)` beside it or in a column of it.

    Raises:
        ConfigurationError: it holds no numbers, or there is not one label for each row.
    """
    if y is not None and y.shape != x.shape[:1]:
        raise ConfigurationError(f"data: labels of shape {y.shape}, not one for each row of an array {x.shape}")
    found = _from_array(None, x, label)
    _require_numbers(None, found.x)
    return found if y is None else ArrayFile(found.x, y.tolist())


def _require_numbers(path: Path | None, x: np.ndarray) -> None:
    if not x.size:
        raise ConfigurationError(f"{source_of(path)} holds no numbers")
    if x.dtype.kind not in "buif":
        at = ", ".join("0" * (x.ndim - 1))
        raise cell_error(path, 0, at, f"{x.flat[0]!r} is no number, nor is any other value")


def _from_arrays(path: Path, arrays: dict[str, np.ndarray], label: Label, name: str | None) -> ArrayFile:
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
    return ArrayFile(arrays[name], arrays[label].tolist())


def _from_array(path: Path | None, x: np.ndarray, label: Label) -> ArrayFile:
    if x.ndim < 2:
        x = x.reshape(-1, 1)
    if label is None:
        return ArrayFile(x)
    if isinstance(label, str) or x.ndim != 2:
        raise ConfigurationError(f"data.label: {label!r} is no column of the array {x.shape} in {described(path)}")
    if not -x.shape[1] <= label < x.shape[1]:
        raise ConfigurationError(f"data.label: there is no column {label}; {described(path)} has {x.shape[1]}")
    return ArrayFile(np.delete(x, label, 1), x[:, label].tolist())
