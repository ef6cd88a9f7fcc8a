"""Files that the commands write: pictures, rows of data, parameters of a posterior."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from .. import draws, noise, pictures
from ..capabilities import DataDescription, Samples
from ..checkpoints import load, load_datamodule, read_checkpoint
from ..errors import DISK_FULL, ConfigurationError, UnwritableError, at_least
from ..evaluation import resample_posterior
from ..models import Posterior
from ..models.latent import cycled_labels
from ..reports.likelihood import why_no_likelihood
from ..support import Parameters


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an OSError into an UnwritableError with the file's name, and removes a partial file."""
    try:
        yield
    except OSError as error:
        if error.errno in (*DISK_FULL, None):  # numpy's error has no number
            path.unlink(missing_ok=True)
        raise UnwritableError(f"{str(path)!r} could not be written ({error.strerror or error})") from error


def draw_picture(picture: Callable[[Any], Tensor], ckpt_path: str, output: str, seed: int) -> None:
    """Writes the picture that a function of a checkpoint's model returns."""
    torch.manual_seed(noise.mixed_seed(seed, "picture"))
    path = Path(output)
    if path.suffix.lower() != ".png":
        raise ConfigurationError(f"output: {output!r} does not end in .png")
    drawn = picture(load(ckpt_path))
    with writing(path):
        pictures.write(drawn, path)
    print(path)


def require_density(model: Any, command: str) -> None:
    """Raises ConfigurationError if the model has no likelihood, which restoring data needs."""
    missing = why_no_likelihood(model)
    if missing:
        raise ConfigurationError(f"{type(model).__name__} cannot {command}: {missing}")


def write_samples(
    ckpt_path: str,
    output: str,
    n: int,
    labels: list[int] | None,
    x: str | None,
    resample: bool,
    seed: int,
    root: str | None,
) -> None:
    """What the command `sample` does; `commands.sample` has the arguments."""
    torch.manual_seed(noise.mixed_seed(seed, "picture"))
    model: Any = load(ckpt_path, root)
    at_least(1, n=n)
    path = Path(output)
    if isinstance(model, Posterior):
        if labels is not None:
            raise ConfigurationError("labels: a posterior has none")
        _write_parameters(model, path, n, x, seed if resample else None)
    elif x is not None or resample:
        key = "x" if x is not None else "resample"
        raise ConfigurationError(f"{key}: is for posteriors, and this is a {type(model).__name__}")
    elif path.suffix.lower() == ".png":
        picture = pictures.samples(model, n, labels)
        with writing(path):
            pictures.write(picture, path)
    elif path.suffix.lower() in ROWS:
        pictures.require(model, "sample", Samples)
        rows = model.sample(n, labels, mean=False)
        # A model may have been trained on plain loaders, and a DataModule of one's own need not know of units.
        named = read_checkpoint(ckpt_path).get("datamodule_hyper_parameters")
        data = DataDescription(load_datamodule(ckpt_path, root) if named else None)
        y = cycled_labels(n, labels, model.label_choices, rows.device)
        with writing(path):
            write_rows(path, rows, data, y)
    else:
        raise ConfigurationError(f"output: {output!r} does not end in .png or {', '.join(ROWS)}")
    print(output)


def _write_parameters(model: Posterior, output: Path, n: int, x: str | None, resample: int | None) -> None:
    """Writes draws; `resample` is the seed of importance resampling."""
    suffix = output.suffix.lower()
    if suffix not in (".png", *draws.SUFFIXES):
        raise ConfigurationError(f"output: {str(output)!r} does not end in .png, {', '.join(draws.SUFFIXES)}")
    rows = None if x is None else _read_data_sets(model, x)
    if rows is not None and len(rows) > 1 and suffix in (".png", ".csv"):
        raise ConfigurationError(f"x: holds {len(rows)} data sets, and a {suffix} file is of one; take .npz")
    if suffix == ".png" and resample is not None:
        raise ConfigurationError(
            "output: a picture is of the sampler's own draws; with resample take .npz, .csv or .nc"
        )
    if suffix == ".png":
        picture = pictures.posterior(model, n, rows)
        with writing(output):
            pictures.write(picture, output)
    else:
        drawn = model.draw(n, rows) if resample is None else _resampled(model, n, rows, resample)
        one = rows is not None and len(rows) == 1
        with writing(output):
            draws.write(output, {name: value.squeeze(1) for name, value in drawn.items()} if one else drawn)


