"""Steps per second of `Trainer.fit` against a hand-written PyTorch loop, in one run and in turns.

    python benchmarks/training.py
    python benchmarks/training.py --cases mnist_vae --ours-medium --keep-memory
    python benchmarks/training.py --ours-bf16 --keep-memory
    python benchmarks/training.py --compile --cases mnist_vae mnist_avb four_points

Both sides have the same networks (deep copies), batch size and optimizers (same class, same options) and the same
mathematics, on the CPU and in one process. The hand-written loop is simple PyTorch: data in one float tensor,
`torch.randperm`, one backward pass per player (through the critic to the model's parameters only, then the critic's own
on a detached z), no logging, no checks. Ours is a whole `Trainer.fit` as the command line sets it up:
CSVLogger and progress bar, without validation and checkpoints.

Machines are noisy, so the sides alternate: after every segment of N steps of ours, a callback runs N steps of the other
side, while the clock of ours is stopped. The ratio, ours by theirs, is taken pair by pair; the table shows its median
and range, and the share of the machine's limit: the operations of the products of matrices in ours, by those of large
matrices at the same time. Before that, both sides train for three steps in float64 on the same rows and the same noise,
and must have the same losses and gradients. Last comes where the time of ours goes.

With `--compile` ours competes with itself instead: in one fit of a model with `compile=True` the networks run compiled
in one segment and as they are written in the next.
"""

from __future__ import annotations

import argparse
import copy
import logging
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial, reduce, wraps
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import TQDMProgressBar
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.profilers import Profiler
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, softplus
from torch.optim import Optimizer
from torch.utils.flop_counter import FlopCounterMode

import lightning_avb as avb
from datamodules import MNIST, FourPoints, TensorDataModule
from lightning_avb import noise
from lightning_avb.batch import Batch
from lightning_avb.cli import keep_freed_memory
from lightning_avb.compiling import as_written
from lightning_avb.models.avb import AVBPlayers
from lightning_avb.models.vae import VAEPlayers

# The hand-written loops. Noise comes from `noise.normal`, which is `torch.randn` unless somebody injects other noise.


class PlainVAE:
    """A Gaussian encoder, one draw per row, the KL in closed form."""

    def __init__(self, model: avb.VAE) -> None:
        self.encoder: Any = copy.deepcopy(model.encoder)
        self.decoder: Any = copy.deepcopy(model.decoder)
        self.optimizer = model.players["model"].optimizer([*self.encoder.parameters(), *self.decoder.parameters()])
        self.modules, self.optimizers = [self.encoder, self.decoder], [self.optimizer]

    def step(self, x: Tensor) -> dict[str, Tensor]:
        """Trains on `(batch, *data_shape)` and returns the losses."""
        self.optimizer.zero_grad()
        mean, log_scale = self.encoder.network(x).chunk(2, -1)
        scale = log_scale.exp()
        z = mean + scale * noise.normal(mean.shape, mean)
        kl = (0.5 * (mean.square() + scale.square() - 1) - log_scale).sum() / len(x)
        loss = kl + reconstruction(self.decoder, z, x)
        loss.backward()
        self.optimizer.step()
        return {"model": loss.detach()}


class PlainGame:
    """Encoder and decoder with one optimizer, and a critic with its own."""

    def __init__(self, model: avb.AVB) -> None:
        self.encoder: Any = copy.deepcopy(model.encoder)
        self.decoder: Any = copy.deepcopy(model.decoder)
        self.critic: Any = copy.deepcopy(model.divergence.critic)
        self.parameters = [*self.encoder.parameters(), *self.decoder.parameters()]
        self.optimizer = model.players["model"].optimizer(self.parameters)
        self.critic_optimizer = model.players["critic"].optimizer([*self.critic.parameters()])
        self.modules = [self.encoder, self.decoder, self.critic]
        self.optimizers = [self.optimizer, self.critic_optimizer]


