"""The AVB paper's four points: all posteriors, compared by the exact log p(x).

    python benchmarks/four_points.py demo                 # a VAE and AVB, once: what `make demo` runs
    python benchmarks/four_points.py table --seeds 5      # mean and standard error over seeds
    python benchmarks/four_points.py critic               # critic steps 0, 1, 2, 5 against the entropy of q(z|x)

Every run goes through the command line of the library. log p(x) is the quadrature of `lightning_avb.evaluation`;
the best possible value is -log 4 = -1.386.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lightning_avb import cli, load, pictures
from lightning_avb.capabilities import DensityBounds, can
from lightning_avb.evaluation import (
    Decomposition,
    Quadrature,
    decompose,
    decompose_draws,
    has_density,
    log_likelihood_on_grid,
    neighbour_entropy,
    on_grid,
)

CONFIGS = Path(__file__).parent.parent / "configs" / "four_points"
PAPER = {"vae": -1.568, "avb": -1.403}
NAMES = {
    "vae": "VAE",
    "vae_iw": "VAE, importance-weighted",
    "iaf": "VAE, IAF",
    "vae_si": "VAE, semi-implicit",
    "avb": "AVB",
    "avb_ac": "AVB + AC",
    "avb_si": "AVB, semi-implicit",
}


class Run(NamedTuple):
    """A finished run: its folder, its model, the exact log p(x) of the end and of the way, and its wall time."""

    folder: Path
    model: Any
    log_likelihood: float
    curve: list[tuple[int, float]]
    seconds: float

    def seconds_to(self, target: float) -> float:
        """Wall time, start-up and validation included, until log p(x) first reached the target; nan: never."""
        steps = self.curve[-1][0]
        return next((self.seconds * step / steps for step, value in self.curve if value >= target), math.nan)


def fit(name: str, seed: int, *options: str) -> Run:
    """Trains `configs/four_points/NAME.yaml` as a user would."""
    before = set(Path("runs").glob("four_points/*/version_*"))
    sys.argv = [
        "lightning-avb",
        "fit",
        "--config",
        str(CONFIGS / f"{name}.yaml"),
        f"--seed_everything={seed}",
        *options,
    ]
    start = time.perf_counter()
    cli.main()
    seconds = time.perf_counter() - start
    (folder,) = set(Path("runs").glob("four_points/*/version_*")) - before
    with (folder / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("val/log_likelihood")]
    curve = [(int(row["step"]) + 1, float(row["val/log_likelihood"])) for row in rows]
    model = load(folder / "checkpoints" / "last.ckpt")
    exact = log_likelihood_on_grid(model.decoder, model.prior, torch.eye(4), Quadrature.grid(2)).mean().item()
    return Run(folder, model, exact, curve, seconds)


@torch.no_grad()
def draws_of(model: Any, draws: int) -> torch.Tensor:
    """Draws of q(z|x), `(draws, 4, 2)`."""
    return torch.cat([model.encoder(torch.eye(4)).rsample((1000,)) for _ in range(draws // 1000)])


def draw_planes(runs: dict[str, Run], path: Path) -> None:
    """Draws of q(z|x), a colour a data point, a panel a model."""

    def draw(panels: Any) -> None:
        for axes, (name, run) in zip(panels, runs.items(), strict=True):
            z = run.model.encoder(torch.eye(4)).rsample((2000,)).detach()
            for point in range(4):
                axes.scatter(*z[:, point].T, s=2, linewidths=0)
            axes.set(xlim=(-4, 4), ylim=(-4, 4), aspect="equal", xlabel="$z_1$", ylabel="$z_2$")
            axes.set_title(f"{NAMES[name]}: log p(x) = {run.log_likelihood:.3f}")

    pictures.write(pictures.figure(draw, (4.5 * len(runs), 4.6), len(runs)), path)


def draw_curves(runs: dict[str, Run], path: Path) -> None:
    """log p(x) against the seconds of training."""

    def draw(axes: Any) -> None:
        for name, run in runs.items():
            steps, values = zip(*run.curve, strict=True)
            axes.plot([run.seconds * step / steps[-1] for step in steps], values, label=NAMES[name])
        for value, label in (
            (-math.log(4), "best possible"),
            (PAPER["avb"], "paper, AVB"),
            (PAPER["vae"], "paper, VAE"),
        ):
            axes.axhline(value, color="grey", linewidth=0.7, linestyle=":")
            axes.annotate(label, (0, value), color="grey", fontsize=8, va="bottom")
        axes.set(xlabel="seconds", ylabel="log p(x), exact", ylim=(-1.9, -1.35))
        axes.legend(loc="lower right")

    pictures.write(pictures.figure(draw, (6, 4)), path)


def demo(seed: int) -> None:
    """A VAE beside AVB with a semi-implicit posterior."""
    start = time.perf_counter()
    runs = {name: fit(name, seed, "--trainer.enable_model_summary=false") for name in ("vae", "avb_si")}
    planes, curves = Path("runs/four_points/latent_codes.png"), Path("runs/four_points/curves.png")
    draw_planes(runs, planes)
    draw_curves(runs, curves)
    print("\nFour points, exact log p(x) by quadrature (best possible: -log 4 = -1.386)\n")
    print(f"{'':10s}{'here':>10s}{'the paper':>12s}")
    print(f"{'VAE':10s}{runs['vae'].log_likelihood:10.3f}{PAPER['vae']:12.3f}")
    print(f"{'AVB':10s}{runs['avb_si'].log_likelihood:10.3f}{PAPER['avb']:12.3f}")
    print(f"\n{time.perf_counter() - start:.0f} s. Pictures:")
    print(f"  {planes}   the latent code, coloured by data point")
    print(f"  {curves}         log p(x) against time")


def mean_and_error(values: list[float]) -> str:
    """Mean and standard error."""
    tensor = torch.tensor(values, dtype=torch.float64)
    return f"{tensor.mean():.4f} +- {tensor.std() / len(values) ** 0.5:.4f}"


@torch.no_grad()
def parts_of(model: Any, draws: int = 200000) -> Decomposition:
    """What log p(x) is made of, by quadrature for a q with a density, by draws for a black box."""
    grid, x = Quadrature.grid(2), torch.eye(4)
    q = model.encoder(x)
    if has_density(q):
        return decompose(on_grid(q.log_prob, grid, len(x)), model.decoder, model.prior, x, grid)
    return decompose_draws(draws_of(model, draws), model.decoder, model.prior, x, grid)


@torch.no_grad()
def bounds_of(model: Any, draws: int = 150, components: int = 60000) -> tuple[float, float]:
    """Of the ELBO, from below and from above, for a semi-implicit q; nan for others."""
    x = torch.eye(4)
    q = model.encoder(x)
    if not can(q, DensityBounds):
        return math.nan, math.nan
    z, log_q_lower, log_q_upper = q.rsample_and_bounds(draws, components)
    log_joint = model.decoder(z).log_prob(x) + model.prior().log_prob(z)
    return (log_joint - log_q_upper).mean().item(), (log_joint - log_q_lower).mean().item()


def table(seeds: int, models: list[str]) -> None:
    """Mean and standard error over seeds, the time to the paper's figure, and what log p(x) is made of."""
    print(
        "| model | log p(x) | worst | reconstruction error | ELBO | its bounds | KL(q(z), p(z)) | seconds a run "
        "| to -1.403 |\n|---|---|---|---|---|---|---|---|---|",
        flush=True,
    )
    for name in models:
        runs = [fit(name, seed, "--trainer.enable_progress_bar=false") for seed in range(seeds)]
        values, parts = [run.log_likelihood for run in runs], [parts_of(run.model) for run in runs]
        lower, upper = (torch.tensor(side).mean() for side in zip(*(bounds_of(run.model) for run in runs), strict=True))
        reached = [t for run in runs if not math.isnan(t := run.seconds_to(PAPER["avb"]))]
        when = f"{sum(reached) / len(reached):.0f} ({len(reached)} of {seeds})" if reached else "never"
        columns = [
            NAMES[name],
            mean_and_error(values),
            f"{min(values):.4f}",
            mean_and_error([part.reconstruction.mean().item() for part in parts]),
            mean_and_error([part.elbo.mean().item() for part in parts]),
            "" if lower.isnan() else f"{lower:.4f} to {upper:.4f}",
            mean_and_error([part.kl_of_aggregate.item() for part in parts]),
            f"{sum(run.seconds for run in runs) / seeds:.0f}",
            when,
        ]
        print(f"| {' | '.join(columns)} |", flush=True)


