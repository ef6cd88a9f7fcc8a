"""Metrics of `validate` and `test`, and predictions of `predict`, written beside the checkpoint."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytorch_lightning as pl
import torch

from ..checkpoints import save_atomically
from ..runs import path_beside_checkpoint
from ..trackers import show_table
from .base import align


class SaveMetrics(pl.Callback):
    """Prints the metrics of `validate` and `test` with their row counts, and writes them as JSON."""

    def __init__(self) -> None:
        self.rows: Counter[int] = Counter()

    def _count(self, batch: Any, loader: int) -> None:
        self.rows[loader] += len(batch.real_rows.x)

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._count(batch, dataloader_idx)

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._count(batch, dataloader_idx)

    def _write(self, trainer: pl.Trainer, kind: str) -> None:
        if trainer.state.fn == "fit":
            return
        # Every process has batches of every loader, if only with a filler row.
        own_rows = torch.tensor(
            [self.rows[loader] for loader in sorted(self.rows)], device=trainer.strategy.root_device
        )
        rows = trainer.strategy.reduce(own_rows, reduce_op="sum")
        self.rows.clear()
        if not trainer.is_global_zero:
            return
        found = {name: value.item() for name, value in trainer.callback_metrics.items()}
        lines = [("figure", "mean", "rows")]
        for name, value in found.items():
            _, several, loader = name.partition("/dataloader_idx_")
            count = rows[int(loader)] if several else rows.sum()
            lines.append((name, f"{value:.4f}", str(int(count))))
        print(align(lines))
        show_table(trainer, f"{kind}/figures", lines)
        path = path_beside_checkpoint(trainer, kind)
        path.write_text(json.dumps(found, indent=1))
        print(f"{kind}: {path}")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._write(trainer, "validate")

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._write(trainer, "test")


class SavePredictions(pl.Callback):
    """Writes the results of `predict` beside the checkpoint: a dict of tensors, joined over batches.

    The predictions of `last.ckpt` are in `last.predictions.pt`. With several processes each writes its own rows, into
    `last.predictions_RANK.pt`. Files of an earlier `predict` are replaced.
    """

    def __init__(self) -> None:
        self.outputs: list[dict[str, Any]] = []

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if len(batch.real_rows.x):
            self.outputs.append(outputs)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        rank = f"_{trainer.global_rank}" if trainer.world_size > 1 else ""
        path = path_beside_checkpoint(trainer, f"predictions{rank}", "pt", replace=True)
        if not self.outputs:
            return
        joined = {
            name: torch.cat([output[name] for output in self.outputs]).cpu()
            for name, value in self.outputs[0].items()
            if value is not None
        }
        self.outputs = []
        save_atomically(joined, path)
        print(f"predictions: {path}")
