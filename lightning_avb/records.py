"""Records of a run: its metrics, its configuration, and how it was started."""

from __future__ import annotations

import csv
import datetime
import os
import platform
import shlex
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.core.saving import save_hparams_to_yaml
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.logger import rank_zero_experiment

from .errors import UnwritableError
from .history import read_rows
from .lightning_private import logger_experiment
from .runs import run_folder
from .trackers import hide_later_events, show_configuration


class MetricsLogger(CSVLogger):
    """Lightning's `CSVLogger`, which continues an existing `metrics.csv` instead of deleting it.

    Args:
        save_dir: where the runs' folders are; the current folder, in a configuration: `trainer.default_root_dir`.
        name: folders between it and the version; in a configuration: DATA/MODEL.
        version: name or number of this run's folder; None: the next free number.
        prefix: begins the name of every metric.
        flush_logs_every_n_steps: how often the file is written.
    """

    def __init__(
        self,
        save_dir: str = ".",
        name: str | None = "lightning_logs",
        version: int | str | None = None,
        prefix: str = "",
        flush_logs_every_n_steps: int = 100,
    ) -> None:
        super().__init__(
            save_dir, name=name, version=version, prefix=prefix, flush_logs_every_n_steps=flush_logs_every_n_steps
        )

    @property
    @rank_zero_experiment
    def experiment(self) -> MetricsFile:  # type: ignore[override]
        return logger_experiment(self, lambda: MetricsFile(Path(self.log_dir)))


