"""Callbacks: pictures, checkpoints, exact likelihoods."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities import rank_zero_info

from . import noise, pictures
from .batch import Batch
from .capabilities import Decodes, DrawsParameters, Encodes, HasCodes, Samples, can
from .evaluation import Quadrature, log_likelihood_on_grid
from .lightning_private import save_last_checkpoint
from .runs import run_folder


def show(trainer: pl.Trainer, name: str, picture: pictures.Picture, step: int) -> None:
    """Writes a picture into the run's folder, and to the loggers that take pictures, at the scalars' step."""
    folder = run_folder(trainer)
    if not trainer.is_global_zero:
        return
    if folder is not None:
        pictures.write(picture, folder / "pictures" / f"{name}_{step:07d}.png")
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, picture, step)
        elif isinstance(logger, WandbLogger):
            logger.log_image(name, [picture], step)


class Pictures(pl.Callback):
    """Draws pictures after validation, and the curves of all metrics at the end.

    Samples, reconstructions, interpolations, styles by label, and the latent space if it has two dimensions; for a
    posterior its draws beside density, reference and marginals. A picture is left out if the model, or the data, lacks
    what it needs.

    Args:
        every_n_epochs: draw after the validation of every n-th epoch; 0: at the end of training only.
        count: number of rows in a picture of reconstructions.
    """

    def __init__(self, every_n_epochs: int = 10, count: int = 32) -> None:
        self.every_n_epochs, self.count = every_n_epochs, count
        self.batch: Batch | None = None

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if batch_idx == 0:
            self.batch = batch

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking or not self.every_n_epochs or (trainer.current_epoch + 1) % self.every_n_epochs:
            return
        self._draw(trainer, pl_module)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._draw(trainer, pl_module)
        for logger in trainer.loggers:
            if isinstance(logger, CSVLogger) and trainer.is_global_zero:
                logger.save()
                metrics = Path(logger.log_dir, "metrics.csv")
                curves = pictures.curves(metrics) if metrics.exists() else None
                if curves is not None:
                    pictures.write(curves, Path(logger.log_dir, "pictures", "curves.png"))

    @torch.no_grad()
    def _draw(self, trainer: pl.Trainer, model: Any) -> None:
        step = max(0, trainer.global_step - 1)
        if can(model, DrawsParameters):
            if model.amortised and self.batch is None:
                return
            x = self.batch.x[:1].to(model.device) if self.batch is not None and model.amortised else None
            with noise.use(noise.seeded(noise.run_seed(), "pictures")):
                show(trainer, "posterior", pictures.posterior(model, x=x), step)
            return
        if not pictures.drawable(model.data_shape):
            return
        with noise.use(noise.seeded(noise.run_seed(), "pictures")):
            if can(model, Samples):
                show(trainer, "samples", pictures.samples(model), step)
            if can(model, HasCodes) and model.label_choices:
                show(trainer, "styles", pictures.styles(model), step)
            if self.batch is None or not can(model, Encodes, Decodes):
                return
            # At the end of a fit Lightning has moved the model off the device.
            x, y, _ = self.batch
            batch = Batch(x.to(model.device), y.to(model.device) if y is not None else None)
            show(trainer, "reconstructions", pictures.reconstructions(model, batch, self.count), step)
            if len(x) > 1:
                show(trainer, "interpolations", pictures.interpolations(model, batch), step)
            if model.code_dim == 2:
                show(trainer, "latent_plane", pictures.latent_plane(model, batch), step)


class Checkpoint(pl.callbacks.ModelCheckpoint):
    """Lightning's `ModelCheckpoint`, which also writes `last.ckpt` at the end of the run.

    A killed run may leave an incomplete checkpoint: it is removed when the run resumes. It may also leave complete ones
    that the resumed run does not keep track of, because it died between writing one and the next, or because it resumes
    from an earlier one. These stay, and are listed.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        folder = Path(self.dirpath or ".")
        if not trainer.is_global_zero or not folder.is_dir():
            return
        for part in folder.glob(".*.ckpt.part"):
            part.unlink()
            rank_zero_info(f"checkpoint: {str(part)!r}, left incomplete by a run that was killed, is removed")
        left = self._left_over(folder, Path(trainer.ckpt_path)) if trainer.ckpt_path else []
        if left:
            rank_zero_info(
                f"checkpoint: {len(left)} of an earlier start in {str(folder)!r} are not tracked by this run: "
                f"{', '.join(left)}"
            )

    def _left_over(self, folder: Path, resumed: Path) -> list[str]:
        """The names of checkpoints in a folder that the checkpoint `resumed` does not keep track of."""
        tracked = {
            Path(path).name for path in (*self.best_k_models, self.best_model_path, self.last_model_path) if path
        }
        files = [
            path for path in folder.glob("*.ckpt") if path.name not in tracked and not path.name.startswith("last")
        ]
        if self.save_top_k == -1:  # all are kept, also those before the resumed one
            files = [path for path in files if path.stat().st_mtime_ns > resumed.stat().st_mtime_ns]
        return sorted(path.name for path in files if path.resolve() != resumed.resolve())

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        last = trainer.global_step == trainer.max_steps or trainer.current_epoch + 1 == trainer.max_epochs
        if last or trainer.should_stop:
            save_last_checkpoint(self, trainer)


class ExactLikelihood(pl.Callback):
    """Logs `val/log_likelihood`, log p(x) by quadrature, for a latent space of 1 or 2 dimensions.

    Args:
        limit: integrate over [-limit, limit] along every dimension.
        cells: cells of the grid along every dimension.
    """

    def __init__(self, limit: float = 7.0, cells: int = 240) -> None:
        self.limit, self.cells = limit, cells

    def _log(self, stage: str, model: Any, batch: Any) -> None:
        grid = Quadrature.grid(model.latent_dim, self.limit, self.cells, model.device)
        x, copies = batch.x.unique(dim=0, return_counts=True)
        if model.classes:  # the same x may come with several labels
            x, copies = batch.x, torch.ones(len(batch.x), device=model.device)

        def decoder(z: torch.Tensor) -> Any:
            return model.decoder(z.expand(-1, len(x), -1), batch.y) if model.classes else model.decoder(z)

        value = log_likelihood_on_grid(decoder, model.prior, x, grid) + model.log_jacobian
        mean, weight = (value * copies).sum() / copies.sum(), float(len(batch.real_rows.x))
        model.log(f"{stage}/log_likelihood", mean, prog_bar=True, on_epoch=True, batch_size=weight, sync_dist=True)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._log("val", pl_module, batch)

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._log("test", pl_module, batch)
