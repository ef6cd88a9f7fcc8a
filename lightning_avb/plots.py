"""Plots of rows that are no pictures: columns of a table, points, curves; data beside samples, in the data's units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from .batch import Batch, Shape
from .capabilities import DataDescription, Decodes, Encodes, HasCodes, Samples
from .errors import ConfigurationError, at_least, did_you_mean
from .pictures import Picture, figure, panels_of_curves, require

Rows = Mapping[str, pd.DataFrame]
"""What is drawn beside each other, such as `data` and `samples`; the first lies on top."""
POINT = 3
"""Rows of at most so many numbers are points in space, and longer ones curves."""
BARS = 12
"""A column with at most so many different whole numbers, of two values or of words, is drawn as bars."""
PANELS, PAIRED = 36, 5
"""The largest number of columns in the plot of marginals, and in that of pairs."""
FEWEST_POINTS = 200
"""In a plot of pairs there are as many samples as rows of data, or so many."""
CURVES = 8
"""The largest number of curves in a panel, and of panels of a curve and its reconstruction."""
LONGEST = 24
"""Letters of a name."""
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
def reconstructions(model: Any, data: DataDescription, batch: Batch, count: int = 32) -> Picture | None:
    """Rows against the means of p(x|z) for z from q(z|x): points, one panel per column of numbers, or pairs of curves.

    None if no column has numbers.
    """
    require(model, "reconstruct", Encodes, Decodes)
    at_least(1, count=count)
    if not has_columns(tuple(model.data_shape), data):
        batch = batch.first(min(count, CURVES))
    again = model.decode(model.encode(batch.x, batch.y, draws=1)[0], batch.y)
    if not has_columns(tuple(model.data_shape), data):
        return pairs_of_lines(in_units(batch.x, data), in_units(again, data))
    x, found = as_frame(batch.x, data), as_frame(again, data)
    names = numbers({"data": x})[:PANELS]

    def draw(panels: Any) -> None:
        for axes, name in zip(panels, names, strict=True):
            known = x[name].notna() & found[name].notna()
            original = _floats(x[name][known])
            axes.axline((float(original.mean()),) * 2, slope=1, color="lightgrey", linewidth=1)
            axes.scatter(original, _floats(found[name][known]), s=8, alpha=0.6, linewidths=0)
            axes.set_title(_short(name), fontsize="medium")
            axes.locator_params(nbins=3)
        panels[0].figure.supxlabel("data", fontsize="medium")
        panels[0].figure.supylabel("reconstruction", fontsize="medium")

    return _grid(draw, len(names)) if names else None


def in_units(x: Tensor, data: DataDescription) -> Tensor:
    """Vectors in the original units."""
    return (data.restore(x) if data.restore else x).detach().float().cpu()


# Columns.


def numbers(rows: Rows) -> list[str]:
    """The names of the columns that are drawn as numbers, and not as bars."""
    names = next(iter(rows.values())).columns
    return [name for name in names if _is_number(pd.concat([frame[name] for frame in rows.values()]))]


def marginals(rows: Rows, names: Sequence[str] | None = None) -> Picture:
    """A panel for each column: histograms of numbers, in the range of their middle 99 %, or bars.

    Missing fields are left out.

    Args:
        rows: name -> table.
        names: the columns; None: the first 36.

    Raises:
        ConfigurationError: there is no such column.
    """
    names = _checked(rows, names)[:PANELS]

    def draw(panels: Any) -> None:
        for axes, name in zip(panels, names, strict=True):
            fields = {who: frame[name].dropna() for who, frame in rows.items()}
            (_histogram if _is_number(pd.concat(fields.values())) else _bars)(axes, fields)
            axes.set_title(_short(name), fontsize="medium")
            axes.set(yticks=[])
        _legend(panels[0], rows)

    return _grid(draw, len(names))


def pairs(rows: Rows, names: Sequence[str] | None = None) -> Picture:
    """Columns of numbers against each other, as points, and their histograms on the diagonal.

    Args:
        rows: name -> table.
        names: the columns, at most five; None: the first five of numbers.

    Raises:
        ConfigurationError: there is no such column, it has no numbers, there are too many, or none.
    """
    there = numbers(rows)
    names = there[:PAIRED] if names is None else _checked(rows, names)
    wrong = [name for name in names if name not in there]
    if wrong or not 1 <= len(names) <= PAIRED:
        of = ", ".join(map(repr, wrong)) if wrong else f"{len(names)} columns"
        raise ConfigurationError(f"columns: {of}; a plot of pairs is of one to {PAIRED} columns of numbers")
    count = len(names)

    def draw(panels: Any) -> None:
        spans = {name: _span([_floats(frame[name].dropna()) for frame in rows.values()]) for name in names}
        for number, axes in enumerate(panels):
            y, x = divmod(number, count)
            if x > y:
                axes.set_axis_off()
                continue
            if x == y:
                _histogram(axes, {who: frame[names[x]].dropna() for who, frame in rows.items()})
                axes.set(yticks=[])
            else:
                _points(axes, rows, names[x], names[y])
                axes.set(ylim=spans[names[y]])
            axes.set(xlim=spans[names[x]])
            axes.locator_params(axis="x", nbins=3)
            if y < count - 1:
                axes.tick_params(labelbottom=False)
            else:
                axes.set_xlabel(_short(names[x]))
            if x == 0 and y > 0:
                axes.set_ylabel(_short(names[y]))
            elif x != y:
                axes.tick_params(labelleft=False)
        _legend(panels[0], rows)

    size = max(3.0, 1.9 * count)
    return figure(draw, (size, size + 0.3), count * count, count)


def _grid(draw: Any, count: int) -> Picture:
    """A picture of small panels, six in a row."""
    across = min(6, count)
    return figure(draw, (max(3.0, 2.2 * across), 1.8 * -(-count // across) + 0.4), count, across)


def _checked(rows: Rows, names: Sequence[str] | None) -> list[str]:
    there = [str(name) for name in next(iter(rows.values())).columns]
    for name in names or []:
        if name not in there:
            raise ConfigurationError(f"columns: there is no column {name!r}{did_you_mean(name, there)}")
    return list(dict.fromkeys(names or there))


def _is_number(fields: pd.Series) -> bool:
    if not pd.api.types.is_numeric_dtype(fields) or pd.api.types.is_bool_dtype(fields):
        return False
    values = _floats(fields.dropna())
    different = len(np.unique(values))
    return different > BARS or (different > 2 and bool((values != values.round()).any()))


def _floats(fields: pd.Series) -> np.ndarray:
    return fields.to_numpy(float)


def _span(parts: Sequence[np.ndarray]) -> tuple[float, float]:
    """The least range with the middle 99 % of each of some columns, and a little more."""
    ends = [np.quantile(part, [0.005, 0.995]) for part in parts if len(part)]
    low, high = float(min(end[0] for end in ends)), float(max(end[1] for end in ends))
    margin = 0.03 * (high - low) or 1.0
    return low - margin, high + margin


def _histogram(axes: Any, fields: Mapping[str, pd.Series]) -> None:
    found = {number: _floats(part) for number, part in enumerate(fields.values()) if len(part)}
    span, bins = _span([*found.values()]), min(30, max(8, round(2 * min(map(len, found.values())) ** 0.5)))
    for number, part in found.items():
        kind: dict[str, Any] = {"alpha": 0.5} if number == 0 else {"histtype": "step", "linewidth": 1.3}
        axes.hist(part, bins=bins, range=span, density=True, color=f"C{number}", **kind)
    axes.locator_params(axis="x", nbins=4)


def _bars(axes: Any, fields: Mapping[str, pd.Series]) -> None:
    """Shares of the commonest values, in the values' order."""
    shares = {who: part.value_counts(normalize=True) for who, part in fields.items()}
    together = pd.concat(shares.values()).groupby(level=0).sum()
    values = sorted(together.nlargest(BARS).index)
    width = 0.8 / len(fields)
    for number, share in enumerate(shares.values()):
        places = [place + (number - (len(fields) - 1) / 2) * width for place in range(len(values))]
        axes.bar(places, share.reindex(values).fillna(0).to_numpy(float), width, color=f"C{number}", alpha=0.7)
    texts = [_short(f"{value:g}" if isinstance(value, float) else value, 12) for value in values]
    turned = sum(map(len, texts)) > 16
    axes.set_xticks(range(len(values)), texts, fontsize="small", rotation=60 if turned else 0)


