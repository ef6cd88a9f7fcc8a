"""What the commands write: pictures, rows of data, parameters of a posterior."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from .. import draws, noise, pictures, plots
from ..batch import Batch
from ..checkpoints import label_names, load, load_data
from ..errors import ConfigurationError, at_least
from ..evaluation import resample_posterior
from ..inference import without_nan
from ..models import Posterior
from ..row_files import NAMED, ROWS, TABLES, checked_suffix, write_rows, writing
from ..support import Parameters
from ..trained import Trained, numbers_of_labels, read_input


def draw_picture(picture: Callable[[Any], Tensor], ckpt_path: str, output: str, seed: int) -> None:
    """Writes the picture that a function of a checkpoint's model returns."""
    torch.manual_seed(noise.mixed_seed(seed, "picture"))
    path = Path(output)
    checked_suffix(path, pictures.SUFFIXES)
    drawn = picture(load(ckpt_path))
    with writing(path):
        pictures.write(drawn, path)
    print(path)


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
    numbers = None if labels is None else numbers_of_labels("labels", model, label_names(ckpt_path), labels)
    if isinstance(model, Posterior):
        if labels is not None:
            raise ConfigurationError("labels: a posterior has none")
        _write_parameters(model, path, n, x, seed if resample else None)
    elif x is not None or resample:
        key = "x" if x is not None else "resample"
        raise ConfigurationError(f"{key}: is for posteriors, and this is a {type(model).__name__}")
    elif checked_suffix(path, (*pictures.SUFFIXES, *ROWS)) in pictures.SUFFIXES:
        if plots.has_plots(model.data_shape):
            rows = validation_rows(ckpt_path, root)
            drawn = plots.samples(model, Trained(ckpt_path, root).data, rows, n, numbers)
            picture = plots.stacked([*drawn.values()])
        else:
            picture = pictures.samples(model, n, numbers)
        with writing(path):
            pictures.write(picture, path)
    else:
        trained = Trained(ckpt_path, root)
        rows, names = trained.labelled_samples(n, labels, seed)
        has_columns = isinstance(rows, pd.DataFrame) or path.suffix.lower() in TABLES
        name = trained.label if has_columns else "y"
        with writing(path):
            write_rows(path, rows, None if names is None else {name: names})
    print(output)


def validation_rows(ckpt_path: str, root: str | None) -> Batch | None:
    """Rows of the validation data, for a plot; None, with a line that says so, if they are not there any more."""
    try:
        return load_data(ckpt_path, root, "val")
    except ConfigurationError as error:
        print(f"samples alone are drawn, without data: {error}", file=sys.stderr)
        return None


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


def write_codes(ckpt_path: str, given: str, output: str, draws: int | None, seed: int) -> None:
    """What the command `embed` does."""
    checked_suffix(Path(output), ROWS)
    trained = Trained(ckpt_path)
    rows, names = read_input(trained, Path(given))
    codes = trained.embed(rows, draws=draws, seed=seed)
    columns: dict[str, Any] = {} if names is None else {"file": names}
    if codes.ndim == 3:
        (count, length), path = codes.shape[:2], Path(output)
        if path.suffix.lower() in TABLES:
            columns = {name: np.tile(values, count) for name, values in columns.items()}
            columns |= {"row": np.tile(np.arange(length), count), "draw": np.repeat(np.arange(count), length)}
            codes = codes.reshape(-1, codes.shape[-1])
    if Path(output).suffix.lower() in TABLES:
        codes = pd.DataFrame(codes, columns=[f"z{i}" for i in range(codes.shape[-1])])
    with writing(Path(output)):
        write_rows(Path(output), codes, columns, array="z")
    print(output)


def write_scores(
    ckpt_path: str, given: str, output: str, samples: int | None, annealing: int | None, odd: int, seed: int
) -> None:
    """What the command `score` does."""
    checked_suffix(Path(output), NAMED)
    trained = Trained(ckpt_path)
    rows, names = read_input(trained, Path(given))
    value, error = trained.score(rows, samples=samples, annealing=annealing, seed=seed)
    columns: dict[str, Any] = {} if names is None else {"file": names}
    found = pd.DataFrame({**columns, "row": np.arange(len(value)), "log_p": value, "standard_error": error})
    with writing(Path(output)):
        write_rows(Path(output), found)
    if len(value) == 1:
        print(f"log p(x): {value[0]:.3f} nats, 1 row")
    else:
        print(f"log p(x): {value.mean():.3f} nats a row, standard deviation {value.std():.3f}, {len(value)} rows")
    if odd:
        count = min(odd, len(found))
        print("the oddest row:" if count == 1 else f"the {count} oddest rows:")
        print(found.nsmallest(odd, "log_p").to_string(index=False, float_format="%.3f"))
    print(output)


def write_imputations(ckpt_path: str, given: str, output: str, draws: int, seed: int) -> None:
    """What the command `impute` does."""
    path = Path(output)
    checked_suffix(path, (*ROWS, *pictures.SUFFIXES))
    trained = Trained(ckpt_path)
    rows, _ = read_input(trained, Path(given))
    are_pictures = len(trained.model.data_shape) > 1
    kinds = NAMED if isinstance(rows, pd.DataFrame) else (*ROWS, *pictures.SUFFIXES) if are_pictures else ROWS
    suffix = checked_suffix(path, kinds)
    filled = trained.impute(rows, draws=draws, seed=seed)
    if isinstance(rows, pd.DataFrame):
        print(_what_was_missing(rows, filled[0]))
        parts = filled if draws == 1 else [one.assign(draw=number) for number, one in enumerate(filled)]
        found: Any = pd.concat(parts, ignore_index=True)
        if suffix != ".csv":  # a .csv repeats the texts that are given
            found = trained.with_types(found)
    else:
        found = filled[0] if draws == 1 else np.stack(filled)
    with writing(path):
        if suffix in pictures.SUFFIXES:
            pictures.write(_picture_of_imputations(trained, rows, filled), path)
        else:
            write_rows(path, found)
    print(output)


def _picture_of_imputations(trained: Trained, rows: Any, filled: Sequence[Any]) -> pictures.Picture:
    """One row per datum: what is given, with hidden pixels in grey, and the draws."""
    whole, observed = without_nan(rows)
    x = trained.read(whole).x
    given = x if observed is None else torch.where(observed.view(x.shape), x, torch.full_like(x, 0.5))
    columns = torch.stack([given, *(trained.read(one).x for one in filled)], 1)
    return pictures.tiles(columns.flatten(0, 1), columns.shape[1])


def _what_was_missing(rows: pd.DataFrame, filled: pd.DataFrame) -> str:
    """How many fields are filled, and how many are not, in which columns."""
    left = filled.isna().sum()
    count = int(rows.isna().to_numpy().sum() - left.sum())
    line = f"{count} missing {'field is' if count == 1 else 'fields are'} filled"
    empty = left[left > 0]
    if empty.empty:
        return line
    stay = "1 stays" if left.sum() == 1 else f"{left.sum()} stay"
    return f"{line}; {stay} empty, in columns that are not the model's: {', '.join(map(str, empty.index))}"
