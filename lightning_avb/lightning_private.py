"""Every use of what Lightning keeps private, each with the reason why no public way exists.

`pytorch-lightning` is pinned to one minor version because of this file: it is what to look at before the next one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import CSVLogger


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
