"""The commands that need a checkpoint alone: their options and what they do.

`lightning-avb COMMAND --help` reads this file: what a command needs is imported when it runs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any


def sample(
    ckpt_path: str,
    output: str,
    n: int = 64,
    labels: list[int] | None = None,
    x: str | None = None,
    resample: bool = False,
    seed: int = 0,
    root: str | None = None,
) -> None:
    """Draws from a checkpoint: new data of a generative model, parameters of a posterior.

    Args:
        ckpt_path: the checkpoint.
        output: the file to write. Data: .png for a picture of their means; .npy, .npz or .csv for draws of p(x|z), a
            table in its own units. Parameters: .npz for an array a name, .csv for a table, .nc for ArviZ, .png for a
            picture beside reference draws, where the target has them.
        n: how many.
        labels: for a class-conditional model, used in turn; all of them if not given.
        x: for the posteriors of a family: a .npy file with a data set, or with several, one a row.
        resample: parameters are corrected by importance weights, which costs ten log-densities a draw and some
            gradients; says how many of the weighted draws count.
        seed: another seed, other samples.
        root: folder or file of the data, where it is not the one of the training.
    """
    from .outputs import write_samples

    write_samples(ckpt_path, output, n, labels, x, resample, seed, root)


def reconstruct(ckpt_path: str, output: str, n: int = 32, seed: int = 0, root: str | None = None) -> None:
    """Encodes and decodes test data: pairs of an original and its reconstruction.

    Args:
        ckpt_path: the checkpoint.
        output: the PNG to write.
        n: how many.
        seed: another seed, other draws of the posterior.
        root: folder of the data, where it is not the one of the training.
    """
    from .. import pictures
    from ..checkpoints import load_data
    from .outputs import draw_picture

    draw_picture(lambda model: pictures.reconstructions(model, load_data(ckpt_path, root), n), ckpt_path, output, seed)


def interpolate(
    ckpt_path: str, output: str, rows: int = 8, steps: int = 10, seed: int = 0, root: str | None = None
) -> None:
    """Walks from the code of one datum to the code of another.

    Args:
        ckpt_path: the checkpoint.
        output: the PNG to write.
        rows: how many pairs.
        steps: points on the way.
        seed: another seed, other draws of the posterior.
        root: folder of the data, where it is not the one of the training.
    """
    from .. import pictures
    from ..checkpoints import load_data
    from .outputs import draw_picture

    draw_picture(
        lambda model: pictures.interpolations(model, load_data(ckpt_path, root), rows, steps), ckpt_path, output, seed
    )


def traverse(
    ckpt_path: str,
    output: str,
    dimensions: int | None = None,
    steps: int = 11,
    limit: float = 3.0,
    label: int | None = None,
) -> None:
    """Moves along one latent dimension after the other, the others at 0.

    Args:
        ckpt_path: the checkpoint.
        output: the PNG to write.
        dimensions: how many dimensions, from the first; all if not given.
        steps: points along each.
        limit: from -limit to limit.
        label: the label, for a class-conditional model.
    """
    from .. import pictures
    from .outputs import draw_picture

    draw_picture(lambda model: pictures.traversal(model, dimensions, steps, limit, label), ckpt_path, output, 0)


def inpaint(
    ckpt_path: str,
    output: str,
    mask: str = "right",
    n: int = 8,
    draws: int = 6,
    seed: int = 0,
    root: str | None = None,
) -> None:
    """Hides a part of test pictures and draws it from the model, given the visible part.

    A row a picture: what is seen, what was there, and the draws.

    Args:
        ckpt_path: the checkpoint.
        output: the PNG to write.
        mask: the side to hide: left, right, top, bottom or center; or a PNG of the pictures' size, hidden where black.
        n: how many pictures.
        draws: of each.
        seed: another seed, other draws.
        root: folder of the data, where it is not the one of the training.
    """
    import torch

    from .. import pictures
    from ..checkpoints import load_data
    from ..errors import ConfigurationError
    from ..evaluation import restoration
    from .outputs import draw_picture, require_density

    def picture(model: Any) -> Any:
        require_density(model, "inpaint")
        batch = load_data(ckpt_path, root).first(n)
        if len(model.data_shape) < 2:
            raise ConfigurationError(f"mask: rows of shape {tuple(model.data_shape)} are no pictures")
        shown = pictures.read_mask(mask) if Path(mask).is_file() else restoration.visible(mask, model.data_shape)
        if shown.shape != batch.x.shape[-2:]:
            raise ConfigurationError(f"mask: {tuple(shown.shape)} pixels, the data has {tuple(batch.x.shape[-2:])}")
        seen = torch.where(shown, batch.x, torch.full_like(batch.x, 0.5))
        return pictures.restorations(seen, batch.x, restoration.inpaint(model, batch, shown, draws))

    draw_picture(picture, ckpt_path, output, seed)


def denoise(
    ckpt_path: str,
    output: str,
    noise: float,
    n: int = 8,
    draws: int = 6,
    seed: int = 0,
    root: str | None = None,
) -> None:
    """Puts noise on test data and draws what they may have been without it.

    A row a datum: with noise, without, and the draws.

    Args:
        ckpt_path: the checkpoint.
        output: the PNG to write.
        noise: probability of a wrong value with a Bernoulli decoder; standard deviation with a Gaussian one.
        n: how many data.
        draws: of each.
        seed: another seed, other draws.
        root: folder of the data, where it is not the one of the training.
    """
    from .. import pictures
    from ..checkpoints import load_data
    from ..evaluation import restoration
    from .outputs import draw_picture, require_density

    def picture(model: Any) -> Any:
        require_density(model, "denoise")
        batch = load_data(ckpt_path, root).first(n)
        model.decoder.noisy(model.prior().sample((1,)), noise, None if batch.y is None else batch.y[:1])
        noisy = batch._replace(x=model.decoder.corrupt(batch.x, noise))
        return pictures.restorations(noisy.x, batch.x, restoration.denoise(model, noisy, noise, draws))

    draw_picture(picture, ckpt_path, output, seed)


COMMANDS: dict[str, Callable[..., None]] = {
    "sample": sample,
    "reconstruct": reconstruct,
    "interpolate": interpolate,
    "traverse": traverse,
    "inpaint": inpaint,
    "denoise": denoise,
}
