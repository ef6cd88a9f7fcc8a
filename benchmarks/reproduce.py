"""Figures in files: benchmarks/figures/TABLE.yaml has what a table of RESULTS.md or README.md shows, and its origin.

    python benchmarks/reproduce.py render             # writes the tables into the pages
    python benchmarks/reproduce.py render --check     # fails where a page differs
    python benchmarks/reproduce.py rerun --rows 10 --seed 0 --minutes 5 --root DATA

A table stands in its page between `<!-- figures: TABLE -->` and `<!-- end -->`. Its file has `command` (null: not
kept), `seeds`, `machine`, `torch`, `commit`, `columns` and `rows`, whose cells are texts as they are printed. In the
table of README.md a cell `{TABLE/ROW/COLUMN}` is the figure that stands there.

`rerun` draws rows at random among those that say how they are measured again in less than the time given, runs their
commands, each in an empty folder, and compares. The entry `rerun` of a table has

* `command`, with {root} for the data and the words of the row, such as {model};
* `figure`, the column of the table; `prints`, its name in what the command prints, where that is another;
* `reads`, a pattern of the file (.json) where the command leaves `prints`, if it does not print it in a table, and
  `times`, what it is multiplied by;
* `seeds`, how many the command takes; `of`, how many the figure is of, where it is not all `seeds` of the table;
* `rows`: the first cells `row` of the row in the table; the `seconds` that the command takes; `finds`, the first cells
  of the row that it prints, where it prints several; and any of the above that differs in this row.

Two figures are equal if they differ by at most one in the last digit shown. Otherwise their difference is counted in
its standard errors, s sqrt(1/old seeds + 1/new seeds). The spread s is pooled from the figures that have an error;
where neither has, none is known, and nothing is concluded. From three seeds s is rough: up to one row in six is then
outside by chance. The exit code is 1 if a figure lies more than two standard errors off, or could not be measured.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "benchmarks" / "figures"
PAGES = ("RESULTS.md", "README.md")
FIELDS = ("command", "seeds", "machine", "torch", "commit")
PLACE = re.compile(r"<!-- figures: (\w+) -->\n.*?<!-- end -->", re.DOTALL)
REFERENCE = re.compile(r"\{(\w+)/([^/}]+)/([^/}]+)\}")


# Tables.


class Table(NamedTuple):
    """Cells as texts."""

    columns: list[str]
    rows: list[list[str]]

    def row(self, first: list[str]) -> dict[str, str]:
        """The one row that begins with these cells, by column; of columns of one name, the first."""
        found = [row for row in self.rows if row[: len(first)] == first]
        if len(found) != 1:
            raise LookupError(f"{len(found)} rows begin with {first}")
        return dict(reversed([*zip(self.columns, found[0], strict=True)]))

    def markdown(self) -> str:
        lines = [markdown_row(self.columns), "|---" * len(self.columns) + "|", *map(markdown_row, self.rows)]
        return "\n".join(lines)


def markdown_row(cells: list[str]) -> str:
    return "|" + "|".join(f" {cell} ".replace("|", "\\|") if cell else " " for cell in cells) + "|"


def tables_in(text: str) -> list[Table]:
    """All tables in markdown, in order."""
    found = []
    for block in re.findall(r"^\|.*\n\|[-| ]+\|\n(?:\|.*(?:\n|$))*", text, re.MULTILINE):
        columns, _, *rows = [
            [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]
            for line in block.splitlines()
        ]
        found.append(Table(columns, rows))
    return found


# Pages.


def read_figures() -> dict[str, dict[str, Any]]:
    """All files, by the name of the table."""
    return {path.stem: yaml.safe_load(path.read_text()) for path in sorted(FOLDER.glob("*.yaml"))}


def table_of(name: str, figures: dict[str, dict[str, Any]]) -> Table:
    """The table as it is shown, with the figures of others in their places."""

    def look_up(reference: re.Match[str]) -> str:
        table, row, column = reference.groups()
        return table_of(table, figures).row([row])[column]

    rows = [[REFERENCE.sub(look_up, cell) for cell in row] for row in figures[name]["rows"]]
    return Table(figures[name]["columns"], rows)


def origin(entry: dict[str, Any]) -> str:
    """The line in small letters below a table."""
    seeds = entry["seeds"]
    if isinstance(seeds, list):
        one_run = seeds == [*range(seeds[0], seeds[-1] + 1)] and len(seeds) > 2
        seeds = f"{seeds[0]} to {seeds[-1]}" if one_run else ", ".join(map(str, seeds))
        seeds = f"{'seeds' if len(entry['seeds']) > 1 else 'seed'} {seeds}"
    parts = [
        "" if entry["command"] else "command not kept",
        seeds,
        entry["machine"],
        entry["torch"] and f"torch {entry['torch']}",
        entry["commit"] and f"commit {entry['commit']}",
    ]
    return f"<sub>{'; '.join(part for part in parts if part)}</sub>"


def rendered(page: str, figures: dict[str, dict[str, Any]]) -> str:
    """The page with its tables made anew. A command is shown once for the tables that follow each other with it."""
    shown = None

    def render(place: re.Match[str]) -> str:
        nonlocal shown
        name = place[1]
        if name not in figures:
            raise SystemExit(f"a page shows the table {name}, and there is no benchmarks/figures/{name}.yaml")
        entry = figures[name]
        parts = [table_of(name, figures).markdown()]
        if "command" in entry:
            parts.append(origin(entry))
            if entry["command"] and entry["command"] != shown:
                parts.insert(0, re.sub("^", "    ", entry["command"].strip(), flags=re.MULTILINE))
            shown = entry["command"]
        return f"<!-- figures: {name} -->\n" + "\n\n".join(parts) + "\n<!-- end -->"

    return PLACE.sub(render, page)


def render(check: bool) -> int:
    """Writes the pages; or only compares them, and gives how many differ."""
    figures, differ = read_figures(), 0
    for name in PAGES:
        page = (ROOT / name).read_text()
        new = rendered(page, figures)
        if new == page:
            continue
        differ += 1
        if check:
            print(f"{name} differs from benchmarks/figures: python benchmarks/reproduce.py render")
        else:
            (ROOT / name).write_text(new)
    return differ if check else 0


# Figures measured again.


class Figure(NamedTuple):
    """What a cell says: a mean, its standard error, and one in the last digit shown (0: all digits are there)."""

    value: float
    error: float | None = None
    digit: float = 0.0

    @classmethod
    def parse(cls, cell: str) -> Figure:
        """The first number of a cell. An error is at least half a digit: "0.00" has been rounded."""
        found = re.search(r"(-?[\d,]*\d(?:\.(\d+))?)(?: \+- (\d[\d.]*))?", cell)
        if not found:
            raise LookupError(f"no number in '{cell}'")
        digit = 10.0 ** -len(found[2] or "")
        error = max(float(found[3]), digit / 2) if found[3] else None
        return cls(float(found[1].replace(",", "")), error, digit)

    def __str__(self) -> str:
        value = f"{self.value:.{round(-math.log10(self.digit))}f}" if self.digit else f"{self.value:.4g}"
        return value if self.error is None else f"{value} +- {self.error:.2g}"


def compare(old: Figure, new: Figure, seeds: tuple[int, int]) -> tuple[str, float | None]:
    """A verdict, and the difference in its standard errors (None: no error is known). `seeds`: of the old, the new."""
    difference = abs(new.value - old.value)
    known = [(figure.error, count) for figure, count in zip((old, new), seeds, strict=True) if figure.error is not None]
    errors = None
    if known:  # with one seed each, whose errors are over rows, this is the errors in quadrature
        weights = [max(count - 1, 1) for _, count in known]
        variances = [error**2 * count for error, count in known]
        variance = sum(w * v for w, v in zip(weights, variances, strict=True)) / sum(weights)
        errors = difference / math.sqrt(variance * sum(1 / count for count in seeds))
    if difference <= max(old.digit, new.digit) * (1 + 1e-6):
        return "equal", errors
    if errors is None:
        return "no error known", None
    return "agrees" if errors <= 2 else "outside", errors


class Measurement(NamedTuple):
    """How a row is measured again: see the head of this file."""

    table: str
    row: list[str]
    figure: str
    old: Figure
    command: str
    seconds: float
    seeds: int
    of: int
    prints: str
    finds: list[str]
    reads: str | None
    times: float

    @classmethod
    def make(cls, table: str, entry: dict[str, Any], row: dict[str, Any], root: str) -> Measurement:
        """From a table's entry and a row of its `rerun`."""
        given = {"finds": [], "reads": None, "times": 1.0, **entry["rerun"], **row}
        given.setdefault("of", len(entry["seeds"]))
        given.setdefault("prints", given["figure"])
        old = Figure.parse(Table(entry["columns"], entry["rows"]).row(row["row"])[given["figure"]])
        command = given["command"].format(**{**given, "root": root})
        taken = {name: given[name] for name in cls._fields if name in given}
        return cls(**{**taken, "table": table, "old": old, "command": command})

    def find(self, printed: str, folder: Path) -> Figure:
        """The figure in what the command has printed, or left in its folder."""
        if self.reads:
            paths = [*folder.glob(self.reads)]
            if len(paths) != 1:
                raise LookupError(f"{len(paths)} files {self.reads}")
            return Figure(self.times * json.loads(paths[0].read_text())[self.prints])
        tables = [table for table in tables_in(printed) if self.prints in table.columns]
        if len(tables) != 1:
            raise LookupError(f"{len(tables)} tables with a column '{self.prints}'")
        return Figure.parse(tables[0].row(self.finds)[self.prints])

    def run(self) -> Figure:
        """The figure anew."""
        with TemporaryDirectory() as name:
            folder = Path(name)
            for part in ("benchmarks", "configs"):
                (folder / part).symlink_to(ROOT / part)
            path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
            environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
            command = ["sh", "-ec", self.command]
            run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
            if run.returncode:
                raise LookupError(f"exit code {run.returncode}: {(run.stderr.strip() or '-').splitlines()[-1]}")
            return self.find(run.stdout, folder)


