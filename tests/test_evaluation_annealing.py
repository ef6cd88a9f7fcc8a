"""Annealed importance sampling and its reverse, where log p(x) is known."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from closed_forms import LinearGaussian
from monte_carlo import assert_mean
from torch import nn
from torch.distributions import MultivariateNormal

from lightning_avb import MLP, Batch, BernoulliDecoder, StandardNormal, noise
from lightning_avb.distributions import DiagonalNormal
from lightning_avb.errors import ConfigurationError
from lightning_avb.evaluation import (
    AnnealingSettings,
    DefensiveStudent,
    Quadrature,
    annealed_importance_sampling,
    bidirectional,
    fitted_proposal,
    importance_weighting,
    log_joint,
    log_likelihood_on_grid,
    map_rows,
    resample,
    schedule,
    simulate,
    tune,
)
from lightning_avb.evaluation.hamiltonian import AnnealingPath

pytestmark = pytest.mark.usefixtures("float64")


class Case:
    """A linear-Gaussian model with correlated posteriors, some rows of it, and what the estimators take."""

    def __init__(self, latent_dim, data_dim, rows, scale=0.7):
        torch.manual_seed(1)
        weight = 1.5 * torch.randn(data_dim, latent_dim) / latent_dim**0.5
        self.world = LinearGaussian(weight, torch.randn(data_dim), scale)
        self.prior = StandardNormal(latent_dim)
        self.z, self.x = simulate(self.world.decoder(), self.prior, rows, seed=0)
        self.truth = self.world.log_marginal(self.x)
        self.start = self.prior().expand((rows,))
        self.target = log_joint(self.world.decoder(), self.prior, self.x)
        self.posterior = self.world.full_encoder().requires_grad_(False)(self.x)
        self.fit = fitted_proposal(self.posterior, self.prior())

    def tuned(self, steps, start=None, **options):
        return tune(start or self.start, self.target, schedule(steps), **options)


@pytest.fixture
def small(float64):
    return Case(latent_dim=2, data_dim=5, rows=6)


def fixed(steps, step_size, leapfrogs=2):
    return AnnealingSettings(schedule(steps), (step_size,) * (steps + 1), leapfrogs)


# The estimate.


def assert_finds(case, found, within):
    """Every row is right to within its own error, and the mean of the rows to within a given one."""
    chains = len(found.log_weight)
    error = (1 / found.effective_chains - 1 / chains).sqrt()
    assert 2 * error.square().mean().sqrt() / len(error) ** 0.5 < within, "too coarse a test"
    assert ((found.bound - case.truth).abs() < 5 * error).all()
    assert abs((found.bound - case.truth).mean()) < within


@pytest.mark.parametrize(("latent_dim", "data_dim", "steps"), [(2, 5, 10), (8, 20, 10), (20, 50, 30)])
def test_log_likelihood_from_a_proposal(latent_dim, data_dim, steps):
    case = Case(latent_dim, data_dim, rows=8, scale=1.0)
    settings = case.tuned(steps, case.fit, scale_tril=case.fit.scale_tril)
    found = annealed_importance_sampling(case.fit, case.target, settings, 800, case.fit.scale_tril)
    assert_finds(case, found, within=0.02)


@pytest.mark.parametrize(("latent_dim", "data_dim", "steps", "within"), [(2, 5, 30, 0.02), (8, 20, 80, 0.08)])
def test_log_likelihood_from_the_prior(latent_dim, data_dim, steps, within):
    case = Case(latent_dim, data_dim, rows=8, scale=1.0)
    assert_finds(case, annealed_importance_sampling(case.start, case.target, case.tuned(steps), 600), within)


@pytest.mark.parametrize("start", ["prior", "fit"])
@pytest.mark.parametrize("step_size", [0.3, 0.8])
def test_weights_forwards_and_backwards_obey_their_law(start, step_size):
    """W = w / p(x) has mean 1 for any settings, here too few steps and too large ones or too small.

    Backwards W has the density W p(W), if it has p(W) forwards: hence E_forward min(1, W) = E_backward min(1, 1 / W),
    where all is bounded.
    """
    rows, case = 20000, Case(2, 5, 1)
    world, prior = case.world, case.prior
    z, x = simulate(world.decoder(), prior, rows, seed=3)
    start, tril = prior().expand((rows,)), None
    if start == "fit":
        start = fitted_proposal(world.full_encoder()(x), prior(), draws=8)
        tril = start.scale_tril
    found = bidirectional(start, log_joint(world.decoder(), prior, x), z, fixed(6, step_size), 1, tril)
    forward, backward = (found.lower - world.log_marginal(x)).exp(), (found.upper - world.log_marginal(x)).exp()
    assert_mean(forward, 1.0, resolution=0.1)
    assert 0.2 < forward.clamp_max(1).mean() < 0.9
    assert_mean(forward.clamp_max(1) - (1 / backward).clamp_max(1), 0.0, resolution=0.03)


def test_one_step_is_importance_weighting(small):
    source = lambda: noise.use(noise.RowNoise(1, index=torch.arange(6)))
    with source():
        weighted = importance_weighting(small.fit, small.target, 50)
    with source():
        annealed = annealed_importance_sampling(small.fit, small.target, fixed(1, 0.1), 50)
    torch.testing.assert_close(annealed.bound, weighted.bound)
    torch.testing.assert_close(annealed.effective_chains, weighted.effective_samples)
    assert (annealed.acceptance == 1).all()


def test_agrees_with_quadrature():
    torch.manual_seed(0)
    decoder, prior = BernoulliDecoder((12,), 2, network=partial(MLP, hidden=(16,))), StandardNormal(2)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(4)
    _, x = simulate(decoder, prior, 6, seed=1)
    exact = log_likelihood_on_grid(decoder, prior, x, Quadrature.grid(2))
    start, target = prior().expand((6,)), log_joint(decoder, prior, x)
    found = annealed_importance_sampling(start, target, tune(start, target, schedule(60)), 500)
    torch.testing.assert_close(found.bound, exact, rtol=0, atol=0.1)
    assert abs((found.bound - exact).mean()) < 0.02


class Folded(nn.Module):
    """p(x|z) = N(x; z^2, 0.2^2 I) in two dimensions: four modes."""

    def forward(self, z):
        return torch.distributions.Independent(torch.distributions.Normal(z.square(), 0.2), 1)


def test_finds_the_modes_that_one_proposal_does_not_know():
    x, prior = torch.tensor([[1.0, 1.5], [2.0, 0.8]]), StandardNormal(2)
    exact = log_likelihood_on_grid(Folded(), prior, x, Quadrature.grid(2, cells=1000))
    one_mode = DefensiveStudent(x.sqrt(), 0.01 * torch.eye(2).expand(2, 2, 2), prior(), share=0.0)
    target = log_joint(Folded(), prior, x)
    missed = importance_weighting(one_mode, target, 4000)
    torch.testing.assert_close(missed.bound, exact - math.log(4), rtol=0, atol=0.1)
    start = prior().expand((2,))
    found = annealed_importance_sampling(start, target, tune(start, target, schedule(100)), 1000)
    torch.testing.assert_close(found.bound, exact, rtol=0, atol=0.1)
    quadrants = resample(found.states, found.log_weight, 4000).sign()
    assert_mean(quadrants.mean((1, 2)), 0.0, resolution=0.15)


def test_weighted_states_are_posterior_draws(small):
    found = annealed_importance_sampling(small.start, small.target, small.tuned(30), 1500)
    z = resample(found.states, found.log_weight, 3000)
    torch.testing.assert_close(z.mean(0), small.posterior.mean, rtol=0, atol=0.1)
    torch.testing.assert_close(z.var(0), small.posterior.variance, rtol=0.2, atol=0)


# The transitions.


@pytest.mark.parametrize(("preconditioned", "step_size"), [(False, 0.75), (True, 0.5)])
def test_transition_leaves_the_path_invariant(preconditioned, step_size):
    """f_b between normal distributions is normal; exact draws of it stay such, with a step that is often refused."""
    beta, draws = 0.6, 20000
    inside = torch.distributions.Normal(0.5, 1.5)
    start = DiagonalNormal(torch.full((1, 2), 0.5), torch.full((1, 2), 1.5))
    target = MultivariateNormal(torch.tensor([1.0, -1.0]), torch.tensor([[1.0, 0.6], [0.6, 0.5]]))
    precision = (1 - beta) / inside.variance * torch.eye(2) + beta * target.precision_matrix
    pull = (1 - beta) / inside.variance * torch.full((2,), 0.5) + beta * target.precision_matrix @ target.mean
    f = MultivariateNormal(torch.linalg.solve(precision, pull), precision_matrix=precision)
    tril = torch.tensor([[[1.3, 0.0], [-0.5, 0.6]]]) if preconditioned else None
    path = AnnealingPath(start, target.log_prob, tril, 1 << 20)
    point = path(f.sample((draws, 1)))
    for _ in range(3):
        point, rate = path.transition(point, beta, step_size, 2)
    assert 0.3 < rate.mean() < 0.85
    z = point.z[:, 0]
    assert_mean(z, f.mean, resolution=0.1)
    assert_mean((z - f.mean).unsqueeze(2) * (z - f.mean).unsqueeze(1), f.covariance_matrix, resolution=0.2)
    torch.testing.assert_close(point.log_target, target.log_prob(point.z))
    torch.testing.assert_close(point.log_start, start.log_prob(point.z))


def test_leapfrog_leads_back_and_keeps_the_energy(small):
    path = AnnealingPath(small.start, small.target, small.fit.scale_tril, 1 << 20)
    point, velocity = path(small.fit.sample((5,))), torch.randn(5, 6, 2)
    end, end_velocity = path.leapfrog(point, velocity, 0.7, 0.1, 7)
    assert (end.z - point.z).abs().mean() > 0.1
    back, back_velocity = path.leapfrog(end, -end_velocity, 0.7, 0.1, 7)
    torch.testing.assert_close(back.z, point.z)
    torch.testing.assert_close(back_velocity, -velocity)

    def drift(step, leapfrogs):
        end, v = path.leapfrog(point, velocity, 0.7, step, leapfrogs)
        return (0.5 * (v**2 - velocity**2).sum(-1) - end.log_density(0.7) + point.log_density(0.7)).abs().mean()

    assert 3 < drift(0.1, 10) / drift(0.05, 20) < 5  # an integrator of second order


def test_one_gradient_a_leapfrog_step(small):
    rows = []

    def counted(z):
        rows.append(z.shape[0])
        return small.target(z)

    settings = fixed(10, 0.1, leapfrogs=3)
    annealed_importance_sampling(small.start, counted, settings, 4)
    assert sum(rows) == 4 * settings.evaluations and settings.evaluations == 1 + 9 * 3


# Settings.


def test_schedules():
    assert schedule(4, "linear") == (0.0, 0.25, 0.5, 0.75, 1.0)
    sigmoid = torch.tensor(schedule(100))
    torch.testing.assert_close(sigmoid + sigmoid.flip(0), torch.ones(101))
    low, high = torch.sigmoid(torch.tensor(-4.0)), torch.sigmoid(torch.tensor(4.0))
    torch.testing.assert_close(sigmoid[25], (torch.sigmoid(torch.tensor(-2.0)) - low) / (high - low))
    assert sigmoid[0] == 0 and sigmoid[-1] == 1


def test_tuned_acceptance_holds_on_other_rows(small):
    settings = small.tuned(60, chains=16)
    assert settings.betas == schedule(60) and settings.step_sizes[1] > 2 * settings.step_sizes[-2]
    assert all(type(value) is float for value in (*settings.betas, *settings.step_sizes))
    _, x = simulate(small.world.decoder(), small.prior, 50, seed=9)
    target = log_joint(small.world.decoder(), small.prior, x)
    found = annealed_importance_sampling(small.prior().expand((50,)), target, settings, 20)
    assert 0.6 < found.acceptance.mean() < 0.72


@pytest.mark.parametrize("start", ["prior", "fit"])
def test_a_figure_is_a_function_of_its_row(small, start):
    """Neither the rows beside it, nor their order, nor the memory matter."""
    settings = small.tuned(20)
    x, index = small.x, torch.arange(6) + 70

    def estimate(rows, chunk, order):
        def of(batch):
            r, tril = small.prior().expand(batch.x.shape[:1]), None
            if start == "fit":
                r = fitted_proposal(small.world.full_encoder()(batch.x), small.prior())
                tril = r.scale_tril
            target = log_joint(small.world.decoder(), small.prior, batch.x)
            return annealed_importance_sampling(r, target, settings, 5, tril, chunk)

        found = map_rows(of, Batch(x[order], index=index[order]), rows, 3, "ais")
        back = order.argsort()
        return found.log_weight[:, back], found.states[:, back], found.acceptance[back]

    whole = estimate(6, 4096, torch.arange(6))
    assert whole[0].std(0).min() > 1e-3
    torch.testing.assert_close(estimate(4, 7, torch.randperm(6)), whole, rtol=0, atol=1e-10)


def test_weights_of_the_decoder_are_left_alone():
    """And it works where Lightning tests: without gradients, in inference mode."""
    decoder, prior = BernoulliDecoder((5,), 2), StandardNormal(2)
    with torch.inference_mode():
        batch = Batch(torch.ones(6, 5), index=torch.arange(6))
        found = map_rows(
            lambda part: annealed_importance_sampling(
                prior().expand(part.x.shape[:1]), log_joint(decoder, prior, part.x), fixed(5, 0.1), 3
            ),
            batch,
            4,
            0,
        )
    assert found.log_weight.shape == (3, 6) and not found.log_weight.requires_grad
    assert all(p.requires_grad and p.grad is None for p in decoder.parameters())


# Bidirectional Monte Carlo.


def test_bidirectional_encloses_the_truth():
    case = Case(latent_dim=4, data_dim=10, rows=60)
    gaps = []
    for steps in (8, 32, 128):
        settings = case.tuned(steps)
        found = bidirectional(case.start, case.target, case.z, settings, 4)
        summary = found.summary()
        for bound, sign in (("lower", 1), ("upper", -1)):
            distance = sign * (case.truth - getattr(found, bound))
            assert distance.mean() > -5 * distance.std() / 60**0.5
        torch.testing.assert_close(summary["gap"][0], (found.upper - found.lower).mean().item())
        torch.testing.assert_close(summary["gap"][1], (found.upper - found.lower).std().item() / 60**0.5)
        gaps.append(summary["gap"][0])
    assert gaps[0] > 2 * gaps[1] > 4 * gaps[2] and gaps[2] < 0.3


def test_simulated_data_are_those_of_the_model(small):
    decoder, state = small.world.decoder(), torch.random.get_rng_state()
    z, x = simulate(decoder, small.prior, 20000, seed=5)
    assert (torch.random.get_rng_state() == state).all()
    again, other = (simulate(decoder, small.prior, 20000, seed=seed)[1] for seed in (5, 6))
    assert (again == x).all() and (other != x).all()
    assert_mean(z, 0.0, resolution=0.05)
    noise_of_x = x - z @ small.world.weight.T - small.world.bias
    assert_mean(noise_of_x.square(), 0.49, resolution=0.05)
    assert_mean(noise_of_x * z[:, :1], 0.0, resolution=0.05)


@pytest.mark.parametrize(
    ("key", "make"),
    [
        ("steps", lambda case: schedule(0)),
        ("schedule", lambda case: schedule(3, "cosine")),
        ("chains", lambda case: annealed_importance_sampling(case.start, case.target, fixed(2, 0.1), 0)),
        ("start", lambda case: annealed_importance_sampling(case.prior(), case.target, fixed(2, 0.1), 1)),
        ("chunk", lambda case: annealed_importance_sampling(case.start, case.target, fixed(2, 0.1), 1, chunk=0)),
        ("leapfrogs", lambda case: case.tuned(3, leapfrogs=0)),
        ("knots", lambda case: case.tuned(3, knots=1)),
        ("acceptance", lambda case: case.tuned(3, acceptance=1.0)),
        ("rows", lambda case: simulate(case.world.decoder(), case.prior, 0, 0)),
    ],
)
def test_refuses(small, key, make):
    with pytest.raises(ConfigurationError, match=rf"^{key}: "):
        make(small)


def test_weights_are_summed_in_double_precision():
    """3,000 terms of a third of a nat each: in single precision the sum is off by 0.02."""
    start = DiagonalNormal(torch.zeros(1, 2, dtype=torch.float32), torch.ones(1, 2, dtype=torch.float32))
    settings = AnnealingSettings(schedule(3000, "linear"), (0.5,) * 3001, 1)
    found = annealed_importance_sampling(start, lambda z: start.log_prob(z) + 1000.0, settings, 4)
    assert (found.log_weight.double() - 1000).abs().max() < 1e-3
