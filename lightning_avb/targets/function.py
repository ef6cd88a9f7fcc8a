"""A log-density that is a Python function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import Any

from torch import Tensor

from ..errors import ConfigurationError
from ..recipes import class_path, locate
from ..support import Parameters
from .base import Target
from .files import read_draws


class Function(Target):
    """A log-density that is a Python function of its parameters.

    In Python, use `Function.recipe(log_density, constraints)`.

    Args:
        log_density: the dotted path of the function. For `{mu: real, tau: positive}` it is called as
            `log_density(mu=..., tau=...)`; see `Target.log_density` for the shapes.
        constraints: name -> kind of every parameter, see `Support`.
        derived: the path of a function of the same parameters that returns a dict of further quantities.
        reference: draws to compare those of the sampler with, see `Target.reference`: the path of a function
            `(count, seed)` that returns a dict of tensors, or an .npz file with an array `(draws, ...)` for each name,
            which is read when the draws are needed.

    Raises:
        ConfigurationError: there is no such function.
    """

    def __init__(
        self, log_density: str, constraints: Mapping[str, str], derived: str | None = None, reference: str | None = None
    ) -> None:
        super().__init__()
        self.constraints = constraints
        self._log_density = import_function("log_density", log_density)
        self._derived = import_function("derived", derived) if derived is not None else None
        self._reference: Callable[[int, int], Parameters] | None = None
        if reference is not None and _is_npz(reference):
            self._reference = partial(read_draws, Path(reference))
        elif reference is not None:
            self._reference = import_function("reference", reference)

    @classmethod
    def recipe(
        cls,
        log_density: Callable[..., Tensor],
        constraints: Mapping[str, str],
        derived: Callable[..., Parameters] | None = None,
        reference: Callable[[int, int], Parameters] | str | Path | None = None,
    ) -> Callable[[], Function]:
        """A target for `Posterior`, from functions of a module, which a checkpoint can name.

        `reference` may be an .npz file.

        Raises:
            ConfigurationError: a function that cannot be imported by its name: a lambda, or one inside a function.
        """
        functions = {"log_density": log_density, "derived": derived, "reference": reference}
        found = {
            name: str(function) if name == "reference" and _is_npz(function) else _import_path(name, function)
            for name, function in functions.items()
            if function is not None
        }
        return partial(cls, constraints=constraints, **found)

    def log_density(self, **theta: Tensor) -> Tensor:
        return self._log_density(**theta)

    def derived(self, **theta: Tensor) -> Parameters:
        return self._derived(**theta) if self._derived else {}

    def reference(self, count: int, seed: int = 0) -> Parameters | None:
        return self._reference(count, seed) if self._reference else None


def import_function(name: str, path: str) -> Callable[..., Any]:
    """The Python function at a dotted path, which the user gave as `name`.

    Raises:
        ConfigurationError: there is none.
    """
    found = locate(path, name)
    # The path may come from a checkpoint, which must not be able to call anything else.
    if not isinstance(found, FunctionType):
        raise ConfigurationError(f"{name}: {path!r} is no Python function")
    return found


def _import_path(name: str, function: Any) -> str:
    path = class_path(function) if isinstance(function, FunctionType) else ""
    try:
        importable = path and locate(path) is function
    except ConfigurationError:
        importable = False
    if not importable:
        raise ConfigurationError(f"{name}: {function!r} cannot be imported by its name, as a checkpoint needs")
    return path


def _is_npz(reference: Any) -> bool:
    return isinstance(reference, (str, Path)) and Path(reference).suffix.lower() == ".npz"
