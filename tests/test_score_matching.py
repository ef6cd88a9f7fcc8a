"""The slope of log q(z|x) by regression: its optimum, the gradient it gives, and what refuses it."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from closed_forms import LINEAR, perturbed
from monte_carlo import assert_mean, flat_gradient
from test_semi_implicit import LocatedShapes, rows
from torch.nn.functional import one_hot

from lightning_avb import (
    AVB,
    MLP,
    Batch,
    BiGAN,
    GaussianContrast,
    GaussianDecoder,
    GaussianEncoder,
    MixturePrior,
    NoiseInjectionEncoder,
    PooledMixtureEncoder,
    Posterior,
    PriorContrast,
    ScoreNetwork,
    SemiImplicitEncoder,
    StandardNormal,
    targets,
)
from lightning_avb.errors import ConfigurationError
from lightning_avb.score_matching import DenoisingScoreMatching

pytestmark = pytest.mark.usefixtures("float64")

DECODER = partial(GaussianDecoder, network=LINEAR)
SCORE = partial(ScoreNetwork, width=8, blocks=1, network=partial(MLP, hidden=(8,)))


def slope(shapes, x, z):
    """grad_z log q(z|x)."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        return torch.autograd.grad(shapes.log_prob(x, z).sum(), z)[0]


class OptimalScore(torch.nn.Module):
    """-grad_u log q(u | features)."""

    def __init__(self, shapes):
        super().__init__()
        self.shapes = shapes

    def forward(self, x, u, context=None):
        scale = self.shapes.log_scale.exp()
        return -scale * slope(self.shapes, x, self.shapes.mean + scale * u)


def test_gradient_with_the_optimal_score_is_that_of_the_divergence():
    """By location, scale and shape. A score of the wrong sign or in the wrong units is another gradient."""
    shapes, frozen = LocatedShapes(), LocatedShapes().requires_grad_(False)
    parameters, matching = [*shapes.parameters()], DenoisingScoreMatching(OptimalScore(frozen))
    truth = flat_gradient(shapes.kl(rows()).mean(), parameters)

    def draw():
        _, terms = matching.draw(StandardNormal(1)(), shapes(rows()), 500, rows())
        return flat_gradient(terms.kl.mean(), parameters)

    assert truth.abs().min() > 0.05
    assert_mean(torch.stack([draw() for _ in range(200)]), truth, resolution=0.15)


def test_the_optimal_score_cannot_be_improved():
    """Its squared error has no slope towards D + c, c D and D + c x."""
    shapes = LocatedShapes().requires_grad_(False)
    optimal, c = OptimalScore(shapes), torch.zeros(3, requires_grad=True)

    def moved(x, u, context=None):
        found = optimal(x, u)
        return found + c[0] + c[1] * found + c[2] * x

    matching = DenoisingScoreMatching(torch.nn.Identity())
    matching.critic.forward = moved
    losses = []
    for _ in range(200):
        _, terms = matching.draw(StandardNormal(1)(), shapes(rows()), 200, rows())
        losses.append(torch.autograd.grad(terms.losses["critic"].mean(), c)[0])
    assert_mean(torch.stack(losses), 0.0, resolution=0.3)


def test_the_divergence_of_the_components_is_a_bound_and_its_value_is_not_corrected():
    """E log q(z|e) - log p(z), in which the score appears in the gradient alone."""
    shapes, values = LocatedShapes(), []
    for score in (OptimalScore(shapes), torch.nn.Identity()):
        matching = DenoisingScoreMatching(score)
        if isinstance(score, torch.nn.Identity):
            matching.critic.forward = lambda x, u, context=None: 100 * u
        torch.manual_seed(0)
        values.append(matching.draw(StandardNormal(1)(), shapes(rows()), 20000, rows())[1].kl.detach())
    assert torch.equal(*values)
    gap = values[0].mean(0) - shapes.kl(rows()).detach()
    assert gap[0] > 0.5 and gap[1].abs() < 0.02  # log 2 for two far modes, nothing for one


@pytest.mark.parametrize("blind", [False, True])
def test_a_learned_score(blind):
    """From draws alone; without the features it is another function."""
    shapes, steps = LocatedShapes().requires_grad_(False), 500
    network = ScoreNetwork((1,), 1, width=32, network=LINEAR)
    matching = DenoisingScoreMatching(network)
    if blind:
        forward = network.forward
        network.forward = lambda x, z, context=None: forward(torch.zeros_like(x), z, context)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    x, p = rows()[:2].repeat(32, 1), StandardNormal(1)()
    for _ in range(steps):
        optimizer.zero_grad()
        matching.draw(p, shapes(x), 16, x)[1].losses["critic"].mean().backward()
        optimizer.step(), schedule.step()
    u = shapes(rows()[:2]).rsample((5000,)).sub(shapes.mean) / shapes.log_scale.exp()
    error = (network(rows()[:2], u) - OptimalScore(shapes)(rows()[:2], u)).square().mean().sqrt()
    assert error > 0.2 if blind else error < 0.15


