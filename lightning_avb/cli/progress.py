"""What a command shows while it runs: a bar in a terminal, and a line now and then where the output is a file."""

from __future__ import annotations

import math
import sys
import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar, TQDMProgressBar

from ..history import duration

FIRST = 5.0
"""Seconds until the first line."""


def progress(seconds: float) -> ProgressBar:
    """The bar, or the lines, for the present output.

    Args:
        seconds: between two lines.
    """
    return RunBar(refresh_rate=10) if sys.stdout.isatty() else ProgressLines(seconds)


def total_steps(trainer: pl.Trainer) -> int | None:
    """The number of steps of the whole run; None: it is not known."""
    steps = trainer.estimated_stepping_batches
    return None if math.isinf(steps) else int(steps)


class RunBar(TQDMProgressBar):
    """Lightning's bar, of which that of the training counts the steps of the whole run instead of those of an epoch."""

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:  # type: ignore[override]
        super().on_train_start(trainer)
        bar = self.train_progress_bar
        bar.reset(total_steps(trainer))
        bar.initial = bar.n = trainer.global_step

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:  # type: ignore[override]
        self.train_progress_bar.set_description(f"Epoch {trainer.current_epoch}")

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        bar, step = self.train_progress_bar, trainer.global_step
        if self.is_enabled and (step % self.refresh_rate == 0 or step == bar.total):
            bar.n = step
            bar.set_postfix(self.get_metrics(trainer, pl_module))


class ProgressLines(ProgressBar):
    """Prints a line after a few seconds, every so many seconds from then on, and at the end of a training.

    A line has the step, the steps per second since the last line, the time left at the mean speed so far, and the
    figures that a bar shows. `validate`, `test` and `predict` count batches.

    Args:
        seconds: between two lines.
    """

    def __init__(self, seconds: float = 30.0) -> None:
        super().__init__()
        self.seconds = seconds

    def disable(self) -> None:
        """Lightning calls this on all processes but the first."""
        self.seconds = math.inf

    def _begin(self, what: str, done: int, total: float | None) -> None:
        self._what, self._total = what, None if total is None or math.isinf(total) else int(total)
        self._start = self._before = (time.monotonic(), done)
        self._batches = 0
        self._next = self._start[0] + min(FIRST, self.seconds)

    def _report(self, trainer: pl.Trainer, model: pl.LightningModule, done: int, ended: bool = False) -> None:
        now = time.monotonic()
        if math.isinf(self.seconds) or (now < self._next and not ended):
            return
        since, done_then = self._start if ended else self._before
        of = "" if self._total is None else f" of {self._total:,}"
        parts = [f"{self._what} {done:,}{of}", f"{(done - done_then) / max(now - since, 1e-9):.3g} per second"]
        passed = now - self._start[0]
        if ended:
            parts.append(f"took {duration(passed)}")
        elif self._total is not None and done > self._start[1]:
            parts.append(f"{duration(passed * (self._total - done) / (done - self._start[1]))} left")
        figures: dict[str, Any] = {**self.get_metrics(trainer, model)}
        figures.pop("v_num", None)
        print(" | ".join([*parts, *(f"{name} {float(value):.5g}" for name, value in figures.items())]), flush=True)
        self._before, self._next = (now, done), now + self.seconds

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin("step", trainer.global_step, total_steps(trainer))

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._report(trainer, pl_module, trainer.global_step)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._report(trainer, pl_module, trainer.global_step, ended=True)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn != "fit":
            self._begin("batch", 0, sum(trainer.num_val_batches))

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin("batch", 0, sum(trainer.num_test_batches))

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin("batch", 0, sum(trainer.num_predict_batches))

    def _count_batch(self, trainer: pl.Trainer, pl_module: Any, *_: Any, **__: Any) -> None:
        if trainer.state.fn != "fit":
            self._batches += 1
            self._report(trainer, pl_module, self._batches)

    on_validation_batch_end = on_test_batch_end = on_predict_batch_end = _count_batch
