"""The command line, as a user meets it."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import forked
import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
import yaml
from forked import finish, free_port, said, start, torchrun_environment
from jsonargparse import Namespace
from PIL import Image
from small_models import MODELS

from lightning_avb.cli.messages import explain
from lightning_avb.cli.training import CLI
from lightning_avb.errors import ConfigurationError
from lightning_avb.trained import numbers_of_labels

CONFIGS = Path(__file__).parents[1] / "configs"
SHARED = Path(__file__).parents[2] / "shared" / "data"
ALL = sorted(path for path in CONFIGS.rglob("*.yaml") if path.parent.name != "trainer")
DIGITS = str(CONFIGS / "digits" / "avb_si.yaml")
QUICK = (
    "--trainer.max_steps=24",
    "--trainer.log_every_n_steps=5",
    "--trainer.check_val_every_n_epoch=1",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
)
WIDTHS = (
    "--model.encoder.network.hidden=[8]",
    "--model.decoder.network.hidden=[8]",
    "--model.critic.width=8",
)
VAE = str(CONFIGS / "digits" / "vae.yaml")
FIT = ("fit", "--config", VAE, *QUICK, *WIDTHS[:2])
"""For what is the same with every model: a small one, whose options are read in half the time."""


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch, without_curves):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def finished(command, tmp_path_factory):
    """A finished run on the digits."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        command("fit", "--config", DIGITS, *QUICK, *WIDTHS, "--model.players.critic.steps=2")
    return folder / "runs" / "digits" / "avb_si" / "version_0"


@pytest.fixture(scope="module")
def started(command, tmp_path_factory):
    """A command whose run is left out."""

    class Started(CLI):
        def _run_subcommand(self, subcommand):
            pass

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("started"))
        patch.setattr(sys, "argv", ["lightning-avb", "fit", "--config", DIGITS])
        return Started()


UNMEASURED = CONFIGS / "unmeasured"
FIRST = [sorted(folder.glob("*.yaml"))[0] for folder in UNMEASURED.iterdir()]


@pytest.mark.parametrize(
    "path",
    [
        # What the others of a folder hold is compared with the signatures in test_configurations.
        pytest.param(
            path, marks=() if path in FIRST or not path.is_relative_to(UNMEASURED) else pytest.mark.slow,
            id=path.relative_to(CONFIGS).with_suffix("").as_posix(),
        )
        for path in ALL
    ],
)  # fmt: skip
def test_every_config_builds_its_model(path, started):
    parts = yaml.safe_load(path.read_text())
    if "path: data/" in path.read_text():
        if not SHARED.exists():
            pytest.skip("its data is not at hand")
        Path("data").symlink_to(SHARED)
    started.config = Namespace(subcommand="fit", fit=started._parser("fit").parse_args(["--config", str(path)]))
    started.before_instantiate_classes()
    started.instantiate_classes()
    model, data = started.model, started.datamodule
    own = {"own_pictures": (3, 48, 40), "own_table": (5,)}.get(path.parent.name)
    if path.parent.name != "posteriors":
        assert model.latent_dim == parts["model"]["init_args"]["latent_dim"]
    model.build_if_known(data_shape=data.data_shape or own, classes=data.classes)
    again = type(model)(**{key: value for key, value in model.hparams.items() if key != "_class_path"})
    assert [p.shape for p in again.parameters()] == [p.shape for p in model.parameters()]


def test_a_run_leaves_its_config_metrics_pictures_and_checkpoints(finished):
    assert {path.name for path in finished.iterdir()} >= {"config.yaml", "metrics.csv", "pictures", "checkpoints"}
    assert (finished / "checkpoints" / "last.ckpt").exists()
    pictures = {path.name for path in (finished / "pictures").glob("*.png")}
    kinds = ("samples", "reconstructions", "interpolations")
    assert pictures == {f"{kind}_{step:07d}.png" for kind in kinds for step in (11, 23)} | {"curves.png"}
    with (finished / "metrics.csv").open() as file:
        columns = next(csv.reader(file))
    assert {"val/elbo_lower", "val/elbo_upper", "val/reconstruction", "val/kl_bound", "val/critic_loss"} <= set(columns)
    assert not any(column.endswith(("/elbo", "/iw_bound")) for column in columns)