def test_a_new_network_is_right_for_a_standard_normal():
    u = torch.randn(5, 3, 2)
    assert torch.equal(ScoreNetwork((4,), 2)(torch.randn(3, 4), u), u)


# In the model.


def small_model(**options):
    encoder = partial(SemiImplicitEncoder, network=partial(MLP, hidden=(8,)), noise_hidden=(8,), width_range=1.0)
    return perturbed(AVB(2, encoder, DECODER, SCORE, **{"data_shape": (3,), "samples": 3, **options}))


@pytest.mark.parametrize("conditional", [False, True])
def test_every_player_gets_the_gradient_of_its_own_loss(conditional):
    """From passes of their own, in which all that is constant has been detached."""
    model = small_model(**({"conditional": True, "classes": 4} if conditional else {}), prior=MixturePrior, kl_warmup=2)
    batch = Batch(torch.randn(5, 3), torch.tensor([0, 1, 2, 3, 0]) if conditional else None)
    torch.manual_seed(1)
    found = model.learn(batch).losses
    torch.manual_seed(1)
    q = model.encoder(batch.x, batch.y)
    components = q.components(3)
    z = components.rsample()
    u, label = (z - q.location) / q.scale, one_hot(batch.y, 4).to(z) if conditional else None
    target = (q.scale * (z - components.loc) / components.scale.square()).detach()
    score = model.score_matching.critic(q.features.detach(), u.detach(), label)
    # Along u the gradient of log q is -score; the rest of KL(q, p) is -sum log scale - log p.
    log_q = -(score.detach() * u).sum(-1) - q.scale.log().sum(-1)
    # The same in expectation, with the noise of the component taken out.
    log_q = log_q + (target * u).sum(-1) - (components.scale / q.scale).log().sum(-1)
    model_loss = model.kl_weight * (log_q - model.prior().log_prob(z)) - model.decoder(z, batch.y).log_prob(batch.x)
    expected = {"model": model_loss, "critic": (score - target).square().sum(-1)}
    torch.testing.assert_close(found["critic"], expected["critic"])
    for player in ("model", "critic"):
        parameters = [*model.parameters()]
        ours, theirs = (flat_gradient(losses[player].mean(), parameters) for losses in (found, expected))
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
        assert theirs.any()


def test_every_parameter_has_a_player_and_a_gradient():
    model = small_model()
    sum(loss.mean() for loss in model.learn(Batch(torch.randn(5, 3))).losses.values()).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())
    assert sum(len(model.parameters_of(player)) for player in model.players) == len([*model.parameters()])


def test_the_critic_alone():
    model = small_model()
    losses = model.learn_critic(Batch(torch.randn(5, 3))).losses
    assert set(losses) == {"critic"}
    losses["critic"].mean().backward()
    assert all(parameter.grad is None for parameter in model.encoder.parameters())
    assert all(parameter.grad is not None for parameter in model.score_matching.parameters())


def test_any_semi_implicit_encoder_will_do():
    """One that tells no location is estimated in z itself, from x."""
    model = perturbed(AVB(2, PooledMixtureEncoder, DECODER, SCORE, data_shape=(3,)))
    assert model.score_matching.critic.x_branch.layers[0].in_features == 3
    assert model.learn(Batch(torch.randn(5, 3))).losses["critic"].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_mixed_precision_has_finite_gradients(dtype):
    model = small_model().float()
    with torch.autocast("cpu", dtype):
        losses = model.learn(Batch(torch.randn(5, 3, dtype=torch.float32))).losses
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    assert flat_gradient(sum(loss.mean() for loss in losses.values()), [*model.parameters()]).isfinite().all()


@pytest.mark.parametrize("encoder", [NoiseInjectionEncoder, GaussianEncoder])
def test_other_encoders_are_refused_by_name(encoder):
    model = AVB(2, encoder, DECODER, data_shape=(3,))
    with pytest.raises(ConfigurationError, match=r"^critic: a ScoreNetwork needs .* take a ResidualCritic"):
        model.learn(Batch(torch.randn(5, 3)))


@pytest.mark.parametrize(
    "options",
    [{"contrast": PriorContrast}, {"contrast": partial(GaussianContrast, draws=4)}, {"gradient_penalty": 0.1}],
)
def test_it_has_no_contrast_and_no_penalty(options):
    with pytest.raises(ConfigurationError, match=r"^critic: a ScoreNetwork goes without"):
        AVB(2, data_shape=(3,), **options)
    AVB(2, contrast=partial(GaussianContrast, draws=32), data_shape=(3,))  # the defaults, written out


def test_a_density_ratio_does_not_take_it():
    """Its vectors would be broadcast against T without a message."""
    with pytest.raises(ConfigurationError, match=r"^critic: a ScoreNetwork estimates a slope"):
        Posterior(targets.Mixture, NoiseInjectionEncoder, ScoreNetwork)
    with pytest.raises(ConfigurationError, match=r"^discriminator: a ScoreNetwork estimates a slope"):
        BiGAN(2, discriminator=ScoreNetwork, data_shape=(4,))
