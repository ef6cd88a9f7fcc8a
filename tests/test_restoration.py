"""Inpainting and denoising, where the answer is known."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from closed_forms import LinearGaussian

from lightning_avb import Batch, BernoulliDecoder, DiscretizedLogisticDecoder, StandardNormal
from lightning_avb.errors import ConfigurationError
from lightning_avb.evaluation.restoration import denoise, inpaint, visible

pytestmark = pytest.mark.usefixtures("float64")

DRAWS = 600


def linear_model(world):
    decoder = world.decoder()
    return SimpleNamespace(
        decoder=decoder, prior=StandardNormal(world.latent_dim), decode=lambda z, y: decoder(z, y).mean.detach()
    )


def posterior_mean(world, x, weights):
    """E[z | x] where dimension j of x has noise of precision weights[j]."""
    precision = torch.eye(world.latent_dim) + world.weight.T @ (weights[:, None] * world.weight)
    return torch.linalg.solve(precision, world.weight.T @ (weights * (x - world.bias)).T).T, precision.inverse()


def assert_draws_of(world, found, mean, covariance):
    """Means of p(x|z) for z ~ N(mean, covariance)."""
    expected = mean @ world.weight.T + world.bias
    spread = (world.weight @ covariance @ world.weight.T).diagonal().sqrt()
    error = spread / DRAWS**0.5
    assert ((found.mean(0) - expected).abs() < 6 * error + 1e-9).all()
    torch.testing.assert_close(found.std(0), spread.expand_as(expected), rtol=0.25, atol=1e-3)


def test_hidden_dimensions_are_drawn_from_their_conditional():
    world = LinearGaussian.example()
    x, mask = world.sample(3), torch.tensor([True, False, True])
    mean, covariance = posterior_mean(world, x, mask / world.scale**2)
    found = inpaint(linear_model(world), Batch(x), mask, DRAWS, chains=DRAWS, steps=40)
    assert torch.equal(found[..., mask], x[:, mask].expand(DRAWS, -1, -1))
    spread = (world.weight @ covariance @ world.weight.T).diagonal().sqrt()[1]
    expected = (mean @ world.weight.T + world.bias)[:, 1]
    assert ((found[..., 1].mean(0) - expected).abs() < 6 * spread / DRAWS**0.5).all()
    torch.testing.assert_close(found[..., 1].std(0), spread.expand(3), rtol=0.25, atol=0)
    encoder_mean, _ = posterior_mean(world, x, torch.full((3,), world.scale**-2))
    assert ((encoder_mean - mean).abs().amax(1) > 0.01).all(), "the hidden dimension would not have mattered"


def test_noise_makes_the_posterior_wider():
    world, level = LinearGaussian.example(), 0.8
    x = world.sample(3)
    mean, covariance = posterior_mean(world, x, torch.full((3,), 1 / (world.scale**2 + level**2)))
    found = denoise(linear_model(world), Batch(x), level, DRAWS, chains=DRAWS, steps=40)
    assert_draws_of(world, found, mean, covariance)


def test_wrong_bits_are_a_mixture():
    decoder, z = BernoulliDecoder((1, 4, 4), 2), torch.randn(5, 2)
    clean = decoder(z).mean
    torch.testing.assert_close(decoder.noisy(z, 0.2).mean, 0.8 * clean + 0.2 * (1 - clean))
    x = torch.ones(400, 1, 4, 4)
    assert abs(decoder.corrupt(x, 0.2).mean().item() - 0.8) < 0.03


def test_masks():
    assert visible("left", (1, 4, 6)).sum() == 12 and not visible("left", (1, 4, 6))[:, :3].any()
    assert not visible("bottom", (1, 5, 6))[3:].any() and visible("bottom", (1, 5, 6))[:3].all()
    assert not visible("top", (1, 5, 6))[:2].any() and visible("top", (1, 5, 6))[2:].all()
    assert not visible("right", (1, 4, 5))[:, 3:].any() and visible("right", (1, 4, 5))[:, :3].all()
    assert (~visible("center", (3, 8, 8))).sum() == 16
    with pytest.raises(ConfigurationError, match="mask: 'middle' is none of left"):
        visible("middle", (1, 4, 4))
    with pytest.raises(ConfigurationError, match="no pictures"):
        visible("left", (5,))


@pytest.mark.parametrize("level", [0.0, 0.5, -1.0])
def test_noise_that_makes_no_sense_is_refused(level):
    with pytest.raises(ConfigurationError, match=r"^noise: "):
        BernoulliDecoder((3,), 2).noisy(torch.zeros(1, 2), level)


def test_a_likelihood_without_a_noise_model_says_so():
    with pytest.raises(ConfigurationError, match="DiscretizedLogisticDecoder has no model of noisy data"):
        DiscretizedLogisticDecoder((3,), 2).noisy(torch.zeros(1, 2), 0.1)
