"""All posteriors on MNIST with the same decoder and about the same training time: bounds and likelihoods.

    python benchmarks/posteriors.py --root DATA
    python benchmarks/posteriors.py --root DATA --models vae avb_si --only_evaluate

Trains `configs/mnist/MODEL.yaml`, whose `max_steps` take about ten minutes on 2 cores, through the command line, and
keeps intermediate checkpoints. Then, on the same rows of the test set for all, computes the importance-weighted bound
of log p(x) from a proposal fitted to draws of q (a lower bound in expectation for every posterior), and the model's own
figure. Prints a table in markdown and draws the curves against the training time.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from datamodules import MNIST
from lightning_avb import noise, pictures
from lightning_avb.batch import Batch
from lightning_avb.checkpoints import load, read_checkpoint
from lightning_avb.evaluation import fitted_proposal, importance_weighting, log_joint, map_rows, refined_proposal

MODELS = ("vae", "iaf", "vae_si", "avb_si")


class Point(NamedTuple):
    """One checkpoint: minutes of training, steps, log p(x) of every row, and the model's own figure."""

    minutes: float
    steps: int
    rows: Tensor
    own: float

    @property
    def log_likelihood(self) -> float:
        return self.rows.mean().item()


def train(model: str, root: str, folder: Path, seed: int, checkpoints: int) -> None:
    """Trains through the command line, with about that many intermediate checkpoints."""
    config = Path("configs", "mnist", f"{model}.yaml")
    steps = int(next(line.split(":")[1] for line in config.read_text().splitlines() if "max_steps" in line))
    arguments = {
        "--config": config,
        "--data.root": root,
        "--seed_everything": seed,
        "--trainer.logger.save_dir": folder,
        "--trainer.logger.name": model,
        "--trainer.logger.version": f"seed_{seed}",
        "--trainer.limit_val_batches": 2,
        "--trainer.check_val_every_n_epoch": 20,
        "--checkpoint.every_n_train_steps": max(1, steps // checkpoints),
        "--checkpoint.save_top_k": -1,
        "--pictures.every_n_epochs": 0,
    }
    command = [
        sys.executable,
        "-m",
        "lightning_avb",
        "fit",
        *(str(word) for pair in arguments.items() for word in pair),
    ]
    start = time.time()
    subprocess.run(command, check=True)
    (folder / model / f"seed_{seed}" / "started").write_text(str(start))


def evaluate(path: Path, batch: Batch, samples: int, started: float) -> Point:
    """log p(x) of some rows by importance weighting, and the model's ELBO, a bound of it, or the critic's estimate."""
    model: Any = load(path)

    def estimate(rows: Batch) -> Any:
        q, log_target = model.encoder(rows.x), log_joint(model.decoder, model.prior, rows.x)
        proposal = refined_proposal(fitted_proposal(q, model.prior()), log_target)
        return importance_weighting(proposal, log_target, samples)

    bound = map_rows(estimate, batch, 64, 0, "importance").bound
    model.samples = 20
    with torch.no_grad(), noise.use(noise.RowNoise(0, "own", index=batch.index)):
        scores = model.scores(batch)
    own = next(scores[name] for name in ("elbo", "elbo_lower", "elbo_estimate") if name in scores).mean().item()
    steps = read_checkpoint(path)["global_step"]
    minutes = (path.stat().st_mtime - started) / 60
    return Point(minutes, steps, bound, own)


def mean_and_error(values: Tensor) -> str:
    """Mean and standard error over rows."""
    return f"{values.mean():.2f} +- {values.std() / math.sqrt(len(values)):.2f}"


def curve(folder: Path, batch: Batch, samples: int) -> list[Point]:
    """All checkpoints of a run, in order of time."""
    started = float((folder / "started").read_text())
    paths = sorted((folder / "checkpoints").glob("epoch*.ckpt"), key=lambda path: path.stat().st_mtime)
    return [evaluate(path, batch, samples, started) for path in paths]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="data")
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=500, help="rows of the test set")
    parser.add_argument("--samples", type=int, default=2048, help="importance samples per row")
    parser.add_argument("--checkpoints", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("runs", "posteriors"))
    parser.add_argument("--only_evaluate", action="store_true", help="what is there already")
    options = parser.parse_args()
    if not options.only_evaluate:
        for model in options.models:
            train(model, options.root, options.folder, options.seed, options.checkpoints)
    data = MNIST(options.root, eval_batch_size=options.rows, binarize="dynamic")
    batch = next(iter(data.test_dataloader()))
    curves = {
        model: curve(options.folder / model / f"seed_{options.seed}", batch, options.samples)
        for model in options.models
    }
    print(
        "\n| model | steps | minutes | log p(x), importance weighted | difference to the first, paired | its own ELBO |"
    )
    print("|---|---|---|---|---|---|")
    first = curves[options.models[0]][-1]
    for model, points in curves.items():
        last = points[-1]
        likelihood, difference = mean_and_error(last.rows), mean_and_error(last.rows - first.rows)
        print(f"| {model} | {last.steps:,} | {last.minutes:.1f} | {likelihood} | {difference} | {last.own:.2f} |")

    def draw(axes: Any) -> None:
        for model, points in curves.items():
            axes.plot([p.minutes for p in points], [p.log_likelihood for p in points], "o-", ms=3, label=model)
        axes.set(xlabel="minutes of training", ylabel="log p(x), nats, lower bound")
        axes.legend()

    path = options.folder / "posteriors.png"
    pictures.write(pictures.figure(draw, (6, 4)), path)
    print(f"\ncurves: {path}")


if __name__ == "__main__":
    main()
