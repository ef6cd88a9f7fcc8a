"""The VAE on the linear-Gaussian model, where the posterior, the bound and log p(x) are all known."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from closed_forms import LINEAR, LinearGaussian, LinearMixture
from monte_carlo import assert_mean, flat_gradient
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from lightning_avb import (
    VAE,
    Batch,
    BernoulliDecoder,
    FlowEncoder,
    FullGaussianEncoder,
    GaussianDecoder,
    GaussianEncoder,
    MixturePrior,
    NoiseInjectionEncoder,
    SemiImplicitEncoder,
    StandardNormal,
    noise,
)
from lightning_avb.errors import ConfigurationError
from lightning_avb.evaluation import Quadrature, log_likelihood_on_grid

pytestmark = pytest.mark.usefixtures("float64")

ESTIMATORS = ("analytic", "monte_carlo")
every_estimator = pytest.mark.parametrize("estimator", ESTIMATORS)
every_elbo = pytest.mark.parametrize("estimator", (*ESTIMATORS, "importance_weighted"))


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


@every_elbo
def test_bound_is_tight_at_the_posterior(world, estimator):
    x = world.sample(4)
    scores = at_the_posterior(world, estimator, samples=20000).scores(Batch(x))
    assert_mean(scores["elbo"], world.log_marginal(x), resolution=0.1)


@every_elbo
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


@every_estimator
def test_a_full_covariance_holds_a_posterior_that_a_diagonal_one_cannot(estimator):
    world = LinearGaussian.correlated()
    x = world.sample(4)
    encoder, decoder = (partial(part, network=LINEAR) for part in (FullGaussianEncoder, GaussianDecoder))
    model = VAE(2, encoder, decoder, estimator=estimator, samples=20000, data_shape=(3,))
    model.encoder, model.decoder = world.full_encoder(), world.decoder()
    correlation = model.encoder(x).covariance_matrix[0]
    assert correlation[0, 1].abs() > 0.5 * correlation.diagonal().prod().sqrt()
    elbo = model.scores(Batch(x))["elbo"]
    assert_mean(elbo, world.log_marginal(x), resolution=0.1)
    if estimator == "monte_carlo":
        torch.testing.assert_close(elbo, world.log_marginal(x).expand_as(elbo))


# The importance-weighted bound.


def log_weights_by_hand(model, x, eps):
    """log p(x, z) - log q(z|x) of a linear model at z = m + s eps."""
    (mean, log_scale), layer = model.encoder.network(x).chunk(2, -1), model.decoder.network.layers[0]
    z = mean + log_scale.exp() * eps
    log_likelihood = Normal(z @ layer.weight.T + layer.bias, model.decoder.log_scale.exp()).log_prob(x).sum(-1)
    log_q = (-0.5 * eps.square() - log_scale - 0.5 * math.log(2 * math.pi)).sum(-1)
    return log_likelihood + Normal(0.0, 1.0).log_prob(z).sum(-1) - log_q


@pytest.mark.parametrize("samples", [1, 7])
def test_importance_weighted_loss_and_gradient_by_hand(world, samples):
    x, eps = world.sample(4), torch.randn(samples, 4, 2)
    model = away_from_it(world, "importance_weighted", samples=samples)
    with noise.use(lambda shape, like: eps):
        play, scores = model.learn(Batch(x)), model.scores(Batch(x))
    log_weights = log_weights_by_hand(model, x, eps)
    by_hand = -log_weights.exp().mean(0).log()
    torch.testing.assert_close(play.losses["model"], by_hand)
    torch.testing.assert_close(scores["iw_bound"], -by_hand)
    torch.testing.assert_close(scores["elbo"], log_weights)
    parameters = [*model.parameters()]
    found, truth = (flat_gradient(loss.mean(), parameters) for loss in (play.losses["model"], by_hand))
    torch.testing.assert_close(found, truth, rtol=1e-9, atol=1e-12)
    assert truth.abs().max() > 0.1


def test_importance_weighted_bound_rises_from_the_elbo_to_log_p_of_x(world):
    x = world.sample(4)
    of_x = x.repeat(2000, 1)  # bounds that are independent
    model, bounds, errors = away_from_it(world, "importance_weighted", samples=1), [], []
    for model.samples in (1, 4, 256):
        with torch.no_grad():
            found = model.scores(Batch(of_x))["iw_bound"].view(2000, 4)
        bounds.append(found.mean(0))
        errors.append(5 * found.std(0) / 2000**0.5)
    gap = kl_divergence(model.encoder(x), world.encoder()(x)).detach()
    assert (gap > 0.15).all()
    assert ((bounds[0] - (world.log_marginal(x) - gap)).abs() < errors[0]).all()
    for i in range(2):
        assert (bounds[i + 1] - bounds[i] > errors[i] + errors[i + 1]).all()
    assert (bounds[-1] < world.log_marginal(x) + errors[-1]).all()
    assert (bounds[-1] > world.log_marginal(x) - 0.3 * gap).all()


def test_importance_weights_at_the_posterior_are_log_p_of_x(world):
    """Every draw of them; and the decoder's gradient is that of maximum likelihood."""
    x = world.sample(50)
    model = at_the_posterior(world, "importance_weighted", samples=5)
    torch.testing.assert_close(model.scores(Batch(x))["iw_bound"], world.log_marginal(x))
    layer, parameters = model.decoder.network.layers[0], [*model.decoder.parameters()]
    likelihood = LinearGaussian(layer.weight, layer.bias, model.decoder.log_scale.exp()).log_marginal(x)
    truth = flat_gradient(-likelihood.mean(), parameters)
    draws = [flat_gradient(model.learn(Batch(x)).losses["model"].mean(), parameters) for _ in range(200)]
    assert truth.abs().max() > 0.1
    assert_mean(torch.stack(draws), truth, resolution=0.15)