class PlainAVB(PlainGame):
    """Adversarial variational Bayes, with adaptive contrast where the model has it; two backward passes per batch."""

    def __init__(self, model: avb.AVB) -> None:
        super().__init__(model)
        contrast = model.density_ratio.contrast
        self.draws = contrast.draws if isinstance(contrast, avb.GaussianContrast) else None
        self.extra_steps = model.players["critic"].steps - 1

    def step(self, x: Tensor) -> dict[str, Tensor]:
        """Trains on `(batch, *data_shape)` and returns the losses at the point where both players began."""
        self.optimizer.zero_grad()
        self.critic_optimizer.zero_grad()
        q = self.encoder(x)
        z = q.rsample()
        seen, log_ratio, context = self.contrast(q, z)
        kl = (self.critic(x, seen, context) + log_ratio).mean()
        model_loss = kl + reconstruction(self.decoder, z, x)
        model_loss.backward(inputs=self.parameters)
        critic_loss = self.critic_loss(x, seen.detach(), context)
        critic_loss.backward()
        self.optimizer.step()
        self.critic_optimizer.step()
        for _ in range(self.extra_steps):
            self.extra_step(x)
        return {"model": model_loss.detach(), "critic": critic_loss.detach()}

    def extra_step(self, x: Tensor) -> None:
        """One more step of the critic, with new noise."""
        self.critic_optimizer.zero_grad()
        with torch.no_grad():
            q = self.encoder(x)
            seen, _, context = self.contrast(q, q.rsample())
        self.critic_loss(x, seen, context).backward()
        self.critic_optimizer.step()

    def contrast(self, q: Any, z: Tensor) -> tuple[Tensor, Tensor | float, Tensor | None]:
        """z as the critic sees it, log r(z|x) - log p(z), and the critic's context."""
        if self.draws is None:
            return z, 0.0, None
        mean, scale = q.moments(self.draws)
        seen, log_scale = (z - mean) / scale, scale.log()
        log_ratio = (0.5 * (z.square() - seen.square()) - log_scale).sum(-1)
        return seen, log_ratio, torch.cat([mean, log_scale], -1)

    def critic_loss(self, x: Tensor, seen: Tensor, context: Tensor | None) -> Tensor:
        on_posterior, on_reference = self.critic(x, torch.stack([seen, noise.normal(seen.shape, seen)]), context)
        return (softplus(-on_posterior) + softplus(on_reference)).mean()


class PlainScore(PlainGame):
    """AVB as it is: a semi-implicit posterior and denoising score matching; two backward passes per batch."""

    def step(self, x: Tensor) -> dict[str, Tensor]:
        """Trains on `(batch, *data_shape)` and returns the losses at the point where both players began."""
        self.optimizer.zero_grad()
        self.critic_optimizer.zero_grad()
        q = self.encoder(x)
        components = q.components(1)
        loc, scale = components.loc[0], components.scale[0]
        z = loc + scale * noise.normal(components.loc.shape, loc)[0]
        u = (z - q.location) / q.scale
        component = (q.scale * (z - loc) / scale.square()).detach()
        found = self.critic(q.features.detach(), u.detach())
        correction = ((component - found.detach()) * u).sum()
        kl = (0.5 * (loc.square() + scale.square() - 1) - scale.log()).sum()
        model_loss = (kl + correction - correction.detach()) / len(x) + reconstruction(self.decoder, z, x)
        model_loss.backward(inputs=self.parameters)
        critic_loss = (found - component).square().sum() / len(x)
        critic_loss.backward()
        self.optimizer.step()
        self.critic_optimizer.step()
        return {"model": model_loss.detach(), "critic": critic_loss.detach()}


Plain = PlainVAE | PlainAVB | PlainScore


def reconstruction(decoder: avb.BernoulliDecoder, z: Tensor, x: Tensor) -> Tensor:
    """-log p(x|z), the mean over the batch."""
    return binary_cross_entropy_with_logits(decoder.network(z), x, reduction="sum") / len(x)


