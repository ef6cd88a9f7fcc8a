"""Importance weighting and its proposals, where log p(x) and the posterior are known."""

from __future__ import annotations

import math

import pytest
import torch
from closed_forms import BlackBox, LinearGaussian
from monte_carlo import assert_mean
from torch.distributions import MultivariateNormal, kl_divergence

from lightning_avb import Batch, StandardNormal
from lightning_avb.distributions import DiagonalNormal, Implicit
from lightning_avb.errors import ConfigurationError
from lightning_avb.evaluation import (
    DefensiveStudent,
    Quadrature,
    fitted_proposal,
    importance_weighting,
    log_joint,
    map_rows,
    on_grid,
    refined_proposal,
    resample,
)

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture
def world(float64):
    return LinearGaussian.example()


def joint(world, x):
    return log_joint(world.decoder().requires_grad_(False), StandardNormal(world.latent_dim), x)


def shifted(q, by=0.5, scale=1.3):
    """A posterior that is off."""
    return DiagonalNormal(q.mean + by * q.stddev, q.stddev * scale)


def student(rows, dim=2, **options):
    """Correlated, away from the prior."""
    mixing = torch.randn(rows, dim, dim)
    covariance = mixing @ mixing.mT + 0.2 * torch.eye(dim)
    return DefensiveStudent(torch.randn(rows, dim), covariance, StandardNormal(dim)(), **options)


# The bound.


@torch.no_grad()
def test_exact_with_the_posterior_as_proposal(world):
    x = world.sample(4)
    found = importance_weighting(world.encoder()(x), joint(world, x), samples=70)
    torch.testing.assert_close(found.bound, world.log_marginal(x))
    torch.testing.assert_close(found.elbo, world.log_marginal(x))
    torch.testing.assert_close(found.effective_samples, torch.full((4,), 70.0))


@torch.no_grad()
def test_bound_is_below_and_rises_with_the_samples(world):
    x = world.sample(1).expand(20000, -1)
    q, posterior = (shifted(world.encoder()(x)), world.encoder()(x))
    truth, target = world.log_marginal(x[:1]), joint(world, x)
    one, three, ten = (importance_weighting(q, target, samples) for samples in (1, 3, 10))
    assert_mean(one.bound, truth - kl_divergence(q, posterior)[0], resolution=0.05)
    assert one.bound.mean() + 0.1 < three.bound.mean() < ten.bound.mean() - 0.03 < truth - 0.03
    for found in (one, three, ten):
        assert_mean((found.bound - truth).exp(), 1.0, resolution=0.05)


@torch.no_grad()
def test_effective_samples(world):
    """K / (1 + the squared coefficient of variation of the weights), which is known for two normal distributions."""
    x = world.sample(1).expand(500, -1)
    posterior = world.encoder()(x)
    wide = DiagonalNormal(posterior.mean, 1.5 * posterior.stddev)
    share = ((2 * 1.5**2 - 1) ** 0.5 / 1.5**2) ** world.latent_dim
    found = importance_weighting(wide, joint(world, x), samples=2000)
    torch.testing.assert_close(found.effective_samples.mean().item(), 2000 * share, rtol=0.01, atol=0)


@torch.no_grad()
def test_a_figure_is_a_function_of_its_row(world):
    """Neither the pieces, nor the order, nor the memory matter."""
    x, index = world.sample(9), torch.arange(9) + 100

    def estimate(rows, chunk, order):
        def of(batch):
            target = joint(world, batch.x)
            first = fitted_proposal(BlackBox(world.encoder())(batch.x), StandardNormal(2)(), draws=100)
            proposal = refined_proposal(first, target, 2, 50, chunk)
            return importance_weighting(proposal, target, 150, chunk)

        found = map_rows(of, Batch(x[order], index=index[order]), rows, 3, "iw")
        return torch.stack(found)[:, order.argsort()]

    whole = estimate(9, 4096, torch.arange(9))
    assert whole.std(1).min() > 1e-3
    torch.testing.assert_close(estimate(2, 7, torch.randperm(9)), whole, rtol=0, atol=1e-10)


