"""Annealed importance sampling: its speed against the bare decoder, and its gap against its cost.

    python benchmarks/likelihood.py
    python benchmarks/likelihood.py --ckpt_path runs/mnist/vae/version_0/checkpoints/last.ckpt
    python benchmarks/likelihood.py --keep-memory

Without a checkpoint the decoder is a random MLP, 8 -> 300 -> 300 -> 784 Bernoulli, its weights three times the usual
ones, so that logits and posteriors are about as sharp as a trained decoder's; its encoder is fitted to data simulated
from it. With one, decoder, prior and encoder are the checkpoint's.

First table: decoder evaluations (log p(x|z) and its gradient in z, for one pair of chain and row) per second. The bare
side only calls the decoder. The sides alternate; the ratio is taken pair by pair.

Second table: the gap between the lower and the upper bound (bidirectional Monte Carlo) on data simulated from the
model, in nats, against the decoder evaluations that each chain costs. It limits the error of the lower bound there, in
expectation. The importance-weighted bound with as many decoder evaluations, without gradients, stands beside.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from lightning_avb import MLP, BernoulliDecoder, GaussianEncoder, StandardNormal, cli, load, noise
from lightning_avb.evaluation import (
    AnnealingSettings,
    annealed_importance_sampling,
    bidirectional,
    fitted_proposal,
    importance_weighting,
    log_joint,
    refined_proposal,
    schedule,
    simulate,
    tune,
)


class Model(NamedTuple):
    decoder: nn.Module
    prior: nn.Module
    encoder: nn.Module


def random_model(latent_dim: int = 8, pixels: int = 784, steps: int = 600) -> Model:
    """A random decoder, and an encoder that maximises log q(z|x) on what the decoder draws."""
    hidden = partial(MLP, hidden=(300, 300))
    decoder = BernoulliDecoder((pixels,), latent_dim, network=hidden).requires_grad_(False)
    for parameter in decoder.parameters():
        parameter.mul_(3)
    prior, encoder = StandardNormal(latent_dim), GaussianEncoder((pixels,), latent_dim, network=hidden)
    z, x = simulate(decoder, prior, 20000, seed=0)
    optimizer = torch.optim.Adam(encoder.parameters(), 1e-3)
    for _ in range(steps):
        rows = torch.randint(len(x), (200,))
        loss = -encoder(x[rows]).log_prob(z[rows]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return Model(decoder, prior, encoder.requires_grad_(False))


class Rows(NamedTuple):
    """Simulated data and all that the estimators take."""

    z: Tensor
    target: Callable[[Tensor], Tensor]
    q: Distribution
    prior: Distribution
    fit: Distribution

    @classmethod
    def simulated(cls, model: Model, rows: int, seed: int) -> Rows:
        z, x = simulate(model.decoder, model.prior, rows, seed)
        target, q, prior = log_joint(model.decoder, model.prior, x), model.encoder(x), model.prior()
        with noise.use(noise.RowNoise(seed, "fit", index=torch.arange(rows))):
            fit = refined_proposal(fitted_proposal(q, prior), target)
        return cls(z, target, q, prior.expand((rows,)), fit)

    def starts(self) -> dict[str, tuple[Distribution, Tensor | None]]:
        """Where chains start, and in which coordinates they move."""
        return {"prior": (self.prior, None), "fitted": (self.fit, self.fit.scale_tril)}


# Speed.


@torch.enable_grad()
def bare(model: Model, x: Tensor, z: Tensor, count: int) -> None:
    for _ in range(count):
        z = z.detach().requires_grad_()
        torch.autograd.grad(model.decoder(z).log_prob(x).sum(), z)


def speed(model: Model, options: argparse.Namespace) -> None:
    chains, rows = options.chains, options.batch
    data = Rows.simulated(model, rows, seed=2)
    _, x = simulate(model.decoder, model.prior, rows, seed=2)
    print(f"\n{chains} chains x {rows} rows, {options.rounds} rounds\n")
    print("| start | leapfrogs | bare evaluations/s | AIS evaluations/s | ratio (median, min-max) |")
    print("|---|---|---|---|---|")
    for name, (start, scale_tril) in data.starts().items():
        for leapfrogs in (1, 2, 5):
            steps = 1 + 20 // leapfrogs
            settings = AnnealingSettings(schedule(steps), (0.1,) * (steps + 1), leapfrogs)
            times = []
            for _ in range(options.rounds + 1):
                begin = time.perf_counter()
                bare(model, x, data.fit.sample((chains,)), settings.evaluations)
                middle = time.perf_counter()
                with noise.use(noise.RowNoise(0, "ais", index=torch.arange(rows))):
                    annealed_importance_sampling(start, data.target, settings, chains, scale_tril)
                times.append((middle - begin, time.perf_counter() - middle))
            work = settings.evaluations * chains * rows
            theirs, ours = (work / statistics.median(column) for column in zip(*times[1:], strict=True))
            ratios = [a / b for a, b in times[1:]]
            spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
            print(f"| {name} | {leapfrogs} | {theirs:,.0f} | {ours:,.0f} | {spread} |", flush=True)


# Gap.


def gaps(model: Model, options: argparse.Namespace) -> None:
    data, pilot = Rows.simulated(model, options.rows, seed=0), Rows.simulated(model, 16, seed=1)
    index = torch.arange(options.rows)
    print(f"\n{options.rows} simulated rows, {options.chains} chains, nats; +- is the standard error over rows\n")
    print("| start | schedule | evaluations a chain | lower bound | upper bound | gap |\n|---|---|---|---|---|---|")
    for evaluations in options.evaluations:
        for name, (start, scale_tril) in data.starts().items():
            for kind in ("linear", "sigmoid"):
                betas = schedule(evaluations // options.leapfrogs, kind)
                pilot_start, pilot_tril = pilot.starts()[name]
                with noise.use(noise.RowNoise(0, "tune", index=torch.arange(16))):
                    settings = tune(pilot_start, pilot.target, betas, options.leapfrogs, scale_tril=pilot_tril)
                with noise.use(noise.RowNoise(0, "bdmc", index=index)):
                    found = bidirectional(start, data.target, data.z, settings, options.chains, scale_tril)
                lower, upper, gap = (f"{mean:.3f} +- {error:.3f}" for mean, error in found.summary().values())
                print(f"| {name} | {kind} | {settings.evaluations} | {lower} | {upper} | {gap} |", flush=True)
    samples = options.chains * max(options.evaluations)
    print("\n| importance weighting with | samples | bound | effective samples |\n|---|---|---|---|")
    for name, proposal in {"the encoder's q": data.q, "the fitted proposal": data.fit}.items():
        if hasattr(proposal, "rsample_and_log_prob"):
            with noise.use(noise.RowNoise(0, "iw", index=index)):
                found = importance_weighting(proposal, data.target, samples)
            bound, effective = found.bound, found.effective_samples
            print(
                f"| {name} | {samples} | {bound.mean():.3f} | {effective.median():.0f} (median of rows) |", flush=True
            )


# The command.


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--ckpt_path", help="a checkpoint; default: a random decoder")
    parser.add_argument("--chains", type=int, default=16, help="of every row; default: 16")
    parser.add_argument("--rows", type=int, default=32, help="simulated rows of the gap; default: 32")
    parser.add_argument("--evaluations", type=int, nargs="+", default=[50, 100, 200, 400], help="of a chain")
    parser.add_argument("--leapfrogs", type=int, default=2, help="of a transition; default: 2")
    parser.add_argument("--batch", type=int, default=64, help="rows of the speed; default: 64")
    parser.add_argument("--rounds", type=int, default=7, help="of the speed; default: 7")
    parser.add_argument("--keep-memory", action="store_true", help="keep freed memory, as the command line does")
    parser.add_argument("--threads", type=int, help="of torch; default: torch's choice")
    return parser.parse_args()


@torch.no_grad()
def main() -> None:
    options = parse()
    if options.keep_memory:
        cli.keep_freed_memory()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads, float32")
    if options.ckpt_path:
        trained = load(options.ckpt_path).requires_grad_(False)
        model = Model(trained.decoder, trained.prior, trained.encoder)
    else:
        with torch.enable_grad():
            model = random_model()
    speed(model, options)
    gaps(model, options)


if __name__ == "__main__":
    main()
