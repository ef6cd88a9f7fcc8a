"""Fits that a signal stops at a random moment, and that go on afterwards: do they end as if nothing had happened?

python tests/signals.py [--trials 50] [--processes 1 2 3] [--signals SIGTERM SIGINT SIGUSR1] [--to one all] [--seed 0]

A trial fits a small AVB to the digits, sends the signal to one process or to all of them, waits for the exit codes, and
resumes. It passes if no process hangs, the exit codes are 143, 130, or 0 with one `scontrol requeue` (SIGUSR1, in the
environment of a SLURM job), and the resumed run ends with the bits of weights, moments and logged figures of a run that
was left alone. Prints a line a case, and what went wrong; exits with 1 if anything did.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from forked import Begun, finish, free_port, said, slurm_environment, start, torchrun_environment
from pytorch_lightning.loggers import CSVLogger
from small_models import MODELS

from datamodules import Digits
from lightning_avb.callbacks import Checkpoint
from lightning_avb.checkpoints import AtomicCheckpointIO

CODES = {"SIGTERM": 143, "SIGINT": 130, "SIGUSR1": 0}
STEPS = 60


def fit(folder: Path, processes: int, slurm: bool = False, ckpt_path: Path | None = None) -> list[Any]:
    """Starts a fit, in a new folder if it is not resumed."""
    if ckpt_path is None:
        shutil.rmtree(folder, ignore_errors=True)
    for begun in folder.glob("begun_*"):
        begun.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    port, environment = free_port(), slurm_environment if slurm else torchrun_environment
    path = {"PATH": f"{_scontrol(folder)}:{os.environ['PATH']}"}
    environments = [{**environment(rank, processes, port), **path} for rank in range(processes)]
    return start(partial(_fit, processes, ckpt_path), folder, environments)


def _fit(processes: int, ckpt_path: Path | None) -> None:
    """4 batches per epoch, a validation after every second one, a checkpoint of its own now and then."""
    pl.seed_everything(0)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        max_steps=STEPS,
        check_val_every_n_epoch=2,
        log_every_n_steps=1,
        logger=CSVLogger("runs", "fit"),
        callbacks=[Begun(), Checkpoint(save_last=True, every_n_train_steps=7)],
        plugins=[AtomicCheckpointIO()],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(MODELS["avb_ac"](), Digits(300 // processes, binarize="dynamic"), ckpt_path=ckpt_path)


class Case(NamedTuple):
    """A signal, to whom (`one` or `all`), of how many processes."""

    signal: str
    to: str
    processes: int


class Whole(NamedTuple):
    """A run that was left alone: how it ended, and how long it trained."""

    end: Any
    figures: Any
    seconds: float


def _scontrol(folder: Path) -> Path:
    """A folder with a `scontrol` that writes down what it is asked."""
    stub = folder / "bin" / "scontrol"
    if not stub.exists():
        stub.parent.mkdir()
        stub.write_text(f'#!/bin/sh\necho "$@" >> "{folder}/requeued"\n')
        stub.chmod(0o755)
    return stub.parent


def wait_until_begun(run: Sequence[Any], folder: Path, timeout: float = 120) -> float:
    limit = time.monotonic() + timeout
    while len(list(folder.glob("begun_*"))) < len(run):
        if time.monotonic() > limit or any(process.exitcode is not None for process in run):
            raise RuntimeError(f"training did not begin:\n{said(folder)}")
        time.sleep(0.005)
    return time.monotonic()


def last(folder: Path) -> Path:
    """The newest last.ckpt."""
    return max(folder.glob("runs/**/last.ckpt"), key=lambda path: path.stat().st_mtime)


def end(folder: Path) -> Any:
    checkpoint = torch.load(last(folder), weights_only=True)
    return {name: checkpoint[name] for name in ("state_dict", "optimizer_states", "global_step", "lr_schedulers")}


def figures(folder: Path) -> Any:
    """All that was logged, over the folders of all starts: (step, name) -> value."""
    logged: dict[tuple[str, str], str] = {}
    for path in sorted(folder.glob("runs/**/metrics.csv"), key=lambda path: path.stat().st_mtime):
        with path.open() as file:
            for row in csv.DictReader(file):
                logged.update({(row["step"], name): value for name, value in row.items() if value and name != "epoch"})
    return logged


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def whole(folder: Path, processes: int) -> Whole:
    run = fit(folder, processes)
    begun = wait_until_begun(run, folder)
    if any(finish(run)):
        raise RuntimeError(said(folder))
    return Whole(end(folder), figures(folder), time.monotonic() - begun)


def trial(folder: Path, case: Case, expected: Whole, chance: random.Random, delay: float | None = None) -> str | None:
    """What went wrong; None: nothing. A run that has ended before the signal came passes as well."""
    slurm, number = case.signal == "SIGUSR1", signal.Signals[case.signal]
    run = fit(folder, case.processes, slurm)
    begun = wait_until_begun(run, folder)
    time.sleep(max(0.0, begun + (chance.uniform(0, expected.seconds) if delay is None else delay) - time.monotonic()))
    to = run if case.to == "all" else [chance.choice(run)]
    for process in to:
        if process.is_alive():
            os.kill(process.pid, number)
    codes = finish(run)
    if None in codes:
        return f"hung: exit codes {codes}\n{said(folder)}"
    ended = torch.load(last(folder), weights_only=True)["global_step"] == expected.end["global_step"]
    asked = (folder / "requeued").read_text().split() if (folder / "requeued").exists() else []
    if not ended:
        if set(codes) != {CODES[case.signal]}:
            return f"exit codes {codes}\n{said(folder)}"
        if asked != (["requeue", "17"] if slurm else []):
            return f"scontrol was asked {asked}"
        if any(finish(fit(folder, case.processes, slurm, last(folder)))):
            return f"the resumed run failed\n{said(folder)}"
    if not same(end(folder), expected.end):
        return f"other bits\n{said(folder)}"
    if figures(folder) != expected.figures:
        apart = set(figures(folder).items()) ^ set(expected.figures.items())
        return f"other figures: {sorted(apart)[:6]}\n{said(folder)}"
    return None


def main(report: Callable[[str], None] = print) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--signals", nargs="+", default=list(CODES), choices=list(CODES))
    parser.add_argument("--to", nargs="+", default=["one", "all"], choices=["one", "all"])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance, wrong = random.Random(options.seed), 0
    with tempfile.TemporaryDirectory() as temporary:
        for processes in options.processes:
            expected = whole(Path(temporary, "whole"), processes)
            for name in options.signals:
                for to in options.to if processes > 1 else ["all"]:
                    case, begin = Case(name, to, processes), time.monotonic()
                    found = [trial(Path(temporary, "run"), case, expected, chance) for _ in range(options.trials)]
                    failures = [failure for failure in found if failure]
                    seconds = time.monotonic() - begin
                    report(f"{name} to {to} of {processes}: {len(failures)} of {len(found)} failed ({seconds:.0f} s)")
                    for failure in failures[:3]:
                        report(failure[-1500:])
                    wrong += len(failures)
                    sys.stdout.flush()
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
