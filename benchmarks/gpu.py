"""What only a GPU can tell, in parts, the most valuable first: its tests, its limits, precision, speed, compilation.

    python benchmarks/gpu.py --root DATA --limit 230
    python benchmarks/gpu.py --report
    python benchmarks/gpu.py --dry-run --root DATA

Every part stops at its time limit. Its lines go to FOLDER/results.jsonl as it proceeds, with the device, the versions
and the commit; cases whose lines are there are left out, so that a run can be repeated until all are done. An error
ends its case alone, and its traceback is a line too. `--report` prints the lines as tables. `--dry-run` takes two steps
of everything on the CPU.

* `tests`: `tests/test_cuda.py`, in several processes.
* `limits`: matrix products and copies, at a large size and at those of the models' layers.
* `precision`: the validation ELBO after the same steps from the same seed, on MNIST where DATA has it.
* `throughput`: steps per second of `Trainer.fit`, with random pictures in the device's memory, and where the time goes.
* `compile`: the same with `compile=True`, and what the first step takes.
* `devices`: one, two, four ... devices with `ddp`.
* `published`: the published sizes, each trained and tested for its share of the time, where DATA has their data.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import logging
import os
import platform
import re
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.flop_counter import FlopCounterMode

import lightning_avb as avb
from datamodules import MNIST, TensorDataModule
from datamodules.splits import Split
from lightning_avb import compiling
from lightning_avb.cli.training import CLI
from lightning_avb.records import git_commit

ROOT = Path(__file__).parents[1]
PRECISIONS = {
    "float32": ("32-true", "highest"),
    "tf32": ("32-true", "high"),
    "16-mixed": ("16-mixed", "highest"),
    "bf16-mixed": ("bf16-mixed", "highest"),
}
"""Name -> Lightning's precision, and that of torch's float32 products."""
HIDDEN, DIM, BATCH = (300, 300), 8, 250
Line = dict[str, Any]


@dataclass
class Run:
    """The options of a run, and what is left of its time.

    Attributes:
        dry: two steps of everything, on the CPU.
        deadline: of the present part.
        done: the parts and cases that need not be measured again.
    """

    root: Path
    folder: Path
    dry: bool
    deadline: float
    done: set[tuple[str, str]]
    part: str = ""

    @property
    def device(self) -> str:
        return "cpu" if self.dry else "cuda"

    @property
    def left(self) -> float:
        return self.deadline - time.perf_counter()

    def wanted(self, case: str) -> bool:
        """Whether a case is to be measured: it is not there yet, and some time is left."""
        return (self.part, case) not in self.done and self.left > 0

    def require_steps(self, trainer: pl.Trainer, steps: int) -> None:
        """Raises TimeoutError if a fit was ended before it had taken so many steps."""
        if trainer.global_step < steps and not self.dry:
            raise TimeoutError(f"{trainer.global_step} of {steps} steps in the time of the part")

    def case(self, case: str, measure: Callable[[], Line]) -> Iterator[Line]:
        """The line of a case, if it is wanted, with the traceback if it fails."""
        if not self.wanted(case):
            return
        begin = time.perf_counter()
        try:
            line = measure()
        except Exception as error:
            line = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
        yield {"case": case, **line, "seconds": round(time.perf_counter() - begin, 2)}


# Models and data.


def models(**options: Any) -> dict[str, Callable[[], avb.Game]]:
    network = partial(avb.MLP, hidden=HIDDEN)
    decoder = partial(avb.BernoulliDecoder, network=network)
    semi_implicit = partial(avb.SemiImplicitEncoder, network=network)
    return {
        "vae": lambda: avb.VAE(DIM, partial(avb.GaussianEncoder, network=network), decoder, **options),
        "avb": lambda: avb.AVB(DIM, semi_implicit, decoder, **options),
        "avb_ac": lambda: avb.AVB(DIM, semi_implicit, decoder, avb.ResidualCritic, **options),
    }


class Configuration(CLI):
    """The model of a configuration file, not trained."""

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def configured(name: str) -> avb.Game:
    return Configuration(["fit", "--config", name, "--trainer.fast_dev_run=true", "--trainer.accelerator=cpu"]).model


CONVOLUTIONAL = {
    "unmeasured/celeba/vae": ((3, 64, 64), 64),
    "unmeasured/celeba/avb_ac": ((3, 64, 64), 64),
    "unmeasured/cifar10/avb_ac": ((3, 32, 32), 128),
    "unmeasured/cifar10/gan_conv": ((3, 32, 32), 64),
}
"""Configuration -> shape of a picture, batch size."""


@functools.cache
def random_bytes(rows: int, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randint(0, 256, (rows, *shape), dtype=torch.uint8)


class RandomPictures(TensorDataModule):
    """Pictures of random bytes."""

    max_value = 255.0

    def __init__(self, rows: int, shape: tuple[int, ...], batch_size: int, **options: Any) -> None:
        super().__init__(batch_size, **options)
        self.pictures, self.data_shape = (rows, shape), shape

    def load(self) -> dict[str, Split]:
        x = random_bytes(*self.pictures)
        few = Split(x[:BATCH])
        return {"train": Split(x), "val": few, "test": few}


def digits(run: Run) -> TensorDataModule:
    """MNIST where it is, else random pictures of its size."""
    options: dict[str, Any] = {"batch_size": BATCH, "binarize": "dynamic"}
    if Path(run.root, "MNIST", "raw").exists():
        return MNIST(str(run.root), **options)
    return RandomPictures(10 * BATCH, (1, 28, 28), **options)


# Fits.


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class Clock(pl.Callback):
    """Ends a fit after some steps or seconds, and times the first step and those after the warm-up.

    Attributes:
        first: seconds until the first step was done.
        rate: steps per second after the warm-up.
    """

    def __init__(self, warm_up: int, seconds: float, deadline: float) -> None:
        self.warm_up, self.seconds, self.deadline = warm_up, seconds, deadline
        self.first = self.rate = float("nan")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.begin = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == 1:
            synchronize()
            self.first = time.perf_counter() - self.begin
        if trainer.global_step == self.warm_up:
            synchronize()
            self.begin = time.perf_counter()
        now = time.perf_counter()
        measured = trainer.global_step > self.warm_up and now - self.begin > self.seconds
        if measured or now > self.deadline:
            trainer.should_stop = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        synchronize()
        if trainer.global_step > self.warm_up:
            self.rate = (trainer.global_step - self.warm_up) / (time.perf_counter() - self.begin)


def fit(
    run: Run, model: avb.Game, data: TensorDataModule, steps: int, precision: str, *callbacks: pl.Callback, **more: Any
) -> pl.Trainer:
    """`Trainer.fit`, without validation and files."""
    lightning, products = PRECISIONS[precision]
    torch.set_float32_matmul_precision(products)
    trainer = pl.Trainer(
        max_steps=min(2, steps) if run.dry else steps,
        max_epochs=-1,
        accelerator=run.device,
        precision=lightning,  # type: ignore[arg-type]
        callbacks=[*callbacks],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        **{"devices": 1, **more},
    )
    trainer.fit(model, data)
    return trainer


def validation_elbo(run: Run, model: avb.Game, data: TensorDataModule) -> float:
    """The ELBO, or a lower bound of it, over the validation rows, in single precision."""
    torch.set_float32_matmul_precision("highest")
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(accelerator=run.device, devices=1, limit_val_batches=1 if run.dry else 1.0, **quiet)  # type: ignore[arg-type]
    (values,) = trainer.validate(model, data, verbose=False)
    return values.get("val/elbo", values.get("val/elbo_lower", float("nan")))


# The parts.


def output_of(command: Sequence[Any], seconds: float, **options: Any) -> tuple[int | None, str]:
    """The exit code of a command, None if it was ended after that many seconds, and what it printed."""
    process = subprocess.Popen(
        [*map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        **options,
    )
    try:
        text = process.communicate(timeout=max(1.0, seconds))[0]
        return process.returncode, text
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return None, process.communicate()[0]


def python_environment(**more: str) -> dict[str, str]:
    """This process's environment, in which this copy of the library is found."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]), **more}


