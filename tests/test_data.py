"""DataModules: splits, order, binarisation, ranks."""

from __future__ import annotations

import gc
import re
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import datamodules
from datamodules import (
    MNIST,
    Digits,
    FashionMNIST,
    FourPoints,
    FreyFaces,
    Olivetti,
    Split,
    StaticMNIST,
    TensorDataModule,
    tensors,
)
from datamodules.loaders import fast_uniform
from datamodules.splits import random_splits
from lightning_avb.errors import ConfigurationError

SHARED = Path(__file__).parents[2] / "shared" / "data"


def place(data, rank=0, processes=1, epoch=0, done=0):
    """Puts a DataModule into a run at some point of it."""
    progress = SimpleNamespace(current=SimpleNamespace(ready=done))
    data.trainer = SimpleNamespace(
        global_rank=rank,
        world_size=processes,
        current_epoch=epoch,
        fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress)),
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )
    return data


def test_digits_splits_are_fixed_and_disjoint():
    splits = Digits().load()
    assert [len(splits[stage].x) for stage in ("train", "val", "test")] == [1297, 250, 250]
    again = Digits().load()
    assert all(torch.equal(splits[stage].x, again[stage].x) for stage in splits)
    labels = torch.cat([split.y for split in splits.values()])
    assert labels.bincount().min() > 150
    batch = next(iter(Digits(50).train_dataloader()))
    assert batch.x.shape == (50, 1, 8, 8)
    assert 0 <= batch.x.min() < batch.x.max() == 1


def test_four_points_are_four_points():
    batch = next(iter(FourPoints().train_dataloader()))
    assert torch.equal(batch.x.unique(dim=0), torch.eye(4).flip(0))
    assert torch.equal(batch.x.argmax(1), batch.y)


def test_an_epoch_has_every_row_at_most_once_in_another_order_each_time():
    orders = [torch.cat([b.index for b in place(Digits(100), epoch=epoch).train_dataloader()]) for epoch in (0, 0, 1)]
    assert len(orders[0].unique()) == len(orders[0]) == 1200
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])


def test_resuming_goes_on_in_the_middle_of_an_epoch():
    whole = list(place(Digits(100, binarize="dynamic"), epoch=2).train_dataloader())
    rest = list(place(Digits(100, binarize="dynamic"), epoch=2, done=5).train_dataloader())
    assert len(rest) == len(whole) - 5
    for a, b in zip(whole[5:], rest, strict=True):
        assert torch.equal(a.index, b.index)
        assert torch.equal(a.x, b.x)


def test_ranks_share_the_batch_of_one_process():
    one = list(place(Digits(100)).train_dataloader())
    parts = [list(place(Digits(50), rank, 2).train_dataloader()) for rank in (0, 1)]
    for joined, first, second in zip(one, *parts, strict=True):
        assert torch.equal(joined.index, torch.cat([first.index, second.index]))


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_evaluation_sees_every_row_once_with_the_same_bits(processes):
    reference = {
        int(i): x for b in Digits(binarize="dynamic").val_dataloader() for i, x in zip(b.index, b.x, strict=True)
    }
    seen = []
    for rank in range(processes):
        data = place(Digits(eval_batch_size=17, binarize="dynamic"), rank, processes)
        for batch in data.val_dataloader():
            seen += batch.index.tolist()
            assert all(torch.equal(x, reference[int(i)]) for i, x in zip(batch.index, batch.x, strict=True))
    assert sorted(seen) == list(range(250))


def test_binarisation():
    grey = next(iter(Digits(1297).train_dataloader()))
    for kind in ("dynamic", "static"):
        epochs = [next(iter(place(Digits(1297, binarize=kind), epoch=e).train_dataloader())) for e in (0, 1)]
        x = [batch.x[batch.index.argsort()] for batch in epochs]
        assert set(x[0].unique().tolist()) == {0.0, 1.0}
        assert torch.equal(x[0], x[1]) == (kind == "static")
        # A grey value is the probability of a one: the standard error of the mean over all pixels is 0.002.
        assert x[0].mean().item() == pytest.approx(grey.x.mean().item(), abs=0.008)
        black, white = grey.x[grey.index.argsort()] == 0, grey.x[grey.index.argsort()] == 1
        assert (x[0][black] == 0).all()
        assert (x[0][white] == 1).all()


