"""The engine: what it counts, whom it moves, what it clips, accumulates, scales and stops."""

from __future__ import annotations

import copy
import csv
import warnings
from functools import partial
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.callbacks import EMAWeightAveraging, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.plugins.precision import MixedPrecision
from small_models import ADAM, MODELS, adversarial, trainer, vae
from torch.utils.data import DataLoader

import lightning_avb as avb
from datamodules import Digits, FourPoints
from lightning_avb import noise, precision
from lightning_avb.errors import ConfigurationError, NonFiniteLossError
from lightning_avb.finite import FiniteGuard
from lightning_avb.gradients import average
from lightning_avb.models.avb import AVBPlayers
from lightning_avb.models.vae import VAEPlayers

DATA = partial(FourPoints, batch_size=16, copies=100)  # 25 batches an epoch


BATCH = avb.Batch(torch.eye(4))


class Watch(pl.Callback):
    """Counts batches and keeps the gradients of every optimizer step, after clipping."""

    def __init__(self) -> None:
        self.batches, self.steps = 0, []

    def on_train_batch_end(self, *_) -> None:
        self.batches += 1

    def on_before_optimizer_step(self, trainer, module, optimizer) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.steps.append((trainer.optimizers.index(optimizer), [p.grad.clone() for p in parameters]))


@pytest.mark.parametrize("critic_steps", [1, 5])
def test_a_batch_is_a_global_step(tmp_path, critic_steps):
    watch, logger = Watch(), CSVLogger(tmp_path)
    save = ModelCheckpoint(tmp_path, every_n_train_steps=50, save_top_k=-1)
    run = trainer(tmp_path, max_steps=100, callbacks=[watch, save], logger=logger, log_every_n_steps=10)
    run.fit(adversarial(avb.PriorContrast, critic_steps), DATA())
    assert run.global_step == watch.batches == 100
    assert len(watch.steps) == 100 * (1 + critic_steps)
    assert [c.scheduler.last_epoch for c in run.lr_scheduler_configs] == [100, 100]
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)
    assert {path.name for path in tmp_path.glob("*.ckpt")} == {"epoch=1-step=50.ckpt", "epoch=3-step=100.ckpt"}
    assert torch.load(tmp_path / "epoch=3-step=100.ckpt", weights_only=True)["global_step"] == 100
    with Path(logger.log_dir, "metrics.csv").open() as file:
        assert int(list(csv.DictReader(file))[-1]["step"]) in (99, 100)


def test_extra_critic_steps_move_the_critic_alone(tmp_path):
    model = adversarial(avb.PriorContrast, 3)
    watch = Watch()
    trainer(tmp_path, max_steps=1, callbacks=[watch]).fit(model, DATA())
    assert [who for who, _ in watch.steps] == [0, 1, 1, 1]
    assert all(g.abs().sum() > 0 for _, gradients in watch.steps[1:] for g in gradients[:1])


def test_a_critic_of_no_steps_stands_still(tmp_path):
    model = adversarial(avb.PriorContrast, 0, data_shape=(4,))
    before = copy.deepcopy(model.density_ratio.critic.state_dict())
    decoder = copy.deepcopy(model.decoder.state_dict())
    trainer(tmp_path, max_steps=5).fit(model, DATA())
    assert all(torch.equal(before[key], value) for key, value in model.density_ratio.critic.state_dict().items())
    assert not all(torch.equal(decoder[key], value) for key, value in model.decoder.state_dict().items())


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_gets_a_gradient(tmp_path, name):
    model, watch = MODELS[name](), Watch()
    trainer(tmp_path, max_steps=3, callbacks=[watch]).fit(model, DATA())
    last = {who: gradients for who, gradients in watch.steps}
    moved = [model.parameters_of(player) for player in model.players]
    assert [len(last[who]) for who in range(len(moved))] == [len(parameters) for parameters in moved]
    assert {parameter for parameters in moved for parameter in parameters} == set(model.parameters())
    for gradients in last.values():
        assert all(torch.isfinite(g).all() for g in gradients)
        assert sum(bool(g.abs().sum() > 0) for g in gradients) == len(gradients)


