"""Files with rows, as .csv, .parquet, .npz or .npy, and how a file is written so that none is left half done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .errors import DISK_FULL, ConfigurationError, UnwritableError

TABLES = (".csv", ".parquet")
"""Files for rows with names of columns."""
NAMED = (".csv", ".npz", ".parquet")
"""Files whose columns or arrays have names."""
ROWS = (*NAMED, ".npy")
"""Files for rows of data."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an OSError into an UnwritableError with the file's name, and removes a partial file."""
    try:
        yield
    except OSError as error:
        if error.errno in (*DISK_FULL, None):  # numpy's error has no number
            path.unlink(missing_ok=True)
        raise UnwritableError(f"{str(path)!r} could not be written ({error.strerror or error})") from error


def checked_suffix(path: Path, allowed: Sequence[str]) -> str:
    """The ending of a file's name, in lower case.

    Raises:
        ConfigurationError: it is none of those allowed, which the message lists; or .parquet, and pyarrow is missing.
    """
    suffix = path.suffix.lower()
    if suffix not in allowed:
        raise ConfigurationError(f"output: {str(path)!r} does not end in {', '.join(allowed)}")
    if suffix == ".parquet" and find_spec("pyarrow") is None:
        raise ConfigurationError("output: a .parquet file needs pyarrow; pip install 'lightning-avb[parquet]'")
    return suffix


def write_rows(path: Path, rows: Any, columns: Mapping[str, Any] | None = None, array: str = "x") -> None:
    """Writes rows, with further columns: of a `.csv` or `.parquet`, or arrays of a `.npz`.

    Args:
        path: the file.
        rows: a DataFrame, or an array `(rows, ...)`.
        columns: name -> `(rows,)`.
        array: the name of the array in a `.npz`.

    Raises:
        ConfigurationError: the rows do not fit into such a file.
    """
    suffix, more = checked_suffix(path, ROWS), dict(columns or {})
    is_table = isinstance(rows, pd.DataFrame)
    if suffix == ".npy" and (is_table or more):
        raise ConfigurationError("output: a .npy file has one array and no names; take .npz or .csv")
    if suffix in TABLES and not is_table and rows.ndim != 2:
        raise ConfigurationError(f"output: rows of shape {rows.shape[1:]} are no table; write them as .npy or .npz")
    path.parent.mkdir(parents=True, exist_ok=True)
    if suffix == ".npy":
        np.save(path, rows)
    elif suffix == ".npz":
        arrays: dict[str, Any] = {name: _as_array(pd.Series(values)) for name, values in more.items()}
        if is_table:
            arrays |= {str(name): _as_array(rows[name]) for name in rows.columns}
        else:
            arrays[array] = rows
        np.savez(path, **arrays)
    else:
        table = rows if is_table else pd.DataFrame(rows, columns=[f"x{i}" for i in range(rows.shape[1])])
        table = table.assign(**more)
        if suffix == ".csv":
            table.to_csv(path, index=False, float_format="%.8g")
        else:
            table.to_parquet(path, index=False)


def _as_array(fields: pd.Series) -> np.ndarray:
    """A column as numbers, nan where missing, or as texts, empty where missing."""
    if not pd.api.types.is_numeric_dtype(fields):
        return fields.astype("string").fillna("").to_numpy(str)
    if pd.api.types.is_bool_dtype(fields) and not fields.isna().any():
        return fields.to_numpy(bool)
    if fields.isna().any():
        return fields.astype("Float64").to_numpy(np.float64, na_value=np.nan)
    return fields.to_numpy(np.int64 if pd.api.types.is_integer_dtype(fields) else np.float64)
