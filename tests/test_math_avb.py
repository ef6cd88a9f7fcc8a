"""AVB where the truth is known: the optimal critic, the divergence, the gradients and the equilibrium of the game.

A Gaussian posterior says little about adaptive contrast, whose optimal critic is then zero; `TwoShapes` is a posterior
whose standardised shape depends on x.
"""

from __future__ import annotations

from copy import deepcopy
from functools import partial

import pytest
import torch
from monte_carlo import assert_mean, flat_gradient
from torch.distributions import kl_divergence
from torch.func import functional_call
from torch.nn.functional import softplus
from worlds import LINEAR, BlackBox, LinearGaussian, TwoShapes

from lightning_avb import (
    AVB,
    Batch,
    BoundedNoiseEncoder,
    GaussianContrast,
    GaussianDecoder,
    GaussianEncoder,
    InnerProductCritic,
    NoiseBasisEncoder,
    NoiseInjectionEncoder,
    Play,
    PriorContrast,
    ResidualCritic,
    StandardNormal,
    noise,
)
from lightning_avb.distributions import DiagonalNormal
from lightning_avb.models.avb import Verdict
from lightning_avb.networks import Critic

float64 = pytest.mark.usefixtures("float64")
CONTRASTS = {"prior": PriorContrast, "gaussian": partial(GaussianContrast, draws=8)}
every_contrast = pytest.mark.parametrize("contrast", CONTRASTS.values(), ids=CONTRASTS)
DECODER = partial(GaussianDecoder, network=LINEAR)


class OptimalCritic(Critic):
    """T*(x, z) = log q(z|x) - log r(z|x), from the density of q and from what the critic is told of r."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, x, z, context=None):
        if context is None:
            r = StandardNormal(z.shape[-1])()
        else:
            mean, log_scale = context.chunk(2, -1)
            r = DiagonalNormal(mean, log_scale.exp())
            z = mean + log_scale.exp() * z
        return self.encoder.log_prob(x, z) - r.log_prob(z)


def two_shapes():
    encoder, x = TwoShapes(), torch.tensor([[0.0], [1.0], [0.0]])
    return encoder, x, encoder.kl


def black_box():
    """Two dimensions, a Gaussian of its own for every x, moments from draws."""
    encoder, x = BlackBox(GaussianEncoder((3,), 2, LINEAR)), torch.randn(4, 3)
    torch.nn.init.normal_(encoder.inside.network.layers[0].weight, std=0.4)
    return encoder, x, lambda x: kl_divergence(encoder.inside(x), StandardNormal(2)())


every_posterior = pytest.mark.parametrize("posterior", [two_shapes, black_box])


def game(encoder, x, contrast, critic=None, samples=1, **options):
    """AVB with the given encoder and critic; the optimal critic where none is given."""
    latent_dim = encoder(x).event_shape[0]
    model = AVB(latent_dim, decoder=DECODER, contrast=contrast, samples=samples, data_shape=x.shape[1:], **options)
    model.encoder, model.critic = encoder, critic or OptimalCritic(deepcopy(encoder).requires_grad_(False))
    return model


def judged(model, x, z=None):
    p, q = model.prior(), model.encoder(x)
    return model.judge(Batch(x), p, q, q.rsample((model.samples,)) if z is None else z)


# With the optimal critic.


@float64
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


@float64
@every_contrast
@every_posterior
def test_the_optimal_critic_cannot_be_improved(posterior, contrast):
    """Its loss, convex in T, has no slope at T* towards T* + c and towards c T*."""
    encoder, x, _ = posterior()
    _, on_posterior, on_reference = (t.detach() for t in judged(game(encoder, x, contrast, samples=40000), x))
    slope = on_reference.sigmoid() - (-on_posterior).sigmoid()
    assert_mean(slope, 0.0, resolution=0.02)
    slope = on_reference * on_reference.sigmoid() - on_posterior * (-on_posterior).sigmoid()
    assert_mean(slope, 0.0, resolution=0.05)


@float64
@every_contrast
@every_posterior
def test_expected_gradient_of_the_optimal_critic_is_zero(posterior, contrast):
    """E_q[grad_phi T*(x, z)] = 0 at fixed z (proposition 2): why AVB may treat the critic's weights as constants."""
    encoder, x, _ = posterior()
    parameters = [*encoder.parameters()]
    model = game(encoder, x, contrast, OptimalCritic(encoder))

    def draw():
        z = encoder(x).rsample((1000,)).detach()
        return flat_gradient(judged(model, x, z).on_posterior.mean(), parameters)

    draws = torch.stack([draw() for _ in range(100)])
    assert (draws.std(0) > 1e-4).all(), "T* does not depend on the encoder"
    assert_mean(draws, 0.0, resolution=0.1)


