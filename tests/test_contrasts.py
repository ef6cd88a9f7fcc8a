"""One contract for all contrasts: a density r(z|x) fixed given x, its draws, and what is constant to the gradient."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from closed_forms import LINEAR, TwoShapes, bounded_moments, perturbed
from monte_carlo import assert_mean, flat_gradient
from torch.autograd.functional import jacobian

from lightning_avb import (
    MLP,
    FlowEncoder,
    FlowPrior,
    FullGaussianContrast,
    GaussianContrast,
    GaussianEncoder,
    MixturePrior,
    NoiseBasisEncoder,
    NoiseInjectionEncoder,
    PooledMixtureEncoder,
    PriorContrast,
    SemiImplicitEncoder,
    StandardNormal,
    noise,
)
from lightning_avb.capabilities import Located, can
from lightning_avb.distributions import DiagonalNormal
from lightning_avb.evaluation import Quadrature

pytestmark = pytest.mark.usefixtures("float64")

SMALL = partial(MLP, hidden=(8,))
CONTRASTS = {
    "prior": PriorContrast,
    "gaussian": GaussianContrast,
    "full gaussian": FullGaussianContrast,
}
ENCODERS = {
    "gaussian": partial(GaussianEncoder, network=LINEAR),
    "flow": partial(FlowEncoder, network=SMALL, flow_hidden=(8,), features=4),
    "semi-implicit": partial(SemiImplicitEncoder, network=SMALL, noise_hidden=(8,), width_range=0.5),
    "pooled mixture": partial(PooledMixtureEncoder, network=SMALL, width=8),
    "noise injection": partial(NoiseInjectionEncoder, hidden=(8,), noise_dim=4),
    "noise basis": partial(NoiseBasisEncoder, network=SMALL, basis=3, noise_dim=2, basis_hidden=(4,), start=0.0),
}
PRIORS = {
    "standard": StandardNormal,
    "mixture": partial(MixturePrior, components=3),
    "flow": partial(FlowPrior, transforms=2, flow_hidden=(8,), bins=4),
}
every_contrast = pytest.mark.parametrize("contrast", CONTRASTS.values(), ids=CONTRASTS)
every_encoder = pytest.mark.parametrize("encoder", ENCODERS.values(), ids=ENCODERS)
every_prior = pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)
every_dim = pytest.mark.parametrize("latent_dim", [1, 2])


def scene(contrast, encoder=ENCODERS["noise injection"], prior=StandardNormal, latent_dim=2):
    """A contrast, and the q, p and x that it is asked about; all away from where they start."""
    x, (contrast, encoder) = torch.randn(4, 3), (perturbed(part((3,), latent_dim)) for part in (contrast, encoder))
    return contrast, encoder(x), perturbed(prior(latent_dim))(), x


# r is a density, and the critic sees its draws and those of q in one way.


@every_contrast
@every_prior
@every_dim
def test_r_integrates_to_one(contrast, prior, latent_dim):
    contrast, q, p, x = scene(contrast, prior=prior, latent_dim=latent_dim)
    points, log_weight = Quadrature.grid(latent_dim, 9.0, 3000 if latent_dim == 1 else 150)
    with torch.no_grad():
        z = points.unsqueeze(1).expand(-1, 4, -1)
        mass = (contrast(q, p, x).to_critic(z)[1] + p.log_prob(z) + log_weight).exp().sum(0)
    torch.testing.assert_close(mass, torch.ones(4), rtol=0, atol=5e-3)


@every_contrast
@every_prior
@every_dim
def test_density_of_r_is_that_of_its_draws(contrast, prior, latent_dim):
    """By the change of variables from z to what the critic sees, where draws of r are N(0, I), or the prior's."""
    contrast, q, p, x = scene(contrast, prior=prior, latent_dim=latent_dim)
    reference, z = contrast(q, p, x), torch.randn(3, 4, latent_dim)
    there = p if isinstance(contrast, PriorContrast) else StandardNormal(latent_dim)()
    seen, log_ratio = reference.to_critic(z)
    by_z = jacobian(lambda z: reference.to_critic(z)[0], z)
    own = by_z.diagonal(dim1=0, dim2=3).diagonal(dim1=0, dim2=2).permute(2, 3, 0, 1)
    assert by_z.count_nonzero() == own.count_nonzero(), "a draw is seen in the light of another"
    torch.testing.assert_close(log_ratio + p.log_prob(z), there.log_prob(seen) + torch.linalg.slogdet(own)[1])

    points, log_weight = Quadrature.grid(latent_dim, 9.0, 3000 if latent_dim == 1 else 150)
    with torch.no_grad():
        truth = (there.log_prob(points) + log_weight).exp() @ bounded_moments(points)
        assert_mean(bounded_moments(reference.rsample(20000)), truth, resolution=0.03)


@every_contrast
def test_every_row_has_its_own_reference_draws(contrast):
    contrast, q, p, x = scene(contrast)
    assert len(contrast(q, p, x).rsample(6).unique()) == 6 * 4 * 2


