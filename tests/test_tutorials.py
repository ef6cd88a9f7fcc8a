"""The notebooks of docs/tutorials: their cells run, and what they say is so."""

from __future__ import annotations

import ast
import json
import logging
import re
import sys
import types
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "tutorials"
NOTEBOOKS = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
SHORT = {
    "table": {"STEPS": 20, "DRAWS": 2},
    "pictures": {"STEPS": 5, "CELLS": 10},
    "posterior": {"STEPS": 5, "DRAWS": 20},
}
"""For a quick run, the numbers of a notebook's first cell."""
every_notebook = pytest.mark.parametrize("name", NOTEBOOKS)


def cells(name, kind):
    notebook = json.loads((FOLDER / f"{name}.ipynb").read_text())
    return [{**cell, "source": "".join(cell["source"])} for cell in notebook["cells"] if cell["cell_type"] == kind]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the code of a notebook in an empty folder, and returns its variables."""

    def run(name, **numbers):
        if name == "posterior":
            pytest.importorskip("pyro", reason="the tutorial compares with NUTS of Pyro")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)
        module = types.ModuleType("tutorial")  # functions of a notebook are found by the name of its module
        monkeypatch.setitem(sys.modules, "tutorial", module)
        for number, cell in enumerate(cells(name, "code")):
            source = cell["source"]
            for variable, value in numbers.items() if number == 0 else ():
                source, count = re.subn(rf"^{variable} = \d+", f"{variable} = {value}", source, flags=re.M)
                assert count == 1, variable
            exec(compile(source, f"{name}.ipynb, code cell {number}", "exec"), vars(module))
        return vars(module)

    import matplotlib.pyplot as plt

    plt.switch_backend("agg")
    logger = logging.getLogger("pytorch_lightning")
    level = logger.level  # which the notebooks set
    yield run
    logger.setLevel(level)
    plt.close("all")


@every_notebook
def test_all_cells_run(run, name):
    run(name, **SHORT[name])


@every_notebook
def test_outputs_are_kept_and_small(name):
    path = FOLDER / f"{name}.ipynb"
    assert path.stat().st_size < 300_000
    code = cells(name, "code")
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert not re.search(r"(?<![\w.])/(home|root|tmp|work|Users)/", json.dumps([c["source"] for c in code] + outputs))


@every_notebook
def test_a_cell_is_short_and_the_notebook_has_one_title(name):
    for cell in cells(name, "code"):
        ast.parse(cell["source"])
        assert len(cell["source"].splitlines()) <= 25, cell["source"]
    text = "\n".join(cell["source"] for cell in cells(name, "markdown"))
    assert len(re.findall("^# ", text, re.M)) == 1
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert (FOLDER / target).exists(), target


@pytest.mark.slow
def test_imputations_are_as_good_as_the_tutorial_says(run):
    result = run("table")["result"]
    assert result.loc["all, on average", "VAE"] < 0.75 * result.loc["all, on average", "mean"]
    assert result.loc["bmi", "VAE"] < result.loc["bmi", "regression"]
    assert 0.85 < result.loc["all, on average", "inside"] < 0.95


@pytest.mark.slow
def test_the_posterior_of_avb_is_as_near_as_the_tutorial_says(run):
    table = run("posterior")["table"]
    assert table["AVB"] == pytest.approx(table["exact"], rel=0.02)


@pytest.mark.slow
def test_the_two_models_are_equal_within_the_error(run):
    result = run("pictures")["result"]
    assert abs(result["AVB"]["log p(x)"] - result["VAE"]["log p(x)"]) < result["VAE"]["s.e."]
    assert all(0 < result[name]["difference"] < 1.1 for name in result)
