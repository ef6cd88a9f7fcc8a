"""Arrays: what files hold, errors with their place, standardisation."""

from __future__ import annotations

import os

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from test_data import place, same
from torch.distributions import MultivariateNormal

from datamodules import Arrays, Table
from datamodules.labels import encode_labels
from datamodules.mapping import map_array
from lightning_avb import checkpoints
from lightning_avb.errors import ConfigurationError

MEAN = torch.tensor([-3.0, 1000.0, 0.02], dtype=torch.float64)
FACTOR = torch.tensor([[0.1, 0, 0], [20.0, 30.0, 0], [0.001, -0.004, 0.002]], dtype=torch.float64)


def gaussian():
    return MultivariateNormal(MEAN, scale_tril=FACTOR)


@pytest.fixture
def table(tmp_path):
    """A `.npz` file of 400 rows of a Gaussian with a label, and its numbers."""
    rows = gaussian().sample((400,))
    path = tmp_path / "table.npz"
    np.savez(path, x=rows.numpy(), kind=np.array(["dog" if n % 4 else "cat" for n in range(400)]))
    return path, rows


def test_an_array_of_numbers(table):
    path, rows = table
    data = Arrays(str(path), label="kind", batch_size=40)
    data.setup("fit")
    assert data.data_shape == (3,)
    assert (data.classes, data.label_names) == (2, ["cat", "dog"])
    assert [data.rows(stage) for stage in ("train", "val", "test")] == [320, 40, 40]
    (batch,) = data.test_dataloader()
    its = data.load()["test"].rows
    assert torch.equal(batch.y, (its % 4 > 0).long())
    torch.testing.assert_close(data.restore(batch.x), rows[its].float())


def test_columns_are_standardised_by_the_training_rows(table, float64):
    data = Arrays(str(table[0]), label="kind")
    x, rows = data.split("train").x, data.load()["train"].rows
    torch.testing.assert_close(x.mean(0), torch.zeros(3), atol=1e-9, rtol=0)
    torch.testing.assert_close(x.square().mean(0), torch.ones(3))
    torch.testing.assert_close(data.std, table[1][rows].std(0, correction=0))
    assert data.split("val").x.mean(0).abs().min() > 1e-3


def test_densities_are_in_the_original_units(table, float64):
    """The density of the standardised rows, plus `log_jacobian`, is the density of the rows of the file."""
    data = Arrays(str(table[0]), label="kind")
    (batch,) = data.test_dataloader()
    standardised = MultivariateNormal((MEAN - data.mean) / data.std, scale_tril=FACTOR / data.std.unsqueeze(1))
    truth = gaussian().log_prob(table[1][data.load()["test"].rows])
    torch.testing.assert_close(standardised.log_prob(batch.x) + data.log_jacobian, truth, rtol=1e-9, atol=1e-9)
    assert abs(data.log_jacobian) > 1


def test_a_checkpoint_alone_restores_rows(table, tmp_path):
    data = Arrays(str(table[0]), label="kind", batch_size=40)

    class Mean(pl.LightningModule):
        def training_step(self, batch, batch_idx):
            return (self.layer(batch.x) ** 2).mean()

        def configure_optimizers(self):
            self.layer = torch.nn.Linear(3, 1)
            return torch.optim.SGD(self.layer.parameters(), lr=0.1)

    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = pl.Trainer(max_steps=1, default_root_dir=tmp_path, **quiet)
    trainer.fit(Mean(), data)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert torch.equal(checkpoint["Arrays"]["std"], data.std)
    assert checkpoint["datamodule_hyper_parameters"]["label"] == "kind"
    table[0].unlink()
    again = Arrays.load_from_checkpoint(tmp_path / "a.ckpt")
    x = torch.randn(5, 3)
    assert torch.equal(again.restore(x), data.restore(x))
    assert again.log_jacobian == data.log_jacobian
    assert again.label_names == ["cat", "dog"]


