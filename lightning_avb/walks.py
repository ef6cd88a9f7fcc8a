"""Walks through the space of codes: what lies between two rows of data, and what every dimension stands for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .batch import Batch
from .capabilities import DataDescription, Decodes, Encodes
from .errors import ConfigurationError, at_least
from .panels import grid, legend, note, paths, title
from .pictures import Picture, panels_of_curves, require, tiles
from .plots import CURVES, PANELS, as_frame, has_columns, has_plots, in_units


def interpolations(model: Any, data: DataDescription, batch: Batch, rows: int = 8, steps: int = 10) -> Picture:
    """Straight lines from the code of a row to that of another, with the label of the first.

    Of pictures each line is a row of tiles; of columns it is a line in the panel of every column; of longer vectors
    each line has a panel, with one curve for each step.

    Raises:
        ConfigurationError: the model cannot encode or decode, there is one row of data, or a number is too small.
    """
    require(model, "interpolate", Encodes, Decodes)
    at_least(1, rows=rows)
    at_least(2, steps=steps)
    count = min(2 * rows, len(batch.x) // 2 * 2)
    if not count:
        raise ConfigurationError(f"interpolate: a line is between two rows of data, and there is {len(batch.x)}")
    y = batch.y[:count] if batch.y is not None else None
    with torch.no_grad():
        z = model.encode(batch.x[:count], y, draws=1)[0]
        start, end = z[0::2, None], z[1::2, None]
        share = torch.linspace(0, 1, steps, device=z.device)
        labels = y[0::2, None].expand(-1, steps) if y is not None else None
        x = model.decode(start + share.view(1, -1, 1) * (end - start), labels)
    return _drawn(model, data, x, share, "from one row, 0, to another, 1")


def traversal(
    model: Any,
    data: DataDescription,
    dimensions: int | None = None,
    steps: int = 11,
    limit: float = 3.0,
    label: int | None = None,
) -> Picture:
    """Every dimension of z from -limit to limit, with the others at 0, drawn as lines are in `interpolations`.

    Args:
        model: one that decodes.
        data: what is known of its data.
        dimensions: number of dimensions, from the first; None: all, and of columns and curves the first eight.
        steps: points along each.
        limit: points lie between -limit and limit.
        label: for a class-conditional model.

    Raises:
        ConfigurationError: the model cannot decode, a number is out of its range, or a label is missing.
    """
    require(model, "traverse", Decodes)
    at_least(2, steps=steps)
    latent = model.code_dim
    if dimensions is not None and not 1 <= dimensions <= latent:
        raise ConfigurationError(f"dimensions: {dimensions} is not between 1 and the {latent} of the model's code")
    classes = model.classes
    if (label is None) != (not classes) or (label is not None and not 0 <= label < classes):
        expected = f"a class-conditional model needs one of 0..{classes - 1}" if classes else "the model knows none"
        raise ConfigurationError(f"label: {label}; {expected}")
    count = dimensions or (min(latent, CURVES) if has_plots(tuple(model.data_shape)) else latent)
    value = torch.linspace(-limit, limit, steps, device=model.device)
    with torch.no_grad():
        z = torch.eye(latent, device=model.device)[:count, None] * value.view(1, -1, 1)
        y = torch.full(z.shape[:-1], label, device=model.device) if label is not None else None
        x = model.decode(z, y)
    names = [f"z{number}" for number in range(count)]
    return _drawn(model, data, x, value, "the value of", names, latent if dimensions is None else count)


def _drawn(
    model: Any,
    data: DataDescription,
    x: Tensor,
    along: Tensor,
    what: str,
    names: Sequence[str] = (),
    there: int = 0,
) -> Picture:
    """Walks x `(walks, steps, *data_shape)` over `along` `(steps,)`; `there`: how many walks there could be."""
    along, shape = along.cpu(), tuple(model.data_shape)
    if has_columns(shape, data):
        return _columns(data, x, along, what, names, there)
    if has_plots(shape):
        return _curves(in_units(x.flatten(0, 1), data).view(x.shape), along, what, names, there)
    return tiles(x.flatten(0, 1), len(along))


def _columns(data: DataDescription, x: Tensor, along: Tensor, what: str, names: Sequence[str], there: int) -> Picture:
    frames = [as_frame(walk, data) for walk in x]
    columns = [*frames[0]]

    def draw(panels: Any) -> None:
        for axes, column in zip(panels, columns, strict=False):
            paths(axes, along, [frame[column] for frame in frames])
            title(axes, column)
        if names:
            legend(panels[0], names, what)
        else:
            panels[0].figure.supxlabel(what, fontsize="medium")
        note(panels[0], columns=(len(panels), len(columns)), dimensions=(len(names), there))

    return grid(draw, min(len(columns), PANELS))


def _curves(x: Tensor, along: Tensor, what: str, names: Sequence[str], there: int) -> Picture:
    def draw(panels: Any) -> None:
        from matplotlib import colormaps

        for number, (axes, walk) in enumerate(zip(panels, x, strict=True)):
            for step, row in enumerate(walk):
                axes.plot(row.numpy(), color=colormaps["viridis"](step / (len(along) - 1)), linewidth=1)
            axes.set(xlabel="place", title=names[number] if names else "")
            axes.locator_params(axis="x", integer=True)
        ends = [panels[0].lines[0], panels[0].lines[-1]]
        texts = [f"{value:g}" for value in along[[0, -1]].tolist()]
        panels[0].figure.legend(ends, texts, loc="outside lower center", ncols=2, title=what)
        note(panels[0], dimensions=(len(names), there))

    return panels_of_curves(draw, len(x), 0.5)
