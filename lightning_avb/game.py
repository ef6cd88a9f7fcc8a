"""The engine: players with optimizers of their own, phases that move some of them, one `global_step` a batch.

A model says who plays (`cast`), in which order (`phases`) and for what (each phase's per-sample losses). Only this
file knows optimizers, steps, clipping, accumulation, precision and ranks.
"""

from __future__ import annotations

import abc
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from functools import reduce
from typing import Any, ClassVar, NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from . import noise, processes
from .batch import Batch, Shape
from .errors import ConfigurationError, NonFiniteLossError, at_least
from .hyperparameters import Hyperparameters
from .interruption import Interruption
from .recipes import recipe

Losses = dict[str, Tensor]
"""Player -> loss of every sample, `(batch,)` or `(samples, batch)`."""


class Play(NamedTuple):
    """What a phase gives: the losses of its players and per-sample quantities to log."""

    losses: Losses
    scores: dict[str, Tensor]


class Phase(NamedTuple):
    """One forward pass and one backward pass, after which `players`, whose parameters are disjoint, all step."""

    players: tuple[str, ...]
    play: Callable[[Batch], Play]


@dataclass(frozen=True)
class Player:
    """How one player moves.

    Args:
        optimizer: its optimizer; Adam with the field's usual 1e-3 if nothing is said.
        scheduler: its learning-rate schedule, counted in global steps; none: constant.
        clip_norm: the largest norm of its gradient, None: no limit.
        steps: steps a batch. More than one where the model has phases to repeat (the critic).
    """

    optimizer: OptimizerCallable = torch.optim.Adam
    scheduler: LRSchedulerCallable | None = None
    clip_norm: float | None = None
    steps: int = 1

    def __post_init__(self) -> None:
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ConfigurationError(f"clip_norm: {self.clip_norm} is not a positive norm")
        at_least(0, steps=self.steps)


class Cosine(LambdaLR):
    """From the optimizer's learning rate down to `final` of it along half a cosine, over the whole run.

    Args:
        optimizer: given by the engine.
        total: global steps until the end; None: the length of the run.
        warmup: steps of a linear rise from 0 at the start.
        final: the last learning rate, as a share of the first.
    """

    def __init__(self, optimizer: Optimizer, total: int | None = None, warmup: int = 0, final: float = 0.0) -> None:
        self.total, self.warmup, self.final = total, warmup, final
        super().__init__(optimizer, self.factor)

    def factor(self, step: int) -> float:
        """The share of the learning rate at a global step."""
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        if self.total is None:
            return 1.0
        done = min(1.0, (step - self.warmup) / max(1, self.total - self.warmup))
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * done))


PROGRESS = ("elbo", "elbo_estimate", "critic_loss")
"""The scores that the progress bar shows."""


