"""Posteriors of log-densities: the coordinates and the bridge from the nearest normal."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from posteriors import SMALL, fitted
from small_models import trainer

import lightning_avb as avb
from datamodules import NoData
from lightning_avb import Posterior, targets
from lightning_avb.distributions import TriangularNormal
from lightning_avb.models.nearest_normal import nearest_normal
from lightning_avb.targets import Gaussian, Mixture, Target


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("distance, width", [(0.0, 1.0), (30.0, 1.0), (3.0, 1e-3)])
def test_the_nearest_normal_of_a_normal_target_is_itself(distance, width):
    tril = width * torch.tensor([[1.0, 0.0, 0.0], [0.95, 0.3, 0.0], [-0.5, 2.0, 4.0]])
    target = TriangularNormal(torch.tensor([distance, -distance, distance]).unsqueeze(0), tril.unsqueeze(0))
    found = nearest_normal(lambda z: target.log_prob(z.unsqueeze(1)).squeeze(1), 3, torch.zeros(()))
    relative = torch.linalg.solve_triangular(tril, found.scale_tril, upper=False)
    assert (relative @ relative.T - torch.eye(3)).abs().max() < 0.05
    shift = torch.linalg.solve_triangular(tril, (found.loc - target.loc[0]).unsqueeze(1), upper=False)
    assert shift.abs().max() < 0.05
    assert (found.scale_tril.diagonal() > 0).all() and found.scale_tril.triu(1).abs().max() == 0


@pytest.mark.parametrize("target", [targets.Funnel, targets.Ring, targets.Torus, targets.EightSchools, Mixture])
def test_the_nearest_normal_of_other_targets_is_finite(target):
    target = target()
    for seed in range(2):
        torch.manual_seed(seed)
        found = nearest_normal(target.log_prob, target.support.dim, torch.zeros(()))
        assert torch.isfinite(found.loc).all() and torch.isfinite(found.scale_tril).all()


@pytest.mark.usefixtures("float64")
def test_modes_are_weighed_by_their_mass():
    """One start ends in a mode of deviation 1 at 0, one in a mode of deviation 5 and as high 60 away, for this seed."""
    torch.manual_seed(0)

    def target(z):
        along, across = z.unbind(-1)
        return torch.logaddexp(-0.5 * along.square(), -0.5 * ((along.abs() - 60) / 5).square()) - 0.5 * across.square()

    found = nearest_normal(target, 2, torch.zeros(()), starts=2, reach=40.0)
    assert found.loc[0].abs().item() == pytest.approx(60 * 5 / 6, rel=0.01)
    covariance = found.scale_tril @ found.scale_tril.T
    expected = torch.tensor([[(1 + 5 * 25) / 6 + 60**2 * 5 / 36, 0.0], [0.0, 1.0]])
    torch.testing.assert_close(covariance, expected, rtol=0.05, atol=0.5)


@pytest.mark.usefixtures("float64")
def test_the_density_in_coordinates_counts_their_volume():
    model = Posterior(partial(Gaussian, covariance=[[1.0, 0.5], [0.5, 2.0]]))
    model.location.copy_(torch.tensor([1.0, -2.0]))
    model.scale_tril.copy_(torch.tensor([[2.0, 0.0], [-0.7, 0.1]]))
    u = torch.randn(4, 1, 2)
    z = model.location + (model.scale_tril @ u.unsqueeze(-1)).squeeze(-1)
    expected = model.target.log_prob(z) + math.log(0.2)
    torch.testing.assert_close(model.log_density(u, torch.ones(1, 1)), expected)


@pytest.mark.usefixtures("float64")
def test_the_bridge_leads_from_the_start_to_the_target():
    """Half way of a warm-up it is the geometric mean of N(0, I) and p; afterwards, and in validation, p."""
    model = Posterior(partial(Gaussian, covariance=[[1.0, 0.5], [0.5, 2.0]]), warmup=2)
    model.location.copy_(torch.tensor([1.0, -2.0]))
    x, u = torch.ones(1, 1), torch.randn(4, 1, 2)
    start = torch.distributions.Normal(0.0, 1.0).log_prob(u).sum(-1)
    p = model.tempered_target(x)
    assert model.beta == 0.5
    torch.testing.assert_close(p.log_prob(u), 0.5 * start + 0.5 * model.log_density(u, x))
    p = model.eval().tempered_target(x)
    torch.testing.assert_close(p.log_prob(u), model.log_density(u, x))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("steps", "bridged"), [(4, 2), (100, 3)])
def test_a_warm_up_is_at_most_half_of_the_run(tmp_path, steps, bridged):
    """Otherwise the sampler of a short run would follow the bridge."""
    model, seen = Posterior(Gaussian, SMALL, samples=8, warmup=3), []
    learn = model.learn
    model.learn = lambda batch: [seen.append(model.beta), learn(batch)][1]
    trainer(tmp_path, max_steps=steps, limit_val_batches=0, enable_checkpointing=False).fit(model, NoData())
    assert seen == [min(1.0, (step + 1) / bridged) for step in range(steps)]


@pytest.mark.usefixtures("float64")
def test_the_bound_is_that_of_the_target_during_the_warm_up_too():
    model = Posterior(partial(Gaussian, mean=[50.0, 50.0]), SMALL, samples=8, warmup=1000)
    torch.manual_seed(0)
    play = model.learn(avb.Batch(torch.ones(1, 1)))
    torch.manual_seed(0)
    u, log_q = model.encoder(torch.ones(1, 1)).rsample_and_log_prob((8,))
    torch.testing.assert_close(play.scores["elbo"], model.target.log_prob(u) - log_q)
    assert (play.losses["sampler"] < 100).all() and (play.scores["elbo"] < -1000).all()


def test_autocast_leaves_the_target_alone():
    model = Posterior(partial(Gaussian, covariance=[[1.0, 0.99], [0.99, 1.0]]))
    u, x = 10 * torch.randn(30, 1, 2), torch.ones(1, 1)
    with torch.autocast("cpu", torch.bfloat16):
        found = model.log_density(u, x)
    assert torch.equal(found, model.log_density(u, x))


class Far(Target):
    constraints = {"year": "real", "depth": "real"}  # noqa: RUF012

    def log_density(self, *, year, depth):
        return -0.5 * (year - 20000.0).square() - 0.5 * ((depth + 3e4) / 100).square()


def test_a_mode_far_away_is_reached(tmp_path):
    model = fitted(Posterior(Far, SMALL, samples=8), 1, tmp_path)
    torch.testing.assert_close(model.location, torch.tensor([20000.0, -30000.0]), rtol=0, atol=30)
    torch.testing.assert_close(model.scale_tril.diagonal(), torch.tensor([1.0, 100.0]), rtol=0.1, atol=0)