class RowNoise:
    """Noise cut from one table, so that a part of a batch gets the noise its rows have in the whole batch."""

    def __init__(self, rows: int, calls: int) -> None:
        self.rows, self.calls, self.done, self.count = rows, calls, 0, 0

    def __call__(self, shape, like):
        generator = torch.Generator().manual_seed(self.count % self.calls)
        if len(shape) == 2:  # noise that all rows share
            batch, part = 0, torch.randn(shape, generator=generator, dtype=like.dtype)
        else:
            samples, batch, dim = shape
            table = torch.randn((samples, self.rows, dim), generator=generator, dtype=like.dtype)
            part = table[:, self.done : self.done + batch]
        self.count += 1
        if self.count % self.calls == 0:
            self.done = (self.done + batch) % self.rows
        return part


@pytest.mark.parametrize(("name", "calls"), [("vae", 1), ("avb", 2), ("avb_ac", 4), ("avb_score", 2)])
def test_accumulating_four_parts_equals_one_batch(tmp_path, name, calls, float64):
    gradients = []
    for accumulate in (1, 4):
        pl.seed_everything(0)
        options = {"steps": 1} if name != "vae" else {}
        model, watch = MODELS[name](accumulate=accumulate, **options), Watch()
        with noise.use(RowNoise(128, calls)):
            run = trainer(tmp_path, max_steps=1, callbacks=[watch], precision="64-true", num_sanity_val_steps=0)
            run.fit(model, Digits(128, binarize="dynamic"))
        assert run.global_step == 1
        gradients.append([g for _, step in watch.steps for g in step])
    for whole, parts in zip(*gradients, strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-9, atol=1e-12)


def test_clip_norm_is_per_player(tmp_path):
    """A step of plain gradient descent with rate 1 is as long as the player's own limit, or as its gradient."""
    sgd = partial(torch.optim.SGD, lr=1.0)
    players = AVBPlayers(avb.Player(sgd, clip_norm=1e-3), avb.Player(sgd, clip_norm=2e-2, steps=1))
    model = adversarial(avb.PriorContrast, players=players, data_shape=(4,))
    before = {name: torch.nn.utils.parameters_to_vector(model.parameters_of(name)).clone() for name in model.players}
    watch = Watch()
    trainer(tmp_path, max_steps=1, callbacks=[watch]).fit(model, DATA())
    # A callback sees the gradients before the engine clips them.
    assert all(torch.cat([g.flatten() for g in gradients]).norm() > 2e-2 for _, gradients in watch.steps)
    for name, limit in (("model", 1e-3), ("critic", 2e-2)):
        moved = torch.nn.utils.parameters_to_vector(model.parameters_of(name)) - before[name]
        assert moved.norm().item() == pytest.approx(limit, rel=1e-3), name


def test_a_player_without_a_clip_norm_is_not_clipped(tmp_path):
    sgd = partial(torch.optim.SGD, lr=1.0)
    model = vae(players=VAEPlayers(avb.Player(sgd)), data_shape=(4,))
    before = torch.nn.utils.parameters_to_vector(model.parameters()).clone()
    watch = Watch()
    trainer(tmp_path, max_steps=1, callbacks=[watch]).fit(model, DATA())
    moved = before - torch.nn.utils.parameters_to_vector(model.parameters())
    torch.testing.assert_close(moved, torch.cat([g.flatten() for g in watch.steps[0][1]]), rtol=1e-3, atol=1e-6)


def test_simultaneous_play_is_one_backward_pass(tmp_path, monkeypatch):
    passes = []
    backward = pl.LightningModule.manual_backward
    monkeypatch.setattr(
        pl.LightningModule,
        "manual_backward",
        lambda self, *args, **kw: (passes.append(kw), backward(self, *args, **kw)),
    )
    trainer(tmp_path, max_steps=4).fit(adversarial(avb.PriorContrast, steps=1), DATA())
    assert passes == [{}] * 4


def test_half_precision_stays_within_the_networks(tmp_path):
    model = adversarial(partial(avb.GaussianContrast, draws=4), data_shape=(4,))
    batch = next(iter(DATA().train_dataloader()))
    with torch.autocast("cpu", torch.bfloat16):
        play = model.learn(batch)
        assert model.encoder(batch.x).rsample((2,)).dtype == torch.float32
    values = [*play.losses.values(), *play.scores.values()]
    assert {value.dtype for value in values} == {torch.float32}


