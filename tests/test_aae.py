"""Adversarial autoencoders: optima and gradients in closed form, the link to AVB, labels, categories, clusters."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from games import trainer
from monte_carlo import assert_mean, flat_gradient
from pytorch_lightning.loggers import CSVLogger
from torch import nn
from torch.distributions import Normal, kl_divergence
from torch.func import functional_call
from torch.nn.functional import logsigmoid
from torch.utils.data import DataLoader
from worlds import LINEAR, LinearGaussian, perturbed

from datamodules import Digits, Split, TensorDataModule
from lightning_avb import (
    AAE,
    AVB,
    MLP,
    Batch,
    CategoricalAAE,
    DeterministicEncoder,
    GaussianDecoder,
    GaussianEncoder,
    InputNoise,
    MixturePrior,
    PetalPrior,
    Player,
    PriorContrast,
    StandardNormal,
    noise,
    objectives,
    pictures,
)
from lightning_avb.callbacks import Pictures
from lightning_avb.conditionals.categorical import CategoricalEncoder, crowding
from lightning_avb.distributions import DiagonalNormal
from lightning_avb.errors import ConfigurationError
from lightning_avb.models.aae import AAEPlayers, CategoricalAAEPlayers, Members
from lightning_avb.models.avb import AVBPlayers
from lightning_avb.networks import Critic

float64 = pytest.mark.usefixtures("float64")
SMALL = partial(MLP, hidden=(8,))
FORMS = ["non_saturating", "minimax", "kl"]
every_form = pytest.mark.parametrize("form", FORMS)
DECODER = partial(GaussianDecoder, network=SMALL)
CLASSES = 3


def aae(encoder=GaussianEncoder, **options):
    return AAE(2, partial(encoder, network=SMALL), **{"decoder": DECODER, "discriminator": SMALL, **options})


def categorical(**options):
    return CategoricalAAE(2, **{"encoder": SMALL, "decoder": DECODER, "discriminator": SMALL, **options})


def of_shape(shape, like):
    """Noise that is a function of the shape asked for, in whatever order."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=like.dtype)


# Every phase against the formulas written out.


def one_hot(y, kinds):
    return (y.unsqueeze(-1) == torch.arange(kinds)).to(torch.get_default_dtype())


def contested(discriminator, generated, real, context, form):
    """The generator's and the discriminator's loss, from two passes."""
    constant = {name: parameter.detach() for name, parameter in discriminator.named_parameters()}
    t = functional_call(discriminator, constant, (generated, context))
    generator = {"non_saturating": -logsigmoid(-t), "minimax": logsigmoid(t), "kl": t}[form]
    of_data = -logsigmoid(discriminator(generated.detach(), context))
    return {"generator": generator, "discriminator": of_data - logsigmoid(-discriminator(real, context))}


def likelihood_loss(model, x, z, y=None):
    """With weights of the decoder that are normal a priori."""
    mean, scale = model.decoder.network(z, y), model.decoder.log_scale.exp()
    squares = sum(parameter.square().sum() for parameter in model.decoder.parameters())
    penalty = squares / (2 * model.weight_prior**2 * model.rows) if model.weight_prior else 0.0
    return penalty - Normal(mean, scale).log_prob(x).sum(-1)


def written_out(model, batch):
    """Phase -> player -> loss, by the formulas of the paper; each depends on its player's parameters alone."""
    x, y = batch.x, batch.y
    mean, log_scale = model.encoder.network(x).chunk(2, -1)
    z = mean + log_scale.exp() * of_shape((1, len(x), 2), x)
    context = {
        "ignored": None,
        "prior": one_hot(torch.where(y < 0, CLASSES, y), CLASSES + 1),
        "decoder": None,
    }[model.labels]
    with noise.use(of_shape):
        real = model.prior.given(y).sample((1,)) if model.labels == "prior" else model.prior().sample((1, len(x)))
    game = contested(model.discriminator, z[0], real[0], context, model.loss)
    label = one_hot(y, CLASSES) if model.labels == "decoder" else None
    return {
        "reconstruct": {"autoencoder": likelihood_loss(model, x, z, label)},
        "regularise": game,
        "discriminate": {"discriminator": game["discriminator"]},
    }


def written_out_with_categories(model, batch):
    labelled, (x, _, _) = batch.first(model.labelled or len(batch.x)), batch.at(slice(model.labelled, None))
    k = model.categories
    network = model.encoder.network
    logits, z = network(x).split([k, 2], -1)
    share = logits.exp() / logits.exp().sum(-1, keepdim=True)
    uniform = Normal(0.0, 1.0).cdf(of_shape((1, len(x), 1), torch.zeros((), dtype=torch.float32))).squeeze(-1)
    drawn = one_hot((k * uniform).floor().long(), k)
    heads = model.encoder.cluster_heads
    code = torch.cat([share, z], -1) if heads is None else z + share @ heads.weight.T
    missing = 0.0
    for i in range(k if heads is not None else 0):
        for j in range(i):
            distance = (heads.weight[:, i] - heads.weight[:, j]).square().sum().sqrt()
            missing = missing + (model.head_distance - distance).clamp_min(0)
    style = contested(model.discriminators["style"], z, of_shape((1, len(x), 2), x)[0], None, model.loss)
    category = contested(model.discriminators["category"], share, drawn[0], None, model.loss)
    discriminator = style["discriminator"] + category["discriminator"]
    generator = model.contested["category"] * category["generator"] + model.contested["style"] * style["generator"]
    if model.smoothness:
        generator = generator + model.smoothness * change_of_category(model, x, share)
    generator = generator + model.balance * (share * (k * share.mean(0)).log()).sum(-1)
    right = network(labelled.x)[:, :k].log_softmax(-1)[torch.arange(len(labelled.x)), labelled.y]
    return {
        "reconstruct": {"autoencoder": likelihood_loss(model, x, code.unsqueeze(0)) + missing},
        "regularise": {"generator": generator, "discriminator": discriminator},
        "discriminate": {"discriminator": discriminator},
        "classify": {"classifier": -right},
    }


def change_of_category(model, x, share):
    """KL(q(y|x) constant, q(y|x + r)), r along the slope of that divergence five radii away."""
    constant = share.detach()
    divergence = lambda at: (
        constant * (constant.log() - model.encoder.network(at)[..., : model.categories].log_softmax(-1))
    ).sum(-1)
    start = of_shape((1, *x.shape), x)[0]
    start = (x + 5 * model.radius * start / start.norm(dim=-1, keepdim=True)).requires_grad_()
    (slope,) = torch.autograd.grad(divergence(start).sum(), start)
    return divergence(x + model.radius * slope / slope.norm(dim=-1, keepdim=True))


