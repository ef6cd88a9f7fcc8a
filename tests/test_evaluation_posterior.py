"""The parts of the bound, where all are known, and the Parzen window."""

from __future__ import annotations

import math

import pytest
import torch
from monte_carlo import assert_mean
from torch.distributions import MultivariateNormal, kl_divergence
from worlds import LinearGaussian

from lightning_avb import StandardNormal
from lightning_avb.distributions import DiagonalNormal
from lightning_avb.errors import ConfigurationError
from lightning_avb.evaluation import (
    Quadrature,
    critic_error,
    decompose,
    histogram,
    kl_to_posterior,
    log_joint,
    on_grid,
    parzen_window,
)
from lightning_avb.evaluation.parzen import log_density

pytestmark = pytest.mark.usefixtures("float64")


class Case:
    """The linear-Gaussian example with a posterior that is off."""

    def __init__(self):
        self.world, self.prior, self.grid = LinearGaussian.example(), StandardNormal(2), Quadrature.grid(2)
        self.x = self.world.sample(5)
        self.posterior = self.world.encoder().requires_grad_(False)(self.x)
        self.q = DiagonalNormal(self.posterior.mean + 0.2, 0.8 * self.posterior.stddev)

    def parts(self, log_q, elements=1 << 22):
        return decompose(log_q, self.world.decoder(), self.prior, self.x, self.grid, elements)


@pytest.fixture
def case(float64):
    return Case()


def test_parts_of_the_bound(case):
    log_q = on_grid(case.q.log_prob, case.grid, 5)
    found = case.parts(log_q)
    kl, gap = kl_divergence(case.q, case.prior()), kl_divergence(case.q, case.posterior)
    torch.testing.assert_close(found.log_likelihood, case.world.log_marginal(case.x))
    torch.testing.assert_close(found.kl, kl)
    torch.testing.assert_close(found.kl_to_posterior, gap)
    torch.testing.assert_close(found.reconstruction, gap - kl - case.world.log_marginal(case.x))
    torch.testing.assert_close(found.mass, torch.ones(5))
    torch.testing.assert_close(case.parts(log_q, elements=7000), found)


def test_information_and_aggregate_sum_to_the_kl(case):
    found = case.parts(on_grid(case.q.log_prob, case.grid, 5, chunk=1000))
    torch.testing.assert_close(found.information + found.kl_of_aggregate, found.kl.mean())
    assert 0 < found.information < math.log(5) and found.kl_of_aggregate > 0
    apart = DiagonalNormal(torch.arange(-2.0, 3.0).unsqueeze(1).expand(5, 2) * 2, torch.full((5, 2), 0.1))
    torch.testing.assert_close(case.parts(on_grid(apart.log_prob, case.grid, 5)).information.item(), math.log(5))
    alike = DiagonalNormal(torch.full((5, 2), 0.5), torch.full((5, 2), 0.7))
    found = case.parts(on_grid(alike.log_prob, case.grid, 5))
    assert abs(found.information) < 1e-9
    torch.testing.assert_close(found.kl_of_aggregate, kl_divergence(alike, case.prior())[0])


def test_divergence_from_the_posterior_by_draws(case):
    rows = 4000
    q, x = case.q.expand((rows, 5)), case.x
    q = DiagonalNormal(q.loc.flatten(0, 1), q.scale.flatten(0, 1))
    truth = case.world.log_marginal(x).repeat(rows)
    found = kl_to_posterior(q, log_joint(case.world.decoder(), case.prior, x.repeat(rows, 1)), truth, samples=5)
    assert_mean(found.view(rows, 5), kl_divergence(case.q, case.posterior), resolution=0.05)


def test_error_of_a_critic(case):
    """A critic that is 0.3 too high everywhere, and one that takes another q for the true one."""
    log_q = on_grid(case.q.log_prob, case.grid, 5)
    log_p = case.prior().log_prob(case.grid.points).unsqueeze(1)
    torch.testing.assert_close(critic_error(log_q - log_p + 0.3, log_q, case.prior, case.grid), torch.full((5,), 0.3))
    mistaken = on_grid(case.posterior.log_prob, case.grid, 5) - log_p
    error = critic_error(mistaken, log_q, case.prior, case.grid)
    torch.testing.assert_close(error, -kl_divergence(case.q, case.posterior))


def test_histogram_of_draws(case):
    """Where no cell is missed, as good as the density; draws off the grid are missing in the mass."""
    coarse = Quadrature.grid(2, limit=4.0, cells=40)
    tril = torch.tensor([[0.8, 0.0], [0.6, 0.5]])
    z = torch.tensor([1.0, -0.5]) + torch.randn(400000, 2, 2) @ tril.T
    z[:100000, 1] += 100
    log_q = histogram(z, coarse)
    kl = kl_divergence(
        MultivariateNormal(torch.tensor([1.0, -0.5]), scale_tril=tril), MultivariateNormal(torch.zeros(2), torch.eye(2))
    )
    found = decompose(log_q, case.world.decoder(), case.prior, case.x[:2], coarse)
    torch.testing.assert_close(found.mass, torch.tensor([1.0, 0.75]), rtol=0, atol=1e-4)
    torch.testing.assert_close(found.kl[0], kl, rtol=0, atol=0.02)
    one = histogram(torch.tensor([[[3.9, -1.9]]]), coarse).squeeze(-1)
    torch.testing.assert_close(coarse.points[one.argmax()], torch.tensor([3.9, -1.9]))
    assert (one > -math.inf).sum() == 1


# Parzen window.


def test_kernel_density_is_the_mixture():
    samples, x, widths = torch.randn(7, 2, 3) + 50, torch.randn(5, 2, 3) + 50, torch.tensor([0.3, 1.0])
    found = log_density(samples, x, widths)
    for width, values in zip(widths, found, strict=True):
        components = MultivariateNormal(samples.flatten(1), width**2 * torch.eye(6))
        mixture = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(torch.ones(7)), components)
        torch.testing.assert_close(values, mixture.log_prob(x.flatten(1)))
    torch.testing.assert_close(log_density(samples, x, widths, elements=8), found)


def test_width_is_the_one_that_validation_data_like():
    samples, validation, x = (torch.randn(2000, 1) for _ in range(3))
    widths = torch.tensor([0.001, 0.3, 5.0])
    found = parzen_window(samples, validation, x, widths)
    assert found.width == pytest.approx(0.3)
    truth = StandardNormal(1)().log_prob(x)
    assert abs((found.log_likelihood - truth).mean()) < 0.05
    # Memorised data: a narrow kernel would be best for x, were it not for the validation data.
    assert parzen_window(x, validation, x, widths).width == pytest.approx(0.3)


def test_parzen_refuses_widths():
    with pytest.raises(ConfigurationError, match=r"^widths: "):
        parzen_window(torch.zeros(2, 1), torch.zeros(2, 1), torch.zeros(2, 1), torch.tensor([0.0]))
