"""What training and testing cost: memory, data that do not fit into it, and how the time of a step grows.

    python benchmarks/cost.py memory
    python benchmarks/cost.py mapped --times 10 --sparse --batches 3000
    python benchmarks/cost.py growth --picture docs/images/cost.png

`memory`: the peak of a process's resident memory over what it had after its imports, in training and in `test` with
annealed importance sampling, beside the sum of what must be there: parameters, gradients, moments of the optimizers,
data, and the tensors that one backward pass keeps. That sum is counted from sizes, not measured.

`mapped`: an epoch of `Trainer.fit`, with a model that does almost nothing, over colour pictures of 64x64 in a mapped
file that is `--times` as large as the machine's memory. `--sparse` makes a file of holes, which takes no space on the
disk: its pages fill the memory and are given up as those of any file are, but come from no disk.

`growth`: the time of a step against one setting at a time, the others as they are in `DEFAULTS`; of `components`, which
only validation uses, the time of a batch of validation. The points take turns; the table has medians.

All on the CPU in float32, with the networks of `training.py` and random pictures of MNIST's size.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from equal_steps import be_quiet_and_fast
from loading import Nothing
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor
from training import MNIST_MLP, fit, player

import lightning_avb as avb
from datamodules import TensorDataModule
from datamodules.mapping import map_array
from datamodules.splits import Split
from lightning_avb import pictures
from lightning_avb.batch import Batch
from lightning_avb.evaluation.importance import log_joint
from lightning_avb.models.avb import AVBPlayers
from lightning_avb.models.vae import VAEPlayers
from lightning_avb.reports import Likelihood

SHAPE = (1, 28, 28)


class RandomPictures(TensorDataModule):
    """Random bytes as pictures, with as many rows for test and validation as MNIST has for each of its ten digits."""

    max_value = 255.0

    def __init__(self, rows: int, batch_size: int, eval_rows: int = 1000) -> None:
        super().__init__(batch_size, binarize="dynamic", resident=True)
        self.sizes = {"train": rows, "val": eval_rows, "test": eval_rows}

    def load(self) -> dict[str, Split]:
        generator = torch.Generator().manual_seed(0)

        def some(rows: int) -> Split:
            return Split(torch.randint(256, (rows, *SHAPE), generator=generator, dtype=torch.uint8))

        return {stage: some(rows) for stage, rows in self.sizes.items()}


@dataclass(frozen=True)
class Settings:
    """What a model and its batches depend on."""

    model: str = "VAE"
    batch: int = 250
    latent: int = 8
    samples: int = 1
    critic_steps: int = 1
    components: int = 256

    def make(self) -> avb.Game:
        decoder = partial(avb.BernoulliDecoder, network=MNIST_MLP)
        sizes = {"samples": self.samples, "data_shape": SHAPE}
        if self.model == "VAE":
            encoder = partial(avb.GaussianEncoder, network=MNIST_MLP)
            return avb.VAE(self.latent, encoder, decoder, players=VAEPlayers(player(1e-3)), **sizes)
        players = AVBPlayers(player(1e-3), player(2e-3, steps=self.critic_steps))
        encoder = partial(avb.SemiImplicitEncoder, network=MNIST_MLP)
        return avb.AVB(self.latent, encoder, decoder, players=players, components=self.components, **sizes)


DEFAULTS = Settings()


# Memory.

PROBE = 16
"""Rows of the batch whose tensors are counted; all of them grow with the rows."""


def resident(name: str = "VmRSS") -> int:
    """Bytes of this process as Linux counts them; `VmHWM` is the peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1]) << 10