def assert_every_phase_is(model, batch, expected):
    """Values, and what every parameter of the model gets of one backward pass over the summed losses."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = lambda loss: torch.autograd.grad(loss.mean(), parameters, materialize_grads=True, retain_graph=True)
    for phase in model.phases():
        with noise.use(of_shape):
            losses = phase.play(batch).losses
        by_hand = expected[phase.play.__name__]
        assert set(losses) == set(by_hand) == set(phase.players)
        theirs = [torch.zeros_like(parameter) for parameter in parameters]
        for player, loss in losses.items():
            torch.testing.assert_close(loss, by_hand[player].expand_as(loss))
            own = {id(parameter) for parameter in model._parameters_of(player)}
            for name, parameter, total, part in zip(names, parameters, theirs, gradients(by_hand[player]), strict=True):
                assert bool(part.any()) == (id(parameter) in own), f"{player}: {name}"
                total += part
        for name, one, other in zip(names, gradients(sum(losses.values())), theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")


TWICE = Player(steps=2)


@float64
@every_form
@pytest.mark.parametrize("labels", ["ignored", "prior", "decoder"])
def test_every_player_gets_the_gradient_of_its_own_loss(labels, form):
    prior, players = partial(PetalPrior, components=4), AAEPlayers(discriminator=TWICE)
    options = {"data_shape": (3,), "classes": CLASSES, "weight_prior": 0.7}
    model = aae(labels=labels, prior=prior, loss=form, players=players, **options)
    model.rows = 50
    y = torch.arange(7) % CLASSES
    y[4:] = -1 if labels == "prior" else y[4:]
    batch = Batch(torch.randn(7, 3), y)
    assert_every_phase_is(model, batch, written_out(perturbed(model, by=0.3), batch))


@float64
@every_form
@pytest.mark.parametrize("labelled", [0, 3])
@pytest.mark.parametrize("code", ["pair", "sum"])
def test_every_player_gets_the_gradient_of_its_own_loss_with_categories(code, labelled, form):
    distance, players = 2.0 if code == "sum" else 0.0, CategoricalAAEPlayers(discriminator=TWICE)
    options = {"data_shape": (3,), "classes": CLASSES, "weight_prior": 0.7}
    model = categorical(code=code, head_distance=distance, loss=form, players=players, **options)
    model.labelled, model.rows = labelled, 50
    batch = Batch(torch.randn(7, 3), torch.arange(7) % CLASSES)
    assert_every_phase_is(model, batch, written_out_with_categories(perturbed(model, by=0.3), batch))


@float64
@pytest.mark.parametrize("clusters", [None, 4])
def test_every_player_gets_the_gradient_of_its_own_loss_with_smoothness_and_balance(clusters):
    weights = {"category": 0.3, "style": 0.7, "smoothness": 2.0, "radius": 0.8, "balance": 1.5}
    players = CategoricalAAEPlayers(discriminator=TWICE)
    options = {"data_shape": (3,), "classes": CLASSES, "weight_prior": 0.7}
    model = categorical(categories=clusters, players=players, **options, **weights)
    model.labelled, model.rows = 0 if clusters else 3, 50
    batch = Batch(torch.randn(7, 3), torch.arange(7) % CLASSES)
    expected = written_out_with_categories(perturbed(model, by=0.3), batch)
    if clusters:
        del expected["classify"]
    assert_every_phase_is(model, batch, expected)


@float64
def test_the_change_of_a_linear_encoder_is_that_along_its_weights():
    """Of two categories with odds a + w x: a step of the radius to the side of w where the random point lies."""
    w, x, radius = torch.tensor([1.0, -2.0, 0.5]), torch.randn(50, 3), 0.7
    network = lambda x: torch.stack([0.3 + x @ w, torch.zeros(len(x))], -1)
    logits = network(x).requires_grad_()
    with noise.use(of_shape):
        found = objectives.local_distributional_smoothness(network, x, logits, radius)
    side = (of_shape((1, 50, 3), x)[0] @ w).sign()
    odds = 0.3 + x @ w
    moved = odds + side * radius * w.norm()
    p = odds.sigmoid()
    expected = p * (logsigmoid(odds) - logsigmoid(moved)) + (1 - p) * (logsigmoid(-odds) - logsigmoid(-moved))
    torch.testing.assert_close(found, expected)
    assert set(side.tolist()) == {-1.0, 1.0} and not found.requires_grad


def test_the_change_is_found_in_bfloat16_where_the_category_is_sure():
    """Odds of e^20: probabilities differ in the ninth digit only, and the direction is found all the same."""
    network, x = nn.Linear(3, 2), torch.randn(20, 3)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[1.0, -2.0, 0.5], [-1.0, 2.0, -0.5]]))
        network.bias.copy_(torch.tensor([20.0, 0.0]))
        points = []
        network.register_forward_pre_hook(lambda module, given: points.append(given[0]))
        with torch.autocast("cpu", torch.bfloat16):
            objectives.local_distributional_smoothness(network, x, network(x).float(), 2.0)
    step = points[-1] - x
    torch.testing.assert_close(step.norm(dim=-1), torch.full((20,), 2.0))
    along = (step @ network.weight[0].detach()).abs() / network.weight[0].norm()
    torch.testing.assert_close(along, torch.full((20,), 2.0))


@float64
def test_the_balance_of_a_batch_is_the_divergence_of_its_shares():
    """Five sure rows of three categories, 3, 2 and 0 of them."""
    logits = 100 * one_hot(torch.tensor([0, 0, 1, 0, 1]), 3)
    expected = 0.6 * math.log(3 * 0.6) + 0.4 * math.log(3 * 0.4)
    assert objectives.marginal_divergence(logits).mean().item() == pytest.approx(expected)
    assert objectives.marginal_divergence(torch.zeros(4, 3)).abs().max() < 1e-12
    dead = torch.tensor([[0.0, 1.0, -200.0], [1.0, 0.0, -200.0]], dtype=torch.float32, requires_grad=True)
    loss = objectives.marginal_divergence(dead).mean()
    loss.backward()
    assert loss.item() == pytest.approx(math.log(3 / 2)) and torch.isfinite(dead.grad).all()


class Forgetful(nn.Sequential):
    def __init__(self, *shapes):
        super().__init__(SMALL(*shapes), nn.AlphaDropout(0.2))


def test_an_encoder_with_noise_is_not_to_be_smooth():
    noisy = (partial(InputNoise, normal=0.3), partial(InputNoise, dropout=0.2), partial(MLP, dropout=0.2), Forgetful)
    for encoder in noisy:
        with pytest.raises(ConfigurationError, match=r"^smoothness: noise in the encoder"):
            categorical(encoder=encoder, smoothness=1.0, data_shape=(3,), classes=CLASSES)
    categorical(encoder=partial(InputNoise, network=SMALL), smoothness=1.0, data_shape=(3,), classes=CLASSES)


def test_perturbed_rows_are_no_data_to_batch_normalisation():
    """What it learns of the rows is the same with smoothness and without; the loss is that of rows in training."""
    x, learned, losses = torch.randn(7, 3), [], []
    for smoothness in (0.0, 2.0):
        torch.manual_seed(0)
        encoder = partial(MLP, hidden=(8,), batch_norm=True)
        model = categorical(encoder=encoder, smoothness=smoothness, data_shape=(3,), classes=CLASSES)
        with noise.use(of_shape):
            losses.append(model.regularise(Batch(x)))
            change = objectives.local_distributional_smoothness(
                lambda x, model=model: model.encoder.heads(x)[0], x, model.encoder.heads(x)[0], model.radius
            )
        for layer in model.encoder.modules():
            if isinstance(layer, nn.BatchNorm1d):
                layer.reset_running_stats()
        with noise.use(of_shape):
            model.regularise(Batch(x))
        learned.append([buffer.clone() for buffer in model.encoder.buffers()])
        layer = model.encoder.network.layers[1]
        assert layer.track_running_stats and layer.training and layer.num_batches_tracked == 1
    for one, other in zip(*learned, strict=True):
        assert torch.equal(one, other)
    torch.testing.assert_close(
        losses[1].losses["generator"], losses[0].losses["generator"] + 2.0 * losses[1].scores["smoothness"]
    )
    torch.testing.assert_close(losses[1].scores["smoothness"], change)


@float64
@pytest.mark.parametrize(("weights", "left"), [({"category": 0.0}, "style"), ({"style": 0.0}, "category")])
def test_a_contest_of_no_weight_is_left_out(weights, left):
    model = categorical(data_shape=(3,), classes=CLASSES, **weights)
    assert list(model.discriminators) == [left]
    play = model.regularise(Batch(torch.randn(7, 3)))
    assert (
        play.scores.keys() == {f"{left}_accuracy"} == model.scores(Batch(torch.randn(7, 3))).keys() - {"reconstruction"}
    )
    assert model.discriminate(Batch(torch.randn(7, 3))).losses["discriminator"].shape == (7,)


def test_who_steps_when():
    three = Player(steps=3)
    model = aae(players=AAEPlayers(discriminator=three), data_shape=(3,))
    again = [("discriminator",)] * 2
    assert [phase.players for phase in model.phases()] == [("autoencoder",), ("generator", "discriminator"), *again]
    for clusters, last in ((None, [("classifier",)]), (4, [])):
        players = CategoricalAAEPlayers(discriminator=three)
        model = categorical(categories=clusters, players=players, data_shape=(3,), classes=CLASSES)
        moved = [phase.players for phase in model.phases()]
        assert moved == [("autoencoder",), ("generator", "discriminator"), *again, *last]
        assert ("classifier" in model.players) == (clusters is None)


def test_a_batch_without_labels_is_one_whose_labels_are_unknown():
    model = aae(labels="prior", prior=PetalPrior, data_shape=(3,), classes=CLASSES)
    batch, plays = Batch(torch.randn(7, 3)), []
    for of in (batch, batch._replace(y=torch.full((7,), -1))):
        torch.manual_seed(1)
        plays.append(model.regularise(of).losses)
    assert all(torch.equal(plays[0][player], plays[1][player]) for player in plays[0])


# The optimum of the discriminator: Gaussian codes against a Gaussian prior.


class Quadratic(nn.Module):
    """T = c + b z + z^T A z, which holds the log-ratio of any two Gaussians; other coefficients for every context."""

    def __init__(self, in_shape, out_shape=(), context_dim=0):
        super().__init__()
        self.rows, self.columns = torch.triu_indices(*in_shape, *in_shape)
        self.coefficients = nn.Linear(max(1, context_dim), 1 + in_shape[0] + len(self.rows), bias=False)
        nn.init.zeros_(self.coefficients.weight)

    def forward(self, z, context=None):
        features = torch.cat([torch.ones_like(z[..., :1]), z, z[..., self.rows] * z[..., self.columns]], -1)
        return (features * self.coefficients(features[..., :1] if context is None else context)).sum(-1)


class QuadraticCritic(Critic):
    def __init__(self, data_shape, latent_dim, context_dim=0):
        super().__init__()
        self.inside = Quadratic((data_shape[0] + latent_dim,))

    def forward(self, x, z, context=None):
        return self.inside(torch.cat([x.expand(*z.shape[:-1], -1), z], -1))


class Steps(nn.Module):
    """p(z|y) = N(y, (1 + y)^2): a part for each of three labels."""

    parts = 3

    def __init__(self, latent_dim):
        super().__init__()

    def forward(self):
        return StandardNormal(1)()

    def given(self, y):
        y = y.unsqueeze(-1).to(torch.get_default_dtype())
        return DiagonalNormal(y, 1 + y)


def coefficients_of(q, p):
    """Of 1, z and z^2 in log q - log p."""
    precision = 1 / q.scale.square() - 1 / p.scale.square()
    slope = q.loc / q.scale.square() - p.loc / p.scale.square()
    middle = 0.5 * ((p.loc / p.scale).square() - (q.loc / q.scale).square()) + (p.scale / q.scale).log()
    return torch.cat([middle, slope, -0.5 * precision], -1)


SLOPE, SHIFT, SCALE = 0.8, 0.4, 0.6


def line(**options):
    """q(z|x) = N(SLOPE x + SHIFT, SCALE^2), for data N(0, 1): q(z) = N(SHIFT, SLOPE^2 + SCALE^2)."""
    encoder = partial(GaussianEncoder, network=LINEAR)
    model = AAE(1, encoder, DECODER, Quadratic, data_shape=(1,), **options)
    layer = model.encoder.network.layers[0]
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[SLOPE], [0.0]]))
        layer.bias.copy_(torch.tensor([SHIFT, math.log(SCALE)]))
    return model, DiagonalNormal(torch.tensor([SHIFT]), torch.tensor([(SLOPE**2 + SCALE**2) ** 0.5]))


@float64
@pytest.mark.parametrize("labels", ["ignored", "prior"])
def test_the_discriminator_is_at_rest_at_log_codes_minus_log_prior(labels):
    """With labels that say nothing of x, for every part of the prior; and nowhere near minus that."""
    model, q = line(labels=labels, prior=Steps, classes=3)
    y = torch.arange(3000) % 3
    if labels == "prior":
        parts = [model.prior.given(torch.tensor([label])) for label in range(3)]
        truth = torch.stack([coefficients_of(q, DiagonalNormal(p.loc[0], p.scale[0])) for p in parts], -1)
        truth = torch.cat([truth, torch.zeros(3, 1)], -1)  # nobody is without a label
    else:
        truth = coefficients_of(q, model.prior()).unsqueeze(-1)
    weight = model.discriminator.coefficients.weight

    def slopes(at):
        with torch.no_grad():
            weight.copy_(at)
        losses = (model.discriminate(Batch(torch.randn(3000, 1), y)).losses["discriminator"] for _ in range(100))
        return torch.stack([flat_gradient(loss.mean(), [weight]) for loss in losses])

    at_rest = slopes(truth).view(100, 3, -1)[..., : 3 if labels == "prior" else 1]
    assert_mean(at_rest, 0.0, resolution=0.02)
    assert slopes(-truth).mean(0).abs().max() > 0.3


@float64
def test_at_the_optimum_the_generator_pays_the_divergence_less_the_information():
    """KL(q(z), p(z)) = E KL(q(z|x), p(z)) - I(x; z), of which the two terms on the right are far from zero."""
    model, q = line(loss="kl")
    with torch.no_grad():
        model.discriminator.coefficients.weight.copy_(coefficients_of(q, model.prior()).unsqueeze(-1))
    batch = Batch(torch.randn(100000, 1))
    paid = model.regularise(batch).losses["generator"].detach()
    divergence = kl_divergence(q, model.prior())
    each = kl_divergence(model.encoder(batch.x), model.prior()).detach()
    information = 0.5 * torch.tensor(1 + SLOPE**2 / SCALE**2).log()
    assert_mean(paid, divergence, resolution=0.02)
    assert_mean(each - information, divergence, resolution=0.02)
    assert information > 0.5 and divergence < 0.1


# The link to adversarial variational Bayes: the same game, with a critic that sees x or that does not.


def played(model, draw, steps):
    """The model at the end of the game, on batches from `draw`; every player with its optimizer and a cosine."""
    optimizers = {name: player.optimizer(model._parameters_of(name)) for name, player in model.players.items()}
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps) for optimizer in optimizers.values()]
    for _ in range(steps):
        batch = draw()
        for phase in model.phases():
            parameters = [parameter for player in phase.players for parameter in model._parameters_of(player)]
            loss = sum(map(torch.mean, phase.play(batch).losses.values()))
            for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                parameter.grad = gradient
            for player in phase.players:
                optimizers[player].step()
        for schedule in schedules:
            schedule.step()
    return model


WORLD = LinearGaussian(torch.tensor([[0.9], [-0.4]]), torch.tensor([0.3, -0.2]), 0.8)


def learned_codes(method, *parts, **options):
    """Of a linear Gaussian encoder that played with the true decoder: slope, mean variance, KL(q(z), p(z))."""
    model = method(1, partial(GaussianEncoder, network=LINEAR), DECODER, *parts, data_shape=(2,), **options)
    model.decoder = WORLD.decoder().requires_grad_(False)
    for parameter in model.encoder.parameters():
        nn.init.zeros_(parameter)
    played(model, lambda: Batch(WORLD.sample(256)), steps=400)
    with torch.no_grad():
        q = model.encoder(WORLD.sample(20000))
        z = q.rsample((1,))[0]
        divergence = kl_divergence(DiagonalNormal(z.mean(0), z.std(0)), model.prior())
        return model.encoder.network.layers[0].weight[0], q.variance.mean(), divergence


def test_a_critic_that_sees_x_gives_the_posterior_and_a_blind_one_the_prior_alone():
    """z = A x + noise: AVB ends at the posterior. An AAE loses the noise, and then reconstruction + KL(q(z), p(z)) is
    smallest at A = c w^T / |w|^2 with (k + 1)^2 c^2 = k (k + 1) c + k, k = |w|^2 / sigma^2: nearly the inverse of W.

    The players of the encoder take plain gradient steps: Adam would rescale reconstruction and divergence.

    Tolerance: with seeds 0 to 4 slopes ended within 0.011 of the truth, AVB's variance within 3 %, the AAE's at 4 % of
    it, KL(q(z), p(z)) below 0.001 and 0.021; c w^T / |w|^2 itself has 0.016.
    """
    sgd = Player(partial(torch.optim.SGD, lr=0.1))
    opponent = Player(partial(torch.optim.Adam, lr=0.05, betas=(0.5, 0.99)), steps=3)
    w = WORLD.weight[:, 0]
    k = w.square().sum() / WORLD.scale**2
    mean, variance = w / w.square().sum() * k / (1 + k), 1 / (1 + k)
    slope, spread, divergence = learned_codes(AVB, QuadraticCritic, PriorContrast, players=AVBPlayers(sgd, opponent))
    torch.testing.assert_close(slope, mean, rtol=0, atol=0.03)
    torch.testing.assert_close(spread, variance, rtol=0.08, atol=0)
    assert divergence < 0.005
    slope, spread, divergence = learned_codes(AAE, Quadratic, loss="kl", players=AAEPlayers(sgd, sgd, opponent))
    c = (k + (k.square() + 4 * k).sqrt()) / (2 * (k + 1))
    torch.testing.assert_close(slope, c * w / w.square().sum(), rtol=0, atol=0.03)
    assert (slope - mean).norm() > 0.2
    assert spread < 0.1 * variance
    assert divergence < 0.03


# Labels that name a part of the prior, or go to the decoder.

KINDS = 4
WIDE = partial(MLP, hidden=(32,))
SHARP = partial(GaussianDecoder, network=WIDE, scale=0.3)


def adam(rate, momentum=0.5, **options):
    return Player(partial(torch.optim.Adam, lr=rate, betas=(momentum, 0.99)), **options)


def blobs(rows, labelled=None):
    """Four heaps of points, ten standard deviations apart, in turn; of all but the first rows the label is hidden."""
    y = torch.arange(rows) % KINDS
    x = 2 * one_hot(y, KINDS) + 0.2 * torch.randn(rows, KINDS)
    return Batch(x, y.where(torch.arange(rows) < (rows if labelled is None else labelled), -1), torch.arange(rows))


def test_labelled_codes_end_in_their_part_and_the_others_follow():
    """A label that does not reach the discriminator leaves the parts to chance: one of 24 orders is the right one."""
    model = AAE(
        2,
        partial(DeterministicEncoder, network=WIDE),
        SHARP,
        WIDE,
        partial(PetalPrior, components=KINDS),
        labels="prior",
        players=AAEPlayers(adam(0.003, 0.9), adam(0.01), adam(0.01)),
        data_shape=(KINDS,),
        classes=KINDS,
    )
    played(model, lambda: blobs(128, labelled=32), steps=300)
    batch = blobs(1000)
    z = model.encode(batch.x)
    part = torch.stack([model.prior.given(torch.full((1000,), k)).log_prob(z) for k in range(KINDS)]).argmax(0)
    assert (part == batch.y).float().mean() > 0.97


class Flat(nn.Module):
    """Its draws lack their last dimension."""

    def __init__(self, latent_dim):
        super().__init__()

    def forward(self):
        return Normal(0.0, 1.0)


class Apart(StandardNormal):
    """The whole is N(0, I), its parts lie elsewhere: a label that is not there would name the last."""

    parts = 3

    def given(self, y):
        return DiagonalNormal(10.0 * torch.tensor([[1.0] * 2, [2.0] * 2, [3.0] * 2])[y], torch.ones(len(y), 2))


class NoModule:
    def __init__(self, latent_dim):
        pass


class Few(StandardNormal):
    """Has fewer parts than it says."""

    parts = 10

    def given(self, y):
        return DiagonalNormal(torch.zeros(4, 2)[y], torch.ones(len(y), 2))


class Unnamed(StandardNormal):
    """Speaks of parts, and cannot draw them."""

    parts = 4


class Given(pl.LightningDataModule):
    """Training batches, and one batch for validation and for test and prediction."""

    def __init__(self, train, val=None, test=None, classes=KINDS, labelled_per_batch=0):
        super().__init__()
        self.train, self.val, self.test = train, val or train[0], test or train[0]
        self.data_shape, self.classes = tuple(train[0].x.shape[1:]), classes
        self.labelled_per_batch = labelled_per_batch

    def _loader(self, batches):
        return DataLoader(batches, batch_size=None)

    def train_dataloader(self):
        return self._loader(self.train)

    def val_dataloader(self):
        return self._loader([self.val])

    def test_dataloader(self):
        return self._loader([self.test])

    def predict_dataloader(self):
        return self._loader([self.test])


@pytest.mark.parametrize(
    ("options", "batch", "message"),
    [
        ({"labels": "prior"}, {}, "'prior' needs a prior with a part for each of 4 labels.*StandardNormal has none"),
        ({"labels": "prior", "prior": partial(PetalPrior, components=3)}, {}, "a part for each of 4 labels.* has 3"),
        ({"labels": "prior", "prior": PetalPrior}, {"classes": None}, "'prior', and the data has none"),
        (
            {"labels": "prior", "prior": PetalPrior},
            {"classes": 3},
            r"a row has the label 3; the model knows 0\.\.2, and",
        ),
        (
            {"labels": "prior", "prior": PetalPrior},
            {"train": [blobs(8)._replace(y=torch.tensor([-2] * 8))]},
            "label -2",
        ),
        ({"labels": "prior", "prior": PetalPrior}, {"train": [blobs(8)._replace(y=torch.ones(8))]}, "are to be int64"),
        ({"labels": "decoder"}, {"train": [blobs(8)._replace(y=torch.zeros(8, 1, dtype=int))]}, r"of shape \(8, 1\)"),
        ({"labels": "decoder", "data_shape": (KINDS,), "classes": 9}, {}, "the model knows 9 labels, the data has 4"),
        ({"labels": "prior", "prior": PetalPrior, "data_shape": (KINDS,), "classes": 9}, {}, "knows 9 labels"),
        ({"prior": NoModule}, {}, r"NoModule is no torch\.nn\.Module"),
        ({"prior": partial(StandardNormal, latent_dim=3)}, {}, "multiple values"),
        ({"prior": Few}, {}, "Few.given.* cannot be drawn from: index 9 is out of bounds"),
        ({"labels": "decoder"}, {"classes": None}, "'decoder', and the data has none"),
        ({"prior": MixturePrior}, {}, "MixturePrior learns, and here the prior cannot"),
        ({"prior": Flat}, {}, r"sample\(\(2, 3\)\) of Flat has shape \(2, 3\), expected \(2, 3, 2\)"),
        ({"prior": Unnamed}, {}, "Unnamed.given.* cannot be drawn from"),
        ({"prior": nn.Identity}, {}, "Identity cannot be drawn from"),
    ],
)
def test_labels_and_priors_that_do_not_fit_are_refused_before_training(tmp_path, options, batch, message):
    run = trainer(tmp_path, max_steps=1, num_sanity_val_steps=0)
    with pytest.raises(ConfigurationError, match=f"^(labels|prior): .*{message}"):
        run.fit(aae(**options), Given(**{"train": [blobs(8)], **batch}))
    assert run.global_step == 0


@pytest.mark.parametrize("make", [partial(aae, labels="prior", prior=PetalPrior), partial(aae, labels="decoder")])
@pytest.mark.parametrize("wrong", [-2, KINDS])
def test_a_wrong_label_is_found_in_whatever_batch_it_is(tmp_path, make, wrong):
    batches = [blobs(8), blobs(8), blobs(8)._replace(y=torch.tensor([0, 1, wrong] + [0] * 5)), blobs(8)]
    run = trainer(tmp_path, max_steps=4, num_sanity_val_steps=0)
    with pytest.raises(ConfigurationError, match=f"^labels: a row has the label {wrong}; the model knows"):
        run.fit(make(), Given(batches))
    assert run.global_step == 2


def test_a_labelled_prior_needs_a_label_now_and_then(tmp_path):
    """Not in every batch, nor in every epoch that is cut short. But an epoch or a run without any is an error."""
    none, few, model = blobs(8, labelled=0), blobs(8, labelled=1), partial(aae, labels="prior", prior=PetalPrior)

    def fit(batches, **options):
        trainer(tmp_path, **{"max_epochs": 1, **options}).fit(model(), Given(batches, val=blobs(8)))

    fit([none, few, none._replace(y=None)])
    fit([none], fast_dev_run=True)
    for batches, options in (
        ([none, none], {"max_epochs": 9}),
        ([none._replace(y=None)], {}),
        ([none, few], {"max_steps": 1}),
    ):
        with pytest.raises(ConfigurationError, match=r"^labels: 'prior', and not one training row so far had a label"):
            fit(batches, **options)
    trainer(tmp_path, max_steps=3, limit_train_batches=1).fit(model(), Digits(batch_size=4, labels=10))
    run = trainer(tmp_path, max_steps=1)
    with pytest.raises(ConfigurationError, match=r"^labels: 'prior', and not one training row has a label"):
        run.fit(model(), Unlabelled(4))
    assert run.global_step == 0


class Unlabelled(TensorDataModule):
    classes = 10

    def load(self):
        return dict.fromkeys(("train", "val", "test"), Split(torch.rand(8, 2), torch.full((8,), -1)))


@float64
def test_rows_without_a_label_are_compared_with_the_whole_prior():
    """Whatever a prior of one's own makes of the label -1: `given` is not asked."""
    model = aae(labels="prior", prior=Apart, data_shape=(3,), classes=CLASSES)
    seen = []
    model.discriminator.register_forward_pre_hook(lambda module, given: seen.append(given[0][1]))
    model.regularise(Batch(torch.randn(3000, 3), torch.arange(3000) % 4 - 1))
    labels = torch.arange(3000) % 4 - 1
    assert seen[0][labels < 0].abs().max() < 9
    for label in range(CLASSES):
        assert (seen[0][labels == label] - 10.0 * (label + 1)).abs().max() < 9