def test_the_last_checkpoint_is_the_end_of_the_run(command, tmp_path):
    command(*FIT, "--trainer.max_steps=17")
    (last,) = tmp_path.rglob("last.ckpt")
    assert torch.load(last, weights_only=True)["global_step"] == 17


def test_resuming_from_the_default_checkpoint_is_exact(command, tmp_path):
    """It is written by validation, on the last batch of an epoch."""
    config = ("fit", "--config", DIGITS, *WIDTHS, *QUICK, "--checkpoint.save_top_k=-1")
    command(*config)
    (middle,) = tmp_path.rglob("epoch=0-step=12.ckpt")
    command(*config, "--ckpt_path", middle)
    ends = [torch.load(path, weights_only=True) for path in sorted(tmp_path.rglob("last.ckpt"))]
    assert [end["global_step"] for end in ends] == [24, 24]
    assert all(torch.equal(value, ends[1]["state_dict"][key]) for key, value in ends[0]["state_dict"].items())


def test_the_saved_config_repeats_the_run(finished, command, tmp_path):
    command("fit", "--config", finished / "config.yaml")
    (again,) = tmp_path.glob("runs/*/*/version_0/checkpoints/last.ckpt")
    first, second = (
        torch.load(path, weights_only=True)["state_dict"] for path in (finished / "checkpoints/last.ckpt", again)
    )
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_resuming_and_the_command_line_wins(finished, command, tmp_path, caplog):
    before = sorted(path.read_bytes() for path in finished.rglob("*.*"))
    command(
        "fit", "--config", finished / "config.yaml", "--ckpt_path", finished / "checkpoints/last.ckpt",
        "--trainer.max_steps=36", "--model.players.critic.optimizer.lr=0.005",
    )  # fmt: skip
    (end,) = tmp_path.glob("runs/*/*/version_0/checkpoints/last.ckpt")
    checkpoint = torch.load(end, weights_only=True)
    assert checkpoint["global_step"] == 36
    critic = checkpoint["optimizer_states"][1]
    assert critic["param_groups"][0]["initial_lr"] == 0.005
    assert critic["state"][0]["step"] == 72
    assert "players.init_args.critic.init_args.optimizer.init_args.lr: 0.005" in caplog.text
    assert sorted(path.read_bytes() for path in finished.rglob("*.*")) == before


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_other_stages(finished, command, tmp_path, stage, capsys):
    (tmp_path / "run").symlink_to(finished)
    before = {path.name for path in finished.iterdir()}
    few = () if stage == "predict" else ("--likelihood.rows=2", "--likelihood.chains=2", "--likelihood.steps=10")
    command(stage, "--config", finished / "config.yaml", "--ckpt_path", "run", "--trainer.limit_test_batches=1", *few)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert {path.name for path in finished.iterdir()} == before
    if stage == "predict":
        path = finished / "checkpoints" / "last.predictions.pt"
        predictions = torch.load(path, weights_only=True)
        assert predictions["z"].shape == (250, 4)
        assert torch.equal(predictions["index"], torch.arange(250))
    else:
        name = f"{'val' if stage == 'validate' else stage}/elbo_lower"
        assert name in capsys.readouterr().out
        assert name in json.loads((finished / "checkpoints" / f"last.{stage}.json").read_text())


def test_predictions_in_files_that_others_read(finished, command, tmp_path, refusal):
    def predict(output):
        config = ("--config", finished / "config.yaml", "--ckpt_path", finished)
        return "predict", *config, "--predictions.output", output

    command(*predict(tmp_path / "codes.pt"))
    expected = torch.load(tmp_path / "codes.pt", weights_only=True)
    read = {"csv": pd.read_csv, "parquet": pd.read_parquet, "npz": lambda file: pd.DataFrame(dict(np.load(file)))}
    for suffix, read_file in read.items():
        command(*predict(tmp_path / f"codes.{suffix}"))
        found = read_file(tmp_path / f"codes.{suffix}")
        assert list(found.columns) == ["row", "z0", "z1", "z2", "z3", "y"] and found["row"].tolist() == [*range(250)]
        assert np.allclose(found[["z0", "z1", "z2", "z3"]], expected["z"], atol=1e-5)
        assert found["y"].tolist() == expected["y"].tolist()
    assert "'codes.txt' does not end in .pt, .csv, .npz, .parquet" in refusal(*predict("codes.txt"))


