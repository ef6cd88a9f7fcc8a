"""A posterior that is Gaussian given its noise: bounds of its density, what it tells of itself, and who uses that.

`LocatedShapes` has a density, and a shape that depends on x through its features.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from closed_forms import LINEAR, TwoShapes, perturbed
from monte_carlo import ERRORS, assert_mean, flat_gradient, standard_error

from lightning_avb import (
    AVB,
    MLP,
    VAE,
    Batch,
    GaussianContrast,
    GaussianDecoder,
    NoiseInjectionEncoder,
    PooledMixtureEncoder,
    PriorContrast,
    ResidualCritic,
    SemiImplicitEncoder,
    StandardNormal,
    noise,
)
from lightning_avb.capabilities import DensityBounds, Located, can
from lightning_avb.density_ratio import DensityRatio
from lightning_avb.distributions import DiagonalNormal, LocatedMixture, SemiImplicit
from lightning_avb.networks import Critic

pytestmark = pytest.mark.usefixtures("float64")


def rows():
    return torch.tensor([[0.0], [1.0], [0.4]])


SMALL = partial(MLP, hidden=(8,))
ENCODERS = {
    "semi-implicit": partial(SemiImplicitEncoder, network=SMALL, noise_hidden=(8,), width_range=1.0),
    "pooled mixture": partial(PooledMixtureEncoder, network=SMALL, width=8),
}


class LocatedShapes(TwoShapes):
    """`TwoShapes` as a `LocatedMixture`: sign(e) is its mixing noise, and its feature is x."""

    feature_dim = 1

    def forward(self, x, y=None):
        a, width = self._shape(x)
        location, scale = self.mean.expand_as(x), self.log_scale.exp().expand_as(x)

        def components(samples):
            h = a * noise.normal((samples, len(x), 1), x).sign()
            return DiagonalNormal(location + scale * h, (scale * width).expand_as(h))

        return LocatedMixture(components, location, scale, x)


class OptimalCritic(Critic):
    """T*(features, u~) = log q(u | features) - log r(u), for u = shift + stretch u~, as the critic is told them."""

    def __init__(self, shapes):
        super().__init__()
        self.shapes = shapes

    def forward(self, x, z, context=None):
        shift, log_stretch = context.chunk(2, -1)
        u, log_r = shift + log_stretch.exp() * z, StandardNormal(1)().log_prob(z) - log_stretch.sum(-1)
        mean, scale = self.shapes.mean, self.shapes.log_scale.exp()
        return self.shapes.log_prob(x, mean + scale * u) + self.shapes.log_scale - log_r


# The density and its bounds.


def test_the_draws_are_those_of_the_density():
    """Of the fixture: E[exp(t z)] as the integral over its density."""
    shapes = LocatedShapes()
    z, line = shapes(rows()).rsample((40000,)), torch.linspace(-5, 6, 20001)
    density = shapes.log_prob(rows(), line.view(-1, 1, 1)).exp()
    for t in (1.0, -2.0):
        truth = ((t * line).exp().unsqueeze(1) * density).sum(0) * (11 / 20000)
        assert_mean((t * z).exp().squeeze(-1).detach(), truth.detach(), resolution=0.5)


@pytest.mark.parametrize("components", [1, 3])
def test_bounds_of_the_density_lie_on_their_sides(components):
    """With the own component left out below, and with it above; both far enough to be seen."""
    shapes, lower, upper, truth = LocatedShapes(), [], [], []
    for _ in range(3000):
        z, below, above = shapes(rows()).rsample_and_bounds(1, components)
        lower.append(below[0]), upper.append(above[0]), truth.append(shapes.log_prob(rows(), z)[0])
    lower, upper, truth = (torch.stack(part).detach() for part in (lower, upper, truth))
    mixed = rows()[:, 0] < 1  # at x = 1 all components are one
    for gap in (truth - lower, upper - truth):
        least = gap.mean(0) - ERRORS * standard_error(gap)
        assert (least[mixed] > 0).all()
        torch.testing.assert_close(gap[:, ~mixed], torch.zeros_like(gap[:, ~mixed]))


def test_bounds_of_the_density_meet():
    shapes = LocatedShapes()
    z, lower, upper = shapes(rows()).rsample_and_bounds(50, 20000)
    truth = shapes.log_prob(rows(), z)
    torch.testing.assert_close(lower, truth, atol=0.05, rtol=0)
    torch.testing.assert_close(upper, truth, atol=0.05, rtol=0)


def test_a_draw_with_its_upper_bound():
    """`others` components beside those of the draws: the more, the tighter."""
    gaps = []
    for others in (0, 4, 200):
        shapes = LocatedShapes()
        q = shapes(rows()[:1])
        q = SemiImplicit(q.components, q.batch_shape, q.event_shape, others)
        pairs = [q.rsample_and_log_prob((1,)) for _ in range(2000)]
        gaps.append(torch.cat([log_q - shapes.log_prob(rows()[:1], z) for z, log_q in pairs]).detach())
    assert (gaps[0] - gaps[1]).mean() > 0.3 and (gaps[1] - gaps[2]).mean() > 0.03
    assert gaps[2].mean() > -ERRORS * standard_error(gaps[2]) and gaps[2].mean() < 0.02


@pytest.mark.parametrize("make", ENCODERS.values(), ids=ENCODERS)
def test_moments_are_those_of_the_draws(make):
    """From the components' means and variances; scale and mixing both count."""
    q = perturbed(make((3,), 2), 0.3)(torch.randn(4, 3))
    mean, deviation = q.moments(20000)
    z = q.rsample((40000,)).detach()
    assert_mean(z, mean, resolution=0.2)
    assert_mean((z - mean).square(), deviation.square(), resolution=0.6)


