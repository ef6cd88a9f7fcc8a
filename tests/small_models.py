"""Small models and trainers for the tests of the engine, and fits of them in separate processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

import lightning_avb as avb
from datamodules import Digits, NoData
from lightning_avb import noise, targets
from lightning_avb.models.aae import AAEPlayers
from lightning_avb.models.avb import AVBPlayers
from lightning_avb.models.bigan import BiGANPlayers
from lightning_avb.models.categorical_aae import CategoricalAAEPlayers
from lightning_avb.models.gan import GANPlayers
from lightning_avb.models.posterior import PosteriorPlayers
from lightning_avb.models.vae import VAEPlayers
from lightning_avb.models.vaegan import VAEGANPlayers

ADAM = partial(torch.optim.Adam, lr=1e-3, betas=(0.5, 0.999))
SMALL = partial(avb.MLP, hidden=(8,))


def vae(**options: Any) -> avb.VAE:
    options = {"players": VAEPlayers(avb.Player(ADAM, avb.Cosine)), **options}
    return avb.VAE(
        2, partial(avb.GaussianEncoder, network=SMALL), partial(avb.BernoulliDecoder, network=SMALL), **options
    )


BLACK_BOX = partial(avb.NoiseInjectionEncoder, hidden=(8,), noise_dim=4)
LOCATED = partial(avb.SemiImplicitEncoder, network=SMALL, noise_hidden=(8, 8), extra_noise=2)
CRITIC = partial(avb.ResidualCritic, width=8, blocks=1, network=SMALL)
SCORE = partial(avb.ScoreNetwork, width=8, blocks=1, network=SMALL)


def adversarial(
    contrast: Any, steps: int = 2, encoder: Any = BLACK_BOX, critic: Any = CRITIC, **options: Any
) -> avb.AVB:
    players = AVBPlayers(avb.Player(ADAM, avb.Cosine), avb.Player(ADAM, avb.Cosine, steps=steps))
    decoder = partial(avb.BernoulliDecoder, network=SMALL)
    return avb.AVB(2, encoder, decoder, critic, contrast, **{"players": players, **options})


def iaf(**options: Any) -> avb.VAE:
    """A VAE with all its options: a flow, a learned prior, importance weights, labels."""
    encoder = partial(avb.FlowEncoder, network=SMALL, flow_hidden=(8,), features=4)
    options = {"players": VAEPlayers(avb.Player(ADAM, avb.Cosine)), "estimator": "importance_weighted", **options}
    decoder = partial(avb.BernoulliDecoder, network=SMALL)
    return avb.VAE(2, encoder, decoder, avb.MixturePrior, samples=2, conditional=True, **options)


def gan(**options: Any) -> avb.GAN:
    players = GANPlayers(avb.Player(ADAM, avb.Cosine), avb.Player(ADAM, avb.Cosine, steps=2))
    return avb.GAN(2, SMALL, SMALL, **{"players": players, **options})


def bigan(**options: Any) -> avb.BiGAN:
    """With labels, and an encoder of another kind."""
    encoder = partial(avb.GaussianEncoder, network=SMALL)
    discriminator = partial(avb.ResidualCritic, width=8, blocks=1, network=SMALL)
    cosine = avb.Player(ADAM, avb.Cosine)
    players = BiGANPlayers(cosine, cosine, avb.Player(ADAM, avb.Cosine, steps=2))
    return avb.BiGAN(2, encoder, SMALL, discriminator, conditional=True, **{"players": players, **options})


def vaegan(**options: Any) -> avb.VAEGAN:
    cosine = avb.Player(ADAM, avb.Cosine)
    options = {"players": VAEGANPlayers(cosine, avb.Player(ADAM), cosine), **options}
    return avb.VAEGAN(2, partial(avb.GaussianEncoder, network=SMALL), SMALL, SMALL, 4, **options)


def aae(encoder: Any = avb.DeterministicEncoder, **options: Any) -> avb.AAE:
    cosine = avb.Player(ADAM, avb.Cosine)
    players = AAEPlayers(cosine, avb.Player(ADAM), avb.Player(ADAM, avb.Cosine, steps=2))
    encoder, decoder = partial(encoder, network=SMALL), partial(avb.BernoulliDecoder, network=SMALL)
    return avb.AAE(2, encoder, decoder, partial(avb.MLP, hidden=(16,)), **{"players": players, **options})


def categorical(categories: int | None = None, **options: Any) -> avb.CategoricalAAE:
    cosine = avb.Player(ADAM, avb.Cosine)
    players = CategoricalAAEPlayers(cosine, avb.Player(ADAM), avb.Player(ADAM, avb.Cosine, steps=2), cosine)
    decoder = partial(avb.BernoulliDecoder, network=SMALL)
    options = {"encoder": SMALL, "players": players, **options}
    return avb.CategoricalAAE(2, categories, decoder=decoder, discriminator=SMALL, **options)


MODELS = {
    "vae": vae,
    "iaf": iaf,
    "avb": partial(adversarial, avb.PriorContrast),
    "avb_ac": partial(adversarial, partial(avb.GaussianContrast, draws=4), encoder=LOCATED, gradient_penalty=0.1),
    "avb_score": partial(adversarial, avb.GaussianContrast, encoder=LOCATED, critic=SCORE),
    "gan": gan,
    "bigan": bigan,
    "vaegan": vaegan,
    "aae": partial(aae, avb.GaussianEncoder),
    "aae_labels": partial(aae, prior=avb.PetalPrior, labels="prior"),
    "aae_supervised": partial(aae, labels="decoder"),
    "aae_semi": partial(categorical, code="sum", head_distance=3.0),
    "aae_clusters": partial(categorical, 12, smoothness=1.0),
}

ACROSS_ROWS = {
    "aae_batch_norm": partial(
        categorical, 12, encoder=partial(avb.MLP, hidden=(8,), batch_norm=True), smoothness=1.0, balance=1.0
    ),
}
"""Models whose rows depend on each other in training: two processes differ from one with the joined batch."""

POSTERIORS = {
    "posterior": partial(
        avb.Posterior, targets.Mixture, partial(avb.PooledMixtureEncoder, width=8, blocks=1), samples=16, warmup=30
    ),
    "posterior_critic": partial(
        avb.Posterior,
        targets.Mixture,
        BLACK_BOX,
        CRITIC,
        samples=16,
        players=PosteriorPlayers(critic=avb.Player(ADAM, steps=2)),
    ),
    "posterior_flow": partial(
        avb.Posterior,
        targets.Mixture,
        partial(avb.FlowEncoder, network=SMALL, flow_hidden=(8,), features=4),
        samples=16,
    ),
}
"""Models that learn from no data."""


def trainer(folder: Path, **options: Any) -> pl.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    return pl.Trainer(**{"accelerator": "cpu", "devices": 1, "default_root_dir": folder, **quiet, **options})


class Kill(pl.Callback):
    """Ends the process as a crash would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


