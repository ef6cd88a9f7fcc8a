"""AVB where the truth is known: the optimal critic, the divergence, the gradients and the equilibrium of the game.

A Gaussian posterior says little about adaptive contrast, whose optimal critic is then zero; `TwoShapes` is a posterior
whose standardised shape depends on x.
"""

from __future__ import annotations

from copy import deepcopy
from functools import partial

import pytest
import torch
from closed_forms import LINEAR, BlackBox, LinearGaussian, TwoShapes, perturbed
from monte_carlo import assert_mean, flat_gradient
from torch.distributions import kl_divergence
from torch.func import functional_call
from torch.nn.functional import softplus

from lightning_avb import (
    AVB,
    MLP,
    Batch,
    FlowEncoder,
    FlowPrior,
    FullGaussianContrast,
    FullGaussianEncoder,
    GaussianContrast,
    GaussianDecoder,
    GaussianEncoder,
    InnerProductCritic,
    MixturePrior,
    NoiseBasisEncoder,
    NoiseInjectionEncoder,
    Player,
    PooledMixtureEncoder,
    PriorContrast,
    ResidualCritic,
    SemiImplicitEncoder,
    StandardNormal,
    noise,
)
from lightning_avb.capabilities import Located, can
from lightning_avb.density_ratio import CriticTerms, DensityRatio
from lightning_avb.distributions import DiagonalNormal
from lightning_avb.errors import ConfigurationError
from lightning_avb.models.avb import AVBPlayers
from lightning_avb.networks import Critic
from lightning_avb.objectives import density_ratio_loss

SMALL = partial(MLP, hidden=(8,))
CONTRASTS = {
    "prior": PriorContrast,
    "gaussian": partial(GaussianContrast, draws=8),
    "full gaussian": partial(FullGaussianContrast, draws=32),
}
every_contrast = pytest.mark.parametrize("contrast", CONTRASTS.values(), ids=CONTRASTS)
DECODER = partial(GaussianDecoder, network=LINEAR)


def standard_log_prob(z):
    return StandardNormal(z.shape[-1]).to(z)().log_prob(z)


def told_moments(contrast, context, latent_dim):
    """m and L of N(m, L L^T), from what the critic is told: m and log s, or m and the triangle of L."""
    mean, scale = context.split([latent_dim, context.shape[-1] - latent_dim], -1)
    if not isinstance(contrast, FullGaussianContrast):
        return mean, torch.diag_embed(scale.exp())
    root = scale.new_zeros(*scale.shape[:-1], latent_dim, latent_dim)
    rows, columns = torch.tril_indices(latent_dim, latent_dim)
    root[..., rows, columns] = scale
    return mean, root


class OptimalCritic(Critic):
    """T*(x, z) = log q(z|x) - log r(z|x), from the density of q and from what the critic is told of r."""

    def __init__(self, encoder, contrast, prior):
        super().__init__()
        self.encoder = encoder
        self.contrast, self.prior = (deepcopy(part).requires_grad_(False) for part in (contrast, prior))

    def forward(self, x, z, context=None):
        log_r = (self.prior() if context is None else StandardNormal(z.shape[-1])()).log_prob(z)
        if context is not None:
            mean, root = told_moments(self.contrast, context, z.shape[-1])
            z, log_r = mean + (root @ z.unsqueeze(-1)).squeeze(-1), log_r - torch.linalg.slogdet(root).logabsdet
        return self.encoder.log_prob(x, z) - log_r


def two_shapes():
    encoder, x = TwoShapes(), torch.tensor([[0.0], [1.0], [0.0]])
    return encoder, x, encoder.kl


def black_box():
    """Two dimensions, a Gaussian of its own for every x, moments from draws."""
    encoder, x = BlackBox(GaussianEncoder((3,), 2, network=LINEAR)), torch.randn(4, 3)
    torch.nn.init.normal_(encoder.inside.network.layers[0].weight, std=0.4)
    return encoder, x, lambda x: kl_divergence(encoder.inside(x), StandardNormal(2)())


