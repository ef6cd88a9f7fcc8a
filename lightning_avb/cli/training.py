"""The commands with a configuration: LightningCLI's fit, validate, test and predict."""

from __future__ import annotations

import argparse
import inspect
import shutil
import sys
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from jsonargparse import DefaultHelpFormatter
from jsonargparse.typing import PositiveFloat
from pytorch_lightning.callbacks import ProgressBar
from pytorch_lightning.cli import LightningArgumentParser
from pytorch_lightning.plugins.io import CheckpointIO

from .. import datamodules, models, processes, runs  # noqa: F401  `--data Digits` is one of the classes known here
from ..callbacks import Checkpoint, Pictures
from ..checkpoints import AtomicCheckpointIO, read_checkpoint, resolve_ckpt_path
from ..errors import ConfigurationError
from ..game import Game
from ..lightning_private import ConfigurationOverCheckpoint, parser_of_command
from ..quiet import without_advertisements
from ..recipes import locate, to_config
from ..records import Records
from ..reports import Diagnosis, Likelihood, SaveMetrics, SavePredictions
from ..shipped import pretrained
from .configurations import find_key, with_configuration_files
from .messages import OneLineErrors, explain
from .monitors import Monitors
from .progress import progress
from .stages import DESCRIPTIONS, list_of_classes, ours_first


