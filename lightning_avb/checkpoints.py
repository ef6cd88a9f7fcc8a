"""Checkpoints as files: writing them atomically, finding them, detecting damaged ones, loading them."""

from __future__ import annotations

import inspect
import os
import zipfile
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.utilities import rank_zero_info

from .batch import Batch
from .capabilities import DataDescription
from .errors import ConfigurationError, UnwritableError, did_you_mean
from .game import Game
from .models import Posterior
from .recipes import locate
from .resuming import require_known_version
from .runs import restarted
from .shipped import pretrained

Location = str | os.PathLike[str]
"""A checkpoint, a folder of checkpoints, or the folder of a run."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint to a temporary file and renames it: a crash leaves the old or the new one complete."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        save_atomically(checkpoint, Path(path))


def save_atomically(content: dict[str, Any], path: Path) -> None:
    """Writes a file for `torch.load` completely or not at all.

    Raises:
        UnwritableError: the disk is full, or the folder cannot be written to; an existing file is kept.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        # torch's error about a failed write has the reason only in its context.
        reason = next((e for e in (error, error.__context__) if isinstance(e, OSError)), None)
        if reason is None:
            raise
        before = "the previous one is kept" if path.exists() else "there is no previous one"
        why = reason.strerror or reason
        raise UnwritableError(f"{str(path)!r} could not be written ({why}); {before}") from error


NO_CHECKPOINT = "is no checkpoint of lightning_avb"


def damage(path: Path) -> str | None:
    """What is wrong with the bytes of a checkpoint, as a predicate; None if it is intact.

    A checkpoint is a zip file with checksums, which `torch.load` ignores when it maps the file. They are compared here,
    at the cost of reading the file once.
    """
    if path.stat().st_size == 0:
        return "is damaged (it is empty)"
    with path.open("rb") as file:
        if not (file.read(2) == b"PK" or zipfile.is_zipfile(path)):
            return NO_CHECKPOINT
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except Exception as error:  # a flipped bit in the tables of a zip file can raise anything
        return f"is damaged ({str(error).rstrip('.') or type(error).__name__})"
    return None if broken is None else f"is damaged (the checksum of its part {broken.partition('/')[2]!r} is wrong)"