def kept(model: avb.Game, forward: Callable[[], Tensor]) -> int:
    """Bytes of the tensors that the backward pass of `forward` needs, beside the model's parameters."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    storages: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        end = forward()
    del end
    return sum(storage.nbytes() for pointer, storage in storages.items() if pointer not in parameters)


@dataclass(frozen=True)
class Case:
    """A fit, or a test of `chunk` chains at a time."""

    settings: Settings
    stage: str
    rows: int = 60000
    steps: int = 100
    temperatures: int = 50
    chunk: int = 4096

    def run(self) -> None:
        data, model = RandomPictures(self.rows, self.settings.batch), self.settings.make()
        if self.stage == "fit":
            fit(model, data, self.steps)
            return
        chains = 8
        report = Likelihood(["annealing"], rows=self.chunk // chains, chains=chains, steps=self.temperatures)
        with quiet_trainer(callbacks=[report]) as trainer:
            trainer.test(model, data, verbose=False)

    def parts(self) -> dict[str, int]:
        """Bytes that must be there, by what they are."""
        model = self.settings.make()
        parameters = sum(parameter.nbytes for parameter in model.parameters())
        x = torch.rand(PROBE, *SHAPE)
        index = torch.arange(PROBE)
        data = RandomPictures(self.rows, self.settings.batch)
        found = {"parameters": parameters, "data": sum(data.sizes.values()) * math.prod(SHAPE)}
        if self.stage == "fit":
            (phase, *_), batch = model.phases(), Batch(x.round(), None, index)
            found |= {"gradients": parameters, "moments": 2 * parameters}
            forward, rows = lambda: sum(phase.compute(batch).losses.values()), self.settings.batch
        else:
            z = torch.randn(1, PROBE, self.settings.latent, requires_grad=True)
            forward, rows = lambda: log_joint(model.decoder, model.prior, x.round())(z), self.chunk
        return {**found, "kept for a backward pass": kept(model, forward) * rows // PROBE}


def peak(case: Case) -> int:
    """By how much the resident memory grew at most while the case ran, in bytes."""
    torch.manual_seed(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = resident()
    case.run()
    return resident("VmHWM") - before


def in_a_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What the function returns in a fresh process, which has imported all of this file."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), be_quiet_and_fast) as pool:
        return pool.submit(function, *arguments).result()


def memory(cases: Sequence[Case]) -> str:
    """The table: megabytes."""
    names = ("parameters", "gradients", "moments", "data", "kept for a backward pass")
    lines = [f"| MB | {' | '.join(names)} | sum | peak | ratio |", "|---" * (len(names) + 4) + "|"]
    for case in cases:
        parts, found = case.parts(), in_a_process(peak, case)
        total = sum(parts.values())
        columns = [f"{parts.get(name, 0) / 1e6:.1f}" for name in names]
        ends = f"{total / 1e6:.1f} | {found / 1e6:.1f} | {found / total:.2f} |"
        lines.append(f"| {case.settings.model}, {case.stage} | {' | '.join(columns)} | {ends}")
    return "\n".join(lines)


# Data that do not fit.

PICTURE = (3, 64, 64)


class Mapped(TensorDataModule):
    """Pictures in a `.npy` file."""

    max_value = 255.0

    def __init__(self, path: str, batch_size: int = 100) -> None:
        super().__init__(batch_size, resident=False)
        self.path = path

    def load(self) -> dict[str, Split]:
        x = torch.from_numpy(map_array(self.path))
        rows = torch.arange(len(x))
        return {"train": Split(x, rows=rows[20:]), "val": Split(x, rows=rows[:10]), "test": Split(x, rows=rows[10:20])}


class Pace(pl.Callback):
    """The time and the process's memory, of its own and of files, at the end of every batch."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.own: list[int] = []
        self.files: list[int] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.seconds.append(time.perf_counter())
        self.own.append(resident("RssAnon"))
        self.files.append(resident("RssFile"))