@pytest.mark.parametrize("loaded", [False, True])
def test_other_rows_are_standardised_as_the_checkpoint_says(table, tmp_path, loaded):
    stored = Arrays(str(table[0]), label="kind")
    stored.setup("test")
    np.save(tmp_path / "other.npy", 7 + 3 * table[1].numpy())
    other = Arrays(str(tmp_path / "other.npy"))
    if loaded:
        other.setup("test")
        assert not torch.equal(other.mean, stored.mean)
    other.load_state_dict({name: value for name, value in stored.state_dict().items() if name in ("mean", "std")})
    (batch,) = other.test_dataloader()
    rows = torch.from_numpy(np.load(tmp_path / "other.npy"))[other.load()["test"].rows]
    torch.testing.assert_close(other.restore(batch.x).double(), rows, rtol=1e-5, atol=1e-5)
    assert other.log_jacobian == stored.log_jacobian
    again = Arrays(str(table[0]), label="kind")
    again.setup("test")
    splits = again._splits
    again.load_state_dict(stored.state_dict())
    assert again._splits is splits  # the same numbers: nothing is loaded anew
    again.label_names = ["cow", "dog"]
    with pytest.raises(ConfigurationError, match=r"label names are \['cow', .*those of the checkpoint \['cat'"):
        again.load_state_dict(stored.state_dict())


def test_arrays_in_memory():
    labels = np.array(["dog" if n % 4 else "cat" for n in range(60)])
    data = Arrays.of(NUMBERS.repeat(3, 0), labels, batch_size=10)
    data.setup("fit")
    assert data.data_shape == (3,) and data.label_names == ["cat", "dog"] and data.hparams["path"] is None
    rows = data.load()["train"].rows
    assert np.allclose(data.to_rows(data.split("train").x), NUMBERS.repeat(3, 0)[rows], atol=1e-3)
    assert Arrays.of(torch.from_numpy(NUMBERS), label=-1, scale="none").load()["train"].y.tolist() == list(range(20))
    for make, message in (
        (lambda: Arrays(NUMBERS), r"data\.path: a ndarray is no file; for an array in memory take Arrays\.of\(array\)"),
        (lambda: Table(pd.DataFrame(NUMBERS)), r"data\.path: a DataFrame is no .* take Table\.of\(frame\)"),
        (lambda: Arrays().setup("fit"), r"data\.path: no file is given; .* Arrays\.of"),
        (lambda: Arrays.of(NUMBERS, labels), r"data: labels of shape \(60,\), not one for each row"),
        (
            lambda: Arrays.of(np.where(NUMBERS == 49, np.nan, NUMBERS)).setup("fit"),
            "data: the array, row 2, col",
        ),
    ):
        with pytest.raises(ConfigurationError, match=message):
            make()


def write(path, content):
    if path.suffix == ".csv":
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    elif path.suffix == ".npy":
        np.save(path, content)
    else:
        np.savez(path, **content)
    return str(path)


