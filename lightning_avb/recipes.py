"""Recipes: how a part of a model is made, as plain values that a YAML file and a checkpoint can hold.

A recipe is a class, a `functools.partial` of one, or `{"class_path": ..., "init_args": ...}`: three forms of the same
thing. `to_config` gives the last, `from_config` takes any of them.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import os
import sys
import textwrap
from collections.abc import Callable, Mapping
from functools import partial
from numbers import Integral, Real
from pathlib import Path
from types import FunctionType
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from .errors import ConfigurationError, did_you_mean


def class_path(target: Any) -> str:
    """The dotted path under which `target` can be imported again."""
    module = _script() if target.__module__ == "__main__" else target.__module__
    return f"{module}.{target.__qualname__}"


def _script() -> str:
    """The name under which the running script can be imported elsewhere; `__main__` where it has none."""
    main = sys.modules["__main__"]
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    name = spec.name if spec else Path(file).stem if file else "__main__"
    if name not in sys.modules:
        try:
            found = importlib.util.find_spec(name)
        except (ImportError, ValueError):  # a file's name need not be one of a module
            found = None
        if found is not None and found.origin and file and Path(found.origin).resolve() == Path(file).resolve():
            sys.modules[name] = main  # otherwise looking the name up would run the script once more
    return name if sys.modules.get(name) is main else "__main__"


def locate(path: str, key: str = "class_path") -> Any:
    """The object at a dotted path, which the user gave as `key`.

    Raises:
        ConfigurationError: nothing is there; the message has the most similar name of the module.
    """
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        why = nearest_name(module, name) if module in sys.modules else f" ({error})"
        raise ConfigurationError(f"{key}: there is no {path!r}{why}") from error


def nearest_name(module: str, name: str) -> str:
    """`; did you mean ...?` with the most similar name that a module exports; empty if there is none."""
    found = sys.modules.get(module)
    public = [name for name in vars(found) if not name.startswith("_")] if found else []
    return did_you_mean(name, getattr(found, "__all__", public))


def to_config(value: Any, name: str = "value") -> Any:
    """Hyper-parameters as None, numbers, strings, lists and dicts.

    Raises:
        ConfigurationError: `value` cannot be written down (a lambda, a tensor, an object).
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, os.PathLike):
        return str(os.fspath(value))
    if isinstance(value, (list, tuple)):
        return [to_config(item, f"{name}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        return {str(key): to_config(item, f"{name}.{key}") for key, item in value.items()}
    target, arguments = value, {}
    if isinstance(value, partial):
        # partial(Class, option=...), or the command line's partial(instantiate, ..., Class, option=...)
        by_position = isinstance(value.func, type) and value.args
        target, arguments = None if by_position else (value.func, *value.args)[-1], value.keywords
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        target = type(value)
        arguments = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(target, type) and getattr(sys.modules.get(target.__module__), target.__qualname__, None) is target:
        return {"class_path": class_path(target), "init_args": to_config(arguments, name)}
    raise ConfigurationError(f"{name}: {_why_not_stored(value)}")


def _why_not_stored(value: Any) -> str:
    """Why a value cannot be written down, and what can be given in its place."""
    advice = "give a class that can be imported by its name, or functools.partial(Class, option=...)"
    if isinstance(value, (nn.Module, Optimizer, LRScheduler)):
        made = type(value).__name__
        return (
            f"this {made} is made already and cannot be stored in a checkpoint; give its class, or "
            f"functools.partial({made}, option=...), and the model makes it"
        )
    if isinstance(value, partial) and isinstance(value.func, type) and value.args:
        return f"{value.func.__name__} has options without a name, {value.args}; {advice}"
    while isinstance(value, partial):
        value = value.func
    if isinstance(value, (type, FunctionType)):
        kind = "class" if isinstance(value, type) else "function"
        what = "a lambda" if value.__name__ == "<lambda>" else f"the {kind} {value.__qualname__}"
    else:
        what = textwrap.shorten(repr(value), 100)
    return f"{what} cannot be stored in a checkpoint; {advice}"


def part_recipe(value: Any, name: str) -> Callable[..., Any]:
    """What makes a part of a model, from any of the three forms.

    Raises:
        ConfigurationError: it is none of them; the message begins with the name.
    """
    recipe = from_config(value)
    if not callable(recipe):
        raise ConfigurationError(f"{name}: {value!r} makes nothing; give a class or functools.partial(Class, ...)")
    return recipe


def recipe_class(recipe: Any) -> type:
    """The class that a recipe makes."""
    return locate(to_config(recipe)["class_path"])


def makes_default(recipe: Any, cls: type) -> bool:
    """Whether a recipe makes this class with all options at their defaults, written out or not."""
    options = to_config(recipe)["init_args"] if recipe_class(recipe) is cls else None
    defaults = {name: parameter.default for name, parameter in inspect.signature(cls).parameters.items()}
    return options is not None and all(options[name] == to_config(defaults[name]) for name in options)


def from_config(value: Any) -> Any:
    """The inverse of `to_config`: class paths become callables (dataclasses: values), everything else stays itself.

    Raises:
        ConfigurationError: a class path that is no module, optimizer, scheduler or dataclass.
    """
    if isinstance(value, list):
        return [from_config(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    if "class_path" not in value:
        return {key: from_config(item) for key, item in value.items()}
    target = locate(value["class_path"])
    arguments = {key: from_config(item) for key, item in (value.get("init_args") or {}).items()}
    if dataclasses.is_dataclass(target):
        try:
            return target(**arguments)  # type: ignore[operator]
        except TypeError as error:  # such as a checkpoint from a version with other arguments
            raise ConfigurationError(f"{value['class_path']}: {error}") from error
    # A checkpoint must not be able to call anything else.
    if not (isinstance(target, type) and issubclass(target, (nn.Module, Optimizer, LRScheduler))):
        raise ConfigurationError(f"class_path: {value['class_path']!r} is no module, optimizer or scheduler")
    return partial(target, **arguments)