@pytest.mark.parametrize("task", ["sample", "reconstruct", "interpolate", "traverse"])
def test_pictures_from_a_checkpoint_alone(finished, command, tmp_path, task):
    sizes = []
    for name in ("one.png", "two.png"):
        command(task, "--ckpt_path", finished / "checkpoints/last.ckpt", "--output", tmp_path / name)
        sizes.append((tmp_path / name).read_bytes())
    assert sizes[0] == sizes[1]
    for name in ("three.jpg", "four.JPEG"):
        command(task, "--ckpt_path", finished / "checkpoints/last.ckpt", "--output", name)
        pair = [np.asarray(Image.open(each).convert("L")).astype(float) for each in ("one.png", name)]
        assert Image.open(name).format == "JPEG" and abs(pair[0] - pair[1]).mean() < 3
    picture = Image.open(tmp_path / "one.png")
    assert min(picture.size) > 60
    assert len(set(picture.convert("L").tobytes())) > 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--trainer.max_stps=3"], "trainer.max_stps: no such key; did you mean trainer.max_steps?"),
        (["--model.latnt_dim=3"], "model.latnt_dim: no such option here; did you mean latent_dim?"),
        (["--model.latent_dim=x"], "model.latent_dim: expected int, got x"),
        (["--model.latent_dim=0"], "latent_dim: 0 is below 1"),
        (["--model=lightning_avb.AVV"], "model: there is no lightning_avb.AVV; did you mean AVB?"),
        (["--model.encoder=GausianEncoder"], "did you mean GaussianEncoder?"),
        (["--model.encoder.network.activation=eluu"], "activation: 'eluu' is not one of elu"),
        (["--model.encoder.network.hidden=[0]"], "has a layer without units"),
        (
            ["--model.players.model.stps=3"],
            "model.players.model.stps: no such key; did you mean players.model.steps?",
        ),
        (["--model.players.model.optimizer.lrr=3"], "did you mean lr?"),
        (["--model.players.model.optimizer.lr=-3"], "players.model.optimizer: Invalid learning rate: -3"),
        (["--data.batch_size=0"], "data.batch_size: 0 is below 1"),
        (["--data=datamodules.Digitss"], "there is no datamodules.Digitss; did you mean Digits?"),
        (["--data.batch_siz=3"], "did you mean batch_size?"),
        (["--ckpt_path=nowhere.ckpt"], "ckpt_path: there is no file 'nowhere.ckpt'"),
        (["--config=nowhere.yaml"], "nowhere.yaml"),
        (["--model.encoder=GaussianEncoder", "--model.latent_dim=two"], "model.latent_dim: expected int, got two"),
        (["--model.encoder=lightning_avb.AVB"], "model.encoder: lightning_avb.AVB is no Encoder"),
        (["--model=lightning_avb.MLP"], "model: lightning_avb.MLP is no Game"),
        (["--model.encoder=no_such_file.Encoder"], "model.encoder: No module named 'no_such_file'"),
        (["--model.encoder=one_parser.sharin"], "model.encoder: there is no one_parser.sharin; did you mean sharing?"),
        (["--model.players.model.clip_norm=x"], "model.players.model.clip_norm: expected float, got x"),
        (["--model.estimator=Analytik"], "importance_weighted, got Analytik; did you mean analytic?"),
        (["--trainer.logger=tensorbord"], "trainer.logger: there is no class 'tensorbord'; did you mean TensorBoardL"),
        (["--trainer.precision=17"], "trainer.precision: expected one of 64, 32, 16, transformer-engine, "),
        (["--trainer.precision=bf16-mix"], "bf16, got bf16-mix; did you mean bf16-mixed?"),
        (["--data.help=Digts"], "data.help: there is no class 'Digts'; did you mean Digits?"),
        (["--model=sub.yaml"], "model: 'sub.yaml': while parsing a flow sequence in line 1, column 13 "),
        (["--trainer.gradient_clip_val=1"], "set model.players.*.clip_norm"),
        (["--trainer.accumulate_grad_batches=2"], "set model.accumulate"),
    ],
)
def test_mistakes_are_said_in_one_line(refusal, tmp_path, options, message):
    Path("sub.yaml").write_text("class_path: [AVB\n")
    assert message in refusal(*FIT, *options)
    assert not list(tmp_path.rglob("*.ckpt"))