def minibatches(x: Tensor, batch_size: int, binarize: bool) -> Iterator[Tensor]:
    """Shuffled batches without end; an incomplete last batch of an epoch is left out."""
    while True:
        order = torch.randperm(len(x))
        for index in order[: len(x) // batch_size * batch_size].split(batch_size):
            rows = x[index]
            yield (torch.rand_like(rows) < rows).to(rows.dtype) if binarize else rows


# The cases.


@dataclass(frozen=True)
class Case:
    """What is trained: makers of the model, of the hand-written loop around it, and of the data from `--root`."""

    title: str
    model: Callable[..., avb.Game]
    plain: Callable[[Any], Plain]
    data: Callable[[str], TensorDataModule]


def player(lr: float, steps: int = 1) -> avb.Player:
    return avb.Player(partial(torch.optim.Adam, lr=lr, fused=True), steps=steps)


def four_points(compile: bool = False) -> avb.AVB:
    """The sizes of the authors' notebook."""
    return avb.AVB(
        2,
        partial(avb.NoiseInjectionEncoder, hidden=(64,) * 3, noise_dim=64, every_layer=False, activation="elu"),
        partial(avb.BernoulliDecoder, network=partial(avb.MLP, hidden=(64,) * 3, activation="elu")),
        partial(avb.ResidualCritic, width=256, blocks=5, network=partial(avb.MLP, hidden=()), activation="elu"),
        avb.PriorContrast,
        players=AVBPlayers(player(2e-5), player(1e-4, steps=2)),
        compile=compile,
        data_shape=FourPoints.data_shape,
    )


MNIST_MLP = partial(avb.MLP, hidden=(300, 300), activation="softplus")


def mnist_vae(compile: bool = False) -> avb.VAE:
    return avb.VAE(
        8,
        partial(avb.GaussianEncoder, network=MNIST_MLP),
        partial(avb.BernoulliDecoder, network=MNIST_MLP),
        players=VAEPlayers(player(1e-3)),
        compile=compile,
        data_shape=MNIST.data_shape,
    )


def mnist_avb(compile: bool = False) -> avb.AVB:
    """Its defaults, with the VAE's networks and rates that stay."""
    return avb.AVB(
        8,
        partial(avb.SemiImplicitEncoder, network=MNIST_MLP),
        partial(avb.BernoulliDecoder, network=MNIST_MLP),
        players=AVBPlayers(player(1e-3), player(2e-3)),
        compile=compile,
        data_shape=MNIST.data_shape,
    )


def mnist_avb_ac(compile: bool = False) -> avb.AVB:
    return avb.AVB(
        8,
        partial(avb.NoiseInjectionEncoder, hidden=(300, 300)),
        partial(avb.BernoulliDecoder, network=MNIST_MLP),
        partial(avb.ResidualCritic, width=256, blocks=2, network=partial(avb.MLP, hidden=(256,))),
        partial(avb.GaussianContrast, draws=8),
        players=AVBPlayers(player(1e-3), player(1e-3)),
        compile=compile,
        data_shape=MNIST.data_shape,
    )


def mnist(root: str) -> MNIST:
    return MNIST(root, batch_size=250, binarize="dynamic")


CASES = {
    "four_points": Case(
        "four points, AVB, 2 critic steps, batch 512", four_points, PlainAVB, lambda root: FourPoints(batch_size=512)
    ),
    "mnist_vae": Case("MNIST, MLP VAE, batch 250", mnist_vae, PlainVAE, mnist),
    "mnist_avb": Case("MNIST, MLP AVB, batch 250", mnist_avb, PlainScore, mnist),
    "mnist_avb_ac": Case("MNIST, MLP AVB + AC, 8 draws, batch 250", mnist_avb_ac, PlainAVB, mnist),
}


# Running ours.


def fit(model: avb.Game, data: TensorDataModule, steps: int, *callbacks: pl.Callback, **options: Any) -> None:
    """`Trainer.fit` as the command line sets it up, without validation and checkpoints; the bar goes to stderr."""
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
        defaults = {
            "accelerator": "cpu",
            "devices": 1,
            "max_steps": steps,
            "logger": CSVLogger(folder),
            "callbacks": [*callbacks, TQDMProgressBar(refresh_rate=10)],
            "enable_checkpointing": False,
            "enable_model_summary": False,
            "limit_val_batches": 0,
        }
        pl.Trainer(**{**defaults, **options}).fit(model, data)


# Do both compute the same?


class RepeatedNoise:
    """Noise that begins anew at every `rewind`."""

    def rewind(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=like.dtype)


def record_gradients(optimizers: Sequence[Optimizer]) -> list[Tensor]:
    """A list to which every step of the optimizers from now on adds the gradients it is given."""
    record: list[Tensor] = []

    def keep(optimizer: Optimizer, *_: Any) -> None:
        record.extend(p.grad.clone() for group in optimizer.param_groups for p in group["params"])

    for optimizer in optimizers:
        optimizer.register_step_pre_hook(keep)
    return record


class Agreement(pl.Callback):
    """After every step of ours lets the hand-written loop step on the same batch with the same noise, and compares."""

    def __init__(self, plain: Plain, source: RepeatedNoise) -> None:
        self.plain, self.source = plain, source
        self.theirs = record_gradients(plain.optimizers)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.ours = record_gradients(trainer.optimizers)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.source.rewind(batch_idx)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.source.rewind(batch_idx)
        losses = self.plain.step(Batch(*batch).x)
        ours = {name: trainer.callback_metrics[f"train/{name}_loss"] for name in losses}
        same = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-12)
        same(ours, losses)
        same(self.ours, self.theirs)
        if not self.ours:
            raise AssertionError("no optimizer has stepped")
        self.ours.clear()
        self.theirs.clear()