def test_warm_up_weighs_the_kl_term_within_the_importance_weights(world):
    x = world.sample(3)
    play = away_from_it(world, "importance_weighted", samples=5, kl_warmup=4).learn(Batch(x))
    log_weights = -0.25 * play.scores["kl"] - play.scores["reconstruction"]
    torch.testing.assert_close(play.losses["model"], -log_weights.exp().mean(0).log())
    torch.testing.assert_close(play.scores["iw_bound"], play.scores["elbo"].exp().mean(0).log())


# Posteriors whose density is known in expectation only, where the test knows it.


def semi_implicit(world, mixing, size=1.0, narrow=0.65):
    """z = mean(x) + scale(x) (B e + narrow eps): the encoder, and its q(z|x) and q(e|z, x) as functions of x.

    Near p(z|x), with correlations of its own.
    """
    mixture = LinearMixture(size * torch.tensor([[0.8, 0.2], [-0.4, 0.7]]), narrow)
    encoder = mixture.encoder((3,), mixing)
    layer, exact = encoder.network.layers[0], world.encoder().network.layers[0]
    with torch.no_grad():
        layer.weight[:4], layer.bias[:4] = exact.weight, exact.bias + torch.tensor([-0.1, 0.1, 0.1, 0.0])

    def start(x):
        mean, log_scale = encoder.network(x)[:, :4].chunk(2, -1)
        return mean, log_scale.exp()

    return encoder, lambda x: mixture.marginal(*start(x)), lambda x, z: mixture.reverse(*start(x), z)


def test_a_semi_implicit_posterior_is_the_mixture_that_it_says(world):
    """Its draws are those of the closed form, which is no diagonal Gaussian."""
    (encoder, marginal, _), x = semi_implicit(world, mixing=1), world.sample(4)
    with torch.no_grad():
        q, z = marginal(x), encoder(x).rsample((20000,))
    assert_mean(z, q.mean, resolution=0.1)
    products = (z - q.mean).unsqueeze(-1) * (z - q.mean).unsqueeze(-2)
    assert_mean(products, q.covariance_matrix, resolution=0.1)
    assert (q.covariance_matrix[:, 0, 1].abs() > 0.01).all(), "an ordinary Gaussian"


def excess(encoder, marginal, x, samples=1):
    """What the upper bound of log q(z|x) says beyond it, for draws of q."""
    with torch.no_grad():
        z, log_q = encoder(x).rsample_and_log_prob((samples,))
        return log_q - marginal(x).log_prob(z)


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("mixing", [1, 5])
def test_semi_implicit_importance_weights_are_unbiased(world, mixing, samples):
    """E[q(z|x) / average density] is 1, z's own e among those averaged: sharper than any inequality."""
    (encoder, marginal, _), x = semi_implicit(world, mixing, size=0.4, narrow=0.9), world.sample(2)
    beyond = excess(encoder, marginal, x.repeat(10000, 1), samples).view(samples, 10000, 2)
    assert_mean((-beyond).exp().mean(0), 1.0, resolution=0.05)


def test_semi_implicit_density_is_bounded_from_above_and_gets_tight(world):
    x, means = world.sample(2), []
    for mixing in (1, 4, 16, 64, 256):
        encoder, marginal, _ = semi_implicit(world, mixing)
        beyond = excess(encoder, marginal, x.repeat(2000, 1)).view(2000, 2)
        error = 5 * beyond.std(0) / 2000**0.5
        assert (beyond.mean(0) > -error).all()
        if means:
            assert (means[-1][0] - beyond.mean(0) > 0.2 * means[-1][0]).all(), "no fall"
        means.append((beyond.mean(0), error))
    assert (means[0][0] > 0.3).all() and (means[-1][0] < 0.02).all()