OUTCOMES = ("PASSED", "FAILED", "ERROR", "SKIPPED")


def tests(run: Run) -> Iterator[Line]:
    def measure() -> Line:
        workers, chosen = ("0", ["-k", "read_batch"]) if run.dry else (str(min(8, os.cpu_count() or 1)), [])
        command = [sys.executable, "-m", "pytest", "tests/test_cuda.py", "-vv", "--tb=short", "-W", "ignore"]
        environment = python_environment(LIGHTNING_AVB_DEVICE=run.device, OMP_NUM_THREADS="1")
        code, text = output_of([*command, "-n", workers, *chosen], run.left, cwd=ROOT, env=environment)
        (run.folder / "tests.txt").write_text(text)
        names = {
            kind: sorted({*re.findall(rf"{kind} (tests/\S+)", text), *re.findall(rf"(tests/\S+) {kind}", text)})
            for kind in OUTCOMES
        }
        found = {"exit": code, **{kind.lower(): len(of_kind) for kind, of_kind in names.items()}}
        return {**found, "failing": [*names["FAILED"], *names["ERROR"]], "last_line": text.strip().rpartition("\n")[2]}

    yield from run.case("test_cuda", measure)


def limits(run: Run) -> Iterator[Line]:
    big = 64 if run.dry else 8192
    shapes = [(big, big, big), *((batch, 784, width) for batch in (250, 1000) for width in (300,)), (250, 300, 300)]
    for kind in ("float32", "tf32", "bfloat16"):
        for shape in shapes:
            yield from run.case(f"{kind} {'x'.join(map(str, shape))}", partial(product_rate, run, kind, shape))
    yield from run.case("copy", partial(copy_rate, run))


