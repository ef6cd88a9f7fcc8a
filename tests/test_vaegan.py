"""VAE/GAN: every player gets the gradient of its own loss, and of no other."""

from functools import partial

import pytest
import torch
from closed_forms import perturbed
from monte_carlo import flat_gradient
from torch.distributions import Normal, kl_divergence
from torch.func import functional_call
from torch.nn.functional import logsigmoid, one_hot, silu

from lightning_avb import (
    MLP,
    VAEGAN,
    Batch,
    FlowEncoder,
    GaussianEncoder,
    NoiseInjectionEncoder,
    Player,
    inference,
    noise,
)
from lightning_avb.errors import ConfigurationError
from lightning_avb.models.vaegan import VAEGANPlayers

SMALL = partial(MLP, hidden=(8,))
CLASSES = 3


def vaegan(**options):
    return VAEGAN(2, partial(GaussianEncoder, network=SMALL), SMALL, SMALL, features=5, **options)


def written_out(model, batch, eps, eps_again, z_p):
    """The losses of the three players by the formulas of the paper; each depends on its own parameters alone."""
    y = one_hot(batch.y, CLASSES).to(batch.x) if model.conditional else None
    mean, log_scale = model.encoder.network(batch.x, y).chunk(2, -1)
    fixed = {
        name: {key: value.detach() for key, value in getattr(model, name).named_parameters()}
        for name in ("generator", "discriminator")
    }

    def normalised(f):
        return (f - f.mean(-1, keepdim=True)) / (f.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()

    def features(x):
        weights = {key.removeprefix("network."): value for key, value in fixed["discriminator"].items()}
        weights = {key: value for key, value in weights.items() if not key.startswith("head.")}
        return normalised(functional_call(model.discriminator.network, weights, (x, y)))

    def t(x):
        return model.discriminator.head(silu(normalised(model.discriminator.network(x, y)))).squeeze(-1)

    def t_fixed(x):
        return silu(features(x)) @ fixed["discriminator"]["head.weight"][0] + (fixed["discriminator"]["head.bias"])

    def generate(z, weights=None):
        network = model.generator.network
        if weights is not None:
            weights = {key.removeprefix("network."): value for key, value in weights.items()}
            return functional_call(network, weights, (z, y)).sigmoid()
        return network(z, y).sigmoid()

    z = mean + log_scale.exp() * eps
    distance = (features(batch.x) - features(generate(z, fixed["generator"]))).square().sum(-1) / 2
    encoder = kl_divergence(Normal(mean, log_scale.exp()), Normal(0.0, 1.0)).sum(-1) + distance
    z_q = (mean + log_scale.exp() * eps_again).detach()
    again, drawn = generate(z_q), generate(z_p)
    distance = (features(batch.x) - features(again)).square().sum(-1) / 2
    generator = model.gamma * distance - 0.5 * (logsigmoid(-t_fixed(again)) + logsigmoid(-t_fixed(drawn)))
    found = [-logsigmoid(t(x.detach())) for x in (again, drawn)]
    discriminator = 0.5 * sum(found) - logsigmoid(-t(batch.x))
    return {"encoder": encoder, "generator": generator, "discriminator": discriminator}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("conditional", [False, True])
def test_every_player_gets_the_gradient_of_its_own_loss(conditional):
    options = {"conditional": True, "classes": CLASSES} if conditional else {}
    model = perturbed(vaegan(gamma=0.4, gradient_penalty=0.0, data_shape=(1, 2, 3), **options), by=0.3)
    batch, eps = Batch(torch.rand(7, 1, 2, 3), torch.arange(7) % CLASSES), torch.randn(3, 7, 2)
    expected = written_out(model, batch, *eps)
    draws = iter(eps.unsqueeze(1))
    with noise.use(lambda shape, like: next(draws)):
        results = [phase.compute(batch) for phase in model.phases()]
    for phase, result in zip(model.phases(), results, strict=True):
        assert set(result.losses) == set(phase.players)
        # As in the engine, a phase asks for the gradients of its own players alone.
        own = [parameter for player in phase.players for parameter in model.parameters_of(player)]
        ours = flat_gradient(sum(loss.mean() for loss in result.losses.values()), own)
        theirs = [flat_gradient(expected[player].mean(), model.parameters_of(player)) for player in phase.players]
        assert min(gradient.abs().max() for gradient in theirs) > 1e-4
        torch.testing.assert_close(ours, torch.cat(theirs), rtol=1e-9, atol=1e-12)
        for player, loss in result.losses.items():
            torch.testing.assert_close(loss.mean(), expected[player].mean())


def test_the_penalty_is_the_discriminators():
    model, batch = vaegan(gradient_penalty=2.0, data_shape=(4,)), Batch(torch.rand(5, 4))
    losses = {}
    for weight in (0.0, 2.0):
        model.adversarial.gradient_penalty = weight
        torch.manual_seed(1)
        losses[weight] = model.learn(batch).losses
    assert torch.equal(losses[0.0]["generator"], losses[2.0]["generator"])
    assert (losses[2.0]["discriminator"] > losses[0.0]["discriminator"]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": 0}, "^features: 0 is below 1"),
        ({"gamma": -1.0}, "^gamma: -1"),
        ({"players": VAEGANPlayers(discriminator=Player(steps=2))}, r"^players.discriminator.steps: 2; one per batch"),
        ({"output": "tanh"}, "^output: 'tanh'"),
        ({"discriminator": partial(SMALL, batch_norm=True)}, "^discriminator: batch_norm"),
    ],
)
def test_what_makes_no_sense_is_named(options, message):
    with pytest.raises(ConfigurationError, match=message):
        VAEGAN(2, **{"data_shape": (3,), **options})


@pytest.mark.parametrize("encoder", [FlowEncoder, NoiseInjectionEncoder])
def test_an_encoder_without_a_divergence_is_refused(encoder):
    model = VAEGAN(2, encoder, data_shape=(3,))
    with pytest.raises(ConfigurationError, match="no KL divergence in closed form"):
        model.learn_encoder(Batch(torch.rand(4, 3)))


@pytest.mark.usefixtures("float64")
def test_the_reconstruction_reads_the_label_twice():
    model = perturbed(vaegan(conditional=True, classes=CLASSES, data_shape=(4,)), by=0.3)
    batch = Batch(torch.rand(6, 4), torch.arange(6) % CLASSES, torch.arange(6))
    y = one_hot(batch.y, CLASSES).to(batch.x)
    mean = model.encoder.network(batch.x, y).chunk(2, -1)[0]
    expected = (batch.x - model.generator.network(mean, y).sigmoid()).square().sum(1)
    with noise.use(lambda shape, like: torch.zeros(shape, dtype=like.dtype)):
        torch.testing.assert_close(model.scores(batch)["reconstruction_error"], expected)


def test_the_feature_error_is_summed_in_single_precision():
    model, batch = vaegan(data_shape=(4,)), Batch(torch.rand(6, 4))
    with torch.autocast("cpu", torch.bfloat16):
        assert model.feature_error(batch, torch.rand(6, 4)).dtype == torch.float32


def test_a_step_checks_no_values_for_which_a_gpu_would_wait(monkeypatch):
    """What `encode` checks of a user's rows is for users: a phase and a validation take their batch as it is."""
    model, batch = vaegan(data_shape=(4,)), Batch(torch.rand(6, 4))
    monkeypatch.setattr(inference, "rows_of", None)
    for phase in model.phases():
        phase.compute(batch)
    model.reconstruction_error(batch)
    with pytest.raises(TypeError):
        model.encode(batch.x)
