"""Messages of the command line: every mistake of the user is one line on stderr."""

from __future__ import annotations

import inspect
import re
import sys
from ast import literal_eval
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

from ..errors import did_you_mean
from .configurations import find_key
from .stages import STAGES

_MODULES = (
    "lightning_avb",
    "lightning_avb.datamodules",
    "lightning_avb.targets",
    "torch.optim",
    "pytorch_lightning.callbacks",
    "pytorch_lightning.loggers",
)
"""Whose classes a configuration usually names."""


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
    message = message.replace('"<unicode string>", ', "")
    unknown = re.search(r"unrecognized arguments: (\S+)|Subcommand '(\w+)' does not accept option '([\w.]+)'", message)
    if unknown:
        options = _options(parser, unknown[2])
        option = _unknown_part(unknown[3], options) if unknown[3] else unknown[1].split("=")[0].lstrip("-")
        return f"{_place(option)}: no such key{did_you_mean(option, options)}"
    required = re.search(r"arguments are required: (.+)", message)
    if required:
        names = re.sub(rf"\b({'|'.join(STAGES)})\.", "", required[1])
        advice = "" if names == required[1] else "; a configuration has them, as in --config digits/vae"
        return f"{names}: required, and not given{advice}"
    keys = [key for key in re.findall(r'(?:Parser key|Key|Group) ["\']([\w.\[\]]+)["\']', message) if key != "config"]
    keys = keys or re.findall(r"^--([\w.]+): ", message)  # of a --KEY.help CLASS
    key = _full_key(".".join(dict.fromkeys(keys)))
    option = re.search(r"(?:Option|Key) '?([\w.]+)'? is not (?:accepted|expected)", message)
    if option:
        name = option[1].rpartition(".")[2]
        where = _place(option[1]) if not key or key.endswith(option[1]) else f"{key}.{option[1]}"
        return f"{where}: no such option here{did_you_mean(name, sorted(_argument_names()))}"
    problem = _value_problem(message) if key else None
    if problem:
        return f"{_place(key)}: {problem}"
    without_content = (
        r"(Subtypes|Errors|Given value|Does not validate|- Expected a <class 'NoneType'>|Problem with given class)"
    )
    lines = [line.strip() for line in re.sub('Parser key "(.+?)":', r"\1:", message).splitlines() if line.strip()]
    sentences = [line.removeprefix("- ") for line in lines if not re.match(without_content, line)]
    # Where a class says what is wrong, that other kinds of value are possible is of no use.
    sentences = [sentence for sentence in sentences if not sentence.startswith("Expected a <class")] or sentences
    return re.sub(r"^[\w.]+(?=: )", lambda key: _full_key(key[0]), " ".join(dict.fromkeys(sentences))) or message


def _value_problem(message: str) -> str | None:
    """What is wrong with the value of a key; None if the message says it in its own words."""
    broken = re.search(r"sub-config file (\S+): (.+?)(?=\n    - |$)", message, re.DOTALL)
    if broken:
        return f"{broken[1]!r}: {' '.join(broken[2].split())}"
    missing = re.search(r"module '([\w.]+)' has no attribute '(\w+)'", message)
    if missing:
        return f"there is no {missing[1]}.{missing[2]}{_nearest_class(missing[1], missing[2])}"
    path = re.search(r"Expected a dot import path string: (\S+)", message)
    if path:
        return f"there is no class {path[1]!r}{did_you_mean(path[1], [cls.__name__ for cls in _classes()])}"
    module = re.search(r"No module named '[\w.]+'", message)
    if module:
        return module[0]
    given = re.search(r"(?:Got value|Given value): (.+)", message)
    if given is None:
        return None
    base = re.search(r"(?:subclass of|function that returns) (?:<class ')?(\w+)", message)
    if base:
        path = re.search(r"class_path='([^']+)'", given[1])
        return f"{path[1] if path else given[1]} is no {base[1]}"
    # A literal with numbers in it also says that it expects an int.
    literals = [literal_eval(text) for text in re.findall(r"typing\.Literal(\[.+?\])", message)]
    choices = list(dict.fromkeys(str(choice) for literal in literals for choice in literal))
    if choices:
        return f"expected one of {', '.join(choices)}, got {given[1]}{did_you_mean(given[1], choices)}"
    expected = re.findall(r"Expected (?:an? )?(?:<class ')?(.+?)(?:'>)?(?:\. Got value.*)?$", message, re.M)
    kinds = [kind.removeprefix("collections.abc.") for kind in dict.fromkeys(expected) if kind != "NoneType"]
    return f"expected {' or '.join(kinds)}, got {given[1]}" if kinds else None


def _nearest_class(module: str, name: str) -> str:
    ours, recipes = import_module("lightning_avb.datamodules"), import_module("lightning_avb.recipes")
    if module == "datamodules" and name in ours.__all__:  # the user's folder comes before ours
        return f"; did you mean {ours.__name__}.{name}?"
    return recipes.nearest_name(module, name)


def _classes() -> list[type]:
    """The classes of `_MODULES`."""
    modules = [import_module(name) for name in _MODULES]
    exported = [getattr(module, name) for module in modules for name in module.__all__]
    return [part for part in exported if isinstance(part, type) and not issubclass(part, Exception)]


def _argument_names() -> set[str]:
    return {name for part in _classes() for name in inspect.signature(part).parameters}


def _options(parser: Any, subcommand: str | None) -> list[str]:
    """The options of a parser, or of one of its subcommands, without dashes."""
    if subcommand is not None:
        parser = next(action.choices[subcommand] for action in parser._actions if action.dest == "subcommand")
    return [name.lstrip("-") for action in parser._actions for name in action.option_strings]


def _unknown_part(key: str, options: Sequence[str]) -> str:
    """The first words of a key that stand at the beginning of no option."""
    words = key.split(".")
    beginnings = [".".join(words[: count + 1]) for count in range(len(words))]
    return next((each for each in beginnings if not any(f"{name}.".startswith(f"{each}.") for name in options)), key)


def _place(key: str) -> str:
    """The key as the user gave it, on the command line or in a file, which is then named."""
    whole = _full_key(key)
    found = None if f"--{whole}" in " ".join(sys.argv) else find_key(sys.argv, key)
    return whole if found is None else f"config: {found[0]!r}: {found[1]}"


def _full_key(key: str) -> str:
    """The key as the user typed it, where the command line has one that ends like it."""
    typed = [argument.lstrip("-").split("=")[0] for argument in sys.argv if argument.startswith("--")]
    return next((option for option in typed if option.endswith(f".{key}")), key)
