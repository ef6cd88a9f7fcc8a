"""The best weights of a run: by which figure, kept where, and what is said when there is no such figure."""

from __future__ import annotations

import math
import re
from functools import partial
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
import yaml
from forked import command as in_a_process
from forked import finish, free_port, said, start, torchrun_environment
from small_models import MODELS, POSTERIORS, trainer
from test_cli import FIT
from test_runs import rows

from datamodules import Digits, NoData
from lightning_avb.callbacks import Best
from lightning_avb.errors import ConfigurationError
from lightning_avb.figures import BETTER, ESTIMATES, Better, better_figure

PAGES = Path(__file__).parents[1] / "docs"
RUN = Path("runs", "digits", "vae", "version_0")
FIXED = "--trainer.logger.init_args.version=0"
LONG = ("--trainer.max_steps=60", "--pictures.every_n_epochs=0", "--config", "trainer/best")
FROZEN = ("--model.players.model.optimizer.lr=0",)
"""Nothing becomes better than the first validation."""


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch, without_curves):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def state(path):
    return torch.load(path, weights_only=True)["callbacks"]["Best"]


# Which figure.


FIGURES = {
    "vae": "val/elbo", "iaf": "val/iw_bound", "avb_score": "val/elbo_lower", "avb_ac": "val/elbo_lower",
    "bigan": "val/reconstruction_error", "vaegan": "val/reconstruction_error", "aae": "val/reconstruction",
    "aae_labels": "val/reconstruction", "aae_supervised": "val/reconstruction", "aae_semi": "val/error",
    "aae_clusters": "val/error",
}  # fmt: skip
"""A model of the tests -> the figure by which its weights are chosen; the others have none."""


@pytest.mark.parametrize("name", [*MODELS, *POSTERIORS])
def test_every_model_is_judged_by_its_own_figure_or_refused_before_training(tmp_path, name):
    pl.seed_everything(0, verbose=False)
    posterior = name in POSTERIORS
    streams = {"labels": 100, "labelled_per_batch": 20} if name == "aae_semi" else {}
    data = NoData(2) if posterior else Digits(64, binarize="dynamic", **streams)
    model, best = {**MODELS, **POSTERIORS}[name](), Best()
    run = trainer(tmp_path, max_steps=2, limit_val_batches=1, callbacks=[best], val_check_interval=1)
    expected = FIGURES.get(name)
    if posterior and not model.adversarial:
        expected = "val/elbo"
    if expected is None:
        with pytest.raises(
            ConfigurationError, match=r"^Best: (no figure of validation|val/elbo_estimate of \w+ is its c)"
        ):
            run.fit(model, data)
        assert run.global_step == 0
    else:
        run.fit(model, data)
        assert best.name == expected and best.value == pytest.approx(run.callback_metrics[expected].item(), rel=1)
        assert (tmp_path / "checkpoints" / "best.ckpt").exists()


def test_the_figures_and_their_directions_are_those_of_the_docs():
    table = (PAGES / "architecture.md").read_text().partition("### What is logged")[2].partition("###")[0]
    cells = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)] for line in table.splitlines() if line[:3] == "| `"
    ]
    better = {name: row[3] for row in cells for name in re.findall(r"`(\w+)`", row[1])}
    sides = {"max": "larger", "min": "smaller"}
    assert {name: better[name] for name in BETTER} == {
        name: "" if name in ESTIMATES else sides[mode] for name, mode in BETTER.items()
    }
    listed = re.findall(r"^\| `(\w+)` \| (larger|smaller) \|", (PAGES / "runs.md").read_text(), re.M)
    assert listed == [(name, better[name]) for name in BETTER if name != "elbo_estimate"]


def test_an_estimate_of_a_critic_hides_what_comes_after_it():
    names = ["val/reconstruction", "val/elbo_estimate", "train/elbo"]
    assert better_figure(names) == Better("val/elbo_estimate", "max") and better_figure(names).is_estimate
    assert better_figure([*names, "val/elbo_lower"]) == Better("val/elbo_lower", "max")
    assert better_figure([*names, "val/log_likelihood"]) == Better("val/log_likelihood", "max")
    assert better_figure(["val/reconstruction"]) == Better("val/reconstruction", "min")
    assert better_figure(["train/elbo", "val/generator_loss"]) is None
    assert not Better("val/elbo", "max").prefers(math.nan, 0) and not Better("val/elbo", "max").prefers(0, math.nan)


