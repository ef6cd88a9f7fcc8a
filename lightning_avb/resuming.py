"""What a checkpoint says to the run that reads it: another version, changed values, weights that do not fit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_info

from . import __version__
from .errors import ConfigurationError

VERSION_KEY = "lightning_avb_version"
"""Where a checkpoint has the version of the library that wrote it. Those of 0.1 have none."""


def check_and_sign(checkpoint: dict[str, Any], model: Any) -> None:
    """Adds the version of this library to a checkpoint of a model.

    Raises:
        NonFiniteLossError: its weights are not finite, or follow from such a loss.
    """
    if VERSION_KEY in checkpoint:  # the callback comes before the model's own hook
        return
    model.finite.check_losses()
    model.finite.check_weights(model.player_modules())
    model.finite.saved = True
    checkpoint[VERSION_KEY] = __version__


class CheckpointGuard(pl.Callback):
    """Does so in every fit, also where a model has an `on_save_checkpoint` of its own. Every `Game` has one."""

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        check_and_sign(checkpoint, pl_module)


def require_known_version(checkpoint: dict[str, Any], name: str = "the checkpoint") -> None:
    """Raises ConfigurationError if the checkpoint is from a version whose classes and buffers have other names.

    One of weights alone names no version.
    """
    if VERSION_KEY not in checkpoint and "optimizer_states" in checkpoint:
        raise ConfigurationError(
            f"ckpt_path: {name} was made by lightning_avb 0.1, which version {__version__} cannot read; train again, "
            "or use it with lightning_avb 0.1"
        )


def compare_with(checkpoint: dict[str, Any], model: Any) -> None:
    """Prints the hyper-parameters that differ between model and checkpoint.

    Raises:
        ConfigurationError: the weights of the checkpoint have other shapes than those of the model, or it is from a
            version that cannot be read.
    """
    require_known_version(checkpoint)
    model.finite.saved = True
    differences = list(_differences("model", checkpoint["hyper_parameters"], dict(model.hparams)))
    for key, theirs, ours in differences:
        rank_zero_info(f"{key}: {ours!r} from the configuration, in place of the checkpoint's {theirs!r}")
    expected, given = model.state_dict(), checkpoint["state_dict"]
    for key in given:
        if key in expected and expected[key].shape != given[key].shape:
            changed = "; ".join(f"{key}: {ours!r}, in the checkpoint {theirs!r}" for key, theirs, ours in differences)
            raise ConfigurationError(
                f"{changed or key}: the checkpoint's weights do not fit "
                f"({key} has shape {tuple(given[key].shape)}, the model's has {tuple(expected[key].shape)})"
            )


def _differences(key: str, theirs: Any, ours: Any) -> Iterator[tuple[str, Any, Any]]:
    """(key, value in the checkpoint, value in the configuration) wherever two nested plain values differ."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for name in {**theirs, **ours}:
            if name in theirs and name in ours and name != "_class_path":
                yield from _differences(f"{key}.{name}", theirs[name], ours[name])
    elif theirs != ours:
        yield key, theirs, ours
