"""The folder of a run: where it is, and whether it is free or holds another run."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only

from .errors import ConfigurationError

# A run that has begun.


def run_folder(trainer: pl.Trainer) -> Path | None:
    """The folder of this run's config, pictures and checkpoints, the same on every process; None if it has none."""
    logger = trainer.logger
    if logger is None or isinstance(logger, (CSVLogger, TensorBoardLogger)):
        folder = trainer.log_dir
    else:
        folder = str(Path(logger.save_dir or ".", str(logger.name), str(logger.version)))
    folder = trainer.strategy.broadcast(folder)
    return Path(folder) if folder is not None else None


def path_beside_checkpoint(trainer: pl.Trainer, kind: str, suffix: str = "json", replace: bool = False) -> Path:
    """A file beside the checkpoint, or in the run's folder: STEM.KIND.SUFFIX. Every process must call it.

    Args:
        trainer: has the path of the checkpoint.
        kind: the content of the file.
        suffix: of its name.
        replace: whether to overwrite a file of that name; otherwise the next free name is taken, STEM.KIND_1.SUFFIX.
    """
    checkpoint = Path(trainer.ckpt_path) if trainer.ckpt_path else None
    folder = checkpoint.parent if checkpoint else run_folder(trainer) or Path()
    stem, number = checkpoint.stem if checkpoint else "model", 0
    while (path := folder / f"{stem}.{kind}{f'_{number}' if number else ''}.{suffix}").exists() and not replace:
        number += 1
    folder.mkdir(parents=True, exist_ok=True)
    return path


# A run that is about to begin, from its configuration alone. `trainer` is the configuration's part of that name.


def is_first_process() -> bool:
    """Whether this is the process that writes, before there is a process group to ask."""
    return getattr(rank_zero_only, "rank", 0) == 0 and not _environment_number("NODE_RANK")


def job_name() -> str | None:
    """A name that stays the same when this command is started again; None: it will not be, or has no such name.

    SLURM keeps the number of a requeued batch job, and torchrun keeps the id of a run whose processes it restarts.
    """
    batch, elastic = os.environ.get("SLURM_JOB_ID"), os.environ.get("TORCHELASTIC_RUN_ID", "none")
    if batch and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        return f"job_{batch}"
    return f"run_{elastic}" if elastic != "none" and _environment_number("TORCHELASTIC_MAX_RESTARTS") else None


def restarted() -> bool:
    """Whether SLURM or torchrun has started this command before."""
    batch = (job_name() or "").startswith("job_")
    return bool(
        (batch and _environment_number("SLURM_RESTART_COUNT")) or _environment_number("TORCHELASTIC_RESTART_COUNT")
    )


def _environment_number(variable: str) -> int:
    return int(os.environ.get(variable) or 0)


def configured_loggers(trainer: Any) -> Iterator[tuple[str, Any]]:
    """The class name and the arguments of every configured logger."""
    given = trainer.logger if isinstance(trainer.logger, list) else [trainer.logger]
    for logger in given:
        if getattr(logger, "class_path", None) is not None:
            yield logger.class_path.rpartition(".")[2], logger.init_args


NUMBERED_LOGGERS = ("MetricsLogger", "CSVLogger", "TensorBoardLogger")
"""Loggers with a folder of numbered versions."""


def name_loggers(trainer: Any, chosen: str) -> None:
    """Gives loggers without a name the chosen one, DATA/MODEL."""
    for kind, arguments in configured_loggers(trainer):
        if kind in (*NUMBERED_LOGGERS, "WandbLogger") and arguments.get("name") == "lightning_logs":
            arguments["name"] = chosen


def place_loggers(trainer: Any) -> None:
    """Sets where the loggers write, if the configuration does not.

    `save_dir` becomes `default_root_dir` if it is not given or the current folder. The version of a command that may be
    started again is its `job_name`.
    """
    trainer.default_root_dir = os.path.expanduser(trainer.default_root_dir or ".")
    for kind, arguments in configured_loggers(trainer):
        if kind in (*NUMBERED_LOGGERS, "WandbLogger") and arguments.get("save_dir") in (None, "."):
            arguments["save_dir"] = trainer.default_root_dir
        if kind in NUMBERED_LOGGERS and arguments.get("version") is None:
            arguments["version"] = job_name()
        if kind == "WandbLogger" and job_name() and arguments.get("id") is None and arguments.get("version") is None:
            # Ids are unique in a project, which several clusters may share.
            arguments["id"] = "_".join(filter(None, [job_name(), os.environ.get("SLURM_CLUSTER_NAME")]))
            arguments["resume"] = "allow"


def leave_out_placeholder(trainer: Any, is_given: Callable[[str], bool]) -> None:
    """Lets TensorBoard show no `hp_metric`, a placeholder for a figure that nobody logs, unless the option is given."""
    for kind, arguments in configured_loggers(trainer):
        if kind == "TensorBoardLogger" and not is_given("default_hp_metric"):
            arguments["default_hp_metric"] = False


def join_run(trainer: Any, checkpoint: Path) -> None:
    """Lets TensorBoard add to the folder of the run that a checkpoint lies in, unless another place is given.

    Loggers of CSV files would write over those of the run.
    """
    folder = checkpoint.absolute().parent.parent
    for kind, arguments in configured_loggers(trainer):
        free = arguments.get("version") in (None, job_name()) and arguments["save_dir"] == trainer.default_root_dir
        if kind == "TensorBoardLogger" and free and checkpoint.parent.name == "checkpoints":
            arguments["save_dir"], arguments["name"], arguments["version"] = str(folder.parent), "", folder.name


