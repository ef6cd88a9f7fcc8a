"""The gradients of one phase over several processes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def without_ddp(strategy: Any) -> AbstractContextManager[Any]:
    """A context in which DDP does not average gradients in the backward pass."""
    return strategy.block_backward_sync() if hasattr(strategy, "block_backward_sync") else nullcontext()


def average(parameters: Iterable[nn.Parameter], world_size: int) -> None:
    """Replaces gradients by their means over all processes, in one all-reduce."""
    if world_size == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    torch.distributed.all_reduce(flat)
    flat /= world_size
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def fix_buckets(model: Any, parameters: Sequence[nn.Parameter]) -> None:
    """Makes DDP build its final buckets before the first step.

    By default DDP builds them after its first backward pass, in the order in which gradients arrived. Sums over three
    or more processes are then rounded differently, and a resumed run would not be bit for bit the uninterrupted one.
    """
    if not isinstance(model, DistributedDataParallel) or model.find_unused_parameters:
        return
    with torch.enable_grad():
        model.reducer.prepare_for_backward([])
        sum((parameter.flatten()[0] for parameter in parameters), parameters[0].new_zeros(())).backward()  # type: ignore[union-attr]
    model.reducer._rebuild_buckets()
    for parameter in parameters:
        parameter.grad = None
