"""Panels of plots: histograms, bars, points, lines and tables of counts; their titles, ticks and legends."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from torch import Tensor

from .pictures import Picture, figure

Rows = Mapping[str, pd.DataFrame]
"""What is drawn beside each other, such as `data` and `samples`; the first lies on top."""
Fields = Mapping[str, pd.Series]
"""One column of `Rows`, without missing fields."""
BARS = 12
"""A column with at most so many different whole numbers, of two values or of words, is drawn as bars."""
COUNTED = 5
"""The largest number of values in a panel with written counts."""
FEWEST_POINTS = 200
"""Beside fewer rows of data there are so many samples in a panel of points."""
BEYOND = 2
"""A histogram reaches beyond the data by at most so many times the range of the data, on each side."""
LONGEST = 24
"""Letters of a name."""


def is_number(fields: pd.Series) -> bool:
    """Whether a column is drawn as numbers, and not as values."""
    if not pd.api.types.is_numeric_dtype(fields) or pd.api.types.is_bool_dtype(fields):
        return False
    values = floats(fields.dropna())
    different = len(np.unique(values))
    return different > BARS or (different > 2 and bool((values != values.round()).any()))


def floats(fields: pd.Series) -> np.ndarray:
    """A column of numbers as an array."""
    return fields.to_numpy(float)


def grid(draw: Any, count: int) -> Picture:
    """A picture of small panels, six in a row."""
    across = min(6, count)
    return figure(draw, (max(3.0, 2.2 * across), 1.8 * -(-count // across) + 0.4), count, across)


def title(axes: Any, name: Any) -> None:
    """The name of a column above its panel."""
    axes.set_title(short(name), fontsize="medium")


def legend(axes: Any, names: Sequence[str], heading: str | None = None) -> None:
    """A legend of the colours, below the panels of the picture."""
    from matplotlib.patches import Patch

    handles = [Patch(color=f"C{number}", label=name, alpha=0.7) for number, name in enumerate(names)]
    letters = 10 * axes.figure.get_size_inches()[0]  # that fit beside each other
    across = max(1, int(letters / (6 + max(map(len, names)))))
    axes.figure.legend(handles=handles, loc="outside lower center", ncols=across, title=heading)


def note(axes: Any, **shown: tuple[int, int]) -> None:
    """Says above the panels of a picture that it does not show all, such as `5 of 31 columns`."""
    parts = [f"{count} of {there} {what}" for what, (count, there) in shown.items() if count < there]
    if parts:
        axes.figure.suptitle(", ".join(parts), fontsize="medium", color="dimgrey")


def short(name: Any, longest: int = LONGEST) -> str:
    """A name, cut where it is long."""
    text = f"{name:g}" if isinstance(name, float) else str(name)
    return text if len(text) <= longest else text[: longest - 1] + "…"


def few_ticks(axes: Any, along: str, bins: int = 3) -> None:
    """Few ticks on an axis of numbers, `x` or `y`; large and tiny ones with a power of ten for all."""
    axes.locator_params(axis=along, nbins=bins)
    axes.ticklabel_format(axis=along, scilimits=(-3, 4), useMathText=True)


def paths(axes: Any, along: Tensor, fields: Sequence[pd.Series]) -> None:
    """A column along some walks: lines of numbers, or steps between values, which lie beside each other."""
    numbers = is_number(pd.concat(fields))
    places = {} if numbers else {value: place for place, value in enumerate(commonest(fields))}
    for number, part in enumerate(fields):
        beside = 0.5 * ((number + 0.5) / len(fields) - 0.5)
        height = floats(part) if numbers else part.astype(object).map(places).to_numpy(float) + beside
        style = {"color": f"C{number % 10}", "linestyle": ("-", "--", ":", "-.")[number // 10 % 4], "linewidth": 1.2}
        axes.plot(along.numpy(), height, drawstyle="default" if numbers else "steps-mid", **style)
    few_ticks(axes, "x")
    if numbers:
        few_ticks(axes, "y")
    else:
        ticks(axes, "y", [*places])
        axes.set(ylim=(-0.5, len(places) - 0.5))


# Numbers.


class Bins(NamedTuple):
    """Edges of the bins of a histogram, all of one width.

    Attributes:
        of_data: those of the first part: between its least and its largest number, so that no bar shows data where
            there is none. They hold its middle 99 %, or all of fewer than 200 rows.
        of_all: these, and more on both sides for the middle 99 % of the other parts, as far as `BEYOND` allows.
    """

    of_data: np.ndarray
    of_all: np.ndarray

    @property
    def span(self) -> tuple[float, float]:
        """The range of a panel: a little more than that of the bins."""
        low, high = float(self.of_all[0]), float(self.of_all[-1])
        return low - 0.03 * (high - low), high + 0.03 * (high - low)


def bins(parts: Sequence[np.ndarray]) -> Bins:
    """The bins of some columns of numbers, empty ones left out."""
    parts = [part for part in parts if len(part)]
    ends = [(np.quantile(x, 0.005, method="lower"), np.quantile(x, 0.995, method="higher")) for x in parts]
    (low, high), least, largest = ends[0], min(low for low, _ in ends), max(high for _, high in ends)
    inside = min(30, max(8, round(2 * min(map(len, parts)) ** 0.5)))
    most = BEYOND * inside
    if low == high:
        half = 0.5 * (largest - least) / inside or 0.5
        low, high, inside = low - half, high + half, 1
    width = (high - low) / inside
    before, after = (min(most, math.ceil(gap / width)) for gap in (max(0.0, low - least), max(0.0, largest - high)))
    of_data = np.linspace(low, high, inside + 1)
    of_data[-1] = np.nextafter(high, np.inf)  # a bin has its lower edge, not its upper
    outside = low - width * np.arange(before, 0, -1), high + width * np.arange(1, after + 1)
    return Bins(of_data, np.concatenate([outside[0], of_data, outside[1]]))


def histogram(axes: Any, fields: Fields) -> None:
    """Densities of all rows; how many of the samples lie beyond the panel is written where it is 1 % or more."""
    found = {number: floats(part) for number, part in enumerate(fields.values()) if len(part)}
    first, (of_data, of_all) = min(found), bins([*found.values()])
    for number, part in found.items():
        edges, kind = (of_data, {"alpha": 0.5}) if number == first else (of_all, {"histtype": "step", "linewidth": 1.3})
        density = np.full(len(part), 1 / (len(part) * (of_data[1] - of_data[0])))
        axes.hist(part, edges, weights=density, color=f"C{number}", **kind)
        below, above = float((part < of_all[0]).mean()), float((part > of_all[-1]).mean())
        for share, x, side, text in ((below, 0.02, "left", "← {:.0%}"), (above, 0.98, "right", "{:.0%} →")):
            if share >= 0.01:
                place = {"transform": axes.transAxes, "ha": side, "va": "top", "fontsize": "small"}
                axes.text(x, 1.08 - 0.12 * number, text.format(share), color=f"C{number}", **place)
    few_ticks(axes, "x")


def points(axes: Any, rows: Rows, x: str, y: str) -> None:
    """Points of two columns: those of the first table on top, the others smaller and paler."""
    most = max(FEWEST_POINTS, len(next(iter(rows.values()))))
    for number, frame in reversed([*enumerate(rows.values())]):
        both = frame[[x, y]].dropna()[:most]
        style = {"s": 14 if len(both) < FEWEST_POINTS else 8, "alpha": 0.9} if number == 0 else {"s": 5, "alpha": 0.4}
        axes.scatter(floats(both[x]), floats(both[y]), color=f"C{number}", linewidths=0, **style)
    few_ticks(axes, "y", 4)


def against(axes: Any, original: pd.Series, found: pd.Series) -> None:
    """Points of numbers against what they should be, and the line on which both are equal."""
    axes.axline((float(original.mean()),) * 2, slope=1, color="lightgrey", linewidth=1)
    axes.scatter(floats(original), floats(found), s=8, alpha=0.6, linewidths=0)
    few_ticks(axes, "x")
    few_ticks(axes, "y")


# Values.


def commonest(fields: Iterable[pd.Series]) -> list[Any]:
    """The commonest values, in the values' order."""
    shares = pd.concat([part.value_counts(normalize=True) for part in fields]).groupby(level=0).sum()
    return sorted(shares.nlargest(BARS).index)


