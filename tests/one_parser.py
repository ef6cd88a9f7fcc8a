"""One parser for all commands of a process: its making takes longer than most of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
