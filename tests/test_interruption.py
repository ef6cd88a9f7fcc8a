"""What signals do to a run. `signals.py` sends many more, at random moments, to one to three processes."""

from __future__ import annotations

import functools
import os
import random
import signal
import sys
import time

import pytest
import pytorch_lightning as pl
import signals
import torch
from forked import finish, said, start
from pytorch_lightning.callbacks import EMAWeightAveraging, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from small_models import MODELS, trainer

from datamodules import Digits
from lightning_avb import cli, interruption


class Signal(pl.Callback):
    """Sends this process a signal in the middle of batch `number`, of training or of validation."""

    def __init__(self, number: int, hook: str = "on_before_optimizer_step", signum: int = signal.SIGTERM) -> None:
        self.number, self.signum, self.calls = number, signum, 0
        setattr(self, hook, self.send)

    def send(self, trainer, *_) -> None:
        self.calls += 1
        if trainer.global_step == self.number - 1 and not trainer.sanity_checking:
            os.kill(os.getpid(), self.signum)


def fit(folder, *callbacks, ckpt_path=None, **options):
    """4 batches per epoch, a validation after every second epoch."""
    pl.seed_everything(0)
    given = {"check_val_every_n_epoch": 2, "log_every_n_steps": 1, "max_steps": 14, **options}
    run = trainer(folder, logger=CSVLogger(folder / "runs", "fit"), callbacks=list(callbacks), **given)
    model = MODELS["vae"]()
    run.fit(model, Digits(300, binarize="dynamic"), ckpt_path=ckpt_path)
    return {"model": model.state_dict(), "optimizer": run.optimizers[0].state_dict()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The folder of a fit without signals, and how it ended."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return folder, fit(folder, ModelCheckpoint(save_last=True), EMAWeightAveraging(decay=0.9))


@pytest.mark.parametrize(
    ("number", "stops"),
    [(5, 5), (4, 4), (8, 8), (13, 13)],
    ids=["within an epoch", "at its end", "at its end with a validation", "one batch before the end"],
)
def test_a_signal_within_a_step_stops_behind_it_and_nothing_is_lost(tmp_path, undisturbed, number, stops, caplog):
    """Weights, moments and every logged figure, the row of the last step and the validation's among them."""
    whole, expected = undisturbed
    before = signal.getsignal(signal.SIGTERM)
    with caplog.at_level("INFO"), pytest.raises(SystemExit) as left:
        fit(tmp_path / "run", Signal(number), ModelCheckpoint(save_last=True), EMAWeightAveraging(decay=0.9))
    assert left.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before
    last = signals.last(tmp_path / "run")
    assert f"; go on with the same command and --ckpt_path {last}\n" in caplog.text
    assert "weights_only" not in caplog.text.partition("stopped by")[0][-200:]
    assert torch.load(last, weights_only=True)["global_step"] == stops
    ended = fit(tmp_path / "run", ModelCheckpoint(save_last=True), EMAWeightAveraging(decay=0.9), ckpt_path=last)
    assert signals.same(ended, expected)
    assert signals.figures(tmp_path / "run") == signals.figures(whole)


def test_a_validation_between_two_batches_belongs_to_the_first(tmp_path):
    """Where the signal comes at a batch that a validation follows the run stops behind the next one."""
    with pytest.raises(SystemExit):
        fit(tmp_path, Signal(2), ModelCheckpoint(save_last=True), val_check_interval=2, check_val_every_n_epoch=1)
    assert torch.load(signals.last(tmp_path), weights_only=True)["global_step"] == 3


def test_a_run_past_its_last_batch_ends_as_any_other(tmp_path):
    fit(tmp_path, Signal(14), ModelCheckpoint(save_last=True))
    fit(tmp_path, Signal(8), ModelCheckpoint(save_last=True), max_steps=-1, max_epochs=2)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_validation_ends_at_once(tmp_path, signum, code):
    callback = Signal(1, "on_validation_batch_start", signum)
    run = trainer(tmp_path, callbacks=[callback])
    with pytest.raises(SystemExit) as left:
        run.validate(MODELS["vae"](data_shape=(1, 8, 8)), Digits(300, eval_batch_size=50, binarize="static"))
    assert left.value.code == code and callback.calls == 1


def test_without_checkpoints_nothing_is_saved_and_said(tmp_path, capsys, caplog):
    with caplog.at_level("INFO"), pytest.raises(SystemExit) as left:
        fit(tmp_path, Signal(5, signum=signal.SIGINT), enable_checkpointing=False)
    assert left.value.code == 130
    assert not list(tmp_path.rglob("*.ckpt"))
    assert "stopped by SIGINT after step 5; this run writes no checkpoints" in caplog.text


def _stuck() -> None:
    interruption.SECOND_SIGNAL_AFTER = 0.5
    pl.seed_everything(0)
    model = MODELS["vae"]()
    model.on_train_batch_start = lambda batch, batch_idx: print("stuck", flush=True) or time.sleep(60)
    trainer(".", max_steps=2).fit(model, Digits(300, binarize="dynamic"))


def test_a_second_signal_ends_at_once(tmp_path):
    """Not one that a launcher passes on right after the first."""
    (process,) = run = start(_stuck, tmp_path)
    while "stuck" not in said(tmp_path):
        time.sleep(0.01)
    for pause in (0.1, 0.1):
        os.kill(process.pid, signal.SIGTERM)
        time.sleep(pause)
    assert process.is_alive()
    time.sleep(0.5)
    os.kill(process.pid, signal.SIGTERM)
    assert finish(run, 10) == [-signal.SIGTERM]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run of n processes that is left alone."""
    return functools.cache(lambda n: signals.whole(tmp_path_factory.mktemp("whole") / str(n), n))


@pytest.mark.parametrize(
    "case",
    [
        signals.Case("SIGUSR1", "one", 2),
        pytest.param(signals.Case("SIGUSR1", "all", 2), marks=pytest.mark.slow),
        pytest.param(signals.Case("SIGINT", "all", 1), marks=pytest.mark.slow),
        # Of three processes sums depend on the order in which they are taken.
        pytest.param(signals.Case("SIGTERM", "one", 3), marks=pytest.mark.slow),
    ],
    ids=lambda case: f"{case.signal} to {case.to} of {case.processes}",
)
def test_at_a_random_moment_every_process_stops_behind_the_same_batch(tmp_path, whole, case):
    assert signals.trial(tmp_path / "run", case, whole(case.processes), random.Random(0)) is None


def ctrl_c(*_) -> None:
    raise KeyboardInterrupt


def ctrl_c_within_lightning(*_) -> None:
    """Which makes an exit of it."""
    try:
        ctrl_c()
    except KeyboardInterrupt:
        sys.exit(1)


@pytest.mark.parametrize("interrupted", [ctrl_c, ctrl_c_within_lightning])
def test_ctrl_c_before_a_fit_has_begun(monkeypatch, interrupted):
    monkeypatch.setattr("lightning_avb.cli.training.CLI", interrupted)
    with pytest.raises(SystemExit) as left:
        cli.main(["fit"])
    assert left.value.code == 130


@pytest.mark.parametrize(
    ("shown", "preempted"),
    [
        ("JobState=RUNNING Reason=None PreemptTime=2026-11-26T21:29:35", True),
        ("JobState=RUNNING Reason=None PreemptTime=None", False),  # somebody sent the signal by hand
        ("JobState=COMPLETING Reason=None PreemptTime=None", False),  # scancel
        ("JobState=COMPLETING Reason=TimeLimit PreemptTime=None", False),
        ("JobState=COMPLETING Reason=None PreemptTime=2026-11-26T21:29:35", False),  # no grace time: SLURM requeues it
    ],
)
def test_which_sigterm_is_a_preemption(tmp_path, monkeypatch, shown, preempted):
    """The states are those that SLURM 22.05 shows while it waits for the job to end."""
    stub = tmp_path / "scontrol"
    stub.write_text(f"#!/bin/sh\n[ $1 = show ] && echo '{shown}'\n")
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert interruption._in_grace_time() is preempted
