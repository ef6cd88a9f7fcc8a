"""All uses of Lightning's private attributes, each with the reason why there is no public way.

`pytorch-lightning` is pinned to a minor version because of this file: check it before an update.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.data import _is_dataloader_shuffled
from pytorch_lightning.utilities.rank_zero import WarningCache

from .batch import Batch


class BatchModule(pl.LightningModule):
    """A LightningModule whose steps, and whose callbacks, get every batch as a `Batch`, whatever the loader gives.

    In validation, test and prediction, rows without an index are numbered as they come from their loader. The rows of P
    processes are taken to be every P-th, as Lightning's samplers divide them.

    With the public hook `on_after_batch_transfer` in the module, Lightning warns in every run with a DataModule, and a
    DataModule with a hook of its own would switch it off.
    """

    def _apply_batch_transfer_handler(self, batch: Any, device: Any = None, dataloader_idx: int = 0) -> Batch:
        given = Batch.of(super()._apply_batch_transfer_handler(batch, device, dataloader_idx))
        if given.x.dtype == torch.float64:  # what numpy gives
            given = given._replace(x=given.x.to(self.dtype))
        # The counter of batches, which says where a pass over the data begins, is public, the loop that runs is not.
        loop: Any = self.trainer._active_loop
        if given.index is not None or loop is None or loop is self.trainer.fit_loop:
            return given
        if not loop.batch_progress.current.ready:
            self._rows_so_far: dict[int, int] = {}
        begin = self._rows_so_far.get(dataloader_idx, 0)
        self._rows_so_far[dataloader_idx] = begin + len(given.x)
        TOLD.info(_what_numbers_mean(self.trainer.world_size, loop._combined_loader.flattened))
        places = torch.arange(begin, begin + len(given.x), device=given.x.device)
        return given._replace(index=places * self.trainer.world_size + self.trainer.global_rank)


TOLD = WarningCache()
"""What is said only once in a process."""


def _what_numbers_mean(processes: int, loaders: Sequence[Any]) -> str:
    """What is not guaranteed about rows that are numbered as they come."""
    parts = ["data: rows without an index are numbered as the loader gives them, and figures depend on that order"]
    distributed = [getattr(loader, "sampler", None) for loader in loaders]
    if any(map(_is_dataloader_shuffled, loaders)) or any(getattr(sampler, "shuffle", False) for sampler in distributed):
        parts.append("it shuffles, so figures change from pass to pass, and predictions are in no known order")
    if processes > 1:
        parts.append("a sampler of several processes may repeat rows, which then count twice")
    return "; ".join(parts)


def store_hyperparameters(module: Any, values: dict[str, Any], logger: bool) -> None:
    """Sets the hyper-parameters for checkpoints and, with `logger`, for loggers.

    `save_hyperparameters` would read them from the frames of the callers, and store classes and partials unchanged,
    which `torch.load(weights_only=True)` refuses.
    """
    module._log_hyperparams = logger
    module._set_hparams(values)
    module._hparams_initial = copy.deepcopy(module._hparams)


def update_hyperparameters(module: Any, **values: Any) -> None:
    """Adds values that are known after the model is built. The second copy is for loggers."""
    for hparams in (module._hparams, module._hparams_initial):
        hparams.update(values)


def forget_hyperparameter(module: Any, name: str) -> None:
    """Removes what `update_hyperparameters` added."""
    for hparams in (module._hparams, module._hparams_initial):
        del hparams[name]


def attached_datamodule(module: pl.LightningModule) -> Any:
    """The trainer's DataModule, or None; the public property raises without a trainer."""
    return getattr(module._trainer, "datamodule", None)


def set_logged_step(trainer: pl.Trainer, step: int) -> None:
    """Sets the step for loggers. After a checkpoint at the end of an epoch, Lightning's own count is one too high."""
    trainer.fit_loop.epoch_loop._batches_that_stepped = step


def restore_logged_step(module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
    """Lets the figures of `test` stand where the training ended. A model that is loaded alone has no trainer."""
    if module._trainer is not None:
        set_logged_step(module._trainer, max(0, checkpoint["global_step"] - 1))


def logged_step(trainer: pl.Trainer) -> int:
    """The step that Lightning gives to loggers, also in `test`."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def epoch_was_whole(trainer: pl.Trainer) -> bool:
    """Whether the training epoch that ends has used all batches of the data."""
    whole = trainer.limit_train_batches == 1.0  # type: ignore[attr-defined]
    return whole and trainer.fit_loop.epoch_loop.batch_progress.is_last_batch


def moved_batch(module: pl.LightningModule, batch: Any, dataloader_idx: int) -> Any:
    """A batch on the module's device and in its precision, for a module that reads a data set itself."""
    trainer = module.trainer
    batch = module._on_before_batch_transfer(trainer.precision_plugin.convert_input(batch), dataloader_idx)
    return trainer.strategy.batch_to_device(batch, dataloader_idx=dataloader_idx)


def replace_signal_handlers(trainer: pl.Trainer, install: Callable[[], None], restore: Callable[[], None]) -> None:
    """Replaces Lightning's signal handlers, and turns off its broadcast of SIGTERM.

    Lightning's handlers for SLURM can only be turned off in the environment plugin, which is already chosen by then;
    its handler of SIGTERM cannot be turned off.
    """
    connector: Any = trainer._signal_connector
    connector.register_signal_handlers, connector.teardown = install, restore
    loop: Any = trainer.fit_loop.epoch_loop
    loop._broadcast_sigterm_tensor = lambda: None


def cluster_environment(trainer: pl.Trainer) -> Any:
    """The launcher that Lightning has detected. It is public only on strategies with several processes."""
    return trainer._accelerator_connector.cluster_environment


def validates_or_ends_now(trainer: pl.Trainer) -> bool:
    """Whether Lightning validates, or ends the epoch, right after the present batch."""
    loop: Any = trainer.fit_loop.epoch_loop
    return loop._is_training_done or loop._should_check_val_fx(trainer.fit_loop._data_fetcher)


def log_this_step(trainer: pl.Trainer) -> None:
    """Passes the values of this batch to the loggers, which Lightning does after the last callback."""
    trainer._logger_connector.on_batch_end()
    trainer._logger_connector.update_train_step_metrics()


def save_last_checkpoint(callback: ModelCheckpoint, trainer: pl.Trainer) -> None:
    """Writes `last.ckpt`, unless this step has it. Lightning does so only beside another checkpoint."""
    if callback._last_global_step_saved != trainer.global_step:
        callback._save_last_checkpoint(trainer, callback._monitor_candidates(trainer))


def ddp_options(strategy: DDPStrategy) -> tuple[dict[str, Any], int | None]:
    """The options of `DistributedDataParallel`, and the number of steps between model averages; None: never."""
    return strategy._ddp_kwargs, strategy._model_averaging_period


class ConfigurationOverCheckpoint(LightningCLI):
    """LightningCLI that takes no hyper-parameters from a checkpoint.

    By default they would override the configuration and the command line. `load_from_checkpoint_support=False` only
    turns off writing them.
    """

    def _parse_ckpt_path(self) -> None:
        pass


def parser_of_command(cli: LightningCLI) -> LightningArgumentParser:
    """The parser of the running command. Publicly only a `SaveConfigCallback` gets it, after the run has begun."""
    return cli._parser(cli.subcommand)


def logger_experiment(logger: CSVLogger, make: Callable[[], Any]) -> Any:
    """The writer of a CSVLogger, made at the first call.

    The class of the writer is fixed in a property of the logger, and `finalize` checks whether one was made.
    """
    if logger._experiment is None:
        logger._experiment = make()
    return logger._experiment