def test_spread_noise_has_the_moments_of_a_normal():
    """Exactly, up to the third: mean, covariance, and all products of three."""
    for count, dim in ((1, 3), (7, 3), (40, 5)):
        points = noise.spread(count, dim, torch.zeros(()))
        assert len(points) >= count and len(points) % (2 * dim) == 0 and points.shape[1] == dim
        torch.testing.assert_close(points.mean(0), torch.zeros(dim))
        torch.testing.assert_close(points.T @ points / len(points), torch.eye(dim))
        third = torch.einsum("ni,nj,nk->ijk", points, points, points)
        torch.testing.assert_close(third, torch.zeros(dim, dim, dim))


# What the encoder tells.


def test_location_scale_and_features_are_all_there_is():
    """(z - location) / scale from the same noise is the same for rows with the same features, wherever they lie."""
    encoder, x = perturbed(ENCODERS["semi-implicit"]((3,), 2), 0.3), torch.randn(4, 3)
    standard = []
    for move in (0.0, 3.0):
        torch.nn.init.constant_(encoder.network.layers[-1].bias[: 2 * encoder.latent_dim], move)
        q = encoder(x)
        assert can(q, Located, DensityBounds) and q.features.shape == (4, encoder.feature_dim)
        with noise.use(noise.RowNoise(0, index=torch.arange(4))):
            standard.append((q.rsample((5,)) - q.location) / q.scale)
    torch.testing.assert_close(*standard)


def test_noise_reaches_the_shape_from_the_first_step():
    """The slope of KL(q, p) by the last layer is not the same for all noises: no saddle at the start."""
    encoder, x = SemiImplicitEncoder((3,), 2, network=SMALL), torch.randn(64, 3)
    *_, weight, _ = encoder.shape.parameters()
    z = encoder(x).rsample((64,))
    # A target with correlated dimensions, which location and scale alone cannot give.
    tilted = z @ torch.tensor([[1.0, 0.9], [0.9, 1.0]]).inverse()
    (slope,) = torch.autograd.grad((0.5 * (tilted * z).sum(-1)).mean(), weight)
    assert slope[:2].abs().max() > 0.02


# The contrast and the critic.


def judged(shapes, z, draws):
    ratio = DensityRatio(OptimalCritic(shapes), GaussianContrast((1,), 1, draws=draws))
    return ratio(StandardNormal(1)(), shapes(rows()), z, rows())


@pytest.mark.parametrize("draws", [2, 6, 100])
def test_the_optimal_critic_gives_the_divergence_for_any_moments(draws):
    shapes = LocatedShapes()
    z = shapes(rows()).rsample((200,)).detach()
    truth = shapes.log_prob(rows(), z) - StandardNormal(1)().log_prob(z)
    torch.testing.assert_close(judged(shapes, z, draws=draws).kl, truth)


def test_gradient_of_the_divergence_with_moments_attached():
    """By location, scale and shape; the critic's own copy of q is constant, as its weights are in training."""
    shapes, frozen = LocatedShapes(), LocatedShapes().requires_grad_(False)
    parameters = [*shapes.parameters()]
    truth = flat_gradient(shapes.kl(rows()).mean(), parameters)

    def draw():
        ratio = DensityRatio(OptimalCritic(frozen), GaussianContrast((1,), 1, draws=6))
        q = shapes(rows())
        return flat_gradient(ratio(StandardNormal(1)(), q, q.rsample((500,)), rows()).kl.mean(), parameters)

    assert truth.abs().min() > 0.05
    assert_mean(torch.stack([draw() for _ in range(100)]), truth, resolution=0.1)


