"""Signals in a fit: all processes stop after the same batch, with a checkpoint that resumes exactly.

SIGTERM, SIGINT (Ctrl-C) and, in a SLURM job, the signal before its time limit are handled in one way. The handler only
records the signal. At the end of every batch the processes exchange what they have recorded; the result is read one
batch later, so that no process waits for it. Then all processes are after the same batch: they save together, and exit.
If a validation or the end of an epoch follows a batch, it is part of this batch: the run then continues to the end of
the epoch, or to the next batch.

| Signal | Exit code | |
|---|---|---|
| SIGTERM | 143 | |
| SIGINT | 130 | |
| SLURM's (SIGUSR1) | 0 | the job is requeued |
| SIGTERM of a preemption | 0 | the same: SLURM drops a job that ends within its grace time |
| a second one | | ends the process at once |

A run after its last batch is completed. Validation, test and prediction have nothing to save: SIGTERM and SIGINT end
them at once, with the same exit codes.

Lightning's own handlers save and broadcast in the middle of a step, where another process may wait in a collective of
the model: they are never installed (Lightning issues 20806 and 21406). Lightning's broadcast before every batch is left
out as well; the exchange above replaces it.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.environments import LightningEnvironment, SLURMEnvironment
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn

from .lightning_private import cluster_environment, log_this_step, replace_signal_handlers, validates_or_ends_now

SECOND_SIGNAL_AFTER = 3.0
"""Seconds after which a signal counts as a second one. Launchers repeat a signal that the process group already got."""


class Interruption(pl.callbacks.Checkpoint):
    """Stops a fit after a batch when a signal has arrived. Every `Game` has one.

    It is a `Checkpoint` because Lightning calls these last, so that the checkpoint includes what other callbacks do at
    the end of a batch.
    """

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.trainer = trainer
        self.noted = self.agreed = 0
        self._noted_at, self._exchange, self._previous = 0.0, _Exchange(trainer), dict[int, Any]()
        replace_signal_handlers(trainer, self._install, self._restore)

    def _install(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # only the main thread may set handlers
        fitting = self.trainer.state.fn == "fit"
        handlers: dict[int, Any] = dict.fromkeys(
            (signal.SIGTERM, signal.SIGINT), self._note if fitting else _exit_at_once
        )
        if fitting and (requeue := self._requeue_signal()):
            handlers[requeue] = self._note
        self._previous = {signum: signal.signal(signum, handler) for signum, handler in handlers.items()}

    def _restore(self) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        self._previous = {}

    def _requeue_signal(self) -> int:
        """The signal that requeues the SLURM job; 0: there is none."""
        environment = cluster_environment(self.trainer)
        if isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
            return int(environment.requeue_signal or 0)
        return 0

    def _note(self, signum: int, frame: Any) -> None:
        now = time.monotonic()
        if not self.noted:
            self.noted, self._noted_at = signum, now
        elif now - self._noted_at > SECOND_SIGNAL_AFTER:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.agreed = self._exchange(self.noted)
        if not self.agreed:
            return
        if not validates_or_ends_now(trainer):
            log_this_step(trainer)
            self._stop()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        at_the_end = trainer.global_step == trainer.max_steps or trainer.current_epoch + 1 == trainer.max_epochs
        if self.agreed and not at_the_end and not trainer.should_stop:
            self._stop()

    def _stop(self) -> None:
        trainer, name = self.trainer, signal.Signals(self.agreed).name
        path = self._save()
        how = "this run writes no checkpoints: nothing is saved"
        if path is not None:
            how = f"go on with the same command and --ckpt_path {path}"
        rank_zero_info(f"stopped by {name} after step {trainer.global_step}; {how}")
        if self.agreed == self._requeue_signal() or self._preempted():
            # SLURM ends the job step as soon as the job is in the queue again.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            if trainer.is_global_zero:
                _requeue()
            sys.exit(0)
        # The main process of Lightning's launcher kills itself if another process ends with an error.
        environment = cluster_environment(trainer)
        launched = isinstance(environment, LightningEnvironment) and trainer.local_rank > 0
        sys.exit(0 if launched else 128 + self.agreed)

    def _preempted(self) -> bool:
        """Whether this SIGTERM comes from a preemption by SLURM; the same on every process."""
        environment = cluster_environment(self.trainer)
        kept_out = isinstance(environment, SLURMEnvironment) and not environment.auto_requeue
        if self.agreed != signal.SIGTERM or "SLURM_JOB_ID" not in os.environ or kept_out:
            return False
        return self.trainer.strategy.broadcast(self.trainer.is_global_zero and _in_grace_time())

    def _save(self) -> Path | None:
        """Writes `last.ckpt` into the run's checkpoint folder, on all processes together; None if it has none."""
        for callback in self.trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.dirpath is not None:
                path = Path(callback.dirpath, callback.CHECKPOINT_NAME_LAST + callback.FILE_EXTENSION)
                self.trainer.save_checkpoint(path, weights_only=False)
                return path
        return None


def _exit_at_once(signum: int, frame: Any) -> None:
    sys.exit(128 + signum)


def _requeue() -> None:
    """Requeues the SLURM job of this process, or its task of a job array."""
    if _scontrol("requeue") is None:
        rank_zero_warn("requeue the job by hand")
    else:
        rank_zero_info("the job is in the queue again")


def _in_grace_time() -> bool:
    """Whether SLURM has begun to preempt this job, which then still counts as running.

    A job that is cancelled, at its time limit, or preempted without a grace time does not: SLURM ends it, and requeues
    it if necessary.
    """
    job = _scontrol("show", "job") or ""
    return "JobState=RUNNING" in job and re.search(r"\bPreemptTime=\d", job) is not None


def _scontrol(*command: str) -> str | None:
    """Output of an `scontrol` command for this job, or this task of an array; None, with a warning, if it fails."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    line = ["scontrol", *command, f"{array}_{task}" if array else os.environ["SLURM_JOB_ID"]]
    try:
        return subprocess.run(line, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or error
        rank_zero_warn(f"{' '.join(line)} failed: {str(reason).strip()}")
        return None


class _Exchange:
    """The maximum over processes of the numbers of the previous call, 0 at the first: no process waits."""

    def __init__(self, trainer: pl.Trainer) -> None:
        self.trainer, self.pending = trainer, False

    def __call__(self, number: int) -> int:
        if self.trainer.world_size == 1:
            return number
        device = self.trainer.strategy.root_device
        largest = self._read(device) if self.pending else 0
        self.number = torch.tensor(number, dtype=torch.int32, device=device)
        self.work: Any = torch.distributed.all_reduce(self.number, torch.distributed.ReduceOp.MAX, async_op=True)
        self.pending = True
        if device.type == "cuda":
            # Reading a value from the device would wait for all of its work.
            self.work.wait()
            self.host = torch.empty((), dtype=torch.int32, pin_memory=True)
            self.host.copy_(self.number, non_blocking=True)
            self.copied = torch.cuda.Event()
            self.copied.record()
        return largest

    def _read(self, device: torch.device) -> int:
        if device.type == "cuda":
            self.copied.synchronize()
            return int(self.host)
        self.work.wait()
        return int(self.number)
