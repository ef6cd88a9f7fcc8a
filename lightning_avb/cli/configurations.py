"""The configurations that come with the package: finding one by its name, and listing them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..errors import ConfigurationError, did_you_mean, not_utf8
from ..shipped import FOLDER


def names() -> list[str]:
    """`DATA/MODEL` of every configuration, `trainer/...` of every mix-in."""
    return sorted(path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.rglob("*.yaml"))


def find_configuration(given: str) -> str:
    """The file that `--config` means: one of the current folder, or one that comes with the package.

    Args:
        given: a path or a name, with or without `.yaml`; or a configuration itself, as YAML or JSON, which is returned
            unchanged.

    Raises:
        ConfigurationError: there is none, and the message has the most similar name; or it is no YAML of keys and
            values.
    """
    if re.search(r"[\n:{]", given):
        return given
    path = Path(given).expanduser()
    found = next((file for file in (path, Path(f"{path}.yaml")) if file.is_file()), None)
    if found is not None:
        _check_yaml(found)
        return str(found)
    name = given.removesuffix(".yaml").removeprefix("configs/")
    if name in names():
        return str(FOLDER / f"{name}.yaml")
    raise ConfigurationError(
        f"config: there is no file {given!r}, nor a configuration of that name in the package"
        f"{did_you_mean(name, names())}"
    )


def _check_yaml(path: Path) -> None:
    """Raises ConfigurationError, with the file and the line, if a file does not map keys to values."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        problem = ": ".join(part for part in (error.context, error.problem) if part)
        raise ConfigurationError(f"config: {str(path)!r}{line}: {problem}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"config: {str(path)!r} {not_utf8(error)}") from error
    if not isinstance(content, dict):
        found = "is empty" if content is None else f"holds a {type(content).__name__}"
        raise ConfigurationError(f"config: {str(path)!r} {found}; keys with values were expected, such as `model: VAE`")


def with_configuration_files(arguments: list[str]) -> list[str]:
    """The arguments of a command, with the file from `find_configuration` for every `--config` (or `-c`)."""
    found = list(arguments)
    for i, before, value in _configurations(arguments):
        found[i] = f"{before}{find_configuration(value)}"
    return found


def _configurations(arguments: Sequence[str]) -> Iterator[tuple[int, str, str]]:
    """Where the values of `--config` are among the arguments: a number, what stands before the value, the value."""
    for i, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if option in ("--config", "-c"):
            if equals:
                yield i, f"{option}=", value
            elif i + 1 < len(arguments):
                yield i + 1, "", arguments[i + 1]


def find_key(arguments: Sequence[str], key: str) -> tuple[str, str] | None:
    """The last file of `--config`, and the whole key in it, where a key ends like this one; None: there is none."""
    for _, _, value in reversed(list(_configurations(arguments))):
        file = find_configuration(value)
        content = yaml.safe_load(Path(file).read_text(encoding="utf-8") if Path(file).is_file() else file)
        for found in _keys(content):
            if f".{found}".endswith(f".{key}"):
                return file, found
    return None


def _keys(content: Any, above: str = "") -> Iterator[str]:
    """The dotted keys of a configuration, as on the command line: without `init_args`."""
    parts = content.items() if isinstance(content, dict) else []
    for name, value in parts:
        whole = above if name == "init_args" else f"{above}.{name}".lstrip(".")
        yield whole
        yield from _keys(value, whole)


def list_configurations(words: Sequence[str] = ()) -> Iterator[str]:
    """Two lines per configuration: its name and title, and the expected result if the file has one.

    Args:
        words: only configurations whose name or title contains all of them, in any case.
    """
    for name in names():
        header = [line[1:].strip() for line in _header(FOLDER / f"{name}.yaml")]
        title = header[0].removeprefix("Mix-in: ")
        if all(word.lower() in f"{name} {title}".lower() for word in words):
            yield f"{name:<36} {title}"
            expected = next((line for line in header if line.startswith("Expected")), None)
            if expected is not None:
                yield f"{'':<36} {' '.join(expected.split())}"


def _header(path: Path) -> Iterator[str]:
    """The comment at the beginning of a configuration."""
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            return
        yield line