every_posterior = pytest.mark.parametrize("posterior", [two_shapes, black_box])

# Gradients from many draws: one dimension for what is told numbers, two for what is told matrices.
QUICK = {"prior": two_shapes, "gaussian": two_shapes, "full gaussian": black_box}
every_posterior_and_contrast = pytest.mark.parametrize(
    ("posterior", "contrast"),
    [
        pytest.param(posterior, contrast, id=f"{name}-{posterior.__name__}", marks=() if quick else pytest.mark.slow)
        for name, contrast in CONTRASTS.items()
        for posterior in (two_shapes, black_box)
        for quick in [QUICK[name] is posterior]
    ],
)


def game(encoder, x, contrast, optimal_for=None, samples=1, **options):
    """AVB with the given encoder and its optimal critic, beside a prior that has left its start.

    The critic knows a copy of the encoder that stands still, or the one that it is given.
    """
    latent_dim = encoder(x).event_shape[0]
    parts = GaussianEncoder, DECODER, ResidualCritic, contrast
    model = AVB(latent_dim, *parts, samples=samples, data_shape=x.shape[1:], **options)
    perturbed(model.prior)
    optimal_for = optimal_for or deepcopy(encoder).requires_grad_(False)
    model.encoder = encoder
    model.density_ratio.critic = OptimalCritic(optimal_for, model.density_ratio.contrast, model.prior)
    return model


def judged(model, x, z=None):
    p, q = model.prior(), model.encoder(x)
    return model.density_ratio(p, q, q.rsample((model.samples,)) if z is None else z, x)


# With the optimal critic.


@pytest.mark.usefixtures("float64")
@every_contrast
@every_posterior
def test_the_optimal_critic_gives_the_divergence(posterior, contrast):
    encoder, x, kl = posterior()
    model = game(encoder, x, contrast, samples=40000)
    z = encoder(x).rsample((40000,)).detach()
    found = judged(model, x, z).kl
    # T* + log r - log p is log q - log p for every draw and any r
    torch.testing.assert_close(found, (encoder.log_prob(x, z) - model.prior().log_prob(z)).detach())
    assert_mean(found, kl(x).detach(), resolution=0.1)


@pytest.mark.usefixtures("float64")
@every_contrast
@every_posterior
def test_the_optimal_critic_cannot_be_improved(posterior, contrast):
    """Its loss, convex in T, has no slope at T* towards T* + c and towards c T*."""
    encoder, x, _ = posterior()
    terms = judged(game(encoder, x, contrast, samples=40000), x)
    on_posterior, on_reference = terms.on_posterior.detach(), terms.on_reference.detach()
    slope = on_reference.sigmoid() - (-on_posterior).sigmoid()
    assert_mean(slope, 0.0, resolution=0.02)
    slope = on_reference * on_reference.sigmoid() - on_posterior * (-on_posterior).sigmoid()
    assert_mean(slope, 0.0, resolution=0.05)


@pytest.mark.usefixtures("float64")
@every_posterior_and_contrast
def test_expected_gradient_of_the_optimal_critic_is_zero(posterior, contrast):
    """E_q[grad_phi T*(x, z)] = 0 at fixed z (proposition 2): why AVB may treat the critic's weights as constants."""
    encoder, x, _ = posterior()
    parameters = [*encoder.parameters()]
    model = game(encoder, x, contrast, optimal_for=encoder)

    def draw():
        z = encoder(x).rsample((1300,)).detach()
        return flat_gradient(judged(model, x, z).on_posterior.mean(), parameters)

    draws = torch.stack([draw() for _ in range(100)])
    assert (draws.std(0) > 1e-4).all(), "T* does not depend on the encoder"
    assert_mean(draws, 0.0, resolution=0.1)


@pytest.mark.usefixtures("float64")
@every_posterior_and_contrast
def test_gradient_through_the_draws_is_that_of_the_divergence(posterior, contrast):
    encoder, x, kl = posterior()
    parameters = [*encoder.parameters()]
    model = game(encoder, x, contrast, samples=600)
    truth = flat_gradient(kl(x).mean(), parameters)
    draws = torch.stack([flat_gradient(judged(model, x).kl.mean(), parameters) for _ in range(100)])
    assert truth.abs().max() > 0.3
    assert_mean(draws, truth, resolution=0.15)