NUMBERS = np.arange(60.0).reshape(20, 3) ** 2


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("a.npz", {"x": NUMBERS, "Labels": np.arange(7)}, {"label": "labels"}, r"only x, Labels; did you mean L"),
        ("a.npz", {"rows": NUMBERS, "more": NUMBERS}, {"array": "Row"}, r"arrays rows, more; did you mean rows\?"),
        ("a.npy", np.array([["x", "y"]]), {}, r"row 0, column '0': .*'x'.* is no number"),
        ("a.npy", np.array([[1, "y"]], object), {}, "cannot be read: .*bject"),
        ("a.npy", np.where(NUMBERS == 49, np.nan, NUMBERS), {}, r"row 2, column '1': nan is not finite"),
        ("a.npy", np.full((9, 2, 2), np.inf), {}, r"row 0, column '0, 0': inf is not finite"),
        ("a.npy", np.where([True, True, False], NUMBERS, 7), {}, r"column '2' is 7 in all 16 training rows"),
        ("a.npy", NUMBERS.reshape(5, 3, 4), {}, r"data\.scale: .* values from 0 to 3481 in rows \(3, 4\)"),
        ("a.npy", NUMBERS, {"label": "kind"}, r"data\.label: 'kind' is no column of the array \(20, 3\)"),
        ("a.npy", NUMBERS, {"binarize": "dynamic"}, r"data\.binarize: 'dynamic' needs probabilities"),
        ("a.npy", NUMBERS, {"binarize": "static", "scale": "none"}, r"data\.binarize: .* from 0 to 3481"),
        ("a.npy", np.zeros((0, 3)), {}, "holds no numbers"),
        ("a.npz", {"a": NUMBERS, "b": NUMBERS}, {}, r"data\.array: none is given; .* has the arrays a, b"),
        ("a.npz", {"a": NUMBERS}, {"array": "b"}, r"data\.array: there is no 'b'; .* has the arrays a"),
        ("a.npz", {"x": NUMBERS, "y": np.arange(7)}, {"label": "y"}, r"'y' has shape \(7,\), not one label"),
        ("a.npz", {"x": NUMBERS}, {"label": "y"}, r"data\.label: .* holds no 'y', only x"),
        ("a.npz", {"x": NUMBERS}, {"scale": "half"}, r"data\.scale: 'half' is none of"),
        ("a.npy", NUMBERS, {"label": 3}, r"data\.label: there is no column 3; .*a\.npy' has 3"),
        ("a.npz", {"x": NUMBERS, "y": NUMBERS[:, 0] / 2}, {"label": "y"}, r"data\.label: 'y' in .*a\.npz' has 4\.5"),
        ("a.csv", "1,2", {}, r"data\.path: .*a\.csv' is a table; read it with --data Table"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_place(tmp_path, name, content, options, message):
    path = write(tmp_path / name, content)
    with pytest.raises(ConfigurationError, match=message) as error:
        Arrays(path, **options).setup("fit")
    assert str(error.value).startswith("data.")
    assert name in str(error.value) or not message.startswith("row")


@pytest.mark.parametrize(("name", "content"), [("a.npy", b"no array"), ("a.npz", b"PK\x03\x04")])
def test_files_that_are_not_what_they_are_called(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigurationError, match=rf"data\.path: '{tmp_path}/{name}' cannot be read: "):
        Arrays(str(tmp_path / name)).setup("fit")


def test_other_files_are_named(tmp_path):
    with pytest.raises(ConfigurationError, match=r"data\.path: there is no file '.*a\.npy'"):
        Arrays(str(tmp_path / "a.npy")).setup("fit")
    (tmp_path / "a.xlsx").write_text("")
    with pytest.raises(ConfigurationError, match=r"a\.xlsx' ends in neither \.npy nor \.npz"):
        Arrays(str(tmp_path / "a.xlsx")).setup("fit")


def test_labels_are_numbered_in_sorted_order():
    for labels, expected, names in (
        (["b", "a", "10", "b"], [2, 1, 0, 2], ["10", "a", "b"]),
        (["10", "9", "-2"], [2, 1, 0], ["-2", "9", "10"]),
        ([2.0, 5.0, 2.0], [0, 1, 0], ["2", "5"]),
        (["10", "", "9", "-1"], [1, -1, 0, -1], ["9", "10"]),
        ([5.0, -1.0, 2.0], [1, -1, 0], ["2", "5"]),
        (["b", "", "-1"], [1, -1, 0], ["-1", "b"]),
        (["b", "b"], [0, 0], ["b"]),
    ):
        y, found = encode_labels(labels, "")
        assert (y.tolist(), found) == (expected, names)
        assert y.dtype == torch.int64


BYTES = np.random.default_rng(0).integers(0, 256, (30, 12, 10, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (BYTES, torch.from_numpy(BYTES).permute(0, 3, 1, 2) / 255),
        (BYTES.transpose(0, 3, 1, 2), torch.from_numpy(BYTES).permute(0, 3, 1, 2) / 255),
        (BYTES[..., 0], torch.from_numpy(BYTES[..., :1]).permute(0, 3, 1, 2) / 255),
        (BYTES.reshape(30, 360), torch.from_numpy(BYTES).flatten(1) / 255),
        (BYTES[..., 0] / 255, torch.from_numpy(BYTES[..., :1]).permute(0, 3, 1, 2) / 255),
        ((BYTES / 255).astype(">f4"), torch.from_numpy(BYTES).permute(0, 3, 1, 2) / 255),
        (BYTES > 127, torch.from_numpy(BYTES).permute(0, 3, 1, 2).gt(127).float()),
        ((BYTES > 127).astype(np.uint8), torch.from_numpy(BYTES).permute(0, 3, 1, 2).gt(127).float()),
        (np.asfortranarray(BYTES), torch.from_numpy(BYTES).permute(0, 3, 1, 2) / 255),
    ],
)
def test_arrays_of_pictures(tmp_path, array, expected):
    data = Arrays(write(tmp_path / "a.npy", array), batch_size=5)
    (batch,) = data.test_dataloader()
    torch.testing.assert_close(batch.x, expected[data.load()["test"].rows].float(), rtol=0, atol=1e-7)
    assert data.data_shape == expected.shape[1:]
    assert data.log_jacobian == 0
    assert data.state_dict() == {}


def test_the_user_may_say_how_to_scale(tmp_path):
    path = write(tmp_path / "a.npy", NUMBERS.reshape(10, 3, 2))
    data = Arrays(path, scale="standardize")
    rows = torch.from_numpy(NUMBERS).view(10, 3, 2)[data.load()["train"].rows]
    assert data.split("val").x.shape == (1, 3, 2)
    assert data.log_jacobian == pytest.approx(-rows.std(0, correction=0).log().sum().item())
    plain = Arrays(path, scale="none")
    assert plain.split("train").x.sum() + plain.split("val").x.sum() + plain.split("test").x.sum() == NUMBERS.sum()
    assert plain.data_shape == (3, 2)
    (batch,) = Arrays(write(tmp_path / "b.npy", BYTES), scale="none").test_dataloader()
    assert batch.x.max() > 200


def test_arrays_in_a_npz_file(tmp_path):
    path = write(tmp_path / "a.npz", {"x": BYTES, "y": np.arange(30) % 3 + 5, "table": NUMBERS})
    data = Arrays(path, label="y")
    _, y, _ = data.load()["train"]
    assert (data.classes, data.label_names) == (3, ["5", "6", "7"])
    assert torch.equal(y, torch.arange(30) % 3)
    assert Arrays(path, array="table", label=-1, scale="none").load()["train"].y.tolist() == list(range(20))


@pytest.mark.parametrize("binarize", ["none", "dynamic", "static"])
def test_a_mapped_array_gives_the_same_batches(tmp_path, binarize):
    path = write(tmp_path / "a.npy", BYTES)
    kept, mapped = (place(Arrays(path, batch_size=7, binarize=binarize, resident=where)) for where in (True, False))
    for loader in ("train_dataloader", "val_dataloader"):
        pairs = list(zip(getattr(kept, loader)(), getattr(mapped, loader)(), strict=True))
        assert pairs
        assert all(same(*pair) for pair in pairs)
        assert binarize == "none" or set(pairs[0][0].x.unique().tolist()) == {0.0, 1.0}
    mapped.split("train").x.zero_()
    assert (np.load(path) == BYTES).all()


GAUSSIAN_VAE = """
model:
  class_path: lightning_avb.VAE
  init_args: {latent_dim: 2, decoder: {class_path: lightning_avb.GaussianDecoder}}
trainer: {max_steps: 2, accelerator: cpu, enable_progress_bar: false, enable_model_summary: false}
data:
  class_path: datamodules.CLASS
  init_args: {batch_size: 10}
"""


@pytest.mark.parametrize("kind", ["Arrays", "ImageFolder"])
def test_from_the_command_line(command, table, tmp_path, monkeypatch, kind):
    """Neither the path nor a shape stands in the configuration."""
    monkeypatch.chdir(tmp_path)
    for number in range(20):
        (tmp_path / "pictures").mkdir(exist_ok=True)
        Image.fromarray(BYTES[number]).save(tmp_path / "pictures" / f"{number}.png")
    (tmp_path / "a.yaml").write_text(GAUSSIAN_VAE.replace("CLASS", kind))
    options = ["--data.path", str(table[0]), "--data.label=kind"] if kind == "Arrays" else ["--data.root", "pictures"]
    command("fit", "--config", "a.yaml", *options)
    (last,) = tmp_path.rglob("last.ckpt")
    checkpoint = torch.load(last, weights_only=True)
    assert checkpoint["hyper_parameters"]["data_shape"] == ([3] if kind == "Arrays" else [3, 12, 10])
    assert ("mean" in checkpoint.get(kind, {})) == (kind == "Arrays")
    assert checkpoints.load_data(last).x.shape[1:] == ((3,) if kind == "Arrays" else (3, 12, 10))


# Mapping.


def test_an_array_larger_than_memory_is_mapped(tmp_path):
    rows = 3 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", dtype=np.uint8, shape=(rows, 1 << 20))[-1, -1] = 7
    x = map_array(tmp_path / "x.npy")
    assert x.shape == (rows, 1 << 20) and x[-1, -1] == 7


@pytest.mark.parametrize("order", ["C", "F"])
def test_what_is_written_into_a_mapped_array_does_not_reach_the_file(tmp_path, order):
    written = np.arange(6.0).reshape(2, 3).copy(order)
    np.save(tmp_path / "x.npy", written)
    x = map_array(tmp_path / "x.npy")
    assert np.array_equal(x, written)
    x[0] = -1
    assert np.array_equal(np.load(tmp_path / "x.npy"), written)
