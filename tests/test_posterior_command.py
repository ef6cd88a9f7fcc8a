"""Posteriors of log-densities from the command line and from scripts."""

from __future__ import annotations

import re
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from forked import finish, said, script, start
from posteriors import SMALL
from small_models import trainer

from datamodules import NoData, Simulated
from lightning_avb import Posterior, checkpoints, cli, targets
from lightning_avb.targets import NormalMean


def test_from_a_users_module_to_named_draws(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("mine_of_the_test.py").write_text(
        "def log_density(mu, sigma):\n    return -(mu - 3) ** 2 / 2 - sigma\n\n\n"
        "def derived(mu, sigma):\n    return {'ratio': mu / sigma}\n"
    )
    Path("mine.yaml").write_text(
        "seed_everything: 0\ntrainer: {max_steps: 40, enable_progress_bar: false, enable_model_summary: false}\n"
        "model:\n  class_path: lightning_avb.Posterior\n  init_args:\n    samples: 32\n    warmup: 10\n    target:\n"
        "      class_path: lightning_avb.targets.Function\n      init_args:\n"
        "        log_density: mine_of_the_test.log_density\n        derived: mine_of_the_test.derived\n"
        "        constraints: {mu: real, sigma: positive}\ndata: datamodules.NoData\n"
    )

    command("fit", "--config", "mine.yaml")
    (last,) = tmp_path.rglob("last.ckpt")
    assert list(tmp_path.rglob("posterior_*.png"))
    command("sample", "--ckpt_path", last, "--n", 1000, "--output", "out/draws.npz")
    with np.load("out/draws.npz") as file:
        assert {name: file[name].shape for name in file.files} == dict.fromkeys(("mu", "sigma", "ratio"), (1000,))
        assert (file["sigma"] > 0).all() and abs(file["mu"].mean() - 3) < 0.3
    for suffix in ("png", "jpg"):
        command("sample", "--ckpt_path", last, "--n", 500, "--output", f"draws.{suffix}")
    command("predict", "--config", "mine.yaml", "--ckpt_path", last)
    capsys.readouterr()
    command("test", "--config", "mine.yaml", "--ckpt_path", last, "--diagnosis.draws", 400)
    assert "Pareto k" in capsys.readouterr().out
    assert list(last.parent.glob("*.diagnosis.json"))
    with pytest.raises(SystemExit) as stop:
        command("sample", "--ckpt_path", last, "--output", "draws.gif")
    assert stop.value.code == 2
    assert "does not end in .png, .jpg, .jpeg, .npz, .csv, .nc" in capsys.readouterr().err
    for right, wrong, message in (
        ("sigma: positive", "sigma: positiv", "support.sigma: 'positiv' is none of real, positive"),
        ("test.log_density", "test.logdensity", "error: log_density: there is no 'mine_of_the_test.logdensity'; did"),
        ("test.derived", "test.deriven", "derived: there is no 'mine_of_the_test.deriven'; did you mean derived?"),
        ("mine_of_the_test.derived", "mien.derived", "derived: there is no 'mien.derived' (No module named 'mien')"),
    ):
        Path("typo.yaml").write_text(Path("mine.yaml").read_text().replace(right, wrong))
        with pytest.raises(SystemExit):
            command("fit", "--config", "typo.yaml")
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command("fit", "--config", "mine.yaml", "--model.target.log_density=mine_of_the_test.log_desity")
    message = "error: model.target.log_density: there is no 'mine_of_the_test.log_desity'; did you mean log_density?"
    assert message in capsys.readouterr().err


def test_a_script_that_is_run_names_itself_in_its_checkpoints(tmp_path, monkeypatch, capsys):
    """As in the recipe of the docs: `python mine.py`, and then `lightning-avb sample` beside it."""
    (tmp_path / "script_of_the_test.py").write_text(
        "import pytorch_lightning as pl\nfrom datamodules import NoData\nfrom lightning_avb import Posterior\n"
        "from lightning_avb.targets import Function\n\n\ndef log_density(mu):\n    return -(mu - 3) ** 2 / 2\n\n\n"
        "print('begin')\nmodel = Posterior(Function.recipe(log_density, {'mu': 'real'}), samples=16)\n"
        "run = pl.Trainer(accelerator='cpu', max_steps=3, enable_progress_bar=False, logger=False)\n"
        "run.fit(model, NoData())\nrun.save_checkpoint('some.ckpt')\n"
    )
    assert finish(start(script("script_of_the_test.py"), tmp_path)) == [0], said(tmp_path)
    assert said(tmp_path).count("begin") == 1
    known = checkpoints.read_checkpoint(tmp_path / "some.ckpt")["hyper_parameters"]["target"]
    assert known["init_args"]["log_density"] == "script_of_the_test.log_density"
    Path(tmp_path, "script_of_the_test.py").write_text("def log_density(mu):\n    return -(mu**2)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    cli.main(["sample", "--ckpt_path", "some.ckpt", "--n", "5", "--output", "draws.npz"])
    assert np.load("draws.npz")["mu"].shape == (5,)
    with pytest.raises(SystemExit):
        cli.main(["sample", "--ckpt_path", "some.ckpt", "--output", "draws.npz", "--labels", "[1]"])
    with pytest.raises(SystemExit):
        cli.main(["sample", "--ckpt_path", "some.ckpt", "--output", "draws.npz", "--root", "."])
    errors = capsys.readouterr().err
    assert "labels: a posterior has none" in errors and "Function has no argument `path`" in errors


def test_draws_for_a_data_set_from_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = trainer(tmp_path, max_steps=2, limit_val_batches=0)
    family = partial(NormalMean, observations=3)
    run.fit(Posterior(family, SMALL, samples=8), Simulated(family, rows=64, eval_rows=1))
    run.save_checkpoint("some.ckpt")

    def sample(output, x=None, code=0, *options):
        arguments = ["sample", "--ckpt_path", "some.ckpt", "--n", "7", "--output", output]
        with nullcontext() if code == 0 else pytest.raises(SystemExit) as stop:
            cli.main([*arguments, *(["--x", x] if x else []), *options])
        assert code == 0 or stop.value.code == code
        return "".join(capsys.readouterr())

    np.save("one.npy", np.ones(3))
    np.save("two.npy", np.ones((2, 3)))
    np.save("narrow.npy", np.ones(2))
    Path("text.npy").write_text("no numbers")
    for suffix in ("npz", "csv", "png"):
        sample(f"a.{suffix}", "one.npy")
    assert np.load("a.npz")["mu"].shape == np.genfromtxt("a.csv", skip_header=1).shape == (7,)
    sample("b.npz", "two.npy")
    assert np.load("b.npz")["mu"].shape == (7, 2)
    for file, shape in (("one.npy", (7,)), ("two.npy", (7, 2))):
        assert re.search(
            r"resample: \d+% of the weighted proposals are effective", sample("r.npz", file, 0, "--resample")
        )
        assert np.load("r.npz")["mu"].shape == shape
    assert "output: a picture is of the sampler's own draws" in sample("r.png", "one.npy", 2, "--resample")
    assert "x: holds 2 data sets, and a .csv file is of one" in sample("b.csv", "two.npy", 2)
    assert "x: data sets are (3,), and this has the shape (2,)" in sample("c.npz", "narrow.npy", 2)
    assert "x: 'text.npy' is no .npy file of numbers" in sample("c.npz", "text.npy", 2)
    assert "x: 'none.npy' is no .npy file" in sample("c.npz", "none.npy", 2)
    for output in ("c.npz", "c.png"):
        assert "x: this sampler was trained for many data sets" in sample(output, code=2)


def test_a_target_whose_file_has_moved_is_sampled(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = np.random.default_rng(0)
    np.savez("old.npz", x_train=rows.normal(size=(20, 2)), y_train=np.arange(20) % 2)
    run = trainer(tmp_path, max_steps=2, limit_val_batches=0)
    run.fit(Posterior(partial(targets.LogisticRegression, path="old.npz"), SMALL, samples=8), NoData())
    run.save_checkpoint("some.ckpt")
    Path("old.npz").rename("new.npz")
    with pytest.raises(SystemExit):
        cli.main(["sample", "--ckpt_path", "some.ckpt", "--output", "a.npz"])
    assert "path: old.npz cannot be read" in capsys.readouterr().err
    cli.main(["sample", "--ckpt_path", "some.ckpt", "--output", "a.npz", "--root", "new.npz"])
    assert np.load("a.npz")["beta"].shape == (64, 2)
