"""Plots of rows that are no pictures: columns of a table, points, curves; data beside samples, in the data's units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from .batch import Batch, Shape
from .capabilities import DataDescription, Decodes, Encodes, HasCodes, Samples
from .errors import ConfigurationError, at_least, did_you_mean
from .panels import (
    Rows,
    against,
    bars,
    bins,
    counts,
    few_ticks,
    floats,
    grid,
    histogram,
    is_number,
    legend,
    note,
    points,
    short,
    title,
)
from .pictures import Picture, figure, panels_of_curves, require

POINT = 3
"""Rows of at most so many numbers are points in space, and longer ones curves."""
PANELS, PAIRED = 36, 5
"""The largest number of columns in the plot of marginals, and in that of pairs."""
CURVES = 8
"""The largest number of curves in a panel, and of panels of a curve and its reconstruction."""
SAMPLES = 1000
"""Draws of the model in a plot of columns."""


def has_columns(data_shape: Shape, data: DataDescription) -> bool:
    """Whether rows are plotted by their columns: those of a table, and points."""
    return len(data_shape) == 1 and (data.columns is not None or data_shape[0] <= POINT)


def has_plots(data_shape: Shape) -> bool:
    """Whether rows are no pictures: vectors."""
    return len(data_shape) == 1


def as_frame(x: Tensor, data: DataDescription) -> pd.DataFrame:
    """Rows of x `(rows, entries)` as columns in the data's own terms; without names `x0`, `x1`, and so on."""
    rows = data.rows_of(x)
    if isinstance(rows, pd.DataFrame):
        return rows
    return pd.DataFrame(rows, columns=data.columns or [f"x{i}" for i in range(rows.shape[1])])


def samples(
    model: Any, data: DataDescription, batch: Batch | None, count: int = SAMPLES, labels: Sequence[int] | None = None
) -> dict[str, Picture]:
    """Name -> plot of samples beside rows of data: of columns `marginals` and `pairs`, of longer vectors `samples`.

    Args:
        model: one that samples; draws of p(x|z) are plotted by columns, and means of p(x|z) as curves.
        data: what is known of its data.
        batch: rows of data; None: samples alone.
        count: draws in a plot of columns; eight at most are drawn as curves.
        labels: of the samples of a class-conditional model, used in turn; None: those of the batch, else all.
    """
    require(model, "sample", Samples)
    at_least(1, count=count)
    if has_columns(tuple(model.data_shape), data):
        rows = {} if batch is None else {"data": as_frame(batch.x, data)}
        rows["samples"] = drawn(model, data, batch, count, labels)
        return {"marginals": marginals(rows), **({"pairs": pairs(rows)} if len(numbers(rows)) > 1 else {})}
    curves = {} if batch is None else {"data": in_units(batch.x, data)}
    labels = labels_of(model, batch) if labels is None else labels
    return {"samples": lines({**curves, "samples": in_units(model.sample(min(count, CURVES), labels), data)})}


def drawn(
    model: Any, data: DataDescription, batch: Batch | None, count: int = SAMPLES, labels: Sequence[int] | None = None
) -> pd.DataFrame:
    """Draws of p(x|z) as columns in the data's own terms; the arguments are those of `samples`."""
    asked = labels_of(model, batch) if labels is None else labels
    return as_frame(model.sample(count, asked, mean=False), data)


def labels_of(model: Any, batch: Batch | None) -> list[int] | None:
    """The labels of a batch, for a class-conditional model: its samples have the labels' shares of the data."""
    return batch.y.tolist() if model.classes and batch is not None and batch.y is not None else None


@torch.no_grad()
def reconstructions(model: Any, data: DataDescription, batch: Batch, count: int = 32) -> Picture:
    """Rows against the means of p(x|z) for z from q(z|x): a panel for each column, or pairs of curves.

    Numbers are points; of binary values and categories, for which the likeliest stands, it is counted how often which
    became which.
    """
    require(model, "reconstruct", Encodes, Decodes)
    at_least(1, count=count)
    if not has_columns(tuple(model.data_shape), data):
        batch = batch.first(min(count, CURVES))
    again = model.decode(model.encode(batch.x, batch.y, draws=1)[0], batch.y)
    if not has_columns(tuple(model.data_shape), data):
        return pairs_of_lines(in_units(batch.x, data), in_units(again, data))
    x, found = as_frame(batch.x, data), as_frame(again, data)
    names = [*x][:PANELS]

    def draw(panels: Any) -> None:
        for axes, name in zip(panels, names, strict=True):
            known = x[name].notna() & found[name].notna()
            drawn = against if is_number(pd.concat([x[name], found[name]])) else counts
            drawn(axes, x[name][known], found[name][known])
            title(axes, name)
        panels[0].figure.supxlabel("data", fontsize="medium")
        panels[0].figure.supylabel("reconstruction", fontsize="medium")
        note(panels[0], columns=(len(names), len(x.columns)))

    return grid(draw, len(names))


def in_units(x: Tensor, data: DataDescription) -> Tensor:
    """Vectors in the original units."""
    return (data.restore(x) if data.restore else x).detach().float().cpu()


# Columns.


def numbers(rows: Rows) -> list[str]:
    """The names of the columns that are drawn as numbers, and not as bars."""
    names = next(iter(rows.values())).columns
    return [name for name in names if is_number(pd.concat([frame[name] for frame in rows.values()]))]