def seconds_of(run: Run, work: Callable[[], Any], seconds: float = 0.2) -> float:
    """The duration of a piece of work, over about as many seconds as asked for."""
    for _ in range(3):
        work()
    synchronize()
    count, begin = 0, time.perf_counter()
    while count < 2 or (not run.dry and time.perf_counter() - begin < seconds):
        for _ in range(10):
            work()
        count += 10
        synchronize()
    return (time.perf_counter() - begin) / count


def product_rate(run: Run, kind: str, shape: tuple[int, int, int]) -> Line:
    torch.set_float32_matmul_precision("high" if kind == "tf32" else "highest")
    n, k, m = shape
    dtype = torch.bfloat16 if kind == "bfloat16" else torch.float32
    a, b = (torch.randn(size, device=run.device, dtype=dtype) for size in ((n, k), (k, m)))
    seconds = seconds_of(run, lambda: a @ b)
    return {"microseconds": 1e6 * seconds, "tflops": 2e-12 * n * k * m / seconds}


def copy_rate(run: Run) -> Line:
    source = torch.empty(1 << (16 if run.dry else 30), dtype=torch.uint8, device=run.device)
    target = torch.empty_like(source)
    return {"gigabytes_per_second": 2e-9 * source.numel() / seconds_of(run, lambda: target.copy_(source))}


STEPS = 1000


def precision(run: Run) -> Iterator[Line]:
    data = digits(run)

    def measure(name: str, kind: str) -> Line:
        pl.seed_everything(0, verbose=False)
        model, clock = models()[name](), Clock(100, float("inf"), run.deadline)
        trainer = fit(run, model, data, STEPS, kind, clock)
        run.require_steps(trainer, STEPS)
        found = {"steps": trainer.global_step, "steps_per_second": clock.rate}
        return {**found, "elbo": validation_elbo(run, model, data), "data": type(data).__name__}

    for name in ("vae", "avb"):
        for kind in PRECISIONS:
            yield from run.case(f"{name} {kind}", partial(measure, name, kind))


def throughput(run: Run) -> Iterator[Line]:
    seconds, warm_up = (0.0, 1) if run.dry else (1.0, 20)

    def measure(model: Callable[[], avb.Game], shape: tuple[int, ...], batch: int, kind: str, binarize: Any) -> Line:
        rows = 2 * batch if run.dry else max(8192, 10 * batch)
        data = RandomPictures(rows, shape, batch, binarize=binarize)
        pl.seed_everything(0, verbose=False)
        clock = Clock(warm_up, seconds, run.deadline)
        fit(run, model(), data, -1, kind, clock)
        line = {"batch": batch, "steps_per_second": clock.rate, "images_per_second": batch * clock.rate}
        return {**line, **operations(run, model(), data)}

    for name in ("vae", "avb"):
        yield from run.case(f"profile {name}", partial(time_shares, run, name))
    for name, make in models().items():
        for batch in (BATCH,) if run.dry else (BATCH, 1000, 4000):
            for kind in ("float32", "bf16-mixed"):
                what = partial(measure, make, (1, 28, 28), batch, kind, "dynamic")
                yield from run.case(f"{name} {batch} {kind}", what)
    for name, (shape, batch) in CONVOLUTIONAL.items():
        kinds = ("float32",) if run.dry else ("float32", "bf16-mixed")
        if not any(run.wanted(f"{name} {kind}") for kind in kinds):
            continue
        model = configured(name)
        for kind in kinds:
            made = partial(copy.deepcopy, model)
            what = partial(measure, made, shape, 2 if run.dry else batch, kind, "none")
            yield from run.case(f"{name} {kind}", what)


