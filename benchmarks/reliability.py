"""How far estimates from weights are too low when few samples are effective: see `evaluation/reliability.py`.

    python benchmarks/reliability.py

First table: log p(x) minus the importance-weighted bound, in nats, against the bound's own effective samples. The
models are linear-Gaussian ones of 2 to 50 latent dimensions, whose log p(x) is known, and random decoders (MLP, 2, 8
and 20 dimensions to 100 bits), whose log p(x) is from a grid or from annealing with 400 steps and 16 chains. The
proposals are Gaussians and Student-t's around the posterior, shifted and stretched in many ways; 100, 1,000 or 5,000
samples.

Second table: the same of annealing from the prior for a few temperatures and chains, with its effective chains
(harmonic mean over rows), its acceptance and the gap of bidirectional Monte Carlo. `x 2.5`: with step sizes that much
too large.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from lightning_avb import MLP, BernoulliDecoder, StandardNormal
from lightning_avb.distributions import DiagonalNormal
from lightning_avb.evaluation import (
    DefensiveStudent,
    Quadrature,
    annealed_importance_sampling,
    bidirectional,
    fitted_proposal,
    importance_weighting,
    log_joint,
    log_likelihood_on_grid,
    refined_proposal,
    schedule,
    simulate,
    tune,
)
from lightning_avb.evaluation.reliability import harmonic_mean

EDGES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 5001)


class Case(NamedTuple):
    """Rows of a model, and what is known of them."""

    name: str
    z: Tensor
    target: Any
    truth: Tensor
    mean: Tensor
    covariance: Tensor


def linear(dim: int, rows: int) -> Case:
    torch.manual_seed(dim)
    weight, scale = 1.5 * torch.randn(2 * dim, dim) / dim**0.5, 0.7
    prior = StandardNormal(dim)

    def decoder(z: Tensor) -> torch.distributions.Distribution:
        mean = z @ weight.T
        return DiagonalNormal(mean, torch.full_like(mean, scale))

    z, x = simulate(decoder, prior, rows, 0)
    covariance = torch.linalg.inv(torch.eye(dim) + weight.T @ weight / scale**2)
    marginal = MultivariateNormal(torch.zeros(2 * dim), weight @ weight.T + scale**2 * torch.eye(2 * dim))
    mean = x @ weight @ covariance / scale**2
    target = log_joint(decoder, prior, x)
    return Case(f"linear, {dim}", z, target, marginal.log_prob(x), mean, covariance.expand(rows, dim, dim))


def deep(dim: int, rows: int) -> Case:
    torch.manual_seed(dim)
    decoder = BernoulliDecoder((100,), dim, network=partial(MLP, hidden=(50, 50))).requires_grad_(False)
    for parameter in decoder.parameters():
        parameter.mul_(3)
    prior = StandardNormal(dim)
    z, x = simulate(decoder, prior, rows, 0)
    target = log_joint(decoder, prior, x)
    near = DiagonalNormal(z, torch.full_like(z, 0.3))
    fit = refined_proposal(fitted_proposal(near, prior, inflate=1.0), target, rounds=4)
    if dim <= 2:
        truth = log_likelihood_on_grid(decoder, prior, x, Quadrature.grid(dim))
    else:
        settings = tune(fit, target, schedule(400), scale_tril=fit.scale_tril)
        truth = annealed_importance_sampling(fit, target, settings, 16, fit.scale_tril).bound
    return Case(f"deep, {dim}", z, target, truth, fit.loc, fit.covariance)


def weighted(case: Case) -> Iterator[tuple[Tensor, Tensor]]:
    """Effective samples and what the bound lacks, for many proposals."""
    rows, dim = case.mean.shape
    prior, tril = StandardNormal(dim)(), torch.linalg.cholesky(case.covariance)
    for by, scale, samples in itertools.product((0.0, 0.5, 1.0, 2.0), (0.7, 0.85, 1.0, 1.3), (100, 1000, 5000)):
        shift = by / dim**0.5 * torch.einsum("bij,bj->bi", tril, torch.randn(rows, dim))
        for df, share in ((None, 0.0), (5, 0.05)):
            covariance = scale**2 * case.covariance
            proposal = DefensiveStudent(case.mean + shift, covariance, prior, df, inflate=1.0, share=share)
            found = importance_weighting(proposal, case.target, samples)
            yield found.effective_samples, case.truth - found.bound


def importance(cases: list[Case]) -> None:
    print("| model, dimensions | effective samples | rows | lack, mean | the worst 5 % lack |\n|---|---|---|---|---|")
    everything = []
    for case in cases:
        everything.append([torch.cat(column) for column in zip(*weighted(case), strict=True)])
        report(case.name, *everything[-1])
    report("all", *(torch.cat(column) for column in zip(*everything, strict=True)))


def report(name: str, effective: Tensor, lack: Tensor) -> None:
    for low, high in itertools.pairwise(EDGES):
        inside = lack[(effective >= low) & (effective < high)]
        if len(inside) >= 30:
            worst = inside.sort().values[-max(1, len(inside) // 20)]
            print(f"| {name} | {low} to {high} | {len(inside)} | {inside.mean():.3f} | {worst:.2f} |", flush=True)


def annealing(cases: list[Case]) -> None:
    print("\n| model, dimensions | steps | chains | effective | acceptance | lack, mean | gap |")
    print("|---|---|---|---|---|---|---|")
    for case in cases:
        rows, dim = case.z.shape
        start = StandardNormal(dim)().expand((rows,))
        for steps, factor in ((5, 1.0), (20, 1.0), (100, 1.0), (100, 2.5)):
            settings = tune(start, case.target, schedule(steps), transitions=8)
            settings = settings._replace(step_sizes=tuple(factor * step for step in settings.step_sizes))
            for chains in (4, 8, 16, 32):
                found = annealed_importance_sampling(start, case.target, settings, chains)
                both = bidirectional(start, case.target, case.z, settings, chains)
                gap, error = both.summary()["gap"]
                lack = case.truth - found.bound
                print(
                    f"| {case.name} | {steps}{'' if factor == 1 else f' x {factor}'} | {chains} "
                    f"| {harmonic_mean(found.effective_chains):.1f} | {found.acceptance.mean():.2f} "
                    f"| {lack.mean():.2f} +- {lack.std() / rows**0.5:.2f} | {gap:.2f} +- {error:.2f} |",
                    flush=True,
                )


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--rows", type=int, default=60, help="of every model; default: 60")
    rows = parser.parse_args().rows
    importance([*(linear(dim, rows) for dim in (2, 5, 10, 20, 50)), *(deep(dim, rows) for dim in (2, 8, 20))])
    annealing([linear(2, rows), linear(10, rows), linear(50, rows), deep(2, rows)])


if __name__ == "__main__":
    main()