def critic(seed: int) -> None:
    """What the number of critic steps does to the entropy of q(z|x)."""
    print(
        "| contrast | critic steps | entropy of q | log p(x) | critic's ELBO estimate |\n|---|---|---|---|---|",
        flush=True,
    )
    for name in ("avb", "avb_ac"):
        for steps in (0, 1, 2, 5):
            options = (f"--model.players.critic.steps={steps}", "--trainer.max_steps=2000")
            run = fit(name, seed, *options, "--trainer.enable_progress_bar=false")
            elbo, entropy = estimate(run.folder), neighbour_entropy(draws_of(run.model, 100000)).mean()
            print(
                f"| {NAMES[name]} | {steps} | {entropy:.3f} | {run.log_likelihood:.4f} | {elbo:.3f} |",
                flush=True,
            )


def estimate(folder: Path) -> float:
    """The last validation's ELBO estimate."""
    with (folder / "metrics.csv").open() as file:
        return [float(row["val/elbo_estimate"]) for row in csv.DictReader(file) if row.get("val/elbo_estimate")][-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["demo", "table", "critic"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--models", nargs="+", default=[*NAMES], choices=[*NAMES], help="of the table")
    options = parser.parse_args()
    if options.task == "table":
        table(options.seeds, options.models)
    else:
        {"demo": demo, "critic": critic}[options.task](options.seed)


if __name__ == "__main__":
    main()
