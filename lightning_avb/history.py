"""What a run has left in its folder, read back: configuration, starts, figures over the steps, log p(x)."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from .figures import Better, better_figure


class Curve(NamedTuple):
    """The values of a figure, and the steps after which they were logged."""

    steps: list[int]
    values: list[float]


def read_rows(metrics: Path) -> tuple[list[str], list[dict[str, str]]]:
    """The columns and the rows of a `metrics.csv`, without an incomplete last row of a killed run."""
    whole = metrics.read_text().rpartition("\n")[0]
    reader = csv.DictReader(whole.splitlines())
    return list(reader.fieldnames or []), list(reader)


def read_curves(metrics: Path) -> dict[str, Curve]:
    """Every figure of a `metrics.csv`, such as `val/elbo`, by its name; those without a value are left out."""
    curves: dict[str, Curve] = {}
    for row in read_rows(metrics)[1]:
        for name, value in row.items():
            if "/" in (name or "") and value:
                steps, values = curves.setdefault(name, Curve([], []))
                steps.append(int(row["step"]))
                values.append(float(value))
    return curves


LIKELIHOODS = ("quadrature", "annealing", "importance")
"""The estimates of log p(x) in a report of `test`, the best first; one without objection comes before all others."""


class Likelihood(NamedTuple):
    """An estimate of log p(x) from a report of `test`, in nats per row.

    Attributes:
        value: the estimate; None: it is not finite.
        standard_error: over rows; None: it has none.
        rows: number of rows.
        estimator: its name in the report.
        objection: why it should not be trusted; empty: no objection.
        file: the report's name.
    """

    value: float | None
    standard_error: float | None
    rows: int
    estimator: str
    objection: str
    file: str


@dataclass
class PastRun:
    """A run, as its folder tells it.

    Attributes:
        folder: of the run.
        config: the configuration of the last start; empty if there is none.
        starts: the entries of `run.yaml`.
        curves: name -> the figure over the steps.
        likelihood: the newest estimate of log p(x); None: `test` has left none.
        missing: what is not there, or cannot be read, in words.
    """

    folder: Path
    config: dict[str, Any] = field(default_factory=dict)
    starts: list[dict[str, Any]] = field(default_factory=list)
    curves: dict[str, Curve] = field(default_factory=dict)
    likelihood: Likelihood | None = None
    missing: list[str] = field(default_factory=list)

    @property
    def better(self) -> Better | None:
        """The figure of validation that says how good the model is; None: there is none."""
        return better_figure(self.curves)

    @property
    def best(self) -> tuple[int, float]:
        """The best value of `better`, which there must be, and the steps done until then; the first of equals."""
        assert self.better is not None
        curve, sign = self.curves[self.better.name], 1 if self.better.mode == "max" else -1
        finite = [(sign * value, -step - 1) for step, value in zip(*curve, strict=True) if not math.isnan(value)]
        value, step = max(finite, default=(math.nan, -curve.steps[-1] - 1))
        return -step, sign * value

    @property
    def steps(self) -> int | None:
        """Steps done, as far as they are recorded; None: no record."""
        logged = [curve.steps[-1] + 1 for curve in self.curves.values()]
        return max([self.starts[-1].get("steps") or 0 if self.starts else 0, *logged]) or None

    @property
    def planned(self) -> int | None:
        """`trainer.max_steps`; None: the run's length is not given in steps."""
        steps = (self.config.get("trainer") or {}).get("max_steps")
        return steps if isinstance(steps, int) and steps > 0 else None

    @property
    def seconds(self) -> float | None:
        """Time of training and validation, over all starts; None: no record."""
        return self.starts[-1].get("seconds") if self.starts else None

    @property
    def ended(self) -> bool:
        """Whether the training reached its end."""
        return bool(self.starts and self.starts[-1].get("ended"))


def read_run(folder: Path) -> PastRun:
    """Reads a run's folder. Nothing in it has to be there, or whole: see `PastRun.missing`."""
    run = PastRun(folder)
    configs = sorted(folder.glob("config*.yaml"), key=lambda path: path.stat().st_mtime_ns)
    run.config = _read_yaml(run, configs[-1] if configs else folder / "config.yaml", dict)
    run.starts = _read_yaml(run, folder / "run.yaml", list)
    metrics = folder / "metrics.csv"
    if metrics.exists():
        try:
            run.curves = read_curves(metrics)
        except (ValueError, KeyError, TypeError, csv.Error):
            run.missing.append("metrics.csv cannot be read")
        else:
            if not any(name.startswith("val/") for name in run.curves):
                run.missing.append("no validation yet")
    else:
        run.missing.append("no metrics.csv")
    if not any((folder / "checkpoints").glob("*.ckpt")):
        run.missing.append("no checkpoint")
    if run.starts and "steps" in run.starts[-1] and not run.ended:
        run.missing.append("not finished")
    run.likelihood = _read_likelihood(run)
    return run


def _read_yaml(run: PastRun, path: Path, kind: type) -> Any:
    """The content of a file; empty, with a note in `missing`, if it is not there or not of that kind."""
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        content = None
    if isinstance(content, kind) and content:
        return content
    run.missing.append(f"{path.name} cannot be read" if path.exists() else f"no {path.name}")
    return kind()


def _read_likelihood(run: PastRun) -> Likelihood | None:
    reports = sorted((run.folder / "checkpoints").glob("*.likelihood*.json"), key=lambda path: path.stat().st_mtime_ns)
    if not reports:
        return None
    try:
        figures = [figure for figure in json.loads(reports[-1].read_text()) if figure["name"] in LIKELIHOODS]
        if not figures:
            return None
        found = min(figures, key=lambda figure: (bool(figure["objection"]), LIKELIHOODS.index(figure["name"])))
        return Likelihood(
            value=found["value"],
            standard_error=found["standard_error"],
            rows=found["rows"],
            estimator=found["name"],
            objection=found["objection"],
            file=reports[-1].name,
        )
    except (ValueError, KeyError, TypeError):
        run.missing.append(f"{reports[-1].name} cannot be read")
        return None


def duration(seconds: float) -> str:
    """A time in words: `42 s`, `12 min`, `3.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