@pytest.mark.usefixtures("float64")
@every_contrast
def test_gradient_of_the_divergence_reaches_a_learned_prior(contrast):
    """Also where the prior is the reference, and T* depends on it."""
    encoder, x, _ = black_box()
    model = game(encoder, x, contrast, samples=500, prior=partial(MixturePrior, components=1))
    p = DiagonalNormal(model.prior.loc[0], model.prior.log_scale[0].exp())
    parameters = [model.prior.loc, model.prior.log_scale, *encoder.parameters()]
    truth = flat_gradient(kl_divergence(encoder.inside(x), p).mean(), parameters)
    draws = torch.stack([flat_gradient(judged(model, x).kl.mean(), parameters) for _ in range(100)])
    assert (truth[:4].abs() > 0.05).all()
    assert_mean(draws, truth, resolution=0.15)


# With a critic that learns.


class Blind(ResidualCritic):
    def forward(self, x, z, context=None):
        return super().forward(torch.zeros_like(x), z, context)


class WithDensityRatio(AVB):
    """AVB with another component."""

    def build(self, data_shape):
        super().build(data_shape)
        self.density_ratio = self.Broken(self.density_ratio.critic, self.density_ratio.contrast)


class SwappedLabels(WithDensityRatio):
    class Broken(DensityRatio):
        def forward(self, *given):
            terms = super().forward(*given)
            swapped = density_ratio_loss(terms.on_reference, terms.on_posterior)
            return terms._replace(losses={**terms.losses, "critic": swapped})


class ReferenceTwice(WithDensityRatio):
    class Broken(DensityRatio):
        def forward(self, *given):
            terms = super().forward(*given)
            twice = terms.losses["critic"] + softplus(terms.on_reference)
            return terms._replace(losses={**terms.losses, "critic": twice})


class PriorTooWide(PriorContrast):
    def forward(self, q, p, x, y=None):
        reference = super().forward(q, p, x, y)
        return reference._replace(rsample=lambda samples: 2 * reference.rsample(samples))


class GaussianTooWide(GaussianContrast):
    def forward(self, q, p, x, y=None):
        reference = super().forward(q, p, x, y)
        return reference._replace(rsample=lambda samples: 2 * reference.rsample(samples))


class NoRatio(GaussianContrast):
    def forward(self, q, p, x, y=None):
        reference = super().forward(q, p, x, y)
        return reference._replace(to_critic=lambda z: (reference.to_critic(z)[0], z.new_zeros(z.shape[:-1])))


class RatioWithoutScale(GaussianContrast):
    """log r of the standardised z, as if its volume were that of z."""

    def forward(self, q, p, x, y=None):
        reference = super().forward(q, p, x, y)

        def to_critic(z):
            seen, _ = reference.to_critic(z)
            return seen, p.log_prob(seen) - p.log_prob(z)

        return reference._replace(to_critic=to_critic)


class DividedByTheVariance(GaussianContrast):
    def forward(self, q, p, x, y=None):
        reference, (mean, scale) = super().forward(q, p, x, y), q.moments(self.draws)
        return reference._replace(to_critic=lambda z: ((z - mean) / scale.square(), reference.to_critic(z)[1]))


class FullGaussian(FullGaussianContrast):
    """With moments that leave the critic nothing to learn of their noise."""

    def __init__(self, data_shape, latent_dim, classes=0):
        super().__init__(data_shape, latent_dim, classes, draws=2000)


TOLERANCE = 0.06
"""In nats. Five standard errors of the evaluation are 0.025; trained from five seeds, correct critics ended within
0.045 of the truth and broken ones more than 0.15 from it."""

