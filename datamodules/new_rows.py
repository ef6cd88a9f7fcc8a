"""Rows of files that no DataModule has split: what a trained model is applied to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning.utilities import rank_zero_info

from lightning_avb.batch import Shape
from lightning_avb.errors import ConfigurationError

from .array_files import read_array
from .image_cache import ImageFormat, read_image
from .image_folder import EXTENSIONS
from .table import Table
from .table_files import TABLES, read_table


def read_rows(path: Path, data: Any, data_shape: Shape) -> tuple[Any, list[str] | None]:
    """The rows of a file, in the data's own terms, and their names where they have some.

    Args:
        path: a table for a `Table`; `.npy` or `.npz`; a picture, or a folder of pictures in the order of their names.
        data: the DataModule of the training.
        data_shape: shape of a row of x, to which pictures are brought.

    Raises:
        ConfigurationError: it cannot be read, or is not the kind of data that the model was trained on.
    """
    if not path.exists():
        raise ConfigurationError(f"input: there is no {str(path)!r}")
    suffix = path.suffix.lower()
    if path.is_dir() or suffix in EXTENSIONS:
        return _pictures(path, data_shape)
    if isinstance(data, Table):
        if suffix not in TABLES:
            raise ConfigurationError(f"input: {str(path)!r} is no table; it ends in none of {', '.join(TABLES)}")
        frame, _, notes = read_table(path, **data.reading, known=data.known_format().names, new=True)
        for note in notes:
            rank_zero_info(note)
        return frame, None
    if suffix in TABLES:
        raise ConfigurationError(f"input: {str(path)!r} is a table, and the model was trained on {tuple(data_shape)}")
    return read_array(path).x, None


def _pictures(path: Path, data_shape: Shape) -> tuple[np.ndarray, list[str]]:
    if len(data_shape) != 3 or data_shape[0] not in (1, 3):
        raise ConfigurationError(f"input: {str(path)!r} has pictures, and the model was trained on {tuple(data_shape)}")
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in EXTENSIONS)
    if not files:
        raise ConfigurationError(f"input: no pictures in {str(path)!r}")
    channels, height, width = data_shape
    try:
        rows = [read_image(str(file), ImageFormat((height, width), channels)) for file in files]
    except (OSError, ValueError, SyntaxError) as error:
        raise ConfigurationError(f"input: a picture cannot be read: {error}") from error
    return np.stack(rows), [str(file.relative_to(path)) if path.is_dir() else file.name for file in files]