def test_the_reason_of_a_class_is_told_without_the_other_kinds_of_value():
    message = """Does not validate against any of the Union subtypes
Subtypes: [<class 'Logger'>, collections.abc.Iterable[Logger], <class 'bool'>, <class 'NoneType'>]
Errors:
  - Providing log_model=True and offline=True is invalid.
    Hint: Set `offline=False`.
  - Expected a <class 'collections.abc.Iterable'>
  - Expected a <class 'bool'>
  - Expected a <class 'NoneType'>
Given value type: <class 'Namespace'>"""
    assert explain(message, None) == "Providing log_model=True and offline=True is invalid. Hint: Set `offline=False`."


def test_what_is_required_is_named(refusal):
    assert refusal("fit") == (
        "error: data, model: required, and not given; a configuration has them, as in --config digits/vae"
    )
    assert "error: latent_dim: required, and not given" in refusal("fit", "--model=VAE", "--data=Digits")
    assert refusal("denoise", "--ckpt_path=x", "--output=x.png") == "error: noise: required, and not given"


def test_help_lists_our_classes_first(command, capsys):
    def said(*words):
        with pytest.raises(SystemExit) as stop:
            command("fit", *words)
        assert stop.value.code == 0
        return capsys.readouterr().out

    for option, first, what in (("model", "VAE", "Variational autoencoder."), ("data", "Digits", "1,797 handwritten")):
        listed = said(f"--{option}.help")
        assert f"  {first:<24} {what}" in listed and "DataModule  " not in listed
    assert "  FlowEncoder  " in said("--model.help=VAE", "--model.encoder.help")
    options = "".join(said("--model.help=VAE").split())
    assert "torch.nn" not in options and "lightning_avb.StandardNormal,light" in options
    assert "knownsubclasses:torch.optim.Optimizer" not in "".join(said("--model.help=Posterior").split())
    assert "knownsubclasses:lightning_avb.datamodules." in "".join(said("--help").split())


def test_mistakes_in_a_file_are_said_in_one_line(refusal, tmp_path):
    text = (CONFIGS / "unmeasured" / "mnist" / "avb.yaml").read_text()
    for wrong, right, message in (
        ("latnt_dim", "latent_dim", "wrong.yaml': model.latnt_dim: no such option here; did you mean latent_dim?"),
        ("widht:", "width:", "widht: no such"),
        ("PrirContrast", "PriorContrast", "there is no lightning_avb.PrirContrast"),
        ("max_stepz:", "max_steps:", "wrong.yaml': trainer.max_stepz: no such key; did you mean trainer.max_steps?"),
        ("modle:", "model:", "wrong.yaml': modle: no such key; did you mean model?"),
    ):
        (tmp_path / "wrong.yaml").write_text(text.replace(right, wrong))
        assert message in refusal("fit", "--config", tmp_path / "wrong.yaml")


def test_a_checkpoint_that_does_not_fit_is_refused(finished, refusal):
    last = finished / "checkpoints/last.ckpt"
    config = ("fit", "--config", finished / "config.yaml", "--ckpt_path", last)
    assert "model.latent_dim: 5, in the checkpoint 4" in refusal(*config, "--model.latent_dim=5")
    other = ("fit", "--config", VAE, "--ckpt_path", last)
    assert "the checkpoint holds a lightning_avb.models.avb.AVB" in refusal(*other)
    (Path("x.ckpt")).write_text("nothing")
    assert "no checkpoint of lightning_avb" in refusal("sample", "--ckpt_path", "x.ckpt", "--output", "x.png")


