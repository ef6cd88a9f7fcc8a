"""DataModules with labels that are hidden, and with two streams: which rows are shown, and in what order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_data import place, same
from test_data_arrays import write
from test_data_pictures import folder

from datamodules import (
    CIFAR10,
    MNIST,
    SVHN,
    Arrays,
    CelebA,
    Digits,
    FashionMNIST,
    ImageFolder,
    Olivetti,
    Split,
    Table,
    TensorDataModule,
)
from datamodules.labels import keep_labels
from lightning_avb.errors import ConfigurationError


class Classes(TensorDataModule):
    """300 rows of bytes: 240 to train on, in an order of their own in memory, 30 of them without a label.

    Of the four classes there are as many labels as `counts` says.
    """

    max_value = 255.0
    classes = 4
    counts = (80, 60, 40, 30)

    def __init__(self, batch_size=32, binarize="none", resident=None, labels=None, labelled_per_batch=0):
        super().__init__(
            batch_size,
            eval_batch_size=50,
            binarize=binarize,
            resident=resident,
            labels=labels,
            labelled_per_batch=labelled_per_batch,
        )

    def load(self):
        generator = torch.Generator().manual_seed(3)
        x = torch.randint(256, (300, 2, 3), generator=generator, dtype=torch.uint8)
        order = torch.randperm(300, generator=generator)
        rows = {"train": order[:240], "val": order[240:270], "test": order[270:]}
        y = torch.arange(300) % 4
        known = torch.arange(4).repeat_interleave(torch.tensor(self.counts))
        y[rows["train"]] = torch.cat([known, torch.full((240 - len(known),), -1)])
        return {stage: Split(x, y, its) for stage, its in rows.items()}


def train(data):
    """The batches of an epoch."""
    return list(data.train_dataloader())


@pytest.mark.parametrize("labels", [4, 6, 40, 103, 120])
def test_so_many_rows_keep_their_label_as_evenly_as_can_be(labels):
    data, whole = place(Classes(labels=labels)), Classes()
    y, truth = data.split("train").y, whole.split("train").y
    shown = y >= 0
    assert shown.sum() == labels
    assert torch.equal(y[shown], truth[shown])
    assert (y[~shown] == -1).all()
    counts = y[shown].bincount(minlength=4)
    assert counts.max() - counts.min() == (labels % 4 > 0)
    for stage in ("val", "test"):
        assert torch.equal(data.split(stage).y, whole.split(stage).y)
        assert (data.split(stage).y >= 0).all()


def test_what_is_left_over_goes_to_classes_that_still_have_rows():
    assert Classes(labels=122).split("train").y.add(1).bincount().tolist() == [118, 31, 31, 30, 30]


def test_the_seed_draws_the_labels_and_more_of_them_contain_the_fewer(monkeypatch):
    def shown(labels, resident=None):
        return set((Classes(labels=labels, resident=resident).split("train").y >= 0).nonzero()[:, 0].tolist())

    few = shown(40)
    assert few == shown(40, resident=False) < shown(41) < shown(120)
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    assert len(few & shown(40)) < 20  # 40 * 40 / 210 = 7.6 on average, with a standard deviation of 2.3


def test_every_row_of_a_class_is_equally_likely(monkeypatch):
    data, drawn = Classes(), torch.zeros(240)
    y = data.split("train").y
    for seed in range(400):
        monkeypatch.setenv("PL_GLOBAL_SEED", str(seed))
        drawn += keep_labels(y, 20, data.classes) >= 0
    for part, count in zip(drawn[:210].split(Classes.counts), Classes.counts, strict=True):
        p = 5 / count
        chi_squared = (part - 400 * p).square().sum() / (400 * p * (1 - p))
        assert chi_squared < count + 5 * (2 * count) ** 0.5
    assert drawn[210:].sum() == 0


def test_in_one_stream_known_labels_are_shown():
    data = place(Classes(labels=40))
    y = data.split("train").y
    for batch, plain in zip(train(data), train(place(Classes())), strict=True):
        assert torch.equal(batch.index, plain.index)
        assert torch.equal(batch.x, plain.x)
        assert torch.equal(batch.y, y[batch.index])


@pytest.mark.parametrize("labels", [40, None])
def test_labelled_rows_come_first_and_all_rows_follow_in_their_usual_order(labels):
    data = place(Classes(labels=labels, labelled_per_batch=12), epoch=3)
    split, truth = data.split("train"), Classes().split("train").y
    for batch, plain in zip(train(data), train(place(Classes(), epoch=3)), strict=True):
        assert [len(column) for column in batch] == [44, 44, 44]
        assert torch.equal(batch.y[:12], truth[batch.index[:12]])
        assert (split.y[batch.index[:12]] >= 0).all()
        assert torch.equal(batch.index[12:], plain.index)
        assert torch.equal(batch.x[12:], plain.x)
        assert (batch.y[12:] == -1).all()
        assert torch.equal(batch.x, split.x[batch.index] / 255)


@pytest.mark.parametrize("size", [12, 40])
def test_labelled_rows_are_one_permutation_after_the_other_over_all_epochs(size):
    data = Classes(labels=40, labelled_per_batch=size)
    seen = torch.cat([batch.index[:size] for epoch in range(10) for batch in train(place(data, epoch=epoch))])
    rounds = seen[: len(seen) // 40 * 40].view(-1, 40)
    assert len(rounds) >= 21
    labelled = (data.split("train").y >= 0).nonzero()[:, 0]
    assert torch.equal(rounds.sort()[0], labelled.expand(len(rounds), 40))
    assert len(rounds.unique(dim=0)) == len(rounds)  # fresh ones


@pytest.mark.parametrize("binarize", ["none", "dynamic", "static"])
@pytest.mark.parametrize("resident", [True, False])
def test_resuming_in_the_middle_of_an_epoch(binarize, resident):
    options = {"binarize": binarize, "resident": resident, "labels": 40, "labelled_per_batch": 12}
    whole, rest = (train(place(Classes(**options), epoch=2, done=done)) for done in (0, 3))
    assert len(whole) == 7
    assert all(same(*pair) for pair in zip(whole[3:], rest, strict=True))
    assert not train(place(Classes(**options), epoch=2, done=7))


def test_another_seed_another_order(monkeypatch):
    data = Classes(labelled_per_batch=12)
    first, again = train(place(data)), train(place(data))
    assert all(same(*pair) for pair in zip(first, again, strict=True))
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    for part in (slice(12), slice(12, None)):
        assert not torch.equal(train(place(data))[0].index[part], first[0].index[part])


def test_ranks_share_both_streams():
    one = train(place(Classes(32, labels=40, labelled_per_batch=12), epoch=1))
    ranks = [train(place(Classes(16, labels=40, labelled_per_batch=6), rank, 2, epoch=1)) for rank in (0, 1)]
    for joined, first, second in zip(one, *ranks, strict=True):
        for ours, parts in ((slice(12), slice(6)), (slice(12, None), slice(6, None))):
            assert torch.equal(joined.index[ours], torch.cat([first.index[parts], second.index[parts]]))
            assert torch.equal(joined.y[ours], torch.cat([first.y[parts], second.y[parts]]))


def test_a_batch_that_is_all_rows_keeps_its_labelled_ones():
    data = place(Classes(1000, labels=40, labelled_per_batch=12), epoch=1)
    (batch,) = train(data)
    (plain,) = train(place(Classes(240), epoch=1))
    assert len(batch.x) == 12 + 240 and (batch.y[:12] >= 0).all() and (batch.y[12:] == -1).all()
    assert torch.equal(batch.index[12:], plain.index)
    ranks = [train(place(Classes(1000, labels=40, labelled_per_batch=6), rank, 2, epoch=1)) for rank in (0, 1)]
    for ours, part in ((slice(12), slice(6)), (slice(12, None), slice(6, None))):
        assert torch.equal(batch.index[ours], torch.cat([batches[0].index[part] for batches in ranks]))
    seen = torch.cat([train(place(data, epoch=epoch))[0].index[:12] for epoch in range(10)])
    assert len(seen[:40].unique()) == len(seen[40:80].unique()) == 40


def test_ranks_may_need_more_labelled_rows_than_there_are():
    """10 for each of three ranks, out of 12: they begin the next permutation."""
    ranks = [train(place(Classes(16, labels=12, labelled_per_batch=10), rank, 3)) for rank in range(3)]
    seen = torch.cat([batch.index[:10] for batches in zip(*ranks, strict=True) for batch in batches])
    assert len(seen) == 5 * 30
    assert all(len(part.unique()) == 12 for part in seen.split(12)[:-1])


@pytest.mark.parametrize("binarize", ["none", "dynamic", "static"])
def test_where_the_data_lies_changes_no_bit(binarize):
    kept, read = (
        place(Classes(16, binarize, resident, labels=40, labelled_per_batch=12), 1, 2, 3) for resident in (True, False)
    )
    for loader in ("train_dataloader", "val_dataloader"):
        pairs = list(zip(getattr(kept, loader)(), getattr(read, loader)(), strict=True))
        assert pairs
        assert all(same(*pair) for pair in pairs)


def test_both_streams_are_binarised_anew_each_time():
    data = Classes(binarize="dynamic", labels=40, labelled_per_batch=40)
    x = [torch.cat([batch.x[:40] for batch in train(place(data, epoch=epoch))]) for epoch in (0, 1)]
    assert all(set(part.unique().tolist()) == {0.0, 1.0} for part in x)
    batches = train(place(data))
    twice = [batch.x[:40][batch.index[:40].argsort()] for batch in batches[:2]]  # the same 40 rows
    assert not torch.equal(*twice)
    grey = data.split("train").x[torch.cat([batch.index for batch in batches])] / 255
    bits = torch.cat([batch.x for batch in batches])
    # The variance of a bit is p (1 - p): the sum's standard deviation, over all pixels.
    assert abs(bits.sum() - grey.sum()) < 5 * (grey * (1 - grey)).sum().sqrt()
    # A grey value is the probability of a one: the standard error over 3024 pixels is 0.002.
    assert (bits - 0.5).mul(grey - 0.5).mean().item() == pytest.approx((grey - 0.5).square().mean().item(), abs=0.01)


class Plain(Classes):
    classes = None

    def load(self):
        return {stage: split._replace(y=None) for stage, split in super().load().items()}


class Wrong(Classes):
    """Row 7 has the label `wrong`, in whatever split it is."""

    wrong = 4

    def load(self):
        splits = super().load()
        splits["train"].y[7] = self.wrong  # which all of them share
        return splits


class Full(Classes):
    counts = (60, 60, 60, 60)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (Plain, {"labels": 40}, r"data\.labels: 40, and the data has no labels"),
        (Plain, {"labelled_per_batch": 4}, r"data\.labelled_per_batch: 4 are more than the 0 training rows with a"),
        (Classes, {"labels": 3}, r"data\.labels: 3 are fewer than the 4 classes"),
        (Classes, {"labels": 0}, r"data\.labels: 0 are fewer than the 4 classes"),
        (Classes, {"labels": 211}, r"data\.labels: 211 are more than the 210 training rows with a label"),
        (Classes, {"labels": 124}, r"data\.labels: 124 are 31 of each class, and of 3 there are only 30 training rows"),
        (Classes, {"labels": 40, "labelled_per_batch": 41}, r"data\.labelled_per_batch: 41 are more than the 40 train"),
        (
            Full,
            {"labelled_per_batch": 4},
            r"data\.labelled_per_batch: every training row has a label, so one stream is enough",
        ),
        (Full, {"labels": 240, "labelled_per_batch": 4}, r"data\.labelled_per_batch: every training row has a label"),
        (Classes, {"labels": -1}, r"data\.labels: -1 is below 0"),
        (Classes, {"labelled_per_batch": -1}, r"data\.labelled_per_batch: -1 is below 0"),
        (Wrong, {}, r"data: row 7 \((train|val|test)\) has the label 4; labels are 0 to 3, and -1 where"),
    ],
)
def test_what_cannot_be_is_refused_before_training(kind, options, message):
    with pytest.raises(ConfigurationError, match=message):
        place(kind(**options)).setup("fit")


def test_labels_below_what_stands_for_unknown_are_refused(monkeypatch):
    monkeypatch.setattr(Wrong, "wrong", -2)
    with pytest.raises(ConfigurationError, match=r"row 7 .* has the label -2"):
        Wrong().setup("test")


def test_classes_have_their_names_in_messages():
    data = Classes(labels=124)
    data.label_names = ["ant", "bee", "cat", "dog"]
    with pytest.raises(ConfigurationError, match="of 'dog' there are only 30"):
        data.setup("fit")


def test_it_is_said_how_many_labels_there_are(caplog):
    with caplog.at_level("INFO"):
        Classes(labels=40).setup("fit")
        Full().setup("fit")
    assert [line for line in caplog.messages if "label" in line] == ["data: 40 of 240 training rows have a label"]


@pytest.mark.parametrize("kind", [MNIST, FashionMNIST, CIFAR10, SVHN, CelebA, Digits, Olivetti])
def test_every_data_set_with_labels_has_both_options(kind):
    assert (kind().labels, kind().labelled_per_batch) == (None, 0)
    data = kind(labels=50, labelled_per_batch=20)
    assert (data.labels, data.labelled_per_batch) == (50, 20)
    assert (data.hparams["labels"], data.hparams["labelled_per_batch"]) == (50, 20)


def test_digits_with_few_labels():
    batch = next(iter(Digits(labels=50, labelled_per_batch=50).train_dataloader()))
    assert batch.y[:50].bincount().tolist() == [5] * 10


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "".join(f"{n}.5,{n * n}.5,{('ant', '', 'bee', '')[n % 4]}\n" for n in range(40))),
        ("a.csv", "".join(f"{n}.5,{n * n}.5,{('3', '-1', '10.0', '')[n % 4]}\n" for n in range(40))),
        ("a.npy", np.array([[n + 0.5, n * n, (3, -1, 10, -1)[n % 4]] for n in range(40)])),
        ("a.npz", {"x": np.arange(80.0).reshape(40, 2) ** 2, "y": np.array([3, -1, 10, -1] * 10)}),
    ],
)
def test_rows_of_ones_own_without_a_label(tmp_path, name, content):
    label = "y" if name == "a.npz" else 2
    kind = Table if name == "a.csv" else Arrays
    data = kind(write(tmp_path / name, content), label=label, batch_size=8, labelled_per_batch=2)
    data.setup("fit")
    assert data.load()["train"].y.tolist() == [0, -1, 1, -1] * 10
    assert data.classes == 2
    assert data.label_names == (["ant", "bee"] if "ant" in content else ["3", "10"])
    assert (train(data)[0].y >= 0).tolist() == [True] * 2 + [False] * 8


@pytest.mark.parametrize(("labels", "known"), [((-1, 1), "1"), ((-1, -1), "none")])
def test_a_table_of_minus_ones_and_ones_is_refused(tmp_path, labels, known):
    path = write(tmp_path / "a.npz", {"x": np.arange(80.0).reshape(40, 2), "y": np.array(labels * 20)})
    with pytest.raises(ConfigurationError, match=rf"data\.label: 'y' in .* too few classes: {known}; -1 or an empty"):
        Arrays(path, label="y").setup("fit")


@pytest.mark.parametrize("name", ["unlabelled", "unlabeled"])
@pytest.mark.parametrize("above", ["", "train/"])
def test_a_folder_of_pictures_without_a_label(tmp_path, name, above):
    for label in ("cat", "zebra", name):
        folder(tmp_path / above / label, 10, size=(2, 2))
    data = ImageFolder(str(tmp_path), batch_size=8, labelled_per_batch=4)
    data.setup("fit")
    assert (data.classes, data.label_names) == (2, ["cat", "zebra"])
    y = data.load()["train"].y
    assert y.tolist() == ([0] * 10 + [-1] * 10 + [1] * 10)
    assert (train(data)[0].y >= 0).tolist() == [True] * 4 + [False] * 8


def test_one_class_beside_a_folder_without_a_label_is_none(tmp_path):
    for label in ("cat", "unlabelled"):
        folder(tmp_path / label, 10, size=(2, 2))
    data = ImageFolder(str(tmp_path))
    assert data.split("train").y is data.classes is data.label_names is None