def assert_same_steps(case: Case, root: str, steps: int = 3) -> None:
    """Raises AssertionError unless both sides have the same losses and gradients, in float64, step after step."""
    model, source = case.model(), RepeatedNoise()
    plain = case.plain(model)
    for module in plain.modules:
        module.double()
    with noise.use(source):
        fit(model, case.data(root), steps, Agreement(plain, source), precision="64-true", log_every_n_steps=1)


# Taking turns.


@contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    previous = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(previous)


class Opponent:
    """The hand-written loop with its data."""

    def __init__(self, plain: Plain, data: TensorDataModule, precision: str) -> None:
        self.plain, self.precision = plain, precision
        x = data.load()["train"].x.to(torch.get_default_dtype()) / data.max_value
        self.batches = minibatches(x, data.batch_size, data.binarize == "dynamic")

    def seconds(self, steps: int) -> float:
        """Runs the given number of steps and returns the time."""
        with matmul_precision(self.precision):
            start = time.perf_counter()
            for _ in range(steps):
                self.plain.step(next(self.batches))
            return time.perf_counter() - start


class Turns(pl.Callback):
    """Times segments of ours, and lets the opponent do as many steps after each.

    A segment goes from the end of one batch to the end of another, with all that happens between batches. After both,
    `products` has what the machine could have done at that time, see `product_rate`; in the precision of ours.
    """

    def __init__(self, opponent: Opponent, warm_up: int, steps: int, precision: str = "32-true") -> None:
        self.opponent, self.warm_up, self.steps = opponent, warm_up, steps
        self.dtype = torch.bfloat16 if precision == "bf16-mixed" else torch.float32
        self.ours: list[float] = []
        self.theirs: list[float] = []
        self.products: list[float] = []
        self.start = 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        done = trainer.global_step - self.warm_up
        if done < 0 or done % self.steps:
            return
        if done > 0:
            self.ours.append(self.steps / (time.perf_counter() - self.start))
            self.theirs.append(self.steps / self.opponent.seconds(self.steps))
            self.products.append(product_rate(self.dtype))
        self.start = time.perf_counter()


def product_rate(dtype: torch.dtype, seconds: float = 0.3, size: int = 1024) -> float:
    """Operations a second in products of square matrices."""
    matrix, done, start = torch.randn(size, size).to(dtype), 0, time.perf_counter()
    while time.perf_counter() < start + seconds:
        matrix @ matrix
        done += 1
    return 2 * size**3 * done / (time.perf_counter() - start)


def operations(case: Case, root: str) -> int:
    """Operations of the products of matrices in a step of ours."""
    with FlopCounterMode(display=False) as counter:
        fit(case.model(), case.data(root), 1)
    return counter.get_total_flops()


def segment_length(opponent: Opponent, seconds: float) -> int:
    """The number of steps of the opponent in that many seconds; also warms it up."""
    opponent.seconds(10)
    return max(10, round(20 * seconds / opponent.seconds(20)))