def operations(run: Run, model: avb.Game, data: TensorDataModule) -> Line:
    """The floating point operations of the products and convolutions of a step, in thousands of millions."""
    try:
        with FlopCounterMode(display=False) as counter:
            fit(run, model, data, 1, "float32")
    except RuntimeError:  # torch's counter does not know the gradients of a gradient penalty
        return {}
    return {"gigaflops": 1e-9 * counter.get_total_flops()}


class Profile(pl.Callback):
    """Profiles the steps from one to another."""

    def __init__(self, first: int, last: int, device: str) -> None:
        kinds = [torch.profiler.ProfilerActivity.CPU]
        kinds += [torch.profiler.ProfilerActivity.CUDA] * (device == "cuda")
        self.first, self.last, self.profiler = first, last, torch.profiler.profile(activities=kinds)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.first:
            synchronize()
            self.profiler.start()
            self.begin = time.perf_counter()
        elif trainer.global_step == self.last:
            synchronize()
            self.wall = time.perf_counter() - self.begin
            self.profiler.stop()


SHOWN_OPERATIONS = 15


def time_shares(run: Run, name: str) -> Line:
    """How much of a step the device computes, how many kernels the host launches, and its dearest operations."""
    first, last = (1, 2) if run.dry else (30, 60)
    data = RandomPictures(2 * BATCH if run.dry else 40 * BATCH, (1, 28, 28), BATCH, binarize="dynamic")
    pl.seed_everything(0, verbose=False)
    profile, steps = Profile(first, last, run.device), last - first
    fit(run, models()[name](), data, last, "float32", profile)
    events = [event for event in profile.profiler.key_averages()]
    on_device = sum(event.self_device_time_total for event in events) / steps
    launches = sum(event.count for event in events if "LaunchKernel" in event.key) / steps
    waits = sum(event.count for event in events if "Synchronize" in event.key) / steps
    dearest = sorted(events, key=lambda event: -event.self_cpu_time_total)[:SHOWN_OPERATIONS]
    return {
        "milliseconds": 1e3 * profile.wall / steps,
        "device_milliseconds": 1e-3 * on_device,
        "device_share": 1e-6 * on_device * steps / profile.wall,
        "launches": launches,
        "waits": waits,
        "dearest": [[e.key, round(e.count / steps, 1), round(e.self_cpu_time_total / steps, 1)] for e in dearest],
    }


COMPILED_STEPS = 200


def compiled(run: Run) -> Iterator[Line]:
    data = digits(run)
    if run.dry:
        compiling.OPTIONS = {**compiling.OPTIONS, "backend": "eager", "options": None}

    def measure(name: str, compile: bool) -> Line:
        pl.seed_everything(0, verbose=False)
        model, clock = models(compile=compile)[name](), Clock(50, float("inf"), run.deadline)
        model.build_if_known(data_shape=(1, 28, 28), classes=data.classes)  # before the data draw anything
        trainer = fit(run, model, data, COMPILED_STEPS, "float32", clock)
        run.require_steps(trainer, COMPILED_STEPS)
        found = {"steps": trainer.global_step, "first_step": clock.first, "steps_per_second": clock.rate}
        return {**found, "elbo": validation_elbo(run, model, data)}

    for name in ("vae", "avb"):
        for compile in (False, True):
            yield from run.case(f"{name} {'compiled' if compile else 'none'}", partial(measure, name, compile))


