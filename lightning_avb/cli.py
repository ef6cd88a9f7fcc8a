"""The command line: LightningCLI's fit, validate, test and predict, and pictures from a checkpoint alone."""

from __future__ import annotations

import ctypes
import difflib
import errno
import inspect
import os
import re
import shutil
import signal
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ProgressBar, TQDMProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.plugins.io import CheckpointIO
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor

import datamodules

from . import draws, noise, pictures, processes, runs
from .callbacks import Checkpoint, Pictures, SaveFigures, SavePredictions
from .checkpoints import AtomicCheckpointIO, load, load_data, load_datamodule, read_checkpoint, resolve
from .diagnosis import Diagnosis
from .errors import ConfigurationError, DensityError, NonFiniteLossError, UnwritableError, at_least
from .evaluation import resample_posterior, restoration
from .evaluation.restoration import visible
from .game import Game
from .likelihood import Likelihood, lacking
from .models import Posterior
from .recipes import locate, plain
from .records import Records
from .support import Parameters


class Parser(LightningArgumentParser):
    """LightningCLI's parser, whose errors are one line in the user's words.

    A default may be a recipe with arguments, `partial(Class, option=...)`, which can be overridden in part.
    """

    def add_class_arguments(self, *args: Any, **kwargs: Any) -> Any:
        added = super().add_class_arguments(*args, **kwargs)
        defaults = self.get_defaults(skip_validation=True).items()
        self.set_defaults({key: plain(value, key) for key, value in defaults if isinstance(value, partial)})
        return added

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:  # type: ignore[override]
        print(f"error: {explain(message, self)}", file=sys.stderr)
        sys.exit(2)


def explain(message: str, parser: Any) -> str:
    """The parser's message in one line: the key, what was given, what was expected, the nearest valid name."""
    unknown = re.search(r"unrecognized arguments: (\S+)", message)
    if unknown:
        option = unknown[1].split("=")[0]
        options = [name for action in parser._actions for name in action.option_strings]
        return f"{_full_key(option.lstrip('-'))}: no such key{_nearest(option, options)}"
    keys = [key for key in re.findall(r'(?:Parser key|Key|Group) ["\']([\w.\[\]]+)["\']', message) if key != "config"]
    key = _full_key(".".join(dict.fromkeys(keys)))
    option = re.search(r"(?:Option|Key) '?([\w.]+)'? is not (?:accepted|expected)", message)
    if option:
        name = option[1].rpartition(".")[2]
        where = _full_key(option[1]) if not key or key.endswith(option[1]) else f"{key}.{option[1]}"
        return f"{where}: no such option here{_nearest(name, sorted(_vocabulary()))}"
    missing = re.search(r"module '([\w.]+)' has no attribute '(\w+)'", message)
    if missing:
        names = list(getattr(sys.modules.get(missing[1]), "__all__", []))
        return f"{key}: there is no {missing[1]}.{missing[2]}{_nearest(missing[2], names)}"
    path = re.search(r"Expected a dot import path string: (\S+)", message)
    if path:
        return f"{key}: there is no class {path[1]!r}{_nearest(path[1], [cls.__name__ for cls in _parts()])}"
    value = re.search(r"(?:Got value|Given value): (.+)", message)
    expected = re.findall(r"Expected an? (?:<class ')?(.+?)(?:'>)?(?:\. Got value.*)?$", message, re.M)
    kinds = [kind.removeprefix("typing.Literal") for kind in expected if kind != "NoneType"]
    if value and kinds:
        return f"{key}: expected {' or '.join(dict.fromkeys(kinds))}, got {value[1]}"
    noise_lines = (
        r"(Subtypes|Errors|Given value|Does not validate|- Expected a <class 'NoneType'>|Problem with given class)"
    )
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    sentences = [line.removeprefix("- ") for line in lines if not re.match(noise_lines, line)]
    return " ".join(dict.fromkeys(sentences)) or message


def _parts() -> list[type]:
    """The classes that a configuration usually names."""
    modules = (sys.modules["lightning_avb"], datamodules, torch.optim)
    exported = [getattr(module, name) for module in modules for name in module.__all__]
    return [part for part in exported if isinstance(part, type)]