# Losses of `gan`, `bigan` and `vaegan` need not fall.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in ("vae", "aae_clusters") else pytest.mark.slow)
        for name in MODELS
        if not name.endswith("gan")
    ],
)
def test_bf16_mixed_trains(tmp_path, name):
    pl.seed_everything(0)
    run = trainer(tmp_path, max_steps=150, precision="bf16-mixed", log_every_n_steps=5)
    losses = []

    class Losses(pl.Callback):
        def on_train_batch_end(self, trainer, *_) -> None:
            losses.append(trainer.callback_metrics.get("train/reconstruction"))

    run.callbacks.append(Losses())
    run.fit(MODELS[name](), DATA())
    values = [float(loss) for loss in losses if loss is not None]
    assert sum(values[-20:]) < sum(values[:20])


class CountingScaler(torch.amp.GradScaler):
    updates = 0

    def update(self, new_scale=None) -> None:
        self.updates += 1
        super().update(new_scale)


FUSED = partial(torch.optim.Adam, lr=1e-3, fused=True)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vae", {}),
        ("avb_ac", {"steps": 3}),
        (
            "avb_ac",
            {"players": AVBPlayers(avb.Player(FUSED, clip_norm=1.0), avb.Player(FUSED, clip_norm=1.0, steps=3))},
        ),
    ],
)
def test_16_mixed_updates_its_scaler_once_a_step(tmp_path, name, options):
    scaler = CountingScaler("cpu", init_scale=2.0**10)
    plugin = MixedPrecision("16-mixed", "cpu", scaler)
    model = MODELS[name](**options, data_shape=(4,))
    before = copy.deepcopy(model.state_dict())
    trainer(tmp_path, max_steps=20, plugins=[plugin], limit_val_batches=0).fit(model, DATA())
    assert scaler.updates == 20
    assert plugin.scaler is scaler
    for key, value in model.named_parameters():
        assert torch.isfinite(value).all()
        assert not torch.equal(value, before[key])


@pytest.mark.parametrize(("fused", "clip_norm"), [(False, None), (True, None), (True, 0.1)])
def test_16_mixed_takes_the_step_of_full_precision(tmp_path, fused, clip_norm):
    """A loss scale that does not cancel, or a clip of scaled gradients, would show as a step of another length."""
    ends = []
    for plugins in ([], [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**12))]):
        pl.seed_everything(0)
        sgd = partial(torch.optim.SGD, lr=0.1, fused=fused)
        players = AVBPlayers(avb.Player(sgd, clip_norm=clip_norm), avb.Player(sgd, clip_norm=clip_norm, steps=3))
        model = adversarial(avb.PriorContrast, players=players)
        trainer(tmp_path, max_steps=3, plugins=plugins, limit_val_batches=0).fit(model, DATA())
        ends.append(torch.nn.utils.parameters_to_vector(model.parameters()).detach())
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=5e-3)


class Spoiled(avb.BernoulliDecoder):
    """A decoder whose likelihood is nan from the sixth call on."""

    calls = 0

    def forward(self, z, y=None):
        type(self).calls += 1
        return super().forward(z * (float("nan") if self.calls > 5 else 1.0), y)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    Spoiled.calls = 0
    save = ModelCheckpoint(tmp_path, every_n_train_steps=2, save_last=True)
    run = trainer(tmp_path, max_steps=20, callbacks=[save], limit_val_batches=0)
    with pytest.raises(NonFiniteLossError, match="player 'model' is nan at step 5; the last checkpoint is from before"):
        run.fit(avb.VAE(2, decoder=Spoiled), DATA())
    last = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert last["global_step"] == 4
    assert all(torch.isfinite(value).all() for value in last["state_dict"].values())


def test_a_run_that_was_resumed_has_a_checkpoint(tmp_path):
    run = trainer(tmp_path, max_steps=1, limit_val_batches=0)
    run.fit(avb.VAE(2), DATA())
    run.save_checkpoint(tmp_path / "first.ckpt")
    Spoiled.calls = 0
    run = trainer(tmp_path, max_steps=20, limit_val_batches=0, enable_checkpointing=False)
    with pytest.raises(NonFiniteLossError, match="the last checkpoint is from before"):
        run.fit(avb.VAE(2, decoder=Spoiled), DATA(), ckpt_path=tmp_path / "first.ckpt")


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    """A finite loss whose gradient overflows."""

    class Overflow(pl.Callback):
        def on_before_optimizer_step(self, trainer, module, optimizer) -> None:
            if trainer.global_step == 3:
                optimizer.param_groups[0]["params"][0].grad.fill_(float("inf"))

    save = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_last=True)
    with pytest.raises(NonFiniteLossError, match="the weights of player 'model' are not finite after step 3"):
        trainer(tmp_path, max_steps=9, callbacks=[Overflow(), save]).fit(vae(), DATA())
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 3


