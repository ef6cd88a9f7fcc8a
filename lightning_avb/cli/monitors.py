"""Whether what the callbacks of a fit monitor is logged."""

from __future__ import annotations

import difflib
from typing import Any

import pytorch_lightning as pl

from ..callbacks import Checkpoint, ExactLikelihood
from ..errors import ConfigurationError


class Monitors(pl.Callback):
    """Refuses Lightning's `EarlyStopping` and `ModelCheckpoint` with a figure that is not logged, before training.

    The names are those of the first validation, which Lightning does before the training; `train/...` are known after
    the first step that is logged. A run that resumes has no such validation: it reads the names from its checkpoint.
    A model or a callback of the user's own may log more names later: then the check waits for the first validation of
    the training.
    """

    def __init__(self) -> None:
        self.names: set[str] = set()

    def state_dict(self) -> dict[str, Any]:
        return {"names": sorted(self.names)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.names = {*state_dict["names"]}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if any(isinstance(callback, ExactLikelihood) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            self.names.add("val/log_likelihood")  # a run that resumes may have it for the first time
        if self.names and not _unknown_code(trainer, pl_module):
            self._check(trainer, "val")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn != "fit":
            return
        self.names |= {*trainer.callback_metrics}
        if not (trainer.sanity_checking and _unknown_code(trainer, pl_module)):
            self._check(trainer, "val")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == trainer.log_every_n_steps:  # type: ignore[attr-defined]
            self.names |= {*trainer.callback_metrics}
            self._check(trainer, "train")

    def _check(self, trainer: Any, stage: str) -> None:
        for callback in trainer.callbacks:
            if not isinstance(callback, pl.callbacks.EarlyStopping | pl.callbacks.ModelCheckpoint):
                continue
            monitor, optional = callback.monitor, not getattr(callback, "strict", True)
            if monitor is None or optional or monitor in ("epoch", "step", *self.names):
                continue
            if monitor.startswith("train/") == (stage == "train"):
                name = "checkpoint" if isinstance(callback, Checkpoint) else type(callback).__name__
                names = sorted(name for name in self.names if name.startswith(stage))
                near = difflib.get_close_matches(monitor, names, 3, 0.5)
                advice = f"did you mean {' or '.join(near)}?" if near else f"logged are {', '.join(names)}"
                raise ConfigurationError(f"{name}.monitor: {monitor!r} is not logged; {advice}")


def _unknown_code(trainer: Any, model: pl.LightningModule) -> bool:
    """Whether code that is neither Lightning's nor this library's may log figures."""
    packages = {type(part).__module__.partition(".")[0] for part in (model, *trainer.callbacks)}
    return not packages <= {"lightning_avb", "pytorch_lightning"}