def _vocabulary() -> set[str]:
    return {name for part in _parts() for name in inspect.signature(part).parameters}


def _full_key(key: str) -> str:
    """The key as the user typed it, where the command line has one that ends like it."""
    typed = [argument.lstrip("-").split("=")[0] for argument in sys.argv if argument.startswith("--")]
    return next((option for option in typed if option.endswith(f".{key}")), key)


def _nearest(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, [other for other in names if other != name], 1, 0.5)
    return f"; did you mean {near[0].lstrip('-')}?" if near else ""


class CLI(LightningCLI):
    """LightningCLI with this library's defaults. The configuration and the command line win over a checkpoint."""

    def __init__(self, args: list[str] | None = None) -> None:
        self.arguments = sys.argv[1:] if args is None else args
        self.claimed: Path | None = None  # the folder that this start has made
        self.records = Records()
        try:
            self._run(args)
        except BaseException:
            if self.claimed is not None and not self.records.begun:
                shutil.rmtree(self.claimed, ignore_errors=True)
            raise

    def _run(self, args: list[str] | None) -> None:
        super().__init__(
            Game,
            pl.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,
            parser_class=Parser,
            parser_kwargs={"prog": "lightning-avb", "epilog": f"Of a checkpoint alone: {', '.join(COMMANDS)}."},
            trainer_defaults={
                "logger": {"class_path": "lightning_avb.records.MetricsLogger"},
                "default_root_dir": "runs",
            },
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            args=args,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(Checkpoint, "checkpoint")
        parser.set_defaults({"checkpoint.save_last": True})
        parser.add_lightning_class_args(Pictures, "pictures")
        parser.add_lightning_class_args(Likelihood, "likelihood")
        parser.add_lightning_class_args(Diagnosis, "diagnosis")
        parser.add_argument(
            "--matmul_precision",
            type=Literal["highest", "high", "medium"],
            default="highest",
            help="torch.set_float32_matmul_precision: 'medium' is faster where the processor has bfloat16 products.",
        )

    def _parse_ckpt_path(self) -> None:
        """The hyper-parameters of a checkpoint do not enter the configuration."""

    def before_instantiate_classes(self) -> None:
        """Checks what was asked for, and says where the run is, before anything is built."""
        config = self.config[self.config.subcommand]
        processes.check_start(config.trainer.strategy)
        if config.trainer.gradient_clip_val is not None:
            raise ConfigurationError(
                "trainer.gradient_clip_val: every player has its own; set model.players.*.clip_norm"
            )
        if config.trainer.accumulate_grad_batches != 1:
            raise ConfigurationError("trainer.accumulate_grad_batches: set model.accumulate, which splits a batch")
        torch.set_float32_matmul_precision(config.matmul_precision)
        self._place(config)

    def _place(self, config: Any) -> None:
        """Finds the checkpoint, and the folder where this run leaves what it leaves."""
        trainer, fit, dirpath = config.trainer, self.subcommand == "fit", config.checkpoint.dirpath
        runs.name(trainer, self._run_name(config))
        # What follows belongs to this start alone.
        self.records.config = partial(self._parser(self.subcommand).dump, config.clone(), skip_none=False)
        runs.place(trainer)
        asked = config.get("ckpt_path")
        checkpoint = resolve(asked, runs.kept(trainer, dirpath), fit)
        if checkpoint is not None:
            config.ckpt_path = str(checkpoint)
            self._accept(config, read_checkpoint(checkpoint))
        if not fit:
            self._place_beside(config, checkpoint)
        elif not trainer.fast_dev_run:
            for key, folder in runs.places(trainer, dirpath):
                runs.require_writable(key, Path(folder))
            runs.require_free(trainer, dirpath, checkpoint, again=asked == "last" or runs.restarted())
            self.claimed = runs.claim(trainer) if runs.first_process() else None

    def _place_beside(self, config: Any, checkpoint: Path | None) -> None:
        """What is made of a checkpoint stands beside it: no folder of a run, and no logger that nobody asked for."""
        if checkpoint is None:
            raise ConfigurationError(
                f"ckpt_path: `{self.subcommand}` needs a trained model; give a checkpoint or the folder of a run"
            )
        runs.require_writable("ckpt_path", checkpoint.parent)
        typed = {argument.partition("=")[0] for argument in self.arguments}
        # A configuration file is that of the training, and names its logger.
        if "--trainer.logger" not in typed:
            config.trainer.logger = False
        if "verbose" in config and "--verbose" not in typed:
            config.verbose = False  # Lightning's table does not tell the rows, `SaveFigures` does

    def _accept(self, config: Any, checkpoint: dict[str, Any]) -> None:
        theirs, ours = checkpoint["hyper_parameters"]["_class_path"], config.model.class_path
        if locate(theirs) is not locate(ours):
            raise ConfigurationError(f"model: the checkpoint holds a {theirs}, the configuration asks for {ours}")
        for kind, arguments in runs.loggers(config.trainer):
            if kind == "WandbLogger" and "wandb_id" in checkpoint and arguments.get("id") is None:
                arguments["id"], arguments["resume"] = checkpoint["wandb_id"], "allow"

    def _run_name(self, config: Any) -> str:
        """DATA/MODEL of the first configuration file, or the classes' names."""
        files = config.get("config")
        if files:
            path = Path(str(files[0].relative if hasattr(files[0], "relative") else files[0]))
            return str(Path(path.parent.name, path.stem))
        return "/".join(part.class_path.rpartition(".")[2].lower() for part in (config.data, config.model))

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except ValueError as error:
            raise ConfigurationError(explain(str(error), self.parser)) from error
        except ModuleNotFoundError as error:
            logger = any(name in str(error) for name in ("wandb", "tensorboard"))
            cure = "; loggers come with pip install 'lightning-avb[wandb,tensorboard]'" if logger else ""
            raise ConfigurationError(f"{error}{cure}") from error

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        config = self._get(self.config_init, "trainer")
        fit, trial = self.subcommand == "fit", config.get("fast_dev_run")
        # The pictures come first: a callback that averages weights takes the average away again when validation ends.
        callbacks = [] if trial else [self._get(self.config_init, "pictures")]
        given = config.get("callbacks") or []
        callbacks += given if isinstance(given, list) else [given]
        if config.get("enable_progress_bar") is not False and not any(isinstance(c, ProgressBar) for c in callbacks):
            callbacks.append(TQDMProgressBar(refresh_rate=10))
        if self.subcommand == "test":
            callbacks += [self._get(self.config_init, "likelihood"), self._get(self.config_init, "diagnosis")]
        if not trial:
            callbacks.append(self._record(str(self.subcommand)))
        if not fit:  # what writes checkpoints has nothing to do, and would look for its folder
            callbacks = [callback for callback in callbacks if not isinstance(callback, pl.callbacks.Checkpoint)]
            kwargs["enable_checkpointing"] = False
        elif config.get("enable_checkpointing") is not False and not trial:
            callbacks.append(self._get(self.config_init, "checkpoint"))
        plugins = config.get("plugins") or []
        plugins = [*plugins] if isinstance(plugins, list) else [plugins]
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            plugins.append(AtomicCheckpointIO())
        try:
            trainer = self.trainer_class(**{**config, **kwargs, "callbacks": callbacks, "plugins": plugins})
        except (TypeError, ValueError, RuntimeError) as error:  # Lightning has several kinds for options it refuses
            raise ConfigurationError(f"trainer: {error}") from error
        processes.check(trainer)
        return trainer

    def _record(self, stage: str) -> pl.Callback:
        """What writes down the outcome of a stage."""
        if stage == "fit":
            return self.records
        return SavePredictions() if stage == "predict" else SaveFigures()


def sample(
    ckpt_path: str,
    output: str,
    n: int = 64,
    labels: list[int] | None = None,
    x: str | None = None,
    resample: bool = False,
    seed: int = 0,
    root: str | None = None,
) -> None:
    """Draws from a checkpoint: new data of a generative model, parameters of a posterior.

    Args:
        ckpt_path: the checkpoint.
        output: the file to write. Data: .png for a picture of their means; .npy, .npz or .csv for draws of p(x|z), a
            table in its own units. Parameters: .npz for an array a name, .csv for a table, .nc for ArviZ, .png for a
            picture beside reference draws, where the target has them.
        n: how many.
        labels: for a class-conditional model, used in turn; all of them if not given.
        x: for the posteriors of a family: a .npy file with a data set, or with several, one a row.
        resample: parameters are corrected by importance weights, which costs ten log-densities a draw and some
            gradients; says how many of the weighted draws count.
        seed: another seed, other samples.
        root: folder or file of the data, where it is not the one of the training.
    """
    torch.manual_seed(noise.mixed_seed(seed, "picture"))
    model: Any = load(ckpt_path, root)
    at_least(1, n=n)
    if isinstance(model, Posterior):
        if labels is not None:
            raise ConfigurationError("labels: a posterior has none")
        _sample_parameters(model, Path(output), n, x, seed if resample else None)
    elif x is not None or resample:
        key = "x" if x is not None else "resample"
        raise ConfigurationError(f"{key}: is for posteriors, and this is a {type(model).__name__}")
    elif Path(output).suffix.lower() == ".png":
        picture = pictures.samples(model, n, labels)
        with writing(output):
            pictures.write(picture, Path(output))
    elif Path(output).suffix.lower() in (".npy", ".npz", ".csv"):
        pictures.require(model, "sample", "sample")
        rows = model.sample(n, labels, mean=False)
        # A model may have been trained on plain loaders, and a DataModule of one's own need not know of units.
        named = read_checkpoint(ckpt_path).get("datamodule_hyper_parameters")
        data: Any = load_datamodule(ckpt_path, root) if named else None
        rows = data.restore(rows) if hasattr(data, "restore") else rows
        with writing(output):
            _write_rows(Path(output), rows, getattr(data, "columns", None))
    else:
        raise ConfigurationError(f"output: {output!r} does not end in .png, .npy, .npz or .csv")
    print(output)


def _sample_parameters(model: Posterior, output: Path, n: int, x: str | None, resample: int | None) -> None:
    """Writes draws; `resample` is the seed of importance resampling."""
    suffix = output.suffix.lower()
    if suffix not in (".png", *draws.SUFFIXES):
        raise ConfigurationError(f"output: {str(output)!r} does not end in .png, {', '.join(draws.SUFFIXES)}")
    rows = None if x is None else _data_sets(model, x)
    if rows is not None and len(rows) > 1 and suffix in (".png", ".csv"):
        raise ConfigurationError(f"x: holds {len(rows)} data sets, and a {suffix} file is of one; take .npz")
    if suffix == ".png" and resample is not None:
        raise ConfigurationError(
            "output: a picture is of the sampler's own draws; with resample take .npz, .csv or .nc"
        )
    if suffix == ".png":
        picture = pictures.posterior(model, n, rows)
        with writing(output):
            pictures.write(picture, output)
    else:
        drawn = model.draw(n, rows) if resample is None else _resampled(model, n, rows, resample)
        one = rows is not None and len(rows) == 1
        with writing(output):
            draws.write(output, {name: value.squeeze(1) for name, value in drawn.items()} if one else drawn)


def _resampled(model: Posterior, n: int, rows: Tensor | None, seed: int) -> Parameters:
    """Draws by name, as `Posterior.draw` gives them, and a line that says how good the weights were."""
    found = resample_posterior(model, n, rows, seed)
    worst, k = found.effective.min().item(), found.k.max().item()
    print(f"resample: {worst:.0%} of the weighted proposals are effective, Pareto k {k:.2f}")
    if k >= 0.7:
        print(
            "resample: k is above 0.7: the farthest tails are still not covered, or too few draws tell", file=sys.stderr
        )
    return model.target.named(found.z if model.amortised else found.z.squeeze(1))


def _data_sets(model: Posterior, path: str) -> Tensor:
    """`(batch, *data_shape)` from a file with one or several."""
    try:
        rows = torch.from_numpy(np.load(path)).to(torch.get_default_dtype())
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigurationError(f"x: {path!r} is no .npy file of numbers ({error})") from error
    return rows[None] if model.amortised and tuple(rows.shape) == model.data_shape else rows


def _write_rows(path: Path, rows: Tensor, columns: list[str] | None) -> None:
    if path.suffix.lower() == ".csv" and rows.ndim != 2:
        raise ConfigurationError(
            f"output: rows of shape {tuple(rows.shape[1:])} are no table; write them as .npy or .npz"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".csv":
        header = ",".join(columns or [f"x{i}" for i in range(rows.shape[1])])
        np.savetxt(path, rows.numpy(), delimiter=",", header=header, comments="", fmt="%.8g")
    elif path.suffix.lower() == ".npz":
        np.savez(path, x=rows.numpy())
    else:
        np.save(path, rows.numpy())


def reconstruct(ckpt_path: str, output: str, n: int = 32, seed: int = 0, root: str | None = None) -> None:
    """Encodes and decodes test data: pairs of an original and its reconstruction.

    Args:
        ckpt_path: the checkpoint.
        output: the PNG to write.
        n: how many.
        seed: another seed, other draws of the posterior.
        root: folder of the data, where it is not the one of the training.
    """
    _draw(lambda model: pictures.reconstructions(model, load_data(ckpt_path, root), n), ckpt_path, output, seed)


def interpolate(
    ckpt_path: str, output: str, rows: int = 8, steps: int = 10, seed: int = 0, root: str | None = None
) -> None:
    """Walks from the code of one datum to the code of another.

    Args:
        ckpt_path: the checkpoint.
        output: the PNG to write.
        rows: how many pairs.
        steps: points on the way.
        seed: another seed, other draws of the posterior.
        root: folder of the data, where it is not the one of the training.
    """
    _draw(
        lambda model: pictures.interpolations(model, load_data(ckpt_path, root), rows, steps), ckpt_path, output, seed
    )


def traverse(
    ckpt_path: str,
    output: str,
    dimensions: int | None = None,
    steps: int = 11,
    limit: float = 3.0,
    label: int | None = None,
) -> None:
    """Moves along one latent dimension after the other, the others at 0.

    Args:
        ckpt_path: the checkpoint.
        output: the PNG to write.
        dimensions: how many dimensions, from the first; all if not given.
        steps: points along each.
        limit: from -limit to limit.
        label: the label, for a class-conditional model.
    """
    _draw(lambda model: pictures.traversal(model, dimensions, steps, limit, label), ckpt_path, output, 0)


def inpaint(
    ckpt_path: str,
    output: str,
    mask: str = "right",
    n: int = 8,
    draws: int = 6,
    seed: int = 0,
    root: str | None = None,
) -> None:
    """Hides a part of test pictures and draws it from the model, given the visible part.

    A row a picture: what is seen, what was there, and the draws.

    Args:
        ckpt_path: the checkpoint.
        output: the PNG to write.
        mask: the side to hide: left, right, top, bottom or center; or a PNG of the pictures' size, hidden where black.
        n: how many pictures.
        draws: of each.
        seed: another seed, other draws.
        root: folder of the data, where it is not the one of the training.
    """

    def picture(model: Any) -> Tensor:
        _require_density(model, "inpaint")
        batch = load_data(ckpt_path, root).first(n)
        if len(model.data_shape) < 2:
            raise ConfigurationError(f"mask: rows of shape {tuple(model.data_shape)} are no pictures")
        shown = pictures.read_mask(mask) if Path(mask).is_file() else visible(mask, model.data_shape)
        if shown.shape != batch.x.shape[-2:]:
            raise ConfigurationError(f"mask: {tuple(shown.shape)} pixels, the data has {tuple(batch.x.shape[-2:])}")
        seen = torch.where(shown, batch.x, torch.full_like(batch.x, 0.5))
        return pictures.restorations(seen, batch.x, restoration.inpaint(model, batch, shown, draws))

    _draw(picture, ckpt_path, output, seed)


def denoise(
    ckpt_path: str,
    output: str,
    noise: float,
    n: int = 8,
    draws: int = 6,
    seed: int = 0,
    root: str | None = None,
) -> None:
    """Puts noise on test data and draws what they may have been without it.

    A row a datum: with noise, without, and the draws.

    Args:
        ckpt_path: the checkpoint.
        output: the PNG to write.
        noise: probability of a wrong value with a Bernoulli decoder; standard deviation with a Gaussian one.
        n: how many data.
        draws: of each.
        seed: another seed, other draws.
        root: folder of the data, where it is not the one of the training.
    """

    def picture(model: Any) -> Tensor:
        _require_density(model, "denoise")
        batch = load_data(ckpt_path, root).first(n)
        model.decoder.noisy(model.prior().sample((1,)), noise, None if batch.y is None else batch.y[:1])
        noisy = batch._replace(x=model.decoder.corrupt(batch.x, noise))
        return pictures.restorations(noisy.x, batch.x, restoration.denoise(model, noisy, noise, draws))

    _draw(picture, ckpt_path, output, seed)


def _require_density(model: Any, task: str) -> None:
    missing = lacking(model)
    if missing:
        raise ConfigurationError(f"{type(model).__name__} cannot {task}: {missing}")


def _draw(picture: Callable[[Any], Tensor], ckpt_path: str, output: str, seed: int) -> None:
    torch.manual_seed(noise.mixed_seed(seed, "picture"))
    path = Path(output)
    if path.suffix.lower() != ".png":
        raise ConfigurationError(f"output: {output!r} does not end in .png")
    drawn = picture(load(ckpt_path))
    with writing(path):
        pictures.write(drawn, path)
    print(path)


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Names the file that a full disk does not take; half a file is not left."""
    try:
        yield
    except OSError as error:
        if error.errno in (*FULL, None):  # numpy names no number
            Path(path).unlink(missing_ok=True)
        raise UnwritableError(f"{str(path)!r} could not be written ({error.strerror or error})") from error


COMMANDS: dict[str, Callable[..., None]] = {
    "sample": sample,
    "reconstruct": reconstruct,
    "interpolate": interpolate,
    "traverse": traverse,
    "inpaint": inpaint,
    "denoise": denoise,
}
"""Commands beside LightningCLI's own."""


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""What the system says where nothing more can be written."""


def keep_freed_memory() -> None:
    """Lets glibc keep what a step frees for the next one. Asking the kernel anew costs a third of a CPU step."""
    if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt"):
        mallopt, trim_threshold, mmap_threshold = ctypes.CDLL(None).mallopt, -1, -3
        if mallopt(mmap_threshold, 1 << 30) or mallopt(mmap_threshold, 32 << 20):
            mallopt(trim_threshold, 1 << 30)


def main(args: list[str] | None = None) -> None:
    """The console command `lightning-avb`."""
    keep_freed_memory()
    name, *rest = [*(sys.argv[1:] if args is None else args), ""]
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # class paths of the user's own modules
    try:
        if name in COMMANDS:
            command = COMMANDS[name]
            parser = Parser(prog=f"lightning-avb {name}")
            parser.add_function_arguments(command)
            for action in parser._actions:  # --resample for --resample true
                if action.dest == "resample":
                    action.nargs, action.const = "?", True
            options = parser.parse_args(rest[:-1])
            runs.require_writable("output", Path(options.output), file=True)
            command(**vars(options))
        else:
            CLI(args)
    except (ConfigurationError, MisconfigurationException) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except (NonFiniteLossError, DensityError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        if not isinstance(error, UnwritableError) and error.errno not in FULL:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except RuntimeError as error:
        if (line := processes.lost(error)) is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        sys.exit(1)
    except (KeyboardInterrupt, SystemExit) as error:
        # Before a fit has begun Lightning makes an exit with 1 of Ctrl-C.
        if isinstance(error, KeyboardInterrupt) or isinstance(error.__context__, KeyboardInterrupt):
            sys.exit(128 + signal.SIGINT)
        raise
