"""The table that `lightning-avb test` prints, and what it is made of."""

from __future__ import annotations

import json
import math
import socket
import sys
from functools import partial

import numpy
import pytest
import torch
from games import trainer
from test_cli import CONFIGS
from worlds import LINEAR, LinearGaussian

from datamodules import Arrays
from lightning_avb import VAE, GaussianDecoder, GaussianEncoder, cli
from lightning_avb.errors import ConfigurationError
from lightning_avb.evaluation.metrics import MeanOverRows
from lightning_avb.likelihood import Likelihood, Line, table

ROWS = 1001


def shares(processes):
    """(value, index) of every process, as a sampler deals them out: all of one length, some rows twice."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(ROWS, generator=generator) - 90
    padded = torch.arange(-(-ROWS // processes) * processes) % ROWS
    return values, [(values[padded[rank::processes]], padded[rank::processes]) for rank in range(processes)]


def _one_process(rank, processes, port, folder):
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=processes)
    metric = MeanOverRows()
    value, index = shares(processes)[1][rank]
    for part in torch.arange(len(index)).split(100):
        metric.update(value[part], index[part])
    torch.save(metric.compute(), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_a_row_counts_once_on_any_number_of_processes(tmp_path, processes):
    if processes == 1:
        metric = MeanOverRows()
        metric.update(*shares(1)[1][0])
        found = [metric.compute()]
    else:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        torch.multiprocessing.spawn(_one_process, (processes, port, tmp_path), processes)
        found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(processes)]
    values = shares(processes)[0].double()
    for result in found:
        assert result["n"] == ROWS
        assert abs(result["mean"] - values.mean()) < 1e-9
        assert abs(result["standard_error"] - values.std() / math.sqrt(ROWS)) < 1e-9


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["lightning-avb", *map(str, arguments)])
    cli.main()


QUIET = ("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false")
SHORT = ("--likelihood.samples=500", "--likelihood.chains=4", "--likelihood.steps=60", "--likelihood.simulated=32")


@pytest.fixture(scope="module", params=["vae", "avb_ac"])
def finished(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        config = CONFIGS / "four_points" / f"{request.param}.yaml"
        run(patch, "fit", "--config", config, "--trainer.max_steps=100", *QUIET)
    return folder / "runs" / "four_points" / request.param / "version_0"


def estimates(finished, monkeypatch, capsys, *arguments):
    """What `test` writes beside the checkpoint, by name, and what it prints."""
    monkeypatch.chdir(finished)
    last = finished / "checkpoints" / "last.ckpt"
    run(monkeypatch, "test", "--config", finished / "config.yaml", "--ckpt_path", last, *QUIET, *SHORT, *arguments)
    newest = max((finished / "checkpoints").glob("last.likelihood*.json"), key=lambda path: path.stat().st_mtime_ns)
    return {line["estimate"]: line for line in json.loads(newest.read_text())}, capsys.readouterr().out


def test_all_estimates_agree_on_the_four_points(finished, monkeypatch, capsys):
    every = '--likelihood.estimators=["importance", "annealing", "bidirectional", "quadrature", "parzen"]'
    lines, printed = estimates(finished, monkeypatch, capsys, every, "--likelihood.rows=64")
    truth = lines["quadrature"]["mean"]
    assert -4 < truth < -1.38
    for name in ("importance", "annealing"):
        assert lines[name]["n"] == 64
        # Few chains and temperatures: a lower bound that lacks a few hundredths of a nat.
        assert -0.06 < lines[name]["mean"] - truth < 0.02
        assert "below" in lines[name]["side"]
    assert abs(lines["bidirectional, gap"]["mean"]) < 0.1
    assert 0.4 < lines["annealing, acceptance"]["mean"] < 0.95
    own = lines.get("elbo", lines.get("elbo_estimate"))
    if "elbo" in lines:
        assert own["mean"] < truth
    assert f"{truth - own['mean']:.3f}" in printed and "settings" in printed
    # What the bound is made of, over four equally likely points: KL(q, p) = I + KL(q(z), p(z))
    assert -0.01 < lines["I(x; z)"]["mean"] < math.log(4) + 0.01
    assert lines["KL(q(z), p(z))"]["mean"] > -0.01
    assert ("critic's error, its KL - the true one" in lines) == ("elbo_estimate" in lines)


def test_figures_depend_on_the_seed_and_not_on_the_batches(finished, monkeypatch, capsys):
    few = ('--likelihood.estimators=["importance"]', "--likelihood.rows=40")
    first, _ = estimates(finished, monkeypatch, capsys, *few, "--data.eval_batch_size=7")
    second, _ = estimates(finished, monkeypatch, capsys, *few, "--data.eval_batch_size=33", "--likelihood.chunk=300")
    other, _ = estimates(finished, monkeypatch, capsys, *few, "--likelihood.seed=1")
    assert first["importance"]["n"] == second["importance"]["n"] == 40
    assert abs(first["importance"]["mean"] - second["importance"]["mean"]) < 1e-5
    assert 1e-5 < abs(first["importance"]["mean"] - other["importance"]["mean"]) < 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"estimators": ["import"]}, "likelihood.estimators: 'import'"),
        ({"chains": 0}, "likelihood.chains: 0"),
        ({"simulated": 1}, "likelihood.simulated: 1"),
    ],
)
def test_what_cannot_be_is_refused(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        Likelihood(**arguments)


def test_the_table_stands_in_columns():
    lines = [Line("a", -1.5, 0.1, 3, "below", "x", 1.0), Line("longer", -10.25, math.nan, 3, "", "", 0.0)]
    header, *rows = table(lines).splitlines()
    assert [row.index(" 3 ") + 1 for row in rows] == [header.index("n ")] * 2
    assert "-10.250" in rows[1] and "nan" not in rows[1]


@pytest.mark.parametrize("start", ["proposal", "prior"])
def test_a_table_is_judged_in_its_own_units(tmp_path, monkeypatch, start):
    """A linear-Gaussian model of standardised columns, whose log p(x) is known."""
    monkeypatch.chdir(tmp_path)
    world = LinearGaussian.example()
    numpy.save("rows.npy", (world.sample(300) * torch.tensor([10.0, 0.1, 3.0]) + 5).numpy())
    data = Arrays("rows.npy", batch_size=50, eval_batch_size=11)
    parts = [partial(part, network=LINEAR) for part in (GaussianEncoder, GaussianDecoder)]
    model = VAE(world.latent_dim, *parts, data_shape=world.data_shape)
    model.encoder.load_state_dict(world.encoder().state_dict())
    model.decoder.load_state_dict(world.decoder().state_dict())
    likelihood = Likelihood(["importance", "annealing"], rows=None, samples=400, chains=8, steps=300, start=start)
    trainer(tmp_path, callbacks=[likelihood]).test(model, data, verbose=False)
    x = torch.cat([batch[0] for batch in data.test_dataloader()])
    lines = {line.estimate: line for line in likelihood.lines}
    truth = world.log_marginal(x).mean().item() + data.log_volume
    assert abs(data.log_volume) > 0.5
    for name in ("elbo", "importance", "annealing"):
        assert lines[name].n == len(x)
        assert abs(lines[name].mean - truth) < 0.03, name
    assert 0 < lines["I(x; z)"].mean < math.log(len(x))
