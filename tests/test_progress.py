"""What a command says while it runs."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import sys
import termios
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from pytorch_lightning.utilities import rank_zero_info
from test_cli import FIT

from lightning_avb.cli import progress
from lightning_avb.cli.progress import ProgressLines
from lightning_avb.quiet import without_advertisements

FIT = tuple(word for word in FIT if word != "--trainer.enable_progress_bar=false")
QUIET = ("--pictures.every_n_epochs=0", "--trainer.log_every_n_steps=4")
RUN = Path("runs", "digits", "vae", "version_0")


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch, without_curves):
    monkeypatch.chdir(tmp_path)
    return tmp_path


# A file.


def test_a_file_gets_lines_and_no_carriage_return(command, capsys, monkeypatch):
    monkeypatch.setattr(progress, "FIRST", 0.0)
    command(*FIT, *QUIET, "--progress_seconds=0.000001", "--trainer.max_steps=24")
    said = capsys.readouterr()
    assert "\r" not in said.out + said.err
    lines = [line for line in said.out.splitlines() if line.startswith("step ")]
    assert [line.split(" | ")[0] for line in lines] == [f"step {n} of 24" for n in (*range(1, 25), 24)]
    assert re.fullmatch(r"step 13 of 24 \| [\d.e+]+ per second \| \d+ s left \| .*", lines[12])
    assert re.fullmatch(r"step 24 of 24 \| [\d.e+]+ per second \| took \d+ s \| .*", lines[-1])
    assert "val/elbo -" in lines[-1] and "train/elbo -" in lines[-1] and "v_num" not in lines[-1]


def test_a_short_run_has_one_line_and_a_resumed_one_counts_on(command, capsys):
    command(*FIT, *QUIET, "--trainer.max_steps=12")
    assert len(re.findall("^step", capsys.readouterr().out, re.M)) == 1
    command(*FIT, *QUIET, "--trainer.max_steps=36", "--ckpt_path", RUN)
    assert "step 36 of 36" in capsys.readouterr().out
    command(*FIT, *QUIET, "--trainer.max_steps=-1", "--trainer.max_epochs=2")
    assert "step 24 of 24" in capsys.readouterr().out


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_evaluation_counts_batches(command, capsys, monkeypatch, stage):
    command(*FIT, *QUIET, "--trainer.max_steps=2", "--trainer.enable_progress_bar=false")
    monkeypatch.setattr(progress, "FIRST", 0.0)
    capsys.readouterr()
    fast = ("--likelihood.rows=2", "--likelihood.steps=2", "--likelihood.simulated=2") if stage == "test" else ()
    options = (*FIT[1:], "--data.eval_batch_size=100", "--progress_seconds=0.000001", *fast)
    command(stage, *options, "--ckpt_path", RUN)
    said = capsys.readouterr()
    assert re.findall(r"^batch \d of \d", said.out, re.M) == [f"batch {n} of 3" for n in (1, 2, 3)]
    assert "\r" not in said.out + said.err


class Clock:
    """A time that passes when it is told to."""

    now = 1000.0

    def monotonic(self):
        return self.now


def test_lines_come_after_five_seconds_and_every_thirty_from_then_on(monkeypatch, capsys):
    clock, step = Clock(), 100
    monkeypatch.setattr(progress, "time", clock)
    trainer = SimpleNamespace(global_step=step, estimated_stepping_batches=1100, progress_bar_metrics={})
    lines = ProgressLines()
    monkeypatch.setattr(lines, "get_metrics", lambda *_: {"v_num": 3, "val/elbo": -1.23456789})
    lines.on_train_start(trainer, None)
    for second in range(1, 71):
        clock.now += 1
        trainer.global_step += 10 if second <= 35 else 5  # slower from then on
        lines.on_train_batch_end(trainer, None, None, None, 0)
    lines.on_train_end(trainer, None)
    assert capsys.readouterr().out.splitlines() == [
        "step 150 of 1,100 | 10 per second | 95 s left | val/elbo -1.2346",
        "step 450 of 1,100 | 10 per second | 65 s left | val/elbo -1.2346",
        "step 600 of 1,100 | 5 per second | 65 s left | val/elbo -1.2346",
        "step 625 of 1,100 | 7.5 per second | took 70 s | val/elbo -1.2346",
    ]
    lines.disable()  # as on every process but the first
    lines.on_train_end(trainer, None)
    assert not capsys.readouterr().out
    trainer.estimated_stepping_batches = float("inf")
    lines = ProgressLines(5)
    monkeypatch.setattr(lines, "get_metrics", lambda *_: {})
    lines.on_train_start(trainer, None)
    lines.on_train_end(trainer, None)
    assert capsys.readouterr().out == "step 625 | 0 per second | took 0 s\n"


def test_another_bar_of_the_user_and_none_at_all_are_respected(command, capsys, refusal):
    command(*FIT, *QUIET, "--trainer.max_steps=2", "--trainer.enable_progress_bar=false")
    assert "step" not in capsys.readouterr().out
    own = "--trainer.callbacks+=pytorch_lightning.callbacks.TQDMProgressBar"
    command(*FIT, *QUIET, "--trainer.max_steps=2", own)
    assert "Epoch 0" in capsys.readouterr().out
    assert "progress_seconds" in refusal(*FIT, "--progress_seconds=0")


# A terminal.


def in_a_terminal(*arguments):
    """What `lightning-avb` with these arguments writes to a terminal of 140 columns."""
    child, terminal = pty.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, "-m", "lightning_avb", *map(str, arguments)])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 140, 0, 0))
    said, end = b"", time.monotonic() + 120
    while time.monotonic() < end:
        try:
            new = os.read(terminal, 4096)
        except OSError:  # the other end is closed
            break
        if not new:
            break
        said += new
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, said.decode()
    return said.decode()


def test_the_bar_of_a_terminal_counts_the_steps_of_the_run():
    said = in_a_terminal(*FIT, *QUIET, "--trainer.max_steps=60")
    counts = [int(n) for n in re.findall(r"Epoch \d+: .*? (\d+)/60 ", said)]
    assert counts == sorted(counts) and {0, 10, 20, 30, 40, 50, 60} <= {*counts}
    said = in_a_terminal(*FIT, *QUIET, "--trainer.max_steps=80", "--ckpt_path", RUN)
    counts = [int(n) for n in re.findall(r"Epoch \d+: .*? (\d+)/80 ", said)]
    assert counts == sorted(counts) and counts[0] in (0, 60) and {60, 70, 80} <= {*counts} and 10 not in counts


# Advertisements.


TIPS = (
    "💡 Tip: For seamless cloud logging and experiment tracking, try installing [litlogger]",
    "💡 Tip: For seamless cloud uploads and versioning, try installing [litmodels]",
)


def test_advertisements_are_left_out_and_nothing_else(caplog):
    with caplog.at_level("INFO", "pytorch_lightning"):
        with without_advertisements():
            for line in (*TIPS, "GPU available: False"):
                rank_zero_info(line)
        rank_zero_info(TIPS[0])
    assert [record.getMessage() for record in caplog.records] == ["GPU available: False", TIPS[0]]


def test_fit_and_test_say_nothing_of_other_packages(command, caplog, recwarn):
    with caplog.at_level("INFO"):
        command(*FIT, *QUIET, "--trainer.max_steps=2")
        fast = ("--likelihood.estimators=[importance]", "--likelihood.rows=2")
        command("test", *FIT[1:], *fast, "--ckpt_path", RUN)
    said = "\n".join([*(record.getMessage() for record in caplog.records), *(str(found.message) for found in recwarn)])
    assert "stopped: `max_steps=2` reached" in said
    assert not re.search("Tip|pypi.org|callbacks used to create the checkpoint|LeafSpec|logging interval", said)


def test_a_resumed_fit_that_lacks_a_callback_still_says_so(command):
    command(*FIT, *QUIET, "--trainer.max_steps=12", "--config", "trainer/best")
    with pytest.warns(UserWarning, match="callbacks used to create the checkpoint.*Best"):
        command(*FIT, *QUIET, "--trainer.max_steps=13", "--ckpt_path", RUN)