def system_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def make_pictures(path: Path, count: int, sparse: bool) -> None:
    """That many pictures in a `.npy` file: random bytes, or holes."""
    needed, free = count * math.prod(PICTURE), shutil.disk_usage(path.parent).free
    if not sparse and needed > 0.9 * free:
        raise SystemExit(f"error: {needed / 1e9:.1f} GB do not fit on the disk, {free / 1e9:.1f} GB free; try --sparse")
    pixels = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(count, *PICTURE))
    if not sparse:
        generator = np.random.default_rng(0)
        for begin in range(0, count, 10000):
            part = pixels[begin : begin + 10000]
            part[:] = np.frombuffer(generator.bytes(part.nbytes), np.uint8).reshape(part.shape)
    pixels.flush()


def mapped(times: float, folder: Path, sparse: bool, batches: int | None) -> str:
    """The table: the first and the last tenth of the epoch."""
    path, count = folder / "pictures.npy", int(times * system_memory()) // math.prod(PICTURE)
    make_pictures(path, count, sparse)
    pace = Pace()
    data = Mapped(str(path))
    with quiet_trainer(callbacks=[pace], max_epochs=1, limit_train_batches=batches, limit_val_batches=0) as trainer:
        trainer.fit(Nothing(), data)
    tenth = len(pace.seconds) // 10
    title = (
        f"{count:,} pictures of 64x64, {path.stat().st_size / 1e9:.1f} GB ({'holes' if sparse else 'random bytes'}), "
        f"{times:g} times the memory of {system_memory() / 1e9:.1f} GB; {len(pace.seconds):,} batches of 100\n"
    )
    lines = [title, "| | pictures a second | own memory, MB | mapped pages in memory, MB |", "|---|---|---|---|"]
    for name, begin, end in (("first tenth", 0, tenth), ("last tenth", -tenth - 1, -1)):
        rate = 100 * tenth / (pace.seconds[end] - pace.seconds[begin])
        own, files = (statistics.median(values[begin:end]) / 1e6 for values in (pace.own, pace.files))
        lines.append(f"| {name} | {rate:,.0f} | {own:,.0f} | {files:,.0f} |")
    return "\n".join(lines)


# How time grows.

FACTORS: dict[str, tuple[int, ...]] = {
    "batch": (16, 64, 250, 1000),
    "latent": (2, 8, 32, 128),
    "samples": (1, 4, 16),
    "critic_steps": (1, 2, 4, 8),
    "components": (16, 64, 256, 1024),
}
OF_AVB = ("critic_steps", "components")
TITLES = {
    "batch": "rows of a batch",
    "latent": "latent dimensions",
    "samples": "draws of z a row",
    "critic_steps": "critic steps a batch",
    "components": "components (validation)",
}