def test_rows_without_a_label_are_no_rows_for_a_decoder_that_reads_them(tmp_path):
    with pytest.raises(ConfigurationError, match=r"^labels: a row has no label; the model knows 0\.\.3"):
        trainer(tmp_path, max_steps=1).fit(aae(labels="decoder"), Given([blobs(8, labelled=4)]))


def test_hidden_labels_are_nothing_for_a_model_that_reads_them_all(tmp_path):
    with pytest.raises(ConfigurationError, match=r"^data\.labels: 1200, and the model reads the label of every row"):
        trainer(tmp_path, max_steps=1).fit(aae(labels="decoder"), Digits(batch_size=4, labels=1200))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": "encoder"}, "labels: 'encoder'"),
        ({"loss": "wasserstein"}, "loss: 'wasserstein'"),
        ({"players": AAEPlayers(generator=Player(steps=2))}, r"players\.generator\.steps: 2"),
        ({"players": AAEPlayers(discriminator=Player(steps=0))}, r"players\.discriminator\.steps: 0"),
    ],
)
def test_what_makes_no_sense_is_named(options, message):
    with pytest.raises(ConfigurationError, match=f"^{message}"):
        aae(**options)


def test_the_decoder_reads_the_label_and_the_code_does_not():
    model = perturbed(aae(labels="decoder", data_shape=(3,), classes=CLASSES))
    x, y = torch.randn(6, 3), torch.arange(6) % CLASSES
    z = model.encode(x)
    assert (model.decode(z, y) != model.decode(z, (y + 1) % CLASSES)).all()
    torch.manual_seed(1)
    codes = model.codes(6, y)
    torch.manual_seed(1)
    assert codes.shape == (6, 2) and torch.equal(codes, model.prior().sample((6,)))
    torch.manual_seed(1)
    assert torch.equal(model.sample(6, [2, 0]), model.decode(codes, torch.tensor([2, 0] * 3)))


