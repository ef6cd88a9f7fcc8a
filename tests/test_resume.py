"""A run killed in the middle of an epoch and resumed ends with the same bits as one that was never killed."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from forked import finish, free_port, said, start, torchrun_environment
from signals import same
from small_models import MODELS, fit


def run(folder, names, devices, **options):
    """The exit codes of a fit in processes of its own."""
    port = free_port()
    environments = [torchrun_environment(rank, devices, port) for rank in range(devices)]
    return finish(start(partial(fit, names, devices, **options), folder, environments), timeout=600)


@pytest.mark.parametrize(
    ("name", "devices", "options"),
    [
        ("avb_ac", 1, {}),
        ("avb_ac", 2, {}),
        ("bigan", 1, {}),
        ("aae_semi", 1, {}),
        ("aae_batch_norm", 1, {}),
        ("posterior", 1, {}),
        ("posterior_critic", 2, {}),
        pytest.param("avb_ac", 1, {"compile": True, "accumulate": 3}, marks=pytest.mark.slow),
        pytest.param("avb_ac", 2, {"compile": True, "accumulate": 3}, marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_resumes_to_the_same_bits(tmp_path, name, devices, options):
    # 20 batches an epoch, a checkpoint every 7 steps: killed at 31 in the second epoch, resumed at 28.
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run(whole, [name], devices, steps=45, **options) == [0] * devices, said(whole)
    assert all(run(killed, [name], devices, steps=45, kill=31, **options))
    assert not list(killed.glob("*.pt"))
    last = killed / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 28
    assert run(killed, [name], devices, steps=45, ckpt=last, **options) == [0] * devices, said(killed)
    for rank in range(devices):
        whole_end, resumed_end = (torch.load(folder / f"{name}_{rank}.pt") for folder in (whole, killed))
        assert same(whole_end["model"], resumed_end["model"])
        assert same(whole_end["optimizers"], resumed_end["optimizers"])


def test_two_processes_equal_each_other_and_one_on_the_joined_batch(tmp_path):
    """Plain `ddp`, without a search for unused parameters, for every model."""
    ends = {}
    for devices in (1, 2):
        folder = tmp_path / str(devices)
        assert run(folder, MODELS, devices, inject=True) == [0] * devices, said(folder)
        for name in MODELS:
            ends[name, devices] = [torch.load(folder / f"{name}_{rank}.pt") for rank in range(devices)]
    for name in MODELS:
        first, second = ends[name, 2]
        assert same(first, second)
        (one,) = ends[name, 1]
        assert len(one["gradients"]) == len(one["optimizers"])
        for joined, split in zip(one["gradients"], first["gradients"], strict=True):
            for a, b in zip(joined, split, strict=True):
                torch.testing.assert_close(b, a, rtol=1e-6, atol=1e-9)
        # The extra critic step, whose gradient the engine averages itself, shows in the weights of later steps.
        for key, value in one["model"].items():
            torch.testing.assert_close(first["model"][key], value, rtol=1e-5, atol=1e-7)
