"""The command `plot`: columns of data beside samples of one or several models, or the codes of one."""

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
from .outputs import validation_rows


def write_plot(
    places: Sequence[str],
    output: str,
    what: str,
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
    models = [Trained(place, root) for place in places]
    with noise.torch_seeded(seed, "plot"):
        if what == "codes":
            if len(models) > 1:
                raise ConfigurationError("ckpt_path: a plot of codes is of one model")
            picture = plots.codes(models[0].model, load_data(places[0], root, "val"), columns)
        else:
            _require_same_columns(models, places)
            names = ["samples"] if len(models) == 1 else short_names([Path(place) for place in places])
            batch = validation_rows(places[0], root)
            rows = {} if batch is None else {"data": plots.as_frame(batch.x, models[0].data)}
            rows |= {
                name: plots.drawn(each.model, each.data, batch, n) for name, each in zip(names, models, strict=True)
            }
            picture = (plots.marginals if what == "marginals" else plots.pairs)(rows, columns)
    with writing(Path(output)):
        pictures.write(picture, Path(output))
    print(output)


def _require_same_columns(models: Sequence[Trained], places: Sequence[str]) -> None:
    for each, place in zip(models, places, strict=True):
        pictures.require(each.model, "be plotted", Samples)
        shape = tuple(each.model.data_shape)
        if not plots.has_columns(shape, each.data):
            raise ConfigurationError(f"ckpt_path: {place!r} is of rows of shape {shape}, which have no columns to plot")
        if each.data.columns != models[0].data.columns or shape != tuple(models[0].model.data_shape):
            raise ConfigurationError(f"ckpt_path: {place!r} is of other columns than {places[0]!r}")
