"""The curves of the AEVB paper: the bound over training, for several sizes of the latent space (their figure 2).

    python benchmarks/latent_sizes.py --root DATA
    python benchmarks/latent_sizes.py --root DATA --sets frey_faces --steps 20000

A sweep of `--model.latent_dim` over `configs/{mnist,frey_faces}/vae_aevb.yaml` through the command line: one hidden
layer of 500 (200) units, batches of 100, one noise sample, Adagrad. The learning rate is, as in the paper, the one of
0.01, 0.02 and 0.1 that does best on the training data in a short trial. Draws one picture from the runs' metrics.
"""

from __future__ import annotations

import argparse
import csv
import math
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from lightning_avb import pictures

SIZES = {"mnist": (3, 5, 10, 20, 200), "frey_faces": (2, 5, 10, 20)}
"""The paper's latent dimensions."""
RATES = (0.01, 0.02, 0.1)
"""The paper's learning rates of Adagrad."""


def train(data: str, latent_dim: int, rate: float, root: str, steps: int | None, folder: Path, version: str) -> Path:
    """Trains one model and returns its metrics."""
    arguments = {
        "--config": f"configs/{data}/vae_aevb.yaml",
        "--data.root": root,
        "--model.latent_dim": latent_dim,
        "--trainer.logger.save_dir": folder,
        "--trainer.logger.name": data,
        "--trainer.logger.version": version,
        "--model.players.model.optimizer.init_args.lr": rate,
        "--pictures.every_n_epochs": 0,
        **({"--trainer.max_steps": steps} if steps else {}),
    }
    command = [
        sys.executable,
        "-m",
        "lightning_avb",
        "fit",
        *(str(word) for pair in arguments.items() for word in pair),
    ]
    subprocess.run(command, check=True)
    return folder / data / version / "metrics.csv"


def bounds(metrics: Path, split: str = "val") -> tuple[list[int], list[float]]:
    """Steps, and the bound there."""
    with metrics.open() as file:
        rows = [row for row in csv.DictReader(file) if row.get(f"{split}/elbo")]
    return [int(row["step"]) for row in rows], [float(row[f"{split}/elbo"]) for row in rows]


def best_rate(data: str, latent_dim: int, root: str, steps: int, folder: Path) -> float:
    """The learning rate with the best bound of the training data over the second half of a short trial."""

    def reached(rate: float) -> float:
        version = f"latent_{latent_dim}_lr_{rate}"
        try:
            _, values = bounds(train(data, latent_dim, rate, root, steps, folder, version), "train")
        except subprocess.CalledProcessError:  # it diverged, and said so
            return -math.inf
        return statistics.mean(values[len(values) // 2 :])

    return max(RATES, key=reached)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="data")
    parser.add_argument("--sets", nargs="+", default=[*SIZES], choices=[*SIZES])
    parser.add_argument("--steps", type=int, help="training steps, where not those of the configuration")
    parser.add_argument("--trial", type=int, default=1000, help="training steps of a trial of a learning rate")
    parser.add_argument("--folder", type=Path, default=Path("runs", "latent_sizes"))
    options = parser.parse_args()
    curves: dict[str, dict[int, tuple[list[int], list[float]]]] = {}
    lines = []
    for data in options.sets:
        curves[data] = {}
        for size in SIZES[data]:
            rate = best_rate(data, size, options.root, options.trial, options.folder)
            metrics = train(data, size, rate, options.root, options.steps, options.folder, f"latent_{size}")
            curves[data][size] = bounds(metrics)
            lines.append(f"| {data} | {size} | {rate} | {curves[data][size][1][-1]:.1f} |")
    print("\n| data | latent_dim | learning rate | bound of the validation data, nats |")
    print("|---|---|---|---|")
    print("\n".join(lines))

    def draw(panels: Any) -> None:
        for axes, (data, found) in zip(panels, curves.items(), strict=True):
            for size, (steps, values) in found.items():
                axes.plot(steps, values, label=str(size))
            axes.set(title=data, xlabel="steps", ylabel="validation bound, nats")
            axes.legend(title="latent_dim")

    path = options.folder / "latent_sizes.png"
    pictures.write(pictures.figure(draw, (5 * len(curves), 4), len(curves)), path)
    print(f"\ncurves: {path}")


if __name__ == "__main__":
    main()
