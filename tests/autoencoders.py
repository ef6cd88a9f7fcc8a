"""Small adversarial autoencoders, four heaps of points for them, and a datamodule of given batches."""

from __future__ import annotations

from functools import partial

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from lightning_avb import AAE, MLP, Batch, CategoricalAAE, GaussianDecoder, GaussianEncoder, Player

SMALL = partial(MLP, hidden=(8,))
DECODER = partial(GaussianDecoder, network=SMALL)
CLASSES = 3


def aae(encoder=GaussianEncoder, **options):
    return AAE(2, partial(encoder, network=SMALL), **{"decoder": DECODER, "discriminator": SMALL, **options})


def categorical(**options):
    return CategoricalAAE(2, **{"encoder": SMALL, "decoder": DECODER, "discriminator": SMALL, **options})


def of_shape(shape, like):
    """Noise that is a function of the shape asked for, in whatever order."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=like.dtype)


def one_hot(y, kinds):
    return (y.unsqueeze(-1) == torch.arange(kinds)).to(torch.get_default_dtype())


def played(model, draw, steps):
    """The model at the end of the game, on batches from `draw`; every player with its optimizer and a cosine."""
    optimizers = {name: player.optimizer(model.parameters_of(name)) for name, player in model.players.items()}
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps) for optimizer in optimizers.values()]
    for _ in range(steps):
        batch = draw()
        for phase in model.phases():
            parameters = [parameter for player in phase.players for parameter in model.parameters_of(player)]
            loss = sum(map(torch.mean, phase.compute(batch).losses.values()))
            for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                parameter.grad = gradient
            for player in phase.players:
                optimizers[player].step()
        for schedule in schedules:
            schedule.step()
    return model


KINDS = 4
WIDE = partial(MLP, hidden=(32,))
SHARP = partial(GaussianDecoder, network=WIDE, scale=0.3)


def adam(rate, momentum=0.5, **options):
    return Player(partial(torch.optim.Adam, lr=rate, betas=(momentum, 0.99)), **options)


def blobs(rows, labelled=None):
    """Four heaps of points, ten standard deviations apart, in turn; of all but the first rows the label is hidden."""
    y = torch.arange(rows) % KINDS
    x = 2 * one_hot(y, KINDS) + 0.2 * torch.randn(rows, KINDS)
    return Batch(x, y.where(torch.arange(rows) < (rows if labelled is None else labelled), -1), torch.arange(rows))


class Given(pl.LightningDataModule):
    """Training batches, and one batch for validation and for test and prediction."""

    def __init__(self, train, val=None, test=None, classes=KINDS, labelled_per_batch=0):
        super().__init__()
        self.train, self.val, self.test = train, val or train[0], test or train[0]
        self.data_shape, self.classes = tuple(train[0].x.shape[1:]), classes
        self.labelled_per_batch = labelled_per_batch

    def _loader(self, batches):
        return DataLoader(batches, batch_size=None)

    def train_dataloader(self):
        return self._loader(self.train)

    def val_dataloader(self):
        return self._loader([self.val])

    def test_dataloader(self):
        return self._loader([self.test])

    def predict_dataloader(self):
        return self._loader([self.test])