@pytest.mark.parametrize("name", MODELS)
def test_checkpoints_are_plain_and_complete(tmp_path, name):
    model = MODELS[name]()
    run = trainer(tmp_path, max_steps=2)
    run.fit(model, DATA())
    run.save_checkpoint(tmp_path / "x.ckpt")
    torch.load(tmp_path / "x.ckpt", weights_only=True)
    again = type(model).load_from_checkpoint(tmp_path / "x.ckpt")
    assert again.data_shape == (4,)
    for key, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])
    assert dict(again.hparams) == dict(model.hparams)


def test_the_average_of_the_weights_is_saved_and_resumed(tmp_path):
    def run(steps, ckpt=None):
        pl.seed_everything(0)
        save = ModelCheckpoint(tmp_path, every_n_train_steps=10, save_top_k=-1)
        ema = EMAWeightAveraging(decay=0.9)
        fit = trainer(tmp_path, max_steps=steps, callbacks=[ema, save], limit_val_batches=0)
        model = adversarial(avb.PriorContrast, players=AVBPlayers(avb.Player(ADAM), avb.Player(ADAM)))
        fit.fit(model, DATA(), ckpt_path=ckpt)
        return model

    whole = run(30)
    early = torch.load(tmp_path / "epoch=0-step=10.ckpt", weights_only=True)
    assert not torch.equal(
        early["state_dict"]["decoder.network.layers.0.weight"],
        early["current_model_state"]["decoder.network.layers.0.weight"],
    )
    resumed = run(30, tmp_path / "epoch=0-step=20.ckpt")
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key])


def test_the_configuration_wins_over_the_checkpoint(tmp_path):
    def model(lr, scheduler=avb.Cosine):
        adam = partial(torch.optim.Adam, lr=lr, betas=(0.5, 0.9))
        return vae(players=VAEPlayers(avb.Player(adam, scheduler)))

    first = trainer(tmp_path, max_steps=10)
    first.fit(model(1e-3), DATA())
    first.save_checkpoint(tmp_path / "x.ckpt")
    second = trainer(tmp_path, max_steps=20)
    second.fit(model(4e-3, partial(avb.Cosine, total=40)), DATA(), ckpt_path=tmp_path / "x.ckpt")
    assert second.global_step == 20
    group = second.optimizers[0].param_groups[0]
    assert group["initial_lr"] == 4e-3
    assert group["lr"] == pytest.approx(2e-3)  # half of 40 steps along a cosine
    assert group["betas"] == (0.5, 0.9)
    assert second.optimizers[0].state_dict()["state"][0]["step"] == 20


def test_weights_that_do_not_fit_are_named(tmp_path):
    run = trainer(tmp_path, max_steps=1)
    run.fit(avb.VAE(2), DATA())
    run.save_checkpoint(tmp_path / "x.ckpt")
    with pytest.raises(ConfigurationError, match=r"latent_dim: 3, in the checkpoint 2"):
        trainer(tmp_path, max_steps=2).fit(avb.VAE(3), DATA(), ckpt_path=tmp_path / "x.ckpt")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: avb.VAE(0), "latent_dim: 0"),
        (lambda: avb.VAE(2, samples=0), "samples: 0"),
        (lambda: avb.VAE(2, estimator="mc"), "estimator: 'mc'"),
        (lambda: avb.VAE(2, encoder=lambda shape, dim: None), "encoder: .* cannot be stored"),
        (lambda: avb.Player(clip_norm=0), "clip_norm: 0"),
        (lambda: avb.Player(steps=-1), "steps: -1"),
        (lambda: avb.AVB(2, players=AVBPlayers(avb.Player(steps=2))), r"players\.model\.steps"),
        (lambda: avb.VAE(2, avb.NoiseInjectionEncoder, data_shape=(4,)).learn(BATCH), "a VAE needs .* a density"),
    ],
)
def test_numbers_that_make_no_sense_are_named(build, message):
    with pytest.raises(ConfigurationError, match=message):
        build()


def test_the_warm_up_rises_to_one():
    model = vae(kl_warmup=4, data_shape=(4,))
    assert model.kl_weight == 0.25
    assert vae(data_shape=(4,)).kl_weight == 1.0