def ticks(axes: Any, along: str, values: Sequence[Any]) -> None:
    """Names of values at 0, 1, and so on, of an axis `x` or `y`."""
    texts = [short(value, 12) for value in values]
    turned = along == "x" and sum(map(len, texts)) > 16
    set_ticks = axes.set_xticks if along == "x" else axes.set_yticks
    set_ticks(range(len(values)), texts, fontsize="small", rotation=60 if turned else 0)


def bars(axes: Any, fields: Fields) -> None:
    """Shares of the commonest values."""
    values, width = commonest(fields.values()), 0.8 / len(fields)
    for number, part in enumerate(fields.values()):
        share = part.value_counts(normalize=True).reindex(values).fillna(0)
        places = [place + (number - (len(fields) - 1) / 2) * width for place in range(len(values))]
        axes.bar(places, share.to_numpy(float), width, color=f"C{number}", alpha=0.7)
    ticks(axes, "x", values)


def counts(axes: Any, original: pd.Series, found: pd.Series) -> None:
    """How often the commonest values, from left to right, became which, from bottom to top; right on the diagonal."""
    values = commonest([original, found])
    table = pd.crosstab(found, original).reindex(index=values, columns=values).fillna(0).to_numpy(int)
    axes.imshow(table, origin="lower", aspect="auto", cmap="Blues", vmin=0)
    axes.axline((0, 0), slope=1, color="lightgrey", linewidth=1)
    for y, x in zip(*table.nonzero(), strict=True) if len(values) <= COUNTED else ():
        light = table[y, x] > 0.6 * table.max()
        axes.text(x, y, table[y, x], ha="center", va="center", fontsize="small", color="white" if light else "black")
    ticks(axes, "x", values)
    ticks(axes, "y", values)
