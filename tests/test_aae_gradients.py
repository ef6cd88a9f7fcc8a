"""Adversarial autoencoders: every phase's losses and gradients against the formulas written out."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from autoencoders import CLASSES, SMALL, aae, categorical, of_shape, one_hot
from closed_forms import perturbed
from torch import nn
from torch.distributions import Normal
from torch.func import functional_call
from torch.nn.functional import logsigmoid

from lightning_avb import MLP, Batch, InputNoise, PetalPrior, Player, noise, objectives
from lightning_avb.errors import ConfigurationError
from lightning_avb.models.aae import AAEPlayers
from lightning_avb.models.categorical_aae import CategoricalAAEPlayers

FORMS = ["non_saturating", "minimax", "kl"]
every_form = pytest.mark.parametrize("form", FORMS)


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
    penalty = squares / (2 * model.weight_prior**2 * model.train_rows) if model.weight_prior else 0.0
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
    game = contested(model.discriminator, z[0], real[0], context, model.adversarial.form)
    label = one_hot(y, CLASSES) if model.labels == "decoder" else None
    return {
        "autoencode": {"autoencoder": likelihood_loss(model, x, z, label)},
        "regularise": game,
        "discriminate": {"discriminator": game["discriminator"]},
    }


def written_out_with_categories(model, batch):
    labelled = batch.first(model.labelled_per_batch or len(batch.x))
    x, _, _ = batch.at(slice(model.labelled_per_batch, None))
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
    style = contested(model.discriminators["style"], z, of_shape((1, len(x), 2), x)[0], None, model.adversarial.form)
    category = contested(model.discriminators["category"], share, drawn[0], None, model.adversarial.form)
    discriminator = style["discriminator"] + category["discriminator"]
    weights = model.adversarial_weights
    generator = weights["category"] * category["generator"] + weights["style"] * style["generator"]
    if model.smoothness:
        generator = generator + model.smoothness * change_of_category(model, x, share)
    generator = generator + model.balance * (share * (k * share.mean(0)).log()).sum(-1)
    right = network(labelled.x)[:, :k].log_softmax(-1)[torch.arange(len(labelled.x)), labelled.y]
    return {
        "autoencode": {"autoencoder": likelihood_loss(model, x, code.unsqueeze(0)) + missing},
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
            losses = phase.compute(batch).losses
        by_hand = expected[phase.compute.__name__]
        assert set(losses) == set(by_hand) == set(phase.players)
        theirs = [torch.zeros_like(parameter) for parameter in parameters]
        for player, loss in losses.items():
            torch.testing.assert_close(loss, by_hand[player].expand_as(loss))
            own = {id(parameter) for parameter in model.parameters_of(player)}
            for name, parameter, total, part in zip(names, parameters, theirs, gradients(by_hand[player]), strict=True):
                assert bool(part.any()) == (id(parameter) in own), f"{player}: {name}"
                total += part
        for name, one, other in zip(names, gradients(sum(losses.values())), theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")


TWICE = Player(steps=2)


@pytest.mark.usefixtures("float64")
@every_form
@pytest.mark.parametrize("labels", ["ignored", "prior", "decoder"])
def test_every_player_gets_the_gradient_of_its_own_loss(labels, form):
    prior, players = partial(PetalPrior, components=4), AAEPlayers(discriminator=TWICE)
    options = {"data_shape": (3,), "classes": CLASSES, "weight_prior": 0.7}
    model = aae(labels=labels, prior=prior, loss=form, players=players, **options)
    model.train_rows = 50
    y = torch.arange(7) % CLASSES
    y[4:] = -1 if labels == "prior" else y[4:]
    batch = Batch(torch.randn(7, 3), y)
    assert_every_phase_is(model, batch, written_out(perturbed(model, by=0.3), batch))


@pytest.mark.usefixtures("float64")
@every_form
@pytest.mark.parametrize("labelled", [0, 3])
@pytest.mark.parametrize("code", ["pair", "sum"])
def test_every_player_gets_the_gradient_of_its_own_loss_with_categories(code, labelled, form):
    distance, players = 2.0 if code == "sum" else 0.0, CategoricalAAEPlayers(discriminator=TWICE)
    options = {"data_shape": (3,), "classes": CLASSES, "weight_prior": 0.7}
    model = categorical(code=code, head_distance=distance, loss=form, players=players, **options)
    model.labelled_per_batch, model.train_rows = labelled, 50
    batch = Batch(torch.randn(7, 3), torch.arange(7) % CLASSES)
    assert_every_phase_is(model, batch, written_out_with_categories(perturbed(model, by=0.3), batch))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("clusters", [None, 4])
def test_every_player_gets_the_gradient_of_its_own_loss_with_smoothness_and_balance(clusters):
    weights = {"category": 0.3, "style": 0.7, "smoothness": 2.0, "radius": 0.8, "balance": 1.5}
    players = CategoricalAAEPlayers(discriminator=TWICE)
    options = {"data_shape": (3,), "classes": CLASSES, "weight_prior": 0.7}
    model = categorical(categories=clusters, players=players, **options, **weights)
    model.labelled_per_batch, model.train_rows = 0 if clusters else 3, 50
    batch = Batch(torch.randn(7, 3), torch.arange(7) % CLASSES)
    expected = written_out_with_categories(perturbed(model, by=0.3), batch)
    if clusters:
        del expected["classify"]
    assert_every_phase_is(model, batch, expected)


@pytest.mark.usefixtures("float64")
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


@pytest.mark.usefixtures("float64")
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


@pytest.mark.usefixtures("float64")
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


def test_scores_are_those_of_the_formulas():
    """Of an AAE; every one a number a row."""
    model = perturbed(aae(labels="prior", prior=PetalPrior, data_shape=(3,), classes=CLASSES))
    batch = Batch(torch.randn(6, 3), torch.tensor([0, 1, 2, -1, -1, 0]))
    with noise.use(of_shape), torch.no_grad():
        scores, losses = model.scores(batch), written_out(model, batch)
    torch.testing.assert_close(scores["reconstruction"], losses["autoencode"]["autoencoder"])
    torch.testing.assert_close(scores["generator_loss"], losses["regularise"]["generator"])
    torch.testing.assert_close(scores["discriminator_loss"], losses["regularise"]["discriminator"])