def test_grey_values_are_not_scored_by_a_bernoulli(tmp_path):
    with pytest.raises(ConfigurationError, match=r"data\.binarize: BernoulliDecoder scores zeros and ones"):
        trainer(tmp_path, max_steps=2).fit(vae(), Digits(32))
    trainer(tmp_path, max_steps=2).fit(avb.VAE(2, decoder=avb.GaussianDecoder), Digits(32))


def test_grey_values_are_not_scored_in_validation_either(tmp_path):
    with pytest.raises(ConfigurationError, match=r"^data.binarize: BernoulliDecoder scores zeros and ones"):
        trainer(tmp_path).validate(vae(), Digits(batch_size=50, binarize="none"), verbose=False)


def test_the_progress_bar_shows_the_bound(tmp_path):
    run = trainer(tmp_path, max_epochs=1, limit_train_batches=1, limit_val_batches=1, log_every_n_steps=1)
    run.fit(vae(), Digits(batch_size=50, binarize="static"))
    assert run.progress_bar_metrics.keys() == {"train/elbo", "val/elbo"}


def test_the_mean_over_processes_goes_back_to_every_parameter(monkeypatch):
    """What the other of two processes adds to their gradients in a row."""
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda flat: flat.add_(torch.arange(7.0)))
    parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in [(2, 2), (), (3,)]]
    parameters[0].grad, parameters[2].grad = torch.ones(2, 2), torch.ones(3)
    average(parameters, 2)
    assert parameters[0].grad.tolist() == [[0.5, 1.0], [1.5, 2.0]]
    assert parameters[1].grad is None and parameters[2].grad.tolist() == [2.5, 3.0, 3.5]


@pytest.mark.parametrize("players", [name for name in dir(avb) if name.endswith("Players")])
def test_recommended_step_sizes_are_of_the_usual_size_and_fall(players):
    for player in vars(getattr(avb, players)()).values():
        optimizer = player.optimizer([torch.nn.Parameter(torch.zeros(1))])
        assert 1e-5 < optimizer.defaults["lr"] < 0.02 and player.scheduler is avb.Cosine


def test_cosine_rises_along_a_line_and_falls_along_half_a_cosine():
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    schedule = avb.Cosine(optimizer, total=10, warmup=2, final=0.2)
    along = [schedule.factor(step) for step in range(12)]
    assert along[:3] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert along[6] == pytest.approx(0.6)  # half way
    assert along[10:] == pytest.approx([0.2, 0.2])
    assert avb.Cosine(optimizer).factor(7) == 1.0