@float64
@every_contrast
@every_posterior
def test_gradient_through_the_draws_is_that_of_the_divergence(posterior, contrast):
    encoder, x, kl = posterior()
    parameters = [*encoder.parameters()]
    model = game(encoder, x, contrast, samples=400)
    truth = flat_gradient(kl(x).mean(), parameters)
    draws = torch.stack([flat_gradient(judged(model, x).kl.mean(), parameters) for _ in range(100)])
    assert truth.abs().max() > 0.3
    assert_mean(draws, truth, resolution=0.15)


# With a critic that learns.


class Blind(ResidualCritic):
    def forward(self, x, z, context=None):
        return super().forward(torch.zeros_like(x), z, context)


class SwappedLabels(AVB):
    def judge(self, batch, p, q, z):
        kl, on_posterior, on_reference = super().judge(batch, p, q, z)
        return Verdict(kl, on_reference, on_posterior)


class ReferenceTwice(AVB):
    def learn_critic(self, batch):
        with torch.no_grad():
            p, q = self.prior(), self.encoder(batch.x)
            z = q.rsample((self.samples,))
        verdict = self.judge(batch, p, q, z)
        return Play({"critic": verdict.critic_loss + softplus(verdict.on_reference)}, {})


class PriorTooWide(PriorContrast):
    def forward(self, q, p):
        reference = super().forward(q, p)
        return reference._replace(rsample=lambda samples: 2 * reference.rsample(samples))


class GaussianTooWide(GaussianContrast):
    def forward(self, q, p):
        reference = super().forward(q, p)
        return reference._replace(rsample=lambda samples: 2 * reference.rsample(samples))


class NoRatio(GaussianContrast):
    def forward(self, q, p):
        return super().forward(q, p)._replace(log_ratio=lambda z: z.new_zeros(z.shape[:-1]))


class RatioWithoutScale(GaussianContrast):
    """log r of the standardised z, as if its volume were that of z."""

    def forward(self, q, p):
        reference = super().forward(q, p)
        return reference._replace(log_ratio=lambda z: p.log_prob(reference.standardise(z)) - p.log_prob(z))


class DividedByTheVariance(GaussianContrast):
    def forward(self, q, p):
        mean, scale = q.moments(self.draws)
        return super().forward(q, p)._replace(standardise=lambda z: (z - mean) / scale.square())


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
}


