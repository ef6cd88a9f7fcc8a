"""Folders of runs: where they are, whose they are, and what a run writes down of itself."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from jsonargparse import Namespace
from test_cli import CONFIGS
from test_cli import FIT as SMALL

from lightning_avb import cli, records, runs
from lightning_avb.records import MetricsFile

FIT = (*SMALL, "--pictures.every_n_epochs=0", "--trainer.log_every_n_steps=1")
NAME = Path("digits", "vae")
FIXED = "--trainer.logger.init_args.version=0"


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch, without_curves):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def slurm(monkeypatch):
    """Sets what a batch job of one task finds in its environment."""

    def start(job, restart=0):
        values = {"SLURM_JOB_ID": job, "SLURM_NTASKS": 1, "SLURM_PROCID": 0, "SLURM_LOCALID": 0, "SLURM_NODEID": 0}
        values |= {"SLURM_JOB_NAME": "train", "SLURM_RESTART_COUNT": restart, "SLURM_NTASKS_PER_NODE": 1}
        for name, value in values.items():
            monkeypatch.setenv(name, str(value))

    return start


@pytest.fixture
def killed(command, monkeypatch):
    """Runs a command that dies behind so many batches."""

    class Killed(BaseException):
        pass

    def run(batches, *args):
        def die(self, trainer, *rest):
            write(self, trainer, *rest)
            if trainer.global_step == batches:
                raise Killed

        write = records.Records.on_train_batch_end
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(records.Records, "on_train_batch_end", die)
            command(*args)

    return run


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [{name: value for name, value in row.items() if value} for row in csv.DictReader(file)]


def files():
    return {str(path) for path in Path().rglob("*") if path.is_file()}


def same_end(one, other):
    ends = [
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for folder in (one, other)
    ]
    return all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


# Where a run is.


def test_the_root_of_all_folders_can_be_chosen(command):
    command(*FIT, "--trainer.max_steps=2", "--trainer.default_root_dir=here")
    assert (Path("here") / NAME / "version_0" / "metrics.csv").exists()
    assert not Path("runs").exists()
    saved = Path("here") / NAME / "version_0" / "config.yaml"
    command("fit", "--config", saved, "--trainer.default_root_dir=there")
    assert (Path("there") / NAME / "version_0" / "checkpoints" / "last.ckpt").exists()


def test_a_folder_that_the_logger_was_given_stays():
    for kind, given, expected in (
        ("CSVLogger", {"save_dir": "."}, "root"),
        ("MetricsLogger", {"save_dir": "own"}, "own"),
        ("TensorBoardLogger", {"save_dir": "."}, "root"),
        ("WandbLogger", {"save_dir": "."}, "root"),
        ("MLFlowLogger", {"save_dir": "."}, "."),
    ):
        logger = Namespace(class_path=f"some.{kind}", init_args=Namespace(given))
        trainer = Namespace(logger=[logger], default_root_dir="root")
        runs.place_loggers(trainer)
        assert logger.init_args["save_dir"] == expected


def test_a_trial_leaves_nothing(command):
    command(*FIT, "--trainer.fast_dev_run=true")
    assert not files() and not Path("runs").exists()


WRONG = (
    ("--data.batch_size=0",),
    ("--model.encoder.network.activation=eluu",),
    ("--model.players.model.optimizer.lr=-3",),
    ("--data.binarize=none", "--trainer.limit_val_batches=0"),
    ("--ckpt_path=nowhere.ckpt",),
)
LOGGERS = ((), (FIXED,), ("--config", CONFIGS / "trainer" / "tensorboard.yaml"))


@pytest.mark.parametrize(
    ("wrong", "logger"),
    [
        pytest.param(wrong, logger, marks=() if (i + j) % 3 == 0 else pytest.mark.slow)
        for i, wrong in enumerate(WRONG)
        for j, logger in enumerate(LOGGERS)
    ],
)
def test_a_start_that_fails_leaves_no_folder(refusal, wrong, logger):
    """Quick: every mistake with one logger, and every logger with a mistake."""
    refusal(*FIT, *logger, *wrong)
    assert not files() and not list(Path().rglob("version_*"))


def test_runs_that_start_at_once_get_folders_of_their_own(monkeypatch):
    """None sees the folder of another when it looks for the next number."""
    monkeypatch.setattr(Path, "glob", lambda *_: [])
    arguments = [Namespace(save_dir="runs", name="a/b", version=None) for _ in range(3)]
    made = [
        runs.make_run_folder(Namespace(logger=Namespace(class_path="x.MetricsLogger", init_args=a))) for a in arguments
    ]
    assert made == [Path("runs/a/b", f"version_{number}") for number in range(3)]
    assert [a.version for a in arguments] == [0, 1, 2]


# Whose it is.


def test_a_run_does_not_take_the_folder_of_another(command, refusal):
    command(*FIT, FIXED, "--trainer.max_steps=2")
    before = {name: Path(name).read_bytes() for name in files()}
    folder = "runs/digits/vae/version_0"
    assert refusal(*FIT, FIXED).startswith(f"error: trainer.logger: '{folder}/checkpoints' holds another run; continue")
    line = refusal(*FIT, f"--checkpoint.dirpath={folder}/checkpoints")
    assert line.startswith(f"error: checkpoint.dirpath: '{folder}/checkpoints' holds another run")
    Path("copy.ckpt").write_bytes(Path(folder, "checkpoints", "last.ckpt").read_bytes())
    assert "holds another run" in refusal(*FIT, FIXED, "--ckpt_path=copy.ckpt")
    Path("copy.ckpt").unlink()
    assert {name: Path(name).read_bytes() for name in files()} == before
    assert not list(Path().rglob("version_1"))
    for path in Path(folder, "checkpoints").iterdir():
        path.unlink()
    assert f"'{folder}' holds another run" in refusal(*FIT, FIXED)


def test_places_that_cannot_be_written_are_said_before_anything_is_done(refusal):
    Path("file").write_text("")
    for key, options in (
        ("trainer.default_root_dir", ("--trainer.default_root_dir",)),
        ("trainer.logger.init_args.save_dir", ("--trainer.logger.init_args.save_dir",)),
        ("checkpoint.dirpath", ("--checkpoint.dirpath",)),
    ):
        for place, why in (("/proc/a", "in '/proc'"), ("file/a", "'file' is not a folder")):
            line = refusal(*FIT, *options, place)
            assert line.startswith(f"error: {key}: '{place}' cannot be written: ") and line.endswith(why)
    for task in cli.COMMANDS:
        needs = {"denoise": ("--noise=0.1",), **dict.fromkeys(("embed", "score", "impute"), ("--input=rows.csv",))}
        more = needs.get(task, ())
        for place, why in (
            ("/proc/a.png", "in '/proc'"),
            ("file/a.png", "'file' is not a folder"),
            (".", "is a folder"),
        ):
            line = refusal(task, "--ckpt_path=some.ckpt", "--output", place, *more)
            assert line.startswith(f"error: output: '{place}'") and line.endswith(why)
    assert files() == {"file"}


@pytest.mark.skipif(os.getuid() != 0, reason="another user's folder needs another user")
def test_a_folder_of_another_user_is_no_place(tmp_path_factory):
    theirs = tmp_path_factory.mktemp("theirs")
    (theirs / "a.png").write_text("")
    for folder in (theirs, *list(theirs.parents)[:3]):
        folder.chmod(0o755)
    child = os.fork()
    if child == 0:
        os.setuid(65534)
        refused = 0
        for path, file in (
            (theirs, False),
            (theirs / "new", False),
            (theirs / "a.png", True),
            (theirs / "b.png", True),
        ):
            try:
                runs.require_writable("key", path, file)
            except runs.ConfigurationError as error:
                refused += str(error).startswith(f"key: '{path}' ")
        os._exit(refused)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 4


# What goes on in it.


def test_a_resumed_run_goes_on_with_its_metrics(command, killed):
    command(*FIT, "--trainer.max_steps=30", "--trainer.default_root_dir=whole")
    whole = Path("whole") / NAME / "version_0"
    options = (*FIT, "--trainer.default_root_dir=parts", FIXED, "--checkpoint.every_n_train_steps=12")
    killed(17, *options, "--trainer.max_steps=30")
    parts = Path("parts") / NAME / "version_0"
    # The checkpoint at step 12 was written before the validation of that epoch.
    assert [row["step"] for row in rows(parts) if "val/elbo" in row] == ["11"]
    with (parts / "metrics.csv").open("a") as file:
        file.write("1,torn")
    command(*options, "--trainer.max_steps=30", "--ckpt_path=last")
    assert rows(parts) == rows(whole)
    assert len(rows(parts)) == 30 + 2
    assert same_end(parts, whole)
    starts = yaml.safe_load((parts / "run.yaml").read_text())
    assert [start["step"] for start in starts] == [0, 12]
    assert starts[1]["checkpoint"].endswith("last.ckpt") and "--ckpt_path=last" in starts[1]["command"]
    assert starts[0]["versions"]["torch"] == torch.__version__ and starts[0]["processes"] == 1


def test_metrics_are_never_behind_a_checkpoint(command, killed, monkeypatch):
    """Not even where the run dies without another word."""
    monkeypatch.setattr(records.MetricsLogger, "finalize", lambda *_: None)
    killed(9, *FIT, "--checkpoint.every_n_train_steps=8")
    assert [row["step"] for row in rows(Path("runs") / NAME / "version_0")] == [str(step) for step in range(8)]


def test_rows_of_a_file_are_kept_up_to_a_step(tmp_path):
    first = MetricsFile(tmp_path)
    for step in range(4):
        first.log_metrics({"loss": torch.tensor(float(step))}, step)
    first.log_metrics({"val": 3.5}, 3)
    first.save()
    again = MetricsFile(tmp_path)
    again.continue_from(4)
    again.log_metrics({"val": 3.5}, 3)  # a validation that its checkpoint came before
    again.log_metrics({"loss": 4.0, "other": 1.0}, 4)
    again.save()
    assert [row["step"] for row in rows(tmp_path)] == ["0", "1", "2", "3", "3", "4"]
    assert rows(tmp_path)[4] == {"step": "3", "val": "3.5"}
    assert rows(tmp_path)[5] == {"step": "4", "loss": "4.0", "other": "1.0"}
    again.continue_from(2)
    assert [row["loss"] for row in rows(tmp_path)] == ["0.0", "1.0"]


def test_a_job_finds_its_own_folder_and_goes_on(command, slurm, refusal, killed):
    command(*FIT, "--trainer.max_steps=17", "--trainer.default_root_dir=whole")
    slurm(4711)
    options = (*FIT, "--checkpoint.every_n_train_steps=7")
    killed(9, *options, "--trainer.max_steps=17")
    folder = Path("runs") / NAME / "job_4711"
    assert folder.is_dir()
    assert "'runs/digits/vae/job_4711/checkpoints' holds another run" in refusal(*options)
    slurm(4711, restart=1)
    command(*options, "--trainer.max_steps=17")
    assert [path.name for path in folder.parent.iterdir()] == ["job_4711"]
    assert [row["step"] for row in rows(folder) if "train/elbo" in row] == [str(step) for step in range(17)]
    assert same_end(folder, Path("whole") / NAME / "version_0")
    starts = yaml.safe_load((folder / "run.yaml").read_text())
    assert [(start["job"], start["step"]) for start in starts] == [("4711", 0), ("4711", 7)]
    slurm(4712)
    assert "ckpt_path: 'hpc': there is no checkpoint in 'runs/digits/vae/job_4712/checkpoints'" in refusal(
        *options, "--ckpt_path=hpc"
    )
    assert not (folder.parent / "job_4712").exists()


def test_a_job_that_died_before_its_first_checkpoint_starts_from_scratch(command, killed, slurm, caplog):
    slurm(8)
    killed(3, *FIT)
    folder = Path("runs") / NAME / "job_8"
    assert len(rows(folder)) == 2 and not list(folder.glob("checkpoints/*"))
    slurm(8, restart=1)
    command(*FIT, "--trainer.max_steps=2")
    assert "no checkpoint in 'runs/digits/vae/job_8/checkpoints'; the job starts from scratch again" in caplog.text
    assert [row["step"] for row in rows(folder) if "train/elbo" in row] == ["0", "1"]


def test_torchrun_names_a_run_that_it_may_start_again(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a1")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "0")
    assert runs.job_name() is None and not runs.restarted()
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    assert runs.job_name() == "run_a1" and not runs.restarted()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert runs.restarted()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert runs.job_name() is None


@pytest.mark.parametrize("name", ["bash", "interactive"])
def test_an_interactive_job_is_a_run_like_any(slurm, monkeypatch, name):
    slurm(1, restart=1)
    assert runs.job_name() == "job_1" and runs.restarted()
    monkeypatch.setenv("SLURM_JOB_NAME", name)
    assert runs.job_name() is None and not runs.restarted()


def test_one_id_at_wandb_over_all_ways_to_go_on(command, monkeypatch, slurm):
    pytest.importorskip("wandb").finish()
    monkeypatch.setenv("WANDB_MODE", "offline")
    options = (*FIT, "--config", CONFIGS / "trainer" / "wandb.yaml", "--checkpoint.dirpath=kept")

    def go_on(steps, *more):
        command(*options, f"--trainer.max_steps={steps}", *more)
        sys.modules["wandb"].finish()

    go_on(2)
    (run,) = Path("runs/lightning-avb").iterdir()
    go_on(3, "--ckpt_path=last")
    go_on(4, "--ckpt_path=kept")
    go_on(5, "--ckpt_path=kept/last.ckpt")
    go_on(6, "--ckpt_path=hpc")
    assert list(Path("runs/lightning-avb").iterdir()) == [run]
    assert [start["step"] for start in yaml.safe_load((run / "run.yaml").read_text())] == [0, 2, 3, 4, 5]
    slurm(5)
    monkeypatch.setenv("SLURM_CLUSTER_NAME", "big")
    trainer = Namespace(logger=Namespace(class_path="a.WandbLogger", init_args=Namespace(save_dir="x")))
    trainer.default_root_dir = "runs"
    runs.place_loggers(trainer)
    assert runs.planned_folder(trainer) == Path("x", "lightning_logs", "job_5_big")


# What stands of it in its folder.


def test_the_commit_of_the_folder_is_written_down(tmp_path, monkeypatch):
    assert records.git_commit() is None

    def git(*words):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True, capture_output=True)

    git("init")
    Path("some").write_text("1")
    git("add", "some")
    git("commit", "-m", "one")
    Path("untracked").write_text("")
    first = records.git_commit()
    assert len(first) == 40
    Path("some").write_text("2")
    assert records.git_commit() == f"{first}+changes"
    monkeypatch.setenv("PATH", "")
    assert records.git_commit() is None