@every_contrast
@every_encoder
def test_nothing_but_the_draws_of_q_carries_a_gradient(contrast, encoder):
    """Constants: the moments of r, in the critic's view of z, in its context, in the draws of r and in log r alike.

    Of a `Located` q they are those of (z - location) / scale, and location and scale are held here.
    """
    contrast, q, p, x = scene(contrast, encoder)
    if can(q, Located):
        q.location, q.scale = q.location.detach(), q.scale.detach()
    reference, drawn = contrast(q, p, x), q.rsample((3,))
    views = [*reference.to_critic(torch.randn(3, 4, 2)), reference.rsample(3)]
    views += [view for view in (reference.context, reference.features) if view is not None]
    assert not any(view.requires_grad for view in views)
    seen, log_ratio = reference.to_critic(drawn)
    assert seen.requires_grad
    total = (seen.square() + log_ratio.square().unsqueeze(-1)).sum()
    # through the draws alone, as if the moments came from somewhere else
    apart = drawn.detach().requires_grad_()
    seen, log_ratio = reference.to_critic(apart)
    (by_draws,) = torch.autograd.grad((seen.square() + log_ratio.square().unsqueeze(-1)).sum(), apart)
    (by_all,) = torch.autograd.grad(total, drawn)
    torch.testing.assert_close(by_all, by_draws)


# The prior, when it learns.


@every_prior
def test_a_learned_prior_follows_q_and_nothing_else_does(prior):
    """log r - log p is zero: its gradient is that of -log p(z) in the prior, and none in z."""
    prior, z = perturbed(prior(2)), torch.randn(5, 4, 2, requires_grad=True)
    _, q, _, x = scene(PriorContrast)
    seen, log_ratio = PriorContrast((3,), 2)(q, prior(), x).to_critic(z)
    assert torch.equal(seen, z) and not log_ratio.any()
    parameters = [torch.zeros(1, requires_grad=True), *prior.parameters()]
    truth = flat_gradient(-prior().log_prob(z.detach()).sum() + 0 * parameters[0], parameters)
    assert truth.any() or isinstance(prior, StandardNormal)
    total = log_ratio.sum() + 0 * parameters[0].sum() + 0 * z.sum()
    torch.testing.assert_close(flat_gradient(total, parameters), truth)
    assert not torch.autograd.grad(total, z)[0].any()


# The moments of adaptive contrast.


def test_moments_are_those_of_the_draws_that_were_made_for_them():
    contrast, q, p, x = scene(partial(GaussianContrast, draws=4))
    with noise.use(noise.RowNoise(index=torch.arange(4))):
        reference = contrast(q, p, x)
    with noise.use(noise.RowNoise(index=torch.arange(4))):
        deviation, mean = torch.std_mean(q.rsample((4,)), 0)
    torch.testing.assert_close(reference.context, torch.cat([mean, deviation.log()], -1))
    z = torch.randn(3, 4, 2)
    torch.testing.assert_close(reference.to_critic(z)[0], (z - mean) / deviation)
    torch.testing.assert_close(reference.to_critic(z)[1], DiagonalNormal(mean, deviation).log_prob(z) - p.log_prob(z))


def test_closed_moments_are_preferred_to_draws():
    encoder, x = TwoShapes(), torch.tensor([[0.0], [1.0]])
    reference = GaussianContrast((1,), 1)(encoder(x), StandardNormal(1)(), x)
    mean, log_scale = reference.context.chunk(2, -1)
    assert torch.equal(mean, torch.full((2, 1), encoder.mean.item()))
    torch.testing.assert_close(log_scale, torch.full((2, 1), encoder.log_scale.item()))
    q, x = GaussianEncoder((3,), 2)(torch.randn(4, 3)), torch.randn(4, 3)
    context = GaussianContrast((3,), 2)(q, StandardNormal(2)(), x).context
    torch.testing.assert_close(context, torch.cat([q.mean, q.stddev.log()], -1))


def test_a_posterior_without_noise_stays_finite():
    contrast, _, p, x = scene(GaussianContrast)
    q = DiagonalNormal(torch.zeros(4, 2), torch.zeros(4, 2))
    reference = contrast(q, p, x)
    assert all(part.isfinite().all() for part in (*reference.to_critic(torch.zeros(3, 4, 2)), reference.context))


# What a q that is `Located` says of itself.


def test_the_critic_gets_the_features_where_the_encoder_has_some():
    for encoder in ENCODERS.values():
        encoder = perturbed(encoder((3,), 2))
        located = isinstance(encoder, SemiImplicitEncoder)
        for make in CONTRASTS.values():
            contrast, x = perturbed(make((3,), 2)), torch.randn(4, 3)
            q = encoder(x)
            features = contrast(q, StandardNormal(2)(), x).features
            assert (features is not None) == (located and make is GaussianContrast)
            if features is None:
                assert contrast.critic_shape(encoder, (3,)) == (3,)
            else:
                assert torch.equal(features, q.features)
                assert contrast.critic_shape(encoder, (3,)) == features.shape[1:]


def test_location_and_scale_carry_a_gradient_and_the_moments_of_the_noise_do_not():
    contrast, q, p, x = scene(GaussianContrast, ENCODERS["semi-implicit"])
    reference, z = contrast(q, p, x), torch.randn(3, 4, 2)
    assert not any(view.requires_grad for view in (reference.context, reference.features, reference.rsample(3)))
    shift, log_stretch = reference.context.chunk(2, -1)
    mean, scale = q.location + q.scale * shift, q.scale * log_stretch.exp()
    truth = (z - mean) / scale, DiagonalNormal(mean, scale).log_prob(z) - p.log_prob(z)
    found, weights = reference.to_critic(z), [torch.randn_like(view) for view in truth]
    for ours, theirs in zip(found, truth, strict=True):
        torch.testing.assert_close(ours, theirs)
    by_found, by_truth = (
        flat_gradient(sum((w * view).sum() for w, view in zip(weights, views, strict=True)), [q.location, q.scale])
        for views in (found, truth)
    )
    assert by_truth.all()
    torch.testing.assert_close(by_found, by_truth)


def test_no_contrast_has_parameters():
    for contrast in CONTRASTS.values():
        assert not [*contrast((3,), 2).parameters()]
