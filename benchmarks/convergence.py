"""Many models to convergence on MNIST at once, on one accelerator: log p(x) of VAE and AVB, flow posteriors and priors.

    python benchmarks/convergence.py train --root DATA --jobs vae-8-300000x5 avb-8-300000x5 iaf-8-300000x3
    python benchmarks/convergence.py table

A job MODEL-DIM-STEPSxSEEDS trains copies of one model with different seeds. Small networks leave an accelerator idle,
so the weights of the copies are stacked, the model's own `learn` is vectorised over them (`torch.func.vmap`), and the
whole step (batch, losses, gradients, Adam) is one CUDA graph; the jobs run side by side on streams of their own. It is
what `Trainer.fit` does of a model with one phase, without logging and checks: `tests/test_benchmarks.py` compares the
two. MLPs of two hidden layers of 300, batches of 250, dynamic binarisation, each player's own optimizer and schedule.

At every tenth of the run the ELBO (of AVB its certified lower bound) is measured on the 10,000 validation images, and
the best weights are kept. Of these, on 1,000 test images: log p(x) by annealed importance sampling from a proposal
fitted to draws of q, the ELBO or its bounds, and the gap between them, KL(q(z|x), p(z|x)). FOLDER/results.jsonl has a
line for every copy, with log p(x) of every image; FOLDER/MODEL_DIM_SEED.pt the weights of the first seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean as mean
from typing import Any, NamedTuple

import torch
from equal_steps import mean_and_error
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

import lightning_avb as avb
from datamodules import MNIST
from lightning_avb import noise
from lightning_avb.inference import log_prob

BATCH, HIDDEN = 250, (300, 300)
TEST_ROWS, VAL_ROWS, CHAINS, POINTS, UNROLL = 1000, 10000, 16, 10, 10
MLP = partial(avb.MLP, hidden=HIDDEN)
DECODER = partial(avb.BernoulliDecoder, network=MLP)
GAUSSIAN = partial(avb.GaussianEncoder, network=MLP)
SEMI_IMPLICIT = partial(avb.SemiImplicitEncoder, network=MLP)
FLOW, MIXTURE = avb.FlowPrior, partial(avb.MixturePrior, components=100)
MODELS: dict[str, Callable[..., Any]] = {
    "vae": partial(avb.VAE, encoder=GAUSSIAN),
    "iaf": partial(avb.VAE, encoder=partial(avb.FlowEncoder, network=MLP), estimator="monte_carlo"),
    "vae_si": partial(avb.VAE, encoder=partial(SEMI_IMPLICIT, mixing=32), estimator="monte_carlo"),
    "avb": partial(avb.AVB, encoder=SEMI_IMPLICIT),
    "wide": partial(avb.AVB, encoder=partial(SEMI_IMPLICIT, network=partial(avb.MLP, hidden=(1000, 1000)))),
    "vae_flow": partial(avb.VAE, encoder=GAUSSIAN, prior=FLOW, estimator="monte_carlo"),
    "avb_flow": partial(avb.AVB, encoder=SEMI_IMPLICIT, prior=FLOW),
    "vae_mixture": partial(avb.VAE, encoder=GAUSSIAN, prior=MIXTURE, estimator="monte_carlo"),
    "avb_mixture": partial(avb.AVB, encoder=SEMI_IMPLICIT, prior=MIXTURE),
}


class Job(NamedTuple):
    """Copies of a model, `seeds` of them, with that many latent dimensions and steps."""

    model: str
    dim: int
    steps: int
    seeds: int

    @classmethod
    def parse(cls, text: str) -> Job:
        model, dim, rest = text.split("-")
        steps, seeds = rest.split("x")
        return cls(model, int(dim), int(steps), int(seeds))

    def file(self, seed: int) -> str:
        """Where the weights of a copy are kept."""
        return f"{self.model}_{self.dim}_{self.steps}_{seed}.pt"

    def make(self, seed: int) -> Any:
        with noise.torch_seeded(seed, "weights"):
            return MODELS[self.model](self.dim, decoder=DECODER, data_shape=(1, 28, 28))


class _Losses(nn.Module):
    """The sum of the players' losses: none of them has a gradient in the weights of another player."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, (self.phase,) = model, model.phases()

    def forward(self, x: Tensor, numbers: Tensor) -> Tensor:
        """Of rows x, with as many of the standard normal `numbers` as the model draws."""
        with noise.use(_Reader(numbers)):
            losses = self.phase.compute(avb.Batch(x)).losses
        return torch.stack([loss.mean() for loss in losses.values()]).sum()


