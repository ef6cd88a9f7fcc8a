"""Runs side by side: what differs, their figures, and what is said of runs that are not whole."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from test_cli import FIT

from lightning_avb import pictures
from lightning_avb.cli.comparison import differences, run_folders
from lightning_avb.errors import ConfigurationError
from lightning_avb.history import Curve, duration, read_curves, read_run

RUNS = Path("runs", "digits", "vae")


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch, without_curves):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def place(name, rows=(), config=None, figures=(), **start):
    """A run's folder, made by hand."""
    folder = RUNS / name
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "last.ckpt").touch()
    (folder / "config.yaml").write_text(yaml.safe_dump(config or {"trainer": {"max_steps": 30}}))
    (folder / "run.yaml").write_text(yaml.safe_dump([{"started": "2026-01-01", **start}]))
    (folder / "metrics.csv").write_text("epoch,step,train/elbo,val/elbo,val/kl\n" + "".join(f"{row}\n" for row in rows))
    if figures:
        (folder / "checkpoints" / "last.likelihood.json").write_text(json.dumps(figures))
    return folder


ROWS = ("0,9,-5.0,,", "0,9,,-6.0,1.0", "1,19,,-4.0,1.5", "1,20,-3.0,,", "2,29,,-4.5,2.0")


def figure(name, value, error=0.5, objection=""):
    return {"name": name, "value": value, "standard_error": error, "rows": 100, "objection": objection}


def printed(capsys):
    """The table of the last command: one dict per run."""
    heading, *lines = capsys.readouterr().out.splitlines()
    names = [name for name in heading.split("  ") if name]
    places = [heading.index(name) for name in names]
    ends = [*places[1:], None]
    return [
        {name.strip(): line[i:j].strip() for name, i, j in zip(names, places, ends, strict=True)}
        for line in lines
        if len(line) >= len(heading.rstrip()) - 30
    ]


# The table.


def test_a_row_has_what_differs_and_the_figures_of_its_run(command, capsys):
    model = {"class_path": "lightning_avb.VAE", "init_args": {"latent_dim": 2}}
    base = {"trainer": {"max_steps": 30, "default_root_dir": "a"}, "model": model, "seed_everything": 0}
    other = {**base, "trainer": {"max_steps": 60, "default_root_dir": "b"}, "seed_everything": 0}
    place("version_0", ROWS, base, [figure("annealing", -3.25)], steps=30, seconds=75.0, ended="2026-01-02")
    place("version_1", ROWS[:3], other, steps=20, seconds=7300.0)
    command("compare", RUNS)
    first, second = printed(capsys)
    assert first == {
        "run": "version_0", "max_steps": "30", "steps": "30", "time": "75 s", "figure": "val/elbo", "best": "-4.0000",
        "after": "20", "last": "-4.5000", "log p(x)": "-3.250 ± 0.500 (annealing, 100 rows)",
        "missing, or to be noted": "",
    }  # fmt: skip
    assert (
        second["steps"] == "20 of 60"
        and second["time"] == "2.0 h"
        and second["missing, or to be noted"] == "not finished"
    )
    assert (second["max_steps"], second["best"], second["last"], second["log p(x)"]) == (
        "60",
        "-4.0000",
        "-4.0000",
        "-",
    )


def test_json_says_the_same(command, capsys):
    place("version_0", ROWS, None, [figure("importance", math.nan, None)], steps=30, seconds=75.0, ended="2026-01-02")
    command("compare", RUNS / "version_0", "--output", "new/compare.json")
    (found,) = json.loads(Path("new/compare.json").read_text())
    assert found == {
        "run": "runs/digits/vae/version_0", "configuration": {}, "steps": 30, "max_steps": 30, "seconds": 75.0,
        "ended": True, "figure": {"name": "val/elbo", "best": -4.0, "step": 20, "last": -4.5}, "notes": [],
        "log_likelihood": {"value": None, "standard_error": None, "rows": 100, "estimator": "importance",
                           "objection": "", "file": "last.likelihood.json"},
    }  # fmt: skip
    assert capsys.readouterr().out.endswith("new/compare.json\n")


