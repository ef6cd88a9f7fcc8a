"""A table end to end: how far samples can be told from data, on scikit-learn's breast cancer data.

    python benchmarks/tables.py
    python benchmarks/tables.py --models vae --seeds 0

Writes the table as pandas does, with its index and with 5 % of the fields of three columns emptied. Trains the models
of `configs/unmeasured/own_table` with 8 latent dimensions through the command line, those with a figure to choose by
until it gets no better. Prints for each model

* log p of the test rows, mean and median, and the error of the emptied fields when they are filled in, for each seed;
* the accuracy with which a random forest tells rows from as many samples, over seeds, three sets of samples and five
  folds: 50 % is perfect. Rows with missing fields are left out, since samples have none. Once with all rows, and once
  with the validation and test rows.

For comparison: rows against other rows, and against rows whose columns were shuffled, one by one, which keeps the
marginals and nothing else.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import cross_val_score

from lightning_avb import Trained
from lightning_avb.inference import why_no_likelihood

EMPTIED = ("mean texture", "mean area", "worst smoothness")
LOG = [
    *("mean area", "radius error", "perimeter error", "area error", "smoothness error", "compactness error"),
    *("symmetry error", "fractal dimension error", "worst area", "worst compactness", "worst fractal dimension"),
]
"""Skewed columns of positive numbers."""
REPEATS = 3


def write_table(path: Path) -> None:
    """The data as a file, with a column of words."""
    cancer = load_breast_cancer(as_frame=True)
    table = cancer.data.assign(diagnosis=cancer.target_names[cancer.target])
    for seed, name in enumerate(EMPTIED):
        table.loc[np.random.default_rng(seed).random(len(table)) < 0.05, name] = np.nan
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path)


def train(model: str, seed: int, table: Path, folder: Path) -> Path:
    """The best checkpoint of a run, or its last one; a run that is there already is not repeated."""
    run = folder / model / f"seed_{seed}"
    places = [run / "checkpoints" / name for name in ("best.ckpt", "last.ckpt")]
    if not any(place.exists() for place in places):
        command = [sys.executable, "-m", "lightning_avb", "fit", "--config", f"unmeasured/own_table/{model}"]
        command += ["--data.path", str(table), "--data.log", str(LOG).replace("'", '"')]
        command += [] if model in ("avb", "avb_ac", "gan") else ["--config", "trainer/best"]
        command += ["--model.latent_dim", "8", "--seed_everything", str(seed), "--pictures.every_n_epochs", "0"]
        command += ["--trainer.logger.save_dir", str(folder), "--trainer.logger.name", model]
        subprocess.run([*command, "--trainer.logger.version", f"seed_{seed}"], check=True)
    return next(place for place in places if place.exists())


def accuracy(rows: pd.DataFrame, others: pd.DataFrame, seed: int) -> float:
    """Share of right decisions of a random forest between as many of both, over five folds."""
    count = min(len(rows), len(others))
    both = pd.concat([rows.sample(count, random_state=seed), others.sample(count, random_state=seed)])
    x = pd.get_dummies(both).to_numpy(float)
    forest = RandomForestClassifier(300, random_state=seed)
    order = np.random.default_rng(seed).permutation(2 * count)
    return float(cross_val_score(forest, x[order], (np.arange(2 * count) < count)[order], cv=5).mean())


def imputation_error(trained: Trained, table: Path, draws: int = 20) -> float:
    """Root mean squared error of the mean of some imputations of the emptied fields, in standard deviations.

    The mean of the column has the error 1. The values that were emptied are in no file that the model has seen.
    """
    rows, truth = pd.read_csv(table), load_breast_cancer(as_frame=True).data
    filled, squares = trained.impute(rows, draws=draws), []
    for name in EMPTIED:
        missing = rows[name].isna()
        mean = sum(one[name][missing].astype(float) for one in filled) / draws
        squares.append(((mean - truth[name][missing]) / truth[name].std()).pow(2))
    return float(pd.concat(squares).mean() ** 0.5)


def percent(values: list[float]) -> str:
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{100 * statistics.mean(values):.1f} ± {100 * error:.1f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["vae", "avb_si", "aae", "gan"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("runs", "tables"))
    options = parser.parse_args()
    table = options.folder / "cancer.csv"
    if not table.exists():
        write_table(table)
    checkpoints = {m: [train(m, seed, table, options.folder) for seed in options.seeds] for m in options.models}

    first = Trained(checkpoints[options.models[0]][0])
    data = first.datamodule
    assert data is not None
    data.setup("test")
    splits = {stage: data.to_rows(data.split(stage).x) for stage in ("train", "val", "test")}  # type: ignore[attr-defined]
    held_out = pd.concat([splits["val"], splits["test"]]).dropna()
    every = pd.concat([splits["train"], held_out]).dropna()

    def line(name: str, log_p: str, error: str, of_all: list[float], of_held_out: list[float]) -> None:
        print(f"| {name} | {log_p} | {error} | {percent(of_all)} | {percent(of_held_out)} |", flush=True)

    print(f"\n{len(every)} rows without missing fields, {len(held_out)} of them in validation and test\n")
    print("| rows against | log p of test rows: mean (median) | error of filled fields | accuracy | of held-out rows |")
    print("|---|---|---|---|---|")
    for name, seeds in checkpoints.items():
        scores, errors, of_all, of_held_out = [], [], [], []
        for path in seeds:
            trained = Trained(path)
            if why_no_likelihood(trained.model) is None:
                log_p = trained.score(splits["test"])[0]
                scores.append(f"{log_p.mean():.1f} ({np.median(log_p):.1f})")
                errors.append(f"{imputation_error(trained, table):.2f}")
            for repeat in range(REPEATS):
                drawn = trained.sample(len(every), seed=repeat)
                of_all.append(accuracy(every, drawn, repeat))
                of_held_out.append(accuracy(held_out, drawn, repeat))
        line(f"samples of {name}", ", ".join(scores), ", ".join(errors), of_all, of_held_out)
    halves, shuffled, few_halves, few_shuffled = [], [], [], []
    for repeat in range(REPEATS):
        for rows, half, mixed in ((every, halves, shuffled), (held_out, few_halves, few_shuffled)):
            order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(repeat)).numpy()
            half.append(accuracy(rows.iloc[order[::2]], rows.iloc[order[1::2]], repeat))
            columns = {n: rows[n].sample(frac=1, random_state=100 * repeat + i) for i, n in enumerate(rows.columns)}
            mixed.append(accuracy(rows, pd.DataFrame({n: c.to_numpy() for n, c in columns.items()}), repeat))
    line("other rows", "", "", halves, few_halves)
    line("shuffled columns", "", "", shuffled, few_shuffled)


if __name__ == "__main__":
    main()
