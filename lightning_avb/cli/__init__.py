"""The command `lightning-avb`: it runs the subcommand, and turns errors into messages and exit codes.

LightningCLI's subcommands are in `training`, those that only need a checkpoint in `commands`. torch and Lightning are
imported when a command runs, so that help, the list of configurations and a wrong command are fast.
"""

from __future__ import annotations

import ctypes
import difflib
import inspect
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from .. import __version__
from ..errors import DISK_FULL, ConfigurationError, DensityError, NonFiniteLossError, UnwritableError
from .commands import COMMANDS
from .configurations import list_configurations
from .messages import Parser, exit_with_error
from .stages import STAGES

OTHER = {
    "compare": "Shows runs side by side: what differs in their configurations, and their figures.",
    "configs": "Lists the configurations that come with the package.",
}
"""Commands with arguments of their own."""
ALIASES = {"train": "fit", "training": "fit", "evaluate": "test", "eval": "test", "generate": "sample"}
"""Names of the commands in other tools."""


def main(args: list[str] | None = None) -> None:
    """The console command `lightning-avb`."""
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # class paths of the user's own modules, as with python -m
    try:
        _run(args)
    except Exception as error:
        line_and_code = _line_and_code(error)
        if line_and_code is None:
            raise
        exit_with_error(*line_and_code)
    except (KeyboardInterrupt, SystemExit) as error:
        # Before a fit begins, Lightning turns Ctrl-C into exit code 1.
        if isinstance(error, KeyboardInterrupt) or isinstance(error.__context__, KeyboardInterrupt):
            sys.exit(128 + signal.SIGINT)
        raise


def _line_and_code(error: Exception) -> tuple[str, int] | None:
    """The message for an error, and the exit code; None if it is a defect of the program."""
    if isinstance(error, ConfigurationError):
        return str(error), 2
    if isinstance(error, (NonFiniteLossError, DensityError, UnwritableError)):
        return str(error), 1
    if isinstance(error, OSError):
        return (str(error), 1) if error.errno in DISK_FULL else None
    from pytorch_lightning.utilities.exceptions import MisconfigurationException

    from ..processes import describe_lost_process

    if isinstance(error, MisconfigurationException):
        return str(error), 2
    line = describe_lost_process(error) if isinstance(error, RuntimeError) else None
    return None if line is None else (line, 1)


def _run(args: list[str] | None) -> None:
    name, *rest = (sys.argv[1:] if args is None else args) or [""]
    if name in ("-h", "--help"):
        print(_overview())
    elif name == "--version":
        print(f"lightning-avb {__version__}")
    elif name == "configs":
        _list_configurations(rest)
    elif name == "compare":
        _compare(rest)
    elif name in COMMANDS:
        _run_command(name, rest)
    elif name in STAGES or name.startswith("-"):
        _run_stage(args)
    elif name:
        words = {**{command: command for command in (*STAGES, *COMMANDS, *OTHER)}, **ALIASES}
        near = difflib.get_close_matches(name.lower(), words, 1, 0.5)
        exit_with_error(f"{name}: no such command{f'; did you mean {words[near[0]]}?' if near else ''}")
    else:
        print(_overview(), file=sys.stderr)
        sys.exit(2)


def _overview() -> str:
    own = {name: _summary(command) for name, command in COMMANDS.items()}
    parts = {
        "With a configuration (--config DATA/MODEL)": STAGES,
        "With a checkpoint alone (--ckpt_path FILE --output FILE)": own,
        "Other": OTHER,
    }
    lines = ["usage: lightning-avb COMMAND [--KEY VALUE ...]", "       lightning-avb COMMAND --help"]
    for title, commands in parts.items():
        lines += ["", f"{title}:", *(f"  {name:<12} {what}" for name, what in commands.items())]
    return "\n".join([*lines, "", "lightning-avb --version prints the version."])


def _summary(command: Callable[..., None]) -> str:
    """The first line of what a command says of itself, and which options it needs beside checkpoint and output."""
    parameters = inspect.signature(command).parameters.values()
    always = ("ckpt_path", "output")
    required = [f"--{each.name}" for each in parameters if each.default is each.empty and each.name not in always]
    first = (command.__doc__ or "").splitlines()[0]
    return f"{first.rstrip('.')}; needs {', '.join(required)}." if required else first


def _list_configurations(arguments: list[str]) -> None:
    parser = Parser(prog="lightning-avb configs", description=OTHER["configs"])
    parser.add_argument("words", nargs="*", default=[], help="list only those whose name or title contains all of them")
    words = parser.parse_args(arguments).words
    lines = list(list_configurations(words))
    if not lines:
        exit_with_error(f"configs: no configuration has {' and '.join(map(repr, words))} in its name or title")
    print("\n".join(lines))


def _compare(arguments: list[str]) -> None:
    parser = Parser(prog="lightning-avb compare", description=OTHER["compare"])
    parser.add_argument("runs", nargs="+", help="folders of runs, or folders that contain them: runs/digits/*")
    parser.add_argument("--output", help="a file to write: .json for the table, .png for the curves of all runs")
    options = parser.parse_args(arguments)
    from ..runs import require_writable
    from .comparison import compare

    if options.output is not None:
        require_writable("output", Path(options.output), file=True)
    compare(folders=options.runs, output=options.output)


def _run_command(name: str, arguments: list[str]) -> None:
    command = COMMANDS[name]
    parser = Parser(prog=f"lightning-avb {name}")
    parser.add_function_arguments(command)
    for action in parser._actions:
        if action.dest == "resample":  # --resample for --resample true
            action.nargs, action.const = "?", True
        if action.dest in ("labels", "columns") or (name, action.dest) == ("plot", "ckpt_path"):
            # --labels 1 2 for --labels '[1, 2]'
            action.nargs = "+"
    options = parser.parse_args(arguments)
    from ..runs import require_writable

    keep_freed_memory()
    require_writable("output", Path(options.output), file=True)
    command(**vars(options))


def _run_stage(args: list[str] | None) -> None:
    from .training import CLI

    keep_freed_memory()
    CLI(args)


def keep_freed_memory() -> None:
    """Lets glibc reuse the memory that a step frees. Asking the kernel again takes a third of a CPU step."""
    if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt"):
        mallopt, trim_threshold, mmap_threshold = ctypes.CDLL(None).mallopt, -1, -3
        if mallopt(mmap_threshold, 1 << 30) or mallopt(mmap_threshold, 32 << 20):
            mallopt(trim_threshold, 1 << 30)
