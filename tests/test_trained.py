"""A trained model in the terms of its data: codes, scores, what is missing filled in."""

from __future__ import annotations

import math
import re
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from lightning_avb.datamodules.new_rows import read_rows
from PIL import Image
from small_models import trainer

from datamodules import Arrays, Digits, Table
from lightning_avb import (
    AAE,
    AVB,
    GAN,
    MLP,
    VAE,
    BernoulliDecoder,
    GaussianDecoder,
    GaussianEncoder,
    Player,
    TableDecoder,
    Trained,
    VAEPlayers,
    pictures,
)
from lightning_avb.errors import ConfigurationError

ROWS = 120
GENERATOR = np.random.default_rng(1)
Z = GENERATOR.normal(size=ROWS)
PEOPLE = pd.DataFrame(
    {
        "weight": 70 + 10 * Z + GENERATOR.normal(size=ROWS),
        "height": 170 + 8 * Z + GENERATOR.normal(size=ROWS),
        "size": np.where(Z > 0.5, "large", np.where(Z < -0.5, "small", "medium")),
        "kind": np.where(GENERATOR.random(ROWS) < 0.5, "cat", "dog"),
    }
)
TABLE_VAE = """
model:
  class_path: lightning_avb.VAE
  init_args: {latent_dim: 2, decoder: {class_path: lightning_avb.TableDecoder}}
trainer: {max_steps: 2, accelerator: cpu, enable_progress_bar: false, enable_model_summary: false}
pictures: {every_n_epochs: 0}
data: {class_path: lightning_avb.datamodules.Table, init_args: {batch_size: 10}}
"""
PEOPLE.loc[::4, "size"] = None
PEOPLE.loc[1::4, "weight"] = np.nan


NETWORK = partial(MLP, hidden=(32,))
PLAYERS = VAEPlayers(Player(partial(torch.optim.Adam, lr=5e-3, fused=True)))


def vae(decoder=TableDecoder, **options):
    encoder = partial(GaussianEncoder, network=NETWORK)
    return VAE(2, encoder, partial(decoder, network=NETWORK), players=PLAYERS, **options)


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """A trained VAE of a table, its file, and new rows."""
    folder = tmp_path_factory.mktemp("people")
    PEOPLE.to_csv(folder / "people.csv", index=False)
    data = Table(str(folder / "people.csv"), label="kind", batch_size=50)
    run = trainer(folder, max_steps=600, limit_val_batches=0)
    run.fit(vae(), data)
    run.save_checkpoint(folder / "some.ckpt")
    return folder


def test_codes_are_the_same_every_time_and_draws_scatter_around_them(people):
    trained = Trained(people / "some.ckpt")
    codes, again = trained.embed(PEOPLE), Trained(people / "some.ckpt").embed(PEOPLE[50:])
    assert codes.shape == (ROWS, 2) and np.allclose(codes[50:], again, atol=1e-6)
    draws = trained.embed(PEOPLE, draws=400)
    error = draws.std(0) / math.sqrt(400)
    assert draws.shape == (400, ROWS, 2) and (np.abs(draws.mean(0) - codes) < 5 * error + 1e-6).all()


def test_scores_are_densities_of_the_observed_fields_and_find_odd_rows(people):
    trained = Trained(people / "some.ckpt")
    value, error = trained.score(PEOPLE)
    assert (error < 0.3).all() and np.isfinite(value).all()
    odd = PEOPLE.iloc[[3]].assign(weight=150.0, height=150.0, size="small")
    assert trained.score(odd)[0] < value.min() - 10
    fewer = PEOPLE.iloc[[3]].assign(weight=np.nan)  # one density less
    assert trained.score(fewer)[0] != pytest.approx(value[3], abs=0.5)


def test_scores_by_annealing_agree_with_those_by_weighting(people):
    trained = Trained(people / "some.ckpt")
    weighted, error = trained.score(PEOPLE[:20])
    annealed, its_error = trained.score(PEOPLE[:20], annealing=50, samples=16)
    assert (its_error < 0.5).all()
    assert (np.abs(weighted - annealed) < 4 * np.hypot(error, its_error) + 0.05).all()
    assert not np.array_equal(weighted, annealed)