def test_what_a_picture_needs_is_checked(finished, refusal):
    last = str(finished / "checkpoints/last.ckpt")
    for task, allowed in (
        ("sample", ".png, .jpg, .jpeg, .csv, .npz, .parquet, .npy"),
        ("reconstruct", ".png, .jpg, .jpeg"),
    ):
        message = refusal(task, "--ckpt_path", last, "--output", "x.gif")
        assert message == f"error: output: 'x.gif' does not end in {allowed}"
    message = refusal("traverse", "--ckpt_path", last, "--output", "x.png", "--dimensions", "9")
    assert "dimensions: 9 is not between 1 and the 4 of the model's code" in message
    assert "n: 0 is below 1" in refusal("sample", "--ckpt_path", last, "--output", "x.png", "--n", "0")
    assert "root: Digits reads no files" in refusal(
        "reconstruct", "--ckpt_path", last, "--output", "x.png", "--root", "x"
    )
    assert "did you mean labels?" in refusal("sample", "--ckpt_path", last, "--output", "x.png", "--lables", "[1]")


@pytest.mark.parametrize(
    ("name", "reason"), [("gan", "the model has no encoder"), ("aae_semi", "a code is more than a draw of the prior")]
)
@pytest.mark.parametrize("words", [("inpaint",), ("denoise", "--noise", "0.1")])
def test_what_is_hidden_needs_a_density(refusal, tmp_path, name, reason, words):
    model = MODELS[name](data_shape=(1, 8, 8), classes=10)
    checkpoint = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
    torch.save({**checkpoint, "pytorch-lightning_version": pl.__version__}, tmp_path / "model.ckpt")
    message = refusal(*words, "--ckpt_path", tmp_path / "model.ckpt", "--output", "x.png")
    assert f"cannot {words[0]}: {reason}" in message


def test_a_start_with_another_configuration_keeps_the_first(command, tmp_path):
    options = (*FIT, "--trainer.logger=false", "--ckpt_path=last")
    for steps in (2, 2, 3):
        command(*options, f"--trainer.max_steps={steps}")
    assert {path.name for path in Path("runs").glob("config*.yaml")} == {"config.yaml", "config_1.yaml"}


@pytest.mark.parametrize(("mixin", "folder"), [("wandb", "lightning-avb/*"), ("tensorboard", "digits/vae/version_0")])
def test_a_tracker_from_a_mixin(command, monkeypatch, mixin, folder):
    pytest.importorskip(mixin)
    monkeypatch.setenv("WANDB_MODE", "offline")
    command(*FIT, "--config", CONFIGS / f"trainer/{mixin}.yaml")
    assert list(Path("runs").glob(f"{folder}/config.yaml"))
    if mixin == "wandb":
        sys.modules["wandb"].finish()


def test_mixed_precision_from_a_mixin(command, tmp_path):
    command("fit", "--config", DIGITS, "--config", CONFIGS / "trainer/bf16.yaml", *WIDTHS, *QUICK)
    assert list(tmp_path.rglob("last.ckpt"))


@pytest.mark.parametrize("launcher", ["torchrun", pytest.param("Lightning", marks=pytest.mark.slow)])
def test_two_processes_from_a_mixin(tmp_path, launcher):
    """Lightning starts the command a second time."""
    two = ("--config", str(CONFIGS / "trainer/ddp.yaml"), "--trainer.accelerator=cpu", "--trainer.devices=2")
    words = (*FIT, *two)
    if launcher == "torchrun":
        port = free_port()
        environments = [torchrun_environment(rank, 2, port) for rank in range(2)]
        assert finish(start(forked.command(*words), tmp_path, environments)) == [0, 0], said(tmp_path)
    else:
        command = [sys.executable, "-m", "lightning_avb", *words]
        result = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stderr
    (last,) = tmp_path.rglob("last.ckpt")
    assert torch.load(last, weights_only=True)["global_step"] == 24
    assert [path.name for path in tmp_path.rglob("config*.yaml")] == ["config.yaml"]
    assert [path.name for path in last.parents[2].iterdir()] == ["version_0"]