def marginals(rows: Rows, names: Sequence[str] | None = None) -> Picture:
    """A panel for each column: histograms of numbers, in the range of the data's middle 99 % and around it, or bars.

    Missing fields are left out.

    Args:
        rows: name -> table.
        names: the columns; None: the first 36.

    Raises:
        ConfigurationError: there is no such column.
    """
    there = _checked(rows, names)
    names = there[:PANELS]

    def draw(panels: Any) -> None:
        for axes, name in zip(panels, names, strict=True):
            fields = {who: frame[name].dropna() for who, frame in rows.items()}
            (histogram if is_number(pd.concat(fields.values())) else bars)(axes, fields)
            title(axes, name)
            axes.set(yticks=[])
        legend(panels[0], [*rows])
        note(panels[0], columns=(len(names), len(there)))

    return grid(draw, len(names))


def pairs(rows: Rows, names: Sequence[str] | None = None, what: str = "columns") -> Picture:
    """Columns of numbers against each other, as points, and their histograms on the diagonal.

    Args:
        rows: name -> table.
        names: the columns, at most five; None: the first five of numbers.
        what: the word for columns.

    Raises:
        ConfigurationError: there is no such column, it has no numbers, there are too many, or none.
    """
    there = numbers(rows)
    shown = there[:PAIRED] if names is None else _checked(rows, names)
    wrong = [name for name in shown if name not in there]
    if wrong or not 1 <= len(shown) <= PAIRED:
        of = ", ".join(map(repr, wrong)) if wrong else f"{len(shown)} columns"
        raise ConfigurationError(f"columns: {of}; a plot of pairs is of one to {PAIRED} columns of numbers")
    count = len(shown)

    def draw(panels: Any) -> None:
        spans = {name: bins([floats(frame[name].dropna()) for frame in rows.values()]).span for name in shown}
        for number, axes in enumerate(panels):
            y, x = divmod(number, count)
            if x > y:
                axes.set_axis_off()
                continue
            if x == y:
                histogram(axes, {who: frame[shown[x]].dropna() for who, frame in rows.items()})
                axes.set(yticks=[])
            else:
                points(axes, rows, shown[x], shown[y])
                axes.set(ylim=spans[shown[y]])
            axes.set(xlim=spans[shown[x]])
            few_ticks(axes, "x")
            if y < count - 1:
                axes.tick_params(labelbottom=False)
            else:
                axes.set_xlabel(short(shown[x]))
            if x == 0 and y > 0:
                axes.set_ylabel(short(shown[y]))
            elif x != y:
                axes.tick_params(labelleft=False)
        legend(panels[0], [*rows])
        if names is None:
            note(panels[0], **{what: (count, len(next(iter(rows.values())).columns))})

    size = max(3.0, 1.9 * count)
    return figure(draw, (size, size + 0.3), count * count, count)


def _checked(rows: Rows, names: Sequence[str] | None) -> list[str]:
    there = [str(name) for name in next(iter(rows.values())).columns]
    for name in names or []:
        if name not in there:
            raise ConfigurationError(f"columns: there is no column {name!r}{did_you_mean(name, there)}")
    return list(dict.fromkeys(names or there))


# Curves.


def lines(curves: Mapping[str, Tensor]) -> Picture:
    """At most eight vectors of each, `(rows, length)`, as curves over the place; one panel for each, with one scale."""
    shown = {who: rows[:CURVES] for who, rows in curves.items()}
    low, high = min(float(rows.min()) for rows in shown.values()), max(float(rows.max()) for rows in shown.values())
    margin = 0.05 * (high - low) or 1.0

    def draw(panels: Any) -> None:
        for axes, (who, rows) in zip(panels, shown.items(), strict=True):
            axes.plot(rows.T.numpy(), linewidth=1)
            axes.set(title=who, xlabel="place", ylim=(low - margin, high + margin))
            axes.locator_params(axis="x", integer=True)

    return figure(draw, (4 * len(shown), 3), len(shown))


def pairs_of_lines(x: Tensor, again: Tensor) -> Picture:
    """A panel for each row: the vector and its reconstruction, `(rows, length)` each."""

    def draw(panels: Any) -> None:
        for axes, row, found in zip(panels, x, again, strict=True):
            axes.plot(row.numpy(), linewidth=1)
            axes.plot(found.numpy(), linewidth=1)
            axes.set(xlabel="place")
            axes.locator_params(axis="x", integer=True)
        legend(panels[0], ["data", "reconstruction"])

    return panels_of_curves(draw, len(x), 0.3)


# Codes.


@torch.no_grad()
def codes(model: Any, batch: Batch, names: Sequence[str] | None = None) -> Picture:
    """Pairs of dimensions of codes, `z0`, `z1`, and so on: draws of q(z|x) for rows of data, and codes of the prior."""
    require(model, "show its codes", Encodes, HasCodes)
    found = {"codes of data": model.encode(batch.x, batch.y, draws=1)[0], "prior": model.sample_codes(SAMPLES)}
    return pairs({who: pd.DataFrame(z.cpu().numpy()).add_prefix("z") for who, z in found.items()}, names, "dimensions")


def stacked(drawn: Sequence[Picture]) -> Picture:
    """Pictures below each other, on white."""
    width = max(picture.shape[-1] for picture in drawn)
    return torch.cat(
        [torch.nn.functional.pad(picture, (0, width - picture.shape[-1]), value=1.0) for picture in drawn], 1
    )