LEARNERS = {
    "prior": (True, PriorContrast, ResidualCritic, AVB),
    "prior, blind critic": (False, PriorContrast, Blind, AVB),
    "prior, swapped labels": (False, PriorContrast, ResidualCritic, SwappedLabels),
    "prior, reference counted twice": (False, PriorContrast, ResidualCritic, ReferenceTwice),
    "prior, reference too wide": (False, PriorTooWide, ResidualCritic, AVB),
    "gaussian": (True, GaussianContrast, ResidualCritic, AVB),
    "gaussian, blind critic": (False, GaussianContrast, Blind, AVB),
    "gaussian, swapped labels": (False, GaussianContrast, ResidualCritic, SwappedLabels),
    "gaussian, reference counted twice": (False, GaussianContrast, ResidualCritic, ReferenceTwice),
    "gaussian, reference too wide": (False, GaussianTooWide, ResidualCritic, AVB),
    "gaussian, no log r": (False, NoRatio, ResidualCritic, AVB),
    "gaussian, log r without scale": (False, RatioWithoutScale, ResidualCritic, AVB),
    "gaussian, divided by the variance": (False, DividedByTheVariance, ResidualCritic, AVB),
    "full gaussian": (True, FullGaussian, ResidualCritic, AVB),
    "full gaussian, reference counted twice": (False, FullGaussian, ResidualCritic, ReferenceTwice),
}