# Categories: clusters, labels, rows, codes.


def of_blobs(categories=None, latent_dim=1, **options):
    fast, slow = adam(0.01), adam(0.01, 0.9)
    players = CategoricalAAEPlayers(slow, fast, fast, slow)
    return CategoricalAAE(latent_dim, categories, WIDE, SHARP, WIDE, players=players, **options)


@pytest.mark.parametrize("clusters", [4, 8])
def test_heaps_become_clusters_without_labels(tmp_path, clusters):
    val, test = blobs(400), blobs(400)
    data = Given([blobs(128, labelled=0) for _ in range(20)], val, test)
    model, run = of_blobs(clusters), trainer(tmp_path, max_steps=250)
    run.fit(model, data)
    assert run.callback_metrics["val/error"] < 0.05
    (found,) = run.test(model, data, verbose=False)
    assert found["test/error"] < 0.05
    # Clusters are called by validation rows: with other names in the test data nothing is right.
    (found,) = run.test(model, Given(data.train, val, test._replace(y=(test.y + 1) % KINDS)), verbose=False)
    assert found["test/error"] > 0.95


@pytest.mark.parametrize("code", ["pair", "sum"])
def test_two_labels_a_class_are_enough(tmp_path, code):
    known = blobs(2 * KINDS)
    rows = [Batch(*map(torch.cat, zip(known, blobs(128, labelled=0), strict=True))) for _ in range(20)]
    data = Given(rows, blobs(400), blobs(400), labelled_per_batch=len(known.x))
    model, run = of_blobs(code=code, latent_dim=2), trainer(tmp_path, max_steps=250)
    run.fit(model, data)
    assert model.labelled == 8
    (found,) = run.test(model, data, verbose=False)
    assert found["test/error"] < 0.05 and run.callback_metrics.keys() >= {"test/reconstruction", "test/style_accuracy"}


