"""Losses and weights that are not finite: named by player and step, and kept out of checkpoints."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from .errors import NonFiniteLossError
from .players import Losses


class FiniteGuard:
    """Remembers the losses of one training step, and raises NonFiniteLossError if one of them is not finite.

    Attributes:
        advice: the end of the message: what the user can do about it.
        saved: whether there is a checkpoint of the model.
    """

    advice = "A smaller learning rate or clip_norm for that player often helps."
    saved = False

    def __init__(self) -> None:
        self.step = 0
        self._losses: dict[str, Tensor] = {}

    def begin(self, step: int) -> None:
        """Starts a training step."""
        self.step, self._losses = step, {}

    def watch(self, losses: Losses) -> None:
        """Takes the mean losses of a phase, and checks them at once if they are on a CPU.

        On another device that would wait for it: there `check_losses` is called when values are logged or saved.
        """
        for player, loss in losses.items():
            self._losses[player] = self._losses.get(player, 0) + loss.detach()
        if all(loss.device.type == "cpu" for loss in losses.values()):
            self.check_losses()

    def check_losses(self) -> None:
        """Raises NonFiniteLossError if a loss of this step is not finite."""
        for player, loss in self._losses.items():
            if not math.isfinite(loss.item()):
                what = f"the loss of player {player!r} is {loss.item()} at step {self.step}"
                raise self._error(what)

    def check_weights(self, player_modules: Mapping[str, Sequence[nn.Module]]) -> None:
        """Raises NonFiniteLossError if a weight of a player is not finite."""
        for player, modules in player_modules.items():
            if not all(torch.isfinite(p).all() for module in modules for p in module.parameters()):
                what = f"the weights of player {player!r} are not finite after step {self.step}"
                raise self._error(what)

    def _error(self, what: str) -> NonFiniteLossError:
        checkpoint = "the last checkpoint is from before" if self.saved else "there is no checkpoint yet"
        return NonFiniteLossError(f"{what}; {checkpoint}. {self.advice}")
