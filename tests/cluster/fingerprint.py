"""A callback for the checks on clusters: every rank says at the end which weights and moments it has."""

import hashlib
import time
from collections.abc import Iterator
from typing import Any

import pytorch_lightning as pl
from torch import Tensor


class Fingerprint(pl.Callback):
    """Prints one line a rank: its number, the step, and a hash of all parameters and optimizer states.

    Running statistics are left out: every rank keeps its own during a batch, and takes those of rank 0 before the next.

    Args:
        pause: seconds to wait after every batch, so that there is time to interrupt.
    """

    def __init__(self, pause: float = 0.0) -> None:
        self.pause = pause

    def on_train_batch_end(self, *_: Any) -> None:
        time.sleep(self.pause)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        digest = hashlib.sha256()
        states = [dict(pl_module.named_parameters()), *(optimizer.state_dict() for optimizer in trainer.optimizers)]
        for tensor in _tensors(states):
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        line = f"fingerprint {trainer.global_rank} {trainer.global_step} {digest.hexdigest()[:16]}\n"
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