class Dump(pl.Callback):
    """Writes every process's first gradients, final weights and optimizer states."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self.gradients: list[list[torch.Tensor]] = []

    def on_before_optimizer_step(self, trainer: pl.Trainer, module: Any, optimizer: Any) -> None:
        if len(self.gradients) < len(trainer.optimizers):
            self.gradients.append([p.grad.clone() for group in optimizer.param_groups for p in group["params"]])

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        states = [optimizer.state_dict() for optimizer in trainer.optimizers]
        end = {"model": pl_module.state_dict(), "optimizers": states, "gradients": self.gradients}
        torch.save(end, self.folder / f"{self.name}_{trainer.global_rank}.pt")


class CountReduced:
    """What the engine's own all-reduce averaged, in numbers of parameters."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.original = torch.distributed.all_reduce

    def __call__(self, tensor: torch.Tensor, *args: Any, **options: Any) -> Any:
        if tensor.requires_grad is False and tensor.ndim == 1 and tensor.numel() > 50:
            self.sizes.append(tensor.numel())
        return self.original(tensor, *args, **options)


class JoinedNoise:
    """The same table of noise for the joined batch, of which every process takes its rows."""

    def __init__(self, rows: int) -> None:
        self.rows, self.calls = rows, 0

    def __call__(self, shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        generator = torch.Generator().manual_seed(self.calls)
        if len(shape) == 2:  # noise that all rows share
            return torch.randn(shape, generator=generator, dtype=like.dtype)
        samples, batch, dim = shape
        table = torch.randn((samples, self.rows, dim), generator=generator, dtype=like.dtype)
        rank = int(os.environ.get("LOCAL_RANK", 0)) if batch < self.rows else 0
        return table[:, rank * batch : (rank + 1) * batch]


def moved(model: avb.Game, players: Iterable[str]) -> int:
    """How many numbers these players move."""
    return sum(parameter.numel() for player in players for parameter in model.parameters_of(player))


def fit(
    names: Iterable[str],
    devices: int = 1,
    steps: int = 10,
    ckpt: Path | None = None,
    kill: int | None = None,
    inject: bool = False,
    **options: Any,
) -> None:
    """Fits these models in the working directory, as one of the `devices` processes; for `forked.start`."""
    torch.distributed.all_reduce = reduced = CountReduced()
    for name in names:
        pl.seed_everything(3)
        save = ModelCheckpoint(Path.cwd(), save_last=True, every_n_train_steps=7, save_on_train_epoch_end=False)
        callbacks: list[Any] = [Dump(Path.cwd(), name), *([] if inject else [save])]
        if kill:
            callbacks.append(Kill(kill))
        run = trainer(
            Path.cwd(),
            max_steps=steps,
            devices=devices,
            strategy="ddp" if devices > 1 else "auto",
            precision="64-true" if inject else "32-true",
            num_sanity_val_steps=0,
            limit_val_batches=0,
            enable_checkpointing=not inject,
            callbacks=callbacks,
        )
        streams = {"labels": 100, "labelled_per_batch": 20 // devices} if name == "aae_semi" else {}
        data: Any = (
            NoData(20)
            if name in POSTERIORS
            else Digits(64 // devices, binarize="static" if inject else "dynamic", **streams)
        )
        with noise.use(JoinedNoise(64)) if inject else nullcontext():
            model = {**MODELS, **ACROSS_ROWS, **POSTERIORS}[name](**options)
            run.fit(model, data, ckpt_path=ckpt)
        if devices > 1:
            extra = {moved(model, phase.players) for phase in model.phases()} - {moved(model, model.players)}
            assert set(reduced.sizes) == extra, "a phase reduces the parameters of its own players alone"
            reduced.sizes.clear()