def learned_divergence(contrast, critic, method, steps):
    """What a small critic says of KL(q, p) after some steps on its own loss, for x = 0 and x = 1."""
    critic = partial(critic, width=32, network=LINEAR)
    model = method(1, GaussianEncoder, DECODER, critic, contrast, samples=16, data_shape=(1,))
    model.encoder = TwoShapes()
    optimizer = torch.optim.Adam(model.density_ratio.critic.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    both = torch.tensor([[0.0], [1.0]])
    for _ in range(steps):
        optimizer.zero_grad()
        sum(loss.mean() for loss in model.learn_critic(Batch(both.repeat(32, 1))).losses.values()).backward()
        optimizer.step()
        schedule.step()
    model.samples = 20000
    with torch.no_grad():
        return model.scores(Batch(both))["kl_estimate"].mean(0), model.encoder.kl(both)


TWICE = (f"{contrast}, reference counted twice" for contrast in ("prior", "full gaussian"))
ALIKE = {"prior, blind critic", "prior, swapped labels", *TWICE}
"""What the Gaussian contrast shows as well: a critic that is wrong in itself."""


@pytest.mark.parametrize(
    ("correct", "contrast", "critic", "method"),
    [
        pytest.param(*learner, id=name, marks=pytest.mark.slow if name in ALIKE else ())
        for name, learner in LEARNERS.items()
    ],
)
def test_a_learned_critic_finds_the_divergence_and_a_broken_one_does_not(correct, contrast, critic, method):
    # A critic without a contrast has more to learn.
    found, truth = learned_divergence(contrast, critic, method, 300 if contrast is PriorContrast else 150)
    distance = (found - truth).abs().max()
    assert distance < TOLERANCE if correct else distance > 2 * TOLERANCE


# The gradients of the players.

ENCODERS = {
    "gaussian": GaussianEncoder,
    "full gaussian": FullGaussianEncoder,
    "flow": partial(FlowEncoder, network=SMALL, features=4, flow_hidden=(8,)),
    "semi-implicit": partial(SemiImplicitEncoder, network=SMALL, noise_hidden=(8,), width_range=0.5),
    "pooled mixture": partial(PooledMixtureEncoder, network=SMALL, width=8),
    "noise injection": partial(NoiseInjectionEncoder, hidden=(8,), noise_dim=4),
    "noise basis": partial(NoiseBasisEncoder, network=SMALL, basis=3, noise_dim=2, basis_hidden=(4,), start=0.0),
}
PRIORS = {
    "mixture": partial(MixturePrior, components=3),
    "flow": partial(FlowPrior, transforms=2, flow_hidden=(8,), bins=4),
}
every_encoder = pytest.mark.parametrize("encoder", ENCODERS.values(), ids=ENCODERS)
TWO_KINDS = ("noise injection", "semi-implicit")
black_or_located = pytest.mark.parametrize("encoder", [ENCODERS[name] for name in TWO_KINDS], ids=TWO_KINDS)


def small_game(encoder, contrast, critic=ResidualCritic, **options):
    """A game away from its start, where no gradient vanishes."""
    critic = partial(critic, width=8, network=SMALL)
    return perturbed(AVB(2, encoder, DECODER, critic, contrast, data_shape=(3,), **options))


def separate_losses(model, batch):
    """All players' losses from passes of their own, in which everything that is constant has been detached.

    Beside `GaussianContrast` the critic of a `Located` q is told of u = (z - location) / scale and gets the features;
    location and scale are no constants.
    """
    x, y = batch.x, batch.y
    p, q = model.prior(), model.encoder(x, y)
    z = q.rsample((model.samples,))
    reference = model.density_ratio.contrast(q, p, x, y)
    drawn = reference.rsample(model.samples).detach()
    told = [] if y is None else [torch.nn.functional.one_hot(y, model.classes).to(x)]
    losses, given = {}, x
    if isinstance(model.density_ratio.contrast, PriorContrast):
        seen, log_ratio = z, p.log_prob(z).detach() - p.log_prob(z.detach())
    else:
        told.insert(0, reference.context.detach())
        mean, root = told_moments(model.density_ratio.contrast, reference.context.detach(), z.shape[-1])
        if isinstance(model.density_ratio.contrast, GaussianContrast) and can(q, Located):
            given = q.features.detach()
            mean, root = q.location + q.scale * mean, q.scale.unsqueeze(-1) * root
        volume = torch.linalg.slogdet(root).logabsdet
        seen = torch.linalg.solve(root, (z - mean).unsqueeze(-1)).squeeze(-1)
        log_ratio = standard_log_prob(seen) - volume - p.log_prob(z)
    context = torch.cat(told, -1) if told else None
    weights = {name: parameter.detach() for name, parameter in model.density_ratio.critic.named_parameters()}
    kl = functional_call(model.density_ratio.critic, weights, (given, seen, context)) + log_ratio
    on_posterior = model.density_ratio.critic(given, seen.detach(), context)
    on_reference = model.density_ratio.critic(given, drawn, context)
    losses["model"] = model.kl_weight * kl - model.decoder(z, y).log_prob(x)
    losses["critic"] = softplus(-on_posterior) + softplus(on_reference)
    return losses


def gradients(losses, model):
    """Of the summed loss, by every parameter of the model."""
    return torch.autograd.grad(sum(loss.mean() for loss in losses.values()), [*model.parameters()], allow_unused=True)


def assert_same_gradients(model, found, expected):
    for (name, _), ours, theirs in zip(model.named_parameters(), found, expected, strict=True):
        theirs = theirs if theirs is not None else torch.zeros_like(ours)
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")


def assert_every_player_gets_the_gradient_of_its_own_loss(model, batch):
    """One backward pass over the summed losses, as the engine results it, against separate graphs."""
    torch.manual_seed(1)
    result = model.learn(batch)
    torch.manual_seed(1)
    expected = separate_losses(model, batch)
    assert set(result.losses) == set(expected) == set(model.players)
    for player, loss in expected.items():
        torch.testing.assert_close(result.losses[player], loss)
    of_result, of_losses = gradients(result.losses, model), gradients(expected, model)
    assert all(gradient is not None and gradient.any() for gradient in of_losses)
    assert_same_gradients(model, of_result, of_losses)


@pytest.mark.usefixtures("float64")
@every_contrast
@every_encoder
@pytest.mark.parametrize("critic", [ResidualCritic, InnerProductCritic])
def test_every_player_gets_the_gradient_of_its_own_loss(encoder, contrast, critic):
    model = small_game(encoder, contrast, critic, samples=3, kl_warmup=2)
    assert_every_player_gets_the_gradient_of_its_own_loss(model, Batch(torch.randn(5, 3)))


@pytest.mark.usefixtures("float64")
@every_contrast
@black_or_located
@pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)
def test_a_learned_prior_results_with_the_model(prior, encoder, contrast):
    model = small_game(encoder, contrast, prior=prior, samples=3)
    assert_every_player_gets_the_gradient_of_its_own_loss(model, Batch(torch.randn(5, 3)))


