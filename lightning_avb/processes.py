"""How a run spreads over processes: which strategies the engine synchronises, and what its launcher started.

The engine (`game.py`) steps several players with gradients of their own and averages most of them itself, over replicas
of the whole model. Lightning's strategies that shard the model, or step it themselves, would train replicas that drift
apart, or stop somewhere inside; they are refused by name.
"""

from __future__ import annotations

import os

import pytorch_lightning as pl
from pytorch_lightning.plugins.environments import ClusterEnvironment, SLURMEnvironment, TorchElasticEnvironment
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy

from .errors import ConfigurationError

SUPPORTED = (SingleDeviceStrategy, DDPStrategy)
"""The classes of strategies, not their subclasses, that the engine is written and tested for."""

REFUSED = {
    "ModelParallelStrategy": "nothing averages the gradients of its replicas",
    "FSDPStrategy": "it shards the parameters, of which every player's optimizer and clip_norm need the whole",
    "DeepSpeedStrategy": "it takes one optimizer, and every player has its own",
    "XLAStrategy": "it steps by torch_xla, past the engine's count of steps",
    "SingleDeviceXLAStrategy": "it steps by torch_xla, past the engine's count of steps",
}
"""Lightning's other strategies -> why the engine cannot use them."""


def check(trainer: pl.Trainer) -> None:
    """Raises ConfigurationError where the processes would drift apart, wait for each other, or train the same twice."""
    _check_strategy(trainer)
    _check_processes(trainer)


def _check_strategy(trainer: pl.Trainer) -> None:
    strategy = trainer.strategy
    if type(strategy) not in SUPPORTED:
        name = type(strategy).__name__
        why = REFUSED.get(name, "the engine does not know how it averages gradients")
        raise ConfigurationError(
            f"trainer.strategy: {name} is not supported: {why}; take auto, single_device, ddp, ddp_spawn or ddp_fork"
        )


def check_launcher() -> None:
    """Raises ConfigurationError where the launcher's variables say that the processes cannot find each other.

    Called before the trainer is made: Lightning's environments read the same variables there.
    """
    if TorchElasticEnvironment.detect():
        _check_torchrun()
    elif SLURMEnvironment.detect():
        _check_srun()


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
    """Restarted workers share torchrun's store with the dead ones, and may read their addresses there and wait.

    torch 2.14 keeps one store over all restarts and separates them by nothing (pytorch/pytorch issue 135712 has the
    history); the variable makes torchrun give every start a store of its own.
    """
    restarts = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0))
    if restarts and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        raise ConfigurationError(
            f"torchrun: --max-restarts={restarts}, but restarted workers would look for the dead ones; start it as "
            "`TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 torchrun --rdzv-backend=c10d ...`"
        )


def _check_processes(trainer: pl.Trainer) -> None:
    """Where the launcher started others than the trainer is to have, Lightning trains copies that overwrite each other,
    or waits for processes that never come.
    """
    environment = trainer._accelerator_connector.cluster_environment
    started = _started(environment)
    if started is None:
        return
    launcher, per_node, nodes = started
    for key, wanted, given, option in (
        ("devices", trainer.num_devices, per_node, _OPTIONS[launcher][0]),
        ("num_nodes", trainer.num_nodes, nodes, _OPTIONS[launcher][1]),
    ):
        if wanted != given:
            what = "processes a node" if key == "devices" else "nodes"
            raise ConfigurationError(
                f"trainer.{key}: {wanted}, but {launcher} started {given} {what}; "
                f"set --trainer.{key} {given}, or {option}={wanted} of {launcher}"
            )


_OPTIONS = {"srun": ("--ntasks-per-node", "--nodes"), "torchrun": ("--nproc-per-node", "--nnodes")}


def _started(environment: ClusterEnvironment) -> tuple[str, int, int] | None:
    """(launcher, processes a node, nodes), None: Lightning starts the processes itself."""
    if isinstance(environment, TorchElasticEnvironment):
        per_node = int(os.environ.get("LOCAL_WORLD_SIZE", environment.world_size()))
        return "torchrun", per_node, environment.world_size() // per_node
    if isinstance(environment, SLURMEnvironment) and SLURMEnvironment.detect():
        nodes = int(os.environ.get("SLURM_NNODES", 1))
        return "srun", environment.world_size() // nodes, nodes
    return None
