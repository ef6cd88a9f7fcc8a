"""Callbacks: pictures, checkpoints, the best weights, exact likelihoods."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.utilities import rank_zero_info

from . import noise, page, pictures, plots, walks
from .batch import Batch
from .capabilities import Decodes, DrawsParameters, Encodes, HasCodes, Samples, can
from .checkpoints import read_checkpoint
from .errors import ConfigurationError, at_least
from .evaluation import Quadrature, log_likelihood_on_grid
from .figures import figure_for_choosing
from .lightning_private import save_last_checkpoint
from .runs import run_folder
from .trackers import show_picture


def show(trainer: pl.Trainer, name: str, picture: pictures.Picture, step: int) -> None:
    """Writes a picture into the run's folder, and to the loggers that take pictures."""
    folder = run_folder(trainer)
    if not trainer.is_global_zero:
        return
    if folder is not None:
        pictures.write(picture, folder / "pictures" / f"{name}_{step:07d}.png")
    show_picture(trainer, name, picture, step, f"{CAPTIONS[name]}; after {step + 1:,} steps")


CAPTIONS = {
    "samples": "means of p(x|z) for z from the prior; where they are curves, beside rows of the data",
    "marginals": "each column of the table, samples beside rows of the data",
    "pairs": "pairs of columns, samples beside rows of the data",
    "styles": "one row per style, one column per label or category; the first row has the style 0",
    "reconstructions": "x and the mean of p(x|z) for z from q(z|x); of a table, counts of what became what",
    "interpolations": "straight lines from one code to another",
    "latent_plane": "codes of a batch, coloured by label, over draws of the prior in grey",
    "posterior": "draws of the posterior, with its density and reference draws where they are known",
}
"""What the pictures show."""


class Pictures(pl.Callback):
    """Draws pictures after some validations, and the curves of all metrics at the end; `index.html` shows them.

    Samples, reconstructions, interpolations, styles by label, and the latent space if it has two dimensions. Of a table
    marginals and pairs of columns, of other vectors curves: samples beside the first batch of the validation rows;
    reconstructions and interpolations in a panel for each column. For a posterior its draws beside density, reference
    and marginals. A picture is left out if the model, or the data, lacks what it needs.

    Args:
        every_n_epochs: draw after the validation of every n-th epoch, as far as `spacing` allows; 0: at the end of
            training only.
        count: number of rows in a picture of reconstructions.
        spacing: a picture is drawn when the run has this many times the steps it had at the last one: about ten
            pictures of a run with a hundred validations. 1: after every such validation.
    """

    def __init__(self, every_n_epochs: int = 1, count: int = 32, spacing: float = 1.6) -> None:
        self.every_n_epochs = at_least(0, **{"pictures.every_n_epochs": every_n_epochs})
        self.count = at_least(1, **{"pictures.count": count})
        if not spacing >= 1:
            raise ConfigurationError(f"pictures.spacing: {spacing} is below 1")
        self.spacing = spacing
        self.drawn = 0  # the steps of the run at its last picture
        self.batch: Batch | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"drawn": self.drawn}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.drawn = state_dict["drawn"]

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if batch_idx == 0:
            self.batch = batch

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking or not self.every_n_epochs or (trainer.current_epoch + 1) % self.every_n_epochs:
            return
        if trainer.global_step >= self.spacing * self.drawn:
            self.drawn = trainer.global_step
            self._draw(trainer, pl_module)
            self._write_page(trainer)

    def _write_page(self, trainer: pl.Trainer) -> None:
        folder = run_folder(trainer)
        if folder is not None and trainer.is_global_zero and folder.is_dir():
            page.write_page(folder)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._draw(trainer, pl_module)
        for logger in trainer.loggers:
            if isinstance(logger, CSVLogger) and trainer.is_global_zero:
                logger.save()
                metrics = Path(logger.log_dir, "metrics.csv")
                curves = pictures.curves(metrics) if metrics.exists() else None
                if curves is not None:
                    pictures.write(curves, Path(logger.log_dir, "pictures", "curves.png"))
        self._write_page(trainer)

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
        batch = None
        if self.batch is not None:  # at the end of a fit Lightning has moved the model off the device
            x, y, _ = self.batch
            batch = Batch(x.to(model.device), y.to(model.device) if y is not None else None)
        with noise.use(noise.seeded(noise.run_seed(), "pictures")), noise.torch_seeded(noise.run_seed(), "pictures"):
            drawn = self._plots(model, batch) if plots.has_plots(model.data_shape) else self._pictures(model, batch)
            for name, picture in drawn:
                show(trainer, name, picture, step)
            if batch is not None and can(model, Encodes, Decodes) and len(batch.x) > 1:
                show(trainer, "interpolations", walks.interpolations(model, model.data, batch), step)
            if batch is not None and can(model, Encodes, Decodes) and model.code_dim == 2:
                show(trainer, "latent_plane", pictures.latent_plane(model, batch), step)

    def _pictures(self, model: Any, batch: Batch | None) -> Iterator[tuple[str, pictures.Picture]]:
        if can(model, Samples):
            yield "samples", pictures.samples(model)
        if can(model, HasCodes) and model.label_choices:
            yield "styles", pictures.styles(model)
        if batch is not None and can(model, Encodes, Decodes):
            yield "reconstructions", pictures.reconstructions(model, batch, self.count)

    def _plots(self, model: Any, batch: Batch | None) -> Iterator[tuple[str, pictures.Picture]]:
        if can(model, Samples):
            yield from plots.samples(model, model.data, batch).items()
        if batch is not None and can(model, Encodes, Decodes):
            yield "reconstructions", plots.reconstructions(model, model.data, batch, self.count)


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
            path
            for path in folder.glob("*.ckpt")
            if path.name not in (*tracked, BEST) and not path.name.startswith("last")
        ]
        if self.save_top_k == -1:  # all are kept, also those before the resumed one
            files = [path for path in files if path.stat().st_mtime_ns > resumed.stat().st_mtime_ns]
        return sorted(path.name for path in files if path.resolve() != resumed.resolve())

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        last = trainer.global_step == trainer.max_steps or trainer.current_epoch + 1 == trainer.max_epochs
        if last or trainer.should_stop:
            save_last_checkpoint(self, trainer)


