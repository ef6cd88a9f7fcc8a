"""Pictures of models and data: pure functions that return `(3 or 1, height, width)` in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.utils import make_grid

from .batch import Batch
from .capabilities import Decodes, DrawsParameters, Encodes, HasCodes, Samples, can
from .draws import to_table
from .errors import ConfigurationError, at_least
from .history import Curve, read_curves

Picture = Tensor
SUFFIXES = (".png", ".jpg", ".jpeg")
"""How the name of a picture's file may end."""
SMALLEST = 32
"""The smallest size of a tile, in pixels along its longer side; smaller pictures are enlarged."""


NAMES: dict[Any, str] = {
    Samples: "sample",
    Encodes: "encode",
    Decodes: "decode",
    HasCodes: "make_code",
    DrawsParameters: "draw",
}
"""What a model has to have that can do something."""


def require(model: Any, task: str, *capabilities: Any) -> None:
    """Checks that a model can do what a picture needs.

    Raises:
        ConfigurationError: it cannot.
    """
    missing = [NAMES[capability] for capability in capabilities if not can(model, capability)]
    if missing:
        raise ConfigurationError(f"{type(model).__name__} cannot {task}: it has no {' and no '.join(missing)}")


def tiles(rows: Tensor, columns: int) -> Picture:
    """A grid of pictures, of rows `(count, *data_shape)`.

    A volume `(depth, height, width)` or `(channels, depth, height, width)` is drawn as its middle slice, a vector as a
    strip of grey boxes.
    """
    while rows.ndim > 4 or (rows.ndim == 4 and rows.shape[1] not in (1, 3)):
        rows = rows.select(-3, rows.shape[-3] // 2)
    rows = rows.detach().float().cpu()
    if rows.ndim == 2:
        low, high = min(0.0, rows.min().item()), max(1.0, rows.max().item())  # standardised ones leave [0, 1]
        rows = ((rows - low) / (high - low))[:, None, None]
    elif rows.ndim == 3:
        rows = rows[:, None]
    magnify = max(1, SMALLEST // max(rows.shape[-2:]))
    rows = rows.repeat_interleave(magnify, -1).repeat_interleave(magnify, -2)
    return make_grid(rows.clamp(0, 1), nrow=columns, padding=2, pad_value=0.5)


def samples(model: Any, count: int = 64, labels: Sequence[int] | None = None) -> Picture:
    """Means of p(x|z) for z from the prior; one column per label if the model is class-conditional."""
    require(model, "sample", Samples)
    at_least(1, count=count)
    columns = len(labels) if labels else model.label_choices
    return tiles(model.sample(count, labels), columns if columns > 1 else max(1, round(count**0.5)))


@torch.no_grad()
def styles(model: Any, rows: int = 10) -> Picture:
    """One row per style, one column per label or category. The first row has the style 0: the cluster heads."""
    require(model, "show its styles", HasCodes, Decodes)
    z = torch.cat([torch.zeros(1, model.latent_dim, device=model.device), model.prior().sample((rows - 1,))])
    labels = torch.arange(model.label_choices, device=model.device)
    z, y = z.repeat_interleave(len(labels), 0), labels.repeat(rows)
    return tiles(model.decode(model.make_code(z, y), y), len(labels))


def reconstructions(model: Any, batch: Batch, count: int = 32) -> Picture:
    """Pairs of x and the mean of p(x|z) for z from q(z|x), side by side, eight per row."""
    require(model, "reconstruct", Encodes, Decodes)
    at_least(1, count=count)
    x, y = batch.x[:count], batch.y[:count] if batch.y is not None else None
    return tiles(torch.stack([x, model.decode(model.encode(x, y, draws=1)[0], y)], 1).flatten(0, 1), 16)


def restorations(observed: Tensor, x: Tensor, restored: Tensor) -> Picture:
    """One row per datum: the observed input, the original, and draws of the restored one.

    Args:
        observed, x: `(count, *data_shape)`.
        restored: `(draws, count, *data_shape)`.
    """
    columns = torch.cat([observed[None], x[None], restored])
    return tiles(columns.transpose(0, 1).flatten(0, 1), len(columns))


@torch.no_grad()
def latent_plane(model: Any, batch: Batch, draws: int = 8) -> Picture:
    """Codes of a batch in two dimensions, coloured by label, over draws of the prior in grey."""
    require(model, "show its latent plane", Encodes, HasCodes)
    z = torch.cat([model.encode(batch.x, batch.y, draws=1)[0] for _ in range(draws)]).float().cpu()
    label = torch.zeros(len(batch.x)) if batch.y is None else batch.y.cpu()
    prior = model.sample_codes(2000).float().cpu()

    def draw(axes: Any) -> None:
        axes.scatter(prior[:, 0], prior[:, 1], color="lightgrey", s=3, linewidths=0)
        axes.scatter(z[:, 0], z[:, 1], c=label.repeat(draws), s=3, cmap="tab10", linewidths=0)
        reach = 1.05 * max(prior.abs().max().item(), z.abs().quantile(0.99).item())
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xlabel="$z_1$", ylabel="$z_2$")

    return figure(draw, (5, 5))


MARGINALS = 4
"""The largest number of histograms in the picture of a posterior."""


@torch.no_grad()
def posterior(model: Any, count: int = 5000, x: Tensor | None = None) -> Picture:
    """Panels of a posterior: the density (in two dimensions), draws, reference draws if there are any, marginals.

    Args:
        model: a `Posterior`.
        count: number of draws.
        x: `(1, *data_shape)`, the data set, for a family.
    """
    require(model, "show a posterior", DrawsParameters)
    target = model.target

    def table(named: dict[str, Tensor] | None) -> tuple[Tensor, list[str]] | None:
        if named is None:
            return None
        rows, names = to_table({name: value if x is None else value.squeeze(1) for name, value in named.items()})
        return rows.float().cpu(), names

    rows, names = table(model.draw(count, x))  # type: ignore[misc]
    reference = table(target.reference(count) if x is None else target.posterior(x, count))
    # Constant columns, such as the upper triangle of a Cholesky factor, are left out.
    varying = [i for i in range(len(names)) if (rows[:, i] != rows[0, i]).any()] or [0]
    plotted = (
        [names.index(name) for name in target.plot_columns] if target.plot_columns else [varying[0], varying[:2][-1]]
    )

    def middle(name: str, outside: float) -> list[float]:
        """The range of most of the draws, and of the reference."""
        found = [each[0][:, each[1].index(name)] for each in ((rows, names), reference) if each and name in each[1]]
        ends = torch.stack([values.quantile(torch.tensor([outside, 1 - outside])) for values in found])
        return [ends[:, 0].min().item(), ends[:, 1].max().item()]

    low, high = torch.tensor([middle(names[i], 0.002) for i in plotted]).T
    low, high = low - 0.15 * (high - low), high + 0.15 * (high - low)
    panels_of_plane = (
        ["density"] * (model.latent_dim == len(names) == 2) + ["draws"] + ["reference"] * (reference is not None)
    )
    marginals = [names[i] for i in varying if reference is None or names[i] in reference[1]][:MARGINALS]

    def plane(axes: Any, kind: str) -> None:
        if kind == "density":
            edges = [torch.linspace(low[i].item(), high[i].item(), 200) for i in range(2)]
            points = torch.stack(torch.meshgrid(*edges, indexing="xy"), -1).reshape(-1, 1, 2)
            log_p = target.constrained_log_density(points.to(model.device), x).view(200, 200).float().cpu()
            extent = (low[0].item(), high[0].item(), low[1].item(), high[1].item())
            axes.imshow((log_p - log_p.max()).exp(), origin="lower", aspect="auto", cmap="Blues", extent=extent)
        else:
            points, columns = (rows, names) if kind == "draws" else reference  # type: ignore[misc]
            if any(names[i] not in columns for i in plotted):
                return
            a, b = (points[:, columns.index(names[i])] for i in plotted)
            axes.scatter(a, b, s=2, alpha=0.4, linewidths=0)
        axes.set(title=kind, xlim=(low[0], high[0]), ylim=(low[1], high[1]))
        axes.set(xlabel=names[plotted[0]], ylabel=names[plotted[1]])

    def marginal(axes: Any, name: str) -> None:
        values = rows[:, names.index(name)]
        options = {"bins": 60, "range": middle(name, 0.001), "density": True}
        axes.hist(values.numpy(), **options, alpha=0.6, label="draws")
        if reference is not None:
            reference_values = reference[0][:, reference[1].index(name)].numpy()
            axes.hist(reference_values, **options, histtype="step", color="black", label="reference")
        axes.set(title=name, yticks=[])
        axes.legend(fontsize="small")

    def draw(panels: Any) -> None:
        for axes, kind in zip(panels, panels_of_plane, strict=False):
            plane(axes, kind)
        for axes, name in zip(panels[len(panels_of_plane) :], marginals, strict=True):
            marginal(axes, name)

    number = len(panels_of_plane) + len(marginals)
    return figure(draw, (3.2 * number, 3), number)


STAGES = {"train": "C0", "val": "C1", "test": "C2"}
"""Stages in the order of a legend, each with its colour."""


def curves(metrics: Path) -> Picture | None:
    """The columns of a CSV logger's `metrics.csv` over the step, one panel per quantity; None if there are none.

    A stage has the same colour in all panels.
    """
    quantities: dict[str, dict[str, Curve]] = {}
    for name, curve in read_curves(metrics).items():
        stage, _, quantity = name.partition("/")
        quantities.setdefault(quantity, {})[stage] = curve
    if not quantities:
        return None

    def draw(panels: Any) -> None:
        for axes, (quantity, found) in zip(panels, sorted(quantities.items()), strict=True):
            for stage, colour in STAGES.items():
                if stage in found:
                    plot(axes, found[stage], label=stage, color=colour)
            axes.set(title=quantity.replace("_", " "), xlabel="step")
            axes.legend()

    return panels_of_curves(draw, len(quantities))


def plot(axes: Any, curve: Curve, **style: Any) -> Any:
    """Draws a curve over the step and returns its line; with points where a line would show little."""
    return axes.plot(curve.steps, curve.values, marker="." if len(curve.steps) < 3 else None, **style)[0]


def panels_of_curves(draw: Callable[[Any], None], count: int, legend: float = 0) -> Picture:
    """A picture of many panels, four in a row; `legend`: the height of what is below them, in inches."""
    columns = min(4, count)
    return figure(draw, (4 * columns, 3 * -(-count // columns) + legend), count, columns)


def comparison(runs: Mapping[str, Mapping[str, Curve]]) -> Picture | None:
    """The figures of validation of several runs over the step, one panel per quantity, one colour per run.

    After ten runs the colours begin again, with another style of line.

    Args:
        runs: name of a run -> its curves, such as `val/elbo`.

    Returns:
        The picture; None if no run has a validation.
    """
    names = sorted({name for found in runs.values() for name in found if name.startswith("val/")})
    if not names:
        return None

    drawn = {run: found for run, found in runs.items() if any(name in found for name in names)}

    def draw(panels: Any) -> None:
        lines: dict[str, Any] = {}
        for axes, name in zip(panels, names, strict=True):
            for number, (run, found) in enumerate(drawn.items()):
                if name in found:
                    style = ("-", "--", ":", "-.")[number // 10 % 4]
                    lines[run] = plot(axes, found[name], color=f"C{number % 10}", linestyle=style)
            axes.set(title=name.removeprefix("val/").replace("_", " "), xlabel="step")
        panels[0].figure.legend([lines[run] for run in drawn], list(drawn), loc="outside lower center", ncols=2)

    return panels_of_curves(draw, len(names), 0.25 * -(-len(drawn) // 2))


def figure(
    draw: Callable[[Any], None], size: tuple[float, float], panels: int | None = None, columns: int | None = None
) -> Picture:
    """A picture from `draw`, a function of matplotlib axes.

    Args:
        draw: gets the axes, or a sequence of them.
        size: width and height in inches.
        panels: number of axes; None: one, not in a sequence.
        columns: number of panels in a row; None: all.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawing = Figure(size, dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(drawing)
    if panels is None:
        draw(drawing.subplots())
    else:
        columns = columns or panels
        made = drawing.subplots(-(-panels // columns), columns, squeeze=False).flatten()
        for axes in made[panels:]:
            axes.set_axis_off()
        draw(made[:panels])
    canvas.draw()  # once, where `savefig` draws twice
    pixels = torch.from_numpy(np.array(canvas.buffer_rgba())[..., :3])
    return pixels.permute(2, 0, 1).float() / 255


def read_mask(path: str) -> Tensor:
    """`(height, width)`, False where the picture in the file is darker than middle grey."""
    try:
        return torch.from_numpy(np.array(Image.open(path).convert("L"))) > 127
    except UnidentifiedImageError as error:
        raise ConfigurationError(f"mask: {path!r} is not a picture") from error


def write(picture: Picture, path: Path) -> None:
    """Writes a PNG or, where the name ends so, a JPEG, and makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    to_image(picture).save(path, quality=95)


def to_image(picture: Picture) -> Image.Image:
    """A picture in colour with 8 bits per channel."""
    pixels = make_grid(picture).mul(255).add(0.5).clamp(0, 255).to("cpu", torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())