def _resampled(model: Posterior, n: int, rows: Tensor | None, seed: int) -> Parameters:
    """Draws by name, as `Posterior.draw` gives them, and a line that says how good the weights were."""
    found = resample_posterior(model, n, rows, seed)
    worst, k = found.effective.min().item(), found.k.max().item()
    print(f"resample: {worst:.0%} of the weighted proposals are effective, Pareto k {k:.2f}")
    if k >= 0.7:
        print(
            "resample: k is above 0.7: the farthest tails are still not covered, or too few draws tell", file=sys.stderr
        )
    return model.target.by_name(found.z if model.amortised else found.z.squeeze(1))


def _read_data_sets(model: Posterior, path: str) -> Tensor:
    """`(batch, *data_shape)` from a file with one or several."""
    try:
        rows = torch.from_numpy(np.load(path)).to(torch.get_default_dtype())
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigurationError(f"x: {path!r} is no .npy file of numbers ({error})") from error
    return rows[None] if model.amortised and tuple(rows.shape) == model.data_shape else rows


ROWS = (".csv", ".npz", ".npy", ".parquet")
"""Files for rows of data."""


def write_rows(path: Path, rows: Tensor, data: DataDescription, y: Tensor | None = None) -> None:
    """Writes rows of x in the data's own terms, with their labels: a column of a table, or the array `y`.

    Raises:
        ConfigurationError: rows that are no table, or text, in a file that cannot hold them.
    """
    suffix = path.suffix.lower()
    labels = None if y is None else data.names_of(y)
    if suffix in (".csv", ".parquet"):
        table = _as_frame(rows, data)
        if labels is not None:
            table[data.label or "label"] = labels
        path.parent.mkdir(parents=True, exist_ok=True)
        write_frame(path, table)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    columns: dict[str, Any] = {} if labels is None else {"y": np.array(labels)}
    if data.to_frame is not None:
        table = data.to_frame(rows)
        if suffix == ".npy":
            raise ConfigurationError("output: a .npy file has no names of columns; write the table as .csv or .npz")
        columns |= {str(name): as_array(table[name]) for name in table.columns}
        np.savez(path, **columns)
        return
    values = (data.restore(rows) if data.restore else rows).numpy()
    if suffix == ".npz":
        np.savez(path, x=values, **columns)
    elif columns:
        raise ConfigurationError("output: a .npy file has one array, and these rows have labels; take .npz or .csv")
    else:
        np.save(path, values)


def _as_frame(rows: Tensor, data: DataDescription) -> pd.DataFrame:
    if data.to_frame is not None:
        return data.to_frame(rows)
    if rows.ndim != 2:
        raise ConfigurationError(
            f"output: rows of shape {tuple(rows.shape[1:])} are no table; write them as .npy or .npz"
        )
    values = data.restore(rows) if data.restore else rows
    return pd.DataFrame(values.numpy(), columns=[*(data.columns or [f"x{i}" for i in range(rows.shape[1])])])


def as_array(fields: pd.Series) -> np.ndarray:
    """A column as numbers, nan where missing, or as texts, empty where missing."""
    if pd.api.types.is_numeric_dtype(fields):
        return fields.astype("Float64").to_numpy(np.float64, na_value=np.nan)
    return fields.astype("string").fillna("").to_numpy(str)


def write_frame(path: Path, table: pd.DataFrame) -> None:
    """Writes a table as `.csv` or `.parquet`."""
    if path.suffix.lower() == ".csv":
        table.to_csv(path, index=False, float_format="%.8g")
        return
    try:
        table.to_parquet(path, index=False)
    except ImportError as error:
        raise ConfigurationError(
            "output: a .parquet file needs pyarrow; pip install 'lightning-avb[parquet]'"
        ) from error
