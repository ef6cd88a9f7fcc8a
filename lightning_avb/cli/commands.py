"""The commands that only need a checkpoint: their options and what they do.

`lightning-avb COMMAND --help` reads this file: what a command needs is imported when it runs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal


def sample(
    ckpt_path: str,
    output: str,
    n: int = 64,
    labels: int | str | list[int | str] | None = None,
    x: str | None = None,
    resample: bool = False,
    seed: int = 0,
    root: str | None = None,
) -> None:
    """Draws from a checkpoint: new data of a generative model, parameters of a posterior.

    Args:
        ckpt_path: the checkpoint.
        output: the file to write. Data: .png or .jpg for a picture of their means, or of a table for plots of its
            columns beside those of validation rows; .npy, .npz or .csv for draws of p(x|z), a table in its own units.
            Parameters: .npz for one array per name, .csv for a table, .nc for ArviZ,
            .png or .jpg for a picture, with reference draws if the target has them.
        n: number of samples.
        labels: for a class-conditional model, used in turn; all of them if not given. By number or, where the data
            has them, by name: --labels 3, --labels cat dog, --labels '[0, 1]'.
        x: for the posteriors of a family: a .npy file with one data set, or several, one per row.
        resample: corrects parameters by importance weights, at the cost of ten log-densities and some gradients per
            draw; prints how many of the weighted draws are effective.
        seed: of the samples.
        root: folder or file of the data, if it has moved since the training.
    """
    from .outputs import write_samples

    write_samples(ckpt_path, output, n, labels, x, resample, seed, root)


def reconstruct(ckpt_path: str, output: str, n: int = 32, seed: int = 0, root: str | None = None) -> None:
    """Encodes and decodes test data: pairs of an original and its reconstruction.

    Args:
        ckpt_path: the checkpoint.
        output: the picture to write: .png, .jpg or .jpeg; of a table, points for a column of numbers, and for others
            how often which value became which.
        n: number of pairs; of a table all rows of a batch are drawn.
        seed: of the draws of the posterior.
        root: folder of the data, if it has moved since the training.
    """
    from .. import pictures, plots
    from ..checkpoints import data_of, load_data
    from .outputs import draw_picture

    def picture(model: Any) -> Any:
        rows = load_data(ckpt_path, root)
        if plots.has_plots(model.data_shape):
            return plots.reconstructions(model, data_of(ckpt_path, root), rows, n)
        return pictures.reconstructions(model, rows, n)

    draw_picture(picture, ckpt_path, output, seed)


def interpolate(
    ckpt_path: str, output: str, rows: int = 8, steps: int = 10, seed: int = 0, root: str | None = None
) -> None:
    """Walks from the code of one datum to the code of another.

    Args:
        ckpt_path: the checkpoint.
        output: the picture to write: .png, .jpg or .jpeg; of a table, lines in a panel for each column.
        rows: number of pairs.
        steps: points on each line.
        seed: of the draws of the posterior.
        root: folder of the data, if it has moved since the training.
    """
    from .. import walks
    from ..checkpoints import data_of, load_data
    from .outputs import draw_picture

    def picture(model: Any) -> Any:
        return walks.interpolations(model, data_of(ckpt_path, root), load_data(ckpt_path, root), rows, steps)

    draw_picture(picture, ckpt_path, output, seed)


def traverse(
    ckpt_path: str,
    output: str,
    dimensions: int | None = None,
    steps: int = 11,
    limit: float = 3.0,
    label: int | str | None = None,
) -> None:
    """Decodes points along each latent dimension, with the other dimensions at 0.

    Args:
        ckpt_path: the checkpoint.
        output: the picture to write: .png, .jpg or .jpeg; of a table, lines in a panel for each column.
        dimensions: number of dimensions, from the first; all if not given, and of a table or curves eight.
        steps: points along each.
        limit: points lie between -limit and limit.
        label: the label, for a class-conditional model, by number or name.
    """
    from .. import walks
    from ..checkpoints import data_of, label_names
    from ..trained import numbers_of_labels
    from .outputs import draw_picture

    def picture(model: Any) -> Any:
        number = None if label is None else numbers_of_labels("label", model, label_names(ckpt_path), [label])[0]
        return walks.traversal(model, data_of(ckpt_path), dimensions, steps, limit, number)

    draw_picture(picture, ckpt_path, output, 0)


def plot(
    ckpt_path: str | list[str],
    output: str,
    what: Literal["marginals", "pairs", "codes", "curves"] | None = None,
    columns: str | list[str] | None = None,
    n: int = 1000,
    seed: int = 0,
    root: str | None = None,
) -> None:
    """Plots samples of models of a table beside its validation rows, the codes of a model, or the curves of runs.

    Args:
        ckpt_path: the checkpoint, or several of models of the same table; for curves also folders with runs.
        output: the picture to write: .png, .jpg or .jpeg.
        what: marginals: a histogram or bars for each column; pairs: columns of numbers against each other; codes:
            dimensions of z against each other, of data and of the prior, of any model with an encoder; curves: figures
            of validation over the steps, one colour per run. If not given, marginals of a table, codes of other data.
        columns: those to plot, such as --columns age income; by itself the first 36, for pairs and codes 5.
        n: draws of each model.
        seed: of the draws.
        root: file of the data, if it has moved since the training.
    """
    from .plotting import write_plot

    write_plot(_flat(ckpt_path), output, what, None if columns is None else _flat(columns), n, seed, root)


def _flat(words: Any) -> list[str]:
    """The words of an option that takes one or several, each alone or in a list."""
    parts = words if isinstance(words, list) else [words]
    return [str(word) for part in parts for word in (part if isinstance(part, list) else [part])]


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

    Each row has the masked picture, the original, and the draws.

    Args:
        ckpt_path: the checkpoint.
        output: the picture to write: .png, .jpg or .jpeg.
        mask: the side to hide: left, right, top, bottom or center; or a picture of their size, hidden where black.
        n: number of pictures.
        draws: per picture.
        seed: of the draws.
        root: folder of the data, if it has moved since the training.
    """
    import torch

    from .. import pictures
    from ..checkpoints import load_data
    from ..errors import ConfigurationError
    from ..evaluation import restoration
    from ..inference import require_likelihood
    from .outputs import draw_picture

    def picture(model: Any) -> Any:
        require_likelihood(model, "inpaint")
        batch = load_data(ckpt_path, root).first(n)
        if len(model.data_shape) < 2:
            raise ConfigurationError(f"mask: rows of shape {tuple(model.data_shape)} are not pictures")
        visible = pictures.read_mask(mask) if Path(mask).is_file() else restoration.visible(mask, model.data_shape)
        if visible.shape != batch.x.shape[-2:]:
            raise ConfigurationError(f"mask: {tuple(visible.shape)} pixels, the data has {tuple(batch.x.shape[-2:])}")
        observed = torch.where(visible, batch.x, torch.full_like(batch.x, 0.5))
        return pictures.restorations(observed, batch.x, restoration.inpaint(model, batch, visible, draws))

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
    """Adds noise to test data and draws the clean data from the model.

    Each row has a datum with noise, the original, and the draws.

    Args:
        ckpt_path: the checkpoint.
        output: the picture to write: .png, .jpg or .jpeg.
        noise: probability of a wrong value with a Bernoulli decoder; standard deviation with a Gaussian one.
        n: number of rows.
        draws: per row.
        seed: of the draws.
        root: folder of the data, if it has moved since the training.
    """
    from .. import pictures
    from ..checkpoints import load_data
    from ..evaluation import restoration
    from ..inference import require_likelihood
    from .outputs import draw_picture

    def picture(model: Any) -> Any:
        require_likelihood(model, "denoise")
        batch = load_data(ckpt_path, root).first(n)
        model.decoder.noisy(model.prior().sample((1,)), noise, None if batch.y is None else batch.y[:1])
        noisy = batch._replace(x=model.decoder.corrupt(batch.x, noise))
        return pictures.restorations(noisy.x, batch.x, restoration.denoise(model, noisy, noise, draws))

    draw_picture(picture, ckpt_path, output, seed)