def _points(axes: Any, rows: Rows, x: str, y: str) -> None:
    most = max(FEWEST_POINTS, len(next(iter(rows.values()))))
    for number, frame in reversed([*enumerate(rows.values())]):
        both = frame[[x, y]].dropna()[:most]
        axes.scatter(_floats(both[x]), _floats(both[y]), s=7, alpha=0.6, color=f"C{number}", linewidths=0)
    axes.locator_params(axis="y", nbins=4)


def _legend(axes: Any, names: Mapping[str, Any]) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=f"C{number}", label=name, alpha=0.7) for number, name in enumerate(names)]
    letters = 10 * axes.figure.get_size_inches()[0]  # that fit beside each other
    across = max(1, int(letters / (6 + max(map(len, names)))))
    axes.figure.legend(handles=handles, loc="outside lower center", ncols=across)


def _short(name: Any, longest: int = LONGEST) -> str:
    text = str(name)
    return text if len(text) <= longest else text[: longest - 1] + "…"


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
        _legend(panels[0], {"data": None, "reconstruction": None})

    return panels_of_curves(draw, len(x), 0.3)


# Codes.


@torch.no_grad()
def codes(model: Any, batch: Batch, names: Sequence[str] | None = None) -> Picture:
    """Pairs of dimensions of codes, `z0`, `z1`, and so on: draws of q(z|x) for rows of data, and codes of the prior."""
    require(model, "show its codes", Encodes, HasCodes)
    found = {"codes of data": model.encode(batch.x, batch.y, draws=1)[0], "prior": model.sample_codes(SAMPLES)}
    return pairs({who: pd.DataFrame(z.cpu().numpy()).add_prefix("z") for who, z in found.items()}, names)


def stacked(drawn: Sequence[Picture]) -> Picture:
    """Pictures below each other, on white."""
    width = max(picture.shape[-1] for picture in drawn)
    return torch.cat(
        [torch.nn.functional.pad(picture, (0, width - picture.shape[-1]), value=1.0) for picture in drawn], 1
    )
