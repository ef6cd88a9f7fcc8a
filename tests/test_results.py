"""RESULTS.md and README.md show the figures of benchmarks/figures, and every table there says where it comes from."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import reproduce  # noqa: E402

FIGURES = reproduce.read_figures()
PAGES = {name: (reproduce.ROOT / name).read_text() for name in reproduce.PAGES}


@pytest.mark.parametrize("page", reproduce.PAGES)
def test_a_page_is_what_render_makes(page):
    """A figure that was changed in the page alone, or in the file alone."""
    assert reproduce.rendered(PAGES[page], FIGURES) == PAGES[page]


def test_every_table_of_results_comes_from_a_file_and_every_file_is_shown_once():
    """A table that was typed into the page, or a file that no page shows."""
    names = [name for page in PAGES.values() for name in reproduce.PLACE.findall(page)]
    assert sorted(names) == sorted(FIGURES)
    assert not reproduce.tables_in(reproduce.PLACE.sub("", PAGES["RESULTS.md"]))


@pytest.mark.parametrize("name", FIGURES)
def test_an_entry_has_its_fields(name):
    entry = FIGURES[name]
    fields = () if name == "models" else reproduce.FIELDS
    assert [key for key in entry if key != "rerun"] == [*fields, "columns", "rows"]
    assert all(
        len(row) == len(entry["columns"]) and all(isinstance(cell, str) for cell in row) for row in entry["rows"]
    )
    if fields:
        assert entry["seeds"] and entry["machine"] and re.fullmatch(r"[0-9a-f]{7}", entry["commit"])


def test_figures_of_the_readme_are_those_of_results():
    """Looked up where RESULTS.md has them in a table, and found in its text otherwise."""
    for *_, cell in FIGURES["models"]["rows"]:
        for figure in re.findall(r"-?[\d.]+ \+- [\d.]+", cell):
            assert figure in PAGES["RESULTS.md"], figure
    accuracies = [100 * float(row[1].split()[0]) for row in FIGURES["posteriors"]["rows"]]
    assert f"in {min(accuracies):.1f} to {max(accuracies):.1f} % ({len(accuracies)} targets)" in PAGES["README.md"]


def test_a_table_in_markdown_is_read_as_it_was_written():
    table = reproduce.Table(["", "KL(q, p(z|x))"], [["VAE", ""], ["AVB, 2", "3.90 +- 1.11"]])
    assert reproduce.tables_in(f"text\n\n{table.markdown()}\nmore | text") == [table]
    assert table.row(["VAE"]) == {"": "VAE", "KL(q, p(z|x))": ""}
    with pytest.raises(LookupError, match="0 rows begin with"):
        table.row(["GAN"])


# Figures measured again.


@pytest.mark.parametrize(
    ("cell", "figure"),
    [
        ("-1.5831 +- 0.0024", (-1.5831, 0.0024, 1e-4)),
        ("12.32 +- 0.19 %", (12.32, 0.19, 0.01)),
        ("-23.91 +- 0.00", (-23.91, 0.005, 0.01)),
        ("-22.08 (-0.20)", (-22.08, None, 0.01)),
        ("35,000", (35000.0, None, 1.0)),
        ("0.501 +- nan", (0.501, None, 1e-3)),
    ],
)
def test_what_a_cell_says(cell, figure):
    assert reproduce.Figure.parse(cell) == pytest.approx(figure)


def test_a_cell_without_a_number_is_no_figure():
    with pytest.raises(LookupError, match="no number in 'never'"):
        reproduce.Figure.parse("never")


@pytest.mark.parametrize(
    ("old", "new", "seeds", "verdict", "errors"),
    [
        ("1.00 +- 0.10", "1.40", (4, 1), "agrees", 0.4 / (0.2 * 1.25**0.5)),  # of one seed, with the spread of the old
        ("1.00 +- 0.10", "1.40", (4, 4), "outside", 0.4 / (0.2 * 0.5**0.5)),
        ("1.00", "1.40 +- 0.10", (1, 4), "agrees", 0.4 / (0.2 * 1.25**0.5)),
        ("1.00 +- 0.30", "1.40 +- 0.40", (1, 1), "agrees", 0.8),  # in quadrature
        ("1.00 +- 0.30", "2.20 +- 0.40", (1, 1), "outside", 2.4),
        ("1.00 +- 0.10", "1.30 +- 0.20", (3, 5), "agrees", 0.3 / ((0.03 + 0.4) / 3 * (1 / 3 + 1 / 5)) ** 0.5),
        ("1.00", "1.01", (1, 1), "equal", None),
        ("1.00", "1.02", (1, 1), "no error known", None),
    ],
)
def test_two_figures_are_compared_by_the_errors_that_are_known(old, new, seeds, verdict, errors):
    found = reproduce.compare(reproduce.Figure.parse(old), reproduce.Figure.parse(new), seeds)
    assert found == (verdict, pytest.approx(errors))


def entry(command: str, *rows: dict, **rerun: object) -> dict:
    """A table of two made-up rows, and how its rows are measured again."""
    again = {"command": command, "figure": "score", "seeds": 1, "rows": [*rows], **rerun}
    return {
        "seeds": [0, 1, 2, 3],
        "columns": ["model", "score"],
        "rows": [["A", "1.0 +- 0.1"], ["B", "5"]],
        "rerun": again,
    }


PRINTS = "printf '| name | points |\\n|---|---|\\n| {name} | 1.9 |\\n| other | 7 |\\n'"
A = {"row": ["A"], "name": "a", "seconds": 1}


def test_rows_are_measured_again_by_their_own_commands(capsys):
    table = entry(
        PRINTS, {**A, "finds": ["a"]}, {"row": ["B"], "name": "b", "seconds": 1, "finds": ["other"]}, prints="points"
    )
    found = reproduce.measurements({"scores": table}, "DATA")
    assert reproduce.rerun(found) == 1
    _, _, a, b = capsys.readouterr().out.splitlines()
    assert a.startswith("| scores: A: score | 1.0 +- 0.1 | 1.9 (1 seed) | 4.0 | outside |")
    assert b.startswith("| scores: B: score | 5 | 7 (1 seed) | | no error known |")
    assert reproduce.rerun(found[1:]) == 0


def test_a_figure_is_found_in_the_file_that_a_command_leaves():
    table = entry("mkdir runs; printf '{{\"test/error\": 0.011}}' > runs/test.json", A, reads="**/test.json")
    (found,) = reproduce.measurements(
        {"scores": table | {"rerun": table["rerun"] | {"prints": "test/error", "times": 100}}}, ""
    )
    assert found.run() == reproduce.Figure(pytest.approx(1.1))


@pytest.mark.parametrize(
    ("command", "failure"),
    [
        ("echo oh no >&2; false; echo later", "failed: exit code 1: oh no"),
        ("true", "failed: 0 tables with a column 'score'"),
        (PRINTS.replace("points", "score"), "failed: 2 rows begin with []"),
    ],
)
def test_what_cannot_be_measured_is_said(command, failure, capsys):
    assert reproduce.rerun(reproduce.measurements({"scores": entry(command, A)}, "DATA")) == 1
    assert f"| {failure} |" in capsys.readouterr().out


def test_rows_are_drawn_among_those_that_take_less_time():
    known = reproduce.measurements(FIGURES, "DATA")
    chosen = reproduce.drawn(known, 10, 0, minutes=2)
    assert len({(each.table, *each.row) for each in chosen}) == 10 and max(each.seconds for each in chosen) <= 120
    assert chosen == reproduce.drawn(known, 10, 0, 2) != reproduce.drawn(known, 10, 1, 2)
    assert len(reproduce.drawn(known, 10000, 0, 1e9)) == len(known) > 40


def test_what_a_row_is_measured_by_exists():
    """Scripts, their options, configurations, and no word of a command left open."""
    for each in reproduce.measurements(FIGURES, "DATA"):
        assert "{" not in each.command
        for script, options in re.findall(r"python (benchmarks/\w+\.py)(.*)", each.command):
            source = (reproduce.ROOT / script).read_text()
            assert all(f'"{option}"' in source for option in re.findall(r"--[\w-]+", options)), each.command
            assert each.reads or f"| {each.prints} |" in source or f"{each.prints} |" in source, each.prints
        for name in re.findall(r"--config (?!runs/)(\S+)", each.command):
            assert (reproduce.ROOT / "configs" / f"{name}.yaml").exists(), name