def test_missing_fields_are_drawn_given_the_others(people):
    trained = Trained(people / "some.ckpt")
    draws = trained.impute(PEOPLE, draws=5)
    for filled in draws:
        assert filled["size"].notna().all() and filled["weight"].notna().all()
        known = PEOPLE["size"].notna()
        assert (filled["size"][known] == PEOPLE["size"][known]).all() and filled["kind"].equals(PEOPLE["kind"])
        missing = PEOPLE["weight"].isna()
        heights, weights = PEOPLE["height"][missing], filled["weight"][missing].astype(float)
        assert np.corrcoef(heights, weights)[0, 1] > 0.7
    assert not draws[0]["weight"].equals(draws[1]["weight"])
    assert trained.impute(PEOPLE)[0]["weight"].equals(trained.impute(PEOPLE)[0]["weight"])


def test_a_frame_keeps_its_index_and_the_names_of_its_columns(people):
    trained = Trained(people / "some.ckpt")
    rows = PEOPLE.iloc[4:12].set_axis([7, 7, "b", 1, 2, 3, 5, 4])
    (filled,) = trained.impute(rows)
    assert filled.index.equals(rows.index) and trained.reconstruct(rows).index.equals(rows.index)
    known = rows.notna()
    assert filled.where(known).equals(rows.where(known)) and filled.notna().all().all()


def test_a_field_that_was_never_missing_in_training_can_be_filled_too(people):
    trained = Trained(people / "some.ckpt")
    rows = PEOPLE.iloc[2:40:4].assign(height=np.nan)
    (filled,) = trained.impute(rows)
    assert np.corrcoef(rows["weight"], filled["height"].astype(float))[0, 1] > 0.6
    with pytest.raises(ConfigurationError, match=r"'height' has 10 fields that are empty.*; .*`impute` fills it"):
        trained.score(rows)


