"""The curves of the AEVB paper: the bound over training, for several sizes of the latent space (their figure 2).

    python benchmarks/latent_sizes.py --root DATA
    python benchmarks/latent_sizes.py --root DATA --sets frey_faces --steps 20000

A sweep of `--model.latent_dim` over `configs/{mnist,frey_faces}/vae_aevb.yaml` through the command line: one hidden
layer of 500 (200) units, batches of 100, one noise sample, Adagrad. Draws one picture from the runs' metrics.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from pathlib import Path
from typing import Any

from lightning_avb import pictures

SIZES = {"mnist": (3, 5, 10, 20, 200), "frey_faces": (2, 5, 10, 20)}
"""The paper's latent dimensions."""


def train(data: str, latent_dim: int, root: str, steps: int | None, folder: Path) -> Path:
    """Trains one model and returns its metrics."""
    arguments = {
        "--config": f"configs/{data}/vae_aevb.yaml",
        "--data.root": root,
        "--model.latent_dim": latent_dim,
        "--trainer.logger.save_dir": folder,
        "--trainer.logger.name": data,
        "--trainer.logger.version": f"latent_{latent_dim}",
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
    return folder / data / f"latent_{latent_dim}" / "metrics.csv"


def bounds(metrics: Path) -> tuple[list[int], list[float]]:
    """Steps, and the bound of the validation data there."""
    with metrics.open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("val/elbo")]
    return [int(row["step"]) for row in rows], [float(row["val/elbo"]) for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="data")
    parser.add_argument("--sets", nargs="+", default=[*SIZES], choices=[*SIZES])
    parser.add_argument("--steps", type=int, help="training steps, where not those of the configuration")
    parser.add_argument("--folder", type=Path, default=Path("runs", "latent_sizes"))
    options = parser.parse_args()
    curves = {
        data: {size: bounds(train(data, size, options.root, options.steps, options.folder)) for size in SIZES[data]}
        for data in options.sets
    }
    print("\n| data | latent_dim | bound of the validation data, nats |")
    print("|---|---|---|")
    for data, found in curves.items():
        for size, (_, values) in found.items():
            print(f"| {data} | {size} | {values[-1]:.1f} |")

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
