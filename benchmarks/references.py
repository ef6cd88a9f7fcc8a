"""Draws of the waveform posterior, whose published draws are approximate, by a long Hamiltonian Monte Carlo.

    python benchmarks/references.py --root DATA
    python benchmarks/references.py --root DATA --check

Writes FOLDER/waveform.npz, one array per parameter, and prints split R-hat and the effective number of draws of every
coordinate. `--check` runs the same sampler on the eight schools and on two models of posteriordb instead, and
compares it with their exact or published draws.

The sampler: many parallel chains from N(0, I), with a new momentum and leapfrog step size at every transition, in
coordinates in which the warm-up's draws have the identity as covariance. Step size, number of steps and coordinates are
fixed after the warm-up. The step sizes are spread widely: with long steps only, a chain that starts in a far tail,
where the density is steep, would stay there.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_avb import noise
from lightning_avb.targets import (
    EightSchools,
    EightSchoolsNoncentered,
    Garch,
    LogisticRegression,
    Target,
)

CHECKED = {
    "eight_schools_noncentered": EightSchoolsNoncentered,
    "garch11": Garch,
}

LENGTH = 1.5
"""Of a trajectory in coordinates with unit covariance: about a quarter of a Gaussian's orbit, pi / 2."""


class Run(NamedTuple):
    """Draws `(draws, chains, dim)` in unconstrained coordinates, and the share of accepted steps."""

    z: Tensor
    acceptance: float


