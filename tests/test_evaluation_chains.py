"""Chains that move draws, and descents from far away, for a standard normal density."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_avb import noise
from lightning_avb.evaluation.chains import Chains, _descend, move_draws

pytestmark = pytest.mark.usefixtures("float64")


def normal(z):
    return -0.5 * z.square().sum(-1)


def test_right_draws_stay():
    """The counts of 1,000 draws below, above or between quantiles, which are draws themselves and lie in no set."""
    moved = move_draws(torch.randn(1000, 2), normal)
    counts = {name: round(1000 * share.before) for name, share in moved.shares.items()}
    expected = {"middle": 500, "outside": 99, "far": 9, "beyond": 0, "dense": 499, "thin": 100, "thinnest": 10}
    assert counts == expected
    assert all(abs(share.errors) < 4.5 for share in moved.shares.values())
    assert 0.5 < moved.acceptance < 0.8 and abs(moved.shift) < 0.2


def test_errors_are_those_of_mcnemar():
    """N(0.3, 1) for N(0, 1): the draws below the median become more, by a share of 0.118, in one coordinate of two."""
    moved = move_draws(torch.randn(4000, 2) + torch.tensor([0.0, 0.3]), normal, ["a", "b"], transitions=60)
    middle = moved.shares["middle"]
    assert middle.where == "b" and abs(middle.after - 0.618) < 0.04 and abs(moved.shift + 0.3) < 0.1
    # Of independent places before and after a half enters or leaves.
    assert abs(middle.errors - 0.118 * 4000 / math.sqrt(2000)) < 4


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_where_the_density_is_not_known_it_is_zero(value):
    chains = Chains(lambda z: normal(z).where(z[:, 0] < 1, value), torch.randn(200, 2), 4)
    state = chains.at(torch.tensor([[0.5, 0.0], [1.5, 0.0]]))
    assert state.log_p.tolist() == [-0.125, -math.inf]
    torch.testing.assert_close(state.gradient, torch.tensor([[-0.5, 0.0], [0.0, 0.0]]))


@pytest.mark.parametrize("distance", [2.0, 50.0])
def test_a_descent_arrives(distance):
    chains = Chains(normal, torch.randn(1000, 2), 4)
    white = distance * noise.normal((128, 2), torch.zeros(()))
    ends = _descend(chains, white, torch.full((128, 1), distance), 150)
    assert ends.abs().max() < 0.05
