"""Draws of a posterior by name: written to files, and converted for ArviZ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import ConfigurationError, at_least
from .support import Parameters

SUFFIXES = (".npz", ".csv", ".nc")
"""How the name of a file of draws may end."""


def to_table(draws: Parameters) -> tuple[Tensor, list[str]]:
    """Draws by name, `(count, ...)` each, as one table `(count, columns)` and the names of its columns.

    A vector `theta` becomes `theta[0]`, `theta[1]` and so on.
    """
    columns, names = [], []
    for name, value in draws.items():
        columns.append(value.flatten(1) if value.ndim > 1 else value.unsqueeze(1))
        names += (
            [name] if value.ndim == 1 else [f"{name}[{','.join(map(str, i))}]" for i in np.ndindex(*value.shape[1:])]
        )
    return torch.cat(columns, 1), names


def to_arviz(draws: Parameters, chains: int = 4) -> Any:
    """Draws in ArviZ's format, for its summaries and plots.

    Draws of a sampler are independent. Since ArviZ compares chains, they are divided into `chains` of equal length; a
    remainder is left out.

    Args:
        draws: name -> `(count, ...)`.
        chains: their number.

    Raises:
        ConfigurationError: ArviZ is not installed, or there are fewer draws than chains.
    """
    try:
        import arviz
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"{error}; it comes with pip install 'lightning-avb[arviz]'") from error
    count = min(len(value) for value in draws.values()) // at_least(1, chains=chains)
    if count < 1:
        raise ConfigurationError(f"n: fewer draws than {chains} chains")
    parts = {
        name: value[: chains * count].reshape(chains, count, *value.shape[1:]).numpy(force=True)
        for name, value in draws.items()
    }
    return arviz.from_dict(posterior=parts)


def write(path: Path, draws: Parameters) -> None:
    """Writes draws: one array per name into .npz, a table into .csv, ArviZ's format into .nc; makes the folder.

    Raises:
        ConfigurationError: another suffix.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ConfigurationError(f"output: {str(path)!r} does not end in {', '.join(SUFFIXES)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    if suffix == ".npz":
        np.savez(path, **{name: value.numpy(force=True) for name, value in draws.items()})  # type: ignore[arg-type]
    elif suffix == ".csv":
        table, names = to_table(draws)
        quoted = ",".join(f'"{name}"' if "," in name else name for name in names)
        np.savetxt(path, table.numpy(force=True), delimiter=",", header=quoted, comments="", fmt="%.8g")
    else:
        to_arviz(draws).to_netcdf(path)