def devices(run: Run) -> Iterator[Line]:
    count, number = torch.cuda.device_count(), 1
    if count < 2:
        yield {"case": "count", "note": f"{count} device"}
        return

    def measure(number: int) -> Line:
        command = [sys.executable, __file__, "--processes", str(number), "--folder", run.folder, "--root", run.root]
        code, text = output_of(command, run.left, env=python_environment())
        lines = [line for line in text.splitlines() if line.startswith("{")]
        return json.loads(lines[-1]) if code == 0 and lines else {"exit": code, "error": text[-2000:]}

    while number <= count:
        yield from run.case(f"{number} devices", partial(measure, number))
        number *= 2


def measure_processes(run: Run, number: int) -> None:
    """One of the processes of a fit with `ddp`; the first prints the images per second of all."""
    data, clock = RandomPictures(40 * BATCH * number, (1, 28, 28), 4 * BATCH), Clock(20, float("inf"), run.deadline)
    data.binarize = "dynamic"
    trainer = fit(run, models()["avb"](), data, 300, "float32", clock, devices=number, strategy="ddp")
    if trainer.is_global_zero:
        print(json.dumps({"devices": number, "images_per_second": 4 * BATCH * number * clock.rate}), flush=True)


PUBLISHED = {
    "unmeasured/mnist/vae_conv": "MNIST/raw",
    "unmeasured/mnist/avb_ac_conv": "MNIST/raw",
    "unmeasured/mnist/vae_conv32": "MNIST/raw",
    "unmeasured/mnist/avb_ac_conv32": "MNIST/raw",
    "unmeasured/celeba/avb_ac": "celeba",
    "unmeasured/cifar10/avb_ac": "cifar-10-batches-py",
    "unmeasured/cifar10/gan_conv": "cifar-10-batches-py",
}
"""Configuration -> what must be in DATA."""
TEST_SECONDS = 30
"""What is kept of a configuration's time for its test, and for starting."""


def published(run: Run) -> Iterator[Line]:
    wanted = [name for name, folder in PUBLISHED.items() if Path(run.root, folder).exists() and run.wanted(name)]
    for name, folder in PUBLISHED.items():
        if not Path(run.root, folder).exists():
            yield {"case": name, "note": f"skipped: no {folder} in {str(run.root)!r}"}
    for place, name in enumerate(wanted):
        share = run.left / (len(wanted) - place)
        yield from run.case(name, partial(train_and_test, run, name, share))


