"""How a run spreads over processes: which strategies the engine synchronises, and what its launcher started.

The engine (`game.py`) steps several players with gradients of their own and averages most of them itself, over replicas
of the whole model. Under a strategy that shards the model, or steps it itself, replicas would drift apart or the run
would stop somewhere inside; those are refused by name (docs/cluster.md has the table).
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
"""The strategies that the engine is written and tested for; a subclass is another strategy."""

REFUSED = {
    "ModelParallelStrategy": "it does not average the gradients of its replicas",
    "FSDPStrategy": "it shards the parameters, of which a player's optimizer and clip_norm need the whole",
    "DeepSpeedStrategy": "it takes one optimizer, and every player has its own",
    "XLAStrategy": "it steps by torch_xla, past the engine's count of steps",
    "SingleDeviceXLAStrategy": "it steps by torch_xla, past the engine's count of steps",
}
"""Lightning's other strategies -> why not."""


def check_start(strategy: Any) -> None:
    """Checks, before anything is built, what the configuration and the launcher say.

    Args:
        strategy: `trainer.strategy`: a name, or a class path with its arguments.

    Raises:
        ConfigurationError: a strategy that is not supported, or processes that would not find each other.
    """
    if isinstance(strategy, str) and strategy.lower() in StrategyRegistry:
        _check_class(StrategyRegistry[strategy.lower()]["strategy"].__name__)
    elif hasattr(strategy, "class_path"):
        _check_class(strategy.class_path.rpartition(".")[2])
    if TorchElasticEnvironment.detect():
        _check_torchrun()
    elif SLURMEnvironment.detect():
        _check_srun()


def check(trainer: pl.Trainer) -> None:
    """Checks the trainer that was built. Raises ConfigurationError as `check_start` does."""
    _check_class(type(trainer.strategy).__name__)
    if isinstance(trainer.strategy, DDPStrategy):
        _check_ddp(trainer.strategy)
    _check_processes(trainer)


def lost(error: RuntimeError) -> str | None:
    """What to say of an error that comes of another process of the run being gone, None: it is another error."""
    said = str(error)
    if not isinstance(error, torch.distributed.DistError) and "gloo" not in said.lower():
        return None
    rank, reason = os.environ.get("RANK") or os.environ.get("LOCAL_RANK", "0"), said.splitlines()[0]
    # Gloo begins with the place in its source.
    reason = re.sub(r"^\[[^]]*\.cc:\d+\] ", "", reason).partition(". ")[0]
    return f"rank {rank} lost another process of the run ({reason}): what that one said tells why; --ckpt_path goes on"


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
    """Workers that torchrun starts again share its store with the dead ones, and may read their addresses there.

    torch 2.14 keeps one store over all restarts and puts nothing between them (pytorch/pytorch issue 135712 has the
    history); the variable makes torchrun give every start a store of its own.
    """
    restarts = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0))
    if restarts and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        raise ConfigurationError(
            f"torchrun: --max-restarts={restarts}, but workers that are started again would look for the dead ones; "
            "start it as `TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 torchrun --rdzv-backend=c10d ...`"
        )


def _check_processes(trainer: pl.Trainer) -> None:
    """Refuses processes that are others than the trainer is to have.

    Lightning waits for those that never come, or trains independent copies that write over each other.
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
        ("devices", trainer.num_devices, each, "processes a node", options[0]),
        ("num_nodes", trainer.num_nodes, nodes, "nodes", options[1]),
    ):
        if wanted != given:
            raise ConfigurationError(
                f"trainer.{key}: {wanted}, but the {what} that {launcher} started are {given}; "
                f"set --trainer.{key} {given}, or {option}={wanted} of {launcher}"
            )