@pytest.mark.parametrize(
    ("options", "data", "message"),
    [
        ({}, {"classes": None}, "categories: the data has no labels"),
        ({"categories": 3}, {}, "categories: 3 clusters are fewer than the 4 classes"),
        ({"categories": 5}, {"labelled_per_batch": 2}, r"data\.labelled_per_batch: clusters learn from no labels"),
        ({"categories": 5}, {"classes": None}, "classes: a row has the label 0; the model knows none, and"),
        ({}, {"classes": 3}, r"classes: a row has the label 3; the model knows 0\.\.2, and"),
        ({}, {"train": [blobs(8, labelled=7)]}, r"data\.labelled_per_batch: 0, and there are rows without a label"),
        ({}, {"train": [Batch(torch.randn(8, KINDS))]}, r"data\.labelled_per_batch: 0, and there are rows without"),
        ({}, {"train": [blobs(8, labelled=2)], "labelled_per_batch": 3}, r"data\.labelled_per_batch: 3, and there are"),
        ({}, {"train": [blobs(8)], "labelled_per_batch": 8}, r"data\.labelled_per_batch: 8 of a batch of 8 rows leave"),
    ],
)
def test_labels_and_categories_that_do_not_fit_are_refused_before_training(tmp_path, options, data, message):
    run = trainer(tmp_path, max_steps=1, num_sanity_val_steps=0)
    with pytest.raises(ConfigurationError, match=f"^{message}"):
        run.fit(categorical(**options), Given(**{"train": [blobs(8)], **data}))
    assert run.global_step == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"categories": 1}, "categories: 1"),
        ({"categories": 4.5}, r"categories: 4\.5 is not a whole number"),
        ({"category": 0.0, "style": 0.0}, "category, style: both are 0"),
        ({"smoothness": math.inf}, "smoothness: inf is not a weight"),
        ({"smoothness": 1.0, "radius": math.inf}, "radius: inf is not a distance"),
        ({"head_distance": math.inf, "code": "sum"}, "head_distance: inf is not a weight"),
        ({"code": "product"}, "code: 'product'"),
        ({"head_distance": 2.0}, r"head_distance: 2\.0"),
        ({"head_distance": -1.0, "code": "sum"}, r"head_distance: -1\.0"),
        ({"loss": "wasserstein"}, "loss: 'wasserstein'"),
        ({"smoothness": -1.0}, r"smoothness: -1\.0 is not a weight"),
        ({"balance": math.nan}, "balance: nan is not a weight"),
        ({"category": -0.1}, r"category: -0\.1 is not a weight"),
        ({"smoothness": 1.0, "radius": 0.0}, r"radius: 0\.0 is not a distance"),
        ({"players": CategoricalAAEPlayers(classifier=Player(steps=2))}, r"players\.classifier\.steps: 2"),
    ],
)
def test_what_makes_no_sense_with_categories_is_named(options, message):
    with pytest.raises(ConfigurationError, match=f"^{message}"):
        categorical(**options)