def train_and_test(run: Run, name: str, seconds: float) -> Line:
    folder = (run.folder / "published" / name).resolve()
    common = ["--config", name, "--data.root", run.root.resolve(), f"--trainer.accelerator={run.device}"]
    common += ["--trainer.devices=1", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    common += [f"--trainer.default_root_dir={folder}", "--matmul_precision=high"]
    few = ["--likelihood.rows=50", "--likelihood.steps=100", "--likelihood.simulated=50"]
    training = max(10, round(seconds - TEST_SECONDS))
    length = [f"--trainer.max_time=00:{training // 3600:02}:{training // 60 % 60:02}:{training % 60:02}"]
    if run.dry:
        few = ["--trainer.limit_test_batches=1", '--likelihood.estimators=["importance"]', "--likelihood.rows=2"]
        length = ["--trainer.max_steps=2", "--trainer.limit_val_batches=1"]

    def command(stage: str, *more: Any) -> str:
        words: list[Any] = [sys.executable, "-m", "lightning_avb", stage, *common, *more]
        code, text = output_of(words, run.left, env=python_environment())
        if code != 0:
            raise RuntimeError(f"{stage} ended with {code}: {text[-2000:]}")
        return text

    command("fit", *length)
    last = max(folder.rglob("last.ckpt"), key=lambda path: path.stat().st_mtime)
    line: Line = {"steps": torch.load(last, weights_only=True, map_location="cpu")["global_step"]}
    command("test", "--ckpt_path", last, *few)
    for kind in ("test", "likelihood"):
        for path in sorted(last.parent.glob(f"last.{kind}*.json")):
            line[kind] = json.loads(path.read_text())
    return line


PARTS: dict[str, tuple[Callable[[Run], Iterator[Line]], float]] = {
    "tests": (tests, 90),
    "limits": (limits, 15),
    "precision": (precision, 45),
    "throughput": (throughput, 60),
    "compile": (compiled, 60),
    "devices": (devices, 60),
    "published": (published, float("inf")),
}
"""Name -> the part, and its limit in seconds."""


# Results.


def machine(dry: bool) -> Line:
    """What every line says about where it was measured."""
    device = platform.machine() if dry or not torch.cuda.is_available() else torch.cuda.get_device_name()
    return {"device": device, "torch": str(torch.__version__), "cuda": torch.version.cuda, "commit": git_commit()}


def read(path: Path) -> list[Line]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def measure_all(options: argparse.Namespace) -> None:
    """The parts that were asked for, within the limit of the whole."""
    path = options.folder / "results.jsonl"
    options.folder.mkdir(parents=True, exist_ok=True)
    end, where = time.perf_counter() + options.limit, machine(options.dry_run)
    done = {(line["part"], line["case"]) for line in read(path) if "error" not in line and "case" in line}
    run = Run(options.root, options.folder, options.dry_run, end, done)

    def write(line: Line) -> None:
        with path.open("a") as file:
            file.write(json.dumps({"part": run.part, **line, **where}) + "\n")
        print(run.part, *(f"{key}={shown(value)}" for key, value in line.items() if key != "traceback"), flush=True)

    for run.part in options.parts:
        part, seconds = PARTS[run.part]
        if (run.part, "") in done:
            continue
        begin, whole = time.perf_counter(), True
        run.deadline = min(end, begin + seconds)
        try:
            for line in part(run):
                whole = whole and "error" not in line
                if (run.part, line["case"]) not in done:
                    write(line)
            if whole and run.left > 0:
                write({"case": "", "seconds": round(time.perf_counter() - begin, 1)})
        except Exception as error:
            write({"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()})


def shown(value: Any) -> str:
    """A value in few characters."""
    return f"{value:.5g}" if isinstance(value, float) else str(value)[:200]


LEFT_OUT = {"part", "device", "torch", "cuda", "commit", "traceback", "dearest", "likelihood", "test"}


def report(lines: Sequence[Line]) -> None:
    """The lines as Markdown tables, one for every part."""
    best = {
        line["case"].split()[0]: line["tflops"]
        for line in lines
        if line["part"] == "limits" and "8192" in line.get("case", "") and "tflops" in line
    }
    for part in PARTS:
        found = [line for line in lines if line["part"] == part and line.get("case", "an error")]
        if not found:
            continue
        print(f"\n{part}, {found[-1]['device']}, torch {found[-1]['torch']}, commit {found[-1]['commit']}\n")
        rows = []
        for line in found:
            row = {key: value for key, value in line.items() if key not in LEFT_OUT}
            limit = best.get("bfloat16" if "bf16" in line.get("case", "") else "float32")
            if limit and "gigaflops" in line:
                row["share_of_limit"] = 1e-3 * line["gigaflops"] * line["steps_per_second"] / limit
            rows.append(row)
        columns = list(dict.fromkeys(key for row in rows for key in row))
        print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
        for row in rows:
            print(f"| {' | '.join(shown(row.get(column, '')).replace(chr(10), ' ') for column in columns)} |")
        for line in found:
            if "dearest" in line:
                print(f"\n{line['case']}: operation, calls a step, microseconds of the host a step\n")
                print("\n".join(f"    {key}  {count}  {time_}" for key, count, time_ in line["dearest"]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--parts", nargs="+", default=[*PARTS], choices=[*PARTS])
    parser.add_argument("--limit", type=float, default=600.0, help="seconds for the whole run")
    parser.add_argument("--root", type=Path, default=Path("data"), help="the folder of the data sets")
    parser.add_argument("--folder", type=Path, default=Path("runs", "gpu"), help="where results.jsonl is")
    parser.add_argument("--dry-run", action="store_true", help="two steps of everything, on the CPU")
    parser.add_argument("--report", action="store_true", help="print the tables of what was measured, and nothing else")
    parser.add_argument("--processes", type=int, help="used by the part `devices`: measure that many, and print a line")
    options = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    if options.report:
        report(read(options.folder / "results.jsonl"))
    elif options.processes:
        end = time.perf_counter() + options.limit
        measure_processes(Run(options.root, options.folder, False, end, set()), options.processes)
    elif options.dry_run or torch.cuda.is_available():
        measure_all(options)
    else:
        parser.error("no CUDA device; --dry-run takes two steps on the CPU")


if __name__ == "__main__":
    main()