class MetricsFile:
    """`metrics.csv` and `hparams.yaml` of a folder: one row per call, one column per metric, and the step.

    Args:
        folder: created at the first write.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "metrics.csv"
        self.metrics: list[dict[str, Any]] = []
        self.columns: list[str] = []
        self.hparams: dict[str, Any] = {}
        self._repeated: list[dict[str, str]] = []
        if self.path.exists():
            self.columns = read_rows(self.path)[0]

    def log_hparams(self, values: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.hparams.update(values)
        save_hparams_to_yaml(str(self.folder / "hparams.yaml"), self.hparams)

    def log_metrics(self, values: dict[str, Any], step: int) -> None:
        row = {name: value.item() if isinstance(value, torch.Tensor) else value for name, value in values.items()}
        if not any(old["step"] == str(step) and old.keys() == {*row, "step"} for old in self._repeated):
            self.metrics.append({**row, "step": step})

    def continue_from(self, step: int) -> None:
        """Drops the rows from `step` on, which a run resumed at this step will write again.

        If it also writes a row of the step before again, such as a validation after the checkpoint, the row is skipped.
        """
        if not self.path.exists():
            return
        self.columns, rows = read_rows(self.path)
        kept = [row for row in rows if int(row["step"]) < step]
        self._repeated = [
            {name: value for name, value in row.items() if value} for row in kept if int(row["step"]) == step - 1
        ]
        self._write(kept)

    def save(self) -> None:
        """Writes the new rows to the file.

        Raises:
            UnwritableError: the disk is full, or the folder is gone.
        """
        if not self.metrics:
            return
        new = {name for row in self.metrics for name in row}.difference(self.columns)
        if new:
            rows = read_rows(self.path)[1] if self.path.exists() else []
            self.columns = sorted([*self.columns, *new])
            self._write([*rows, *self.metrics])
        else:
            try:
                with self.path.open("a", newline="") as file:
                    csv.DictWriter(file, self.columns).writerows(self.metrics)
            except OSError as error:
                raise UnwritableError(f"{str(self.path)!r} could not be written ({error.strerror})") from error
        self.metrics = []

    def _write(self, rows: list[dict[str, Any]]) -> None:
        """Rewrites the file through a temporary one, so that a crash does not lose its content."""
        part = self.path.with_name(".metrics.csv.part")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with part.open("w", newline="") as file:
                writer = csv.DictWriter(file, self.columns)
                writer.writeheader()
                writer.writerows(rows)
            part.replace(self.path)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise UnwritableError(f"{str(self.path)!r} could not be written ({error.strerror})") from error


class Records(pl.Callback):
    """Writes into the run's folder how it was started, after its first batch: a failed start leaves no record.

    `config.yaml` is the resolved configuration; if the folder has a different one, `config_1.yaml` and so on is added.
    `run.yaml` has one entry per start; with every checkpoint it gets the `steps` and the `seconds` since the run began,
    and at the end of the training `ended`. In a resumed run `metrics.csv` is cut back to the checkpoint.

    Attributes:
        arguments: of the command.
        config: returns the resolved configuration as YAML.
        begun: whether a batch has been completed.
    """

    def __init__(self, arguments: Sequence[str] = ()) -> None:
        self.arguments = arguments
        self.config: Callable[[], str] = str
        self.begun = False
        self.entry: dict[str, Any] = {}
        self._path: Path | None = None
        self._earlier: list[dict[str, Any]] = []
        self._seconds_before, self._started = 0.0, time.monotonic()

    @property
    def seconds(self) -> float:
        """Time in training and validation, with that of the runs that this one resumes."""
        return self._seconds_before + time.monotonic() - self._started

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._seconds_before = state_dict["seconds"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._started = time.monotonic()
        if trainer.is_global_zero:
            self.entry = describe_start(trainer, self.arguments)
            for logger in trainer.loggers:
                if isinstance(logger, MetricsLogger):
                    logger.experiment.continue_from(trainer.global_step)
            hide_later_events(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.begun:
            return
        self.begun = True
        folder = run_folder(trainer)
        if folder is None or not trainer.is_global_zero:
            return
        folder.mkdir(parents=True, exist_ok=True)
        text = self.config()
        self._save_config(folder, text)
        show_configuration(trainer, text)
        self._path = folder / "run.yaml"
        self._earlier = yaml.safe_load(self._path.read_text()) or [] if self._path.exists() else []
        self._save_entry(trainer)

    def _save_entry(self, trainer: pl.Trainer, **more: Any) -> None:
        """Writes the entry of this start, with the steps and seconds until now; only on the first process."""
        if self._path is None:
            return
        self.entry |= {"steps": trainer.global_step, "seconds": round(self.seconds, 1), **more}
        part = self._path.with_name(".run.yaml.part")
        part.write_text(yaml.safe_dump([*self._earlier, self.entry], sort_keys=False, allow_unicode=True, width=1000))
        part.replace(self._path)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._save_entry(trainer, ended=now())

    def _save_config(self, folder: Path, text: str) -> None:
        number = 0
        while (path := folder / f"config{f'_{number}' if number else ''}.yaml").exists():
            if path.read_text() == text:
                return
            number += 1
        path.write_text(text)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Stores the run's id at W&B, so that a resumed run continues it, and records how far the run is."""
        self._save_entry(trainer)
        for logger in trainer.loggers:
            if type(logger).__name__ == "WandbLogger":
                checkpoint["wandb_id"] = logger.version


def describe_start(trainer: pl.Trainer, arguments: Sequence[str]) -> dict[str, Any]:
    """How this run was started: command with its arguments, folder, commit, host, versions."""
    from . import __version__

    return {
        "started": now(),
        "command": shlex.join(["lightning-avb", *arguments]),
        "folder": os.getcwd(),
        "commit": git_commit(),
        "host": platform.node(),
        "job": os.environ.get("SLURM_JOB_ID"),
        "processes": trainer.world_size,
        "device": trainer.strategy.root_device.type,
        "checkpoint": str(trainer.ckpt_path) if trainer.ckpt_path else None,
        "step": trainer.global_step,
        "versions": {
            "python": platform.python_version(),
            "lightning_avb": __version__,
            "torch": str(torch.__version__),
            "cuda": torch.version.cuda,
            "pytorch_lightning": pl.__version__,
            "numpy": np.__version__,
        },
    }


def now() -> str:
    """The present time, with its zone."""
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


def git_commit() -> str | None:
    """The git commit of the current folder, with `+changes` if tracked files differ from it; None outside git."""

    def git(*words: str) -> str:
        result = subprocess.run(["git", *words], capture_output=True, text=True, check=True, timeout=20)
        return result.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None