def test_the_codes_of_categories():
    """y and z side by side, or z + W y; the encoder's y are probabilities, and those asked for are sure."""
    x, z, y = torch.randn(6, 3), torch.randn(6, 2), torch.tensor([0, 1, 2] * 2)
    for code in ("pair", "sum"):
        model = perturbed(categorical(code=code, data_shape=(3,), classes=CLASSES))
        logits, style = model.encoder.network(x).split([CLASSES, 2], -1)
        parts = [(logits.softmax(-1), style, model.encode(x)), (one_hot(y, CLASSES), z, model.code_of(z, y))]
        for share, style, found in parts:
            if code == "pair":
                expected = torch.cat([share, style], -1)
            else:
                expected = style + share @ model.encoder.cluster_heads.weight.T
            torch.testing.assert_close(found, expected)
            assert found.shape == (6, model.code_dim) and model.code_dim == (5 if code == "pair" else 2)
        assert torch.equal(model.decode(found), model.decoder.network(found))


def test_categories_are_drawn_uniformly_and_in_turn():
    model = perturbed(categorical(categories=5, data_shape=(3,)))
    assert model.choices == 5
    drawn = model.codes(5000)[:, :5]
    assert_mean(drawn, 0.2, resolution=0.03)
    assert torch.equal(drawn.sum(-1), torch.ones(5000)) and torch.equal(drawn.amax(-1), torch.ones(5000))
    torch.manual_seed(1)
    z = model.prior().sample((4,))
    torch.manual_seed(1)
    assert torch.equal(model.sample(4, [3, 1]), model.decode(model.code_of(z, torch.tensor([3, 1, 3, 1]))))
    with pytest.raises(ConfigurationError, match=r"^labels: \[5\] are not in 0\.\.4"):
        model.sample(4, [5])


@float64
def test_heads_that_are_too_near_pay_what_is_missing():
    """Distances 5 and about 45 and 50 with 7 asked for: 2 in all, and both of the near ones are pushed apart."""
    model = categorical(code="sum", head_distance=7.0, data_shape=(3,), classes=CLASSES)
    heads = model.encoder.cluster_heads.weight
    with torch.no_grad():
        heads.copy_(torch.tensor([[0.0, 3.0, 30.0], [0.0, 4.0, 40.0]]))
    batch, losses = Batch(torch.randn(5, 3), torch.arange(5) % CLASSES), []
    for model.head_distance in (7.0, 0.0):
        losses.append(model.reconstruct(batch).losses["autoencoder"])
    torch.testing.assert_close(losses[0], losses[1] + 2)
    gradient = torch.autograd.grad(losses[0].mean() - losses[1].mean(), heads)[0]
    torch.testing.assert_close(gradient, torch.tensor([[0.6, -0.6, 0.0], [0.8, -0.8, 0.0]]))


