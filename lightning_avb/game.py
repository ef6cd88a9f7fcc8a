"""The engine: every player has its own optimizer, a phase steps some of them, and one batch is one `global_step`.

A model defines its players (`player_modules`), the order of the phases (`phases`) and the per-sample losses of each.
Only this file steps optimizers.
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
from .compiling import Compilation
from .errors import ConfigurationError, at_least
from .finite import FiniteGuard
from .hyperparameters import Hyperparameters
from .interruption import Interruption
from .lightning_private import (
    BatchModule,
    attached_datamodule,
    restore_logged_step,
    set_logged_step,
    update_hyperparameters,
)
from .players import Phase, Player, named_losses
from .precision import one_scale_update, warn_if_slow
from .recipes import from_config
from .resuming import CheckpointGuard, check_and_sign, compare_with

PROGRESS = ("elbo", "elbo_lower", "elbo_estimate", "critic_loss")
"""The scores that the progress bar shows."""


class Game(Hyperparameters, BatchModule, abc.ABC):
    """Base class of all models.

    A new model defines `build`, `player_modules`, `phases` and `scores`; docs/architecture.md has an example. Its
    `__init__` has an argument for each of `data_attributes` and ends with `build_if_known`.

    Args:
        players: a dataclass with one `Player` per field; the field is the player's name. A player without parameters
            is dropped.
        accumulate: split every batch into that many parts and step once: the memory of one part, the gradient of the
            whole batch.
        compile: compile the networks in training steps, see `lightning_avb.compiling`.

    Raises:
        ConfigurationError: a number out of range; the message names it.
    """

    data_attributes: ClassVar[tuple[str, ...]] = ("data_shape",)
    """What a model must know about the data before it is built, at least `data_shape`, the shape of a row of x. A
    DataModule has attributes of these names; without a DataModule they are arguments of the model."""

    def __init__(self, players: Any, accumulate: int = 1, compile: bool = False) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.save_arguments(logger=True)
        self.accumulate = at_least(1, accumulate=accumulate)
        players = from_config(players)
        self.players: dict[str, Player] = {field.name: getattr(players, field.name) for field in fields(players)}
        self.data_shape: Shape | None = None
        self.finite, self.compilation = FiniteGuard(), Compilation(compile)

    # What a model defines.

    @abc.abstractmethod
    def build(self, data_shape: Shape) -> None:
        """Makes the networks for rows of x of this shape."""

    @abc.abstractmethod
    def player_modules(self) -> dict[str, Sequence[nn.Module]]:
        """Player -> the modules whose parameters it updates."""

    @abc.abstractmethod
    def phases(self) -> list[Phase]:
        """The phases of one batch, in order."""

    @abc.abstractmethod
    def scores(self, batch: Batch) -> dict[str, Tensor]:
        """Per-sample quantities, which validation and test average over the data set."""

    def predictions(self, batch: Batch) -> dict[str, Any]:
        """What `predict` returns for every row, `(batch, ...)` each.

        Raises:
            ConfigurationError: this model predicts nothing.
        """
        raise ConfigurationError(f"predict: a {type(self).__name__} gives nothing for a row of data")

    def check_batch(self, batch: Batch, batch_idx: int) -> None:
        """Raises ConfigurationError if the model cannot take these rows. Called for every batch, in every stage."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Raises ConfigurationError: what a model does has a name."""
        methods = [name for name in ("encode", "decode", "sample", "draw") if hasattr(self, name)]
        raise ConfigurationError(f"a model is not called itself: {type(self).__name__} has {', '.join(methods)}")

    # Construction.

    def build_if_known(self, **data_attributes: Any) -> None:
        """Builds the networks if the shape of the data is known. The last line of a model's `__init__`.

        Args:
            data_attributes: the values of `Game.data_attributes` by name; `data_shape` is None if the DataModule
                gives it later.
        """
        if data_attributes["data_shape"] is None or self.data_shape is not None:
            return
        self.data_shape = tuple(data_attributes["data_shape"])
        update_hyperparameters(self, **{**data_attributes, "data_shape": list(self.data_shape)})
        self.build(self.data_shape)
        self.players = {name: player for name, player in self.players.items() if self.parameters_of(name)}

    def require_one_step(self, except_for: str | None = None, minimum: int = 0) -> None:
        """Raises ConfigurationError if a player does not take exactly one step per batch.

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
        """What the trainer's DataModule says about its data; all defaults without a DataModule."""
        return DataDescription(attached_datamodule(self))

    def setup(self, stage: str) -> None:
        processes.check_trainer(self.trainer)

    def configure_model(self) -> None:
        from_data = {name: getattr(attached_datamodule(self), name, None) for name in self.data_attributes}
        if self.data_shape is None and from_data["data_shape"] is None:
            raise ConfigurationError(
                "data_shape: unknown; fit with one of the datamodules or give the model data_shape=(...)"
            )
        if self.data_shape is None:
            for name, value in from_data.items():
                given = self.hparams.get(name)
                if given is not None and value is not None and given != value:
                    raise ConfigurationError(f"{name}: the configuration says {given}, the data has {value}")
        known = {name: self.hparams.get(name) if value is None else value for name, value in from_data.items()}
        self.build_if_known(**known)
        if from_data["data_shape"] is not None and tuple(from_data["data_shape"]) != self.data_shape:
            raise ConfigurationError(
                f"data_shape: the model is made for rows of {self.data_shape}, the data has "
                f"{tuple(from_data['data_shape'])}"
            )

    def configure_callbacks(self) -> list[pl.Callback]:
        return [Interruption(), CheckpointGuard()]

    def parameters_of(self, player: str) -> list[nn.Parameter]:
        """The parameters that a player updates."""
        return [p for module in self.player_modules()[player] for p in module.parameters() if p.requires_grad]

    def configure_optimizers(self) -> tuple[list[Optimizer], list[LRScheduler]]:
        """One optimizer per player, in the order of `players`, and the schedulers of those that have one."""
        optimizers = [player.make_optimizer(name, self.parameters_of(name)) for name, player in self.players.items()]
        self._optimizer_options = {
            name: [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
            for name, optimizer in zip(self.players, optimizers, strict=True)
        }
        schedulers = [self._scheduler(*pair) for pair in zip(self.players, optimizers, strict=True)]
        self._phase_optimizers: dict[tuple[str, ...], _PhaseOptimizers] = {}
        return optimizers, [scheduler for scheduler in schedulers if scheduler is not None]

    def _scheduler(self, name: str, optimizer: Optimizer) -> LRScheduler | None:
        if self.players[name].scheduler is None:
            return None
        total = self.trainer.estimated_stepping_batches
        return self.players[name].make_scheduler(name, optimizer, None if math.isinf(total) else int(total))

    # Resuming: optimizer states and counters from the checkpoint, hyper-parameters from the configuration.

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        compare_with(checkpoint, self)
        restore_logged_step(self, checkpoint)

    def on_train_start(self) -> None:
        if self.device.type == "cpu" and self.trainer.is_global_zero:
            warn_if_slow(str(self.trainer.precision))
        if self.global_step:
            self._apply_configuration()
        moving = [parameter for parameter in self.parameters() if parameter.requires_grad]
        gradients.fix_buckets(self.trainer.strategy.model, moving)
        self.compilation.begin(self)

    def _apply_configuration(self) -> None:
        """Sets the configuration's options on the restored optimizers, and replays the schedules up to this step."""
        configs = iter(self.trainer.lr_scheduler_configs)
        for name, optimizer in zip(self.players, self.trainer.strategy.optimizers, strict=True):
            for group, options in zip(optimizer.param_groups, self._optimizer_options[name], strict=True):
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
        self._stepped = False
        self.finite.begin(self.global_step)
        set_logged_step(self.trainer, self.global_step)
        interval: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        logging = interval > 0 and (self.global_step + 1) % interval == 0
        scores: dict[str, Tensor] = {}
        pieces = batch.split(self.accumulate)
        with one_scale_update(self.trainer.precision_plugin), self.compilation.step():
            for phase in self.phases():
                scores = {**self._run_phase(phase, pieces, logging), **scores}
        for scheduler in self.trainer.lr_scheduler_configs:
            scheduler.scheduler.step()  # type: ignore[call-arg]
        if logging:
            self.finite.check_losses()
            for name, value in scores.items():
                self.log(f"train/{name}", value, prog_bar=name in PROGRESS)

    def _run_phase(self, phase: Phase, pieces: list[Batch], logging: bool) -> dict[str, Tensor]:
        phase_optimizers = self._optimizers_of(phase)
        for optimizer in phase_optimizers.optimizers:
            optimizer.zero_grad()
        rows = sum(len(piece.x) for piece in pieces)
        scores: dict[str, Tensor] = {}
        for piece in pieces:
            share = len(piece.x) / rows
            by_ddp = phase_optimizers.all_parameters and piece is pieces[-1]
            with nullcontext() if by_ddp else gradients.without_ddp(self.trainer.strategy):
                result = phase.compute(piece)
                losses = {player: loss.mean() for player, loss in result.losses.items()}
                if set(phase.players) != set(losses):
                    raise ConfigurationError(
                        f"the phase of {', '.join(phase.players)} gave losses for {', '.join(losses)}"
                    )
                self.finite.watch(losses)
                loss = reduce(torch.add, losses.values())
                self.manual_backward(loss if share == 1 else loss * share, **phase_optimizers.inputs)
            for name, value in {**named_losses(losses), **result.scores}.items() if logging else ():
                scores[name] = scores.get(name, 0) + value.detach().mean() * share
        if not phase_optimizers.all_parameters:
            gradients.average(phase_optimizers.parameters, self.trainer.world_size)
        for optimizer in phase_optimizers.optimizers:
            self._step(optimizer)
        return scores

    def _optimizers_of(self, phase: Phase) -> _PhaseOptimizers:
        if phase.players not in self._phase_optimizers:
            found = self.optimizers()
            optimizers = dict(zip(self.players, found if isinstance(found, list) else [found], strict=True))
            moving = [optimizers[name] for name in phase.players]
            parameters = [p for optimizer in moving for group in optimizer.param_groups for p in group["params"]]
            all_parameters = len(parameters) == sum(p.requires_grad for p in self.parameters())
            self._phase_optimizers[phase.players] = _PhaseOptimizers(moving, parameters, all_parameters)
        return self._phase_optimizers[phase.players]

    def _step(self, optimizer: Any) -> None:
        """One optimizer step. Lightning counts only the first of a batch."""
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

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        check_and_sign(checkpoint, self)

    # Logging and evaluation.

    def _noise_of_rows(self, stage: str, batch: Batch) -> Any:
        if batch.index is None:
            raise ConfigurationError(
                "a batch without the index of its rows cannot be evaluated; see lightning_avb.batch.Batch"
            )
        return noise.use(noise.RowNoise(noise.run_seed(), stage, index=batch.index))

    def _evaluate(self, stage: str, batch: Batch, batch_idx: int) -> None:
        self.check_batch(batch, batch_idx)
        with self._noise_of_rows(stage, batch):
            scores = self.scores(batch)
        weight = float(len(batch.real_rows.x))  # Lightning would round the mean over processes of an integer down
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


class _PhaseOptimizers(NamedTuple):
    """The optimizers of a phase and their parameters. `all_parameters`: these are all parameters of the model."""

    optimizers: list[Any]
    parameters: list[nn.Parameter]
    all_parameters: bool

    @property
    def inputs(self) -> dict[str, list[nn.Parameter]]:
        return {} if self.all_parameters else {"inputs": self.parameters}
