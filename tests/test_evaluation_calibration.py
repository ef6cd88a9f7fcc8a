"""Simulation-based calibration, where the posterior is known."""

from __future__ import annotations

import pytest
import torch

from lightning_avb.errors import ConfigurationError
from lightning_avb.evaluation import calibration_ranks, uniformity

SIMULATIONS, DRAWS = 2000, 99


def simulated(scale=1.0, shift=0.0):
    """theta ~ N(0, I), x ~ N(theta, s^2) in two dimensions; draws of the posterior, scaled and moved by deviations."""
    noise = torch.tensor([0.5, 2.0])
    theta = torch.randn(SIMULATIONS, 2)
    x = theta + noise * torch.randn_like(theta)
    variance = 1 / (1 + noise**-2)
    deviation = variance.sqrt()
    draws = variance / noise**2 * x + deviation * (shift + scale * torch.randn(DRAWS, SIMULATIONS, 2))
    return calibration_ranks(theta, draws)


def test_ranks_count_the_draws_below():
    theta = torch.tensor([[0.5, 1.0]])
    draws = torch.tensor([0.0, 1.0, 0.4]).view(3, 1, 1).expand(3, 1, 2)
    assert calibration_ranks(theta, draws).tolist() == [[2, 2]]


def test_exact_posterior_is_uniform():
    """The p-values are uniform themselves: of 40, none is tiny and their mean is a half within 5 standard errors."""
    p = torch.cat([uniformity(simulated(), DRAWS) for _ in range(20)])
    assert p.min() > 1e-4 and abs(p.mean() - 0.5) < 5 * (1 / 12 / len(p)) ** 0.5


@pytest.mark.parametrize("off", [{"scale": 0.8}, {"scale": 1.25}, {"shift": 0.2}, {"shift": -0.2}])
def test_wrong_posteriors_are_found(off):
    assert (uniformity(simulated(**off), DRAWS) < 1e-4).all()


def test_ranks_tell_how_a_posterior_is_wrong():
    def outer(ranks):
        return ((ranks < 10) | (ranks > DRAWS - 10)).double().mean(0)

    assert (outer(simulated(0.8)) > 0.25).all() and (outer(simulated(1.25)) < 0.15).all()
    assert (simulated(shift=-0.3).double().mean(0) > 55).all()


def test_chi_square():
    """Counts 30, 20, 10 of three ranks: (100 + 0 + 100) / 20 = 10 with two degrees of freedom, exp(-10 / 2)."""
    ranks = torch.arange(3).repeat_interleave(torch.tensor([30, 20, 10])).unsqueeze(1)
    torch.testing.assert_close(uniformity(ranks, 2).item(), torch.tensor(-5.0).double().exp().item())


def test_bins_of_unequal_width():
    """11 ranks in 4 bins, of 3, 3, 3 and 2 ranks: as many of every rank are uniform to the dot."""
    ranks = torch.arange(11).repeat(20).unsqueeze(1)
    torch.testing.assert_close(uniformity(ranks, 10, bins=4).item(), 1.0)


def test_five_simulations_a_bin_are_enough():
    assert uniformity(torch.arange(10).repeat(5).unsqueeze(1), 9, bins=10).item() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("key", "call"),
    [
        ("draws", lambda: calibration_ranks(torch.zeros(5, 2), torch.zeros(3, 5))),
        ("draws", lambda: calibration_ranks(torch.zeros(5, 2), torch.zeros(3, 5, 1))),
        ("draws", lambda: calibration_ranks(torch.zeros(5, 2), torch.zeros(0, 5, 2))),
        ("theta", lambda: calibration_ranks(torch.full((5, 2), torch.nan), torch.zeros(3, 5, 2))),
        ("ranks", lambda: uniformity(torch.full((50, 1), 4), 3)),
        ("ranks", lambda: uniformity(torch.zeros(50, 1), 3)),
        ("simulations", lambda: uniformity(torch.zeros(5, 1).long(), 3)),
        ("bins", lambda: uniformity(torch.zeros(50, 1).long(), 3, bins=5)),
        ("bins", lambda: uniformity(torch.zeros(50, 1).long(), 99, bins=20)),
        ("bins", lambda: uniformity(torch.zeros(50, 1).long(), 99, bins=1)),
    ],
)
def test_refuses(key, call):
    with pytest.raises(ConfigurationError, match=rf"^{key}: "):
        call()
