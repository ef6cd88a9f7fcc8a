"""Reading the data and the reference draws of targets from files."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigurationError
from ..support import Parameters
from .exact import seeded_generator

_UNREADABLE = (OSError, ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile)
"""What numpy raises for a file that is no .npz file."""


def read_draws(path: Path, count: int, seed: int) -> Parameters:
    """`count` of the draws in an .npz file, chosen by the seed; all of them if there are fewer.

    Raises:
        ConfigurationError: no such file, or its arrays do not all have the same number of rows of finite numbers.
    """
    try:
        with np.load(path) as file:
            arrays = {name: torch.from_numpy(file[name]).to(torch.get_default_dtype()) for name in file.files}
    except _UNREADABLE as error:
        raise ConfigurationError(f"reference: {path} cannot be read as an .npz file of numbers ({error})") from error
    rows = {len(values) if values.ndim else 0 for values in arrays.values()}
    if len(rows) != 1 or not all(values.numel() and values.isfinite().all() for values in arrays.values()):
        shapes = {name: tuple(values.shape) for name, values in arrays.items()}
        raise ConfigurationError(
            f"reference: {path} has {shapes}; arrays of finite numbers with the same number of rows were expected"
        )
    chosen = torch.randperm(max(rows), generator=seeded_generator(seed))[:count]
    return {name: values[chosen] for name, values in arrays.items()}


def finite_tensor(path: str | Path, name: str, values: Any, dimensions: int) -> Tensor:
    """Data of a file as a tensor of torch's default dtype.

    Args:
        path: the file, for the message.
        name: the name of the data, for the message.
        values: what the file has.
        dimensions: how many it should have.

    Raises:
        ConfigurationError: the values are no finite numbers, or have another number of dimensions.
    """
    try:
        numbers = torch.from_numpy(np.array(values, dtype=np.float64)).to(torch.get_default_dtype())
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"path: {path}: {name} does not consist of numbers") from error
    if numbers.ndim != dimensions or not numbers.numel() or not numbers.isfinite().all():
        shape = tuple(numbers.shape)
        raise ConfigurationError(
            f"path: {path}: {name} has shape {shape}; finite numbers in {dimensions} dimensions were expected"
        )
    return numbers


def read_npz(path: str | Path, names: Sequence[str], expected: str) -> dict[str, np.ndarray]:
    """The arrays of these names.

    Args:
        path: the file.
        names: of the arrays.
        expected: what was expected, for the message.

    Raises:
        ConfigurationError: the file cannot be read, or lacks one of the arrays.
    """
    try:
        with np.load(path) as content:
            arrays = {name: content[name] for name in names if name in content}
    except _UNREADABLE as error:
        raise ConfigurationError(f"path: {path} cannot be read ({error_reason(error)}); {expected}") from error
    for name in names:
        if name not in arrays:
            raise ConfigurationError(f"path: {path} has no {name}; {expected}")
    return arrays


def error_reason(error: Exception) -> str:
    """An error of reading a file, without the path."""
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
