"""Plots of rows that are no pictures: what they show, beside what, and in which units."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from PIL import Image
from pytorch_lightning.loggers import CSVLogger
from small_models import SMALL, trainer

from datamodules import Arrays, Table
from lightning_avb import (
    GAN,
    VAE,
    Batch,
    GaussianDecoder,
    GaussianEncoder,
    TableDecoder,
    noise,
    panels,
    pictures,
    plots,
    walks,
)
from lightning_avb.callbacks import Pictures
from lightning_avb.capabilities import DataDescription
from lightning_avb.cli.plotting import _names
from lightning_avb.errors import ConfigurationError

GENERATOR = np.random.default_rng(0)
ROWS = 80
PEOPLE = pd.DataFrame(
    {
        "weight": 70 + 10 * GENERATOR.normal(size=ROWS),
        "size": GENERATOR.choice(["large", "small", "medium"], ROWS),
        "height": 1700 + 80 * GENERATOR.normal(size=ROWS),
        "ill": np.arange(ROWS) % 2,
    }
)
PEOPLE.loc[::4, "size"] = None
PEOPLE.loc[1::4, "weight"] = np.nan
DRAWN = PEOPLE.assign(weight=60.0 + np.arange(ROWS), size="huge", ill=1)


@pytest.fixture
def axes(monkeypatch):
    """The axes of the plots that are drawn."""
    made = []

    def figure(draw, size, panels=None, columns=None):
        found = Figure(size).subplots(1, panels or 1, squeeze=False)[0]
        draw(found if panels else found[0])
        made.extend(found)
        return torch.zeros(3, 2, 2)

    for module in (plots, panels, pictures):
        monkeypatch.setattr(module, "figure", figure)
    return made


def of_colour(number, artists):
    return [artist for artist in artists if to_rgba(artist.get_facecolor())[:3] == to_rgba(f"C{number}")[:3]]


def table(**options):
    return Table.of(PEOPLE, batch_size=20, val_share=0.25, **options)


def vae(decoder=TableDecoder, **options):
    return VAE(2, partial(GaussianEncoder, network=SMALL), partial(decoder, network=SMALL), **options)


# What is drawn.


def test_marginals_are_shares_and_densities_of_what_is_observed(axes):
    plots.marginals({"data": PEOPLE, "samples": DRAWN})
    weight, size, height, ill = axes
    assert [panel.get_title() for panel in axes] == [*PEOPLE.columns]
    bars = of_colour(0, size.patches)
    assert [label.get_text() for label in size.get_xticklabels()] == ["huge", "large", "medium", "small"]
    shares = PEOPLE["size"].value_counts(normalize=True).reindex(["huge", "large", "medium", "small"]).fillna(0)
    assert np.allclose([bar.get_height() for bar in bars], shares)
    assert [bar.get_height() for bar in of_colour(1, size.patches)] == [1, 0, 0, 0]
    assert len(of_colour(0, ill.patches)) == 2
    for panel, name in ((weight, "weight"), (height, "height")):
        low, high = PEOPLE[name].quantile([0.01, 0.99])
        assert panel.get_xlim()[0] < low < high < panel.get_xlim()[1]
        assert sum(bar.get_height() * bar.get_width() for bar in of_colour(0, panel.patches)) == pytest.approx(1)


NORMAL = GENERATOR.normal(size=500)
SKEWED = np.exp(4 * NORMAL)


@pytest.mark.parametrize(
    ("data", "samples"),
    [
        (SKEWED[:60], NORMAL * SKEWED.std()),
        (SKEWED, NORMAL * SKEWED.std()),
        (NORMAL[:60], 1000 * NORMAL),
        (np.abs(NORMAL[:60]).clip(1), NORMAL),
        (NORMAL, NORMAL / 100),
        (NORMAL, NORMAL + 1000),
    ],
    ids=["skewed", "skewed, many rows", "outlying samples", "many at the least", "narrow samples", "samples beyond"],
)
def test_bars_of_data_lie_where_there_is_data(axes, data, samples):
    """Also if samples begin elsewhere, and at the ends of the data, whose numbers are in the first and the last bar."""
    plots.marginals({"data": pd.DataFrame({"x": data}), "samples": pd.DataFrame({"x": samples})})
    bars = of_colour(0, axes[0].patches)
    edges = np.array([bars[0].get_x(), bars[-1].get_x() + bars[-1].get_width()])
    ends = np.quantile(data, 0.005, method="lower"), np.quantile(data, 0.995, method="higher")
    assert np.allclose(edges, ends, atol=1e-9) and bars[0].get_height() and bars[-1].get_height()
    low, high = axes[0].get_xlim()
    assert high - low < 6 * np.ptp(edges)
    beyond = [(samples < low).mean(), (samples > high).mean()]
    said = [float(text.get_text().strip("←% →")) / 100 for text in axes[0].texts]
    assert np.allclose(said, [share for share in beyond if share >= 0.01], atol=0.015)


def test_a_column_in_which_all_rows_of_the_data_are_equal(axes):
    plots.marginals({"data": pd.DataFrame({"x": np.full(50, 7.0)}), "samples": pd.DataFrame({"x": NORMAL})})
    (bar,) = of_colour(0, axes[0].patches)
    assert bar.get_x() < 7 < bar.get_x() + bar.get_width() and bar.get_width() < 1


def test_pairs_are_the_rows_in_which_both_are_observed(axes):
    plots.pairs({"data": PEOPLE, "samples": DRAWN})
    below = axes[2]
    samples, data = below.collections
    both = PEOPLE[["weight", "height"]].dropna()
    assert np.allclose(data.get_offsets(), both) and np.allclose(samples.get_offsets(), DRAWN[["weight", "height"]])
    assert of_colour(0, [data]) and of_colour(1, [samples])
    assert data.get_sizes() > samples.get_sizes() and data.get_alpha() > samples.get_alpha()
    assert (below.get_xlabel(), below.get_ylabel(), axes[1].axison) == ("weight", "height", False)
    legend = [text.get_text() for text in axes[0].figure.legends[0].get_texts()]
    assert legend == ["data", "samples"]


@pytest.mark.filterwarnings("error")
def test_a_model_that_leaves_a_column_empty(axes):
    plots.marginals({"data": PEOPLE, "samples": PEOPLE.assign(weight=np.nan, size=None)})
    assert of_colour(0, axes[0].patches) and not of_colour(1, axes[0].patches)


def test_at_most_five_columns_are_paired(axes):
    wide = pd.DataFrame(GENERATOR.normal(size=(30, 7))).rename(columns=str)
    plots.pairs({"data": wide})
    assert len(axes) == 25 and axes[0].figure.get_suptitle() == "5 of 7 columns"
    plots.pairs({"data": wide}, ["6", "2"])
    assert not axes[-1].figure.get_suptitle()
    assert [axes[-2].get_xlabel(), axes[-1].get_xlabel()] == ["6", "2"]
    for names, message in (
        ([*"012345"], "columns: 6 columns; a plot of pairs is of one to 5"),
        (["1", "22"], "columns: there is no column '22'; did you mean 2"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            plots.pairs({"data": wide}, names)
    with pytest.raises(ConfigurationError, match="columns: 'size'; a plot of pairs is of one to 5 columns of numbers"):
        plots.pairs({"data": PEOPLE}, ["size", "weight"])


def test_a_picture_that_shows_some_columns_says_so(axes):
    plots.marginals({"data": pd.DataFrame(np.zeros((2, 40))).rename(columns=str)})
    assert len(axes) == 36 and axes[0].figure.get_suptitle() == "36 of 40 columns"
    model = SimpleNamespace(encode=lambda x, y, draws: torch.randn(1, 20, 8), sample_codes=lambda n: torch.randn(n, 8))
    model.make_code, model.latent_dim, model.prior, model.label_choices = None, 8, None, 0
    plots.codes(model, Batch(torch.randn(20, 3)))
    assert axes[-1].figure.get_suptitle() == "5 of 8 dimensions"


def test_reconstructions_of_all_columns(axes):
    """Points of numbers; of others, how often which value, from left to right, became which."""
    data = table()
    data.setup("fit")
    x = data.split("train").x
    again = x.roll(1, 0)
    model = SimpleNamespace(
        data_shape=x.shape[1:], encode=lambda x, y, draws: x[None], decode=lambda z, y: again, code_dim=2, classes=0
    )
    plots.reconstructions(model, DataDescription(data), Batch(x))
    rows, found = data.to_rows(x), data.to_rows(again)
    weight, size, _, ill = axes
    assert [panel.get_title() for panel in axes] == [*PEOPLE.columns]
    known = rows["weight"].notna() & found["weight"].notna()
    points = np.asarray(weight.collections[0].get_offsets())
    assert np.allclose(points, np.stack([rows["weight"][known], found["weight"][known]], 1).astype(float))
    for panel, name in ((size, "size"), (ill, "ill")):
        values = [label.get_text() for label in panel.get_xticklabels()]
        assert values == [label.get_text() for label in panel.get_yticklabels()] == sorted(values)
        pairs = [(str(a), str(b)) for a, b in zip(rows[name], found[name], strict=True)]
        expected = [[pairs.count((a, b)) for a in values] for b in values]
        assert panel.images[0].get_array().tolist() == expected
        assert sorted(int(text.get_text()) for text in panel.texts) == sorted(n for row in expected for n in row if n)


def test_samples_have_the_labels_of_the_data(axes):
    """Else they would have other shares of the classes, and another distribution."""
    asked = []

    def sample(count, labels=None, mean=True):
        asked.append((labels, mean))
        return torch.zeros(count, 2)

    model = SimpleNamespace(data_shape=(2,), classes=3, label_choices=3, sample=sample)
    batch = Batch(torch.randn(4, 2), torch.tensor([2, 0, 2, 1]))
    plots.samples(model, DataDescription(None), batch)
    plots.samples(model, DataDescription(None), batch, labels=[1])
    assert asked == [([2, 0, 2, 1], False), ([1], False)]


@pytest.mark.parametrize(
    ("shape", "middle"), [((5, 4, 6), np.s_[:, 2]), ((3, 5, 4, 6), np.s_[:, :, 2]), ((2, 5, 4, 6), np.s_[:, 1, 2])]
)
def test_the_middle_slice_of_a_volume(shape, middle):
    x = torch.rand(3, *shape)
    assert torch.equal(pictures.tiles(x, 2), pictures.tiles(x[middle], 2))


# Walks.


def of_table():
    """An untrained model of a table, what is known of the table, and its rows for training."""
    data = table()
    data.setup("fit")
    model = vae(data_shape=data.data_shape)
    model.decoder.read_layout(data.layout)
    return model.eval(), DataDescription(data), Batch(data.split("train").x)


def test_an_interpolation_of_columns_ends_at_the_rows(axes, monkeypatch):
    model, data, batch = of_table()
    monkeypatch.setattr(model, "encode", lambda x, y, draws: z[None, : len(x)])
    z = 3 * torch.randn(len(batch.x), 2)
    walks.interpolations(model, data, batch, rows=3, steps=5)
    ends = data.rows_of(model.decode(z[:6]))
    weight, size, _, _ = axes
    assert [panel.get_title() for panel in axes] == [*PEOPLE.columns]
    assert all(line.get_xdata().tolist() == [0, 0.25, 0.5, 0.75, 1] for line in weight.lines)
    found = [float(line.get_ydata()[end]) for line in weight.lines for end in (0, -1)]
    assert np.allclose(found, ends["weight"].astype(float))
    values = [label.get_text() for label in size.get_yticklabels()]
    assert [values[round(line.get_ydata()[end])] for line in size.lines for end in (0, -1)] == [*ends["size"]]


def test_a_traversal_of_columns_has_a_line_for_each_dimension(axes):
    model, data, _ = of_table()
    walks.traversal(model, data, steps=3, limit=2)
    weight = axes[0]
    z = torch.tensor([[0.0, -2], [0, 0], [0, 2]])
    expected = data.rows_of(model.decode(z))["weight"].astype(float)
    assert len(weight.lines) == 2 and np.allclose(weight.lines[1].get_ydata(), expected)
    assert weight.lines[1].get_xdata().tolist() == [-2, 0, 2]
    assert [text.get_text() for text in weight.figure.legends[0].get_texts()] == ["z0", "z1"]


def test_walks_of_vectors_are_curves_in_a_panel_for_each(axes):
    x = torch.randn(12, 6)
    model = SimpleNamespace(data_shape=(6,), code_dim=12, classes=0, label_choices=0, device="cpu")
    model.encode, model.decode = lambda x, y, draws: x[None], lambda z, y: z[..., :6]
    data = DataDescription(SimpleNamespace(restore=lambda x: 10 * x))
    walks.interpolations(model, data, Batch(x), rows=4, steps=3)
    assert len(axes) == 4 and all(len(panel.lines) == 3 for panel in axes)
    expected = 10 * torch.stack([x[2], (x[2] + x[3]) / 2, x[3]])
    torch.testing.assert_close(torch.tensor(np.array([line.get_ydata() for line in axes[1].lines])), expected)
    walks.traversal(model, data)
    assert [panel.get_title() for panel in axes[4:]] == [f"z{number}" for number in range(8)]
    assert axes[4].figure.get_suptitle() == "8 of 12 dimensions"
    walks.traversal(model, data, dimensions=10)
    assert len(axes) == 4 + 8 + 10 and not axes[-1].figure.get_suptitle()


# The pictures of a run.


def fitted(folder, model, data):
    run = trainer(folder, max_steps=8, logger=CSVLogger(folder), callbacks=[Pictures(0)])
    run.fit(model, data)
    run.save_checkpoint(folder / "some.ckpt")
    return {path.name.rpartition("_")[0] for path in Path(run.log_dir, "pictures").glob("*_0*.png")}


@pytest.mark.parametrize("label", [None, "ill"])
def test_a_run_of_a_table_plots_its_columns(tmp_path, label, axes):
    data = table(label=label)
    drawn = fitted(tmp_path, vae(conditional=label is not None), data)
    assert drawn == {"marginals", "pairs", "reconstructions", "interpolations", "latent_plane"}
    rows = data.to_rows(data.split("val").x)
    titles = [panel.get_title() for panel in axes]
    assert titles[: len(rows.columns)] == [*rows.columns]
    expected = rows[["weight", "height"]].dropna().astype(float)
    points = [np.asarray(drawn.get_offsets()) for panel in axes for drawn in panel.collections]
    assert any(found.shape == expected.shape and np.allclose(found, expected) for found in points)


def test_a_generator_has_no_reconstructions_of_columns(tmp_path):
    assert fitted(tmp_path, GAN(2, SMALL, SMALL, output="identity"), table()) == {"marginals", "pairs"}


def test_plots_take_no_random_numbers_of_the_run(tmp_path):
    data, states = table(), []

    class Watch(Pictures):
        def _draw(self, run, model):
            states.append(noise.torch_state()[0])
            super()._draw(run, model)
            states.append(noise.torch_state()[0])

    trainer(tmp_path, max_steps=2, callbacks=[Watch(0)]).fit(vae(), data)
    assert torch.equal(*states)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((6,), {"samples", "reconstructions", "interpolations", "latent_plane"}),
        ((2,), {"marginals", "pairs", "reconstructions", "interpolations", "latent_plane"}),
        ((5, 4, 6), {"samples", "reconstructions", "interpolations", "latent_plane"}),
    ],
)
def test_arrays_are_curves_points_or_slices(tmp_path, shape, expected):
    np.save(tmp_path / "x.npy", GENERATOR.random((60, *shape)))
    data = Arrays(str(tmp_path / "x.npy"), batch_size=20)
    assert fitted(tmp_path, vae(GaussianDecoder), data) == expected


def test_curves_are_in_the_units_of_the_array(tmp_path, axes):
    x = 1000 + GENERATOR.random((60, 6))
    np.save(tmp_path / "x.npy", x)
    data = Arrays(str(tmp_path / "x.npy"))
    data.setup("fit")
    batch = Batch(data.split("val").x)
    model = SimpleNamespace(data_shape=(6,), classes=0, label_choices=0, sample=lambda count, labels: batch.x[:count])
    assert [*plots.samples(model, DataDescription(data), batch)] == ["samples"]
    for panel in axes:
        first = torch.tensor(panel.lines[0].get_ydata())
        torch.testing.assert_close(first, data.restore(batch.x)[0].float(), rtol=1e-6, atol=1e-3)
    assert axes[0].get_ylim() == axes[1].get_ylim() and len(axes[0].lines) == len(batch.x)


# The commands.


@pytest.fixture
def checkpoints(tmp_path, monkeypatch):
    """Two models of a file, standardised on other rows."""
    monkeypatch.chdir(tmp_path)
    PEOPLE.to_csv("people.csv", index=False)
    for seed in (0, 1):
        run = trainer(tmp_path, max_steps=2, limit_val_batches=0)
        run.fit(vae(), Table("people.csv", split_seed=seed, batch_size=20))
        run.save_checkpoint(f"{seed}.ckpt")
    return "0.ckpt", "1.ckpt"


def test_models_are_plotted_each_in_its_own_units(checkpoints, command, axes, monkeypatch):
    seen = {}
    monkeypatch.setattr(plots, "as_frame", lambda x, data, frame=plots.as_frame: seen.setdefault(data, frame(x, data)))
    command(
        "plot", "--ckpt_path", *checkpoints, "--what", "pairs", "--columns", "weight", "height", "--output", "x.png"
    )
    means = [data.datamodule.format[0].mean for data in seen]
    assert len(seen) == 2 and means[0] != means[1]
    legend = [text.get_text() for text in axes[0].figure.legends[0].get_texts()]
    assert legend == ["data", *checkpoints]


def test_what_the_commands_draw(checkpoints, command, capsys):
    first, _ = checkpoints
    command("sample", "--ckpt_path", first, "--output", "drawn.png", "--n", 50)
    command("plot", "--ckpt_path", first, "--output", "marginals.png")
    command("plot", "--ckpt_path", first, "--what", "codes", "--output", "codes.png")
    for task in ("reconstruct", "interpolate", "traverse"):
        command(task, "--ckpt_path", first, "--output", f"{task}.png")
    names = ("drawn", "marginals", "codes", "reconstruct", "interpolate", "traverse")
    sizes = {name: Image.open(f"{name}.png").size for name in names}
    assert sizes["drawn"][1] > sizes["marginals"][1] and all(min(size) > 200 for size in sizes.values())
    assert "alone" not in capsys.readouterr().err
    Path("people.csv").unlink()
    command("sample", "--ckpt_path", first, "--output", "alone.png")
    assert "samples alone are drawn, without data: data.path" in capsys.readouterr().err
    assert Image.open("alone.png").size == sizes["drawn"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--columns", "wieght"], "columns: there is no column 'wieght'; did you mean weight?"),
        (["--what", "pairs", "--columns", "size"], "columns: 'size'; a plot of pairs is of one to 5"),
        (["--what", "codes", "1.ckpt"], "ckpt_path: a plot of codes is of one model"),
        (["--n", "0"], "n: 0 is below 1"),
    ],
)
def test_what_cannot_be_plotted(checkpoints, command, capsys, options, message):
    places = [option for option in options if option.endswith(".ckpt")]
    options = [option for option in options if option not in places]
    with pytest.raises(SystemExit, match="2"):
        command("plot", "--ckpt_path", "0.ckpt", *places, "--output", "x.png", *options)
    assert message in capsys.readouterr().err


def test_rows_without_columns_are_plotted_by_their_codes(tmp_path, command, capsys):
    np.save(tmp_path / "x.npy", GENERATOR.random((60, 4, 4)))
    fitted(tmp_path, vae(GaussianDecoder), Arrays(str(tmp_path / "x.npy"), batch_size=20))
    words = ("plot", "--ckpt_path", tmp_path / "some.ckpt", "--output")
    for name, what in (("x.png", ()), ("y.png", ("--what", "codes"))):
        command(*words, tmp_path / name, *what)
    assert (tmp_path / "x.png").read_bytes() == (tmp_path / "y.png").read_bytes()
    with pytest.raises(SystemExit, match="2"):
        command(*words, tmp_path / "x.png", "--what", "marginals")
    assert "rows of shape (1, 4, 4), which have no columns to plot" in capsys.readouterr().err


def test_models_are_named_by_their_runs_or_by_their_files(tmp_path):
    files = ["a/checkpoints/best.ckpt", "b/checkpoints/best.ckpt", "a/checkpoints/last.ckpt", "c/best.ckpt"]
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    places = [str(tmp_path / file) for file in files]
    assert _names(places[:2]) == ["a", "b"]
    assert _names([places[0], places[2]]) == ["best.ckpt", "last.ckpt"]
    assert _names([places[0], places[3]]) == ["a/checkpoints/best.ckpt", "c/best.ckpt"]