def test_mixins_append_callbacks(command):
    command(*FIT, "--config", CONFIGS / "trainer/ema.yaml")
    (config,) = Path("runs").rglob("config.yaml")
    callbacks = yaml.safe_load(config.read_text())["trainer"]["callbacks"]
    assert [callback["class_path"].rpartition(".")[2] for callback in callbacks] == ["EMAWeightAveraging"]


def test_pictures_of_what_is_hidden_or_noisy(finished, command, tmp_path, refusal):
    last = finished / "checkpoints" / "last.ckpt"
    command("inpaint", "--ckpt_path", last, "--output", "hidden.png", "--mask", "left", "--n", 3, "--draws", 2)
    command("denoise", "--ckpt_path", last, "--output", "noisy.png", "--noise", 0.1, "--n", 3, "--draws", 2)
    mask = Image.new("L", (8, 8), 255)
    mask.putpixel((0, 0), 0)
    mask.save("mask.png")
    command("inpaint", "--ckpt_path", last, "--output", "own.png", "--mask", "mask.png", "--n", 3, "--draws", 2)
    assert {path.name for path in tmp_path.glob("*.png")} == {"hidden.png", "noisy.png", "own.png", "mask.png"}
    Image.new("L", (9, 8)).save("large.png")
    assert "mask: (8, 9) pixels" in refusal("inpaint", "--ckpt_path", last, "--output", "x.png", "--mask", "large.png")
    assert "noise: 0.7" in refusal("denoise", "--ckpt_path", last, "--output", "x.png", "--noise", 0.7)


def test_a_conditional_model_draws_the_labels_it_is_asked_for(command, refusal, tmp_path):
    command(*FIT, "--model.conditional=true", "--trainer.max_steps=2")
    (last,) = tmp_path.glob("runs/digits/vae/*/checkpoints/last.ckpt")
    command("sample", "--ckpt_path", last, "--output", "some.png", "--labels", "[1, 7]", "--n", 6)
    for labels in (["[1, 7]"], ["1", "7"], ["[1]", "7"]):
        command("sample", "--ckpt_path", last, "--output", "again.png", "--labels", *labels, "--n", 6)
        assert Path("again.png").read_bytes() == Path("some.png").read_bytes()
    command("sample", "--ckpt_path", last, "--output", "one.png", "--labels", 7, "--n", 6)
    assert Path("one.png").read_bytes() != Path("some.png").read_bytes()
    assert "labels: 'seven' is no number, and the checkpoint has no names of labels" in refusal(
        "sample", "--ckpt_path", last, "--output", "x.png", "--labels", "seven"
    )
    command("sample", "--ckpt_path", last, "--output", "all.png", "--n", 20)
    command("reconstruct", "--ckpt_path", last, "--output", "pairs.png")
    command("traverse", "--ckpt_path", last, "--output", "walk.png", "--label", 3)
    assert Image.open("all.png").width > Image.open("some.png").width
    assert "labels: [12] are not in 0..9" in refusal(
        "sample", "--ckpt_path", last, "--output", "x.png", "--labels", "[12]"
    )
    assert "label: None" in refusal("traverse", "--ckpt_path", last, "--output", "x.png")


def test_twelve_rows_are_enough_for_a_run(command, refusal, tmp_path, caplog):
    Path("table.csv").write_text("".join(f"{row},{row * row % 7}\n" for row in range(12)))
    with caplog.at_level("INFO"):
        command("fit", "--config", UNMEASURED / "own_table" / "vae.yaml", "--data.path=table.csv", *QUICK)
    assert "data.batch_size: 10 in place of 100, of 10 training rows" in caplog.messages
    (last,) = tmp_path.rglob("last.ckpt")
    assert torch.load(last, weights_only=True)["global_step"] == 24
    assert "interpolate: a line is between two rows of data, and there is 1" in refusal(
        "interpolate", "--ckpt_path", last, "--output", "x.png"
    )