def test_runs_that_are_not_whole_are_listed_with_what_is_missing(command, capsys):
    (RUNS / "version_0").mkdir(parents=True)
    broken = place("version_1", ROWS)
    (broken / "config.yaml").write_text("a: [")
    (broken / "run.yaml").write_text("no list")
    (broken / "checkpoints" / "last.likelihood.json").write_text("{")
    (broken / "checkpoints" / "last.ckpt").unlink()
    (place("version_2") / "metrics.csv").write_text("epoch,step,val/elbo\n0,9,-6.0\n1,torn,-5.0\n2,half")
    place("version_3", ["0,9,-5.0,,"])
    (place("version_4") / "metrics.csv").write_text("epoch,step,val/generator_loss\n0,9,1.0\n")
    (place("version_10") / "metrics.csv").write_text("epoch,step,val/elbo_estimate\n0,9,1.0\n")
    command("compare", RUNS)
    notes = {row["run"]: row["missing, or to be noted"] for row in printed(capsys)}
    assert list(notes) == [f"version_{number}" for number in (0, 1, 2, 3, 4, 10)]
    assert notes == {
        "version_0": "no config.yaml; no run.yaml; no metrics.csv; no checkpoint",
        "version_1": "config.yaml cannot be read; run.yaml cannot be read; no checkpoint; "
        "last.likelihood.json cannot be read",
        "version_2": "metrics.csv cannot be read",
        "version_3": "no validation yet",
        "version_4": "no figure of validation says how good it is",
        "version_10": "val/elbo_estimate is its critic's estimate",
    }


def test_a_folder_without_a_run_is_an_error(refusal, capsys):
    Path("empty").mkdir()
    assert refusal("compare", "empty") == "error: compare: there is no run in the folder 'empty'"
    assert refusal("compare", "nowhere") == "error: compare: there is no folder 'nowhere'"
    place("version_0")
    assert refusal("compare", RUNS, "--output", "a.txt") == "error: output: 'a.txt' does not end in .json or .png"
    assert "nothing to draw" in refusal("compare", RUNS, "--output", "a.png")
    curves = ("plot", "--what", "curves", "--output", "a.png", "--ckpt_path")
    assert "nothing to draw" in refusal(*curves, next(RUNS.rglob("last.ckpt")))
    assert refusal(*curves, "nowhere") == "error: ckpt_path: there is no folder 'nowhere'"
    assert "columns: a plot of curves has a panel for every figure" in refusal(*curves, RUNS, "--columns", "elbo")
    assert refusal("compare").endswith("runs: required, and not given")


def test_runs_are_found_at_any_depth_and_counted_once(command, capsys):
    for name in ("version_2", "version_10", "job_4"):
        place(name, ROWS)
    shutil.copytree(RUNS, Path("runs/digits/avb_si"))
    assert [path.name for path in run_folders(Path("runs/digits/vae"))] == ["job_4", "version_2", "version_10"]
    assert len(list(run_folders(Path("runs")))) == 6
    command("compare", RUNS, RUNS / "version_2", "runs")
    assert len(printed(capsys)) == 6


def test_the_estimate_of_log_p_is_the_best_without_an_objection():
    far = "the chains disagree"
    folder = place(
        "version_0", ROWS, None, [figure("elbo", -5), figure("importance", -4), figure("annealing", -3, 1, far)]
    )
    assert read_run(folder).likelihood[:4] == (-4, 0.5, 100, "importance")
    place("version_1", ROWS, None, [figure("annealing", -3), figure("quadrature", -2), figure("importance", -4)])
    assert read_run(RUNS / "version_1").likelihood.estimator == "quadrature"
    place("version_2", ROWS, None, [figure("annealing", -3, 1, far)])
    assert read_run(RUNS / "version_2").likelihood.objection == far
    place("version_3", ROWS, None, [figure("elbo", -5)])
    assert read_run(RUNS / "version_3").likelihood is None


def test_the_best_is_the_first_of_equals_and_never_nan():
    folder = place("version_0", ["0,9,,nan,", "1,19,,-4.0,", "2,29,,-4.0,", "3,39,,nan,"])
    run = read_run(folder)
    assert run.best == (20, -4.0) and math.isnan(run.curves["val/elbo"].values[-1]) and run.steps == 40
    assert math.isnan(read_run(place("version_1", ["0,9,,nan,"])).best[1])


def test_a_real_run_tells_its_steps_and_time_and_a_resumed_one_those_of_both(command, capsys):
    command(*FIT, "--pictures.every_n_epochs=0")
    run = read_run(RUNS / "version_0")
    assert run.steps == run.planned == 24 and run.ended and run.missing == [] and run.seconds > 0
    command(*FIT, "--trainer.max_steps=36", "--pictures.every_n_epochs=0", "--ckpt_path", RUNS / "version_0")
    assert read_run(RUNS / "version_1").seconds > run.seconds
    command("compare", RUNS)
    first, second = printed(capsys)
    assert (first["max_steps"], second["max_steps"]) == ("24", "36") and first.keys() & {
        "encoder",
        "seed_everything",
    } == set()


