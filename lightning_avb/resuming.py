"""What a run that resumes says of its checkpoint: changed values, weights that do not fit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_info

from .errors import ConfigurationError


def compare_with(checkpoint: dict[str, Any], model: pl.LightningModule) -> None:
    """Prints the hyper-parameters of the model that differ from the checkpoint's.

    Raises:
        ConfigurationError: the weights of the checkpoint have other shapes than those of the model.
    """
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