def test_the_entropy_of_the_scale_has_an_exact_gradient():
    """-1 by every log scale, for any critic, any moments and a flat p: attached, not estimated."""
    shapes, flat = LocatedShapes(), DiagonalNormal(torch.zeros(1), torch.full((1,), 1e8))
    shapes.mean.requires_grad_(False), shapes.spread.requires_grad_(False)
    ratio = DensityRatio(perturbed(ResidualCritic((1,), 1, 2, width=8)), GaussianContrast((1,), 1, draws=4))
    q = shapes(rows())
    kl = ratio(flat, q, q.rsample((50,)), rows()).kl
    for row in kl.flatten()[:20]:
        (slope,) = torch.autograd.grad(row, shapes.log_scale, retain_graph=True)
        torch.testing.assert_close(slope, torch.tensor(-1.0), atol=1e-9, rtol=0)


class Blind(ResidualCritic):
    def forward(self, x, z, context=None):
        return super().forward(torch.zeros_like(x), z, context)


@pytest.mark.parametrize(("critic", "correct"), [(ResidualCritic, True), (Blind, False)])
def test_a_critic_on_features_finds_the_divergence(critic, correct):
    """And one without them does not."""
    shapes, steps = LocatedShapes(), 200
    ratio = DensityRatio(critic((1,), 1, 2, width=32, network=LINEAR), GaussianContrast((1,), 1, draws=64))
    optimizer = torch.optim.Adam(ratio.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    both, p = rows()[:2], StandardNormal(1)()
    for _ in range(steps):
        with torch.no_grad():
            q = shapes(both.repeat(32, 1))
            z = q.rsample((16,))
        optimizer.zero_grad()
        ratio(p, q, z, both.repeat(32, 1)).losses["critic"].mean().backward()
        optimizer.step(), schedule.step()
    with torch.no_grad():
        q = shapes(both)
        distance = (ratio(p, q, q.rsample((20000,)), both).kl.mean(0) - shapes.kl(both)).abs().max()
    assert distance < 0.06 if correct else distance > 0.12


@pytest.mark.parametrize(
    ("contrast", "encoder", "inputs"),
    [
        (GaussianContrast, ENCODERS["semi-implicit"], 8),
        (GaussianContrast, partial(NoiseInjectionEncoder, hidden=(8,)), 3),
        (PriorContrast, ENCODERS["semi-implicit"], 3),
    ],
    ids=["adaptive contrast, features", "adaptive contrast, black box", "prior contrast"],
)
def test_what_the_critic_reads(contrast, encoder, inputs):
    """Features where they are told and are enough, else x: against the prior, the law of z depends on all of x."""
    model = AVB(2, encoder, GaussianDecoder, ResidualCritic, contrast, data_shape=(3,))
    assert model.density_ratio.critic.x_branch.layers[0].in_features == inputs
    scores = model.scores(Batch(torch.randn(5, 3)))
    assert all(score.isfinite().all() for score in scores.values())


# What is reported.


def test_bounds_of_the_elbo_enclose_it():
    """The ELBO by numerical integration; a bound of the wrong side, or without the prior, lies elsewhere."""
    model = AVB(1, decoder=partial(GaussianDecoder, network=LINEAR), samples=2000, components=2, data_shape=(1,))
    model.encoder = shapes = LocatedShapes()
    line = torch.linspace(-5, 6, 20001).view(-1, 1, 1)
    log_q = shapes.log_prob(rows(), line)
    integrand = model.decoder(line).log_prob(rows()) + model.prior().log_prob(line) - log_q
    elbo = ((log_q.exp() * integrand).sum(0) * (11 / 20000)).detach()
    few = [torch.stack([*model.bounds(Batch(rows()), shapes(rows())).values()]).mean(1) for _ in range(100)]
    few = torch.stack(few).detach()
    margin = ERRORS * standard_error(few)
    assert (few.mean(0)[0] + margin[0] < elbo)[[0, 2]].all() and (few.mean(0)[1] - margin[1] > elbo)[[0, 2]].all()
    model.components = 3000
    bounds = model.bounds(Batch(rows()), shapes(rows()))
    assert_mean(bounds["elbo_lower"].detach(), elbo, resolution=0.3)
    assert_mean(bounds["elbo_upper"].detach(), elbo, resolution=0.3)


def test_a_black_box_has_no_bounds():
    model = AVB(2, NoiseInjectionEncoder, GaussianDecoder, ResidualCritic, data_shape=(3,))
    assert not {"elbo_lower", "elbo_upper"} & set(model.scores(Batch(torch.randn(4, 3))))


def test_a_vae_learns_by_the_upper_bound_of_the_density():
    model = VAE(2, SemiImplicitEncoder, GaussianDecoder, estimator="monte_carlo", samples=4, data_shape=(3,))
    scores = model.scores(Batch(torch.randn(5, 3)))
    assert scores["elbo"].shape == (4, 5) and scores["elbo"].isfinite().all()