class Game(Hyperparameters, pl.LightningModule, abc.ABC):
    """Base class of all models.

    Args:
        players: a dataclass whose fields are the players' names and whose values are `Player`. A player whose modules
            have no parameters does not play.
        accumulate: work a batch off in so many pieces and step once: the memory of one piece, the gradient of the
            whole batch.

    A model's own `__init__` also takes the `facts`, `data_shape` first, the shape of a row of x, and hands them to
    `_build_for`; None: the DataModule, which has attributes of these names, tells them when fitting starts.

    Raises:
        ConfigurationError: a number that makes no sense, with its name.
    """

    facts: ClassVar[tuple[str, ...]] = ("data_shape",)
    """What the data tells the model before it is built."""
    cure: str = (
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
    def cast(self) -> dict[str, Sequence[nn.Module]]:
        """Player -> the modules whose parameters it moves."""

    @abc.abstractmethod
    def phases(self) -> list[Phase]:
        """The phases of one batch, in order."""

    @abc.abstractmethod
    def scores(self, batch: Batch) -> dict[str, Tensor]:
        """Per-sample quantities to average over a data set in validation and test."""

    # Construction.

    def _build_for(self, **facts: Any) -> None:
        """Builds the networks, once. A model's `__init__` ends with this call."""
        if facts["data_shape"] is None or self.data_shape is not None:
            return
        self.data_shape = tuple(facts["data_shape"])
        for name, value in {**facts, "data_shape": list(self.data_shape)}.items():
            self._hparams[name] = self._hparams_initial[name] = value
        self.build(self.data_shape)
        self.players = {name: player for name, player in self.players.items() if self._parameters_of(name)}

    def _one_step_each(self, but: str | None = None, least: int = 0) -> None:
        """Raises ConfigurationError if a player takes not one step a batch; `but`: not `least` or more."""
        if but is not None:
            at_least(least, **{f"players.{but}.steps": self.players[but].steps})
        for name, player in self.players.items():
            if player.steps != 1 and name != but:
                more = f"; only {but} may take more" if but else ""
                raise ConfigurationError(f"players.{name}.steps: {player.steps}; one a batch{more}")

    def setup(self, stage: str) -> None:
        processes.check(self.trainer)

    def configure_model(self) -> None:
        data = getattr(self._trainer, "datamodule", None)
        told = {name: getattr(data, name, None) for name in self.facts}
        if self.data_shape is None and told["data_shape"] is None:
            raise ConfigurationError(
                "data_shape: unknown; fit with one of the datamodules or give the model data_shape=(...)"
            )
        if self.data_shape is None:
            for name, known in told.items():
                given = self._hparams.get(name)
                if given is not None and known is not None and given != known:
                    raise ConfigurationError(f"{name}: the configuration says {given}, the data has {known}")
        self._build_for(**told)
        if told["data_shape"] is not None and tuple(told["data_shape"]) != self.data_shape:
            raise ConfigurationError(
                f"data_shape: the model is made for rows of {self.data_shape}, the data has {tuple(told['data_shape'])}"
            )

    def configure_callbacks(self) -> list[pl.Callback]:
        return [Interruption()]

    def _parameters_of(self, player: str) -> list[nn.Parameter]:
        return [p for module in self.cast()[player] for p in module.parameters() if p.requires_grad]

    def configure_optimizers(self) -> tuple[list[Optimizer], list[LRScheduler]]:
        """One optimizer a player, in the order of `players`, and the schedulers of those that have one."""
        optimizers = [self._optimizer(*named) for named in self.players.items()]
        self._options = {
            name: [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
            for name, optimizer in zip(self.players, optimizers, strict=True)
        }
        schedulers = [self._scheduler(*pair) for pair in zip(self.players.items(), optimizers, strict=True)]
        self._moves: dict[tuple[str, ...], _Moves] = {}
        return optimizers, [scheduler for scheduler in schedulers if scheduler is not None]

    def _optimizer(self, name: str, player: Player) -> Optimizer:
        try:
            optimizer = player.optimizer(self._parameters_of(name))
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"players.{name}.optimizer: {error}") from error
        # Fused optimizers would unscale float16 gradients within their step, after the clipping.
        optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
        return optimizer

    def _scheduler(self, named: tuple[str, Player], optimizer: Optimizer) -> LRScheduler | None:
        name, player = named
        if player.scheduler is None or player.steps == 0:
            return None
        try:
            scheduler = player.scheduler(optimizer)
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"players.{name}.scheduler: {error}") from error
        if isinstance(scheduler, ReduceLROnPlateau):
            raise ConfigurationError(
                f"players.{name}.scheduler: ReduceLROnPlateau needs a metric; schedules here count steps"
            )
        if isinstance(scheduler, Cosine) and scheduler.total is None:
            total = self.trainer.estimated_stepping_batches
            scheduler.total = None if math.isinf(total) else int(total)
        return scheduler

    # Resuming: moments, counters and positions from the checkpoint, hyper-parameters from the configuration.

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        differences = list(_differences("model", checkpoint["hyper_parameters"], dict(self.hparams)))
        for key, theirs, ours in differences:
            rank_zero_info(f"{key}: {ours!r} from the configuration, in place of the checkpoint's {theirs!r}")
        expected, given = self.state_dict(), checkpoint["state_dict"]
        for key in given:
            if key in expected and expected[key].shape != given[key].shape:
                changed = "; ".join(
                    f"{key}: {ours!r}, in the checkpoint {theirs!r}" for key, theirs, ours in differences
                )
                raise ConfigurationError(
                    f"{changed or key}: the checkpoint's weights do not fit "
                    f"({key} has shape {tuple(given[key].shape)}, the model's has {tuple(expected[key].shape)})"
                )

    def on_train_start(self) -> None:
        if self.global_step:
            self._apply_configuration()
        self._settle_buckets()

    def _settle_buckets(self) -> None:
        """Has DDP lay out its buckets for good before the first step.

        It does so behind its first backward pass, by the order in which gradients arrived. Sums over three or more
        processes then round otherwise, and a resumed run would not end with the bits of one that was never stopped.
        """
        model = self.trainer.strategy.model
        if not isinstance(model, DistributedDataParallel) or model.find_unused_parameters:
            return
        moving = [parameter for parameter in self.parameters() if parameter.requires_grad]
        with torch.enable_grad():
            model.reducer.prepare_for_backward([])
            sum((parameter.flatten()[0] for parameter in moving), moving[0].new_zeros(())).backward()  # type: ignore[union-attr]
        model.reducer._rebuild_buckets()
        for parameter in moving:
            parameter.grad = None

    def _apply_configuration(self) -> None:
        """Gives the restored optimizers the configuration's options and replays the schedules up to this step."""
        configs = iter(self.trainer.lr_scheduler_configs)
        for named, optimizer in zip(self.players.items(), self.trainer.strategy.optimizers, strict=True):
            for group, options in zip(optimizer.param_groups, self._options[named[0]], strict=True):
                group.pop("initial_lr", None)
                group.update(options)
            scheduler = self._scheduler(named, optimizer)
            if scheduler is None:
                continue
            next(configs).scheduler = scheduler
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
                for _ in range(self.global_step):
                    scheduler.step()

    # One batch.

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        noise.seed_step(noise.run_seed(), self.global_step, self.global_rank)
        self._stepped, self._step_of_losses, self._last_losses = False, self.global_step, {}
        # The loggers' count of batches, which is one too high behind a checkpoint of an epoch's end.
        self.trainer.fit_loop.epoch_loop._batches_that_stepped = self.global_step
        interval: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        logging = interval > 0 and (self.global_step + 1) % interval == 0
        scores: dict[str, Tensor] = {}
        pieces = Batch(*batch).split(self.accumulate)
        with self._one_scaler_update():
            for phase in self.phases():
                scores = {**self._play(phase, pieces, logging), **scores}
        for scheduler in self.trainer.lr_scheduler_configs:
            scheduler.scheduler.step()  # type: ignore[call-arg]
        if logging:
            self._stop_if_not_finite()
            for name, value in scores.items():
                self.log(f"train/{name}", value, prog_bar=name in PROGRESS)

    def _play(self, phase: Phase, pieces: list[Batch], logging: bool) -> dict[str, Tensor]:
        moves = self._moves_of(phase)
        for optimizer in moves.optimizers:
            optimizer.zero_grad()
        rows = sum(len(piece.x) for piece in pieces)
        scores: dict[str, Tensor] = {}
        for piece in pieces:
            share = len(piece.x) / rows
            with self._synchronised(moves.everybody and piece is pieces[-1]):
                play = phase.play(piece)
                losses = {player: loss.mean() for player, loss in play.losses.items()}
                self._watch(phase, losses)
                loss = reduce(torch.add, losses.values())
                self.manual_backward(loss if share == 1 else loss * share, **moves.inputs)
            for name, value in {**_named(losses), **play.scores}.items() if logging else ():
                scores[name] = scores.get(name, 0) + value.detach().mean() * share
        if not moves.everybody:
            self._average_gradients(moves.parameters)
        for optimizer in moves.optimizers:
            self._step(optimizer)
        return scores

    def _moves_of(self, phase: Phase) -> _Moves:
        if phase.players not in self._moves:
            given = self.optimizers()
            optimizers = dict(zip(self.players, given if isinstance(given, list) else [given], strict=True))
            moving = [optimizers[name] for name in phase.players]
            parameters = [p for optimizer in moving for group in optimizer.param_groups for p in group["params"]]
            everybody = len(parameters) == sum(p.requires_grad for p in self.parameters())
            self._moves[phase.players] = _Moves(moving, parameters, everybody)
        return self._moves[phase.players]

    def _synchronised(self, synchronised: bool) -> Any:
        strategy = self.trainer.strategy
        if synchronised or not hasattr(strategy, "block_backward_sync"):
            return nullcontext()
        return strategy.block_backward_sync()

    def _average_gradients(self, parameters: list[nn.Parameter]) -> None:
        """The mean over ranks of a phase's gradients, in one all-reduce."""
        if self.trainer.world_size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        torch.distributed.all_reduce(flat)
        flat /= self.trainer.world_size
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

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

    @contextmanager
    def _one_scaler_update(self) -> Iterator[None]:
        """Within the block Lightning's calls of the gradient scaler's `update` wait; one follows at the end."""
        plugin: Any = self.trainer.precision_plugin
        scaler = getattr(plugin, "scaler", None)
        if scaler is None:
            yield
            return
        plugin.scaler = _OneUpdate(scaler)
        try:
            yield
        finally:
            plugin.scaler = scaler
        scaler.update()

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
                raise NonFiniteLossError(what + self.cure)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps weights that are not finite, or follow from such a loss, out of every checkpoint."""
        self._stop_if_not_finite()
        for player, modules in self.cast().items():
            if not all(torch.isfinite(p).all() for module in modules for p in module.parameters()):
                what = f"the weights of player {player!r} are not finite after step {self._step_of_losses}"
                raise NonFiniteLossError(what + self.cure)

    # Logging and evaluation.

    def _noise_of_rows(self, stage: str, batch: Batch) -> Any:
        if batch.index is None:
            raise ConfigurationError(
                "a batch without the index of its rows cannot be evaluated; see lightning_avb.batch.Batch"
            )
        return noise.use(noise.OfRows(noise.run_seed(), stage, index=batch.index))

    def _evaluate(self, stage: str, batch: Batch) -> None:
        batch = Batch(*batch)
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
        self._evaluate("val", batch)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._evaluate("test", batch)


def _named(losses: Losses) -> dict[str, Tensor]:
    return {f"{player}_loss": loss for player, loss in losses.items()}


def _differences(key: str, theirs: Any, ours: Any) -> Iterator[tuple[str, Any, Any]]:
    """(key, value in the checkpoint, value in the configuration) wherever two nested plain values differ."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for name in {**theirs, **ours}:
            if name in theirs and name in ours and name != "_class_path":
                yield from _differences(f"{key}.{name}", theirs[name], ours[name])
    elif theirs != ours:
        yield key, theirs, ours