@torch.no_grad()
def test_resampled_draws_have_the_shares_of_their_weights():
    z = torch.arange(3.0).view(3, 1, 1).expand(3, 2, 1)
    weights = torch.tensor([[0.2, 0.0], [0.5, 1.0], [0.3, 0.0]])
    drawn = resample(z, weights.log() - 700, 20000)
    assert drawn.shape == (20000, 2, 1) and (drawn[:, 1] == 1).all()
    for value, share in enumerate(weights[:, 0]):
        assert_mean((drawn[:, 0, 0] == value).double(), share, resolution=0.02)


# Proposals.


@pytest.mark.parametrize("options", [{}, {"df": None}, {"df": 1, "share": 0.5}, {"share": 0.0}, {"inflate": 2.0}])
@torch.no_grad()
def test_draws_follow_the_density(options):
    """E_r[ g(z) / r(z) ] is the integral of g, for a g that is a density where r has its bulk, and off it."""
    proposal = student(3, **options)
    z, log_r = proposal.rsample_and_log_prob((40000,))
    torch.testing.assert_close(log_r, proposal.log_prob(z))
    for centre, scale in ((proposal.loc, 0.4), (torch.ones(3, 2), 0.5)):
        weight = (DiagonalNormal(centre, torch.full((3, 2), scale)).log_prob(z) - log_r).exp()
        assert_mean(weight, 1.0, resolution=0.5)
        assert_mean(weight.mean(1), 1.0, resolution=0.15)


@torch.no_grad()
def test_moments_of_the_draws():
    mean, covariance = torch.tensor([[1.0, -2.0]]), torch.tensor([[[1.0, 0.6], [0.6, 0.8]]])
    z = DefensiveStudent(mean, covariance, StandardNormal(2)(), df=9, inflate=1.5, share=0.25).sample((100000,))[:, 0]
    expected = 0.75 * (1.5**2 * covariance[0] * 9 / 7 + mean[0].outer(mean[0])) + 0.25 * torch.eye(2)
    assert_mean(z, 0.75 * mean[0], resolution=0.05)
    assert_mean(z.unsqueeze(2) * z.unsqueeze(1), expected, resolution=0.2)


@pytest.mark.parametrize("options", [{}, {"df": None}, {"df": 20, "share": 0.3}])
@torch.no_grad()
def test_density_integrates_to_one(options):
    grid = Quadrature.grid(2, limit=40.0, cells=800)
    mass = on_grid(student(3, **options).log_prob, grid, 3, 100000).logsumexp(0) + grid.log_weight
    torch.testing.assert_close(mass, torch.zeros(3), rtol=0, atol=2e-4)


def test_student_is_that_of_the_field():
    """In one dimension, beside torch's."""
    proposal = DefensiveStudent(torch.tensor([[0.3]]), torch.tensor([[[4.0]]]), StandardNormal(1)(), 5, 1.1, share=0.0)
    z = torch.linspace(-9, 9, 50)
    expected = torch.distributions.StudentT(5.0, 0.3, 2.2).log_prob(z)
    torch.testing.assert_close(proposal.log_prob(z.view(50, 1, 1)).squeeze(-1), expected)


@torch.no_grad()
def test_share_bounds_the_weights(world):
    """Even of a proposal that is in the wrong place."""
    x = world.sample(3)
    proposal = DefensiveStudent(torch.full((3, 2), 9.0), 0.01 * torch.eye(2).expand(3, 2, 2), StandardNormal(2)())
    z, log_r = proposal.rsample_and_log_prob((5000,))
    log_likelihood = world.decoder()(z).log_prob(x)
    assert (joint(world, x)(z) - log_r <= log_likelihood - math.log(0.05) + 1e-9).all()
    found = importance_weighting(proposal, joint(world, x), 200000)
    torch.testing.assert_close(found.bound, world.log_marginal(x), rtol=0, atol=0.1)