class HelpFormatter(argparse.RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Keeps the lines of a description, and names this library's classes before others."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text, known, names = super()._get_help_string(action).partition(", known subclasses: ")
        return f"{text}{known}{', '.join(ours_first(names.removesuffix(')').split(', ')))})" if known else text


class StageParser(OneLineErrors, LightningArgumentParser):  # type: ignore[misc]
    """LightningCLI's parser, which knows the configurations that come with the package.

    A default may be a recipe with arguments, `partial(Class, option=...)`, of which a user may change a part.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"formatter_class": HelpFormatter, **kwargs})

    def add_class_arguments(self, *args: Any, **kwargs: Any) -> Any:
        added = super().add_class_arguments(*args, **kwargs)
        if args[0] in (Game, pl.LightningDataModule) or inspect.isabstract(args[0]):  # --model.help without a class
            self.description = f"{self.description}\n\n{list_of_classes(args[0])}"
        defaults = self.get_defaults(skip_validation=True).items()
        self.set_defaults({key: to_config(value, key) for key, value in defaults if isinstance(value, partial)})
        return added

    def parse_args(self, args: Sequence[str] | None = None, *more: Any, **options: Any) -> Any:  # type: ignore[override]
        return super().parse_args(
            with_configuration_files(list(sys.argv[1:] if args is None else args)), *more, **options
        )


class CLI(ConfigurationOverCheckpoint):
    """LightningCLI with this library's defaults. The configuration and the command line win over a checkpoint."""

    def __init__(self, args: list[str] | None = None) -> None:
        self.arguments = sys.argv[1:] if args is None else args
        self.made_folder: Path | None = None  # the run's folder, if this start has made it
        self.checkpoint: dict[str, Any] = {}  # the one that the run starts from
        self.records = Records(self.arguments)
        try:
            with without_advertisements():
                self._run(args)
        except BaseException:
            if self.made_folder is not None and not self.records.begun:
                shutil.rmtree(self.made_folder, ignore_errors=True)
            raise

    def _run(self, args: list[str] | None) -> None:
        super().__init__(
            Game,
            pl.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,
            parser_class=StageParser,
            parser_kwargs={
                "prog": "lightning-avb",
                **{
                    stage: {
                        "usage": f"lightning-avb {stage} --config NAME_OR_FILE [--KEY VALUE ...]",
                        "description": description,
                    }
                    for stage, description in DESCRIPTIONS.items()
                },
            },
            trainer_defaults={
                "logger": {"class_path": "lightning_avb.records.MetricsLogger"},
                "default_root_dir": "runs",
            },
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            args=args,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(Checkpoint, "checkpoint")
        parser.set_defaults({"checkpoint.save_last": True})
        parser.add_lightning_class_args(Pictures, "pictures")
        parser.add_lightning_class_args(Likelihood, "likelihood")
        parser.add_lightning_class_args(Diagnosis, "diagnosis")
        parser.add_lightning_class_args(SavePredictions, "predictions")
        parser.add_argument(
            "--matmul_precision",
            type=Literal["highest", "high", "medium"],
            default="highest",
            help="torch.set_float32_matmul_precision: 'medium' is faster where the processor has bfloat16 products.",
        )
        parser.add_argument(
            "--progress_seconds",
            type=PositiveFloat,
            default=30.0,
            help="Seconds between two lines of progress, where the output is not a terminal.",
        )

    def before_instantiate_classes(self) -> None:
        """Checks the configuration, and sets the run's folder, before anything is built."""
        config = self.config[self.config.subcommand]
        processes.check_launch(config.trainer.strategy)
        if config.trainer.gradient_clip_val is not None:
            raise ConfigurationError(
                "trainer.gradient_clip_val: every player has its own; set model.players.*.clip_norm"
            )
        if config.trainer.accumulate_grad_batches != 1:
            raise ConfigurationError("trainer.accumulate_grad_batches: set model.accumulate, which splits a batch")
        torch.set_float32_matmul_precision(config.matmul_precision)
        self._prepare_folders(config)

    def _prepare_folders(self, config: Any) -> None:
        """Finds the checkpoint, and the folder of this run."""
        trainer, fit, dirpath = config.trainer, self.subcommand == "fit", config.checkpoint.dirpath
        runs.name_loggers(trainer, self._run_name(config))
        runs.leave_out_placeholder(trainer, self._is_given)
        # The changes below are only for this start, and not part of the recorded configuration.
        self.records.config = partial(parser_of_command(self).dump, config.clone(), skip_unset=False)
        runs.place_loggers(trainer)
        asked = config.get("ckpt_path")
        checkpoint = resolve_ckpt_path(asked, runs.checkpoint_folder(trainer, dirpath), fit)
        if checkpoint is not None:
            if checkpoint in pretrained().values():
                raise ConfigurationError(
                    f"ckpt_path: {self.subcommand!r} writes beside the checkpoint; copy {str(checkpoint)!r} to a "
                    "folder of yours, and give that"
                )
            config.ckpt_path = str(checkpoint)
            self.checkpoint = read_checkpoint(checkpoint)
            self._check_checkpoint(config, self.checkpoint)
        if not fit:
            self._prepare_evaluation(config, checkpoint)
        elif not trainer.fast_dev_run:
            for key, folder in runs.written_folders(trainer, dirpath):
                runs.require_writable(key, Path(folder))
            runs.require_free(trainer, dirpath, checkpoint, again=asked == "last" or runs.restarted())
            self.made_folder = runs.make_run_folder(trainer) if runs.is_first_process() else None

    def _is_given(self, key: str) -> bool:
        """Whether the command line, or a configuration file, sets an option of that name."""
        return any(key in argument for argument in self.arguments) or find_key(self.arguments, key) is not None

    def _prepare_evaluation(self, config: Any, checkpoint: Path | None) -> None:
        """Results of a checkpoint are written beside it: without a run's folder, and without a logger by default."""
        if checkpoint is None:
            raise ConfigurationError(
                f"ckpt_path: `{self.subcommand}` needs a trained model; give a checkpoint or the folder of a run"
            )
        runs.require_writable("ckpt_path", checkpoint.parent)
        # The callbacks that write a checkpoint are left out on purpose.
        warnings.filterwarnings("ignore", "Be aware that when using `ckpt_path`, callbacks used to create")
        runs.join_run(config.trainer, checkpoint)
        typed = {argument.partition("=")[0] for argument in self.arguments}
        # The configuration file is the one of the training, with its logger.
        if "--trainer.logger" not in typed:
            config.trainer.logger = False
        if "verbose" in config and "--verbose" not in typed:
            config.verbose = False  # Lightning's table has no row counts, `SaveMetrics` has

    def _check_checkpoint(self, config: Any, checkpoint: dict[str, Any]) -> None:
        theirs, ours = checkpoint["hyper_parameters"]["_class_path"], config.model.class_path
        if locate(theirs) is not locate(ours):
            raise ConfigurationError(f"model: the checkpoint holds a {theirs}, the configuration asks for {ours}")
        for kind, arguments in runs.configured_loggers(config.trainer):
            if kind == "WandbLogger" and "wandb_id" in checkpoint and arguments.get("id") is None:
                arguments["id"], arguments["resume"] = checkpoint["wandb_id"], "allow"

    def _run_name(self, config: Any) -> str:
        """DATA/MODEL of the first configuration file, or the classes' names."""
        files = config.get("config")
        if files:
            path = Path(str(files[0].relative if hasattr(files[0], "relative") else files[0]))
            return str(Path(path.parent.name, path.stem))
        return "/".join(part.class_path.rpartition(".")[2].lower() for part in (config.data, config.model))

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except ValueError as error:
            raise ConfigurationError(explain(str(error), self.parser)) from error
        except ModuleNotFoundError as error:
            logger = any(name in str(error) for name in ("wandb", "tensorboard"))
            advice = "; loggers come with pip install 'lightning-avb[wandb,tensorboard]'" if logger else ""
            raise ConfigurationError(f"{error}{advice}") from error
        # Lightning does so only after the model is made for rows as the file alone would be read.
        state = self.checkpoint.get(type(self.datamodule).__qualname__)
        if state:
            self.datamodule.load_state_dict(state)

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        config_of_command = self.config_init[self.subcommand]
        config = config_of_command["trainer"]
        fit, trial = self.subcommand == "fit", config.get("fast_dev_run")
        # The pictures come first: a callback that averages weights removes the average when validation ends.
        callbacks = [] if trial else [config_of_command["pictures"]]
        given = config.get("callbacks") or []
        callbacks += given if isinstance(given, list) else [given]
        if self.subcommand == "test":
            callbacks += [config_of_command["likelihood"], config_of_command["diagnosis"]]
        if fit:
            callbacks.insert(0, Monitors())
        if config.get("enable_progress_bar") is not False and not any(isinstance(c, ProgressBar) for c in callbacks):
            callbacks.append(progress(config_of_command["progress_seconds"]))
        if not trial:
            callbacks.append(self._recorder(config_of_command))
        if not fit:  # callbacks that write checkpoints have nothing to do, and would look for their folder
            callbacks = [callback for callback in callbacks if not isinstance(callback, pl.callbacks.Checkpoint)]
            kwargs["enable_checkpointing"] = False
        elif config.get("enable_checkpointing") is not False and not trial:
            callbacks.append(config_of_command["checkpoint"])
        plugins = config.get("plugins") or []
        plugins = [*plugins] if isinstance(plugins, list) else [plugins]
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            plugins.append(AtomicCheckpointIO())
        try:
            trainer = self.trainer_class(**{**config, **kwargs, "callbacks": callbacks, "plugins": plugins})
        except (TypeError, ValueError, RuntimeError) as error:  # Lightning raises any of these for a wrong option
            raise ConfigurationError(f"trainer: {error}") from error
        processes.check_trainer(trainer)
        return trainer

    def _recorder(self, config: Any) -> pl.Callback:
        """The callback that writes the results of a stage."""
        recorders = {"fit": self.records, "predict": config["predictions"]}
        return recorders.get(str(self.subcommand)) or SaveMetrics()
