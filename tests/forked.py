"""Functions and commands in one process or several, forked from a process that has imported everything."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_only

from lightning_avb.cli import main

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(
    ["lightning_avb.cli.training", "lightning_avb.cli.outputs", "sklearn.datasets", "matplotlib.figure"]
)
"""`lightning_avb.cli` alone imports next to nothing. Modules of this folder are not found there before Python 3.13."""


class Begun(pl.Callback):
    """Leaves a file for every process, when its training begins."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        Path(f"begun_{trainer.global_rank}").touch()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def torchrun_environment(rank: int, processes: int, port: int) -> dict[str, str]:
    """What torchrun says to its workers."""
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    said = {"TORCHELASTIC_RUN_ID": "tests", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return {name: str(value) for name, value in {**ranks, **said}.items()}


def slurm_environment(rank: int, processes: int, port: int) -> dict[str, str]:
    """What srun says to the tasks of a batch job."""
    ranks = {"PROCID": rank, "LOCALID": rank, "NODEID": 0, "NTASKS": processes, "NTASKS_PER_NODE": processes}
    said = {"JOB_ID": 17, "JOB_NAME": "train", "STEP_ID": 0, **ranks}
    return {
        **{f"SLURM_{name}": str(value) for name, value in said.items()},
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def _run(target: Callable[[], None], folder: str, output: str, environment: dict[str, str]) -> None:
    os.environ.update({"OMP_NUM_THREADS": "1", **environment})
    # Lightning reads it when it is imported.
    rank_zero_only.rank = int(environment.get("RANK", environment.get("SLURM_PROCID", 0)))
    os.chdir(folder)
    written = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(written, 1)
    os.dup2(written, 2)
    # Forked without a terminal, Python would ignore what a terminal sends.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    target()


def command(*arguments: str) -> Callable[[], None]:
    """`lightning-avb` with these arguments, for `start`."""
    return partial(_command, arguments)


def _command(arguments: Sequence[str]) -> None:
    sys.argv = ["lightning-avb", *arguments]
    main()


def script(name: str) -> Callable[[], None]:
    """`python NAME`, for `start`."""
    return partial(_script, name)


def _script(name: str) -> None:
    sys.argv = [name]
    sys.path.insert(0, os.getcwd())
    runpy.run_path(name, run_name="__main__")


def start(
    target: Callable[[], None], folder: Path, environments: Sequence[dict[str, str]] = ({},)
) -> list[BaseProcess]:
    """One process an environment, in that folder; what process r prints is in `output_r`."""
    folder.mkdir(parents=True, exist_ok=True)
    run = [
        FORKED.Process(target=_run, args=(target, str(folder), f"output_{rank}", environment))
        for rank, environment in enumerate(environments)
    ]
    for process in run:
        process.start()
    return run


def finish(run: Sequence[BaseProcess], timeout: float = 120) -> list[int | None]:
    """The exit codes, None for a process that did not end in time, which is killed."""
    for process in run:
        process.join(timeout)
    codes = [process.exitcode for process in run]
    for process in run:
        if process.exitcode is None:
            process.kill()
            process.join()
    return codes


def said(folder: Path) -> str:
    """What the processes printed, the ends of it."""
    return "\n".join(f"-- {output.name}\n{output.read_text()[-2000:]}" for output in sorted(folder.glob("output_*")))
