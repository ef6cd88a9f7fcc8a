"""Loaders of a user's own: what is a batch, and rows that come without their index."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from autoencoders import Given, blobs
from forked import finish, free_port, said, start, torchrun_environment
from small_models import MODELS, trainer
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lightning_avb import VAE, Batch, GaussianDecoder, lightning_private
from lightning_avb.errors import ConfigurationError
from lightning_avb.reports import Likelihood

X = torch.randn(22, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(22) % 3
COUNT = "data: rows without an index are numbered as the loader gives them, and figures depend on that order"


class Rows(Dataset):
    """One row at a time, as `form` makes it from its number."""

    def __init__(self, form):
        self.form = form

    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        return self.form(i)


FORMS = {
    "x": X,
    "(x,)": TensorDataset(X),
    "(x,) in double precision": TensorDataset(X.double()),
    "(x, y)": TensorDataset(X, Y),
    "(x, number)": Rows(lambda i: (X[i], int(Y[i]))),
    "dict": Rows(lambda i: {"x": X[i], "y": Y[i]}),
    "dict of x": Rows(lambda i: {"x": X[i]}),
}
WITH_INDEX = TensorDataset(X, Y, torch.arange(22))


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch):
    monkeypatch.setattr(lightning_private, "TOLD", type(lightning_private.TOLD)())


def gaussian():
    return VAE(2, decoder=GaussianDecoder, data_shape=(4,))


def all_rows(predictions, name):
    return torch.cat([part[name] for part in predictions])


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_trained_validated_tested_and_predicted(tmp_path, caplog, form):
    """With the same figures as where the rows have an index."""
    ends = []
    for rows in (FORMS[form], WITH_INDEX):
        pl.seed_everything(0)
        model, run = gaussian(), trainer(tmp_path, max_steps=6)
        train, plain = DataLoader(rows, 4, shuffle=True), DataLoader(rows, 5)
        with caplog.at_level("INFO"):
            run.fit(model, train, plain)
        val = run.callback_metrics["val/elbo"]
        tested = [run.test(model, DataLoader(rows, size), verbose=False)[0]["test/elbo"] for size in (5, 7)]
        predicted = run.predict(model, plain)
        ends.append((val, *tested, all_rows(predicted, "z")))
        assert torch.equal(all_rows(predicted, "index"), torch.arange(22))
        assert tested[0] == pytest.approx(tested[1], rel=1e-5)
    for ours, theirs in zip(*ends, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert [line for line in caplog.messages if "index" in line] == [COUNT]


def test_nothing_is_said_where_there_is_an_index(tmp_path, caplog):
    with caplog.at_level("INFO"):
        trainer(tmp_path).test(gaussian(), DataLoader(WITH_INDEX, 5), verbose=False)
    assert not [line for line in caplog.messages if "index" in line]


@pytest.mark.filterwarnings("ignore:Your `predict_dataloader`")
def test_a_loader_that_shuffles_is_told_of(tmp_path, caplog):
    with caplog.at_level("INFO"):
        predicted = trainer(tmp_path).predict(gaussian(), DataLoader(X, 5, shuffle=True))
    assert torch.equal(all_rows(predicted, "index"), torch.arange(22))
    (line,) = [line for line in caplog.messages if "index" in line]
    assert line == f"{COUNT}; it shuffles, so figures change from pass to pass, and predictions are in no known order"


def test_every_loader_is_numbered_from_0(tmp_path):
    loaders = [DataLoader(X[:12], 5), DataLoader(X[12:], 5), DataLoader(WITH_INDEX, 8)]
    for predicted, rows in zip(trainer(tmp_path).predict(gaussian(), loaders), (12, 10, 22), strict=True):
        assert torch.equal(all_rows(predicted, "index"), torch.arange(rows))


def test_the_likelihood_of_plain_rows(tmp_path):
    first = trainer(tmp_path)
    first.strategy.connect(gaussian())
    first.save_checkpoint(tmp_path / "some.ckpt")
    found = []
    for rows in (DataLoader(X, 5), DataLoader(WITH_INDEX, 7)):
        report = Likelihood(["importance"], rows=20, samples=20)
        run = trainer(tmp_path, callbacks=[report])
        run.test(gaussian(), rows, ckpt_path=tmp_path / "some.ckpt", verbose=False)
        found.append({figure.name: figure.value for figure in report.figures if figure.rows == 20})
    assert {"importance", "elbo"} <= found[0].keys()
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_clusters_read_the_validation_rows_before_the_test(tmp_path):
    """Which takes no numbers away from those of the test."""

    class Plain(Given):
        def _loader(self, batches):
            return DataLoader([(batch.x.gt(1).float(), batch.y) for batch in batches], batch_size=None)

    see = See()
    trainer(tmp_path, callbacks=[see]).test(MODELS["aae_clusters"](), Plain([blobs(20)]), verbose=False)
    assert torch.equal(see.batches[0].index, torch.arange(20))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"image": X}, "a batch has the keys image; x, y, index are known"),
        ({"x": X, "path": "a"}, "a batch has the keys x, path; x, y, index are known"),
        ((X, Y, Y, Y), r"must be \(x,\), .* or a dict of them; this one is a tuple"),
        ("text", "this one is a str"),
    ],
)
def test_what_is_no_batch_is_refused(given, message):
    with pytest.raises(ConfigurationError, match=f"^data: .*{message}"):
        Batch.of(given)


class See(pl.Callback):
    """Keeps the batches of a test."""

    def __init__(self):
        self.batches = []

    def on_test_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        self.batches.append(batch)


def rows_of_a_rank() -> None:
    see = See()
    run = trainer(Path(), devices=3, strategy="ddp", inference_mode=False, callbacks=[see])
    run.test(gaussian(), DataLoader(TensorDataset(X), 4), verbose=False)
    rows = [(index.item(), x.tolist()) for batch in see.batches for x, index in zip(batch.x, batch.index, strict=True)]
    Path(f"rank_{run.global_rank}.json").write_text(json.dumps(rows))


def test_the_numbers_of_several_processes_are_those_of_the_data(tmp_path):
    """22 rows do not divide among 3: the two that Lightning repeats have numbers of their own."""
    port = free_port()
    environments = [torchrun_environment(rank, 3, port) for rank in range(3)]
    assert finish(start(rows_of_a_rank, tmp_path, environments)) == [0] * 3, said(tmp_path)
    found = dict(row for rank in range(3) for row in json.loads((tmp_path / f"rank_{rank}.json").read_text()))
    assert sorted(found) == list(range(24))
    torch.testing.assert_close(torch.tensor([found[index] for index in range(22)]), X)
    assert "a sampler of several processes may repeat rows, which then count twice" in said(tmp_path)
