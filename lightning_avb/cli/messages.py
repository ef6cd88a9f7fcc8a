"""Messages of the command line: every mistake of the user is one line on stderr."""

from __future__ import annotations

import inspect
import re
import sys
from importlib import import_module
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

from ..errors import did_you_mean


class OneLineErrors:
    """A mixin for argparse parsers that prints every error as one line."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        exit_with_error(explain(message, self))


class Parser(OneLineErrors, ArgumentParser):  # type: ignore[misc]
    """The parser of the commands in `commands`."""


def exit_with_error(line: str, code: int = 2) -> NoReturn:
    """Ends the process with one line on stderr; exit code 2 means a mistake of the user."""
    print(f"error: {line}", file=sys.stderr)
    sys.exit(code)


def explain(message: str, parser: Any) -> str:
    """The parser's message in one line: the key, what was given, what was expected, the nearest valid name."""
    unknown = re.search(r"unrecognized arguments: (\S+)", message)
    if unknown:
        option = unknown[1].split("=")[0].lstrip("-")
        options = [name.lstrip("-") for action in parser._actions for name in action.option_strings]
        return f"{_full_key(option)}: no such key{did_you_mean(option, options)}"
    keys = [key for key in re.findall(r'(?:Parser key|Key|Group) ["\']([\w.\[\]]+)["\']', message) if key != "config"]
    key = _full_key(".".join(dict.fromkeys(keys)))
    option = re.search(r"(?:Option|Key) '?([\w.]+)'? is not (?:accepted|expected)", message)
    if option:
        name = option[1].rpartition(".")[2]
        where = _full_key(option[1]) if not key or key.endswith(option[1]) else f"{key}.{option[1]}"
        return f"{where}: no such option here{did_you_mean(name, sorted(_argument_names()))}"
    missing = re.search(r"module '([\w.]+)' has no attribute '(\w+)'", message)
    if missing:
        return f"{key}: there is no {missing[1]}.{missing[2]}{_nearest_class(missing[1], missing[2])}"
    path = re.search(r"Expected a dot import path string: (\S+)", message)
    if path:
        return f"{key}: there is no class {path[1]!r}{did_you_mean(path[1], [cls.__name__ for cls in _classes()])}"
    value = re.search(r"(?:Got value|Given value): (.+)", message)
    expected = re.findall(r"Expected an? (?:<class ')?(.+?)(?:'>)?(?:\. Got value.*)?$", message, re.M)
    kinds = [kind.removeprefix("typing.Literal") for kind in expected if kind != "NoneType"]
    if value and kinds:
        return f"{key}: expected {' or '.join(dict.fromkeys(kinds))}, got {value[1]}"
    without_content = (
        r"(Subtypes|Errors|Given value|Does not validate|- Expected a <class 'NoneType'>|Problem with given class)"
    )
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    sentences = [line.removeprefix("- ") for line in lines if not re.match(without_content, line)]
    return " ".join(dict.fromkeys(sentences)) or message


def _nearest_class(module: str, name: str) -> str:
    ours = import_module("lightning_avb.datamodules")
    if module == "datamodules" and name in ours.__all__:  # the user's folder comes before ours
        return f"; did you mean {ours.__name__}.{name}?"
    return did_you_mean(name, getattr(sys.modules.get(module), "__all__", []))


def _classes() -> list[type]:
    """The classes that a configuration usually names."""
    modules = [import_module(name) for name in ("lightning_avb", "lightning_avb.datamodules", "torch.optim")]
    exported = [getattr(module, name) for module in modules for name in module.__all__]
    return [part for part in exported if isinstance(part, type) and not issubclass(part, Exception)]


def _argument_names() -> set[str]:
    return {name for part in _classes() for name in inspect.signature(part).parameters}


def _full_key(key: str) -> str:
    """The key as the user typed it, where the command line has one that ends like it."""
    typed = [argument.lstrip("-").split("=")[0] for argument in sys.argv if argument.startswith("--")]
    return next((option for option in typed if option.endswith(f".{key}")), key)
