"""The cost of exchanging signals between processes at the end of every batch, as a share of a step.

python benchmarks/interruption.py [--processes 2] [--windows 60] [--batches 50]

One fit of AVB with adaptive contrast on the digits, in which windows of `--batches` batches alternate: without an
exchange; with the one of `lightning_avb.interruption`; with Lightning's own before every batch (which the library
leaves out). Prints the median time per batch and its ratio to the neighbouring window without an exchange, with its
standard error.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop

from datamodules import Digits
from lightning_avb import AVB
from lightning_avb.interruption import Interruption

VARIANTS = ("nothing", "lightning_avb", "Lightning")


class Turns(pl.Callback):
    """Switches from one variant to the next, and keeps the seconds a batch of every window."""

    def __init__(self, batches: int) -> None:
        self.batches, self.seconds = batches, {name: list[float]() for name in VARIANTS}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.interruption: Any = next(c for c in trainer.callbacks if isinstance(c, Interruption))
        self.exchange, self.loop = self.interruption._exchange, trainer.fit_loop.epoch_loop
        self.done, self.begin = 0, time.perf_counter()
        self.switch("nothing")

    def switch(self, name: str) -> None:
        self.name = name
        self.interruption._exchange = self.exchange if name == "lightning_avb" else lambda number: number
        lightning = _TrainingEpochLoop._broadcast_sigterm_tensor.__get__(self.loop)
        self.loop._broadcast_sigterm_tensor = lightning if name == "Lightning" else lambda: None

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.done += 1
        if self.done % self.batches == 0:
            now = time.perf_counter()
            self.seconds[self.name].append((now - self.begin) / self.batches)
            self.switch(VARIANTS[(VARIANTS.index(self.name) + 1) % len(VARIANTS)])
            self.begin = time.perf_counter()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            for name, seconds in self.seconds.items():
                ratios = [one / base for one, base in zip(seconds, self.seconds["nothing"], strict=False)][1:]
                error = statistics.stdev(ratios) / math.sqrt(len(ratios))
                print(
                    f"{name:14} {1e3 * statistics.median(seconds):7.3f} ms a batch, "
                    f"{statistics.median(ratios):.3f} +- {error:.3f} of the time of nothing"
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--windows", type=int, default=60)
    parser.add_argument("--batches", type=int, default=50)
    options = parser.parse_args()
    torch.set_num_threads(1)
    pl.seed_everything(0)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=options.processes,
        strategy="ddp_fork" if options.processes > 1 else "auto",
        max_steps=options.windows * options.batches,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Turns(options.batches)],
    )
    trainer.fit(AVB(latent_dim=4), Digits(100 // options.processes, binarize="dynamic"))


if __name__ == "__main__":
    main()
