"""DataModules: splits, order, binarisation, ranks."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import datamodules
from datamodules import MNIST, Digits, FourPoints, Split, TensorDataModule
from datamodules.tensors import fast_uniform
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


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(ConfigurationError, match=r"data\.batch_size: 2000 rows are more than the 1297"):
        place(Digits(2000)).setup("fit")
    with pytest.raises(ConfigurationError, match="on each of 2 processes"):
        place(Digits(700), 0, 2).setup("fit")


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


def test_a_new_data_set_is_a_small_class():
    class Coins(TensorDataModule):
        data_shape = (3,)

        def load(self):
            return {stage: Split(torch.randint(2, (20, 3))) for stage in ("train", "val", "test")}

    batch = next(iter(Coins(10).train_dataloader()))
    assert batch.x.shape == (10, 3)
    assert batch.y is None


def test_everything_is_exported():
    assert all(hasattr(datamodules, name) for name in datamodules.__all__)
