"""What the benchmarks do by other means than `Trainer.fit` is the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


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
