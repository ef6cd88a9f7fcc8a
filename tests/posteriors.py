"""A small sampler of posteriors, and its training."""

from __future__ import annotations

from functools import partial

import pytorch_lightning as pl
from small_models import trainer

from datamodules import NoData
from lightning_avb import PooledMixtureEncoder

SMALL = partial(PooledMixtureEncoder, width=32, blocks=1)


def fitted(model, steps, folder, data=None):
    pl.seed_everything(0)
    trainer(folder, max_steps=steps, limit_val_batches=0, enable_checkpointing=False).fit(model, data or NoData())
    return model.eval()