@pytest.mark.parametrize(
    ("kinds", "asked", "same", "wrong"),
    [
        ("cat dog", ["dog", "cat"], ["[1, 0]"], {"2": "2 is none of", "Dog": "'Dog' is none of cat, dog; did you "}),
        ("1 2", ["2", "1"], ["[2]", "1"], {"0": "labels: 0 is none of 1, 2", "3": "labels: 3 is none of 1, 2"}),
    ],
    ids=["words", "numbers"],
)
def test_labels_are_given_by_the_names_of_the_data(command, refusal, tmp_path, kinds, asked, same, wrong):
    lines = ["size,kind", *(f"{row / 7 % 1:.3f},{kinds.split()[row % 2]}" for row in range(200))]
    Path("table.csv").write_text("\n".join(lines))
    config = ("--config", UNMEASURED / "own_table" / "vae.yaml", "--data.path=table.csv", "--data.label=kind")
    command(
        "fit", *config, "--model.conditional=true", *QUICK[1:], "--trainer.max_steps=2", "--pictures.every_n_epochs=0"
    )
    (last,) = tmp_path.rglob("last.ckpt")
    Path("table.csv").unlink()

    def drawn(*labels):
        command("sample", "--ckpt_path", last, "--output", "x.csv", "--n", 4, "--labels", *labels)
        return Path("x.csv").read_text()

    assert drawn(*asked) == drawn(*same) != drawn(*reversed(asked))
    for label, message in wrong.items():
        assert message in refusal("sample", "--ckpt_path", last, "--output", "x.csv", "--labels", label)
    second, (name, message) = kinds.split()[1], list(wrong.items())[1]
    command("traverse", "--ckpt_path", last, "--output", "walk.png", "--label", second)
    assert message.removeprefix("labels") in refusal(
        "traverse", "--ckpt_path", last, "--output", "walk.png", "--label", name
    )


def test_clusters_have_no_names():
    model = MODELS["aae_semi"](data_shape=(1, 8, 8), classes=2)
    assert numbers_of_labels("labels", model, ["cat", "dog"], ["dog"]) == [1]
    clusters = MODELS["aae_clusters"](data_shape=(1, 8, 8), classes=2)
    with pytest.raises(ConfigurationError, match="labels: 'dog' is no number"):
        numbers_of_labels("labels", clusters, ["cat", "dog"], ["dog"])
    assert numbers_of_labels("labels", clusters, ["cat", "dog"], [1]) == [1]


def test_a_table_comes_back_in_its_own_units(command, refusal, tmp_path):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(400, 2, generator=generator) @ torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, 3.0]])
    rows = rows * torch.tensor([1.0, 10.0, 0.1]) + torch.tensor([100.0, 0.0, -5.0])
    lines = ["height,weight,depth", *(",".join(f"{value:.5f}" for value in row) for row in rows.tolist())]
    Path("table.csv").write_text("\n".join(lines))
    options = ("--trainer.max_steps=60", *QUICK[1:], "--pictures.every_n_epochs=0")
    command("fit", "--config", CONFIGS / "unmeasured" / "own_table" / "vae.yaml", "--data.path", "table.csv", *options)
    (last,) = tmp_path.glob("runs/own_table/vae/*/checkpoints/last.ckpt")
    Path("table.csv").unlink()
    command("sample", "--ckpt_path", last, "--output", "draws.csv", "--n", 2000)
    with Path("draws.csv").open() as file:
        header, *drawn = csv.reader(file)
    assert header == ["height", "weight", "depth"]
    drawn = torch.tensor([[float(value) for value in row] for row in drawn])
    assert ((drawn.mean(0) - rows.mean(0)).abs() < 0.3 * rows.std(0)).all()
    assert ((drawn.std(0) / rows.std(0) - 1).abs() < 0.4).all()
    command("sample", "--ckpt_path", last, "--output", "draws.npz", "--n", 5)
    assert "output: 'draws.txt'" in refusal("sample", "--ckpt_path", last, "--output", "draws.txt")
