"""The parts of the bound, where all are known, and the Parzen window."""

from __future__ import annotations

import math

import pytest
import torch
from closed_forms import LinearGaussian
from monte_carlo import assert_mean
from torch.distributions import MultivariateNormal, kl_divergence

from lightning_avb import StandardNormal
from lightning_avb.distributions import DiagonalNormal
from lightning_avb.errors import ConfigurationError
from lightning_avb.evaluation import (
    Quadrature,
    critic_error,
    decompose,
    decompose_draws,
    kl_of_aggregate,
    kl_of_draws,
    kl_to_posterior,
    log_joint,
    neighbour_entropy,
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


# A q that can be drawn from and no more.

DRAWS = 20000


def allowed(variance_of_log_q, draws=DRAWS, bias=0.01):
    """5 standard errors of `neighbour_entropy`, and its bias; psi'(1) = pi^2 / 6."""
    return 5 * ((variance_of_log_q + math.pi**2 / 6) / draws) ** 0.5 + bias


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_entropy_of_normal_distributions(dim):
    """Of several covariances at once; log q has the variance dim / 2."""
    scale = torch.tensor([0.02, 0.5, 1.0, 30.0]).view(4, 1, 1)
    tril = scale * (torch.eye(dim) + 0.5 * torch.randn(4, dim, dim).tril(-1))
    q = MultivariateNormal(torch.randn(4, dim), scale_tril=tril)
    found = neighbour_entropy(q.sample((DRAWS,)))
    assert found.shape == (4,)
    assert ((found - q.entropy()).abs() < allowed(dim / 2)).all()


@pytest.mark.parametrize("neighbour", [1, 4])
def test_entropy_of_a_square(neighbour):
    """Its edges are sharp, and the estimate is a little too large."""
    side = torch.tensor([1.0, 0.1, 7.0])
    error = neighbour_entropy(torch.rand(DRAWS, 3, 2) * side.unsqueeze(1), neighbour) - 2 * side.log()
    assert (error.abs() < 0.05).all() and error.mean() < 0.02
    few = neighbour_entropy(torch.rand(200, 200, 2), neighbour).mean()
    assert 0.02 < few < 0.2


def test_entropy_of_what_has_infinitely_dense_edges():
    """Two independent arcsine laws: the worst that a smooth map of noise does to it, and slow to come right."""
    error = neighbour_entropy((math.pi * torch.rand(DRAWS, 4, 2)).cos()) - 2 * math.log(math.pi / 2)
    assert 0.02 < error.mean() < 0.08


def test_entropy_moves_and_scales_as_an_entropy():
    z = torch.randn(1000, 2, 3).exp()
    found = neighbour_entropy(z)
    torch.testing.assert_close(neighbour_entropy(z + torch.tensor([5.0, -3.0, 100.0])), found)
    torch.testing.assert_close(neighbour_entropy(4 * z), found + 3 * math.log(4))
    torch.testing.assert_close(neighbour_entropy(z[:, 1:]), found[1:])
    apart = torch.cat([z[:, :1], z[:, :1] + 1e4])
    digammas = torch.tensor([2000.0, 1000.0]).digamma()
    torch.testing.assert_close(neighbour_entropy(apart), found[:1] + digammas[0] - digammas[1])


def test_entropy_of_points():
    assert neighbour_entropy(torch.ones(10, 2, 3)).tolist() == [-math.inf] * 2
    with pytest.raises(ConfigurationError, match="samples: 3 is below 4"):
        neighbour_entropy(torch.zeros(3, 1, 2), neighbour=3)


def test_parts_from_draws(case):
    """As from the density. What remains of the noise where q is the posterior is that of the distances."""
    truth = case.parts(on_grid(case.q.log_prob, case.grid, 5))
    found = decompose_draws(case.q.rsample((DRAWS,)), case.world.decoder(), case.prior, case.x, case.grid)
    for name in ("log_likelihood", "reconstruction", "kl", "kl_to_posterior", "information", "kl_of_aggregate", "elbo"):
        torch.testing.assert_close(getattr(found, name), getattr(truth, name), rtol=0, atol=allowed(1.0), msg=name)
    torch.testing.assert_close(truth.elbo, truth.log_likelihood - truth.kl_to_posterior)
    z = case.posterior.rsample((DRAWS,))
    exact = decompose_draws(z, case.world.decoder(), case.prior, case.x, case.grid, elements=7000)
    assert (exact.kl_to_posterior.abs() < allowed(0.0)).all()


@pytest.mark.parametrize("gap", [0.0, 0.1])
def test_four_quadrants(gap):
    """q(z|x) is a quarter of N(0, I), moved away from the axes: sharp edges, and I(x; z) = log 4."""
    signs = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    z = (torch.randn(DRAWS, 4, 2).abs() + gap) * signs
    aggregate = 2 * gap * math.sqrt(2 / math.pi) + gap**2
    prior = StandardNormal(2)
    assert abs(kl_of_aggregate(z, prior) - aggregate) < allowed(1.0, bias=0.015)
    assert ((kl_of_draws(z, prior) - aggregate - math.log(4)).abs() < allowed(1.0)).all()


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


def test_parzen_windows_far_from_the_origin_do_not_round():
    """In single precision, with dimensions that are far away in opposite directions."""
    samples, x = torch.randn(50, 2) + torch.tensor([4e3, -4e3]), torch.randn(5, 2) + torch.tensor([4e3, -4e3])
    samples, x, widths = samples.float(), x.float(), torch.tensor([0.3], dtype=torch.float32)
    exact = log_density(samples.double(), x.double(), widths.double())
    torch.testing.assert_close(log_density(samples, x, widths).double(), exact, rtol=0, atol=1e-3)


def test_parzen_refuses_widths():
    with pytest.raises(ConfigurationError, match=r"^widths: "):
        parzen_window(torch.zeros(2, 1), torch.zeros(2, 1), torch.zeros(2, 1), torch.tensor([0.0]))
