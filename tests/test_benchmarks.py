"""The benchmarks: training many copies at once is training each alone; the one for GPUs runs everywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from argparse import Namespace
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture

from lightning_avb import MLP

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PARTS = ("limits", "precision", "throughput", "compile", "devices", "published")


@pytest.mark.parametrize("model", ["vae", "avb", "iaf"])
def test_copies_trained_at_once_are_copies_trained_alone(model, monkeypatch, float64):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import convergence

    rows = torch.randint(256, (60, 1, 28, 28), dtype=torch.uint8)
    job = convergence.Job(model, dim=2, steps=20, seeds=2)
    ensemble = convergence.Ensemble(job, rows, batch=5)
    ensemble.train()
    for seed, found in enumerate(ensemble.members(ensemble.parameters)):
        alone = job.make(seed)
        losses = convergence._Losses(alone)
        optimizers = {
            name: player.make_optimizer(name, alone.parameters_of(name)) for name, player in alone.players.items()
        }
        schedulers = [alone.players[name].make_scheduler(name, optimizer, 20) for name, optimizer in optimizers.items()]
        for k in range(convergence.UNROLL):
            x = (ensemble.uniform[k, seed] * 255 < rows[ensemble.index[k, seed]]).double()
            loss = losses(x, ensemble.numbers[k, seed])
            alone.zero_grad()
            loss.backward()
            for optimizer, scheduler in zip(optimizers.values(), schedulers, strict=True):
                optimizer.step()
                scheduler.step()
        for name, value in alone.state_dict().items():
            assert torch.allclose(found.state_dict()[name], value, atol=1e-9), name


@pytest.mark.slow
def test_a_dry_run_of_the_benchmark_for_gpus(tmp_path, monkeypatch, capsys):
    options = ["--dry-run", "--folder", tmp_path, "--root", tmp_path, "--parts", *PARTS]
    environment = {**os.environ, "PYTHONPATH": str(BENCHMARKS.parent)}
    command = [sys.executable, BENCHMARKS / "gpu.py", *options]
    run = subprocess.run([*map(str, command)], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert {line["part"] for line in lines} == {*PARTS}
    assert all("error" not in line and line["torch"] for line in lines)
    assert sum("gigaflops" in line for line in lines) > 5 and sum("elbo" in line for line in lines) > 10

    monkeypatch.syspath_prepend(BENCHMARKS)
    import gpu

    gpu.report(lines)
    tables = capsys.readouterr().out
    assert all(f"\n{part}, " in tables for part in PARTS) and "aten::mm" in tables
    gpu.measure_all(Namespace(parts=PARTS, folder=tmp_path, root=tmp_path, dry_run=True, limit=60.0))
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == len(lines)


@pytest.fixture
def cost(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import cost

    return cost


def test_what_training_and_testing_must_hold_is_counted_from_sizes(cost, monkeypatch):
    """A linear layer keeps its input, softplus its own; the decoder's logits and the rows are kept for their loss."""
    case = cost.Case(cost.DEFAULTS, "fit", rows=500)
    parts = case.parts()
    numbers = 785 * 300 + 301 * 300 + 301 * 16 + 9 * 300 + 301 * 300 + 301 * 784
    assert parts["parameters"] == parts["gradients"] == parts["moments"] / 2 == 4 * numbers
    assert parts["data"] == 2500 * 784
    layers = 4 * 250 * (2 * 784 + 8 * 300)
    assert layers < parts["kept for a backward pass"] < 1.2 * layers
    monkeypatch.setattr(cost, "MNIST_MLP", partial(MLP, hidden=(8,)))
    monkeypatch.setattr(cost, "in_a_process", lambda function, *arguments: function(*arguments))
    small = [replace(case, stage=stage, steps=2, temperatures=2, chunk=16) for stage in ("fit", "test")]
    rows = cost.memory(small).splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == ["| VAE, fit", "| VAE, test"]


@pytest.mark.parametrize("sparse", [True, False])
def test_pictures_larger_than_memory_are_read_and_timed(cost, monkeypatch, tmp_path, sparse):
    monkeypatch.setattr(cost, "system_memory", lambda: 10 * 100 * 12288)
    first, last = cost.mapped(2.1, tmp_path, sparse, None).splitlines()[-2:]
    assert first.startswith("| first tenth | ") and last.startswith("| last tenth | ")
    pixels = np.load(tmp_path / "pictures.npy", mmap_mode="r")
    assert pixels.shape == (2100, 3, 64, 64) and pixels.any() != sparse
    monkeypatch.setattr(cost, "system_memory", lambda: 10**18)
    with pytest.raises(SystemExit, match=r"GB do not fit on the disk, .* try --sparse"):
        cost.mapped(1, tmp_path, False, None)


def test_every_setting_of_the_growth_is_timed_and_drawn(cost, tmp_path):
    few = {factor: values[:1] for factor, values in cost.FACTORS.items()}
    lines = cost.growth(few, 4, 1, tmp_path / "cost.png").splitlines()[2:]
    assert len(lines) == 8 and (tmp_path / "cost.png").exists()
    assert all(float(line.split(": ")[1].rstrip(" |")) > 0 for line in lines)


def test_peers_are_compared_in_the_units_of_the_table(monkeypatch):
    """One normal distribution, fitted to standardised rows, has the density of the one fitted to the rows."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import peers

    rows = np.random.default_rng(0).normal([5.0, -300.0], [0.01, 40.0], (200, 2))
    model = peers.standardised(GaussianMixture(1, reg_covar=0.0)).fit(rows)
    expected = multivariate_normal(rows.mean(0), np.cov(rows.T, bias=True)).logpdf(rows)
    assert np.allclose(peers.in_own_units(model, rows), expected)
    drawn = peers.sampled(model, 4000, ["x", "y"])
    assert np.allclose(drawn.std(), rows.std(0), rtol=0.1)
