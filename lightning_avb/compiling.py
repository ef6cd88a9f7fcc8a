"""`torch.compile` for the networks of a model, in its training steps alone.

Only tensors go into a network and come out of it, so each is one graph. What a graph computes depends on the call
alone, on shapes, types and modes, and not on the calls before it: a run that is resumed gets the same bits.

* No shape is ever made a variable (`dynamic=False`): whether torch does so depends on which shapes it met first.
* What cannot be one graph, or has more graphs than the limit, ends the run; torch would go on without compiling.
* Dropout draws what it draws without compiling.

Outside of training steps networks run as they are written: in validation, in callbacks and in `test`, where they would
meet many shapes, of which each takes seconds to compile.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import nn

from .errors import ConfigurationError
from .networks import MLP, ConvNet, Critic, DeconvNet, InputNoise, NoiseBasis, NoisyMLP, ResidualMLP

NETWORKS = (MLP, ResidualMLP, ConvNet, DeconvNet, Critic, NoisyMLP, NoiseBasis)
"""What is compiled, where it draws no noise of `noise.py`. A flow returns no tensor."""
OPTIONS: dict[str, Any] = {"dynamic": False, "fullgraph": True, "options": {"fallback_random": True}}
GRAPHS = 64
"""How many graphs the networks of one class may have: each has one for every shape, type and mode that it meets."""

_as_written = False


@contextmanager
def as_written() -> Iterator[None]:
    """Within the block no network is compiled, for gradients that are differentiated again: torch refuses those."""
    global _as_written
    before, _as_written = _as_written, True
    try:
        yield
    finally:
        _as_written = before


class Compilation:
    """The compiled networks of a model.

    Args:
        wanted: whether there are any; otherwise all of this does nothing.

    Attributes:
        seconds: what the first step took; None before it.
    """

    def __init__(self, wanted: bool = False) -> None:
        self.wanted = wanted
        self.seconds: float | None = None
        self.forwards: dict[nn.Module, Callable[..., Any]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy of a model has networks of its own, of which none is compiled yet."""
        return type(self), (self.wanted,)

    def begin(self, model: nn.Module) -> None:
        """Takes the networks of a model, whose graphs are made when they are first called.

        Raises:
            ConfigurationError: it has none.
        """
        if not self.wanted:
            return
        found = dict(_outermost(model))
        if not found:
            known = ", ".join(kind.__name__ for kind in NETWORKS)
            raise ConfigurationError(f"model.compile: none of the model's networks is a {known}; leave it false")
        _set_limits()
        self.forwards = {network: _switched(network.forward) for network in found.values()}
        total = sum(parameter.numel() for parameter in model.parameters())
        share = sum(parameter.numel() for network in self.forwards for parameter in network.parameters()) / total
        self.seconds = None
        rank_zero_info(
            f"model.compile: {', '.join(found)}, {share:.0%} of the weights; the first step compiles them, which may "
            "take minutes"
        )

    @contextmanager
    def step(self) -> Iterator[None]:
        """Within the block, a training step, the networks are compiled.

        Raises:
            ConfigurationError: torch cannot compile one of them, or not on this machine.
        """
        if not self.forwards:
            yield
            return
        from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

        begin = time.perf_counter()
        for network, compiled in self.forwards.items():
            network.forward = compiled  # type: ignore[method-assign]
        try:
            yield
        except FailOnRecompileLimitHit as error:
            raise ConfigurationError(
                f"model.compile: more than {GRAPHS} graphs, one for every size of a batch; take batches of one size, "
                "or leave it false"
            ) from error
        except TorchDynamoException as error:
            reason, *_ = str(getattr(error, "inner_exception", error)).strip().splitlines() or [type(error).__name__]
            raise ConfigurationError(
                f"model.compile: torch cannot compile this model here: {reason}; it needs a C++ compiler, g++ or what "
                "CXX names, and the headers of Python; or leave it false"
            ) from error
        finally:
            for network in self.forwards:
                del network.forward
        if self.seconds is None:
            self.seconds = time.perf_counter() - begin
            rank_zero_info(f"model.compile: the first step took {self.seconds:.0f} s")


def _outermost(module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The networks in a module, by name, without those in others of them; where there is noise, those around it not."""
    noisy = any(isinstance(part, InputNoise) for part in module.modules())
    if isinstance(module, NETWORKS) and not noisy:
        yield name, module
        return
    for key, child in module.named_children():
        yield from _outermost(child, f"{name}.{key}" if name else key)


def _switched(forward: Callable[..., Any]) -> Callable[..., Any]:
    compiled = torch.compile(forward, **OPTIONS)
    return lambda *args, **kwargs: (forward if _as_written else compiled)(*args, **kwargs)


def _set_limits() -> None:
    """Raises torch's limit of graphs, which counts those of one class together, and leaves a graph whole in DDP.

    Beyond the limit `fullgraph` is an error. Cut at DDP's buckets, a graph would depend on the number of processes.
    """
    from torch._dynamo import config

    config.recompile_limit = max(config.recompile_limit, GRAPHS)
    config.optimize_ddp = False