def take_turns(
    ours: avb.Game, theirs: Any, data: TensorDataModule, options: argparse.Namespace, precision: Any
) -> Turns:
    """The turns of a fit of ours, in that precision, with an opponent."""
    steps = segment_length(theirs, options.seconds)
    turns = Turns(theirs, steps // 2, steps, precision)
    fit(ours, data, steps // 2 + options.rounds * steps, turns, precision=precision)
    return turns


def median_ratio(first: Sequence[float], second: Sequence[float]) -> str:
    """The median of the ratios, first by second, and their range."""
    ratios = [a / b for a, b in zip(first, second, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


def compete(case: Case, options: argparse.Namespace) -> str:
    """A row of the table."""
    model = case.model()
    opponent = Opponent(case.plain(model), case.data(options.root), options.precision)
    precision = "bf16-mixed" if options.ours_bf16 else "32-true"
    with matmul_precision("medium" if options.ours_medium else options.precision):
        turns = take_turns(model, opponent, case.data(options.root), options, precision)
    ours, theirs = statistics.median(turns.ours), statistics.median(turns.theirs)
    shares = [ours / products for ours, products in zip(turns.ours, turns.products, strict=True)]
    share = operations(case, options.root) * statistics.median(shares)
    return f"| {case.title} | {theirs:.1f} | {ours:.1f} | {median_ratio(turns.ours, turns.theirs)} | {share:.2f} |"


class CompiledTurns(pl.Callback):
    """Times the segments of one fit, whose networks run as they are written in every second one."""

    def __init__(self, warm_up: int, steps: int) -> None:
        self.warm_up, self.steps, self.turn = warm_up, steps, ExitStack()
        self.compiled: list[float] = []
        self.written: list[float] = []
        self.start = 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        done = trainer.global_step - self.warm_up
        if done < 0 or done % self.steps:
            return
        turn = done // self.steps
        if turn > 0:
            (self.compiled if turn % 2 else self.written).append(self.steps / (time.perf_counter() - self.start))
        self.turn.close()
        if turn % 2:
            self.turn.enter_context(as_written())
        self.start = time.perf_counter()

    def on_train_end(self, *_: Any) -> None:
        self.turn.close()


def compete_compiled(case: Case, options: argparse.Namespace) -> str:
    """A row of the table of `--compile`."""
    model: Any = case.model(compile=True)
    opponent = Opponent(case.plain(model), case.data(options.root), options.precision)
    steps = segment_length(opponent, options.seconds)
    warm_up = steps // 2
    turns = CompiledTurns(warm_up, steps)
    with matmul_precision(options.precision):
        fit(model, case.data(options.root), warm_up + 2 * options.rounds * steps, turns)
    written, compiled = statistics.median(turns.written), statistics.median(turns.compiled)
    spread = median_ratio(turns.compiled, turns.written)
    return f"| {case.title} | {written:.1f} | {compiled:.1f} | {spread} | {model.compilation.seconds:.0f} |"


# Where the time goes.

LIGHTNING = "Lightning: loop, hooks, logger"
ACTIONS = {
    "train_dataloader_next": "data: cut, scale, binarise",
    "SingleDeviceStrategy.training_step": "engine: seeds, means, checks, manual optimization",
    "TQDMProgressBar": "progress bar",
}
"""Parts of a step that Lightning announces to its profiler, by a piece of the name."""
METHODS = {
    "learn": "encoder and decoder: forward",
    "learn_critic": "encoder and decoder: forward",
    "density_ratio.forward": "critic: forward",
    "density_ratio.contrast.forward": "contrast: moments",
    "backward": "backward",
}
"""Parts of a step that are methods of a model, where it has them."""


class Parts(Profiler):
    """Adds up the time of every part of a step, without that of the parts inside it."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.open: list[str] = []
        self.mark = 0.0

    def start(self, action_name: str) -> None:
        self.enter(next((part for piece, part in ACTIONS.items() if piece in action_name), LIGHTNING))

    def stop(self, action_name: str) -> None:
        self.leave()

    def enter(self, part: str) -> None:
        self._book()
        self.open.append(part)

    def leave(self) -> None:
        self._book()
        self.open.pop()

    def _book(self) -> None:
        """The time since the last event belongs to the innermost open part."""
        now = time.perf_counter()
        if self.open:
            self.seconds[self.open[-1]] += now - self.mark
        self.mark = now

    def watch(self, owner: Any, method: str, part: str) -> None:
        """From now on the calls of that method of that object are a part."""
        function = getattr(owner, method)

        @wraps(function)
        def watched(*args: Any, **kwargs: Any) -> Any:
            self.enter(part)
            try:
                return function(*args, **kwargs)
            finally:
                self.leave()

        setattr(owner, method, watched)


class WatchParts(pl.Callback):
    """Tells `Parts` which methods to watch, and when the warm-up is over."""

    def __init__(self, parts: Parts, warm_up: int) -> None:
        self.parts, self.warm_up = parts, warm_up

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for path, part in METHODS.items():
            owner_name, _, method = path.rpartition(".")
            owner = (
                reduce(lambda of, name: getattr(of, name, None), owner_name.split("."), pl_module)
                if owner_name
                else pl_module
            )
            if hasattr(owner, method):
                self.parts.watch(owner, method, part)
        for optimizer in trainer.optimizers:
            self.parts.watch(optimizer, "step", "optimizer steps")

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.warm_up:
            self.parts.seconds.clear()


def profile(case: Case, options: argparse.Namespace) -> str:
    """A table of the parts of a step of ours. The timers themselves take a little of it."""
    model, parts = case.model(), Parts()
    precision = "medium" if options.ours_medium else options.precision
    steps = segment_length(Opponent(case.plain(model), case.data(options.root), precision), options.seconds)
    warm_up = steps // 2
    with matmul_precision(precision):
        fit(model, case.data(options.root), warm_up + steps, WatchParts(parts, warm_up), profiler=parts)
    total = sum(parts.seconds.values())
    rows = [("all", total), *sorted(parts.seconds.items(), key=lambda row: -row[1])]
    lines = [f"| {part} | {1e3 * spent / steps:.3f} | {100 * spent / total:.1f} % |" for part, spent in rows]
    return "\n".join([f"\n{case.title}\n", "| part of a step | ms | share |", "|---|---|---|", *lines])


# The command.


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), help="which of them; default: all")
    parser.add_argument("--rounds", type=int, default=5, help="segments of each side; default: 5")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a segment; default: 3")
    parser.add_argument("--root", default="data", help="folder that holds MNIST/raw; default: data")
    parser.add_argument(
        "--precision", choices=("highest", "medium"), default="highest", help="of float32 products, on both sides"
    )
    parser.add_argument("--ours-medium", action="store_true", help="medium precision for ours alone")
    parser.add_argument("--ours-bf16", action="store_true", help="Lightning's bf16-mixed for ours alone")
    parser.add_argument(
        "--keep-memory", action="store_true", help="both sides keep freed memory, as the command line does"
    )
    parser.add_argument("--compile", action="store_true", help="ours compiled against ours as it is written")
    parser.add_argument("--threads", type=int, help="of torch, on both sides; default: torch's choice")
    options = parser.parse_args()
    if options.rounds < 1 or options.seconds <= 0:
        parser.error("--rounds and --seconds must be positive")
    return options


def settings(options: argparse.Namespace) -> str:
    """What a reader needs to repeat the figures."""
    ours = "medium" if options.ours_medium else options.precision
    memory = (
        "kept by the process (--keep-memory)" if options.keep_memory else "returned to the system (glibc's default)"
    )
    return "\n".join(
        [
            f"torch {torch.__version__}, pytorch-lightning {pl.__version__}, Python {platform.python_version()}, "
            f"{platform.machine()}, {torch.get_num_threads()} threads",
            f"float32 products: hand-written {options.precision}, lightning_avb {ours}"
            + (", trained in bf16-mixed" if options.ours_bf16 else ""),
            f"freed memory, both sides: {memory}",
            f"{options.rounds} rounds of segments of about {options.seconds:g} s a side\n",
        ]
    )


def data_is_there(name: str, root: str) -> bool:
    """Whether a case can run; says so if not."""
    try:
        CASES[name].data(root).load()
    except RuntimeError as error:
        print(f"{name}: skipped, no MNIST in {str(Path(root, 'MNIST', 'raw'))!r} (see --root): {error}")
        return False
    return True


def main() -> None:
    options = parse()
    if options.keep_memory:
        keep_freed_memory()
    if options.threads:
        torch.set_num_threads(options.threads)
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    print(settings(options))
    pl.seed_everything(0, verbose=False)
    cases = [CASES[name] for name in options.cases if data_is_there(name, options.root)]
    if options.compile:
        rows = [compete_compiled(case, options) for case in cases]
        print("\n| case | steps/s as written | compiled | ratio (median, min-max) | first step, s |")
        print("\n".join(["|---|---|---|---|---|", *rows]))
        return
    rows, profiles = [], []
    for case in cases:
        assert_same_steps(case, options.root)
        print(f"{case.title}: both sides have the same losses and gradients", flush=True)
        rows.append(compete(case, options))
        profiles.append(profile(case, options))
    print("\n| case | hand-written steps/s | lightning_avb steps/s | ratio (median, min-max) | of the limit |")
    print("\n".join(["|---|---|---|---|---|", *rows, "\nWhere the time of lightning_avb goes:", *profiles]))


if __name__ == "__main__":
    main()