def read_checkpoint(location: Location) -> dict[str, Any]:
    """A checkpoint of this library, its tensors on the CPU.

    Raises:
        ConfigurationError: no file there, a damaged one, no checkpoint of this library, or one of its version 0.1.
    """
    path = find_checkpoint(location)
    wrong = damage(path)
    if wrong is not None:
        raise ConfigurationError(f"ckpt_path: {str(path)!r} {wrong}{_newest_hint(path)}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        checkpoint["hyper_parameters"]["_class_path"]
    except Exception as error:
        raise ConfigurationError(f"ckpt_path: {str(path)!r} {NO_CHECKPOINT}{_newest_hint(path)}") from error
    require_known_version(checkpoint, repr(str(path)))
    return checkpoint


def _newest_hint(path: Path) -> str:
    """The newest undamaged checkpoint beside an unusable file, as the end of a message."""
    found = newest_undamaged(path.parent, but=path)
    return f"; the newest whole checkpoint there is {str(found)!r}" if found else ""


def newest_undamaged(folder: Path, pattern: str = "*.ckpt", but: Path | None = None) -> Path | None:
    """The newest checkpoint of a folder that is not damaged; None if there is none."""
    return next((path for path in newest_first(folder, pattern) if path != but and damage(path) is None), None)


def newest_first(folder: Path, pattern: str = "*.ckpt") -> list[Path]:
    """The checkpoints of a folder, the newest first."""
    files = [path for path in folder.glob(pattern) if path.is_file() and not path.name.startswith(".")]
    return sorted(files, key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)


def newest_last(folder: Path) -> Path | None:
    """The newest `last*.ckpt` of a folder, damaged or not; None if there is none."""
    return next(iter(newest_first(folder, "last*.ckpt")), None)


def find_checkpoint(location: Location) -> Path:
    """The file of a checkpoint: the location itself, or the last checkpoint in a run's folder or its `checkpoints`.

    `pretrained/DATA/MODEL`, where there is no such file, is a model that comes with the package.

    Raises:
        ConfigurationError: there is none.
    """
    path = Path(location)
    if path.is_file():
        return path
    if not path.is_dir():
        shipped = pretrained()
        if path.as_posix() in shipped:
            return shipped[path.as_posix()]
        near = did_you_mean(path.as_posix(), shipped) if path.parts[:1] == ("pretrained",) else ""
        raise ConfigurationError(f"ckpt_path: there is no file {str(path)!r}{near}")
    found = newest_last(path / "checkpoints") or newest_last(path)
    if found is None:
        raise ConfigurationError(
            f"ckpt_path: there is no last.ckpt in the folder {str(path)!r}, nor in its checkpoints"
        )
    return found


def resolve_ckpt_path(asked: str | None, own: Path | None, fit: bool = True) -> Path | None:
    """The checkpoint for a value of `--ckpt_path`; None: the run starts from scratch.

    Args:
        asked: a file, a folder, `last`, `hpc`, or None.
        own: the folder of this run's own checkpoints; None: a new one at every start.
        fit: whether the model is trained. A restarted job then continues from the newest undamaged checkpoint of its
            own folder, whatever it started from.

    Raises:
        ConfigurationError: there is none.
    """
    if asked in ("last", "hpc") and own is None:
        raise ConfigurationError(
            f"ckpt_path: {asked!r} is looked for in this run's own folder, which is a new one at every start; fix it "
            "by the logger's version or checkpoint.dirpath, or give the folder of a run"
        )
    if own is None and asked is None and fit and restarted():
        rank_zero_info("ckpt_path: started before, but the folder of that start is not known; it starts from scratch")
    if own is not None and (asked == "hpc" or (fit and restarted())):
        found = newest_undamaged(own)
        files = newest_first(own)
        if found is not None:
            for path in files[: files.index(found)]:
                rank_zero_info(f"ckpt_path: {str(path)!r} {damage(path)}")
            rank_zero_info(f"ckpt_path: this job was started before; it goes on from {str(found)!r}")
            return found
        if files:
            raise ConfigurationError(f"ckpt_path: {str(files[0])!r} {damage(files[0])}; no checkpoint there is whole")
        if asked == "hpc":
            raise ConfigurationError(f"ckpt_path: 'hpc': there is no checkpoint in {str(own)!r}")
        if asked is None:
            rank_zero_info(f"ckpt_path: no checkpoint in {str(own)!r}; the job starts from scratch again")
    if asked == "last" and own is not None:
        found = newest_last(own)
        if found is None and not fit:
            raise ConfigurationError(f"ckpt_path: 'last': there is no last.ckpt in {str(own)!r}")
        if found is None:
            rank_zero_info(f"ckpt_path: no last.ckpt in {str(own)!r}; the run starts from scratch")
        return found
    if asked is not None and (asked == "best" or asked.partition(":")[0] == "registry") and not Path(asked).exists():
        raise ConfigurationError(f"ckpt_path: {asked!r} is not known here; give the file, or the folder of a run")
    return None if asked is None else find_checkpoint(asked)


def load(location: Location, root: str | None = None) -> Game:
    """The model of a checkpoint, of any class, in evaluation mode; `root`: the file of a posterior's target."""
    path = find_checkpoint(location)
    arguments = read_checkpoint(path)["hyper_parameters"]
    cls = locate(arguments["_class_path"])
    if not (isinstance(cls, type) and issubclass(cls, Game)):
        raise ConfigurationError(f"ckpt_path: {str(path)!r} holds no model of lightning_avb")
    moved: dict[str, Any] = {}
    if root is not None and issubclass(cls, Posterior):
        target = arguments["target"]
        if "path" not in inspect.signature(locate(target["class_path"])).parameters:
            raise ConfigurationError(f"root: {target['class_path']} has no argument `path`")
        moved["target"] = {**target, "init_args": {**(target.get("init_args") or {}), "path": root}}
    return cls.load_from_checkpoint(path, map_location="cpu", **moved).eval()


def load_datamodule(location: Location, root: str | None = None) -> pl.LightningDataModule:
    """The DataModule on which a checkpoint was trained, before it reads its data, from `root` if given."""
    checkpoint = read_checkpoint(location)
    arguments = dict(checkpoint.get("datamodule_hyper_parameters") or {})
    if "_class_path" not in arguments:
        raise ConfigurationError(f"ckpt_path: {str(location)!r} does not say which data it was trained on")
    cls = locate(arguments.pop("_class_path"))
    if not (isinstance(cls, type) and issubclass(cls, pl.LightningDataModule)):
        raise ConfigurationError(f"ckpt_path: {str(location)!r} names {cls!r} as its data")
    where = next((name for name in ("root", "path") if name in arguments), None)
    if root is not None and where is None:
        raise ConfigurationError(f"root: {cls.__name__} reads no files")
    data = cls(**{**arguments, **({where: root} if root is not None else {})})
    data.load_state_dict(checkpoint.get(cls.__qualname__, {}))
    return data


def data_of(location: Location, root: str | None = None) -> DataDescription:
    """What a checkpoint says of the data on which it was trained; all defaults if it does not name it."""
    named = read_checkpoint(location).get("datamodule_hyper_parameters")
    return DataDescription(load_datamodule(location, root) if named else None)


def label_names(location: Location) -> list[str] | None:
    """What the labels 0, 1, ... of a checkpoint's data stand for; None if it does not say."""
    checkpoint = read_checkpoint(location)
    path = (checkpoint.get("datamodule_hyper_parameters") or {}).get("_class_path", "")
    return checkpoint.get(path.rpartition(".")[2], {}).get("label_names")


def load_data(location: Location, root: str | None = None, stage: Literal["val", "test"] = "test") -> Batch:
    """The first batch of a split, by itself the test data, of a checkpoint's DataModule."""
    data = load_datamodule(location, root)
    data.prepare_data()
    data.setup("test" if stage == "test" else "validate")
    return Batch.of(next(iter(data.test_dataloader() if stage == "test" else data.val_dataloader())))
