"""The engine: players with optimizers of their own, phases that move some of them, one `global_step` per batch.

A model says who plays (`player_modules`), in which order (`phases`) and for what (each phase's per-sample losses). Only
this file steps optimizers.
"""

from __future__ import annotations

import abc
import math
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import fields
from functools import reduce
from typing import Any, ClassVar, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from . import gradients, noise, processes
from .batch import Batch, Shape
from .capabilities import DataDescription
from .errors import ConfigurationError, NonFiniteLossError, at_least
from .hyperparameters import Hyperparameters
from .interruption import Interruption
from .lightning_private import BatchModule, attached_datamodule, set_logged_step, update_hyperparameters
from .players import Losses, Phase, Player, named_losses
from .precision import one_scale_update
from .recipes import recipe
from .resuming import compare_with

PROGRESS = ("elbo", "elbo_estimate", "critic_loss")
"""The scores that the progress bar shows."""


class Game(Hyperparameters, BatchModule, abc.ABC):
    """Base class of all models.

    A new model has `build`, `player_modules`, `phases` and `scores`; docs/architecture.md has an example. Its
    `__init__` has an argument for each of `data_attributes` and ends with `build_if_known`.

    Args:
        players: a dataclass whose fields are the players' names and whose values are `Player`. A player whose modules
            have no parameters does not play.
        accumulate: split every batch into that many pieces and step once: the memory of one piece, the gradient of the
            whole batch.

    Raises:
        ConfigurationError: a number that makes no sense, with its name.
    """

    data_attributes: ClassVar[tuple[str, ...]] = ("data_shape",)
    """What a model must know of the data before it is built, `data_shape`, the shape of a row of x, among them. A
    DataModule has attributes of these names; a model that is built without one gets them as arguments."""
    advice: str = (
        "; the last checkpoint is from before. A smaller learning rate or clip_norm for that player is the usual cure."
    )
    """What to do about a loss that is not finite."""

    def __init__(self, players: Any, accumulate: int = 1) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.save_arguments(logger=True)
        self.accumulate = at_least(1, accumulate=accumulate)
        players = recipe(players)
        self.players: dict[str, Player] = {field.name: getattr(players, field.name) for field in fields(players)}
        self.data_shape: Shape | None = None
        self._last_losses: dict[str, Any] = {}
        self._step_of_losses = 0

    # What a model says.

    @abc.abstractmethod
    def build(self, data_shape: Shape) -> None:
        """Makes the networks for rows of that shape."""

    @abc.abstractmethod
    def player_modules(self) -> dict[str, Sequence[nn.Module]]:
        """Player -> the modules whose parameters it moves."""

    @abc.abstractmethod
    def phases(self) -> list[Phase]:
        """The phases of one batch, in order."""

    @abc.abstractmethod
    def scores(self, batch: Batch) -> dict[str, Tensor]:
        """Per-sample quantities to average over a data set in validation and test."""

    def predictions(self, batch: Batch) -> dict[str, Any]:
        """What `predict` gives for every row, `(batch, ...)` each.

        Raises:
            ConfigurationError: this model predicts nothing.
        """
        raise ConfigurationError(f"predict: a {type(self).__name__} gives nothing for a row of data")

    def check_batch(self, batch: Batch, batch_idx: int) -> None:
        """Raises ConfigurationError if the model cannot take these rows. Called for every batch, in every stage."""

    # Construction.

    def build_if_known(self, **data_attributes: Any) -> None:
        """Builds the networks, unless the data is still to be seen. The last line of a model's `__init__`.

        Args:
            data_attributes: the values of `Game.data_attributes` by name; `data_shape` is None where the DataModule
                will tell.
        """
        if data_attributes["data_shape"] is None or self.data_shape is not None:
            return
        self.data_shape = tuple(data_attributes["data_shape"])
        update_hyperparameters(self, **{**data_attributes, "data_shape": list(self.data_shape)})
        self.build(self.data_shape)
        self.players = {name: player for name, player in self.players.items() if self.parameters_of(name)}

    def require_one_step(self, except_for: str | None = None, minimum: int = 0) -> None:
        """Raises ConfigurationError if a player takes more or fewer steps per batch than one.

        Args:
            except_for: the player that may take more.
            minimum: the least number of steps of that player.
        """
        if except_for is not None:
            at_least(minimum, **{f"players.{except_for}.steps": self.players[except_for].steps})
        for name, player in self.players.items():
            if player.steps != 1 and name != except_for:
                more = f"; only {except_for} may take more" if except_for else ""
                raise ConfigurationError(f"players.{name}.steps: {player.steps}; one per batch{more}")

    @property
    def data(self) -> DataDescription:
        """What the trainer's DataModule tells of its data; nothing, where there is none."""
        return DataDescription(attached_datamodule(self))

    def setup(self, stage: str) -> None:
        processes.check(self.trainer)

    def configure_model(self) -> None:
        told = {name: getattr(attached_datamodule(self), name, None) for name in self.data_attributes}
        if self.data_shape is None and told["data_shape"] is None:
            raise ConfigurationError(
                "data_shape: unknown; fit with one of the datamodules or give the model data_shape=(...)"
            )
        if self.data_shape is None:
            for name, known in told.items():
                given = self.hparams.get(name)
                if given is not None and known is not None and given != known:
                    raise ConfigurationError(f"{name}: the configuration says {given}, the data has {known}")
        self.build_if_known(**told)
        if told["data_shape"] is not None and tuple(told["data_shape"]) != self.data_shape:
            raise ConfigurationError(
                f"data_shape: the model is made for rows of {self.data_shape}, the data has {tuple(told['data_shape'])}"
            )

    def configure_callbacks(self) -> list[pl.Callback]:
        return [Interruption()]

    def parameters_of(self, player: str) -> list[nn.Parameter]:
        """The parameters that a player moves."""
        return [p for module in self.player_modules()[player] for p in module.parameters() if p.requires_grad]

    def configure_optimizers(self) -> tuple[list[Optimizer], list[LRScheduler]]:
        """One optimizer per player, in the order of `players`, and the schedulers of those that have one."""
        optimizers = [of.make_optimizer(name, self.parameters_of(name)) for name, of in self.players.items()]
        self._options = {
            name: [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
            for name, optimizer in zip(self.players, optimizers, strict=True)
        }
        schedulers = [self._scheduler(*pair) for pair in zip(self.players, optimizers, strict=True)]
        self._movers: dict[tuple[str, ...], _Movers] = {}
        return optimizers, [scheduler for scheduler in schedulers if scheduler is not None]

    def _scheduler(self, name: str, optimizer: Optimizer) -> LRScheduler | None:
        if self.players[name].scheduler is None:
            return None
        total = self.trainer.estimated_stepping_batches
        return self.players[name].make_scheduler(name, optimizer, None if math.isinf(total) else int(total))

    # Resuming: moments, counters and positions from the checkpoint, hyper-parameters from the configuration.

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        compare_with(checkpoint, self)

    def on_train_start(self) -> None:
        if self.global_step:
            self._apply_configuration()
        moving = [parameter for parameter in self.parameters() if parameter.requires_grad]
        gradients.fix_buckets(self.trainer.strategy.model, moving)

    def _apply_configuration(self) -> None:
        """Gives the restored optimizers the configuration's options and replays the schedules up to this step."""
        configs = iter(self.trainer.lr_scheduler_configs)
        for name, optimizer in zip(self.players, self.trainer.strategy.optimizers, strict=True):
            for group, options in zip(optimizer.param_groups, self._options[name], strict=True):
                group.pop("initial_lr", None)
                group.update(options)
            scheduler = self._scheduler(name, optimizer)
            if scheduler is None:
                continue
            next(configs).scheduler = scheduler
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
                for _ in range(self.global_step):
                    scheduler.step()

    # One batch.

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        self.check_batch(batch, batch_idx)
        noise.seed_step(noise.run_seed(), self.global_step, self.global_rank)
        self._stepped, self._step_of_losses, self._last_losses = False, self.global_step, {}
        set_logged_step(self.trainer, self.global_step)
        interval: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        logging = interval > 0 and (self.global_step + 1) % interval == 0
        scores: dict[str, Tensor] = {}
        pieces = batch.split(self.accumulate)
        with one_scale_update(self.trainer.precision_plugin):
            for phase in self.phases():
                scores = {**self._play(phase, pieces, logging), **scores}
        for scheduler in self.trainer.lr_scheduler_configs:
            scheduler.scheduler.step()  # type: ignore[call-arg]
        if logging:
            self._stop_if_not_finite()
            for name, value in scores.items():
                self.log(f"train/{name}", value, prog_bar=name in PROGRESS)

    def _play(self, phase: Phase, pieces: list[Batch], logging: bool) -> dict[str, Tensor]:
        movers = self._movers_of(phase)
        for optimizer in movers.optimizers:
            optimizer.zero_grad()
        rows = sum(len(piece.x) for piece in pieces)
        scores: dict[str, Tensor] = {}
        for piece in pieces:
            share = len(piece.x) / rows
            by_ddp = movers.everybody and piece is pieces[-1]
            with nullcontext() if by_ddp else gradients.without_ddp(self.trainer.strategy):
                result = phase.compute(piece)
                losses = {player: loss.mean() for player, loss in result.losses.items()}
                self._watch(phase, losses)
                loss = reduce(torch.add, losses.values())
                self.manual_backward(loss if share == 1 else loss * share, **movers.inputs)
            for name, value in {**named_losses(losses), **result.scores}.items() if logging else ():
                scores[name] = scores.get(name, 0) + value.detach().mean() * share
        if not movers.everybody:
            gradients.average(movers.parameters, self.trainer.world_size)
        for optimizer in movers.optimizers:
            self._step(optimizer)
        return scores

    def _movers_of(self, phase: Phase) -> _Movers:
        if phase.players not in self._movers:
            given = self.optimizers()
            optimizers = dict(zip(self.players, given if isinstance(given, list) else [given], strict=True))
            moving = [optimizers[name] for name in phase.players]
            parameters = [p for optimizer in moving for group in optimizer.param_groups for p in group["params"]]
            everybody = len(parameters) == sum(p.requires_grad for p in self.parameters())
            self._movers[phase.players] = _Movers(moving, parameters, everybody)
        return self._movers[phase.players]

    def _step(self, optimizer: Any) -> None:
        """One optimizer step; the first of a batch is the one that Lightning counts."""
        if not self._stepped:
            optimizer.step()
            self._stepped = True
        else:
            self.trainer.strategy.optimizer_step(optimizer.optimizer, lambda: None)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clips the player's gradient: Lightning calls this after unscaling and before the step."""
        position = [id(o) for o in self.trainer.strategy.optimizers].index(id(optimizer))
        clip_norm = list(self.players.values())[position].clip_norm
        if clip_norm is not None:
            nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], clip_norm)

    def _watch(self, phase: Phase, losses: Losses) -> None:
        if set(phase.players) != set(losses):
            raise ConfigurationError(f"the phase of {', '.join(phase.players)} gave losses for {', '.join(losses)}")
        for player, loss in losses.items():
            self._last_losses[player] = self._last_losses.get(player, 0) + loss.detach()
        # Elsewhere than on a CPU reading a loss waits for the device: `training_step` does so where it logs.
        if self.device.type == "cpu":
            self._stop_if_not_finite()

    def _stop_if_not_finite(self) -> None:
        for player, loss in self._last_losses.items():
            if not math.isfinite(loss.item()):
                what = f"the loss of player {player!r} is {loss.item()} at step {self._step_of_losses}"
                raise NonFiniteLossError(what + self.advice)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps weights that are not finite, or follow from such a loss, out of every checkpoint."""
        self._stop_if_not_finite()
        for player, modules in self.player_modules().items():
            if not all(torch.isfinite(p).all() for module in modules for p in module.parameters()):
                what = f"the weights of player {player!r} are not finite after step {self._step_of_losses}"
                raise NonFiniteLossError(what + self.advice)

    # Logging and evaluation.

    def _noise_of_rows(self, stage: str, batch: Batch) -> Any:
        if batch.index is None:
            raise ConfigurationError(
                "a batch without the index of its rows cannot be evaluated; see lightning_avb.batch.Batch"
            )
        return noise.use(noise.OfRows(noise.run_seed(), stage, index=batch.index))

    def _evaluate(self, stage: str, batch: Batch, batch_idx: int) -> None:
        self.check_batch(batch, batch_idx)
        with self._noise_of_rows(stage, batch):
            scores = self.scores(batch)
        weight = float(len(batch.counted.x))  # as a whole number Lightning would round its mean over processes down
        for name, value in scores.items():
            self.log(
                f"{stage}/{name}",
                value.mean(),
                prog_bar=name in PROGRESS,
                on_step=False,
                on_epoch=True,
                batch_size=weight,  # type: ignore[arg-type]
                sync_dist=True,
            )

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._evaluate("val", batch, batch_idx)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._evaluate("test", batch, batch_idx)

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        self.check_batch(batch, batch_idx)
        with self._noise_of_rows("predict", batch):
            return self.predictions(batch)


class _Movers(NamedTuple):
    """What moves in a phase. `everybody`: all parameters of the model get their gradient in this phase."""

    optimizers: list[Any]
    parameters: list[nn.Parameter]
    everybody: bool

    @property
    def inputs(self) -> dict[str, list[nn.Parameter]]:
        return {} if self.everybody else {"inputs": self.parameters}
