"""All that is used of Lightning without being documented: the one file to look at when Lightning changes.

setup.cfg pins the minor version for the sake of these functions. Each says why there is no public way.
"""

from __future__ import annotations

import copy
from typing import Any

import pytorch_lightning as pl


def store_hyperparameters(module: pl.LightningModule, values: dict[str, Any]) -> None:
    """Sets the hyper-parameters that loggers and checkpoints get.

    `save_hyperparameters` would read them from the frames of the callers, and keep classes and partials as they are,
    which `torch.load(weights_only=True)` refuses.
    """
    module._log_hyperparams = True
    module._set_hparams(values)
    module._hparams_initial = copy.deepcopy(module._hparams)


def update_hyperparameters(module: pl.LightningModule, **values: Any) -> None:
    """Adds what is known only once the model is built. The second copy is the one that loggers get."""
    for known in (module._hparams, module._hparams_initial):
        known.update(values)


def forget_hyperparameter(module: pl.LightningModule, name: str) -> None:
    """Removes what `update_hyperparameters` added."""
    for known in (module._hparams, module._hparams_initial):
        del known[name]


def attached_trainer(module: pl.LightningModule) -> pl.Trainer | None:
    """The trainer, or None: the public property raises where there is none."""
    return module._trainer


def set_logged_step(trainer: pl.Trainer, step: int) -> None:
    """Sets the step that loggers get. After a checkpoint of an epoch's end Lightning's own count is one too high."""
    trainer.fit_loop.epoch_loop._batches_that_stepped = step


def epoch_was_whole(trainer: pl.Trainer) -> bool:
    """Whether the training epoch that ends has seen all batches of the data."""
    whole = trainer.limit_train_batches == 1.0  # type: ignore[attr-defined]
    return whole and trainer.fit_loop.epoch_loop.batch_progress.is_last_batch


def moved_batch(module: pl.LightningModule, batch: Any, dataloader_idx: int) -> Any:
    """A batch on the module's device and in its precision, where the module reads a data set of its own accord."""
    trainer = module.trainer
    batch = module._on_before_batch_transfer(trainer.precision_plugin.convert_input(batch), dataloader_idx)
    return trainer.strategy.batch_to_device(batch, dataloader_idx=dataloader_idx)
