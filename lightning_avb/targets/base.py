"""What a posterior is learned of: a log-density, known up to a constant, over named parameters."""

from __future__ import annotations

import abc
import math
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..batch import Shape
from ..errors import ConfigurationError, DensityError
from ..recipes import class_path, locate
from ..support import Parameters, Support
from .calls import Lenient, said
from .exact import generator


class Target(nn.Module, abc.ABC):
    """A log-density over named parameters, with the data in it as buffers.

    A subclass sets `kinds` and writes `log_density`.

    Attributes:
        kinds: name -> kind of every parameter, see `Support`.
        data_shape: shape of a data set x where the target is a family log p(x, theta), one posterior for every x;
            None: one posterior.
    """

    kinds: Mapping[str, str]
    data_shape: Shape | None = None
    plane: tuple[str, str] | None = None
    """The two columns that a picture shows, as `mu` and `theta[0]`; None: the first two."""

    @property
    def support(self) -> Support:
        return Support(self.kinds)

    @abc.abstractmethod
    def log_density(self, **theta: Tensor) -> Tensor:
        """log p(theta) up to a constant, in nats, `(...)`, by the parameters' names.

        Numbers come as `(...)`, vectors as `(..., n)`. A family gets `x`, `(batch, *data_shape)`, besides, and the
        last of the leading dimensions of a parameter is its row.
        """

    def derived(self, **theta: Tensor) -> Parameters:
        """Further quantities that are functions of the parameters, given back beside them."""
        return {}

    def reference(self, count: int, seed: int = 0) -> Parameters | None:
        """Exact draws by name, `(count, ...)`, or a long and checked run's, fewer if it has fewer; None: no draws."""
        return None

    def at(self, z: Tensor, **data: Any) -> Tensor:
        """log p(z) for z `(..., dim)` in the unconstrained coordinates, the Jacobian included, `(...)`."""
        theta, volume = self.support.constrain(z)
        return self.log_density(**data, **theta).to(volume) + volume

    @torch.no_grad()
    def density_at(self, values: Tensor, x: Tensor | None = None) -> Tensor:
        """The log-density without a Jacobian, `(...)`, at parameters side by side, `(..., n)`.

        -inf off the support, where the user's function is not asked, and where it is not a number or raises.
        """
        blocks = self.support.blocks
        parts = values.split([math.prod(block.shape) for block in blocks.values()], -1)
        theta = {
            name: part.reshape(*part.shape[:-1], *block.shape)
            for (name, block), part in zip(blocks.items(), parts, strict=True)
        }
        inside = self.support.contains(theta)
        z = self.support.unconstrain(theta).where(inside.unsqueeze(-1), values.new_zeros(()))
        value = Lenient(self)(z, x, most=256) - self.support.constrain(z)[1]
        return value.where(inside & ~torch.isnan(value), -torch.inf)

    @torch.no_grad()
    def named(self, z: Tensor) -> Parameters:
        """The parameters at z `(..., dim)`, with what is derived from them.

        Raises:
            DensityError: `derived` raises.
        """
        theta, _ = self.support.constrain(z)
        try:
            return {**theta, **self.derived(**theta)}
        except ConfigurationError:
            raise
        except Exception as error:
            raise DensityError(f"target: what {type(self).__name__} derives fails: {said(error)}") from error


class Function(Target):
    """A log-density that is a Python function of its parameters: in Python `Function.recipe(log_density, kinds)`.

    Args:
        log_density: the dotted path of the function: for the kinds `{mu: real, tau: positive}` it is called as
            `log_density(mu=..., tau=...)`; see `Target.log_density` for what it gets and gives.
        kinds: name -> kind of every parameter, see `Support`.
        derived: the path of a function of the same parameters that gives a dict of further quantities.
        reference: draws to hold those of the sampler against, by name, see `Target.reference`: the path of a function
            `(count, seed)` that gives a dict of tensors, or an .npz file with an array `(draws, ...)` a name, which is
            read where the draws are asked for.

    Raises:
        ConfigurationError: there is no such function.
    """

    def __init__(
        self, log_density: str, kinds: Mapping[str, str], derived: str | None = None, reference: str | None = None
    ) -> None:
        super().__init__()
        self.kinds = kinds
        self._log_density = function_at("log_density", log_density)
        self._derived = function_at("derived", derived) if derived is not None else None
        self._reference: Callable[[int, int], Parameters] | None = None
        if reference is not None and _is_file(reference):
            self._reference = partial(_from_file, Path(reference))
        elif reference is not None:
            self._reference = function_at("reference", reference)

    @classmethod
    def recipe(
        cls,
        log_density: Callable[..., Tensor],
        kinds: Mapping[str, str],
        derived: Callable[..., Parameters] | None = None,
        reference: Callable[[int, int], Parameters] | str | Path | None = None,
    ) -> Callable[[], Function]:
        """What `Posterior` takes as its target, of functions that stand in a module, so that a checkpoint finds them.

        `reference` may be an .npz file.

        Raises:
            ConfigurationError: a function that cannot be found again: a lambda, or one inside a function.
        """
        functions = {"log_density": log_density, "derived": derived, "reference": reference}
        found = {
            name: str(function) if name == "reference" and _is_file(function) else _path(name, function)
            for name, function in functions.items()
            if function is not None
        }
        return partial(cls, kinds=kinds, **found)

    def log_density(self, **theta: Tensor) -> Tensor:
        return self._log_density(**theta)

    def derived(self, **theta: Tensor) -> Parameters:
        return self._derived(**theta) if self._derived else {}

    def reference(self, count: int, seed: int = 0) -> Parameters | None:
        return self._reference(count, seed) if self._reference else None


def _is_file(reference: Any) -> bool:
    return isinstance(reference, (str, Path)) and Path(reference).suffix.lower() == ".npz"


def _from_file(path: Path, count: int, seed: int) -> Parameters:
    """So many of a file's draws, in an order that the seed decides; all of them if there are fewer.

    Raises:
        ConfigurationError: no such file, or arrays that are not of as many finite numbers.
    """
    try:
        with np.load(path) as file:
            arrays = {name: torch.from_numpy(file[name]).to(torch.get_default_dtype()) for name in file.files}
    except (OSError, ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigurationError(f"reference: {path} cannot be read as an .npz file of numbers ({error})") from error
    rows = {len(values) if values.ndim else 0 for values in arrays.values()}
    if len(rows) != 1 or not all(values.numel() and values.isfinite().all() for values in arrays.values()):
        shapes = {name: tuple(values.shape) for name, values in arrays.items()}
        raise ConfigurationError(
            f"reference: {path} is to have a finite draw in every row of every array; has {shapes}"
        )
    chosen = torch.randperm(max(rows), generator=generator(seed))[:count]
    return {name: values[chosen] for name, values in arrays.items()}


def function_at(name: str, path: str) -> Callable[..., Any]:
    """The Python function of that import path; `name` is that of the option."""
    found = locate(path, name)
    # A path may come from a checkpoint: no class and no built-in is called on its word.
    if not isinstance(found, FunctionType):
        raise ConfigurationError(f"{name}: {path!r} is no Python function")
    return found


def _path(name: str, function: Any) -> str:
    path = class_path(function) if isinstance(function, FunctionType) else ""
    try:
        findable = path and locate(path) is function
    except ConfigurationError:
        findable = False
    if not findable:
        raise ConfigurationError(f"{name}: {function!r} is no function of a module, which a checkpoint could name")
    return path