def test_values_are_logged_every_so_many_batches_and_hyper_parameters_once(tmp_path):
    logger = CSVLogger(tmp_path)
    trainer(tmp_path, max_steps=25, logger=logger, log_every_n_steps=10, limit_val_batches=0).fit(vae(), DATA())
    with Path(logger.log_dir, "metrics.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file) if row["train/elbo"]] == ["9", "19"]
    told = yaml.safe_load(Path(logger.log_dir, "hparams.yaml").read_text())
    assert told["latent_dim"] == 2 and told["kl_warmup"] == 0 and told["data_shape"] == [4]
    silent = CSVLogger(tmp_path)
    trainer(tmp_path, max_steps=5, logger=silent, log_every_n_steps=0, limit_val_batches=0).fit(vae(), DATA())
    assert not Path(silent.log_dir, "metrics.csv").exists()


def test_a_loss_that_is_not_finite_moves_nothing_on_a_cpu(tmp_path):
    Spoiled.calls = 0
    model = avb.VAE(2, decoder=Spoiled)
    run = trainer(tmp_path, max_steps=20, limit_val_batches=0, num_sanity_val_steps=0, enable_checkpointing=False)
    with pytest.raises(NonFiniteLossError, match="is nan at step 5; there is no checkpoint yet"):
        run.fit(model, DATA())
    assert run.global_step == 5
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


@pytest.mark.parametrize(("every", "saves", "step"), [(4, False, 7), (50, True, 5)], ids=["logging", "saving"])
def test_a_loss_that_is_not_finite_is_found_where_no_step_waits_for_it(tmp_path, monkeypatch, every, saves, step):
    """As on a device other than a CPU: when values are logged, or a checkpoint is to be written."""

    def watch(self, losses) -> None:
        self._losses.update({player: loss.detach() for player, loss in losses.items()})

    monkeypatch.setattr(FiniteGuard, "watch", watch)
    Spoiled.calls = 0
    save = ModelCheckpoint(tmp_path, every_n_train_steps=2, save_last=True)
    run = trainer(
        tmp_path,
        max_steps=20,
        callbacks=[save] if saves else [],
        log_every_n_steps=every,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        enable_checkpointing=saves,
    )
    with pytest.raises(NonFiniteLossError, match=f"the loss of player 'model' is nan at step {step}"):
        run.fit(avb.VAE(2, decoder=Spoiled), DATA())


def test_weights_that_are_not_finite_before_the_first_step(tmp_path):
    model = vae(data_shape=(4,))
    torch.nn.init.constant_(next(model.decoder.parameters()), float("nan"))
    run = trainer(tmp_path)
    run.strategy.connect(model)
    with pytest.raises(NonFiniteLossError, match="the weights of player 'model' are not finite after step 0"):
        run.save_checkpoint(tmp_path / "x.ckpt")


def test_plain_tuples_are_batches(tmp_path):
    """What a loader of one's own gives."""
    rows = (torch.eye(4), torch.arange(4), torch.arange(4))
    plain, batches = (DataLoader([of] * 3, batch_size=None) for of in (rows, avb.Batch(*rows)))
    model = vae(data_shape=(4,))
    run = trainer(tmp_path, max_steps=2)
    run.fit(model, plain, plain)
    assert run.validate(model, plain, verbose=False) == run.validate(model, batches, verbose=False)
    assert run.test(model, plain, verbose=False)[0].keys() >= {"test/elbo"}


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (vae, DataLoader([(torch.eye(4),)], batch_size=None), "data_shape: unknown; fit with one of the datamodules"),
        (partial(vae, data_shape=(5,)), DATA(), r"made for rows of \(5,\), the data has \(4,\)"),
        (
            lambda: vae(players=VAEPlayers(avb.Player(scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau))),
            DATA(),
            r"players\.model\.scheduler: ReduceLROnPlateau needs a metric",
        ),
        (
            lambda: vae(players=VAEPlayers(avb.Player(partial(torch.optim.Adam, lr=-1.0)))),
            DATA(),
            r"players\.model\.optimizer: Invalid learning rate: -1",
        ),
    ],
    ids=["no shape", "another shape", "a plateau", "a negative rate"],
)
def test_what_does_not_fit_is_said_before_training(tmp_path, model, data, message):
    with pytest.raises(ConfigurationError, match=message):
        trainer(tmp_path, max_steps=2).fit(model(), data)


def test_what_the_configuration_changes_is_said(tmp_path, caplog):
    first = trainer(tmp_path, max_steps=1)
    first.fit(vae(kl_warmup=3), DATA())
    first.save_checkpoint(tmp_path / "x.ckpt")
    with caplog.at_level("INFO"):
        trainer(tmp_path, max_steps=2).fit(vae(kl_warmup=4), DATA(), ckpt_path=tmp_path / "x.ckpt")
    said = [record.message for record in caplog.records if "in place of the checkpoint's" in record.message]
    assert said == ["model.kl_warmup: 4 from the configuration, in place of the checkpoint's 3"]


class Odd(avb.VAE):
    """A model of one's own whose phase forgets the player that is to move."""

    def learn(self, batch):
        return avb.PhaseResult({"modle": super().learn(batch).losses["model"]}, {})


def test_losses_of_other_players_are_named(tmp_path):
    with pytest.raises(ConfigurationError, match="the phase of model gave losses for modle"):
        trainer(tmp_path, max_steps=1).fit(Odd(2), DATA())


def test_a_step_by_hand_needs_the_index_of_its_rows():
    with pytest.raises(ConfigurationError, match="a batch without the index of its rows"):
        vae(data_shape=(4,)).predict_step(avb.Batch(torch.eye(4)), 0)


@pytest.mark.parametrize(
    ("half", "words"), [(0.004, "takes 4.0 times as long in bfloat16 as in float32; take 32-true"), (0.001, "")]
)
def test_a_processor_that_is_slow_in_bfloat16_is_told(monkeypatch, half, words):
    seconds = {torch.bfloat16: half, torch.float32: 0.001}
    monkeypatch.setattr(precision, "_seconds_of_a_product", seconds.__getitem__)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        precision.warn_if_slow("bf16-mixed")
        precision.warn_if_slow("32-true")
    assert [str(one.message).endswith(words) for one in said] == ([True] if words else [])


def test_the_time_of_a_product_is_measured():
    assert 0 < precision._seconds_of_a_product(torch.float32) < 1