BEST = "best.ckpt"
"""The file of `Best`, beside the other checkpoints."""


class Best(pl.callbacks.Checkpoint):
    """Keeps `best.ckpt`, the checkpoint with the best figure of validation, and ends a fit that gets no better.

    The figure is the first of `figures.BETTER` that the model logs. A run that resumes goes on with the best checkpoint
    of the run before, if that lies beside the checkpoint it resumes. It is a `Checkpoint` so that Lightning calls it
    after the other callbacks, whose states it saves.

    Args:
        patience: the fit ends after so many validations without a better figure; None: it never ends early.
        figure: another figure of `figures.BETTER`; the only way to choose by the estimate of a critic.

    Raises:
        ConfigurationError: in the first validation, which is before the training: no figure says which weights are
            best.
    """

    def __init__(self, patience: int | None = 10, figure: str | None = None) -> None:
        self.patience = None if patience is None else at_least(1, patience=patience)
        self.figure = figure
        self.name, self.value, self.step, self.waited = "", math.nan, 0, 0

    def state_dict(self) -> dict[str, Any]:
        return {"name": self.name, "value": self.value, "step": self.step, "waited": self.waited}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.name, self.value, self.step, self.waited = (state_dict[k] for k in ("name", "value", "step", "waited"))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.enable_validation:
            raise ConfigurationError("Best: there is no validation: trainer.limit_val_batches is 0")
        if self.step and not trainer.strategy.broadcast(trainer.is_global_zero and self._carry_over(trainer)):
            rank_zero_info(
                f"best: there is no {BEST} of step {self.step} beside {str(trainer.ckpt_path)!r}: begun anew"
            )
            self.value, self.step, self.waited = math.nan, 0, 0

    def _carry_over(self, trainer: pl.Trainer) -> bool:
        """Copies the best checkpoint from beside the resumed one; returns whether this run has it now."""
        source, target = Path(trainer.ckpt_path or ".").with_name(BEST), self._path(trainer)
        try:
            whole = read_checkpoint(source)["global_step"] == self.step
        except ConfigurationError:  # it is not there, or damaged
            return False
        if whole and source.resolve() != target.resolve():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
        return whole

    def _path(self, trainer: pl.Trainer) -> Path:
        callbacks = trainer.checkpoint_callbacks
        folders = [c.dirpath for c in callbacks if isinstance(c, pl.callbacks.ModelCheckpoint) and c.dirpath]
        return Path(folders[0] if folders else (run_folder(trainer) or Path()) / "checkpoints", BEST)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn != "fit":
            return
        better = figure_for_choosing(trainer.callback_metrics, type(pl_module).__name__, self.figure)
        if trainer.sanity_checking:
            return
        value = trainer.callback_metrics[better.name].item()
        if better.name != self.name or better.prefers(value, self.value) or math.isnan(self.value):
            self.name, self.value, self.step, self.waited = better.name, value, trainer.global_step, 0
            trainer.save_checkpoint(self._path(trainer), weights_only=False)
            return
        self.waited += 1
        if self.patience is not None and self.waited >= self.patience:
            rank_zero_info(f"best: no better {better.name} since step {self.step}: the fit ends")
            trainer.should_stop = True

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        path = self._path(trainer)
        if self.step:
            rank_zero_info(f"best: {self.name} {self.value:.5g} after step {self.step}, in {str(path)!r}")
        else:
            rank_zero_info(f"best: the fit ended before its first validation: there is no {BEST}")


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