def test_fast_uniform_is_uniform():
    u = fast_uniform((1000, 999), torch.Generator().manual_seed(0)).flatten()
    assert 0 < u.min() < 1e-4 < 1 - 1e-4 < u.max() < 1
    counts = torch.histc(u, 50, 0, 1)
    expected = len(u) / 50
    assert ((counts - expected).square() / expected).sum() < 49 + 5 * (2 * 49) ** 0.5  # chi-squared with 49 degrees
    for lag in (1, 2, 3, 4):  # the four numbers of a word, and of neighbouring words, are uncorrelated
        assert torch.corrcoef(torch.stack([u[:-lag], u[lag:]]))[0, 1].abs() < 5 / len(u) ** 0.5


@pytest.mark.parametrize(
    ("asked", "processes", "size"), [(2000, 1, 1297), (1297, 1, 1297), (700, 2, 648), (648, 2, 648), (9, 1297, 1)]
)
def test_a_batch_is_no_larger_than_the_data(asked, processes, size, caplog):
    """Then it is all rows, in an order of the epoch, in equal parts for the processes."""
    ranks = [place(Digits(asked), rank, processes, epoch=3) for rank in range(min(processes, 2))]
    with caplog.at_level("INFO"):
        ranks[0].setup("fit")
    said = f"data.batch_size: {size:,} in place of {asked:,}, of 1,297 training rows"
    assert [line for line in caplog.messages if "batch_size" in line] == [said] * (size < asked)
    batches = [list(data.train_dataloader()) for data in ranks]
    assert all([len(batch.x) for batch in part] == [size] for part in batches)
    (order,) = place(Digits(processes * size), epoch=3).train_dataloader()
    joined = torch.cat([part[0].index for part in batches])
    assert torch.equal(joined, order.index[: len(joined)])
    assert not list(place(Digits(asked), 0, processes, epoch=3, done=1).train_dataloader())


def test_fewer_rows_than_processes_are_refused():
    with pytest.raises(ConfigurationError, match="data: 1297 training rows are fewer than the 1298 processes"):
        place(Digits(1), 0, 1298).setup("fit")


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"eval_batch_size": 0}, {"binarize": "twice"}])
def test_values_that_make_no_sense_are_named(options):
    with pytest.raises(ConfigurationError, match=f"data.{next(iter(options))}"):
        Digits(**options)


