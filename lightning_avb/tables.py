"""What `lightning-avb test` writes: a table on the screen and the same as JSON beside the checkpoint."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

Which = Literal["", "first", "different", "simulated"]


class Line(NamedTuple):
    """A line of the table: a mean over rows.

    Attributes:
        estimate: its name.
        mean: in nats per datum.
        standard_error: over rows; nan for what is one number of all rows.
        rows: how many.
        which: the `first` rows of the test data, those that are `different`, or data `simulated` from the model; empty:
            all that the callback was to evaluate.
        side: where it lies beside log p(x).
        settings: what it was made with.
        diagnostics: numbers that tell how good it is.
        objection: why not to trust it; None where nothing is known for or against it.
        seconds: what it took, on the first process.
    """

    estimate: str
    mean: float
    standard_error: float
    rows: int
    which: Which = ""
    side: str = ""
    settings: str = ""
    diagnostics: dict[str, float] | None = None
    objection: str | None = None
    seconds: float = 0.0

    @property
    def check(self) -> str:
        """What the table says of how good it is."""
        if self.objection:
            return f"NOT TO BE TRUSTED: {self.objection}"
        return ", ".join(f"{value:.3g} {name}" for name, value in (self.diagnostics or {}).items())


def table(lines: Sequence[Line]) -> str:
    """The lines in columns, one below the other; an empty line stands between figures of different rows."""
    rows = [("estimate", "nats per datum", "s.e.", "rows", "side of log p(x)", "check", "settings", "seconds")]
    for line in lines:
        error = "" if math.isnan(line.standard_error) else f"{line.standard_error:.3f}"
        count = f"{line.which} {line.rows}".strip()
        seconds = f"{line.seconds:.1f}" if line.seconds else ""
        rows.append((line.estimate, f"{line.mean:.3f}", error, count, line.side, line.check, line.settings, seconds))
    text = columns(rows).splitlines()
    sets = [(line.rows, line.which) for line in lines]
    parts = text[:1]
    for before, now, row in zip([None, *sets], sets, text[1:], strict=False):
        parts += ["", row] if before not in (None, now) else [row]
    return "\n".join(parts)


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Cells one below the other."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def write(lines: Sequence[Line], path: Path) -> None:
    """The lines as JSON, which has neither nan nor infinity: null stands for them."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: plain(part) for name, part in value.items()}
        return None if isinstance(value, float) and not math.isfinite(value) else value

    path.write_text(json.dumps([plain(line._asdict()) for line in lines], indent=1))