def learned_divergence(contrast, critic, method, steps=300):
    """What a small critic says of KL(q, p) after some steps on its own loss, for x = 0 and x = 1."""
    critic = partial(critic, width=32)
    model = method(1, decoder=DECODER, critic=critic, contrast=contrast, samples=16, data_shape=(1,))
    model.encoder = TwoShapes()
    optimizer = torch.optim.Adam(model.critic.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    both = torch.tensor([[0.0], [1.0]])
    for _ in range(steps):
        optimizer.zero_grad()
        model.learn_critic(Batch(both.repeat(32, 1))).losses["critic"].mean().backward()
        optimizer.step()
        schedule.step()
    model.samples = 20000
    with torch.no_grad():
        return model.scores(Batch(both))["kl_estimate"].mean(0), model.encoder.kl(both)


@pytest.mark.parametrize(("correct", "contrast", "critic", "method"), LEARNERS.values(), ids=LEARNERS)
def test_a_learned_critic_finds_the_divergence_and_a_broken_one_does_not(correct, contrast, critic, method):
    found, truth = learned_divergence(contrast, critic, method)
    distance = (found - truth).abs().max()
    assert distance < TOLERANCE if correct else distance > 2 * TOLERANCE


# The gradients of the players.

ENCODERS = {
    "gaussian": GaussianEncoder,
    "noise injection": partial(NoiseInjectionEncoder, hidden=(8,), noise_dim=4),
    "noise basis": partial(NoiseBasisEncoder, hidden=(8,), basis=3, noise_dim=2, basis_hidden=(4,), start=0.0),
    "bounded noise": partial(BoundedNoiseEncoder, hidden=(8,), noise_hidden=(8,)),
}
every_encoder = pytest.mark.parametrize("encoder", ENCODERS.values(), ids=ENCODERS)


def small_game(encoder, contrast, critic=ResidualCritic, **options):
    critic = partial(critic, width=8)
    return AVB(2, encoder, GaussianDecoder, critic, contrast, data_shape=(3,), **options)


def separate_losses(model, batch):
    """Both players' losses from two critic passes, in which everything that is constant has been detached."""
    p, q = model.prior(), model.encoder(batch.x)
    z = q.rsample((model.samples,))
    reference = model.contrast(q, p)
    drawn = reference.rsample(model.samples).detach()
    context, seen, log_ratio = None, z, 0.0
    if reference.context is not None:
        context = reference.context.detach()
        mean, log_scale = context.chunk(2, -1)
        seen = (z - mean) / log_scale.exp()
        log_ratio = DiagonalNormal(mean, log_scale.exp()).log_prob(z) - p.log_prob(z)
    weights = {name: parameter.detach() for name, parameter in model.critic.named_parameters()}
    kl = functional_call(model.critic, weights, (batch.x, seen, context)) + log_ratio
    on_posterior = model.critic(batch.x, seen.detach(), context)
    on_reference = model.critic(batch.x, drawn, context)
    return {
        "model": model.kl_weight * kl - model.decoder(z).log_prob(batch.x),
        "critic": softplus(-on_posterior) + softplus(on_reference),
    }


def gradients(losses, model):
    """Of the summed loss, by every parameter of the model."""
    return torch.autograd.grad(sum(loss.mean() for loss in losses.values()), [*model.parameters()], allow_unused=True)


def assert_same_gradients(model, found, expected):
    for (name, _), ours, theirs in zip(model.named_parameters(), found, expected, strict=True):
        theirs = theirs if theirs is not None else torch.zeros_like(ours)
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")


@float64
@every_contrast
@every_encoder
@pytest.mark.parametrize("critic", [ResidualCritic, InnerProductCritic])
def test_every_player_gets_the_gradient_of_its_own_loss(encoder, contrast, critic):
    """One backward pass over the summed losses, as the engine plays it, against two over separate graphs."""
    model, batch = small_game(encoder, contrast, critic, samples=3, kl_warmup=2), Batch(torch.randn(5, 3))
    torch.manual_seed(1)
    play = model.learn(batch)
    torch.manual_seed(1)
    expected = separate_losses(model, batch)
    assert set(play.losses) == set(expected) == set(model.cast())
    for player, loss in expected.items():
        torch.testing.assert_close(play.losses[player], loss)
    of_play, of_losses = gradients(play.losses, model), gradients(expected, model)
    assert all(gradient is not None for gradient in of_losses)
    assert_same_gradients(model, of_play, of_losses)


@float64
@every_contrast
@every_encoder
def test_a_phase_for_one_player_gives_the_same_gradient(encoder, contrast):
    model, batch = small_game(encoder, contrast, samples=3), Batch(torch.randn(5, 3))
    for phase, player in ((model.learn_model, "model"), (model.learn_critic, "critic")):
        torch.manual_seed(1)
        play = phase(batch)
        torch.manual_seed(1)
        expected = separate_losses(model, batch)
        assert set(play.losses) == {player}
        parameters = [p for module in model.cast()[player] for p in module.parameters()]
        ours, theirs = (flat_gradient(losses[player].mean(), parameters) for losses in (play.losses, expected))
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
        assert theirs.any()


def test_the_critic_learns_on_draws_that_carry_no_gradient():
    model = small_game(ENCODERS["noise injection"], PriorContrast)
    model.learn_critic(Batch(torch.randn(5, 3))).losses["critic"].mean().backward()
    assert all(parameter.grad is None for parameter in [*model.encoder.parameters(), *model.decoder.parameters()])
    assert all(parameter.grad is not None for parameter in model.critic.parameters())


@every_contrast
@every_encoder
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_mixed_precision_has_finite_gradients(encoder, contrast, dtype):
    model = small_game(encoder, contrast, samples=3)
    with torch.autocast("cpu", dtype):
        losses = model.learn(Batch(torch.randn(5, 3))).losses
    for gradient in gradients(losses, model):
        assert gradient.isfinite().all()


# The moments of adaptive contrast.


class Watching(ResidualCritic):
    """Keeps what it was shown."""

    def forward(self, x, z, context=None):
        self.z, self.context = z, context
        return super().forward(x, z, context)


@float64
def test_moments_come_from_other_draws_than_those_scored():
    """Found again from the noise that was handed out."""
    contrast = partial(GaussianContrast, draws=16)
    model, x = small_game(ENCODERS["noise injection"], contrast, Watching, samples=3), torch.randn(5, 3)
    handed_out = []

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
    torch.testing.assert_close(model.critic.context, torch.cat([mean, deviation.log()], -1))
    z = network(network.features(x), scored)
    torch.testing.assert_close(model.critic.z, torch.cat([(z - mean) / deviation, of_reference]))


@float64
@every_encoder
def test_moments_are_constants(encoder):
    """In the critic's view of z, in its context, in the draws of r and in log r alike."""
    encoder, x = encoder((3,), 2), torch.randn(5, 3)
    q, p = encoder(x), StandardNormal(2)()
    assert q.rsample((1,)).requires_grad
    reference = GaussianContrast(2)(q, p)
    z = torch.randn(4, 5, 2)
    views = [reference.context, reference.standardise(z), reference.rsample(4), reference.log_ratio(z)]
    assert not any(view.requires_grad for view in views)


@float64
def test_the_same_moments_everywhere():
    """Standardised draws have the density r says: the change of variables, with the moments the critic is told."""
    encoder, x, _ = black_box()
    p, z = StandardNormal(2)(), torch.randn(6, 4, 2)
    reference = GaussianContrast(2)(encoder(x), p)
    log_scale = reference.context.chunk(2, -1)[1]
    log_r = p.log_prob(reference.standardise(z)) - log_scale.sum(-1)
    torch.testing.assert_close(reference.log_ratio(z), log_r - p.log_prob(z))


def test_closed_moments_are_preferred_to_draws():
    encoder, x = TwoShapes(), torch.tensor([[0.0], [1.0]])
    mean, log_scale = GaussianContrast(1)(encoder(x), StandardNormal(1)()).context.chunk(2, -1)
    assert torch.equal(mean, torch.full((2, 1), encoder.mean.item()))
    torch.testing.assert_close(log_scale, torch.full((2, 1), encoder.log_scale.item()))


@float64
@every_contrast
def test_every_row_has_its_own_reference_draws(contrast):
    encoder, x, _ = black_box()
    assert len(contrast(2)(encoder(x), StandardNormal(2)()).rsample(6).unique()) == 6 * 4 * 2


# What is reported.


def test_accuracy_of_a_critic():
    t = torch.tensor([[1.0, -1.0]])
    assert Verdict(t, t, -t).accuracy.tolist() == [[1.0, 0.0]]
    assert Verdict(t, t, t).accuracy.tolist() == [[0.5, 0.5]]
    assert Verdict(t, 0 * t, 0 * t).accuracy.tolist() == [[0.5, 0.5]]


@float64
@every_contrast
def test_scores_add_up(contrast):
    model = small_game(ENCODERS["noise injection"], contrast, samples=3, kl_warmup=5)
    scores = model.scores(Batch(torch.randn(5, 3)))
    torch.testing.assert_close(scores["elbo_estimate"], -scores["reconstruction"] - scores["kl_estimate"])
    assert all(score.shape == (3, 5) for score in scores.values())


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


@float64
@pytest.mark.parametrize("at_equilibrium", [True, False])
def test_equilibrium_is_maximum_likelihood_with_the_posterior(at_equilibrium):
    """At any decoder the best critic and encoder make AVB's gradient that of log p(x); it vanishes at the maximum."""
    x = LinearGaussian.example().sample(300)
    world = LinearGaussian.most_likely(x, latent_dim=2)
    if not at_equilibrium:
        world = LinearGaussian(1.1 * world.weight, world.bias + 0.1, 1.1 * world.scale)
    model = AVB(2, GaussianEncoder, DECODER, contrast=PriorContrast, samples=10, data_shape=(3,))
    model.encoder, model.decoder, model.critic = world.encoder(), world.decoder(), PointwiseInformation(world)
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


@float64
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
