"""What TensorBoard and Weights & Biases get beside figures: pictures with captions, the configuration, tables."""

from __future__ import annotations

from collections.abc import Sequence

import pytorch_lightning as pl
import yaml
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger

from . import pictures
from .lightning_private import logged_step


def show_picture(trainer: pl.Trainer, name: str, picture: pictures.Picture, step: int, caption: str) -> None:
    """A picture at the scalars' step."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            from torch.utils.tensorboard.summary import image

            summary = image(name, picture, dataformats="CHW")
            summary.value[0].metadata.summary_description = caption  # `SummaryWriter.add_image` takes none
            logger.experiment.file_writer.add_summary(summary, step)
        elif isinstance(logger, WandbLogger):
            logger.log_image(name, [pictures.to_image(picture)], step, caption=[caption])


def show_configuration(trainer: pl.Trainer, text: str) -> None:
    """The resolved configuration: a text at TensorBoard, the configuration of the run at W&B."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_text("configuration", f"```yaml\n{text}\n```", trainer.global_step)
        elif isinstance(logger, WandbLogger):
            logger.experiment.config.update(yaml.safe_load(text), allow_val_change=True)


def show_table(trainer: pl.Trainer, name: str, rows: Sequence[Sequence[str]]) -> None:
    """A table whose first row has the headings."""
    heading, *lines = rows
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            cells = [heading, ["---"] * len(heading), *lines]
            text = "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in cells)
            logger.experiment.add_text(name, text, logged_step(trainer))
        elif isinstance(logger, WandbLogger):
            logger.log_table(name, list(heading), [list(line) for line in lines], step=logged_step(trainer))


def hide_later_events(trainer: pl.Trainer) -> None:
    """Hides what a run that was killed has written to TensorBoard after the checkpoint that this one resumes."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger) and trainer.global_step:
            from tensorboard.compat.proto.event_pb2 import Event, SessionLog

            start = SessionLog(status=SessionLog.START)
            logger.experiment.file_writer.add_event(Event(step=trainer.global_step, session_log=start))