def test_a_figure_can_be_asked_for_by_name(tmp_path):
    for figure, expected in (
        ("elbo_estimate", None),
        ("elbo", "^figure: AVB does not log val/elbo; it logs val/critic_accuracy, "),
        ("elbow", "^figure: 'elbow' is none of log_likelihood, "),
    ):
        run = trainer(
            tmp_path, max_steps=1, limit_val_batches=1, callbacks=[best := Best(figure=figure)], val_check_interval=1
        )
        if expected is None:
            run.fit(MODELS["avb"](), Digits(64, binarize="dynamic"))
            assert best.name == "val/elbo_estimate"
        else:
            with pytest.raises(ConfigurationError, match=expected):
                run.fit(MODELS["avb"](), Digits(64, binarize="dynamic"))


# What is kept, and when the fit ends.


class Told(pl.Callback):
    """Replaces the figure of validation by values that are given, one per validation."""

    def __init__(self, values):
        self.values = iter(values)

    def on_validation_epoch_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            pl_module.log("val/iw_bound", next(self.values))


def validated(folder, values, best, ckpt_path=None, **options):
    pl.seed_everything(0, verbose=False)
    run = trainer(folder, limit_train_batches=2, callbacks=[Told(values), best], num_sanity_val_steps=0, **options)
    run.fit(MODELS["vae"](), Digits(64, binarize="dynamic"), ckpt_path=ckpt_path)
    return run


def test_the_checkpoint_is_that_of_the_best_validation(tmp_path):
    best = Best(patience=None)
    run = validated(tmp_path, [-5.0, -3.0, math.nan, -4.0, -3.0], best, max_epochs=5)
    kept = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)
    assert (kept["global_step"], best.step, best.value, run.global_step) == (4, 4, -3.0, 10)
    assert kept["callbacks"]["Best"] == {"name": "val/iw_bound", "value": -3.0, "step": 4, "waited": 0}
    assert best.waited == 3


def test_the_checkpoint_holds_what_other_callbacks_make_of_that_validation(tmp_path):
    class Validations(pl.Callback):
        count = 0

        def state_dict(self):
            return {"count": self.count}

        def on_validation_end(self, trainer, pl_module):
            self.count += 1

    run = trainer(tmp_path, max_epochs=1, callbacks=[Best(), Validations()], num_sanity_val_steps=0)
    run.fit(MODELS["vae"](), Digits(64, binarize="dynamic"))
    kept = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)
    assert next(value for key, value in kept["callbacks"].items() if "Validations" in key) == {"count": 1}


def test_a_first_value_that_is_no_number_is_replaced(tmp_path):
    validated(tmp_path, [math.nan, -9.0], best := Best(), max_epochs=2)
    assert (best.value, best.step) == (-9.0, 4)


def test_a_fit_ends_after_so_many_validations_without_a_better_figure(tmp_path):
    values = [-5.0, -6.0, -4.0, -4.0, -4.5, -3.0]
    assert validated(tmp_path, values, Best(patience=2), max_epochs=6).global_step == 2 * 5
    assert validated(tmp_path, values, Best(patience=1), max_epochs=6).global_step == 2 * 2
    with pytest.raises(ConfigurationError, match=r"^patience: 0 is below 1$"):
        Best(patience=0)


def test_the_mixin_keeps_the_best_beside_the_last(command, capsys):
    command(*FIT, *LONG, "--trainer.max_steps=36")
    found = {row["step"]: float(row["val/elbo"]) for row in rows(RUN) if "val/elbo" in row}
    step = max(found, key=found.get)
    assert torch.load(RUN / "checkpoints/best.ckpt", weights_only=True)["global_step"] == int(step) + 1
    assert {path.name[:4] for path in (RUN / "checkpoints").iterdir()} == {"best", "last", "epoc"}
    assert yaml.safe_load((RUN / "config.yaml").read_text())["trainer"]["callbacks"][0]["init_args"]["patience"] == 10


def test_a_fit_without_a_validation_says_that_there_is_no_best(tmp_path, caplog):
    trainer(tmp_path, max_steps=1, callbacks=[Best()]).fit(MODELS["vae"](), Digits(64, binarize="dynamic"))
    assert "best: the fit ended before its first validation: there is no best.ckpt" in caplog.text


