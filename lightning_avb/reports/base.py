"""The parts of every report of `test`: estimators, their figures, one table, one JSON file.

An estimator is one class. It has a `name`, returns what is `missing` if it cannot run, and computes `figures`. Its
subject is the model under test (`estimators.Run`) or draws of a posterior (`checks.PosteriorDraws`).
"""

from __future__ import annotations

import abc
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from ..errors import ConfigurationError, did_you_mean

Subset = Literal["", "first", "different", "simulated"]


class Figure(NamedTuple):
    """A line of a report, and an object of its JSON file.

    Attributes:
        name: of the quantity.
        value: the number.
        standard_error: of `value`, over rows; nan if it is not a mean over rows.
        rows: number of rows of data in the mean; 0: it is not such a mean.
        subset: the `first` rows of the test data, those that are `different`, or data `simulated` from the model;
            empty: all rows of the report.
        expected: its side of the truth (`below, in expectation`), or the range of good values (`0.07 to 0.14`).
        note: its settings, or its meaning.
        diagnostics: numbers about its quality.
        objection: why the number, or what it describes, should not be trusted; empty: no objection.
        seconds: computing time, on the first process.
    """

    name: str
    value: float
    standard_error: float = math.nan
    rows: int = 0
    subset: Subset = ""
    expected: str = ""
    note: str = ""
    diagnostics: dict[str, float] | None = None
    objection: str = ""
    seconds: float = 0.0

    @property
    def check(self) -> str:
        """Its quality, in words."""
        if self.objection:
            return f"NOT TO BE TRUSTED: {self.objection}"
        return ", ".join(f"{value:.3g} {name}" for name, value in (self.diagnostics or {}).items())


Subject = TypeVar("Subject")


class Estimator(abc.ABC, Generic[Subject]):
    """Computes some lines of a report.

    Attributes:
        name: short and unique; the noise of some estimators depends on it.
    """

    name: str = ""

    def missing(self, subject: Subject) -> str | None:
        """What it needs and is not there, as the object of "needs ..."; None: it can run."""
        return None

    @abc.abstractmethod
    def figures(self, subject: Subject) -> list[Figure]:
        """The lines; called on the first process only."""


AnyEstimator = TypeVar("AnyEstimator", bound=Estimator[Any])


def selected(key: str, asked: Sequence[AnyEstimator | str], available: Sequence[AnyEstimator]) -> list[AnyEstimator]:
    """The estimators of a user's list, given by name or as objects.

    Args:
        key: the option, for the message.
        asked: names of `available` estimators, or other estimators.
        available: the estimators that can be given by name.

    Raises:
        ConfigurationError: an unknown name.
    """
    by_name = {estimator.name: estimator for estimator in available}
    for one in asked:
        if isinstance(one, str) and one not in by_name:
            near = did_you_mean(one, by_name)
            raise ConfigurationError(
                f"{key}: {one!r} is none of {', '.join(by_name)}, and not the path of a class{near}"
            )
    return [by_name[one] if isinstance(one, str) else one for one in asked]


def table(figures: Sequence[Figure], headings: Mapping[str, str], number: str = ".4g") -> str:
    """Figures in aligned columns, with an empty line between figures of different rows.

    Args:
        figures: the lines.
        headings: attribute of `Figure` -> heading of its column, in the order of the columns.
        number: format of `value`.
    """
    heading, *lines = align(cells(figures, headings, number)).splitlines()
    lines_of_table, before = [heading], None
    for figure, line in zip(figures, lines, strict=True):
        rows = figure.rows, figure.subset
        lines_of_table += ["", line] if before not in (None, rows) else [line]
        before = rows
    return "\n".join(lines_of_table)


def cells(figures: Sequence[Figure], headings: Mapping[str, str], number: str = ".4g") -> list[list[str]]:
    """The headings, and a row of texts per figure; the arguments are those of `table`."""
    return [list(headings.values()), *([_cell(figure, column, number) for column in headings] for figure in figures)]


def _cell(figure: Figure, column: str, number: str) -> str:
    match column:
        case "value":
            return format(figure.value, number)
        case "standard_error":
            return "" if math.isnan(figure.standard_error) else f"{figure.standard_error:.3f}"
        case "rows":
            return f"{figure.subset} {figure.rows}".strip()
        case "seconds":
            return f"{figure.seconds:.1f}" if figure.seconds else ""
    return str(getattr(figure, column))


def align(rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width, two spaces apart."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def write_json(figures: Sequence[Figure], path: Path) -> None:
    """Writes one object per figure. JSON has neither nan nor infinity, so they become null."""
    path.write_text(json.dumps([json_value(figure._asdict()) for figure in figures], indent=1))


def json_value(value: Any) -> Any:
    """The value with null in place of numbers that are not finite."""
    if isinstance(value, dict):
        return {name: json_value(part) for name, part in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
