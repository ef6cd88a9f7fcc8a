"""AVB as its class builds it beside a VAE with the same decoder, step for step, over data sets, dimensions and seeds.

    python benchmarks/equal_steps.py train --root DATA --data mnist digits --dims 2 8 --seeds 0 1 2 3 4 --steps 10000
    python benchmarks/equal_steps.py table
    python benchmarks/equal_steps.py train --grid --root DATA --seeds 0 1 2 ... 19 --steps 3000 --folder runs/grid
    python benchmarks/equal_steps.py table --grid --folder runs/grid

`train` adds one line to FOLDER/results.jsonl for every run, and leaves out runs that are there. All models have MLPs of
two hidden layers in encoder and decoder and their default optimizers; the networks compute in `--precision`. log p(x)
is the importance-weighted bound with 1,000 samples from a proposal fitted to draws of q, on the first 500 rows of the
test set, the same for all models; differences are taken between runs of the same seed, and standard errors over seeds.

`--grid` multiplies all learning rates by a factor between 1/3 and 3 that depends on the seed; its table gives the mean
for each factor, and in brackets the worst run minus the median of that factor. `--best` takes the weights with the
highest ELBO (of AVB its certified lower bound) among forty validations, for data so few that training long overfits.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

import lightning_avb as avb
from datamodules import MNIST, Arrays, Digits, FreyFaces, TensorDataModule
from lightning_avb import noise
from lightning_avb.callbacks import Best
from lightning_avb.cli import keep_freed_memory
from lightning_avb.evaluation import fitted_proposal, importance_weighting, log_joint, map_rows, refined_proposal
from lightning_avb.models.avb import AVBPlayers
from lightning_avb.models.vae import VAEPlayers

ROWS, SAMPLES = 500, 1000
FACTORS = (1 / 3, 0.58, 1.0, 1.73, 3.0)


def waveform(root: str) -> TensorDataModule:
    """The 21 covariates of the waveform data as a table of 4,600 rows."""
    path = Path("runs", "waveform.npy")
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        with np.load(Path(root, "waveform", "waveform.npz")) as file:
            np.save(path, file["x_test"][:, 1:])
    return Arrays(str(path), batch_size=100, eval_batch_size=ROWS)


DATA: dict[str, Callable[[str], TensorDataModule]] = {
    "mnist": lambda root: MNIST(root, batch_size=250, eval_batch_size=ROWS, binarize="dynamic"),
    "digits": lambda root: Digits(eval_batch_size=ROWS, binarize="dynamic"),
    "frey_faces": lambda root: FreyFaces(root, eval_batch_size=ROWS),
    "waveform": waveform,
}
HIDDEN = {"mnist": (300, 300)}
DECODERS: dict[str, Any] = {
    "mnist": avb.BernoulliDecoder,
    "digits": avb.BernoulliDecoder,
    "frey_faces": partial(avb.GaussianDecoder, sigmoid=True),
    "waveform": avb.GaussianDecoder,
}


def scaled(players: Any, factor: float) -> Any:
    """The players with all learning rates times the factor."""

    def slower(player: avb.Player) -> avb.Player:
        recipe: Any = player.optimizer
        options = {**recipe.keywords}  # type: ignore[attr-defined]
        options["lr"] = factor * options.get("lr", 1e-3)
        return replace(player, optimizer=partial(torch.optim.Adam, **options))

    return replace(players, **{name: slower(getattr(players, name)) for name in players.__dataclass_fields__})


def build(name: str, data: str, dim: int, factor: float) -> Any:
    """The VAE, or AVB, of that data set."""
    network = partial(avb.MLP, hidden=HIDDEN.get(data, (128, 128)))
    decoder: Any = partial(DECODERS[data], network=network)
    encoder: Any
    if name == "vae":
        encoder = partial(avb.GaussianEncoder, network=network)
        return avb.VAE(dim, encoder, decoder, players=scaled(VAEPlayers(), factor))
    encoder = partial(avb.SemiImplicitEncoder, network=network)
    return avb.AVB(dim, encoder, decoder, players=scaled(AVBPlayers(), factor))


def fit(model: Any, datamodule: TensorDataModule, steps: int, precision: Any, best: bool) -> float:
    """Trains; the seconds. `best`: with the weights in the end that had the best figure of validation."""
    with TemporaryDirectory() as folder:
        keep = [pl.callbacks.ModelCheckpoint(folder, save_top_k=0), Best(patience=None)]
        trainer = pl.Trainer(
            max_steps=steps,
            accelerator="cpu",
            precision=precision,
            logger=False,
            callbacks=keep if best else None,  # type: ignore[arg-type]
            enable_checkpointing=best,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=1.0 if best else 0,
            check_val_every_n_epoch=None,
            val_check_interval=max(1, steps // 40),
        )
        start = time.perf_counter()
        trainer.fit(model, datamodule)
        seconds = time.perf_counter() - start
        if best:
            model.load_state_dict(torch.load(Path(folder, "best.ckpt"), weights_only=True)["state_dict"])
    return seconds


def be_quiet_and_fast(threads: int | None = None) -> None:
    """Settings of the process: threads (None: torch's choice), memory, and no messages of Lightning."""
    if threads is not None:
        torch.set_num_threads(threads)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    keep_freed_memory()


def evaluate(model: Any, datamodule: TensorDataModule) -> dict[str, Any]:
    """log p(x) of every row, and the means of the model's own figures."""
    model.eval()
    batch = next(iter(datamodule.test_dataloader()))

    def estimate(rows: avb.Batch) -> Any:
        q, log_target = model.encoder(rows.x), log_joint(model.decoder, model.prior, rows.x)
        return importance_weighting(
            refined_proposal(fitted_proposal(q, model.prior()), log_target), log_target, SAMPLES
        )

    found = map_rows(estimate, batch, 100, 0, "importance")
    model.samples, model.components = 20, 2000
    with torch.no_grad(), noise.use(noise.RowNoise(0, "own", index=batch.index)):
        scores = model.scores(batch)
    own = {name: value.mean().item() for name, value in scores.items()}
    return {"rows": found.bound.tolist(), "effective": found.effective_samples.mean().item(), **own}


def train(options: argparse.Namespace) -> None:
    """All runs that are not in the results yet."""
    be_quiet_and_fast(options.threads)
    path = options.folder / "results.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    done = {tuple(run[key] for key in KEYS) for run in read(path)}
    for seed in options.seeds:
        for steps in options.steps:
            for data in options.data:
                for dim in options.dims:
                    for name in options.models:
                        factor = FACTORS[seed % len(FACTORS)] if options.grid else 1.0
                        key = (name, data, dim, steps, seed)
                        if key in done:
                            continue
                        pl.seed_everything(seed, verbose=False)
                        model, datamodule = build(name, data, dim, factor), DATA[data](options.root)
                        seconds = fit(model, datamodule, steps, options.precision, options.best)
                        run = {**dict(zip(KEYS, key, strict=True)), "factor": factor, "seconds": seconds}
                        run |= evaluate(model, datamodule)
                        with path.open("a") as file:
                            file.write(json.dumps(run) + "\n")
                        print(*key, f"{np.mean(run['rows']):.3f}", f"{seconds:.0f} s", flush=True)


NAMES = {"vae": "VAE", "avb": "AVB"}
KEYS = ("model", "data", "dim", "steps", "seed")


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def mean_and_error(values: list[float]) -> str:
    """Mean and standard error; of one value, the value."""
    tensor = torch.tensor(values, dtype=torch.float64)
    error = f" +- {tensor.std() / math.sqrt(len(values)):.2f}" if len(values) > 1 else ""
    return f"{tensor.mean():.2f}{error}"


def table(folder: Path) -> None:
    """Means and standard errors over seeds, and the differences of the same seeds, row by row."""
    runs: dict[Any, dict[str, dict[int, dict[str, Any]]]] = defaultdict(lambda: defaultdict(dict))
    for run in read(folder / "results.jsonl"):
        runs[run["data"], run["dim"], run["steps"]][run["model"]][run["seed"]] = run
    print("| data | dimensions | steps | seeds | VAE | AVB | AVB - VAE | ELBO of the VAE | of AVB, bounds | time |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for (data, dim, steps), by_model in sorted(runs.items()):
        seeds = sorted(set(by_model["vae"]) & set(by_model["avb"]))
        if not seeds:
            continue
        vae, ours = ([by_model[name][seed] for seed in seeds] for name in ("vae", "avb"))
        theirs, values = ([float(np.mean(run["rows"])) for run in side] for side in (vae, ours))
        difference = [b - a for a, b in zip(theirs, values, strict=True)]
        elbo, lower, upper = (
            np.mean([run[key] for run in side])
            for side, key in ((vae, "elbo"), (ours, "elbo_lower"), (ours, "elbo_upper"))
        )
        seconds = np.mean([b["seconds"] / a["seconds"] for a, b in zip(vae, ours, strict=True)])
        print(
            f"| {data} | {dim} | {steps:,} | {len(seeds)} | {mean_and_error(theirs)} | {mean_and_error(values)} "
            f"| {mean_and_error(difference)} | {elbo:.2f} | {lower:.2f} to {upper:.2f} | {seconds:.2f} |"
        )


def grid_table(folder: Path) -> None:
    """How far runs end below the median, of their data set and of their factor of the learning rates."""
    groups: dict[Any, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in read(folder / "results.jsonl"):
        groups[run["data"], run["dim"], run["model"]][run["factor"]].append(float(np.mean(run["rows"])))
    columns = [f"rates x {factor:.2f}" for factor in FACTORS]
    print(f"| data | dimensions | model | runs | median | worst - median | {' | '.join(columns)} |")
    print("|---" * (6 + len(FACTORS)) + "|")
    for (data, dim, model), by_factor in sorted(groups.items()):
        values = [value for found in by_factor.values() for value in found]
        median = float(np.median(values))
        found = [by_factor[factor] for factor in FACTORS]
        cells = [f"{np.mean(runs):.2f} ({min(runs) - np.median(runs):+.2f})" if runs else "" for runs in found]
        print(
            f"| {data} | {dim} | {NAMES[model]} | {len(values)} | {median:.2f} | {min(values) - median:.2f} "
            f"| {' | '.join(cells)} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("task", choices=["train", "table"])
    parser.add_argument("--root", default="data")
    parser.add_argument("--data", nargs="+", default=[*DATA], choices=[*DATA])
    parser.add_argument("--dims", nargs="+", type=int, default=[2, 8, 32])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", nargs="+", type=int, default=[10000])
    parser.add_argument("--models", nargs="+", default=["vae", "avb"], choices=["vae", "avb"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("runs", "equal_steps"))
    parser.add_argument("--precision", default="bf16-mixed", help="32-true on a processor without bfloat16")
    parser.add_argument("--best", action="store_true", help="keep the weights that are best in validation")
    parser.add_argument("--grid", action="store_true")
    options = parser.parse_args()
    if options.task == "train":
        train(options)
    elif options.grid:
        grid_table(options.folder)
    else:
        table(options.folder)


if __name__ == "__main__":
    main()
