"""The VAE on the linear-Gaussian model, where the posterior, the bound and log p(x) are all known."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from monte_carlo import assert_mean, flat_gradient
from torch.distributions import kl_divergence
from worlds import LINEAR, LinearGaussian

from lightning_avb import VAE, Batch, BernoulliDecoder, GaussianDecoder, GaussianEncoder, StandardNormal
from lightning_avb.errors import ConfigurationError
from lightning_avb.evaluation import Quadrature, log_likelihood

pytestmark = pytest.mark.usefixtures("float64")

ESTIMATORS = ("analytic", "monte_carlo")
every_estimator = pytest.mark.parametrize("estimator", ESTIMATORS)


def at_the_posterior(world, estimator, samples, **options):
    encoder, decoder = (partial(part, network=LINEAR) for part in (GaussianEncoder, GaussianDecoder))
    shape = world.data_shape
    model = VAE(world.latent_dim, encoder, decoder, estimator=estimator, samples=samples, data_shape=shape, **options)
    model.encoder.load_state_dict(world.encoder().state_dict())
    model.decoder.load_state_dict(world.decoder().state_dict())
    return model


def away_from_it(*arguments, **options):
    model = at_the_posterior(*arguments, **options)
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def elbo_in_closed_form(model, x):
    """E_q log p(x|z) - KL(q, p) of a linear model."""
    q, layer, log_scale = model.encoder(x), model.decoder.network.layers[0], model.decoder.log_scale
    squares = (x - layer(q.mean)).square().sum(-1) + (q.variance * layer.weight.square().sum(0)).sum(-1)
    log_normaliser = x.shape[-1] * (log_scale + 0.5 * math.log(2 * math.pi))
    return -0.5 * squares * (-2 * log_scale).exp() - log_normaliser - kl_divergence(q, model.prior())


@pytest.fixture
def world(float64):
    return LinearGaussian.example()


@every_estimator
def test_bound_is_tight_at_the_posterior(world, estimator):
    x = world.sample(4)
    scores = at_the_posterior(world, estimator, samples=20000).scores(Batch(x))
    assert_mean(scores["elbo"], world.log_marginal(x), resolution=0.1)


@every_estimator
def test_bound_is_below_by_the_divergence_from_the_posterior(world, estimator):
    x = world.sample(4)
    model = away_from_it(world, estimator, samples=50000)
    gap = kl_divergence(model.encoder(x), world.encoder()(x)).detach()
    assert (gap > 0.15).all()
    scores = model.scores(Batch(x))
    assert_mean(scores["elbo"], world.log_marginal(x) - gap, resolution=0.1)
    torch.testing.assert_close(scores["elbo"], -scores["reconstruction"] - scores["kl"])
    torch.testing.assert_close(elbo_in_closed_form(model, x), world.log_marginal(x) - gap)


def test_variance_of_the_estimators(world):
    """At the posterior Monte Carlo has none, every draw is log p(x); beside a decoder deaf to z `analytic` has none."""
    x = world.sample(4)
    deaf = LinearGaussian(torch.zeros_like(world.weight), world.bias, world.scale)
    analytic, monte_carlo = (at_the_posterior(world, name, 1000).scores(Batch(x))["elbo"] for name in ESTIMATORS)
    torch.testing.assert_close(monte_carlo, world.log_marginal(x).expand(1000, 4))
    assert (analytic.std(0) > 0.3).all()
    analytic, monte_carlo = (away_from_it(deaf, name, 1000).scores(Batch(x))["elbo"] for name in ESTIMATORS)
    assert (analytic.std(0) < 1e-12).all() and (monte_carlo.std(0) > 0.1).all()


@every_estimator
def test_gradient_is_that_of_the_bound(world, estimator):
    """Of encoder, decoder and its learned scale, in expectation."""
    x = world.sample(4)
    model = away_from_it(world, estimator, samples=500)
    model.decoder.network.layers[0].weight.data *= 1.3
    parameters = [*model.parameters()]
    truth = flat_gradient(-elbo_in_closed_form(model, x).mean(), parameters)
    draws = [flat_gradient(model.learn(Batch(x)).losses["model"].mean(), parameters) for _ in range(60)]
    assert truth.abs().max() > 1
    assert_mean(torch.stack(draws), truth, resolution=0.15)


@every_estimator
def test_warm_up_weighs_the_kl_term_alone(world, estimator):
    play = at_the_posterior(world, estimator, samples=5, kl_warmup=4).learn(Batch(world.sample(3)))
    expected = 0.25 * play.scores["kl"] + play.scores["reconstruction"]
    torch.testing.assert_close(play.losses["model"], expected)


@pytest.mark.parametrize("latent_dim", [1, 2])
def test_quadrature_is_exact(world, latent_dim):
    world = LinearGaussian(world.weight[:, :latent_dim], world.bias, world.scale)
    x = world.sample(5)
    found = log_likelihood(world.decoder(), StandardNormal(latent_dim), x, Quadrature.grid(latent_dim), elements=3000)
    torch.testing.assert_close(found, world.log_marginal(x), rtol=0, atol=1e-8)


def test_likelihoods_of_all_binary_data_sum_to_one():
    decoder, x = BernoulliDecoder((3,), 2), torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)
    found = log_likelihood(decoder, StandardNormal(2), x, Quadrature.grid(2))
    assert abs(found.exp().sum().item() - 1) < 1e-9


def test_quadrature_refuses_three_dimensions():
    with pytest.raises(ConfigurationError, match=r"^latent_dim: 3"):
        Quadrature.grid(3)
