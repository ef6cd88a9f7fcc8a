"""One parser for all commands of a process: its making takes longer than most of them, its searches a third of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from jsonargparse import _subcommands

from lightning_avb.cli.training import CLI


def sharing(make: Callable[..., None] = CLI.setup_parser) -> Callable[..., None]:
    """In the place of `CLI.setup_parser`: makes the parser once."""
    made: dict[str, Any] = {}

    def setup_parser(self: CLI, *given: Any) -> None:
        if not made:
            before = {**vars(self)}
            make(self, *given)
            made.update({name: value for name, value in vars(self).items() if name not in before})
        vars(self).update(made)

    return setup_parser


def remembering(find: Callable[..., Any] = _subcommands.find_action_and_subcommand) -> Callable[..., Any]:
    """In the place of jsonargparse's `find_action_and_subcommand`: looks for an option of a parser once."""
    found: WeakKeyDictionary[Any, dict[Any, Any]] = WeakKeyDictionary()

    def find_action_and_subcommand(parser: Any, name: str, exclude: Any = None) -> Any:
        of_parser, key = found.setdefault(parser, {}), (name, exclude, len(parser._actions))
        if key not in of_parser:
            of_parser[key] = find(parser, name, exclude)
        return of_parser[key]

    return find_action_and_subcommand