def test_a_gan_and_a_run_without_validation_are_refused_in_one_line(refusal):
    gan = ("fit", "--config", "digits/gan", "--config", "trainer/best", "--trainer.enable_progress_bar=false")
    line = refusal(*gan)
    assert line == (
        "error: Best: no figure of validation says which weights of GAN are best; it logs val/discriminator_accuracy, "
        "val/discriminator_loss, val/generator_loss"
    )
    assert "Best: there is no validation: trainer.limit_val_batches is 0" in refusal(
        *FIT, "--config", "trainer/best", "--trainer.limit_val_batches=0"
    )
    assert not list(Path().rglob("version_*"))


# Resuming, and several processes.


def test_a_resumed_run_keeps_the_same_best(command, caplog):
    """Killed behind a validation and before the next; once in the same folder, once in another."""
    common = (*FIT, *LONG, *FROZEN, "--trainer.callbacks.patience=3")
    command(*common, "--trainer.default_root_dir=whole")
    whole = Path("whole", *RUN.parts[1:]) / "checkpoints"
    command(*common, FIXED, "--trainer.max_steps=30")
    command(*common, "--ckpt_path", RUN)
    command(*common, FIXED, "--ckpt_path=last")
    assert state(whole / "last.ckpt") == {**state(whole / "best.ckpt"), "step": 12, "waited": 3}
    said = [record.getMessage() for record in caplog.records]
    assert not any("best.ckpt" in line for line in said if line.startswith("checkpoint: "))
    for folder in (RUN, RUN.with_name("version_1")):
        assert state(folder / "checkpoints/best.ckpt") == state(whole / "best.ckpt")
        assert state(folder / "checkpoints/last.ckpt") == state(whole / "last.ckpt")


def test_a_resumed_fit_ends_where_one_that_was_not_stopped_does(tmp_path):
    values = [-5.0, -4.0, -4.5, -4.6, -4.7, -3.0]
    whole = validated(tmp_path / "whole", values, Best(patience=3), max_epochs=6)
    first = validated(tmp_path / "parts", values[:3], Best(patience=3), max_epochs=3)
    first.save_checkpoint(last := tmp_path / "parts" / "checkpoints" / "last.ckpt")
    again = validated(tmp_path / "parts", values[3:], best := Best(patience=3), ckpt_path=last, max_epochs=6)
    assert again.global_step == whole.global_step == 10 and (best.step, best.value) == (4, -4.0)


def test_the_best_of_the_resumed_run_is_carried_over_or_said_to_be_missing(command, caplog):
    command(*FIT, *LONG, "--trainer.max_steps=24")
    before = (RUN / "checkpoints/best.ckpt").read_bytes()
    command(*FIT, *LONG, *FROZEN, "--trainer.max_steps=48", "--ckpt_path", RUN)
    assert (RUN.with_name("version_1") / "checkpoints/best.ckpt").read_bytes() == before
    later = RUN.with_name("version_1") / "checkpoints/last.ckpt"
    for number, replace in ((2, later.read_bytes()), (3, b"damaged"), (4, None)):
        best = RUN / "checkpoints/best.ckpt"
        best.unlink() if replace is None else best.write_bytes(replace)
        caplog.clear()
        command(*FIT, *LONG, *FROZEN, "--trainer.max_steps=48", "--ckpt_path", RUN)
        assert "best: there is no best.ckpt of step 24 beside" in caplog.text
        assert state(RUN.with_name(f"version_{number}") / "checkpoints/best.ckpt")["step"] == 36


def test_the_best_of_averaged_weights_holds_the_average_and_the_weights(command):
    """Whichever of the two callbacks comes first in the configuration."""
    ema = ("--config", "trainer/ema")
    command(*FIT, *LONG, *ema, "--trainer.max_steps=24", "--checkpoint.every_n_epochs=1")
    best, last = (torch.load(RUN / f"checkpoints/{name}.ckpt", weights_only=True) for name in ("best", "last"))
    assert best["global_step"] == last["global_step"] == 24
    for key in ("state_dict", "current_model_state"):
        assert all(torch.equal(value, last[key][name]) for name, value in best[key].items())
    assert any(not torch.equal(value, best["state_dict"][name]) for name, value in best["current_model_state"].items())