@pytest.mark.parametrize("mixing", [1, 5])
def test_semi_implicit_density_is_bounded_given_z_too(world, mixing):
    """At chosen z: its own e comes from q(e|z, x), the others from their prior."""
    encoder, marginal, reverse = semi_implicit(world, mixing)
    x = world.sample(2)
    x, z = (part.repeat(4000, 1) for part in (x, marginal(x).sample() + 0.5))
    with torch.no_grad():
        own = reverse(x, z).sample()
        with noise.use(lambda shape, like: own[None]):
            q = encoder(x).components(1)
        noises = iter([torch.cat([own[None], torch.randn(mixing, 8000, 2)]), (z - q.loc) / q.scale])
        with noise.use(lambda shape, like: next(noises)):
            drawn, log_q = encoder(x).rsample_and_log_prob((1,))
    torch.testing.assert_close(drawn[0], z)
    beyond = (log_q - marginal(x).log_prob(z))[0].view(4000, 2)
    assert (beyond.mean(0) > 5 * beyond.std(0) / 4000**0.5).all()


def at_world(world, encoder, estimator="monte_carlo", samples=1):
    model = VAE(2, decoder=partial(GaussianDecoder, network=LINEAR), estimator=estimator, data_shape=world.data_shape)
    model.encoder, model.decoder, model.samples = encoder, world.decoder(), samples
    return model


def posterior(world, x):
    q = world.encoder()(x)
    return MultivariateNormal(q.mean, q.variance.diag_embed())


@torch.no_grad()
def bound_of(model, x, name, repeats):
    """Independent draws of it, `(repeats, batch)`."""
    found = model.scores(Batch(x.repeat(repeats, 1)))[name]
    return found.view(-1, repeats, len(x)).mean(0)


@pytest.mark.parametrize("mixing", [1, 64])
def test_elbo_of_a_semi_implicit_posterior_is_a_bound(world, mixing):
    """Below log p(x) - KL(q(z|x), p(z|x)), which it nears as `mixing` grows; importance weights lift it, not over
    log p(x)."""
    x = world.sample(2)
    encoder, marginal, _ = semi_implicit(world, mixing)
    tight = world.log_marginal(x) - kl_divergence(marginal(x), posterior(world, x)).detach()
    elbo = bound_of(at_world(world, encoder), x, "elbo", 4000)
    beyond = excess(encoder, marginal, x.repeat(4000, 1)).view(4000, 2)
    assert_mean(elbo + beyond, tight, resolution=0.2)  # independent draws of both
    assert_mean(elbo, tight - beyond.mean(0), resolution=0.2)
    if mixing == 1:
        assert (elbo.mean(0) + 5 * elbo.std(0) / 4000**0.5 < tight).all()
    weighted = bound_of(at_world(world, encoder, "importance_weighted", 50), x, "iw_bound", 1000)
    error = 5 * weighted.std(0) / 1000**0.5
    assert (weighted.mean(0) > tight + error).all()
    assert (weighted.mean(0) < world.log_marginal(x) + error).all()


# What an estimator cannot do.


@pytest.mark.parametrize("parts", [{"encoder": FlowEncoder}, {"encoder": SemiImplicitEncoder}, {"prior": MixturePrior}])
def test_a_divergence_without_closed_form_is_refused(parts):
    x = Batch(torch.randn(4, 3))
    model = VAE(2, decoder=GaussianDecoder, estimator="analytic", data_shape=(3,), **parts)
    with pytest.raises(ConfigurationError, match=r"no KL divergence in closed form .*; take estimator: monte_carlo$"):
        model.learn(x)
    for estimator in ("monte_carlo", "importance_weighted"):
        VAE(2, decoder=GaussianDecoder, estimator=estimator, data_shape=(3,), **parts).learn(x)


@every_elbo
def test_a_black_box_is_refused(estimator):
    model = VAE(2, NoiseInjectionEncoder, GaussianDecoder, estimator=estimator, data_shape=(3,))
    with pytest.raises(ConfigurationError, match=r"^encoder: a VAE needs q\(z\|x\) with a density"):
        model.learn(Batch(torch.randn(4, 3)))


@pytest.mark.parametrize("latent_dim", [1, 2])
def test_quadrature_is_exact(world, latent_dim):
    world = LinearGaussian(world.weight[:, :latent_dim], world.bias, world.scale)
    x = world.sample(5)
    found = log_likelihood_on_grid(
        world.decoder(), StandardNormal(latent_dim), x, Quadrature.grid(latent_dim), elements=3000
    )
    torch.testing.assert_close(found, world.log_marginal(x), rtol=0, atol=1e-8)


def test_likelihoods_of_all_binary_data_sum_to_one():
    decoder, x = BernoulliDecoder((3,), 2), torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)
    found = log_likelihood_on_grid(decoder, StandardNormal(2), x, Quadrature.grid(2))
    assert abs(found.exp().sum().item() - 1) < 1e-9


def test_quadrature_refuses_three_dimensions():
    with pytest.raises(ConfigurationError, match=r"^latent_dim: 3"):
        Quadrature.grid(3)
