"""What help says of LightningCLI's commands and of classes: what most runs set, with examples; our classes first."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence

STAGES = {
    "fit": "Trains a model.",
    "validate": "Computes the figures of a checkpoint on the validation data.",
    "test": "Computes the figures of a checkpoint on the test data, with a table of estimates of log p(x).",
    "predict": "Writes the codes of the test data into a file; `embed` has those of other rows.",
}

_CONFIG = """\
  --config NAME_OR_FILE           a configuration: digits/avb_si, or a file of yours; a second one is laid over the
                                  first. `lightning-avb configs` lists those that come with the package
"""
_CHOICES = """\
  --model CLASS                   the model: AVB, VAE, or a class path of yours; --model.help lists them
  --model.KEY VALUE               an option of it: --model.latent_dim 8; --model.help CLASS lists them
  --data CLASS                    the data: MNIST, ImageFolder, or a class path of yours; --data.help lists them
  --data.KEY VALUE                an option of it: --data.batch_size 100; --data.help CLASS lists them
"""
_MACHINE = """\
  --trainer.accelerator NAME      cpu, gpu; by itself a GPU where there is one
  --trainer.devices N             how many processes, one per GPU
"""
_CHECKPOINT = """\
  --ckpt_path FILE_OR_FOLDER      the checkpoint, or the folder of its run
"""

_FIT = f"""\
Trains a model, and leaves its checkpoints, metrics and pictures in runs/DATA/MODEL/version_N.

What most runs set:
{_CONFIG}{_CHOICES}\
  --trainer.max_steps N           how many batches; or --trainer.max_epochs N
{_MACHINE}\
  --trainer.precision NAME        32-true, bf16-mixed, 16-mixed
  --trainer.default_root_dir DIR  where the folders of runs are, runs if not given
  --seed_everything N             the seed of weights, order and noise
  --ckpt_path FILE_OR_FOLDER      goes on from a checkpoint, or the folder of a run
  --print_config                  prints the configuration that results, and does nothing

Examples:
  lightning-avb fit --config digits/avb_si
  lightning-avb fit --config digits/avb_si --trainer.max_steps 500 --model.latent_dim 8 --seed_everything 1
  lightning-avb fit --config digits/avb_si --config trainer/best
  lightning-avb fit --config mnist/vae --config trainer/bf16 --data.root ~/data --trainer.devices 2
  lightning-avb fit --config unmeasured/own_table/vae --data.path table.csv
  lightning-avb fit --config digits/avb_si --ckpt_path runs/digits/avb_si/version_0 --trainer.max_steps 6000

All options:"""

_OF_A_CHECKPOINT = f"""\

What most runs set:
{_CONFIG}{_CHECKPOINT}{_MACHINE}"""

DESCRIPTIONS = {
    "fit": _FIT,
    "validate": f"""\
{STAGES["validate"]}
{_OF_A_CHECKPOINT}
Example:
  lightning-avb validate --config digits/avb_si --ckpt_path runs/digits/avb_si/version_0

All options:""",
    "test": f"""\
{STAGES["test"]}
{_OF_A_CHECKPOINT}\
  --likelihood.estimators LIST    which estimates: all that the model allows if not given
  --likelihood.rows N             of how many rows

Example:
  lightning-avb test --config digits/avb_si --ckpt_path runs/digits/avb_si/version_0

All options:""",
    "predict": f"""\
{STAGES["predict"]}
{_OF_A_CHECKPOINT}\
  --predictions.output FILE       .csv, .npz, .parquet or .pt; if not given a .pt beside the checkpoint

Example:
  lightning-avb predict --config digits/avb_si --ckpt_path runs/digits/avb_si/version_0 --predictions.output codes.csv

All options:""",
}


def ours_first(paths: Sequence[str]) -> list[str]:
    """Paths of classes, this library's before others; where any module is meant, those of its parts alone."""
    if "torch.nn.Module" in paths:
        return [path for path in paths if re.fullmatch(r"lightning_avb\.\w+", path)]
    return sorted(paths, key=lambda path: not path.startswith("lightning_avb."))


def list_of_classes(base: type) -> str:
    """A line for every class that can be given where `base` is asked for: its name, and what it is."""
    classes = {cls.__name__: (inspect.getdoc(cls) or "").partition("\n")[0] for cls in _concrete(base)}
    return "\n".join(f"  {name:<24} {what}" for name, what in classes.items())


def _concrete(base: type) -> Iterator[type]:
    subclasses: list[type] = base.__subclasses__()
    for cls in subclasses:
        if not inspect.isabstract(cls) and not cls.__name__.startswith("_"):
            yield cls
        yield from _concrete(cls)
