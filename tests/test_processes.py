"""Strategies and launchers: what is supported, what is refused, in one line and by name."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from jsonargparse import Namespace
from pytorch_lightning.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    StrategyRegistry,
)

from lightning_avb import VAE, processes
from lightning_avb.errors import ConfigurationError

ROOT = Path(__file__).parents[1]
VAE_CONFIG = str(ROOT / "configs/digits/vae.yaml")
SLURM = {
    "SLURM_JOB_ID": "17",
    "SLURM_JOB_NAME": "train",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "tests", "RANK": "0", "LOCAL_RANK": "0", "GROUP_RANK": "0"}


def table() -> Iterator[tuple[str, str]]:
    """(strategy, what docs/cluster.md says of it)."""
    text = (ROOT / "docs/cluster.md").read_text().partition("## Strategies")[2].partition("\n## ")[0]
    for names, says in re.findall(r"^\| (`.*?) \| (supported|refused)", text, re.M):
        yield from ((name, says) for name in re.findall(r"`(\w+)`", names))


def trainer(**options: object) -> pl.Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return pl.Trainer(accelerator="cpu", **quiet, **options)  # type: ignore[arg-type]


def says(monkeypatch: pytest.MonkeyPatch, environment: dict[str, object], strategy: str = "auto") -> str:
    """What is said of processes that a launcher has started with these variables."""
    for name, value in environment.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(ConfigurationError) as error:
        processes.check_launch(strategy)
    return str(error.value)


def test_the_table_has_every_name_that_lightning_knows() -> None:
    cannot_be_built_by_name = {"single_tpu", "single_device"}
    assert set(StrategyRegistry) - cannot_be_built_by_name <= {name for name, _ in table()}


@pytest.mark.parametrize(("name", "verdict"), [row for row in table() if row[0] in StrategyRegistry])
def test_a_strategy_is_what_the_table_says(name: str, verdict: str) -> None:
    cls = StrategyRegistry[name]["strategy"].__name__
    if verdict == "supported":
        processes.check_launch(name)
        processes.check_trainer(trainer(strategy=name, devices=2))
    else:
        with pytest.raises(ConfigurationError, match=rf"^trainer\.strategy: {cls} is not supported: .* take auto"):
            processes.check_launch(name)


def test_auto_is_supported() -> None:
    for devices in (1, 2):
        processes.check_launch("auto")
        processes.check_trainer(trainer(devices=devices))


@pytest.mark.parametrize("strategy", [ModelParallelStrategy, FSDPStrategy, DeepSpeedStrategy])
def test_a_class_path_is_refused_by_name(strategy: type) -> None:
    with pytest.raises(ConfigurationError, match=f"^trainer.strategy: {strategy.__name__} is not supported"):
        processes.check_launch(Namespace(class_path=f"pytorch_lightning.strategies.{strategy.__name__}"))


def test_an_object_is_refused_by_name_when_a_model_meets_it() -> None:
    class Mine(DDPStrategy):
        pass

    for strategy, name in ((ModelParallelStrategy(), "ModelParallelStrategy"), (Mine(), "Mine")):
        model = VAE(latent_dim=2, data_shape=(1, 8, 8))
        model.trainer = trainer(strategy=strategy, devices=2)
        with pytest.raises(ConfigurationError, match=f"^trainer.strategy: {name} is not supported"):
            model.setup("fit")


@pytest.mark.parametrize("option", [{"static_graph": True}, {"model_averaging_period": 2}])
def test_an_option_of_ddp_under_which_processes_would_differ_is_refused(option: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match=f"^trainer.strategy.{next(iter(option))}: "):
        processes.check_trainer(trainer(strategy=DDPStrategy(**option), devices=2))  # type: ignore[arg-type]
    processes.check_trainer(trainer(strategy=DDPStrategy(gradient_as_bucket_view=True), devices=2))


def test_srun_without_ntasks_per_node(monkeypatch: pytest.MonkeyPatch) -> None:
    said = says(monkeypatch, {**SLURM, "SLURM_NTASKS": 4, "SLURM_NNODES": 2, "SLURM_STEP_ID": 0})
    assert said.startswith("srun: 4 tasks without --ntasks-per-node; put `#SBATCH --ntasks-per-node=2`")


def test_a_script_without_srun(monkeypatch: pytest.MonkeyPatch) -> None:
    said = says(monkeypatch, {**SLURM, "SLURM_NTASKS": 2, "SLURM_NTASKS_PER_NODE": 2})
    assert said.endswith("write `srun lightning-avb ...`")


def test_torchrun_that_starts_workers_again_with_the_store_of_the_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    restarts = {**TORCHRUN, "TORCHELASTIC_MAX_RESTARTS": 3, "TORCHELASTIC_USE_AGENT_STORE": "True"}
    assert "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1" in says(monkeypatch, restarts)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "False")
    processes.check_launch("ddp")


@pytest.mark.parametrize(
    ("started", "options", "line"),
    [
        ({"SLURM_NTASKS": 2, "SLURM_NTASKS_PER_NODE": 2}, {"devices": 1}, r"devices: 1, .* srun started are 2;"),
        ({"SLURM_NTASKS": 1}, {"devices": 2}, r"devices: 2, .* srun started are 1; .* --ntasks-per-node=2 of srun"),
        (
            {"SLURM_NTASKS": 4, "SLURM_NTASKS_PER_NODE": 2, "SLURM_NNODES": 2},
            {"devices": 2},
            r"num_nodes: 1, .* nodes that srun started are 2; set --trainer.num_nodes 2",
        ),
        ({"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}, {"devices": 1}, r"devices: 1, .* torchrun started are 2;"),
        (
            {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2},
            {"devices": 1, "num_nodes": 2},
            r"devices: 1, .* --nproc-per-node=1",
        ),
        ({"WORLD_SIZE": 4, "LOCAL_WORLD_SIZE": 2}, {"devices": 2}, r"num_nodes: 1, .* --nnodes=1 of torchrun"),
    ],
)
def test_other_processes_than_the_trainer_is_to_have(
    monkeypatch: pytest.MonkeyPatch, started: dict[str, object], options: dict[str, int], line: str
) -> None:
    """Lightning says nothing of most of these: it trains copies, or waits."""
    for name, value in {**(TORCHRUN if "WORLD_SIZE" in started else SLURM), **started}.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(ConfigurationError, match=rf"^trainer\.{line}"):
        processes.check_trainer(trainer(**options))


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--trainer.strategy", "deepspeed"], "trainer.strategy: DeepSpeedStrategy is not supported"),
        (["--trainer.devices", "[0,1]"], "trainer: `devices` selected with `CPUAccelerator` should be an int > 0."),
        (["--trainer.devices", "-1"], "trainer: `devices` selected with `CPUAccelerator` should be an int > 0."),
        (["--trainer.num_nodes", "0"], "trainer: `num_nodes` must be a positive integer, but got 0."),
    ],
)
def test_the_command_says_it_in_one_line(
    refusal: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: list[str], line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    said = refusal("fit", "--config", VAE_CONFIG, "--trainer.accelerator", "cpu", *options)
    assert said.startswith(f"error: {line}")
    assert not list(tmp_path.rglob("version_*")), "a start that fails leaves no folder"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            "[/pytorch/gloo/transport/tcp/pair.cc:545] Read error [127.0.0.1]:7562: Connection reset by peer. This",
            "rank 0 lost another process of the run (Read error [127.0.0.1]:7562: Connection reset by peer):",
        ),
        (
            "Gloo connectFullMesh failed with [/pytorch/gloo/transport/tcp/pair.cc:152] timed out connecting",
            "rank 0 lost another process of the run (Gloo connectFullMesh failed with",
        ),
    ],
)
def test_a_process_that_is_gone(monkeypatch: pytest.MonkeyPatch, error: str, line: str) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert (processes.describe_lost_process(RuntimeError(error)) or "").startswith(line)
    assert "NCCL" in (processes.describe_lost_process(torch.distributed.DistBackendError("NCCL error in: ...")) or "")
    assert processes.describe_lost_process(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
