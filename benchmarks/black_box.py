"""Posteriors of log-densities: this library's sampler, Pyro's guides, its SVGD, and the black box with a critic.

    python benchmarks/black_box.py --root DATA [--targets ring torus] [--methods ours iaf] [--seeds 5] [--draws 10000]

Every run adds one line to OUTPUT (runs/black_box.jsonl), and runs that are there are not repeated; a table of means and
standard errors over seeds is printed at the end. C2ST is against reference draws of the target. Pyro's guides are
trained by its own SVI, 5000 steps of Adam at 0.01 with cosine decay and 8 particles; SVGD has 200 particles, and no
more than these are compared. Other methods: ours without one of its parts, `no_bridge` and `no_coordinates`; `flow`,
an inverse autoregressive flow as our sampler; a black box against a critic, `critic`, `critic_steps` and
`critic_penalty`.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

import lightning_avb as avb
from datamodules import NoData
from lightning_avb import noise, targets
from lightning_avb.cli import keep_freed_memory
from lightning_avb.draws import to_table
from lightning_avb.evaluation import diagnose_draws, resample_posterior
from lightning_avb.models.posterior import PosteriorPlayers, SamplerAdam
from lightning_avb.reports.checks import compare
from lightning_avb.support import Parameters

POSTERIORDB = {
    "eight_schools_noncentered": ("eight_schools_noncentered", targets.EightSchoolsNoncentered),
    "kidscore": ("kidscore_momhsiq", targets.KidScore),
    "garch": ("garch11", targets.Garch),
    "low_dim_gauss_mix": ("low_dim_gauss_mix", targets.LowDimGaussMix),
}
STEPS = {
    "gaussian": 2000,
    "normal_sample": 2000,
    "kidscore": 2000,
    "low_dim_gauss_mix": 2000,
    "eight_schools": 4000,
    "funnel": 4000,
}
"""As in configs/posteriors; 3000 where nothing is said."""


def recipes(root: Path) -> dict[str, Any]:
    """Name -> recipe of a target, as the configurations name them."""
    return {
        "gaussian": targets.Gaussian,
        "normal_sample": targets.NormalSample,
        "rosenbrock": targets.Rosenbrock,
        "ring": targets.Ring,
        "torus": targets.Torus,
        "mixture": targets.Mixture,
        "far_modes": partial(targets.Mixture, means=[[-3.0, -3.0], [3.0, 3.0]], scale=1.0, weights=[0.3, 0.7]),
        "funnel": targets.Funnel,
        "grid": partial(targets.Mixture, means=targets.grid_means(), scale=0.3),
        "student": targets.StudentT,
        "eight_schools": targets.EightSchools,
        **{
            name: partial(cls, path=str(root / "posteriordb" / folder / "data.json"))
            for name, (folder, cls) in POSTERIORDB.items()
        },
        "waveform": partial(targets.LogisticRegression, path=str(root / "waveform" / "waveform.npz")),
    }


def reference(name: str, target: targets.Target, draws: int, folder: Path) -> Parameters:
    """Reference draws: the target's own, or those that benchmarks/references.py wrote."""
    found = target.reference(draws)
    if found is not None:
        return found
    import numpy as np

    with np.load(folder / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key])[:draws] for key in file.files}


# The methods: each gives z `(draws, dim)`.


def ours(target: Any, name: str, seed: int, draws: int, **options: Any) -> Tensor:
    return trained(target, name, seed, **options).draw_z(draws).squeeze(1)


def resampled(target: Any, name: str, seed: int, draws: int) -> Tensor:
    found = resample_posterior(trained(target, name, seed), draws, seed=seed)
    print(f"resampled {name}, seed {seed}: {found.effective.item():.0%} effective, k {found.k.item():.2f}", flush=True)
    return found.z.squeeze(1)


