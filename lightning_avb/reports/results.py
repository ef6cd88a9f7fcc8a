"""Metrics of `validate` and `test`, and predictions of `predict`, written beside the checkpoint."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl
import torch
from torch import Tensor

from ..capabilities import DataDescription
from ..checkpoints import save_atomically
from ..row_files import NAMED, checked_suffix, write_rows, writing
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
    """Writes the results of `predict`, a value of every row, in the order of the rows, by the first process.

    Args:
        output: the file: .csv, .npz or .parquet, or .pt for a dict of tensors; with several loaders their rows one
            after another. None: beside the checkpoint; for `last.ckpt` it is `last.predictions.pt`.

    Raises:
        ConfigurationError: another kind of file.
    """

    SUFFIXES = (".pt", *NAMED)

    def __init__(self, output: str | None = None) -> None:
        if output is not None:
            checked_suffix(Path(output), self.SUFFIXES)
        self.output = output
        self.parts: list[tuple[int, dict[str, Tensor]]] = []

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
            given = {name: value.cpu() for name, value in outputs.items() if value is not None}
            self.parts.append((dataloader_idx, given))

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        beside = path_beside_checkpoint(trainer, "predictions", "pt", replace=True)
        path = beside if self.output is None else Path(self.output)
        parts, self.parts = self._of_all_processes(trainer), []
        if not parts:
            return
        loaders = sorted({loader for loader, _ in parts})
        found = [_joined([part for loader, part in parts if loader == one]) for one in loaders]
        joined = {name: torch.cat([part[name] for part in found]) for name in found[0]}
        if path.suffix.lower() == ".pt":
            save_atomically(joined, path)
        else:
            rows, labels = _as_table(joined), joined.get("y")
            if labels is not None:
                rows["y"] = DataDescription(trainer.datamodule).names_of(labels)  # type: ignore[attr-defined]
            with writing(path):
                write_rows(path, pd.DataFrame(rows))
        print(f"predictions: {path}")

    def _of_all_processes(self, trainer: pl.Trainer) -> list[tuple[int, dict[str, Tensor]]]:
        """The parts of all processes, on the first; nothing on others."""
        if trainer.world_size == 1:
            return self.parts
        everything: Any = [None] * trainer.world_size if trainer.is_global_zero else None
        torch.distributed.gather_object(self.parts, everything)
        return [part for parts in everything or [] for part in parts]


def _joined(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Batches of one loader, in the order of their rows."""
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    order = joined["index"].argsort(stable=True)
    return {name: value[order] for name, value in joined.items()}


def _as_table(values: dict[str, Tensor]) -> dict[str, Any]:
    """A column for every number of a row: `z` `(rows, 2)` becomes z0 and z1; the `index` is the `row`."""
    columns: dict[str, Any] = {"row": values["index"].numpy()}
    for name, value in values.items():
        if name != "index":
            flat = value.flatten(1).unbind(1) if value.ndim > 1 else [value]
            columns |= {f"{name}{i}" if value.ndim > 1 else name: part.numpy() for i, part in enumerate(flat)}
    return columns
