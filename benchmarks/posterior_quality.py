"""How near q(z|x) is to the posterior p(z|x) of its own decoder, on MNIST: VAE, IAF, semi-implicit VAE, AVB.

    python benchmarks/convergence.py train --root DATA --jobs vae-2-10000x1 avb-2-10000x1
    python benchmarks/posterior_quality.py --root DATA --jobs vae-2-10000x1 avb-2-10000x1

For the jobs whose weights `convergence.py` has left in FOLDER it prints, on test images,

* KL(q(z|x), p(z|x)) = log p(x) - ELBO(x): log p(x) by quadrature in 2 dimensions, by annealing in others; the ELBO from
  the model, for a semi-implicit q its lower bound from 2,000 components;
* coverage: x is simulated from z ~ p(z); how often each coordinate of z lies in the central 90 % of the draws of
  q(z|x);
* imputation: the right half of an image is hidden, filled by pseudo-Gibbs sampling (Rezende et al. 2014: z from q, the
  hidden pixels from p(x|z), 30 times), and the true hidden pixels are scored by the average over 20 chains,
  log 1/20 sum p(hidden|z); the same with draws of z from the exact posterior given the visible half, by annealing;

and in 2 dimensions draws FOLDER/posteriors.png: the exact posterior of twelve images, and draws of q.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from convergence import Job, lower_bound, own_bounds, test_rows
from equal_steps import be_quiet_and_fast, mean_and_error
from torch import Tensor

import lightning_avb as avb
from lightning_avb import noise, pictures
from lightning_avb.evaluation import (
    Quadrature,
    calibration_ranks,
    log_joint,
    log_likelihood_on_grid,
    on_grid,
    simulate,
)
from lightning_avb.evaluation.restoration import posterior_draws, visible
from lightning_avb.inference import log_prob
from lightning_avb.objectives import log_mean_exp


def load(folder: Path, job: Job) -> Any:
    """The first copy of a job."""
    model = job.make(0).eval()
    model.load_state_dict(torch.load(folder / job.file(0)))
    return model


def log_likelihood(model: Any, batch: avb.Batch) -> Tensor:
    """log p(x) of every row."""
    if model.latent_dim <= 2:
        grid = Quadrature.grid(model.latent_dim, limit=5.0, cells=450)
        return log_likelihood_on_grid(model.decoder, model.prior, batch.x, grid)
    return log_prob(model, batch, 8, annealing=300).value


@torch.no_grad()
def coverage(model: Any, simulations: int = 1000, draws: int = 199) -> float:
    """The share of true coordinates within the central 90 % of the draws of q."""
    z, x = simulate(model.decoder, model.prior, simulations, 0)
    ranks = calibration_ranks(z, model.encoder(x).rsample((draws,)))
    return ((ranks >= 0.05 * draws) & (ranks <= 0.95 * draws)).float().mean().item()


@torch.no_grad()
def imputation(model: Any, x: Tensor, chains: int = 20, rounds: int = 30) -> tuple[Tensor, Tensor]:
    """log p(hidden half) of every row, by pseudo-Gibbs sampling with q and by exact draws."""
    mask = visible("right", x.shape[1:]).expand_as(x)

    def hidden(z: Tensor) -> Tensor:
        return torch.where(mask, 0.0, model.decoder(z).base_dist.log_prob(x)).flatten(-3).sum(-1)

    def seen(z: Tensor) -> Tensor:
        return torch.where(mask, model.decoder(z).base_dist.log_prob(x), 0.0).flatten(-3).sum(-1)

    scores = []
    for _ in range(chains):
        filled = torch.where(mask, x, torch.bernoulli(torch.full_like(x, 0.13)))
        for _ in range(rounds):
            z = model.encoder(filled).rsample((1,))[0]
            filled = torch.where(mask, x, model.decoder(z).sample())
        scores.append(hidden(z))
    exact = posterior_draws(model.prior, seen, len(x), chains)
    return log_mean_exp(torch.stack(scores)), log_mean_exp(hidden(exact))


def report(jobs: list[Job], folder: Path, batch: avb.Batch) -> None:
    print("| dimensions | model | log p(x) | KL(q, p(z\\|x)) | of the VAE's | coverage of 90 % | imputation | exact |")
    print("|---|---|---|---|---|---|---|---|")
    baseline: dict[int, float] = {}
    for job in jobs:
        model = load(folder, job)
        with noise.torch_seeded(0, "quality"):
            log_p = log_likelihood(model, batch)
            gap = log_p - lower_bound(own_bounds(model, batch, 50, 2000))
            by_q, exact = imputation(model, batch.x)
            covered = coverage(model)
        if job.model == "vae":
            baseline[job.dim] = gap.mean().item()
        columns = [mean_and_error(values.tolist()) for values in (log_p, gap, by_q, exact)]
        columns[2:2] = [f"{gap.mean() / baseline.get(job.dim, math.nan):.2f}", f"{covered:.3f}"]
        print(f"| {job.dim} | {job.model} | {' | '.join(columns)} |", flush=True)


@torch.no_grad()
def draw(jobs: list[Job], folder: Path, x: Tensor) -> None:
    """A row a model of two dimensions, a panel an image: the exact posterior in grey, draws of q on top."""
    grid, strips = Quadrature.grid(2, limit=5.0, cells=500), []
    for number, job in enumerate(jobs):
        model, name, colour = load(folder, job), job.model, f"C{number}"
        exact = on_grid(log_joint(model.decoder, model.prior, x), grid, len(x)).softmax(0).view(500, 500, -1)
        z = model.encoder(x).rsample((300,))

        def fill(panels: Any, name: str = name, colour: str = colour, exact: Tensor = exact, z: Tensor = z) -> None:
            for i, axes in enumerate(panels):
                axes.imshow(exact[..., i].sqrt().T, origin="lower", extent=(-5, 5, -5, 5), cmap="Greys")
                axes.scatter(*z[:, i].T, s=2, linewidths=0, color=colour)
                (a, b) = grid.points[exact[..., i].argmax()].tolist()
                axes.set(xlim=(a - 0.6, a + 0.6), ylim=(b - 0.6, b + 0.6), xticks=[], yticks=[])
                axes.set_title(name, fontsize=8)

        strips.append(pictures.figure(fill, (1.2 * len(x), 1.4), len(x)))
    pictures.write(torch.cat(strips, 1), folder / "posteriors.png")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--root", default="data")
    parser.add_argument("--jobs", nargs="+", default=["vae-2-10000x1", "avb-2-10000x1"], help="see convergence.py")
    parser.add_argument("--rows", type=int, default=100, help="rows of the test set")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("runs", "convergence"))
    options = parser.parse_args()
    be_quiet_and_fast(options.threads)
    torch.distributions.Distribution.set_default_validate_args(False)
    jobs, batch = [*map(Job.parse, options.jobs)], test_rows(options.root, options.rows)
    report(jobs, options.folder, batch)
    if plane := [job for job in jobs if job.dim == 2]:
        draw(plane, options.folder, batch.x[:12])


if __name__ == "__main__":
    main()
