"""Every use of what Lightning keeps private, each with the reason why no public way exists.

`pytorch-lightning` is pinned to one minor version because of this file: it is what to look at before the next one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.strategies import DDPStrategy

from .batch import Batch


class BatchModule(pl.LightningModule):
    """A LightningModule, and callbacks beside it, that get every batch as a `Batch`, whatever the loader gives.

    With the public hook `on_after_batch_transfer` in the module, Lightning warns in every run with a DataModule, and a
    DataModule with a hook of its own would switch it off.
    """

    def _apply_batch_transfer_handler(self, batch: Any, *args: Any, **kwargs: Any) -> Batch:
        return Batch.of(super()._apply_batch_transfer_handler(batch, *args, **kwargs))


def store_hyperparameters(module: Any, values: dict[str, Any], logger: bool) -> None:
    """Sets the hyper-parameters that checkpoints, and with `logger` the loggers, get.

    `save_hyperparameters` would read them from the frames of the callers, and keep classes and partials as they are,
    which `torch.load(weights_only=True)` refuses.
    """
    module._log_hyperparams = logger
    module._set_hparams(values)
    module._hparams_initial = copy.deepcopy(module._hparams)


def update_hyperparameters(module: Any, **values: Any) -> None:
    """Adds what is known only once the model is built. The second copy is the one that loggers get."""
    for known in (module._hparams, module._hparams_initial):
        known.update(values)


def forget_hyperparameter(module: Any, name: str) -> None:
    """Removes what `update_hyperparameters` added."""
    for known in (module._hparams, module._hparams_initial):
        del known[name]


def attached_datamodule(module: pl.LightningModule) -> Any:
    """The DataModule that the trainer fits or evaluates with, or None; the public property raises without a trainer."""
    return getattr(module._trainer, "datamodule", None)


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


def replace_signal_handlers(trainer: pl.Trainer, install: Callable[[], None], restore: Callable[[], None]) -> None:
    """Puts handlers in the place of Lightning's own, and leaves out the broadcast of SIGTERM with which they come.

    Lightning's handlers for SLURM can only be switched off in the environment plugin, which the launcher has chosen by
    then; its handler of SIGTERM cannot be switched off.
    """
    connector: Any = trainer._signal_connector
    connector.register_signal_handlers, connector.teardown = install, restore
    loop: Any = trainer.fit_loop.epoch_loop
    loop._broadcast_sigterm_tensor = lambda: None


def cluster_environment(trainer: pl.Trainer) -> Any:
    """The launcher that Lightning has found. Public on strategies with several processes only."""
    return trainer._accelerator_connector.cluster_environment


def validates_or_ends_now(trainer: pl.Trainer) -> bool:
    """Whether Lightning validates, or ends the epoch, right after the present batch."""
    loop: Any = trainer.fit_loop.epoch_loop
    return loop._is_training_done or loop._should_check_val_fx(trainer.fit_loop._data_fetcher)


def log_this_step(trainer: pl.Trainer) -> None:
    """Gives the loggers what was logged in this batch, which Lightning does after the last callback."""
    trainer._logger_connector.on_batch_end()
    trainer._logger_connector.update_train_step_metrics()


def ddp_options(strategy: DDPStrategy) -> tuple[dict[str, Any], int | None]:
    """The options that `DistributedDataParallel` gets, and every how many steps models are averaged; None: never."""
    return strategy._ddp_kwargs, strategy._model_averaging_period


class ConfigurationOverCheckpoint(LightningCLI):
    """LightningCLI that takes no hyper-parameters from a checkpoint.

    It would lay them over the configuration and the command line. `load_from_checkpoint_support=False` is about
    writing them; reading them cannot be switched off.
    """

    def _parse_ckpt_path(self) -> None:
        pass


def parser_of_command(cli: LightningCLI) -> LightningArgumentParser:
    """The parser of the command that runs. Only a `SaveConfigCallback` is given it, once the run has begun."""
    return cli._parser(cli.subcommand)


def logger_experiment(logger: CSVLogger, make: Callable[[], Any]) -> Any:
    """What a CSVLogger writes into, made at the first call.

    The logger names the class that writes in its own property, and `finalize` looks whether one was made.
    """
    if logger._experiment is None:
        logger._experiment = make()
    return logger._experiment