def measurements(figures: dict[str, dict[str, Any]], root: str) -> list[Measurement]:
    """All rows that say how they are measured again."""
    return [
        Measurement.make(name, entry, row, root)
        for name, entry in figures.items()
        for row in entry.get("rerun", {}).get("rows", [])
    ]


def drawn(known: list[Measurement], rows: int, seed: int, minutes: float) -> list[Measurement]:
    """So many rows at random among those that take less time."""
    short = [each for each in known if each.seconds <= 60 * minutes]
    return random.Random(seed).sample(short, min(rows, len(short)))


def rerun(chosen: list[Measurement]) -> int:
    """Prints a line a row; 1: one is outside, or could not be measured."""
    print("| table, row, column | figure | again | standard errors | verdict | seconds |", flush=True)
    print("|---" * 6 + "|", flush=True)
    missed = 0
    for each in chosen:
        start = time.perf_counter()
        try:
            new = each.run()
        except LookupError as error:
            again, verdict, errors = "", f"failed: {error}", None
        else:
            verdict, errors = compare(each.old, new, (each.of, each.seeds))
            again = f"{new} ({each.seeds} seed{'s' * (each.seeds > 1)})"
        counted = "" if errors is None else f"{errors:.1f}"
        seconds = f"{time.perf_counter() - start:.0f}"
        place = f"{each.table}: {', '.join(each.row)}: {each.figure}"
        print(markdown_row([place, str(each.old), again, counted, verdict, seconds]), flush=True)
        missed += verdict not in ("equal", "agrees", "no error known")
    return int(missed > 0)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    tasks = parser.add_subparsers(dest="task", required=True)
    task = tasks.add_parser("render", help="write the tables of the pages")
    task.add_argument("--check", action="store_true", help="write nothing, fail where a page differs")
    task = tasks.add_parser("rerun", help="measure random rows again")
    task.add_argument("--rows", type=int, default=10, help="how many")
    task.add_argument("--seed", type=int, default=0, help="of the choice of rows")
    task.add_argument("--minutes", type=float, default=5.0, help="that a row may take, by its file")
    task.add_argument("--root", default="data", help="folder of the data")
    task.add_argument("--tables", nargs="+", help="only rows of these")
    options = parser.parse_args()
    if options.task == "render":
        return render(options.check)
    figures = read_figures()
    if unknown := set(options.tables or ()) - {*figures}:
        parser.error(f"there is no benchmarks/figures/{min(unknown)}.yaml")
    known = measurements(figures, str(Path(options.root).resolve()))
    known = [each for each in known if not options.tables or each.table in options.tables]
    return rerun(drawn(known, options.rows, options.seed, options.minutes))


if __name__ == "__main__":
    sys.exit(main())