def test_the_commands_keep_the_order_of_the_rows(people, command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    new = people / "people.csv"
    trained = Trained(people / "some.ckpt")
    command("embed", "--ckpt_path", people / "some.ckpt", "--input", new, "--output", "codes.csv")
    assert np.allclose(pd.read_csv("codes.csv")[["z0", "z1"]], trained.embed(PEOPLE), atol=1e-5)
    command("embed", "--ckpt_path", people / "some.ckpt", "--input", new, "--output", "codes.npz", "--draws", 3)
    assert np.load("codes.npz")["z"].shape == (3, ROWS, 2)
    capsys.readouterr()
    command("score", "--ckpt_path", people / "some.ckpt", "--input", new, "--output", "scores.csv", "--odd", 2)
    scores = pd.read_csv("scores.csv")
    assert np.allclose(scores["log_p"], trained.score(PEOPLE)[0], atol=1e-4)
    assert f"{scores['log_p'].idxmin()}" in capsys.readouterr().out
    command("impute", "--ckpt_path", people / "some.ckpt", "--input", new, "--output", "full.csv", "--draws", 2)
    assert f"{PEOPLE[['weight', 'size']].isna().sum().sum()} missing fields are filled\n" in capsys.readouterr().out
    full = pd.read_csv("full.csv")
    assert len(full) == 2 * ROWS and full.notna().all().all() and full["draw"].tolist() == [0] * ROWS + [1] * ROWS
    assert list(full.columns) == [*PEOPLE.columns, "draw"]


def test_what_is_said_of_one_row_and_of_fields_that_stay_empty(people, command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    PEOPLE.assign(kind=None, size=PEOPLE["size"].mask(Z > 0)).iloc[[2]].to_csv("one.csv", index=False)
    of = ("--ckpt_path", people / "some.ckpt", "--input", "one.csv", "--output")
    command("score", *of, "scores.csv")
    assert re.match(r"log p\(x\): -?\d+\.\d+ nats, 1 row\nthe oddest row:\n", capsys.readouterr().out)
    command("impute", *of, "full.npz")
    missing = int(pd.read_csv("one.csv")[["weight", "size"]].isna().to_numpy().sum())
    said = f"{missing} missing field{' is' if missing == 1 else 's are'} filled"
    stays = "1 stays empty, in columns that are not the model's: kind"
    assert capsys.readouterr().out.startswith(f"{said}; {stays}\n")
    types = {name: np.load("full.npz")[name].dtype.kind for name in PEOPLE.columns}
    assert types == {"weight": "f", "height": "f", "size": "U", "kind": "U"}


def test_pictures_and_arrays(tmp_path, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = Digits(batch_size=50, binarize="static")
    run = trainer(tmp_path, max_steps=5)
    run.fit(vae(BernoulliDecoder), data)
    run.save_checkpoint("some.ckpt")
    (tmp_path / "new").mkdir()
    for name in "ba":
        pixels = (GENERATOR.random((16, 16)) < 0.5).astype(np.uint8) * 255
        Image.fromarray(pixels).resize((8, 8), Image.Resampling.NEAREST).save(tmp_path / "new" / f"{name}.png")
    command("embed", "--ckpt_path", "some.ckpt", "--input", "new", "--output", "codes.csv")
    assert pd.read_csv("codes.csv")["file"].tolist() == ["a.png", "b.png"]
    bits = (GENERATOR.random((3, 1, 8, 8)) < 0.5).astype(np.float32)
    bits[0, 0, :, 4:] = np.nan
    np.save("hidden.npy", bits)
    command("impute", "--ckpt_path", "some.ckpt", "--input", "hidden.npy", "--output", "full.npy", "--draws", 2)
    full = np.load("full.npy")
    assert full.shape == (2, 3, 1, 8, 8) and {*full.ravel().tolist()} == {0.0, 1.0}
    seen = ~np.isnan(bits)
    assert (full[:, seen] == bits[seen]).all()
    command("impute", "--ckpt_path", "some.ckpt", "--input", "hidden.npy", "--output", "full.png", "--draws", 2)
    expected = np.concatenate([np.where(seen, bits, 0.5)[None], full]).swapaxes(0, 1).reshape(9, 1, 8, 8)
    pictures.write(pictures.tiles(torch.from_numpy(expected), 3), tmp_path / "expected.png")
    assert (tmp_path / "full.png").read_bytes() == (tmp_path / "expected.png").read_bytes()


def test_arrays_come_in_their_own_units_and_go_so(tmp_path):
    rows = np.array([100.0, -5.0]) + np.array([20.0, 0.1]) * GENERATOR.normal(size=(300, 2))
    np.save(tmp_path / "rows.npy", rows)
    data = Arrays(str(tmp_path / "rows.npy"), batch_size=50)
    run = trainer(tmp_path, max_steps=300, limit_val_batches=0)
    run.fit(vae(GaussianDecoder), data)
    run.save_checkpoint(tmp_path / "some.ckpt")
    trained = Trained(tmp_path / "some.ckpt")
    made = trained.sample(500)
    assert (np.abs(made.mean(0) - rows.mean(0)) < rows.std(0)).all()
    assert (np.abs(trained.reconstruct(rows).mean(0) - rows.mean(0)) < rows.std(0)).all()
    with torch.no_grad():
        x = data.from_rows(rows[:5])
        value, error = trained.model.log_prob(x)
    assert np.allclose(trained.score(rows[:5])[0], value.numpy(), atol=1e-4) and (error < 0.2).all()
    assert torch.equal(trained.model.encode(x), trained.model.encode(x))


def test_a_model_takes_arrays_in_double_precision_as_it_takes_tensors():
    model = vae(GaussianDecoder, data_shape=(3,), conditional=True, classes=2).eval()
    x, y = torch.randn(4, 3), torch.tensor([0, 1, 1, 0])
    rows, labels = x.double().numpy(), y.numpy()
    for method in (model.encode, model.reconstruct, model.log_prob, partial(model.impute, observed=x > 0)):
        for ours, theirs in zip(method(rows, y=labels), method(x, y=y), strict=True):
            assert torch.equal(ours, theirs)
    rows[1, 2] = np.nan
    filled = model.impute(rows, y=labels)
    assert filled.isfinite().all() and torch.equal(filled[0, 0], x[0])
    for call, message in (
        (lambda: model.encode(rows, labels), "x: a row has nan; `impute` draws what is missing"),
        (lambda: model.log_prob(rows, labels), "x: a row has nan; `impute` draws what is missing"),
        (lambda: model.encode(rows * np.inf, labels), r"x: a row has -?inf"),
        (lambda: model.encode(PEOPLE, labels), "x: DataFrame; a floating-point tensor"),
        (lambda: model.impute(x, y=y), "nothing tells what is missing; give `observed`"),
        (lambda: model.impute(x, np.ones((4, 3)), y), r"observed: float64 \(4, 3\); bool \(4, 3\)"),
        (lambda: model.impute(x, np.ones((1, 3), bool), y), r"observed: bool \(1, 3\); bool \(4, 3\)"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            call()


@pytest.mark.parametrize("make", [lambda: AVB(2, decoder=TableDecoder), lambda: AAE(2, decoder=TableDecoder)])
def test_other_models_of_a_table(make, people, tmp_path):
    data = Table(str(people / "people.csv"), label="kind", batch_size=50)
    run = trainer(tmp_path, max_steps=2)
    model = make()
    run.fit(model, data)
    model.eval()
    x = data.from_rows(PEOPLE)
    assert torch.equal(model.encode(x), model.encode(x)) and model.reconstruct(x).shape == x.shape
    assert model.log_prob(x[:5]).value.isfinite().all()


def test_what_cannot_be_asked_of_a_model_is_refused(people, tmp_path, refusal):
    data = Table(str(people / "people.csv"), label="kind", batch_size=50)
    run = trainer(tmp_path, max_steps=1)
    run.fit(GAN(2, output="identity", conditional=True), data)
    run.save_checkpoint(tmp_path / "gan.ckpt")
    gan, trained = Trained(tmp_path / "gan.ckpt"), Trained(people / "some.ckpt")
    for call, message in (
        (lambda: gan.embed(PEOPLE), "GAN cannot encode"),
        (lambda: gan.score(PEOPLE), "GAN cannot score rows: the model has no encoder"),
        (lambda: gan.sample(4, labels=["cow"]), "labels: 'cow' is none of cat, dog"),
        (lambda: gan.read(PEOPLE.drop(columns="kind")), "labels: the model reads the label of every row"),
        (lambda: trained.embed(PEOPLE[["weight", "height"]].to_numpy()), "rows: an array with 2 columns, .* weight, h"),
        (
            lambda: trained.score(PEOPLE.assign(size="giant")),
            "'size' has 120 fields that are none of .*row 0: 'giant'",
        ),
        (lambda: trained.score(PEOPLE.head(0)), "rows: there are none"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            call()
    missing = ("--ckpt_path", people / "some.ckpt", "--output", "x.csv", "--input")
    assert "input: there is no 'none.csv'" in refusal("embed", *missing, "none.csv")
    for task in ("embed", "score", "impute"):  # before anything is computed
        file = (*missing[:2], "--input", "none.csv", "--output")
        assert "output: 'x.txt' does not end in .csv" in refusal(task, *file, "x.txt")
    file = ("impute", *missing[:2], "--input", people / "people.csv", "--output")
    assert "output: 'x.png' does not end in .csv, .npz, .parquet" in refusal(*file, "x.png")
    np.save(tmp_path / "some.npy", np.zeros((2, 3)))
    assert "is no table" in refusal("score", *missing, tmp_path / "some.npy")


def test_an_array_with_the_columns_of_the_table_is_read_as_the_table(people):
    """With the labels or without; and a file with blanks around its names."""
    trained = Trained(people / "some.ckpt")
    codes = trained.embed(PEOPLE)
    assert np.array_equal(trained.embed(PEOPLE.to_numpy()), codes)
    assert np.array_equal(trained.embed(PEOPLE.drop(columns="kind").to_numpy()), codes)
    spaced = PEOPLE.rename(columns=" {} ".format)
    assert np.array_equal(trained.embed(spaced), codes)
    (filled,) = trained.impute(spaced[:8])
    assert filled["size"].notna().all() and filled["size"][1] == PEOPLE["size"][1]


def test_a_file_of_new_rows_may_be_in_utf8_or_in_the_encoding_of_the_training(tmp_path):
    words = PEOPLE.replace({"small": "süß"})
    words.to_csv(tmp_path / "old.csv", index=False, encoding="latin-1")
    words.to_csv(tmp_path / "new.csv", index=False)
    data = Table(str(tmp_path / "old.csv"), label="kind", encoding="latin-1")
    data.setup("fit")
    old, new = (read_rows(tmp_path / name, data, data.data_shape)[0] for name in ("old.csv", "new.csv"))
    assert old.equals(new) and "süß" in old["size"].unique()
    data.reading["encoding"] = "utf-8"
    with pytest.raises(
        ConfigurationError, match=r"^input: .* is not in utf-8 \(line \d+: .*; write it in UTF-8: iconv"
    ):
        read_rows(tmp_path / "old.csv", data, data.data_shape)


def test_bad_fields_of_a_file_are_named_by_their_lines(people, tmp_path, refusal):
    bad = PEOPLE.astype(object).copy()
    bad.loc[3, "size"], bad.loc[5, "height"], bad.loc[6, "height"] = "giant", None, "tall"
    bad.to_csv(tmp_path / "bad.csv", index=False)
    said = refusal("score", "--ckpt_path", people / "some.ckpt", "--input", tmp_path / "bad.csv", "--output", "x.csv")
    assert "'size' has 1 field that is none of large, medium, small (line 5: 'giant'); correct it, or leave" in said
    assert "'height' has 1 field that is empty" in said and "(line 7)" in said and "(line 8: 'tall')" in said


def test_another_file_is_read_as_the_checkpoint_says(people, command, tmp_path, monkeypatch, without_curves):
    """Its columns by name: in another order, with others among them, and with fewer values."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vae.yaml").write_text(TABLE_VAE)
    columns = ("--data.columns", "[weight, height, size]", "--data.drop", "height")
    command("fit", "--config", "vae.yaml", "--data.path", people / "people.csv", "--data.label=-1", *columns)
    (run,) = tmp_path.rglob("last.ckpt")
    other = PEOPLE[["size", "kind", "height", "weight"]].assign(more=1.5)
    other[(other["size"] != "small") & (other["kind"] == "cat") | other["weight"].isna()].to_csv("other.csv")
    for stage in ("validate", "fit"):
        steps = ["--trainer.max_steps", 3] if stage == "fit" else []
        command(
            stage, "--config", "vae.yaml", "--data.path", "other.csv", "--ckpt_path", run, "--data.label=-1", *steps
        )
    state = torch.load(max(tmp_path.rglob("last.ckpt"), key=lambda path: path.stat().st_mtime_ns))["Table"]
    assert [column["name"] for column in state["format"]] == ["weight", "size"] and state["label"] == "kind"


def test_a_conditional_model_names_the_rows_without_a_label(tmp_path):
    rows = PEOPLE.assign(kind=[None if i in (3, 7) else kind for i, kind in enumerate(PEOPLE["kind"])])
    rows.to_csv(tmp_path / "rows.csv", index=False)
    data = Table(str(tmp_path / "rows.csv"), label="kind", batch_size=50)
    said = r"conditional: 2 rows have no label \(line 5, line 9\), .* leave them out, or take a model that needs few"
    with pytest.raises(ConfigurationError, match=said):
        trainer(tmp_path, max_steps=1).fit(vae(conditional=True), data)
    memory = Arrays.of(GENERATOR.normal(size=(20, 2)), np.arange(20) % 3 - 1)
    with pytest.raises(ConfigurationError, match=r"conditional: 7 rows have no label \(row 0 \(\w+\), row 3"):
        trainer(tmp_path, max_steps=1).fit(vae(GaussianDecoder, conditional=True), memory)


def test_labels_by_name(people, tmp_path, command):
    data = Table(str(people / "people.csv"), label="kind", batch_size=50)
    run = trainer(tmp_path, max_steps=1)
    run.fit(vae(conditional=True), data)
    run.save_checkpoint(tmp_path / "some.ckpt")
    trained = Trained(tmp_path / "some.ckpt")
    assert trained.read(PEOPLE).y.tolist() == [["cat", "dog"].index(kind) for kind in PEOPLE["kind"]]
    drawn = trained.sample(4, labels=["dog", "cat"])
    assert drawn["kind"].tolist() == ["dog", "cat", "dog", "cat"]
    of = ("--ckpt_path", tmp_path / "some.ckpt", "--output", tmp_path / "drawn.csv")
    command("sample", *of, "--n", 4, "--labels", "dog", "cat")
    written = pd.read_csv(tmp_path / "drawn.csv")
    assert list(written) == list(drawn) and written["kind"].tolist() == drawn["kind"].tolist()
    assert np.allclose(written["height"], drawn["height"].astype(float))
