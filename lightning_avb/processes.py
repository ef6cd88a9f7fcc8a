"""Runs on several processes: the supported strategies, and checks of what the launcher started.

The engine (`game.py`) steps several players with separate gradients and averages most of them itself, over replicas of
the whole model. Under a strategy that shards the model, or does the optimizer steps, replicas would drift apart or the
run would fail; such strategies are refused by name (docs/cluster.md has the table).
"""

from __future__ import annotations

import os
import re
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy, StrategyRegistry

from .errors import ConfigurationError
from .lightning_private import cluster_environment, ddp_options

SUPPORTED = {strategy.__name__ for strategy in (SingleDeviceStrategy, DDPStrategy)}
"""The strategies for which the engine is written and tested; their subclasses are not supported."""

REFUSED = {
    "ModelParallelStrategy": "it does not average the gradients of its replicas",
    "FSDPStrategy": "it shards the parameters, of which a player's optimizer and clip_norm need the whole",
    "DeepSpeedStrategy": "it takes one optimizer, and every player has its own",
    "XLAStrategy": "it steps through torch_xla, and the engine cannot count its steps",
    "SingleDeviceXLAStrategy": "it steps through torch_xla, and the engine cannot count its steps",
}
"""Lightning's other strategies -> why not."""


def check_launch(strategy: Any) -> None:
    """Checks the strategy and the launcher before anything is built.

    Args:
        strategy: `trainer.strategy`: a name, or a class path with its arguments.

    Raises:
        ConfigurationError: an unsupported strategy, or processes that would not find each other.
    """
    if isinstance(strategy, str) and strategy.lower() in StrategyRegistry:
        _check_class(StrategyRegistry[strategy.lower()]["strategy"].__name__)
    elif hasattr(strategy, "class_path"):
        _check_class(strategy.class_path.rpartition(".")[2])
    if TorchElasticEnvironment.detect():
        _check_torchrun()
    elif SLURMEnvironment.detect():
        _check_srun()


def check_trainer(trainer: pl.Trainer) -> None:
    """Checks a trainer; raises ConfigurationError like `check_launch`."""
    _check_class(type(trainer.strategy).__name__)
    if isinstance(trainer.strategy, DDPStrategy):
        _check_ddp(trainer.strategy)
    _check_processes(trainer)


def describe_lost_process(error: RuntimeError) -> str | None:
    """The message for an error that says that another process of the run is gone; None for other errors."""
    text = str(error)
    if not isinstance(error, torch.distributed.DistError) and "gloo" not in text.lower():
        return None
    rank, reason = os.environ.get("RANK") or os.environ.get("LOCAL_RANK", "0"), text.splitlines()[0]
    # Gloo's messages begin with a position in its source.
    reason = re.sub(r"^\[[^]]*\.cc:\d+\] ", "", reason).partition(". ")[0]
    return f"rank {rank} lost another process of the run ({reason}): see its own message; resume with --ckpt_path"


def _check_class(name: str) -> None:
    if name not in SUPPORTED:
        why = REFUSED.get(name, "the engine does not know how it averages gradients")
        raise ConfigurationError(
            f"trainer.strategy: {name} is not supported: {why}; take auto, ddp, ddp_spawn or ddp_fork"
        )


def _check_ddp(strategy: DDPStrategy) -> None:
    options, averaging_period = ddp_options(strategy)
    if options.get("static_graph"):
        raise ConfigurationError("trainer.strategy.static_graph: the phases of a batch have different graphs")
    if averaging_period is not None:
        raise ConfigurationError("trainer.strategy.model_averaging_period: the engine averages gradients, never models")


def _check_srun() -> None:
    tasks = int(os.environ["SLURM_NTASKS"])
    if tasks > 1 and "SLURM_NTASKS_PER_NODE" not in os.environ:
        each = tasks // int(os.environ.get("SLURM_NNODES", 1))
        raise ConfigurationError(
            f"srun: {tasks} tasks without --ntasks-per-node; put `#SBATCH --ntasks-per-node={each}` into the job's "
            "script, as many as trainer.devices"
        )
    if tasks > 1 and "SLURM_STEP_ID" not in os.environ:
        raise ConfigurationError(
            f"srun: the job has {tasks} tasks, but its script starts this command once and it would wait for the "
            "others; write `srun lightning-avb ...`"
        )


def _check_torchrun() -> None:
    """Raises ConfigurationError if restarted workers would share a store with the dead ones, and read their addresses.

    torch 2.14 keeps one store over all restarts (pytorch/pytorch issue 135712 has the history). The variable makes
    torchrun use a new store for every start.
    """
    restarts = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0))
    if restarts and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        raise ConfigurationError(
            f"torchrun: --max-restarts={restarts}, but restarted workers would wait for the dead ones; "
            "start it as `TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 torchrun --rdzv-backend=c10d ...`"
        )


def _check_processes(trainer: pl.Trainer) -> None:
    """Raises ConfigurationError if the launcher started another number of processes than the trainer expects.

    Lightning would wait for missing ones for ever, or train independent copies that overwrite each other's files.
    """
    environment = cluster_environment(trainer)
    if isinstance(environment, TorchElasticEnvironment):
        each = int(os.environ.get("LOCAL_WORLD_SIZE", environment.world_size()))
        nodes, launcher, options = environment.world_size() // each, "torchrun", ("--nproc-per-node", "--nnodes")
    elif isinstance(environment, SLURMEnvironment) and SLURMEnvironment.detect():
        nodes = int(os.environ.get("SLURM_NNODES", 1))
        each, launcher, options = environment.world_size() // nodes, "srun", ("--ntasks-per-node", "--nodes")
    else:  # Lightning starts them itself
        return
    for key, wanted, given, what, option in (
        ("devices", trainer.num_devices, each, "processes per node", options[0]),
        ("num_nodes", trainer.num_nodes, nodes, "nodes", options[1]),
    ):
        if wanted != given:
            raise ConfigurationError(
                f"trainer.{key}: {wanted}, but the {what} that {launcher} started are {given}; "
                f"set --trainer.{key} {given}, or {option}={wanted} of {launcher}"
            )