def test_predictions_are_codes_and_categories(tmp_path):
    batch, model = blobs(6), categorical(categories=4, data_shape=(KINDS,))
    (found,) = trainer(tmp_path).predict(model, Given([batch]))
    share = model.encoder.network(batch.x)[:, :4].softmax(-1)
    assert found.keys() == {"z", "category", "probability", "y", "index"}
    assert torch.equal(found["category"], share.argmax(-1)) and torch.equal(found["z"], model.encode(batch.x))
    torch.testing.assert_close(found["probability"], share.amax(-1))
    assert torch.equal(found["y"], batch.y) and torch.equal(found["index"], batch.index)


# Members of clusters.


def test_members_by_hand():
    """Three categories, labels 0 and 1; row 5 has no label, and nobody is likely to be of the third category."""
    share = [[0.7, 0.2, 0.1], [0.9, 0.05, 0.05], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.2, 0.6, 0.2], [0.0, 0.0, 1.0]]
    members = Members(3, 2)
    members.update(torch.tensor(share).log(), torch.tensor([0, 1, 0, 1, 0, -1]))
    counts, label = members.compute()
    assert counts.tolist() == [[2, 1], [1, 1], [0, 0]]
    assert label.tolist() == [1, 1, 0]


def test_the_surest_member_is_found_where_probabilities_are_all_one():
    logits = torch.tensor([[40.0, 0.0, 0.0], [50.0, 0.0, 0.0], [60.0, 30.0, 0.0]])
    assert torch.equal(logits.softmax(-1)[:, 0], torch.ones(3))
    members = Members(3, 3)
    members.update(logits, torch.arange(3))
    assert members.compute()[1][0] == 1


def test_members_depend_on_neither_batches_nor_processes():
    logits, y = torch.randn(60, 5), torch.arange(60) % 4 - 1
    whole, merged = Members(5, 3), Members(5, 3)
    whole.update(logits, y)
    processes = [Members(5, 3) for _ in range(3)]
    for rank, members in enumerate(processes):
        for rows in torch.arange(rank, 60, 3).split(7):
            members.update(logits[rows], y[rows])
        merged.merge_state(members)
    gathered = {state: [getattr(members, state).clone() for members in processes] for state in ("counts", "surest")}
    of = lambda state, group=None: gathered["counts" if state.dtype == torch.int64 else "surest"]
    processes[1].sync(dist_sync_fn=of, distributed_available=lambda: True)
    for members in (merged, processes[1]):
        for one, other in zip((members.counts, members.surest), (whole.counts, whole.surest), strict=True):
            assert torch.equal(one, other)
    assert whole.counts.sum() == 45 and len(whole.compute()[1].unique()) > 1


def test_errors_are_counted_where_labels_are_known(tmp_path):
    """Two of the four categories' names are exchanged in the test data, and every other row has no label."""
    model, batch = categorical(data_shape=(KINDS,), classes=KINDS), blobs(8)
    model.encoder.network.layers = nn.Sequential(nn.Linear(KINDS, KINDS + 2, bias=False))
    with torch.no_grad():
        model.encoder.network.layers[0].weight.copy_(torch.eye(KINDS + 2, KINDS))
    y = torch.tensor([1, 0, 2, 3, -1, -1, -1, -1])
    run = trainer(tmp_path)
    (found,) = run.test(model, Given([batch], test=batch._replace(y=y)), verbose=False)
    assert found["test/error"] == 0.5
    (found,) = run.test(model, Given([batch], test=batch._replace(y=torch.full((8,), -1))), verbose=False)
    assert "test/error" not in found and "test/reconstruction" in found


def test_clusters_are_named_by_rows_as_a_datamodule_hands_them_over(tmp_path):
    """One that shifts x before and after its way to the device, has two loaders, and makes them late."""
    model, seen = categorical(categories=4, data_shape=(KINDS,), classes=KINDS), []

    class Shifted(Given):
        def setup(self, stage):
            if stage == "validate":
                self.loaders = {"a": self._loader([self.val]), "b": self._loader([self.val])}

        def on_before_batch_transfer(self, batch, dataloader_idx):
            return batch._replace(x=batch.x + 100)

        def on_after_batch_transfer(self, batch, dataloader_idx):
            return batch._replace(x=batch.x + 1000)

        def val_dataloader(self):
            return self.loaders

    model.encoder.network.register_forward_pre_hook(lambda network, given: seen.append(given[0]))
    trainer(tmp_path, precision="64-true").test(model, Shifted([blobs(8)]), verbose=False)
    assert len(seen) >= 3 and all(x.mean() > 1050 and x.dtype == torch.float64 for x in seen)
    with pytest.raises(ConfigurationError, match=r"^classes: a row has the label 7; the model knows 0\.\.3"):
        trainer(tmp_path).test(model.float(), Given([blobs(8)], val=blobs(8)._replace(y=torch.full((8,), 7))))


def test_clusters_are_named_anew_in_every_test(tmp_path):
    model, run, batch = categorical(categories=4, data_shape=(KINDS,), classes=KINDS), trainer(tmp_path), blobs(8)
    with torch.no_grad():
        model.encoder.network.layers = nn.Sequential(nn.Linear(KINDS, KINDS + 2, bias=False))
        model.encoder.network.layers[0].weight.copy_(torch.eye(KINDS + 2, KINDS))
    (found,) = run.test(model, Given([batch]), verbose=False)
    assert found["test/error"] == 0
    surer = batch._replace(x=0.9 * batch.x, y=(batch.y + 1) % KINDS)
    (found,) = run.test(model, Given([batch], val=surer), verbose=False)
    assert found["test/error"] == 1


@pytest.mark.parametrize("stage", ["val", "test"])
@pytest.mark.parametrize("make", [partial(aae, labels="prior", prior=PetalPrior), categorical])
def test_labels_of_evaluation_are_checked_too(tmp_path, make, stage):
    data = Given([blobs(8)], **{stage: blobs(8)._replace(y=torch.full((8,), KINDS))})
    run, model = trainer(tmp_path), make(data_shape=(KINDS,), classes=KINDS)
    with pytest.raises(ConfigurationError, match=f"a row has the label {KINDS}; the model knows"):
        (run.validate if stage == "val" else run.test)(model, data)


def test_two_loaders_may_be_evaluated(tmp_path):
    class Two(Given):
        def val_dataloader(self):
            return [super().val_dataloader()] * 2

        test_dataloader = predict_dataloader = val_dataloader

    for model in (categorical(), aae()):
        run = trainer(tmp_path, max_steps=1)
        run.fit(model, Two([blobs(8)]))
        assert len(run.test(model, Two([blobs(8)]), verbose=False)) == 2
        assert len(run.predict(model, Two([blobs(8)]))) == 2


def test_new_data_without_labels_is_encoded_where_the_decoder_alone_reads_them(tmp_path):
    model = aae(labels="decoder", data_shape=(KINDS,), classes=KINDS)
    (found,) = trainer(tmp_path).predict(model, Given([blobs(8)._replace(y=None)]))
    assert found["z"].shape == (8, 2)