# What differs.


def part(name, **options):
    return {"class_path": f"lightning_avb.{name}", "init_args": options}


def test_keys_that_differ():
    one = {"model": part("VAE", latent_dim=2, encoder=part("GaussianEncoder", width=8)), "data": part("Digits")}
    two = {"model": part("VAE", latent_dim=4, encoder=part("GaussianEncoder", width=8)), "data": part("Digits")}
    assert differences({"a": one, "b": one}) == {}
    assert differences({"a": one, "b": two}) == {"model.latent_dim": {"a": 2, "b": 4}}
    lacking = {**two, "seed_everything": 1}
    assert differences({"b": two, "c": lacking}) == {"seed_everything": {"c": 1}}
    places = {"trainer": {"logger": part("CSVLogger", save_dir="x"), "default_root_dir": "y"}, "ckpt_path": "z"}
    assert differences({"a": one, "b": {**one, **places}}) == {}


def test_options_that_only_one_class_has_are_left_out():
    vae = {"model": part("VAE", latent_dim=2, estimator="analytic", encoder=part("GaussianEncoder", width=8))}
    avb = {"model": part("AVB", latent_dim=4, samples=1, encoder=part("SemiImplicitEncoder", width=8, mixing=3))}
    assert differences({"a": vae, "b": avb}) == {
        "model": {"a": "VAE", "b": "AVB"},
        "model.latent_dim": {"a": 2, "b": 4},
        "model.encoder": {"a": "GaussianEncoder", "b": "SemiImplicitEncoder"},
    }
    more = {"model": part("AVB", latent_dim=4, samples=2, encoder=part("SemiImplicitEncoder", width=8, mixing=3))}
    assert differences({"a": vae, "b": avb, "c": more})["model.samples"] == {"b": 1, "c": 2}


def test_a_callback_more_is_a_difference():
    plain = {"trainer": {"callbacks": None}}
    best = {"trainer": {"callbacks": [{"class_path": "lightning_avb.callbacks.Best", "init_args": {"patience": 3}}]}}
    found = differences({"a": plain, "b": best})
    assert found["trainer.callbacks"] == {"a": None, "b": ["Best"]}


# Curves.


def test_curves_are_read_without_a_torn_row():
    folder = place("version_0", ROWS)
    with (folder / "metrics.csv").open("a") as file:
        file.write("3,39,-1.0")
    found = read_curves(folder / "metrics.csv")
    assert found["train/elbo"] == Curve([9, 20], [-5.0, -3.0]) and found["val/kl"] == Curve(
        [9, 19, 29], [1.0, 1.5, 2.0]
    )


def colours(picture, *names):
    """Which of matplotlib's colours are in a picture."""
    from matplotlib.colors import to_rgb

    pixels = {tuple(pixel) for pixel in (picture.permute(1, 2, 0).reshape(-1, 3) * 255).round().int().tolist()}
    return [name for name in names if tuple(round(255 * value) for value in to_rgb(name)) in pixels]


def test_every_run_has_its_colour(command):
    place("version_0", ROWS)
    place("version_1", ROWS[:3])
    place("version_2")  # without a validation: no colour
    command("compare", RUNS, "--output", "compare.png")
    command("plot", "--ckpt_path", RUNS, "--what", "curves", "--output", "plot.png")
    assert Path("plot.png").read_bytes() == Path("compare.png").read_bytes()
    image = np.array(Image.open("compare.png").convert("RGB"))
    assert image.shape == (325, 800, 3)  # two panels, elbo and kl, above a legend of one line
    curves = {name: {"val/elbo": Curve([1, 2, 3], [1.0, 2.0, 3.0 + i])} for i, name in enumerate("ab")}
    assert colours(pictures.comparison(curves), "C0", "C1", "C2") == ["C0", "C1"]
    assert pictures.comparison({"a": {"train/elbo": Curve([1], [1.0])}}) is None


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (99, "99 s"), (100, "2 min"), (5999, "100 min"), (7200, "2.0 h")]
)
def test_times_are_said_in_words(seconds, words):
    assert duration(seconds) == words


def test_an_empty_list_of_folders_and_a_file_are_no_runs(tmp_path):
    Path("file").touch()
    with pytest.raises(ConfigurationError, match="there is no folder 'file'"):
        list(run_folders(Path("file")))
