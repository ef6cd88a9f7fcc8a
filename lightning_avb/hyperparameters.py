"""Hyper-parameters: the arguments that a model or a DataModule was made with, as plain values.

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
from .recipes import class_path, plain

_DURING_INIT = "_init_arguments"
"""Where an object has its arguments while its `__init__` runs, and at no other time."""


class Hyperparameters(HyperparametersMixin):
    """First base of a class of Lightning, whose `__init__` calls `save_arguments`.

    The arguments are those of the class that was called, defaults included, whatever it hands on to its parents:
    the outermost `__init__` counts. Subclasses need no call of their own.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if not hasattr(cls.__init__, _DURING_INIT):
            cls.__init__ = _with_arguments(cls.__init__)  # type: ignore[method-assign]

    def save_arguments(self, prefix: str = "", logger: bool = False) -> None:
        """Makes the arguments of the running `__init__` the `hparams`, with the path of the class as `_class_path`.

        Args:
            prefix: stands before an argument's name in messages.
            logger: whether the loggers write the hyper-parameters down.

        Raises:
            ConfigurationError: an argument that cannot be stored in a checkpoint.
        """
        arguments = {name: plain(value, prefix + name) for name, value in self.__dict__[_DURING_INIT].items()}
        store_hyperparameters(self, {**arguments, "_class_path": class_path(type(self))}, logger)


def _with_arguments(init: Callable[..., None]) -> Callable[..., None]:
    """`init`, during which the object knows the arguments of the outermost call."""
    signature = inspect.signature(init)

    @functools.wraps(init)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        if _DURING_INIT in self.__dict__:  # a subclass calls it
            return init(self, *args, **kwargs)
        kwargs.pop("_class_path", None)  # Lightning gives an __init__ with **kwargs all that a checkpoint has
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
    """All arguments but `self`, those of `**kwargs` among the others.

    Raises:
        ConfigurationError: there are some that have no name.
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