class StepTimes(pl.Callback):
    """Seconds from the end of one training batch to that of the next, and of every batch of validation."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.ends: list[float] = []
        self.validation: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.ends.append(self.clock())

    def on_validation_batch_start(self, *_: Any) -> None:
        self.start = self.clock()

    def on_validation_batch_end(self, *_: Any) -> None:
        self.validation.append(self.clock() - self.start)


class Point(NamedTuple):
    factor: str
    value: int
    model: str


def seconds(point: Point, steps: int, clock: Callable[[], float]) -> float:
    """The median over the steps after the first quarter."""
    settings = replace(DEFAULTS, model=point.model, **{point.factor: point.value})
    times, data = StepTimes(clock), RandomPictures(settings.batch, settings.batch, eval_rows=500)
    if point.factor == "components":
        with quiet_trainer(callbacks=[times]) as trainer:
            for _ in range(max(2, steps // 10)):
                trainer.validate(settings.make(), data, verbose=False)
        return statistics.median(times.validation)
    fit(settings.make(), data, steps, times)
    return statistics.median(np.diff(times.ends[steps // 4 :]).tolist())


def growth(
    factors: dict[str, tuple[int, ...]],
    steps: int,
    rounds: int,
    picture: Path | None,
    clock: Callable[[], float] = time.perf_counter,
) -> str:
    """The table: milliseconds; and the picture."""
    models = {factor: ("AVB",) if factor in OF_AVB else ("VAE", "AVB") for factor in factors}
    points = [
        Point(factor, value, model) for factor in factors for value in factors[factor] for model in models[factor]
    ]
    times: dict[Point, list[float]] = {point: [] for point in points}
    for _ in range(rounds):
        for point in points:
            times[point].append(seconds(point, steps, clock))
    medians = {point: 1e3 * statistics.median(found) for point, found in times.items()}
    if picture:
        draw_growth(factors, medians, picture)
    lines = ["| setting | model | ms a step |", "|---|---|---|"]
    for factor in factors:
        for model in models[factor]:
            some = ", ".join(f"{value}: {medians[Point(factor, value, model)]:.2f}" for value in factors[factor])
            lines.append(f"| {TITLES[factor]} | {model} | {some} |")
    return "\n".join(lines)


def draw_growth(factors: dict[str, tuple[int, ...]], medians: dict[Point, float], path: Path) -> None:
    """One panel a factor, both axes logarithmic; dashed: as fast as the factor."""
    from matplotlib.ticker import LogLocator, ScalarFormatter

    def draw(panels: Any) -> None:
        for axes, (factor, values) in zip(panels, factors.items(), strict=True):
            for number, model in enumerate(("VAE", "AVB")):
                line = [medians[point] for value in values if (point := Point(factor, value, model)) in medians]
                if line:
                    axes.loglog(values, line, "o-", color=f"C{number}", label=model, base=10)
                    last = line[-1]
            axes.loglog(
                values, [last * value / values[-1] for value in values], "--", color="grey", label="proportional"
            )
            axes.set(xlabel=TITLES[factor], ylabel="ms a batch" if factor == "components" else "ms a step")
            axes.set_xticks(values, [str(value) for value in values], minor=False)
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(ScalarFormatter())
            axes.minorticks_off()
            axes.legend()

    pictures.write(pictures.figure(draw, (3.2 * len(factors), 3.6), len(factors)), path)


# The command.


@contextmanager
def quiet_trainer(**options: Any) -> Iterator[pl.Trainer]:
    """A trainer on the CPU in a folder that is removed; what it prints goes to stderr."""
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
        given = {"accelerator": "cpu", "devices": 1, "enable_checkpointing": False, "enable_model_summary": False}
        quiet = {"logger": CSVLogger(folder), "enable_progress_bar": False}
        yield pl.Trainer(**{**given, **quiet, **options})


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    parts.add_parser("memory")
    part = parts.add_parser("mapped")
    part.add_argument(
        "--times", type=float, default=10.0, help="size of the file, in the machine's memory; default: 10"
    )
    part.add_argument("--sparse", action="store_true", help="a file of holes")
    part.add_argument("--folder", type=Path, help="of the file, which is removed at the end")
    part.add_argument("--batches", type=int, help="of 100 pictures; default: the whole epoch")
    part = parts.add_parser("growth")
    part.add_argument("--steps", type=int, default=60, help="of a point in a turn; default: 60")
    part.add_argument("--rounds", type=int, default=5, help="turns; default: 5")
    part.add_argument("--picture", type=Path, help="a PNG")
    part.add_argument("--cpu-time", action="store_true", help="of the process, where others use the machine as well")
    return parser.parse_args()


def main() -> None:
    options = parse()
    be_quiet_and_fast()
    pl.seed_everything(0, verbose=False)
    print(
        f"torch {torch.__version__}, pytorch-lightning {pl.__version__}, Python {platform.python_version()}, "
        f"{platform.machine()}, {torch.get_num_threads()} threads\n"
    )
    if options.part == "memory":
        cases = [Case(replace(DEFAULTS, model=model), stage) for model in ("VAE", "AVB") for stage in ("fit", "test")]
        print(memory(cases))
    elif options.part == "mapped":
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            print(mapped(options.times, Path(folder), options.sparse, options.batches))
    else:
        clock = time.process_time if options.cpu_time else time.perf_counter
        print(growth(FACTORS, options.steps, options.rounds, options.picture, clock))


if __name__ == "__main__":
    main()
