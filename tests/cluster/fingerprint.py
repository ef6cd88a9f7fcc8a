"""A callback for the checks on clusters: every rank says at the end which weights and moments it has."""

import hashlib
from collections.abc import Iterator
from typing import Any

import pytorch_lightning as pl
from torch import Tensor


class Fingerprint(pl.Callback):
    """Prints one line a rank: its number, the step, and a hash of all parameters and optimizer states.

    Running statistics are left out: every rank keeps its own during a batch, and takes those of rank 0 before the next.
    """

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        digest = hashlib.sha256()
        states = [dict(pl_module.named_parameters()), *(optimizer.state_dict() for optimizer in trainer.optimizers)]
        for tensor in _tensors(states):
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        line = f"fingerprint rank={trainer.global_rank} step={trainer.global_step} {digest.hexdigest()[:16]}\n"
        print(line, end="", flush=True)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for key in sorted(value, key=str):
            yield from _tensors(value[key])
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)
