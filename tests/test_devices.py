"""What is computed of tensors lies on their device: with another default device, without numbers, it is the same."""

from __future__ import annotations

import pytest
import torch
from small_models import MODELS

from lightning_avb import Batch, StandardNormal
from lightning_avb.evaluation import uniformity
from lightning_avb.evaluation.proposals import DefensiveStudent
from lightning_avb.models.nearest_normal import nearest_normal


def assert_same_elsewhere(compute):
    torch.manual_seed(1)
    expected = compute()
    torch.manual_seed(1)
    with torch.device("meta"):
        found = compute()
    assert len(found) == len(expected)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_losses_and_scores_of_a_batch(name):
    model = MODELS[name](data_shape=(4,), classes=3).train()
    batch = Batch(torch.rand(6, 4), torch.arange(6) % 3, torch.arange(6))

    def compute():
        losses = [loss for phase in model.phases() for loss in phase.compute(batch).losses.values()]
        with torch.no_grad():
            return [*losses, *model.scores(batch).values()]

    assert_same_elsewhere(compute)


def test_the_nearest_normal():
    like = torch.zeros(())
    assert_same_elsewhere(lambda: nearest_normal(lambda z: -0.5 * z.square().sum(-1), 2, like, steps=2)[:2])


def test_uniformity_of_ranks():
    ranks = torch.arange(200).view(100, 2) % 10
    assert_same_elsewhere(lambda: [uniformity(ranks, draws=9)])


def test_a_proposal():
    mean, covariance, prior = torch.zeros(5, 2), torch.eye(2).expand(5, 2, 2), StandardNormal(2)()

    def compute():
        proposal = DefensiveStudent(mean, covariance, prior)
        z = proposal.sample((3,))
        return [z, proposal.log_prob(z)]

    assert_same_elsewhere(compute)
