"""Pictures per second from files, in the first two epochs, against torchvision's ImageFolder and DataLoader.

    python benchmarks/loading.py
    python benchmarks/loading.py --format png --pictures 20000

Makes colour pictures of 64x64 in a temporary folder and takes them through two epochs of `Trainer.fit` with a model
that does almost nothing, so that loading takes all the time:

* theirs: `torchvision.datasets.ImageFolder` and a `DataLoader` with persistent workers, which decode in every epoch;
* ours: `datamodules.ImageFolder`, which decodes once, with the tensor resident and mapped from its file.

The first epoch is timed from before the DataModule is made, so it contains listing, decoding and the start of workers.
The files have just been written and come from the system's cache, for both sides. The sides alternate; the table shows
medians over the rounds. Before that, both sides must give the same pixels.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torchvision
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules import ImageFolder

BATCH = 100


class Nothing(pl.LightningModule):
    """One number that is multiplied with the mean of a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.weight * batch[0].mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


class Clock(pl.Callback):
    """The times at which epochs ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.ends.append(time.perf_counter())


class Theirs(pl.LightningDataModule):
    """What one would write without a library."""

    def __init__(self, root: Path, workers: int) -> None:
        super().__init__()
        self.root, self.workers = root, workers

    def setup(self, stage: str) -> None:
        self.data = torchvision.datasets.ImageFolder(self.root / "train", torchvision.transforms.ToTensor())

    def train_dataloader(self) -> DataLoader:
        return DataLoader(
            self.data, BATCH, shuffle=True, drop_last=True, num_workers=self.workers, persistent_workers=True
        )


def make_pictures(root: Path, count: int, ending: str) -> None:
    """Smooth random colours with a little noise, in two folders; ten more for validation and test."""
    generator = np.random.default_rng(0)
    for part, size in (("train", count), ("val", 10), ("test", 10)):
        for label in "ab":
            (root / part / label).mkdir(parents=True)
        for number in range(size):
            coarse = Image.fromarray(generator.integers(0, 256, (6, 6, 3), dtype=np.uint8))
            fine = np.asarray(coarse.resize((64, 64), Image.Resampling.BICUBIC)) + generator.normal(0, 4, (64, 64, 3))
            picture = Image.fromarray(fine.clip(0, 255).astype(np.uint8))
            picture.save(root / part / "ab"[number % 2] / f"{number:06}.{ending}")


def epochs(make: Callable[[], pl.LightningDataModule], count: int) -> tuple[float, float]:
    """Pictures a second until the end of the first epoch, and in the second."""
    clock = Clock()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    start = time.perf_counter()
    trainer = pl.Trainer(
        max_epochs=2, accelerator="cpu", limit_val_batches=0, enable_model_summary=False, callbacks=[clock], **quiet
    )
    trainer.fit(Nothing(), make())
    first, second = clock.ends
    return count / (first - start), count / (second - first)


def assert_same_pixels(root: Path) -> None:
    """Both sides read the same pictures."""
    theirs = Theirs(root, 1)
    theirs.setup("fit")
    x, _, rows = ImageFolder(str(root)).load()["train"]
    for row in (0, len(rows) // 2, len(rows) - 1):
        torch.testing.assert_close(theirs.data[row][0], x[rows[row]] / 255)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measures how fast pictures are loaded.")
    parser.add_argument("--pictures", type=int, default=10000)
    parser.add_argument("--format", choices=("jpg", "png"), default="jpg")
    parser.add_argument("--workers", type=int, default=2, help="of the DataLoader on the other side")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.rounds < 1 or options.workers < 1 or options.pictures < BATCH:
        parser.error(f"--rounds and --workers must be positive, --pictures at least {BATCH}")
    return options


def main() -> None:
    options = parse()
    for name in ("pytorch_lightning", "pytorch_lightning.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    with tempfile.TemporaryDirectory() as folder:
        root, cache = Path(folder, "pictures"), Path(folder, "cache")
        make_pictures(root, options.pictures, options.format)
        assert_same_pixels(root)
        sides: dict[str, Callable[[], pl.LightningDataModule]] = {
            f"torchvision ImageFolder, DataLoader with {options.workers} workers": lambda: Theirs(
                root, options.workers
            ),
            "datamodules.ImageFolder, resident": lambda: ImageFolder(
                str(root), cache=str(cache), batch_size=BATCH, resident=True
            ),
            "datamodules.ImageFolder, mapped": lambda: ImageFolder(
                str(root), cache=str(cache), batch_size=BATCH, resident=False
            ),
        }
        rates: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
        for _ in range(options.rounds):
            for name, make in sides.items():
                shutil.rmtree(cache, ignore_errors=True)
                rates[name].append(epochs(make, options.pictures))
    print(
        f"{options.pictures} colour pictures of 64x64 ({options.format}), batches of {BATCH}, {options.rounds} rounds; "
        f"torch {torch.__version__}, torchvision {torchvision.__version__}, Python {platform.python_version()}, "
        f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads\n"
    )
    print("| pictures a second | files to end of first epoch | ratio | second epoch | ratio |\n|---|---|---|---|---|")
    medians = {
        name: [statistics.median(column) for column in zip(*found, strict=True)] for name, found in rates.items()
    }
    ones = next(iter(medians.values()))
    for name, (first, second) in medians.items():
        print(f"| {name} | {first:,.0f} | {first / ones[0]:.2f} | {second:,.0f} | {second / ones[1]:.2f} |")


if __name__ == "__main__":
    main()
