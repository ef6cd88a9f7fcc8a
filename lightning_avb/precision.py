"""Half precision: where it helps, full precision in place of float16, and one loss scale for the steps of a batch."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.optim import Optimizer


def full_precision_in_half(device_type: str) -> torch.autocast:
    """A context that turns autocast off if it is in float16, and leaves bfloat16 and float32 as they are."""
    half = torch.is_autocast_enabled(device_type) and torch.get_autocast_dtype(device_type) == torch.float16
    dtype = torch.get_autocast_dtype(device_type)
    return torch.autocast(device_type, dtype, enabled=torch.is_autocast_enabled(device_type) and not half)


def warn_if_slow(precision: str) -> None:
    """Warns if products of matrices take longer in bfloat16 than in float32: many processors have no such products."""
    if precision != "bf16-mixed":
        return
    half, full = (_seconds_of_a_product(dtype) for dtype in (torch.bfloat16, torch.float32))
    if half > 1.5 * full:
        warnings.warn(
            f"trainer.precision: on this processor a product of matrices takes {half / full:.1f} times as long in "
            "bfloat16 as in float32; take 32-true",
            stacklevel=2,
        )


def _seconds_of_a_product(dtype: torch.dtype, size: int = 256, repetitions: int = 3) -> float:
    """The least time for a product of two square matrices on the CPU."""
    matrix, found = torch.zeros(size, size, dtype=dtype), []
    for _ in range(repetitions):
        begin = time.perf_counter()
        torch.mm(matrix, matrix)
        found.append(time.perf_counter() - begin)
    return min(found)


@contextmanager
def one_scale_update(precision_plugin: Any) -> Iterator[None]:
    """Within the block Lightning's calls of the gradient scaler's `update` do nothing; one follows at the end."""
    scaler = getattr(precision_plugin, "scaler", None)
    if scaler is None:
        yield
        return
    precision_plugin.scaler = _UpdatedOnce(scaler)
    try:
        yield
    finally:
        precision_plugin.scaler = scaler
    scaler.update()


class _OptimizerStep:
    """One step of an optimizer, as an object for the gradient scaler, which allows one step per object and batch."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.param_groups, self.step = optimizer.param_groups, optimizer.step


class _UpdatedOnce:
    """A GradScaler during one batch, without `update`, which `one_scale_update` calls.

    torch's rule for several optimizers is to unscale and step each, and to update once. Lightning updates after each.
    """

    def __init__(self, scaler: torch.amp.GradScaler) -> None:
        self._scaler = scaler
        self._steps: dict[int, _OptimizerStep] = {}
        self._alive: list[_OptimizerStep] = []  # the scaler identifies them by id, so they must stay alive

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scaler, name)

    def unscale_(self, optimizer: Optimizer) -> None:
        one = self._steps[id(optimizer)] = _OptimizerStep(optimizer)
        self._alive.append(one)
        self._scaler.unscale_(one)  # type: ignore[arg-type]

    def step(self, optimizer: Optimizer, **kwargs: Any) -> Any:
        one = self._steps.setdefault(id(optimizer), _OptimizerStep(optimizer))
        return self._scaler.step(one, **kwargs)  # type: ignore[arg-type]

    def update(self) -> None:
        """Left to `one_scale_update`."""
