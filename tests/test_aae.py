"""Adversarial autoencoders: the optimum in closed form, the link to AVB, checkpoints and pictures."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import pytest
import torch
from autoencoders import DECODER, KINDS, Given, aae, blobs, categorical, played
from closed_forms import LINEAR, LinearGaussian, perturbed
from monte_carlo import assert_mean, flat_gradient
from pytorch_lightning.loggers import CSVLogger
from small_models import trainer
from torch import nn
from torch.distributions import kl_divergence

from lightning_avb import (
    AAE,
    AVB,
    Batch,
    DeterministicEncoder,
    GaussianEncoder,
    PetalPrior,
    Player,
    PriorContrast,
    StandardNormal,
    noise,
    pictures,
)
from lightning_avb.callbacks import Pictures
from lightning_avb.distributions import DiagonalNormal
from lightning_avb.models.aae import AAEPlayers
from lightning_avb.models.avb import AVBPlayers
from lightning_avb.networks import Critic

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


@pytest.mark.usefixtures("float64")
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


@pytest.mark.usefixtures("float64")
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

WORLD = LinearGaussian(torch.tensor([[0.9], [-0.4]]), torch.tensor([0.3, -0.2]), 0.8)


def learned_codes(method, *parts, **options):
    """Of a linear Gaussian encoder that played with the true decoder: slope, mean variance, KL(q(z), p(z))."""
    model = method(1, partial(GaussianEncoder, network=LINEAR), DECODER, *parts, data_shape=(2,), **options)
    model.decoder = WORLD.decoder().requires_grad_(False)
    for parameter in model.encoder.parameters():
        nn.init.zeros_(parameter)
    played(model, lambda: Batch(WORLD.sample(256)), steps=200)
    with torch.no_grad():
        q = model.encoder(WORLD.sample(20000))
        z = q.rsample((1,))[0]
        divergence = kl_divergence(DiagonalNormal(z.mean(0), z.std(0)), model.prior())
        return model.encoder.network.layers[0].weight[0], q.variance.mean(), divergence


def test_a_critic_that_sees_x_gives_the_posterior_and_a_blind_one_the_prior_alone():
    """z = A x + noise: AVB ends at the posterior. An AAE loses the noise, and then reconstruction + KL(q(z), p(z)) is
    smallest at A = c w^T / |w|^2 with (k + 1)^2 c^2 = k (k + 1) c + k, k = |w|^2 / sigma^2: nearly the inverse of W.

    The players of the encoder take plain gradient steps: Adam would rescale reconstruction and divergence.

    Tolerance: with seeds 0 to 4, after twice the steps, slopes ended within 0.011 of the truth, AVB's variance within
    3 %, the AAE's at 4 % of it, KL(q(z), p(z)) below 0.001 and 0.021; c w^T / |w|^2 itself has 0.016.
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
        with noise.use(noise.RowNoise(index=batch.index)), torch.no_grad():
            z = of.encode(batch.x, batch.y, draws=1)[0]
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


@pytest.mark.usefixtures("without_curves", "undrawn")
def test_pictures_of_what_a_model_can(tmp_path):
    for name in ("aae, labelled decoder", "semi-supervised", "clusters"):
        run = trainer(tmp_path, max_steps=1, logger=CSVLogger(tmp_path, name), callbacks=[Pictures(0)])
        run.fit(CHECKPOINTED[name](), Given([blobs(8)]))
        drawn = {path.name.split("_0")[0] for path in Path(run.log_dir, "pictures").glob("*_0*.png")}
        everything = {
            "samples",
            "reconstructions",
            "interpolations",
            "latent_plane",
        }  # of vectors
        assert drawn == everything - ({"latent_plane"} if name == "clusters" else set())  # code of seven dimensions