def test_a_missing_folder_is_named(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(MNIST, "source", type("MNIST", (), {"__init__": refuse}))
    with pytest.raises(ConfigurationError, match=r"data\.root: no MNIST files in .*no network"):
        MNIST(root=str(tmp_path)).prepare_data()


@pytest.mark.skipif(not (SHARED / "MNIST").exists(), reason="the MNIST files are not at hand")
def test_mnist_in_place():
    data = MNIST(root=str(SHARED), batch_size=250, binarize="dynamic")
    data.prepare_data()
    batch = next(iter(data.train_dataloader()))
    assert batch.x.shape == (250, 1, 28, 28)
    assert set(batch.x.unique().tolist()) == {0.0, 1.0}
    sizes = {stage: len(data.split(stage).x) for stage in ("train", "val", "test")}
    assert sizes == {"train": 50000, "val": 10000, "test": 10000}


@pytest.mark.skipif(not (SHARED / "static_mnist").exists(), reason="the file of the static MNIST is not at hand")
def test_static_mnist_in_place():
    data = StaticMNIST(str(SHARED), batch_size=1000)
    assert [data.rows(stage) for stage in ("train", "val", "test")] == [50000, 10000, 10000]
    batch = next(iter(data.test_dataloader()))
    assert batch.x.shape == (500, 1, 28, 28)
    assert batch.y is None
    assert set(batch.x.unique().tolist()) == {0.0, 1.0}
    if (SHARED / "MNIST").exists():  # a grey value is the probability of a one: the standard error is at most 0.005
        grey = MNIST(str(SHARED)).split("test").x / 255
        assert (data.split("test").x.float().mean(0) - grey.mean(0)).abs().max() < 0.025


@pytest.mark.skipif(not (SHARED / "frey_faces").exists(), reason="the file of the Frey faces is not at hand")
def test_frey_faces_in_place():
    splits = FreyFaces(str(SHARED)).load()
    rows = {stage: split.rows for stage, split in splits.items()}
    assert {stage: len(its) for stage, its in rows.items()} == {"train": 1565, "val": 200, "test": 200}
    assert torch.equal(torch.cat(list(rows.values())).sort()[0], torch.arange(1965))
    near = (rows["test"].unsqueeze(1) - rows["train"]).abs().min(1)[0]
    assert near.float().mean() > 10  # frames from the next one that was trained on; 1.1 if rows were drawn one by one
    batch = next(iter(FreyFaces(str(SHARED)).val_dataloader()))
    assert batch.x.shape == (200, 1, 28, 20)
    assert 0 <= batch.x.min() < 0.1 < 0.9 < batch.x.max() <= 1


@pytest.mark.skipif(not (SHARED / "olivetti").exists(), reason="the file of the Olivetti faces is not at hand")
def test_olivetti_in_place():
    data = Olivetti(str(SHARED))
    rows = torch.cat([split.rows for split in data.load().values()])
    assert torch.equal(rows.sort()[0], torch.arange(400))
    for stage, count in (("train", 8), ("val", 1), ("test", 1)):
        assert torch.equal(data.split(stage).y.bincount(), torch.full((40,), count))
    assert data.split("val").x.shape == (40, 1, 64, 64)


@pytest.mark.parametrize("kind", [StaticMNIST, FreyFaces, Olivetti])
def test_a_missing_file_is_named(tmp_path, kind):
    with pytest.raises(ConfigurationError, match=rf"data\.root: there is no file '{tmp_path}/.*npz'; it must hold"):
        kind(root=str(tmp_path)).setup("fit")


class Bytes(TensorDataModule):
    """300 rows of bytes, in an order of their own in memory."""

    max_value = 255.0

    def __init__(self, batch_size=32, eval_batch_size=50, binarize="none", resident=None):
        super().__init__(batch_size, eval_batch_size=eval_batch_size, binarize=binarize, resident=resident)

    def load(self):
        generator = torch.Generator().manual_seed(3)
        x = torch.randint(256, (300, 2, 3), generator=generator, dtype=torch.uint8)
        parts = random_splits(torch.arange(300), 1, val=0.3, test=0.1)
        return {stage: Split(x, torch.arange(300), rows) for stage, rows in parts.items()}


def same(ours, theirs):
    """Whether two batches are, bit for bit."""
    return all(a is b is None or torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("binarize", ["none", "dynamic", "static"])
def test_where_the_data_lies_changes_no_bit(binarize):
    for rank, processes, epoch, done in ((0, 1, 0, 0), (1, 2, 3, 1)):
        kept, read = (
            place(Bytes(binarize=binarize, resident=resident), rank, processes, epoch, done)
            for resident in (True, False)
        )
        for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
            pairs = list(zip(getattr(kept, loader)(), getattr(read, loader)(), strict=True))
            assert pairs
            assert all(same(*pair) for pair in pairs)
        assert kept.split("train").rows is None
        assert len(read.split("train").x) == 300  # nothing was copied


@pytest.mark.parametrize("resident", [True, False])
def test_rows_of_a_split_are_those_that_load_names(resident):
    data = Bytes(resident=resident)
    whole = data.load()["val"]
    seen = list(data.val_dataloader())
    assert torch.equal(torch.cat([batch.y for batch in seen]), whole.rows)
    assert torch.equal(torch.cat([batch.x for batch in seen]), whole.x[whole.rows] / 255)
    assert data.rows("val") == 90
    assert data.data_shape == (2, 3)


def test_nothing_is_said_about_data_that_is_none(caplog):
    with caplog.at_level("INFO"):
        datamodules.NoData().setup("fit")
        assert not caplog.messages
        Digits().setup("fit")
    assert len(caplog.messages) == 1


def test_memory_decides_where_the_data_lies(monkeypatch, caplog):
    needed = 300 * 6
    for free, processes, kept in ((2 * needed, 1, True), (2 * needed - 2, 1, False), (2 * needed, 2, False)):
        monkeypatch.setattr(tensors, "free_memory", lambda device, free=free: float(free))
        data = place(Bytes(), 0, processes)
        with caplog.at_level("INFO"):
            data.setup("validate")
        assert (data.split("val").rows is None) == kept
        assert ("kept on cpu" if kept else "read batch by batch") in caplog.messages[-1]


def test_free_memory():
    assert tensors.free_memory(torch.device("cpu")) > 2**26


def test_leaving_an_epoch_early_leaves_no_thread():
    before = threading.active_count()
    for batch in Bytes(resident=False).train_dataloader():
        assert len(batch.x) == 32
        break
    gc.collect()
    assert threading.active_count() == before


def test_shares_are_cut_off_at_random_and_fixed():
    parts = random_splits(torch.arange(100, 1100), 0, test=0.2, val=0.1)
    assert {name: len(part) for name, part in parts.items()} == {"test": 200, "val": 100, "train": 700}
    assert torch.equal(torch.cat(list(parts.values())).sort()[0], torch.arange(100, 1100))
    again, other = (
        random_splits(torch.arange(100, 1100), 0, test=0.2, val=0.3),
        random_splits(torch.arange(100, 1100), 1, test=0.2, val=0.1),
    )
    assert torch.equal(parts["test"], again["test"])  # does not depend on the share of the others
    assert not torch.equal(parts["test"].sort()[0], other["test"].sort()[0])
    assert parts["test"].double().mean() == pytest.approx(599.5, abs=5 * 289 / 200**0.5)


@pytest.mark.parametrize(
    ("seed", "shares", "message"),
    [
        (0, {"val": 0.0}, r"data\.val_share: 0\.0 is no share above 0 and below 1"),
        (0, {"test": 1.5}, r"data\.test_share: 1\.5"),
        (0, {"val": 0.5, "test": 0.5}, "data.val_share: 0.5 and data.test_share: 0.5 leave none of 10 rows"),
        (-1, {}, r"data\.split_seed: -1"),
    ],
)
def test_shares_that_make_no_sense_are_named(seed, shares, message):
    with pytest.raises(ConfigurationError, match=message):
        random_splits(torch.arange(10), seed, **shares)


def test_hyper_parameters_make_the_same_data_again():
    for data in (FourPoints(copies=7), Bytes(resident=False), MNIST(Path("somewhere"))):
        arguments = dict(data.hparams)
        cls = arguments.pop("_class_path")
        assert cls == f"{type(data).__module__}.{type(data).__qualname__}"
        assert dict(type(data)(**arguments).hparams) == dict(data.hparams)
        assert all(value is None or type(value) in (bool, int, float, str) for value in arguments.values())


def test_labels_that_are_not_those_of_the_checkpoint_are_refused():
    data = Bytes()
    data.label_names = ["cat", "dog"]
    stored = data.state_dict()
    assert stored == {"label_names": ["cat", "dog"]}
    other = Bytes()
    other.load_state_dict(stored)
    assert other.label_names == ["cat", "dog"]
    other.label_names = ["cat", "emu"]
    with pytest.raises(ConfigurationError, match=r"label names are \['cat', 'emu'\], those of the checkpoint"):
        other.setup("validate")


def test_a_new_data_set_is_a_small_class():
    class Coins(TensorDataModule):
        def load(self):
            return {stage: Split(torch.randint(2, (20, 3))) for stage in ("train", "val", "test")}

    data = Coins(10)
    batch = next(iter(data.train_dataloader()))
    assert batch.x.shape == (10, 3)
    assert batch.y is None
    assert data.data_shape == (3,)
    assert data.classes is data.columns is None
    assert data.log_jacobian == 0
    assert torch.equal(data.restore(batch.x), batch.x)


def test_the_example_of_the_documentation(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[1] / "docs" / "own_data.md").read_text(), re.S)
    names = {"__name__": __name__}
    exec(code, names)
    recordings = torch.rand(20, 16)
    for number, recording in enumerate(recordings):
        np.save(tmp_path / f"{number:02}.npy", recording.numpy())
    data = names["Recordings"](str(tmp_path), batch_size=16)
    data.setup("fit")
    (batch,) = data.train_dataloader()
    assert torch.equal(batch.x, recordings[data.load()["train"].rows[batch.index]])
    assert data.data_shape == (16,)
    with pytest.raises(ConfigurationError, match=r"data\.root: no \.npy files in"):
        names["Recordings"](str(tmp_path / "none")).setup("fit")


def test_numbers_of_classes():
    assert [kind.classes for kind in (FourPoints, Digits, MNIST, FashionMNIST, StaticMNIST)] == [4, 10, 10, 10, None]


def test_everything_is_exported():
    assert all(hasattr(datamodules, name) for name in datamodules.__all__)