@pytest.mark.usefixtures("float64")
@every_contrast
@black_or_located
@pytest.mark.parametrize("critic", [ResidualCritic, InnerProductCritic])
def test_every_player_is_told_the_label(contrast, encoder, critic):
    model = small_game(encoder, contrast, critic, samples=3, conditional=True, classes=4)
    batch = Batch(torch.randn(5, 3), torch.tensor([0, 1, 2, 3, 0]))
    assert_every_player_gets_the_gradient_of_its_own_loss(model, batch)


@pytest.mark.usefixtures("float64")
@every_contrast
@every_encoder
def test_a_phase_for_some_players_gives_the_same_gradient(encoder, contrast):
    model, batch = small_game(encoder, contrast, samples=3), Batch(torch.randn(5, 3))
    opponents = set(model.players) - {"model"}
    assert opponents == {"critic"}
    for phase, players in ((model.learn_model, {"model"}), (model.learn_critic, opponents)):
        torch.manual_seed(1)
        result = phase(batch)
        torch.manual_seed(1)
        expected = separate_losses(model, batch)
        assert set(result.losses) == players
        for player in players:
            parameters = [p for module in model.player_modules()[player] for p in module.parameters()]
            ours, theirs = (flat_gradient(losses[player].mean(), parameters) for losses in (result.losses, expected))
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
            assert theirs.any()


@every_contrast
@black_or_located
def test_the_critic_learns_on_draws_that_carry_no_gradient(encoder, contrast):
    model = small_game(encoder, contrast, prior=MixturePrior)
    sum(loss.mean() for loss in model.learn_critic(Batch(torch.randn(5, 3))).losses.values()).backward()
    for module in (model.encoder, model.decoder, model.prior):
        assert all(parameter.grad is None for parameter in module.parameters())
    assert all(parameter.grad is not None for parameter in model.density_ratio.critic.parameters())


@every_contrast
@every_encoder
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_mixed_precision_has_finite_gradients(encoder, contrast, dtype):
    model = small_game(encoder, contrast, samples=3, gradient_penalty=0.1)
    with torch.autocast("cpu", dtype):
        losses = model.learn(Batch(torch.randn(5, 3))).losses
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    for gradient in gradients(losses, model):
        assert gradient.isfinite().all()


def test_who_steps_when():
    for steps in (0, 1, 3):
        model = small_game(GaussianEncoder, PriorContrast, players=AVBPlayers(critic=Player(steps=steps)))
        assert tuple(model.players) == ("model", "critic")
        phases = [(phase.players, phase.compute.__name__) for phase in model.phases()]
        if steps == 0:
            assert phases == [(("model",), "learn_model")]
        else:
            assert phases == [(("model", "critic"), "learn"), *[(("critic",), "learn_critic")] * (steps - 1)]
    with pytest.raises(ConfigurationError, match=r"^players\.model\.steps"):
        AVB(2, players=AVBPlayers(Player(steps=0)))


# The penalty on the critic's slope.


class Quadratic(Critic):
    """T(x, z) = a/2 |z|^2 + <b, z> sum(x) + <c, z> sum(context), of which every slope is known."""

    def __init__(self, data_shape, latent_dim, context_dim):
        super().__init__()
        self.a = torch.nn.Parameter(torch.tensor(0.7))
        self.b, self.c = (torch.nn.Parameter(torch.randn(latent_dim)) for _ in range(2))

    def forward(self, x, z, context=None):
        weight = self.b * x.sum(-1, keepdim=True)
        if context is not None:
            weight = weight + self.c * context.sum(-1, keepdim=True)
        return 0.5 * self.a * z.square().sum(-1) + (weight * z).sum(-1)