def test_two_processes_agree_on_the_best(tmp_path):
    arguments = [*FIT, *LONG, "--trainer.max_steps=240", "--data.batch_size=50", "--trainer.callbacks.patience=1"]
    arguments += ["--trainer.strategy=ddp", "--trainer.devices=2", "--trainer.accelerator=cpu"]
    arguments += ["--model.players.model.optimizer.lr=0.1"]
    port = free_port()
    environments = [torchrun_environment(rank, 2, port) for rank in range(2)]
    codes = finish(start(partial(in_a_process(*map(str, arguments))), tmp_path, environments), timeout=200)
    assert codes == [0, 0], said(tmp_path)
    (run,) = tmp_path.rglob("best.ckpt")
    found = {int(row["step"]): float(row["val/elbo"]) for row in rows(run.parents[1]) if "val/elbo" in row}
    assert state(run)["step"] == max(found, key=found.get) + 1 < max(found) + 1 < 240


# Names that are not logged.


STOP = "pytorch_lightning.callbacks.EarlyStopping"


def stopping(monitor, **options):
    file = Path("stop.yaml")
    callback = {"class_path": STOP, "init_args": {"monitor": monitor, "mode": "max", **options}}
    file.write_text(yaml.safe_dump({"trainer": {"callbacks+": [callback]}}))
    return ("--config", str(file), "--pictures.every_n_epochs=0")


def test_a_misspelt_monitor_is_refused_before_training(refusal):
    near = "is not logged; did you mean val/elbo or val/kl?"
    assert refusal(*FIT, *stopping("val/elbow")) == f"error: EarlyStopping.monitor: 'val/elbow' {near}"
    assert refusal(*FIT, "--checkpoint.monitor=val/loss") == f"error: checkpoint.monitor: 'val/loss' {near}"
    assert refusal(*FIT, *stopping("xyz")).endswith(
        "'xyz' is not logged; logged are val/elbo, val/kl, val/reconstruction"
    )
    assert not list(Path().rglob("version_*"))


def test_a_misspelt_monitor_of_training_is_refused_after_the_first_logged_step(refusal, command):
    line = refusal(*FIT, *stopping("train/elbw"))
    assert line.startswith("error: EarlyStopping.monitor: 'train/elbw' is not logged; did you mean train/elbo")
    command(*FIT, "--checkpoint.monitor=train/elbo", "--checkpoint.mode=max", "--trainer.max_steps=12")


def test_a_resumed_run_with_a_misspelt_monitor_is_refused_before_training(command, refusal):
    command(*FIT, "--trainer.max_steps=12", "--pictures.every_n_epochs=0")
    assert "did you mean val/elbo or" in refusal(*FIT, *stopping("val/elbow"), "--ckpt_path", RUN)
    exact = (
        "--trainer.callbacks+=lightning_avb.callbacks.ExactLikelihood",
        "--trainer.callbacks.cells=10",
        "--checkpoint.mode=max",
        "--model.latent_dim=2",
    )
    command(*FIT, "--trainer.max_steps=12", "--model.latent_dim=2", "--pictures.every_n_epochs=0")
    folder = RUN.with_name("version_1")
    command(
        *FIT,
        *LONG[1:2],
        *exact,
        "--trainer.max_steps=24",
        "--checkpoint.monitor=val/log_likelihood",
        "--ckpt_path",
        folder,
    )


def test_a_monitor_that_is_optional_or_not_known_before_validation_is_let_through(command, refusal):
    command(*FIT, *stopping("val/elbow", strict=False), "--trainer.max_steps=12")
    Path("own_figures.py").write_text(
        "import pytorch_lightning as pl\n"
        "class Late(pl.Callback):\n"
        "    def on_validation_epoch_end(self, trainer, pl_module):\n"
        "        if not trainer.sanity_checking:\n"
        "            pl_module.log('val/late', 1.0)\n"
    )
    own = ("--trainer.callbacks+=own_figures.Late", "--trainer.max_steps=12")
    command(*FIT, *own, "--checkpoint.monitor=val/late", "--checkpoint.mode=max")
    assert "checkpoint.monitor: 'val/latte' is not logged; did you mean val/late" in refusal(
        *FIT, *own, "--checkpoint.monitor=val/latte", "--checkpoint.mode=max"
    )