def embed(ckpt_path: str, input: str, output: str, draws: int | None = None, seed: int = 0) -> None:
    """Writes the codes of new rows: the mean of q(z|x), or draws of it.

    Args:
        ckpt_path: the checkpoint.
        input: the rows: a table for a model of a table; .npy or .npz; a picture, or a folder of pictures.
        output: the file to write: .csv, .npz, .npy or .parquet; the rows keep their order.
        draws: draws per row; the mean if not given.
        seed: of the draws.
    """
    from .outputs import write_codes

    write_codes(ckpt_path, input, output, draws, seed)


def score(
    ckpt_path: str,
    input: str,
    output: str,
    samples: int | None = None,
    annealing: int | None = None,
    odd: int = 10,
    seed: int = 0,
) -> None:
    """Writes log p(x) of new rows with its standard error, and prints the oddest rows.

    Args:
        ckpt_path: the checkpoint.
        input: the rows: a table for a model of a table; .npy or .npz; a picture, or a folder of pictures.
        output: the file to write: .csv, .npz or .parquet; the rows keep their order.
        samples: weighted draws per row; 1,000 if not given, with annealing 16 chains.
        annealing: temperatures of annealed importance sampling, such as 500: slower, and right where the encoder misses
            a part of the posterior.
        odd: how many of the rows with the least log p(x) to print.
        seed: of the draws.
    """
    from .outputs import write_scores

    write_scores(ckpt_path, input, output, samples, annealing, odd, seed)


def impute(ckpt_path: str, input: str, output: str, draws: int = 1, seed: int = 0) -> None:
    """Fills in what is missing in new rows: empty fields of a table, nan in an array.

    Args:
        ckpt_path: the checkpoint.
        input: the rows: a table for a model of a table; .npy or .npz.
        output: the file to write: .csv, .npz, .npy or .parquet. With several draws the rows come as often, with a
            column `draw` in a table; an array gets a first dimension. Of pictures also .png or .jpg: each one with its
            hidden pixels in grey, and its draws beside it.
        draws: multiple imputations.
        seed: of the draws.
    """
    from .outputs import write_imputations

    write_imputations(ckpt_path, input, output, draws, seed)


COMMANDS: dict[str, Callable[..., None]] = {
    "sample": sample,
    "reconstruct": reconstruct,
    "interpolate": interpolate,
    "traverse": traverse,
    "plot": plot,
    "inpaint": inpaint,
    "denoise": denoise,
    "embed": embed,
    "score": score,
    "impute": impute,
}
