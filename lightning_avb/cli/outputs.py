"""Files that the commands write: pictures, rows of data, parameters of a posterior."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import draws, noise, pictures
from ..capabilities import DataDescription, Samples
from ..checkpoints import label_names, load, load_datamodule, read_checkpoint
from ..errors import DISK_FULL, ConfigurationError, UnwritableError, at_least, did_you_mean
from ..evaluation import resample_posterior
from ..models import Posterior
from ..reports.likelihood import why_no_likelihood
from ..support import Parameters

ROW_SUFFIXES = (".npy", ".npz", ".csv")
"""How the name of a file of rows of data may end."""


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
        ConfigurationError: it is none of those allowed; the message lists them.
    """
    suffix = path.suffix.lower()
    if suffix not in allowed:
        raise ConfigurationError(f"output: {str(path)!r} does not end in {', '.join(allowed)}")
    return suffix


def draw_picture(picture: Callable[[Any], Tensor], ckpt_path: str, output: str, seed: int) -> None:
    """Writes the picture that a function of a checkpoint's model returns."""
    torch.manual_seed(noise.mixed_seed(seed, "picture"))
    path = Path(output)
    checked_suffix(path, pictures.SUFFIXES)
    drawn = picture(load(ckpt_path))
    with writing(path):
        pictures.write(drawn, path)
    print(path)


def require_density(model: Any, command: str) -> None:
    """Raises ConfigurationError if the model has no likelihood, which restoring data needs."""
    missing = why_no_likelihood(model)
    if missing:
        raise ConfigurationError(f"{type(model).__name__} cannot {command}: {missing}")


def numbers_of_labels(key: str, model: Any, ckpt_path: str, asked: Sequence[Any]) -> list[int]:
    """The numbers of labels that are given by number, by name, or as lists of these.

    Where the names are numbers, as in a table with the classes 1 and 2, a number is a name.

    Args:
        key: the option, for the message.
        model: the model; the clusters of an autoencoder have no names.
        ckpt_path: its checkpoint, which has the names.
        asked: the labels.

    Raises:
        ConfigurationError: a label that is neither; the message has the most similar name.
    """
    names = [] if getattr(model, "clusters", None) else label_names(ckpt_path) or []
    numbers = {name: number for number, name in enumerate(names)}
    if not any(name.lstrip("-").isdigit() for name in names):
        numbers.update({str(number): number for number in range(len(names))})
    found = []
    for label in (each for part in asked for each in (part if isinstance(part, list) else [part])):
        if names and str(label) not in numbers:
            raise ConfigurationError(f"{key}: {label!r} is none of {', '.join(names)}{did_you_mean(str(label), names)}")
        if not names and isinstance(label, str):
            raise ConfigurationError(f"{key}: {label!r} is no number, and the checkpoint has no names of labels")
        found.append(numbers.get(str(label), label))
    return found


def write_samples(
    ckpt_path: str,
    output: str,
    n: int,
    labels: Any,
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
    numbers = None if labels is None else numbers_of_labels("labels", model, ckpt_path, labels)
    if isinstance(model, Posterior):
        if labels is not None:
            raise ConfigurationError("labels: a posterior has none")
        _write_parameters(model, path, n, x, seed if resample else None)
    elif x is not None or resample:
        key = "x" if x is not None else "resample"
        raise ConfigurationError(f"{key}: is for posteriors, and this is a {type(model).__name__}")
    elif checked_suffix(path, (*pictures.SUFFIXES, *ROW_SUFFIXES)) in pictures.SUFFIXES:
        picture = pictures.samples(model, n, numbers)
        with writing(path):
            pictures.write(picture, path)
    else:
        pictures.require(model, "sample", Samples)
        rows = model.sample(n, numbers, mean=False)
        # A model may have been trained on plain loaders, and a DataModule of one's own need not know of units.
        named = read_checkpoint(ckpt_path).get("datamodule_hyper_parameters")
        data = DataDescription(load_datamodule(ckpt_path, root) if named else None)
        rows = data.restore(rows) if data.restore else rows
        with writing(path):
            _write_rows(path, rows, data.columns)
    print(output)


def _write_parameters(model: Posterior, output: Path, n: int, x: str | None, resample: int | None) -> None:
    """Writes draws; `resample` is the seed of importance resampling."""
    suffix = checked_suffix(output, (*pictures.SUFFIXES, *draws.SUFFIXES))
    is_picture = suffix in pictures.SUFFIXES
    rows = None if x is None else _read_data_sets(model, x)
    if rows is not None and len(rows) > 1 and (is_picture or suffix == ".csv"):
        raise ConfigurationError(f"x: holds {len(rows)} data sets, and a {suffix} file is of one; take .npz")
    if is_picture and resample is not None:
        raise ConfigurationError(
            "output: a picture is of the sampler's own draws; with resample take .npz, .csv or .nc"
        )
    if is_picture:
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


def _write_rows(path: Path, rows: Tensor, columns: Sequence[str] | None) -> None:
    if path.suffix.lower() == ".csv" and rows.ndim != 2:
        raise ConfigurationError(
            f"output: rows of shape {tuple(rows.shape[1:])} are no table; write them as .npy or .npz"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".csv":
        header = ",".join(columns or [f"x{i}" for i in range(rows.shape[1])])
        np.savetxt(path, rows.numpy(), delimiter=",", header=header, comments="", fmt="%.8g")
    elif path.suffix.lower() == ".npz":
        np.savez(path, x=rows.numpy())
    else:
        np.save(path, rows.numpy())