class _Moves(NamedTuple):
    """Who steps at the end of a phase. `everybody`: all parameters of the model get their gradient in this phase."""

    optimizers: list[Any]
    parameters: list[nn.Parameter]
    everybody: bool

    @property
    def inputs(self) -> dict[str, list[nn.Parameter]]:
        return {} if self.everybody else {"inputs": self.parameters}


class _Turn:
    """One step of an optimizer, as a gradient scaler sees it: a second step in a batch is another turn."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.param_groups, self.step = optimizer.param_groups, optimizer.step


class _OneUpdate:
    """Stands for a GradScaler during one batch: unscales and steps every turn, and leaves `update` to the engine.

    torch's rule for several optimizers: unscale each, step each, update once. Lightning would update after each.
    """

    def __init__(self, scaler: torch.amp.GradScaler) -> None:
        self._scaler = scaler
        self._turns: dict[int, _Turn] = {}
        self._alive: list[_Turn] = []  # the scaler knows them by id, which must not be given out again

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scaler, name)

    def unscale_(self, optimizer: Optimizer) -> None:
        turn = self._turns[id(optimizer)] = _Turn(optimizer)
        self._alive.append(turn)
        self._scaler.unscale_(turn)  # type: ignore[arg-type]

    def step(self, optimizer: Optimizer, **kwargs: Any) -> Any:
        turn = self._turns.setdefault(id(optimizer), _Turn(optimizer))
        return self._scaler.step(turn, **kwargs)  # type: ignore[arg-type]

    def update(self) -> None:
        """The engine updates the scaler."""