@lru_cache(maxsize=1)
def trained(target: Any, name: str, seed: int, **options: Any) -> avb.Posterior:
    pl.seed_everything(seed)
    model = avb.Posterior(target, **options)
    trainer = pl.Trainer(
        max_steps=STEPS.get(name, 3000),
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    trainer.fit(model, NoData())
    return model.eval()


def pyro_guide(kind: str, target: Any, name: str, seed: int, draws: int, steps: int = 5000) -> Tensor:
    import pyro
    from pyro.distributions import Normal
    from pyro.infer import SVI, Trace_ELBO, autoguide

    target, dim = target(), target().support.dim
    pyro.clear_param_store()
    pyro.set_rng_seed(seed)

    def model() -> None:
        # The log-density enters as a factor, of which the standard normal that Pyro needs a site for is taken off.
        z = pyro.sample("z", Normal(torch.zeros(dim), 1.0).to_event(1))
        base = Normal(torch.zeros(dim), 1.0).to_event(1).log_prob(z)
        pyro.factor("target", target.log_prob(z) - base)

    guides = {
        "mean_field": autoguide.AutoNormal,
        "full_rank": autoguide.AutoMultivariateNormal,
        "iaf": partial(autoguide.AutoIAFNormal, hidden_dim=[64, 64], num_transforms=3),
    }
    guide = guides[kind](model)
    schedule = pyro.optim.CosineAnnealingLR({"optimizer": torch.optim.Adam, "optim_args": {"lr": 1e-2}, "T_max": steps})
    pieces = SVI(model, guide, schedule, Trace_ELBO(num_particles=8, vectorize_particles=True))
    for _ in range(steps):
        pieces.step()
        schedule.step()
    with torch.no_grad():
        if kind == "mean_field":
            return guide.locs.z + guide.scales.z * torch.randn(draws, dim)
        return guide.get_posterior().sample((draws,))


def svgd(target: Any, name: str, seed: int, draws: int, particles: int = 200, steps: int = 2000) -> Tensor:
    """Stein variational gradient descent (Liu & Wang 2016) with the kernel and median rule of Pyro's SVGD."""
    import pyro
    from pyro.distributions import Normal
    from pyro.infer import SVGD, RBFSteinKernel

    target, dim = target(), target().support.dim
    pyro.clear_param_store()
    pyro.set_rng_seed(seed)

    def model() -> None:
        z = pyro.sample("z", Normal(torch.zeros(dim), 1.0).to_event(1))
        pyro.factor("target", target.log_prob(z) - Normal(torch.zeros(dim), 1.0).to_event(1).log_prob(z))

    stein = SVGD(model, RBFSteinKernel(), pyro.optim.Adam({"lr": 5e-2}), particles, 0)
    for _ in range(steps):
        stein.step()
    return stein.get_named_particles()["z"].detach().reshape(particles, dim)


NETWORK = partial(avb.MLP, hidden=(64, 64))
black_box = partial(
    ours,
    sampler=partial(avb.NoiseInjectionEncoder, hidden=(64, 64)),
    critic=partial(avb.ResidualCritic, network=NETWORK),
)

METHODS: dict[str, Any] = {
    "ours": ours,
    "resampled": resampled,
    "mean_field": partial(pyro_guide, "mean_field"),
    "full_rank": partial(pyro_guide, "full_rank"),
    "iaf": partial(pyro_guide, "iaf"),
    "svgd": svgd,
    "no_bridge": partial(ours, warmup=0),
    "no_coordinates": partial(ours, standardise=False),
    "flow": partial(ours, sampler=partial(avb.FlowEncoder, network=NETWORK)),
    "critic": black_box,
    "critic_steps": partial(black_box, players=PosteriorPlayers(critic=avb.Player(SamplerAdam, avb.Cosine, steps=3))),
    "critic_penalty": partial(black_box, gradient_penalty=0.1),
}


def run(method: str, name: str, recipe: Any, seed: int, draws: int, folder: Path, folds: int) -> dict[str, Any]:
    target = recipe()
    begin = time.perf_counter()
    try:
        z = METHODS[method](recipe, name, seed, draws)
    except Exception as error:  # a method that fails on a target is a finding, not the end of the table
        return {"failed": f"{type(error).__name__}: {error}", "seconds": time.perf_counter() - begin}
    seconds = time.perf_counter() - begin
    finite = torch.isfinite(z).all(-1)
    line: dict[str, Any] = {"seconds": seconds, "not_finite": int((~finite).sum())}
    z = z[finite]
    drawn, known = target.by_name(z), reference(name, target, 10000, folder)
    usable = torch.isfinite(to_table(drawn)[0]).all(-1)
    if usable.sum() < 20:
        return {**line, "failed": "no finite draws"}
    drawn = {key: value[usable] for key, value in drawn.items()}
    line |= {figure.name: figure.value for figure in compare(target, drawn, known, folds)}
    if name == "far_modes":
        line["P(lower mode)"] = (drawn["z"].sum(-1) < 0).double().mean().item()
    if name in ("grid", "funnel", "student"):
        line |= of_tails_and_modes(name, target, z)
    if name == "eight_schools":
        line["P(tau > 0)"] = (drawn["tau"] > 0).double().mean().item()
        line["P(tau eta_0 > 0)"] = (drawn["tau"] * drawn["eta"][:, 0] > 0).double().mean().item()
        line["reference P(tau eta_0 > 0)"] = (known["tau"] * known["eta"][:, 0] > 0).double().mean().item()
    if method == "ours" and seed == 0:
        with noise.use(noise.seeded(seed, "diagnosis")):
            found = diagnose_draws(z, target.log_prob, seed=seed)
        line |= {"k": found.k, "evidence bound": found.evidence_bound, "log evidence": found.log_evidence}
    return line


def of_tails_and_modes(name: str, target: targets.Target, z: Tensor) -> dict[str, Any]:
    """What a classifier hardly sees: shares of modes, and how far tails reach beside the truth."""
    if name == "grid":
        from sklearn.ensemble import HistGradientBoostingClassifier
        from sklearn.model_selection import StratifiedKFold, cross_val_score

        known = target.reference(len(z))["z"]  # type: ignore[index]
        distance = torch.cdist(z, target.means)
        shares = distance.argmin(1).bincount(minlength=25) / len(z)
        deviation = (z - target.means[distance.argmin(1)]).std().item()
        x, y = torch.cat([z, known]).numpy(), torch.arange(2).repeat_interleave(len(z)).numpy()
        folds = StratifiedKFold(5, shuffle=True, random_state=0)
        boosting = cross_val_score(HistGradientBoostingClassifier(random_state=0), x, y, cv=folds).mean()
        return {
            "boosting": float(boosting),
            "shares": [shares.min().item(), shares.max().item()],
            "deviation": deviation,
        }
    if name == "funnel":  # N(0, 3^2), of which the 0.5 % and the 99.5 % quantiles are known
        truth = target.scale * torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor([0.005, 0.995]))
        return {"quantiles of v": (z[:, 0].quantile(torch.tensor([0.005, 0.995])) / truth).tolist()}
    radii = [of.norm(dim=1).quantile(0.999).item() for of in (z, target.reference(1_000_000)["z"])]  # type: ignore[index]
    return {"0.999 radius": radii[0] / radii[1]}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=Path, default=Path("data"))
    parser.add_argument("--references", type=Path, default=Path("runs/references"))
    parser.add_argument("--output", type=Path, default=Path("runs/black_box.jsonl"))
    parser.add_argument("--targets", nargs="*")
    parser.add_argument("--methods", nargs="*", default=["ours", "mean_field", "full_rank", "iaf", "svgd"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--draws", type=int, default=10000)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    warnings.filterwarnings("ignore")
    known = recipes(options.root)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in options.output.read_text().splitlines()] if options.output.exists() else []
    done = {(line["target"], line["method"], line["seed"]) for line in lines}
    for seed in range(options.seeds):
        for name in options.targets or known:
            for method in options.methods:
                if (name, method, seed) in done:
                    continue
                found = run(method, name, known[name], seed, options.draws, options.references, options.folds)
                lines.append({"target": name, "method": method, "seed": seed, **found})
                with options.output.open("a") as file:
                    file.write(json.dumps(lines[-1]) + "\n")
                print(json.dumps(lines[-1]), flush=True)
    print(table(lines))
    if diagnosed := [line for line in lines if "log evidence" in line]:
        print(evidence_table(diagnosed))


def table(lines: list[dict[str, Any]]) -> str:
    """Mean and standard error over seeds of C2ST and the moments, a line a target and method."""
    rows = [
        "| target | method | C2ST | worst mean | worst deviation | sliced Wasserstein | seconds | seeds |",
        "|" + "---|" * 8,
    ]
    for name, method in dict.fromkeys((line["target"], line["method"]) for line in lines):
        runs = [line for line in lines if (line["target"], line["method"]) == (name, method)]
        good = [line for line in runs if "failed" not in line]
        cells = [
            mean_and_error([line[key] for line in good])
            for key in ("C2ST", "worst mean", "worst deviation", "sliced Wasserstein")
        ]
        seconds = f"{sum(line['seconds'] for line in runs) / len(runs):.0f}"
        rows.append(f"| {name} | {method} | {' | '.join(cells)} | {seconds} | {len(good)} of {len(runs)} |")
    return "\n".join(rows)


def evidence_table(lines: list[dict[str, Any]]) -> str:
    """What the diagnosis says of our first seed."""
    rows = [
        f"| {line['target']} | {line['k']:.2f} | {line['evidence bound']:.2f} | {line['log evidence']:.2f} |"
        for line in lines
    ]
    return "\n".join(["", "| target | k | evidence bound | log evidence |", "|---|---|---|---|", *rows])


def mean_and_error(values: list[float]) -> str:
    if not values:
        return "failed"
    mean = sum(values) / len(values)
    if len(values) == 1:
        return f"{mean:.3f}"
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))
    return f"{mean:.3f} +- {spread:.3f}"


if __name__ == "__main__":
    main()
