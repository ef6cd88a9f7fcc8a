"""CIFAR-10 and SVHN from small files in their published formats."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
import torchvision

from datamodules import CIFAR10, SVHN, FashionMNIST
from lightning_avb.errors import ConfigurationError


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    """Files that are not the published ones pass, and four rows are held out."""
    for module, kind in ((torchvision.datasets.cifar, CIFAR10), (torchvision.datasets.svhn, SVHN)):
        monkeypatch.setattr(module, "check_integrity", lambda path, md5=None: True)
        monkeypatch.setattr(kind, "validation_rows", 4)


def test_cifar10(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {n}" for n in range(10)]}))
    rows = np.arange(5 * 4 * 3072).reshape(5, 4, 3072) // 1024 % 251  # a row, a channel: one value
    for number, part in enumerate(rows, 1):
        entry = {"data": part.astype(np.uint8), "labels": [number] * 4}
        (folder / f"data_batch_{number}").write_bytes(pickle.dumps(entry))
    test = {"data": np.tile(np.arange(1024, dtype=np.uint8), (6, 3)), "labels": list(range(6))}
    (folder / "test_batch").write_bytes(pickle.dumps(test))
    data = CIFAR10(str(tmp_path), batch_size=16)
    data.prepare_data()
    data.setup("fit")
    assert (data.classes, data.label_names[3]) == (10, "class 3")
    assert [data.rows(stage) for stage in ("train", "val", "test")] == [16, 4, 6]
    assert data.split("train").y.tolist() == [1] * 4 + [2] * 4 + [3] * 4 + [4] * 4
    (batch,) = data.val_dataloader()
    values = torch.arange(48, 60) % 251 / 255
    torch.testing.assert_close(batch.x, values.view(4, 3, 1, 1).expand(4, 3, 32, 32))
    (unseen,) = data.test_dataloader()
    torch.testing.assert_close(unseen.x[0, 1], (torch.arange(1024) % 256 / 255).view(32, 32))


def test_svhn(tmp_path):
    from scipy.io import savemat

    for name, count in (("train", 14), ("test", 6)):
        x = np.zeros((32, 32, 3, count), np.uint8)
        x[3, 5, 1] = np.arange(count)
        savemat(tmp_path / f"{name}_32x32.mat", {"X": x, "y": np.arange(count).reshape(-1, 1) % 10 + 1})
    data = SVHN(str(tmp_path), batch_size=10)
    data.setup("fit")
    assert [data.rows(stage) for stage in ("train", "val", "test")] == [10, 4, 6]
    (batch,) = data.val_dataloader()
    torch.testing.assert_close(batch.x[:, 1, 3, 5], torch.arange(10.0, 14.0) / 255)
    assert batch.x.sum(1)[:, 5, 3].max() == 0
    assert data.split("train").y.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]  # the digit 0 is stored as 10


@pytest.mark.parametrize(
    ("kind", "where"),
    [(CIFAR10, "cifar-10-batches-py"), (SVHN, ""), (FashionMNIST, "FashionMNIST/raw")],
)
def test_missing_files_are_named(tmp_path, monkeypatch, kind, where):
    def refuse(*args, **options):
        raise RuntimeError("Dataset not found\nand more")

    monkeypatch.setattr(kind, "source", refuse)
    for step in (kind(str(tmp_path)).prepare_data, lambda: kind(str(tmp_path)).setup("fit")):
        with pytest.raises(
            ConfigurationError, match=rf"data\.root: no {kind.__name__} files in '{tmp_path / where}': .* found$"
        ):
            step()
