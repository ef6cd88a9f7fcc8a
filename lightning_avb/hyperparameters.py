"""Hyper-parameters: the arguments of a model or a DataModule, as plain values.

A checkpoint stores them, and `load_from_checkpoint` calls the class with them again.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from pytorch_lightning.core.mixins import HyperparametersMixin

from .errors import ConfigurationError
from .lightning_private import store_hyperparameters
from .recipes import class_path, to_config

_DURING_INIT = "_init_arguments"
"""The attribute that holds the arguments while an `__init__` runs."""


class Hyperparameters(HyperparametersMixin):
    """First base of a class of Lightning whose `__init__` calls `save_arguments`.

    The arguments are those of the outermost `__init__`, with defaults, whatever it passes to its parents. Subclasses
    need not call `save_arguments` again.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if not hasattr(cls.__init__, _DURING_INIT):
            cls.__init__ = _with_arguments(cls.__init__)  # type: ignore[method-assign]

    def save_arguments(self, prefix: str = "", logger: bool = False) -> None:
        """Makes the arguments of the running `__init__` the `hparams`, with the path of the class as `_class_path`.

        Args:
            prefix: comes before an argument's name in messages.
            logger: whether loggers record the hyper-parameters.

        Raises:
            ConfigurationError: an argument that cannot be stored in a checkpoint.
        """
        arguments = {name: to_config(value, prefix + name) for name, value in self.__dict__[_DURING_INIT].items()}
        store_hyperparameters(self, {**arguments, "_class_path": class_path(type(self))}, logger)


def _with_arguments(init: Callable[..., None]) -> Callable[..., None]:
    """`init`, wrapped so that the object has the arguments of the outermost call while it runs."""
    signature = inspect.signature(init)

    @functools.wraps(init)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        if _DURING_INIT in self.__dict__:  # a subclass calls it
            return init(self, *args, **kwargs)
        kwargs.pop("_class_path", None)  # Lightning passes all stored values to an __init__ with **kwargs
        try:
            bound = signature.bind(self, *args, **kwargs)
        except TypeError:
            return init(self, *args, **kwargs)  # raises the usual message
        self.__dict__[_DURING_INIT] = _by_name(type(self).__name__, bound)
        try:
            init(self, *args, **kwargs)
        finally:
            del self.__dict__[_DURING_INIT]
        return None

    # Lightning reads the signature without following `__wrapped__`.
    setattr(__init__, "__signature__", signature)  # noqa: B010
    setattr(__init__, _DURING_INIT, True)
    return __init__


def _by_name(owner: str, bound: inspect.BoundArguments) -> dict[str, Any]:
    """All arguments but `self` by name, including those of `**kwargs`.

    Raises:
        ConfigurationError: there are `*args`, which have no names.
    """
    bound.apply_defaults()
    arguments: dict[str, Any] = {}
    for parameter in list(bound.signature.parameters.values())[1:]:
        value = bound.arguments[parameter.name]
        if parameter.kind is parameter.VAR_KEYWORD:
            arguments |= value
        elif parameter.kind is not parameter.VAR_POSITIONAL:
            arguments[parameter.name] = value
        elif value:
            raise ConfigurationError(f"{owner}: {value} for *{parameter.name}; give arguments by name")
    return arguments