def planned_folder(trainer: Any) -> Path | None:
    """The folder that `run_folder` will give for this run; None if it is not known before the start."""
    first = next(configured_loggers(trainer), None)
    if first is None:
        return Path(trainer.default_root_dir) if not trainer.logger else None
    kind, arguments = first
    version = arguments.get("version")
    if kind in NUMBERED_LOGGERS and version is not None:
        folder = version if isinstance(version, str) else f"version_{version}"
        return Path(arguments["save_dir"], arguments.get("name") or "", folder)
    if kind == "WandbLogger" and (arguments.get("id") or version):
        project = arguments.get("project") or os.environ.get("WANDB_PROJECT", "lightning_logs")
        return Path(arguments.get("dir") or arguments["save_dir"], project, arguments.get("id") or version)
    return None


def checkpoint_folder(trainer: Any, dirpath: str | None) -> Path | None:
    """The folder of this run's checkpoints; None if it is not known before the start."""
    folder = planned_folder(trainer)
    return Path(dirpath) if dirpath else folder and folder / "checkpoints"


def require_free(trainer: Any, dirpath: str | None, resumed: Path | None, again: bool = False) -> None:
    """Raises ConfigurationError if this run would write into the folder of another one.

    Args:
        dirpath: `checkpoint.dirpath`.
        resumed: the checkpoint to resume from. A checkpoint in the run's own folder means that it is the same run.
        again: whether the run was started before, and may have died before its first checkpoint.
    """
    folder, checkpoints = planned_folder(trainer), checkpoint_folder(trainer, dirpath)
    if checkpoints is not None and resumed is not None and resumed.resolve().parent == checkpoints.resolve():
        return
    if checkpoints is not None and any(checkpoints.glob("*.ckpt")):
        taken, key = checkpoints, "checkpoint.dirpath" if dirpath else "trainer.logger"
    elif (
        folder is not None
        and not again
        and any(any(folder.glob(kind)) for kind in ("metrics.csv", "events.out.tfevents*"))
    ):
        taken, key = folder, "trainer.logger"
    else:
        return
    raise ConfigurationError(
        f"{key}: {str(taken)!r} holds another run; continue it with --ckpt_path last, or set another folder"
    )


def make_run_folder(trainer: Any) -> Path | None:
    """Makes the run's folder, so that no other run takes it, and returns it if it is new.

    For loggers with numbered versions, the next number is written into their arguments.
    """
    for _, arguments in configured_loggers(trainer):
        if arguments.get("save_dir") is not None:  # W&B writes elsewhere if its folder does not exist
            Path(arguments["save_dir"]).mkdir(parents=True, exist_ok=True)
    numbered = [a for kind, a in configured_loggers(trainer) if kind in NUMBERED_LOGGERS and a.get("version") is None]
    folder, first = planned_folder(trainer), next(configured_loggers(trainer), None)
    if folder is None and first is not None and first[0] in NUMBERED_LOGGERS:
        root = Path(numbered[0]["save_dir"], numbered[0].get("name") or "")
        taken = [path.name.removeprefix("version_") for path in root.glob("version_*")]
        version = max((int(number) for number in taken if number.isdigit()), default=-1) + 1
        while not _make_new(root / f"version_{version}"):
            version += 1
        for arguments in numbered:
            arguments["version"] = version
        return root / f"version_{version}"
    return folder if folder is not None and trainer.logger and _make_new(folder) else None


def _make_new(folder: Path) -> bool:
    """Makes the folder, and returns whether it is new."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        return False
    return True


def written_folders(trainer: Any, dirpath: str | None) -> Iterator[tuple[str, str]]:
    """The folders that a run writes into, with the key that names each."""
    root = "trainer.default_root_dir"
    if not trainer.logger:
        yield root, trainer.default_root_dir
    for _, arguments in configured_loggers(trainer):
        folder = arguments.get("save_dir")
        if folder is not None:
            yield root if folder == trainer.default_root_dir else "trainer.logger.init_args.save_dir", folder
    if dirpath is not None:
        yield "checkpoint.dirpath", dirpath


def require_writable(key: str, path: Path, file: bool = False) -> None:
    """Raises ConfigurationError if the folder, or the file, cannot be created or written."""
    above = path
    while not os.path.exists(above):
        above = above.parent
    if file and above == path:
        if path.is_dir() or not os.access(path, os.W_OK):
            raise ConfigurationError(f"{key}: {str(path)!r} is {'a folder' if path.is_dir() else 'read-only'}")
        above = path.parent
    if not above.is_dir():
        raise ConfigurationError(f"{key}: {str(path)!r} cannot be written: {str(above)!r} is not a folder")
    try:
        with tempfile.TemporaryFile(dir=above):
            pass
    except OSError as error:
        raise ConfigurationError(
            f"{key}: {str(path)!r} cannot be written: {error.strerror} in {str(above)!r}"
        ) from error


def short_names(paths: Sequence[Path]) -> list[str]:
    """The folders of runs without what all have in common."""
    whole = [path.absolute() for path in paths]
    common = Path(os.path.commonpath(whole)) if len(set(whole)) > 1 else whole[0].parent
    return [path.relative_to(common).as_posix() for path in whole]