@pytest.mark.parametrize(("labelled", "message"), [(-1, "-1 is below 0"), (2.0, "2.0 is not a whole number")])
def test_a_datamodules_own_mistakes_are_named(tmp_path, labelled, message):
    with pytest.raises(ConfigurationError, match=rf"^data\.labelled_per_batch: {message}"):
        trainer(tmp_path, max_steps=1).fit(categorical(), Given([blobs(8)], labelled_per_batch=labelled))
    with pytest.raises(ConfigurationError, match=r"^classes: \['a', 'b'\] is not a whole number"):
        trainer(tmp_path, max_steps=1).fit(categorical(), Given([blobs(8)], classes=["a", "b"]))
    data = Given([blobs(8)])
    data.labels = ["nought", "one", "two", "three"]  # the names of the classes, and not ours to read
    trainer(tmp_path, max_steps=1).fit(aae(labels="decoder"), data)


def test_clusters_without_a_datamodule_have_no_names(tmp_path):
    model = categorical(categories=4, data_shape=(KINDS,), classes=KINDS)
    with pytest.raises(ConfigurationError, match=r"^data: clusters are called by validation rows"):
        trainer(tmp_path).test(model, Given([blobs(8)]).test_dataloader(), verbose=False)
    (found,) = trainer(tmp_path).test(model, Given([blobs(8)], val=blobs(8, labelled=0)), verbose=False)
    assert "test/error" not in found


# Checkpoints and pictures.

CHECKPOINTED = {
    "aae": partial(aae, DeterministicEncoder),
    "aae, labelled prior": partial(aae, labels="prior", prior=partial(PetalPrior, components=KINDS)),
    "aae, labelled decoder": partial(aae, labels="decoder"),
    "semi-supervised": partial(categorical, code="sum", head_distance=1.0),
    "clusters": partial(categorical, categories=5),
}


@pytest.mark.parametrize("make", CHECKPOINTED.values(), ids=CHECKPOINTED)
def test_a_checkpoint_restores_the_model_without_arguments(tmp_path, make):
    model, run, batch = make(), trainer(tmp_path, max_steps=2), blobs(8)
    run.fit(model, Given([batch]))
    run.save_checkpoint(tmp_path / "x.ckpt")
    torch.load(tmp_path / "x.ckpt", weights_only=True)
    again = type(model).load_from_checkpoint(tmp_path / "x.ckpt")
    assert dict(again.hparams) == dict(model.hparams) and again.state_dict().keys() == model.state_dict().keys()
    outputs = []
    for of in (model, again):
        with noise.use(noise.OfRows(index=batch.index)), torch.no_grad():
            z = of.encode(batch.x, batch.y)
            outputs.append(
                torch.cat(
                    [
                        z,
                        of.decode(z, batch.y),
                        torch.stack([score.view(-1) for score in of.scores(batch).values()], -1),
                    ],
                    -1,
                )
            )
    assert torch.equal(*outputs)
    longer = trainer(tmp_path, max_steps=4)
    longer.fit(make(), Given([batch]), ckpt_path=tmp_path / "x.ckpt")
    assert longer.global_step == 4


def test_scores_are_those_of_the_formulas():
    """Of an AAE; every one a number a row."""
    model = perturbed(aae(labels="prior", prior=PetalPrior, data_shape=(3,), classes=CLASSES))
    batch = Batch(torch.randn(6, 3), torch.tensor([0, 1, 2, -1, -1, 0]))
    with noise.use(of_shape), torch.no_grad():
        scores, losses = model.scores(batch), written_out(model, batch)
    torch.testing.assert_close(scores["reconstruction"], losses["reconstruct"]["autoencoder"])
    torch.testing.assert_close(scores["generator_loss"], losses["regularise"]["generator"])
    torch.testing.assert_close(scores["discriminator_loss"], losses["regularise"]["discriminator"])


def test_accuracy_counts_codes_and_draws():
    model = line()[0]
    at = model.discriminator.coefficients.weight
    for middle, right in ((1e3, 0.5), (-1e3, 0.5), (0.0, 0.5)):
        with torch.no_grad():
            at.copy_(torch.tensor([[middle], [0.0], [0.0]]))
        accuracy = model.scores(Batch(torch.randn(5, 1)))["discriminator_accuracy"]
        assert accuracy.tolist() == [right] * 5
    with torch.no_grad():
        at.copy_(torch.tensor([[-1e3], [1e3], [0.0]]))  # what exceeds 1 is a code
        model.encoder.network.layers[0].weight.zero_()
        model.encoder.network.layers[0].bias.copy_(torch.tensor([9.0, -9.0]))
    with noise.use(lambda shape, like: torch.zeros(shape)):
        assert model.scores(Batch(torch.randn(5, 1)))["discriminator_accuracy"].tolist() == [1.0] * 5


@pytest.mark.parametrize("code", ["pair", "sum"])
def test_styles_are_rows_and_categories_columns(code):
    """The first row has the style 0: with the sum, its codes are the heads."""
    model, seen = perturbed(categorical(code=code, categories=5, data_shape=(3,))), []
    model.decoder.register_forward_pre_hook(lambda decoder, given: seen.append(given[0]))
    picture = pictures.styles(model, rows=3)
    codes = seen[0].view(3, 5, -1)
    if code == "pair":
        styles = codes[..., 5:]
        assert torch.equal(codes[..., :5], torch.eye(5).expand(3, 5, 5))
    else:
        heads = model.encoder.cluster_heads.weight.T
        styles = codes - heads
        torch.testing.assert_close(codes[0], heads)
    torch.testing.assert_close(styles, styles[:, :1].expand_as(styles))
    assert not styles[0].any() and (styles[1] != styles[2]).all()
    assert picture.shape == pictures.tiles(torch.zeros(15, 3), 5).shape


def test_pictures_of_what_a_model_can(tmp_path):
    for name in ("aae, labelled decoder", "semi-supervised", "clusters"):
        run = trainer(tmp_path, max_steps=1, logger=CSVLogger(tmp_path, name), callbacks=[Pictures(0)])
        run.fit(CHECKPOINTED[name](), Given([blobs(8)]))
        drawn = {path.name.split("_0")[0] for path in Path(run.log_dir, "pictures").glob("*_0*.png")}
        everything = {"samples", "reconstructions", "interpolations", "styles", "latent_plane"}
        assert drawn == everything - ({"latent_plane"} if name == "clusters" else set())  # code of seven dimensions


@pytest.mark.parametrize(("categories", "dim"), [(10, 2), (30, 2), (4, 1), (16, 5)])
def test_cluster_heads_begin_apart_and_around_the_origin(categories, dim):
    for seed in range(5):
        torch.manual_seed(seed)
        encoder = CategoricalEncoder((3,), dim, categories, SMALL, summed=True)
        encoder.place_heads(4.0)
        heads = encoder.cluster_heads.weight.detach().T
        assert torch.pdist(heads).min() > 3.999
        assert heads.mean(0).abs().max() < 1e-4
        assert crowding(heads, 4.0) < 1e-3 and crowding(heads[:2], 1e4) == pytest.approx(
            1e4 - (heads[0] - heads[1]).norm().item(), rel=1e-5
        )