@pytest.mark.usefixtures("float64")
@every_contrast
@black_or_located
def test_gradient_penalty_by_hand(encoder, contrast):
    """gamma/2 |a z + b sum(x) + c sum(context)|^2 at q's draws as the critic sees them; nobody else feels it."""
    gamma, x = 0.3, torch.randn(5, 3)
    model = AVB(2, encoder, DECODER, Quadratic, contrast, samples=3, data_shape=(3,))
    shown = []
    perturbed(model).density_ratio.critic.register_forward_hook(lambda critic, given, _: shown.append(given))
    results = []
    for model.density_ratio.gradient_penalty in (0.0, gamma):
        torch.manual_seed(1)
        results.append(model.learn(Batch(x)).losses)
    without, found = results
    given, seen, context = shown[0]  # given: x, or the features of q
    a, b, c = model.density_ratio.critic.parameters()
    slope = a * seen[:3].detach() + b * given.sum(-1, keepdim=True)
    slope = slope if context is None else slope + c * context.sum(-1, keepdim=True)
    penalty = 0.5 * gamma * slope.square().sum(-1)
    assert (penalty > 1e-5).all()
    assert set(found) == set(without) == set(model.players)
    for player in found:
        torch.testing.assert_close(found[player], without[player] + (penalty if player == "critic" else 0))
    parameters = [*model.parameters()]
    of_without, of_found = (flat_gradient(sum(map(torch.mean, result.values())), parameters) for result in results)
    of_penalty = flat_gradient(penalty.mean(), parameters)
    felt_by = [a, b] if context is None else [a, b, c]
    assert of_penalty.count_nonzero() == sum(parameter.numel() for parameter in felt_by)
    torch.testing.assert_close(of_found, of_without + of_penalty, rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("float64")
def test_the_penalty_smooths_every_step_of_the_critic_and_is_not_reported():
    model, batch = small_game(GaussianEncoder, GaussianContrast), Batch(torch.randn(5, 3))

    def critic_loss(of, penalty):
        torch.manual_seed(1)
        model.density_ratio.gradient_penalty = penalty
        return of(batch).losses["critic"]

    for of in (model.learn, model.learn_critic):
        assert (critic_loss(of, 0.5) > critic_loss(of, 0.0)).all()
    with torch.no_grad():
        assert torch.equal(critic_loss(model.learn, 0.5), critic_loss(model.learn, 0.0))


def test_a_negative_penalty_is_refused():
    with pytest.raises(ConfigurationError, match=r"^gradient_penalty: -0\.1"):
        AVB(2, gradient_penalty=-0.1)


# The moments of adaptive contrast.


class Watching(ResidualCritic):
    """Keeps what it was shown."""

    def forward(self, x, z, context=None):
        self.z, self.context = z, context
        return super().forward(x, z, context)


@pytest.mark.usefixtures("float64")
def test_moments_come_from_other_draws_than_those_scored():
    """Found again from the noise that was handed out."""
    model = small_game(ENCODERS["noise injection"], partial(GaussianContrast, draws=16), Watching, samples=3)
    x, handed_out = torch.randn(5, 3), []

    def record(shape, like):
        handed_out.append(torch.randn(shape, dtype=like.dtype))
        return handed_out[-1]

    with noise.use(record):
        model.learn(Batch(x))
    scored, for_moments, of_reference = handed_out
    network = model.encoder.network
    deviation, mean = torch.std_mean(network(network.features(x), for_moments), 0)
    assert for_moments.shape[0] == 16 and scored.shape[0] == 3
    assert not torch.isin(scored, for_moments).any()
    torch.testing.assert_close(model.density_ratio.critic.context, torch.cat([mean, deviation.log()], -1))
    z = (network(network.features(x), scored) - mean) / deviation
    torch.testing.assert_close(model.density_ratio.critic.z, torch.cat([z, of_reference]))


# What is reported.


def test_accuracy_of_a_critic():
    t = torch.tensor([[1.0, -1.0]])
    assert CriticTerms(t, t, -t, {}).accuracy.tolist() == [[1.0, 0.0]]
    assert CriticTerms(t, t, t, {}).accuracy.tolist() == [[0.5, 0.5]]
    assert CriticTerms(t, 0 * t, 0 * t, {}).accuracy.tolist() == [[0.5, 0.5]]


@pytest.mark.usefixtures("float64")
@every_contrast
@black_or_located
def test_scores_add_up(encoder, contrast):
    model = small_game(encoder, contrast, samples=3, kl_warmup=5)
    scores = model.scores(Batch(torch.randn(5, 3)))
    torch.testing.assert_close(scores["elbo_estimate"], -scores["reconstruction"] - scores["kl_estimate"])
    assert all(score.shape == (3, 5) for score in scores.values())
    assert "critic_loss" in scores
    assert ({"elbo_lower", "elbo_upper"} <= scores.keys()) == (encoder is ENCODERS["semi-implicit"])


# The equilibrium of the linear-Gaussian game with the prior contrast.


class PointwiseInformation(Critic):
    """T*(x, z) = log p(z|x) - log p(z) = log p(x|z) - log p(x), when q is the posterior."""

    def __init__(self, world):
        super().__init__()
        self.world, self.decoder = world, world.decoder().requires_grad_(False)

    def forward(self, x, z, context=None):
        return self.decoder(z).log_prob(x) - self.world.log_marginal(x)


def exact_gradient(decoder, x):
    """Of -log p(x), by the parameters of the decoder."""
    layer, scale = decoder.network.layers[0], decoder.log_scale.exp()
    log_marginal = LinearGaussian(layer.weight, layer.bias, scale).log_marginal(x)
    return flat_gradient(-log_marginal.mean(), [*decoder.parameters()])


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("at_equilibrium", [True, False])
def test_equilibrium_is_maximum_likelihood_with_the_posterior(at_equilibrium):
    """At any decoder the best critic and encoder make AVB's gradient that of log p(x); it vanishes at the maximum."""
    x = LinearGaussian.example().sample(300)
    world = LinearGaussian.most_likely(x, latent_dim=2)
    if not at_equilibrium:
        world = LinearGaussian(1.1 * world.weight, world.bias + 0.1, 1.1 * world.scale)
    model = AVB(2, GaussianEncoder, DECODER, ResidualCritic, PriorContrast, samples=10, data_shape=(3,))
    model.encoder, model.decoder, model.density_ratio.critic = (
        world.encoder(),
        world.decoder(),
        PointwiseInformation(world),
    )
    of_encoder, of_decoder = [*model.encoder.parameters()], [*model.decoder.parameters()]

    def draw(parameters):
        return flat_gradient(model.learn(Batch(x)).losses["model"].mean(), parameters)

    # T* - log p(x|z) does not depend on z
    torch.testing.assert_close(draw(of_encoder), torch.zeros(sum(p.numel() for p in of_encoder)))
    draws = torch.stack([draw(of_decoder) for _ in range(100)])
    assert_mean(draws, exact_gradient(model.decoder, x), resolution=0.05)
    if at_equilibrium:
        assert_mean(draws, 0.0, resolution=0.05)
        assert exact_gradient(model.decoder, x).abs().max() < 1e-9
    else:
        assert draws.mean(0).abs().max() > 0.1


@pytest.mark.usefixtures("float64")
def test_an_encoder_that_is_no_posterior_is_pulled_towards_it():
    """Beside its own best critic the model's gradient is that of KL(q, posterior)."""
    world = LinearGaussian.example()
    x, encoder = world.sample(6), BlackBox(world.encoder())
    with torch.no_grad():
        encoder.inside.network.layers[0].bias.add_(torch.tensor([0.3, -0.2, 0.2, -0.1]))
    model = game(encoder, x, PriorContrast, samples=400)
    model.decoder = world.decoder()
    parameters = [*encoder.parameters()]
    truth = flat_gradient(kl_divergence(encoder.inside(x), world.encoder()(x)).mean(), parameters)
    draws = [flat_gradient(model.learn(Batch(x)).losses["model"].mean(), parameters) for _ in range(100)]
    assert truth.abs().max() > 0.3
    assert_mean(torch.stack(draws), truth, resolution=0.15)
