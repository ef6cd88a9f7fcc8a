"""Reconstructions of several models side by side, such as of a BiGAN and AVB, and their errors.

    python benchmarks/reconstructions.py BIGAN.ckpt AVB.ckpt --root DATA --output reconstructions.png

Every model gets the test data in its training format, binarised or not; the mean of p(x|z), z ~ q(z|x), or G(z), is
compared with the grey data. The error is the squared distance, summed over pixels, the mean over
test rows.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor

from lightning_avb import noise, pictures
from lightning_avb.batch import Batch
from lightning_avb.checkpoints import load, load_datamodule


@torch.no_grad()
def reconstructed(path: str, root: str | None) -> tuple[str, Tensor, Tensor]:
    """The model's name, its reconstructions of the test data and the data, `(rows, *data_shape)` both."""
    model, data, grey = load(path), load_datamodule(path, root), load_datamodule(path, root)
    again, real = [], []
    grey.binarize = "none"
    for split in (data, grey):
        split.prepare_data()
        split.setup("test")
    for batch, true in zip(data.test_dataloader(), grey.test_dataloader(), strict=True):
        x, y, index = Batch(*batch)
        with noise.use(noise.RowNoise("reconstructions", index=index)):
            again.append(model.decode(model.encode(x, y, draws=1)[0], y))
        real.append(Batch(*true).x)
    return type(model).__name__, torch.cat(again), torch.cat(real)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ckpt_paths", nargs="+", help="checkpoints of models on the same data")
    parser.add_argument("--root", help="folder of the data, where it is not the one of the training")
    parser.add_argument("--output", type=Path, help="a picture to write: the data, then a row a model")
    parser.add_argument("--count", type=int, default=16, help="columns of the picture")
    options = parser.parse_args()
    rows = []
    print("| model | squared error of a reconstruction |\n|---|---|")
    for path in options.ckpt_paths:
        name, again, real = reconstructed(path, options.root)
        error = (again - real).square().flatten(1).sum(1)
        print(f"| {name} | {error.mean():.2f} +- {error.std() / math.sqrt(len(error)):.2f} |")
        rows += [again[: options.count]] if rows else [real[: options.count], again[: options.count]]
    if options.output:
        pictures.write(pictures.tiles(torch.cat(rows), options.count), options.output)


if __name__ == "__main__":
    main()