class _Reader:
    """Noise, for `noise.use`, that is read off a vector."""

    def __init__(self, numbers: Tensor) -> None:
        self.numbers, self.read = numbers, 0

    def __call__(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        begin, self.read = self.read, self.read + math.prod(shape)
        return self.numbers[begin : self.read].view(shape)


class Ensemble:
    """The copies of a job during training.

    Args:
        job: what to train.
        rows: `(rows, 1, 28, 28)` uint8, on the device.
        batch: rows of a batch.
    """

    def __init__(self, job: Job, rows: Tensor, batch: int = BATCH) -> None:
        self.job, self.rows, self.batch, self.step = job, rows, batch, 0
        self.models = [job.make(seed).to(rows.device) for seed in range(job.seeds)]
        losses = [_Losses(model) for model in self.models]
        parameters, buffers = stack_module_state(losses)  # type: ignore[arg-type]
        self.parameters = {name: nn.Parameter(value.detach()) for name, value in parameters.items()}
        self._make_optimizers(losses[0])

        def loss(parameters: dict[str, Tensor], x: Tensor, numbers: Tensor) -> Tensor:
            return functional_call(losses[0], (parameters, shared), (x, numbers))

        shared = {name: value[0] for name, value in buffers.items()}
        self._gradients = vmap(grad_and_value(loss))
        # What the next UNROLL steps read.
        shape = (UNROLL, job.seeds, batch)
        self.generator = torch.Generator(rows.device).manual_seed(noise.mixed_seed(*map(str, job)))
        self.index = torch.zeros(shape, dtype=torch.int64, device=rows.device)
        self.uniform = torch.zeros(*shape, *rows.shape[1:], device=rows.device)
        self.numbers = torch.zeros(UNROLL, job.seeds, self._count_numbers(losses[0]), device=rows.device)
        self._order = torch.empty(0)
        self._graph: Any = None

    def _count_numbers(self, losses: _Losses) -> int:
        """How many normal numbers a step draws."""
        reader = _Reader(torch.zeros(10**6, device=self.rows.device))
        with torch.no_grad(), noise.use(reader):
            losses.phase.compute(avb.Batch(self.rows[: self.batch].to(reader.numbers.dtype)))
        return reader.read

    def _make_optimizers(self, template: _Losses) -> None:
        """The players' optimizers, over the stacked weights: Adam is elementwise."""
        model = template.model
        names = {id(parameter): name for name, parameter in template.named_parameters()}
        self.optimizers, self.schedules, self.rates = [], [], []
        for name, player in model.players.items():
            stacked = [self.parameters[names[id(parameter)]] for parameter in model.parameters_of(name)]
            optimizer = player.make_optimizer(name, stacked)
            (group,) = optimizer.param_groups
            rate, scheduler = group["lr"], player.make_scheduler(name, optimizer, self.job.steps)
            group["lr"] = torch.tensor(float(rate), device=self.rows.device)
            group["capturable"] = self.rows.is_cuda
            self.optimizers.append(optimizer)
            self.schedules.append(lambda step, rate=rate, scheduler=scheduler: rate * scheduler.factor(step))
            self.rates.append(torch.zeros(UNROLL, device=self.rows.device))

    def _prepare(self) -> None:
        """Rows, noise and learning rates of the next UNROLL steps."""
        count = len(self.rows)
        steps = count // (self.batch * UNROLL)
        place = self.step // UNROLL % steps
        if place == 0:
            scores = torch.rand(self.job.seeds, count, device=self.rows.device, generator=self.generator)
            order = scores.argsort(1)[:, : steps * UNROLL * self.batch]
            self._order = order.view(self.job.seeds, steps, UNROLL, self.batch).permute(1, 2, 0, 3)
        self.index.copy_(self._order[place])
        self.uniform.uniform_(generator=self.generator)
        self.numbers.normal_(generator=self.generator)
        for schedule_, rates in zip(self.schedules, self.rates, strict=True):
            rates.copy_(torch.tensor([schedule_(self.step + k) for k in range(UNROLL)]), non_blocking=True)

    def _train(self) -> None:
        """UNROLL steps."""
        for k in range(UNROLL):
            x = (self.uniform[k] * 255 < self.rows[self.index[k]]).to(self.uniform.dtype)
            gradients, _ = self._gradients(self.parameters, x, self.numbers[k])
            for name, gradient in gradients.items():
                self.parameters[name].grad = gradient
            for optimizer, rates in zip(self.optimizers, self.rates, strict=True):
                optimizer.param_groups[0]["lr"].copy_(rates[k])
                optimizer.step()

    def train(self) -> None:
        """UNROLL steps of every copy; on CUDA they are recorded once and then replayed."""
        self._prepare()
        if self._graph is not None:
            self._graph.replay()
        elif self.rows.is_cuda and self.step > 0:
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, stream=torch.cuda.current_stream()):
                self._train()
            self._graph.replay()
        else:
            self._train()
        self.step += UNROLL

    def members(self, parameters: dict[str, Tensor]) -> Iterator[Any]:
        """The models, in turn, with their weights out of a stack like `parameters`."""
        for i, model in enumerate(self.models):
            own = dict(model.named_parameters())
            with torch.no_grad():
                for name, value in parameters.items():
                    own[name.removeprefix("model.")].copy_(value[i])
            yield model


