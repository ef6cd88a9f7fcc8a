"""The command `plot`: data beside samples of one or several models, the codes of one, curves of runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .. import noise, pictures, plots
from ..capabilities import Samples
from ..checkpoints import load_data
from ..errors import ConfigurationError, at_least
from ..row_files import checked_suffix, writing
from ..runs import short_names
from ..trained import Trained
from .comparison import curves, past_runs
from .outputs import validation_rows


def write_plot(
    places: Sequence[str],
    output: str,
    what: str | None,
    columns: Sequence[str] | None,
    n: int,
    seed: int,
    root: str | None,
) -> None:
    """What the command `plot` does; `commands.plot` has the arguments.

    Raises:
        ConfigurationError: the models have other columns than the first, or none; codes of several models.
    """
    checked_suffix(Path(output), pictures.SUFFIXES)
    at_least(1, n=n)
    if what == "curves":
        if columns is not None:
            raise ConfigurationError("columns: a plot of curves has a panel for every figure of validation")
        picture = curves(past_runs([_folder_of_run(place) for place in places], "ckpt_path"))
    else:
        picture = _of_models(places, what, columns, n, seed, root)
    with writing(Path(output)):
        pictures.write(picture, Path(output))
    print(output)


def _folder_of_run(place: str) -> str:
    """The folder of the run that a checkpoint is of; a folder is returned as it is."""
    path = Path(place)
    return str(path.absolute().parent.parent) if path.is_file() else place


def _names(places: Sequence[str]) -> list[str]:
    """Names of checkpoints: those of their runs, where all lie in runs and each in another one."""
    folders = {_folder_of_run(place) for place in places if Path(place).absolute().parent.name == "checkpoints"}
    paths = list(map(_folder_of_run, places)) if len(folders) == len(places) else places
    return short_names([*map(Path, paths)])


def _of_models(
    places: Sequence[str], what: str | None, columns: Sequence[str] | None, n: int, seed: int, root: str | None
) -> pictures.Picture:
    """Columns, or codes: without `what` columns of a model that has some, and codes of another."""
    models = [Trained(place, root) for place in places]
    first = models[0]
    if what is None:
        what = "marginals" if plots.has_columns(tuple(first.model.data_shape), first.data) else "codes"
    with noise.torch_seeded(seed, "plot"):
        if what == "codes":
            if len(models) > 1:
                raise ConfigurationError("ckpt_path: a plot of codes is of one model")
            return plots.codes(first.model, load_data(places[0], root, "val"), columns)
        _require_same_columns(models, places)
        names = ["samples"] if len(models) == 1 else _names(places)
        batch = validation_rows(places[0], root)
        rows = {} if batch is None else {"data": plots.as_frame(batch.x, first.data)}
        rows |= {name: plots.drawn(each.model, each.data, batch, n) for name, each in zip(names, models, strict=True)}
        return (plots.marginals if what == "marginals" else plots.pairs)(rows, columns)


def _require_same_columns(models: Sequence[Trained], places: Sequence[str]) -> None:
    for each, place in zip(models, places, strict=True):
        pictures.require(each.model, "be plotted", Samples)
        shape = tuple(each.model.data_shape)
        if not plots.has_columns(shape, each.data):
            raise ConfigurationError(f"ckpt_path: {place!r} is of rows of shape {shape}, which have no columns to plot")
        if each.data.columns != models[0].data.columns or shape != tuple(models[0].model.data_shape):
            raise ConfigurationError(f"ckpt_path: {place!r} is of other columns than {places[0]!r}")