@torch.no_grad()
def test_fit_has_the_moments_of_q(world):
    """Correlations too: q is a rotated Gaussian that shows its draws alone."""
    tril = torch.tensor([[1.0, 0.0], [1.5, 0.3]])
    q = Implicit(lambda n: 2 + torch.randn(n, 3, 2) @ tril.T, torch.Size([3]), torch.Size([2]))
    fit = fitted_proposal(q, StandardNormal(2)(), draws=50000, floor=0.1)
    torch.testing.assert_close(fit.loc, torch.full((3, 2), 2.0), rtol=0, atol=0.05)
    expected = (tril @ tril.T + 0.01 * torch.eye(2)).expand(3, 2, 2)
    torch.testing.assert_close(fit.covariance, expected, rtol=0, atol=0.1)
    torch.testing.assert_close(fit.scale_tril, 1.2 * torch.linalg.cholesky(fit.covariance))


@torch.no_grad()
def test_few_draws_and_a_point_give_proper_proposals():
    prior = StandardNormal(8)()
    for q in (
        Implicit(lambda n: torch.randn(n, 3, 8), torch.Size([3]), torch.Size([8])),
        Implicit(lambda n: torch.ones(n, 3, 8), torch.Size([3]), torch.Size([8])),
    ):
        fit = fitted_proposal(q, prior, draws=2)
        assert (torch.linalg.eigvalsh(fit.covariance) > 0.9e-4).all()
        assert fit.log_prob(fit.sample((100,))).isfinite().all()


@torch.no_grad()
def test_black_box_posterior_gets_its_bound(world):
    """A fit to draws of the exact posterior, with no density asked for."""
    x = world.sample(5)
    proposal = fitted_proposal(BlackBox(world.encoder())(x), StandardNormal(2)())
    found = importance_weighting(proposal, joint(world, x), 20000)
    error = (1 / found.effective_samples - 1 / 20000).sqrt()
    assert ((found.bound - world.log_marginal(x)).abs() < 5 * error).all() and error.max() < 0.01


@torch.no_grad()
def test_refinement_finds_the_posterior():
    """From a proposal that is three deviations off and knows nothing of the correlations."""
    torch.manual_seed(1)
    world = LinearGaussian(torch.randn(6, 4), torch.zeros(6), 0.5)
    x = world.sample(8)
    posterior = world.full_encoder()(x)
    off = posterior.mean + 3 * posterior.stddev * torch.randn(8, 4).sign()
    first = DefensiveStudent(off, torch.diag_embed(posterior.variance), StandardNormal(4)())
    target = joint(world, x)
    before, after = (
        importance_weighting(proposal, target, 1000)
        for proposal in (first, refined_proposal(first, target, rounds=8, draws=400))
    )
    assert after.effective_samples.min() > 500 > 5 * before.effective_samples.median()
    torch.testing.assert_close(after.bound, world.log_marginal(x), rtol=0, atol=0.2)


@torch.no_grad()
def test_weighted_fit_has_the_weighted_moments():
    """Draws of N(0, I) with the weights of N(0.5, S) over it."""
    covariance = torch.tensor([[0.6, 0.3], [0.3, 0.5]])
    z = torch.randn(100000, 1, 2)
    target = MultivariateNormal(torch.full((2,), 0.5), covariance)
    fit = student(1).refit(z, target.log_prob(z) - StandardNormal(2)().log_prob(z))
    torch.testing.assert_close(fit.loc, torch.full((1, 2), 0.5), rtol=0, atol=0.02)
    torch.testing.assert_close(fit.covariance[0], covariance, rtol=0, atol=0.03)


@pytest.mark.parametrize(
    ("key", "make"),
    [
        ("df", lambda: student(1, df=0)),
        ("inflate", lambda: student(1, inflate=0.0)),
        ("share", lambda: student(1, share=1.0)),
        ("draws", lambda: fitted_proposal(StandardNormal(2)().expand((1,)), StandardNormal(2)(), draws=1)),
        ("floor", lambda: fitted_proposal(StandardNormal(2)().expand((1,)), StandardNormal(2)(), floor=0.0)),
        ("samples", lambda: importance_weighting(student(1), student(1).log_prob, 0)),
        ("chunk", lambda: importance_weighting(student(1), student(1).log_prob, 1, chunk=0)),
    ],
)
def test_refuses(key, make):
    with pytest.raises(ConfigurationError, match=rf"^{key}: "):
        make()