def gradient(target: Target, z: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        value = target.log_prob(z)
        return value.detach(), torch.autograd.grad(value.sum(), z)[0]


@torch.no_grad()
def step(
    target: Target, z: Tensor, scale_tril: Tensor, size: float, leapfrogs: int, random: torch.Generator
) -> tuple[Tensor, Tensor]:
    """One Metropolis step of every chain, and the probabilities of acceptance `(chains,)`."""
    velocity = torch.randn(z.shape, generator=random, dtype=z.dtype)
    length = size * (0.1 + torch.rand(len(z), 1, generator=random, dtype=z.dtype))
    value, slope = gradient(target, z)
    energy, end = 0.5 * velocity.square().sum(-1) - value, z
    for _ in range(leapfrogs):
        velocity = velocity + 0.5 * length * slope @ scale_tril
        end = end + length * velocity @ scale_tril.T
        value, slope = gradient(target, end)
        velocity = velocity + 0.5 * length * slope @ scale_tril
    change = energy - (0.5 * velocity.square().sum(-1) - value)
    probability = change.nan_to_num(-math.inf, neginf=-math.inf).exp().clamp_max(1)
    accepted = torch.rand(len(z), generator=random, dtype=z.dtype) < probability
    return torch.where(accepted.unsqueeze(-1), end, z), probability


def sample(target: Target, draws: int, chains: int, thinning: int, seed: int, stages: int = 12) -> Run:
    """So many draws of every chain, one in `thinning` steps kept, after a warm-up of `stages` times 50 steps."""
    target = target.double()
    random = torch.Generator().manual_seed(noise.mixed_seed(seed, "hmc"))
    z = torch.randn(chains, target.support.dim, generator=random, dtype=torch.float64)
    scale_tril, log_size = torch.eye(z.shape[1], dtype=torch.float64), math.log(0.1)
    for _ in range(stages):
        leapfrogs = min(max(round(LENGTH * math.exp(-log_size)), 2), 32)
        for i in range(50):
            z, probability = step(target, z, scale_tril, math.exp(log_size), leapfrogs, random)
            log_size += (probability.mean().item() - 0.9) / math.sqrt(1 + i)
        scale_tril = torch.linalg.cholesky(z.T.cov() + 1e-9 * torch.eye(z.shape[1]))
    leapfrogs = min(max(round(LENGTH * math.exp(-log_size)), 2), 32)
    kept, acceptance = [], 0.0
    for i in range(draws * thinning):
        z, probability = step(target, z, scale_tril, math.exp(log_size), leapfrogs, random)
        acceptance += probability.mean().item() / (draws * thinning)
        if i % thinning == thinning - 1:
            kept.append(z)
    return Run(torch.stack(kept), acceptance)


def split_r_hat(draws: Tensor) -> Tensor:
    """Of `(draws, chains, dim)`, `(dim,)` (Gelman et al. 2013, section 11.4)."""
    half = len(draws) // 2
    parts = torch.cat([draws[:half], draws[half : 2 * half]], 1)
    within, between = parts.var(0).mean(0), parts.mean(0).var(0)
    return ((half - 1) / half + between / within).sqrt()


def effective_draws(draws: Tensor) -> Tensor:
    """Of `(draws, chains, dim)`, `(dim,)`: Geyer's initial positive sequence over all chains (Vehtari et al. 2021)."""
    count, chains, dim = draws.shape
    within, between = draws.var(0).mean(0), draws.mean(0).var(0)
    spectrum = torch.fft.rfft(draws - draws.mean(0), 2 * count, 0)
    covariance = torch.fft.irfft(spectrum.abs().square(), 2 * count, 0)[:count].mean(1) / count
    total = within * (count - 1) / count + between
    correlation = 1 - (within * (count - 1) / count - covariance) / total
    pairs = correlation[: count // 2 * 2].view(-1, 2, dim).sum(1)
    pairs = torch.where((pairs < 0).cummax(0).values, 0.0, pairs).cummin(0).values
    return chains * count / (2 * pairs.sum(0) - 1)


def report(name: str, target: Target, run: Run, seconds: float) -> None:
    draws, chains, _ = run.z.shape
    print(f"{name}: {chains} chains of {draws} draws, acceptance {run.acceptance:.2f}, {seconds:.0f} s")
    print("  coordinate    mean       sd         split R-hat  effective draws")
    flat = run.z.flatten(0, 1)
    columns = zip(flat.mean(0), flat.std(0), split_r_hat(run.z), effective_draws(run.z), strict=True)
    for coordinate, (mean, deviation, r_hat, effective) in zip(target.support.coordinates, columns, strict=True):
        print(f"  {coordinate:12s} {mean:10.4f} {deviation:10.4f}  {r_hat:11.5f}  {effective:14.0f}")


def write(file: Path, target: Target, z: Tensor) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(file, **{name: value.numpy() for name, value in target.by_name(z).items()})
    print(f"  {file}: {len(z)} draws")


def beside_known(target: Target, run: Run) -> None:
    """Means and standard deviations of the named parameters against the target's own draws."""
    ours, known = target.by_name(run.z.flatten(0, 1)), target.reference(10000)
    assert known is not None
    print("  parameter     (mean - known) / known sd                sd / known sd; standard errors are about 0.01")
    for name, value in known.items():
        shift = (ours[name].mean(0) - value.mean(0)) / value.std(0)
        ratio = ours[name].std(0) / value.std(0)
        print(f"  {name:12s}  {_plain(shift):40s} {_plain(ratio)}")


def _plain(values: Tensor) -> str:
    return " ".join(f"{value:.3f}" for value in values.flatten().tolist())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--root", type=Path, required=True, help="holds waveform/waveform.npz, posteriordb/NAME/data.json"
    )
    parser.add_argument("--folder", type=Path, default=Path("runs", "references"))
    parser.add_argument("--check", action="store_true", help="compare the sampler with what is known")
    parser.add_argument("--draws", type=int, default=80, help="kept of every chain")
    parser.add_argument("--chains", type=int, default=256)
    parser.add_argument("--thinning", type=int, default=40, help="steps for one draw that is kept")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_default_dtype(torch.float64)

    def run(name: str, target: Target) -> Run:
        begin = time.perf_counter()
        found = sample(target, arguments.draws, arguments.chains, arguments.thinning, arguments.seed)
        report(name, target, found, time.perf_counter() - begin)
        return found

    if arguments.check:
        beside_known(EightSchools(), run("eight_schools", EightSchools()))
        for name, kind in CHECKED.items():
            target = kind(arguments.root / "posteriordb" / name / "data.json")
            beside_known(target, run(name, target))
    else:
        waveform = LogisticRegression(arguments.root / "waveform" / "waveform.npz")
        write(arguments.folder / "waveform.npz", waveform, run("waveform", waveform).z.flatten(0, 1))


if __name__ == "__main__":
    main()
