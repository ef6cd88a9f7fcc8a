"""What every report of `test` is made of: estimators, the figures they give, one table, one JSON file.

An estimator is one class. It has a `name`, says what is `missing` where it cannot run, and gives `figures`. What it
works on, its subject, is the model under test (`estimators.Run`) or draws of a posterior (`checks.PosteriorDraws`).
"""

from __future__ import annotations

import abc
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from ..errors import ConfigurationError

Subset = Literal["", "first", "different", "simulated"]


class Figure(NamedTuple):
    """A line of a report, and an object of its JSON file.

    Attributes:
        name: what it is.
        value: the number.
        standard_error: of `value`, over rows; nan for what is one number of all rows.
        rows: how many rows of data `value` is a mean over; 0: it is not such a mean.
        subset: the `first` rows of the test data, those that are `different`, or data `simulated` from the model;
            empty: all that the report was to evaluate.
        expected: on which side of the truth it lies (`below, in expectation`), or what it should be (`0.07 to 0.14`).
        note: the settings it was made with, or what it means.
        diagnostics: numbers that tell how good it is.
        objection: why the number, or what it describes, is not to be trusted; empty: nothing is known against it.
        seconds: what it took, on the first process.
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
        """How good it is, in words."""
        if self.objection:
            return f"NOT TO BE TRUSTED: {self.objection}"
        return ", ".join(f"{value:.3g} {name}" for name, value in (self.diagnostics or {}).items())


Subject = TypeVar("Subject")


class Estimator(abc.ABC, Generic[Subject]):
    """Gives some lines of a report.

    Attributes:
        name: short and unique; the noise of some estimators depends on it.
    """

    name: str = ""

    def missing(self, subject: Subject) -> str | None:
        """What it needs and does not find, in words that follow "needs"; None: it can run."""
        return None

    @abc.abstractmethod
    def figures(self, subject: Subject) -> list[Figure]:
        """The lines; on the first process alone."""


AnyEstimator = TypeVar("AnyEstimator", bound=Estimator[Any])


def selected(key: str, asked: Sequence[AnyEstimator | str], known: Sequence[AnyEstimator]) -> list[AnyEstimator]:
    """The estimators that a user asks for, by their names or as objects.

    Args:
        key: what the message calls the option.
        asked: names of `known` ones, or estimators of the user's own.
        known: those with a name.

    Raises:
        ConfigurationError: a name of none.
    """
    by_name = {estimator.name: estimator for estimator in known}
    for one in asked:
        if isinstance(one, str) and one not in by_name:
            raise ConfigurationError(f"{key}: {one!r} is none of {', '.join(by_name)}, and no path of a class")
    return [by_name[one] if isinstance(one, str) else one for one in asked]


def table(figures: Sequence[Figure], headings: Mapping[str, str], number: str = ".4g") -> str:
    """Figures in aligned columns; an empty line stands between figures of different rows.

    Args:
        figures: the lines.
        headings: attributes of `Figure` to show, in this order, and what the column is called.
        number: format of `value`.
    """
    cells = [[_cell(figure, column, number) for column in headings] for figure in figures]
    heading, *lines = align([list(headings.values()), *cells]).splitlines()
    shown, before = [heading], None
    for figure, line in zip(figures, lines, strict=True):
        rows = figure.rows, figure.subset
        shown += ["", line] if before not in (None, rows) else [line]
        before = rows
    return "\n".join(shown)


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
    """One object for every figure. JSON has neither nan nor infinity: null stands for them."""
    path.write_text(json.dumps([_json_value(figure._asdict()) for figure in figures], indent=1))


def _json_value(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _json_value(part) for name, part in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