def binarised(rows: Tensor, name: str) -> avb.Batch:
    """Rows with bits that are a function of the row."""
    index = torch.arange(len(rows), device=rows.device)
    uniform = noise.row_uniform((0, name), index, rows[0].numel()).view(rows.shape)
    return avb.Batch((uniform * 255 < rows).float(), index=index)


def test_rows(root: str, rows: int, device: torch.device | None = None) -> avb.Batch:
    """The first test images."""
    return binarised(MNIST(root).split("test").x[:rows].to(device), "test")


@torch.no_grad()
def own_bounds(model: Any, batch: avb.Batch, samples: int, components: int) -> dict[str, Tensor]:
    """`elbo` of every row, or `elbo_lower` and `elbo_upper`."""
    found: dict[str, list[Tensor]] = defaultdict(list)
    for x in batch.x.split(max(1, 10**8 // (samples * components * model.latent_dim))):
        q = model.encoder(x)
        if isinstance(q, avb.distributions.SemiImplicit):
            z, lower, upper = q.rsample_and_bounds(samples, components)
            log_q = {"elbo_upper": lower, "elbo_lower": upper}
        else:
            z, exact = q.rsample_and_log_prob((samples,))
            log_q = {"elbo": exact}
        joint = model.log_likelihood(avb.Batch(x), z) + model.prior().log_prob(z)
        for name, value in log_q.items():
            found[name].append((joint - value).mean(0))
    return {name: torch.cat(values) for name, values in found.items()}


def lower_bound(bounds: dict[str, Tensor]) -> Tensor:
    return bounds["elbo"] if "elbo" in bounds else bounds["elbo_lower"]


def log_likelihood(model: Any, batch: avb.Batch) -> Tensor:
    """log p(x) of every row, by annealed importance sampling."""
    return log_prob(model, batch, CHAINS, annealing=50 + 8 * model.latent_dim, chunk=16000).value


class Best:
    """The best weights so far of every copy, and the course of the bound on the validation images."""

    def __init__(self, ensemble: Ensemble) -> None:
        self.curves: list[list[list[float]]] = [[] for _ in ensemble.models]
        self.values = [-math.inf] * len(ensemble.models)
        self.parameters = {name: value.detach().clone() for name, value in ensemble.parameters.items()}

    @torch.no_grad()
    def update(self, ensemble: Ensemble, batch: avb.Batch) -> None:
        for i, model in enumerate(ensemble.members(ensemble.parameters)):
            value = lower_bound(own_bounds(model, batch, 1, 256)).mean().item()
            self.curves[i].append([ensemble.step, round(value, 3)])
            if value > self.values[i]:
                self.values[i] = value
                for name, kept in self.parameters.items():
                    kept[i].copy_(ensemble.parameters[name][i])


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def train(jobs: Sequence[Job], root: str, device: torch.device, limit: float) -> list[tuple[Ensemble, Best]]:
    """Trains all jobs side by side, for `limit` seconds at most."""
    data = MNIST(root)
    rows, batch = data.split("train").x.to(device), binarised(data.split("val").x[:VAL_ROWS].to(device), "val")
    ensembles = [Ensemble(job, rows) for job in jobs]
    best = [Best(ensemble) for ensemble in ensembles]
    streams = [torch.cuda.Stream() if device.type == "cuda" else None for _ in jobs]
    torch.set_float32_matmul_precision("high")
    wait(device)
    start, rounds = time.perf_counter(), 0
    while any(ensemble.step < ensemble.job.steps for ensemble in ensembles):
        for ensemble, kept, stream in zip(ensembles, best, streams, strict=True):
            if ensemble.step >= ensemble.job.steps:
                continue
            with torch.cuda.stream(stream):
                ensemble.train()
            if ensemble.step % max(UNROLL, ensemble.job.steps // POINTS) == 0:
                wait(device)
                kept.update(ensemble, batch)
                wait(device)
        rounds += 1
        if rounds % 20 == 0:
            wait(device)
            seconds = time.perf_counter() - start
            if rounds in (20, 100) or rounds % 1000 == 0:
                print(f"{rounds * UNROLL} steps in {seconds:.1f} s", flush=True)
            if seconds > limit:
                print("stopped by the limit", flush=True)
                break
    wait(device)
    torch.set_float32_matmul_precision("highest")
    print(f"trained in {time.perf_counter() - start:.0f} s", flush=True)
    return [*zip(ensembles, best, strict=True)]


def run(options: argparse.Namespace) -> None:
    """Trains the jobs and writes what was found."""
    torch.distributions.Distribution.set_default_validate_args(False)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    options.folder.mkdir(parents=True, exist_ok=True)
    jobs, start = [*map(Job.parse, options.jobs)], time.perf_counter()
    trained = train(jobs, options.root, device, options.limit)
    seconds = time.perf_counter() - start
    for ensemble, best in trained:
        for seed, model in enumerate(ensemble.members(best.parameters)):
            if seed < options.keep:
                weights = {name: value.cpu() for name, value in model.state_dict().items()}
                torch.save(weights, options.folder / ensemble.job.file(seed))
    test = test_rows(options.root, TEST_ROWS, device)
    for ensemble, best in trained:
        for seed, model in enumerate(ensemble.members(best.parameters)):
            with torch.no_grad(), noise.torch_seeded(0, "evaluation"):
                bounds, rows = own_bounds(model, test, 20, 2000), log_likelihood(model, test)
            line = {
                **ensemble.job._asdict(),
                "seed": seed,
                "trained": ensemble.step,
                "seconds": seconds,
                "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
                "curve": best.curves[seed],
                **{name: value.mean().item() for name, value in bounds.items()},
                "gap": (rows - lower_bound(bounds)).mean().item(),
                "rows": [round(value, 4) for value in rows.tolist()],
            }
            with (options.folder / "results.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(*ensemble.job[:3], seed, f"{rows.mean():.2f}", f"{time.perf_counter() - start:.0f} s", flush=True)


def table(folder: Path) -> None:
    """Means and standard errors over seeds, and differences from the VAE of the same seed on the same images."""
    found: dict[Any, dict[str, dict[int, dict[str, Any]]]] = defaultdict(lambda: defaultdict(dict))
    for line in map(json.loads, (folder / "results.jsonl").read_text().splitlines()):
        found[line["dim"], line["steps"]][line["model"]][line["seed"]] = line
    print("| dimensions | steps | model | seeds | log p(x) | - VAE | ELBO | KL(q, p(z\\|x)) | of the VAE's | best at |")
    print("|---" * 10 + "|")
    for (dim, steps), models in sorted(found.items()):
        baseline = models["vae"]
        for name, runs in sorted(models.items(), key=lambda item: [*MODELS].index(item[0])):
            seeds = sorted(runs)
            values = {seed: mean(runs[seed]["rows"]) for seed in seeds}
            paired = [values[seed] - mean(baseline[seed]["rows"]) for seed in seeds if seed in baseline]
            elbo = [f"{mean(run[key] for run in runs.values()):.2f}" for key in BOUNDS if key in runs[seeds[0]]]
            gap, theirs = (mean(run["gap"] for run in side.values()) for side in (runs, baseline))
            best = mean(max(run["curve"], key=lambda point: point[1])[0] for run in runs.values())
            cells = [str(dim), f"{steps:,}", name, str(len(seeds)), mean_and_error([*values.values()])]
            cells += ["" if name == "vae" else mean_and_error(paired), " to ".join(elbo)]
            print(f"| {' | '.join([*cells, f'{gap:.2f}', f'{gap / theirs:.2f}', f'{best:,.0f}'])} |")


BOUNDS = ("elbo", "elbo_lower", "elbo_upper")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("task", choices=["train", "table"])
    parser.add_argument("--root", default="data")
    parser.add_argument("--jobs", nargs="+", default=["vae-8-300000x5", "avb-8-300000x5", "iaf-8-300000x3"])
    parser.add_argument("--limit", type=float, default=math.inf, help="seconds of training, after which it stops")
    parser.add_argument("--keep", type=int, default=1, help="seeds of each job whose weights are written")
    parser.add_argument("--folder", type=Path, default=Path("runs", "convergence"))
    options = parser.parse_args()
    if options.task == "train":
        run(options)
    else:
        table(options.folder)


if __name__ == "__main__":
    main()
