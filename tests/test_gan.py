"""GAN and BiGAN: optima and gradients in closed form, Gaussian games that converge, what they draw and refuse."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import pytest
import torch
from closed_forms import LINEAR, perturbed
from monte_carlo import flat_gradient
from pytorch_lightning.loggers import CSVLogger
from small_models import trainer
from torch import nn
from torch.distributions import MultivariateNormal, Normal
from torch.func import functional_call, grad
from torch.nn.functional import logsigmoid, one_hot

from datamodules import Split, TensorDataModule
from lightning_avb import GAN, MLP, Batch, BiGAN, ConvNet, FlowPrior, GaussianEncoder, Player, ResidualCritic, noise
from lightning_avb.callbacks import Pictures
from lightning_avb.errors import ConfigurationError
from lightning_avb.models.bigan import BiGANPlayers
from lightning_avb.models.gan import GANPlayers
from lightning_avb.networks import Critic

SMALL = partial(MLP, hidden=(8,))
LOGISTIC = ["non_saturating", "minimax", "kl"]
FORMS = [*LOGISTIC, "least_squares", "hinge", "wasserstein"]
CLASSES = 3


class Quadratic(nn.Module):
    """T = c + b x + x^T A x, which holds the log-ratio of any two Gaussians."""

    def __init__(self, in_shape, out_shape=(), context_dim=0):
        super().__init__()
        self.rows, self.columns = torch.triu_indices(*in_shape, *in_shape)
        self.linear = nn.Linear(len(self.rows) + in_shape[0], 1)
        nn.init.zeros_(self.linear.weight), nn.init.zeros_(self.linear.bias)

    def forward(self, x, context=None):
        return self.linear(torch.cat([x, x[..., self.rows] * x[..., self.columns]], -1)).squeeze(-1)


class QuadraticCritic(Critic):
    def __init__(self, data_shape, latent_dim, context_dim=0):
        super().__init__()
        self.inside = Quadratic((data_shape[0] + latent_dim,))

    def forward(self, x, z, context=None):
        return self.inside(torch.cat([x, z], -1))


class NoisyLinear(nn.Module):
    """A line and noise: a generator whose joint distribution with z has a density."""

    def __init__(self, in_shape, out_shape, context_dim=0):
        super().__init__()
        self.linear, self.scale = nn.Linear(*in_shape, *out_shape), 0.5

    def forward(self, z, context=None):
        return self.linear(z) + self.scale * noise.normal((1, *z.shape), z)[0]


def quantiles(shape, like=None):
    """Evenly spread normal noise, `(1, batch, 1)`: means over it are integrals."""
    _, batch, dim = shape
    assert dim == 1
    return torch.special.ndtri((torch.arange(batch) + 0.5) / batch).to(torch.get_default_dtype()).view(1, batch, 1)


def set_line(layer, slope, shift):
    with torch.no_grad():
        layer.weight.fill_(slope), layer.bias.fill_(shift)


def fitted(model, batch):
    """The model with the discriminator at its optimum for this batch, and the noise of now."""
    state, parameters = torch.get_rng_state(), list(model.discriminator.parameters())
    solver = torch.optim.LBFGS(parameters, max_iter=300, tolerance_grad=1e-10, tolerance_change=1e-14)

    def closure():
        torch.set_rng_state(state)
        solver.zero_grad()
        loss = model.learn_discriminator(batch).losses["discriminator"].mean()
        loss.backward()
        return loss

    solver.step(closure)
    return model


# The optimum of the discriminator.


def line(loss="non_saturating", slope=0.5, shift=-0.3, **options):
    """G(z) = slope z + shift, and data N(1, 1), as even quantiles."""
    model = GAN(1, LINEAR, Quadratic, output="identity", loss=loss, gradient_penalty=0.0, data_shape=(1,), **options)
    set_line(model.generator.network.layers[0], slope, shift)
    return model, Batch(1 + quantiles((1, 20000, 1))[0])


@pytest.mark.usefixtures("float64")
def test_the_discriminator_learns_log_generated_minus_log_data():
    """Tolerance: quantiles stand for densities, whose tails beyond 4 standard deviations they do not have."""
    model, batch = line()
    with noise.use(quantiles):
        fitted(model, batch)
    x = torch.linspace(-1.5, 1.5, 7).unsqueeze(-1)
    truth = Normal(-0.3, 0.5).log_prob(x) - Normal(1.0, 1.0).log_prob(x)
    torch.testing.assert_close(model.discriminator(x), truth.squeeze(-1), rtol=0, atol=0.01)


@pytest.mark.usefixtures("float64")
def test_the_discriminator_of_pairs_learns_log_encoder_minus_log_generator():
    """q(z|x) = N(0.6 x, 0.7^2) with x ~ N(1, 1); x|z ~ N(0.8 z - 0.5, 0.5^2) with z ~ N(0, 1)."""
    encoder = partial(GaussianEncoder, network=LINEAR)
    model = BiGAN(1, encoder, NoisyLinear, QuadraticCritic, output="identity", gradient_penalty=0.0, data_shape=(1,))
    set_line(model.generator.network.linear, 0.8, -0.5)
    with torch.no_grad():
        model.encoder.network.layers[0].weight.copy_(torch.tensor([[0.6], [0.0]]))
        model.encoder.network.layers[0].bias.copy_(torch.tensor([0.0, math.log(0.7)]))
    fitted(model, Batch(1 + torch.randn(100000, 1)))
    q = MultivariateNormal(torch.tensor([1.0, 0.6]), torch.tensor([[1.0, 0.6], [0.6, 0.36 + 0.49]]))
    p = MultivariateNormal(torch.tensor([-0.5, 0.0]), torch.tensor([[0.64 + 0.25, 0.8], [0.8, 1.0]]))
    pairs = 0.7 * torch.randn(20, 2)
    t, truth = model.discriminator(pairs[:, :1], pairs[:, 1:]), q.log_prob(pairs) - p.log_prob(pairs)
    assert truth.std() > 1
    torch.testing.assert_close(t, truth, rtol=0.03, atol=0.06)  # a coefficient's standard error is about 0.01


def divergences(slope, shift):
    """KL(G, data) and 2 JS(G, data) for G = N(shift, slope^2) and data N(1, 1), on a fine grid."""
    x = torch.linspace(-9, 9, 20001)
    log_g, log_d = Normal(shift, slope).log_prob(x), Normal(1.0, 1.0).log_prob(x)
    log_m = torch.logaddexp(log_g, log_d) - torch.tensor(2.0).log()
    g, d, step = log_g.exp(), log_d.exp(), x[1] - x[0]
    return (g * (log_g - log_d)).sum() * step, (g * (log_g - log_m) + d * (log_d - log_m)).sum() * step


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("form", LOGISTIC)
def test_at_the_optimum_the_generator_follows_a_divergence(form):
    """Tolerance: 20,000 quantiles in place of an integral."""
    slope, shift = torch.tensor(0.8), torch.tensor(-0.3)
    kl, js = (grad(lambda *of, i=i: divergences(*of)[i], (0, 1))(slope, shift) for i in (0, 1))
    torch.testing.assert_close(torch.stack(kl), torch.stack([slope - 1 / slope, shift - 1]), rtol=1e-6, atol=1e-6)
    truth = {"kl": kl, "minimax": js, "non_saturating": tuple(a - b for a, b in zip(kl, js, strict=True))}[form]
    model, batch = line(form, 0.8, -0.3)
    a, b = 0.5 * (1 - 1 / 0.8**2), -0.3 / 0.8**2 - 1  # of x^2 and of x in log N(x; -0.3, 0.8^2) - log N(x; 1, 1)
    with torch.no_grad():
        model.discriminator.linear.weight.copy_(torch.tensor([[b, a]]))
        model.discriminator.linear.bias.fill_(-0.5 * 0.3**2 / 0.8**2 + 0.5 - torch.tensor(0.8).log().item())
    with noise.use(quantiles):
        loss = model.learn(batch).losses["generator"].mean()
    layer = model.generator.network.layers[0]
    torch.testing.assert_close(
        flat_gradient(loss, [layer.weight, layer.bias]), torch.stack(truth), rtol=2e-3, atol=1e-3
    )


# One pass and one backward pass against the formulas written out.


def gan(**options):
    return GAN(2, SMALL, SMALL, **options)


def bigan(**options):
    encoder = partial(GaussianEncoder, network=SMALL)
    return BiGAN(2, encoder, SMALL, partial(ResidualCritic, width=8, network=SMALL), **options)


BOTH = {"gan": gan, "bigan": bigan}
both = pytest.mark.parametrize("make", BOTH.values(), ids=BOTH)


def written_out(model, batch, eps):
    """The losses of all players, by their formulas; each player's depends on its own parameters alone."""
    y = one_hot(batch.y, CLASSES).to(batch.x) if model.conditional else None
    constant = {name: parameter.detach() for name, parameter in model.discriminator.named_parameters()}
    fixed = lambda *of: functional_call(model.discriminator, constant, (*of, y))
    of_generated = {
        "non_saturating": lambda t: -logsigmoid(-t),
        "minimax": lambda t: logsigmoid(t),
        "kl": lambda t: t,
        "least_squares": lambda t: (t + 1) ** 2 / 2,
        "hinge": lambda t: t,
        "wasserstein": lambda t: t,
    }[model.adversarial.form]
    logistic = lambda t: -logsigmoid(t)
    of_discriminator = {
        "least_squares": lambda t: (t - 1) ** 2 / 2,
        "hinge": lambda t: (1 - t).clamp_min(0),
        "wasserstein": lambda t: -t,
    }.get(model.adversarial.form, logistic)
    pairs = isinstance(model, BiGAN)
    z_p = eps[-1]
    x_p = model.generator.network(z_p, y).sigmoid()
    if pairs:
        mean, log_scale = model.encoder.network(batch.x, y).chunk(2, -1)
        z_q = mean + log_scale.exp() * eps[0]
        losses = {"encoder": of_generated(fixed(batch.x, z_q)), "generator": of_generated(-fixed(x_p, z_p))}
        first, second = (batch.x, z_q.detach()), (x_p.detach(), z_p)
    else:
        losses = {"generator": of_generated(fixed(x_p))}
        first, second = (x_p.detach(),), (batch.x,)
    seen = [part.requires_grad_() for part in (first if pairs else second)]
    slopes = torch.autograd.grad(model.discriminator(*seen, y).sum(), seen, create_graph=True)
    penalty = sum(slope.flatten(1).square().sum(1) for slope in slopes)
    losses["discriminator"] = (
        of_discriminator(model.discriminator(*first, y))
        + of_discriminator(-model.discriminator(*second, y))
        + model.adversarial.gradient_penalty / 2 * penalty
    )
    return losses


@pytest.mark.usefixtures("float64")
@both
@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("gamma", [0.0, 3.0])
@pytest.mark.parametrize("form", FORMS)
def test_every_player_gets_the_gradient_of_its_own_loss(make, form, gamma, conditional):
    options = {"conditional": True, "classes": CLASSES} if conditional else {}
    gamma = gamma or (0.5 if form == "wasserstein" else 0.0)
    model = perturbed(make(loss=form, gradient_penalty=gamma, data_shape=(1, 2, 3), **options), by=0.3)
    batch = Batch(torch.rand(7, 1, 2, 3), torch.arange(7) % CLASSES)
    eps = torch.randn(2 if make is bigan else 1, 7, 2)
    draws = iter(eps.unsqueeze(1))
    with noise.use(lambda shape, like: next(draws)):
        losses = model.learn(batch).losses
    expected = written_out(model, batch, eps)
    assert losses.keys() == expected.keys() == model.players.keys()
    for name, loss in losses.items():
        torch.testing.assert_close(loss, expected[name])
    own = [parameter for player in model.players for parameter in model.parameters_of(player)]
    ours = flat_gradient(sum(loss.mean() for loss in losses.values()), own)
    theirs = [flat_gradient(expected[player].mean(), model.parameters_of(player)) for player in model.players]
    assert min(gradient.abs().max() for gradient in theirs) > 1e-4
    torch.testing.assert_close(ours, torch.cat(theirs), rtol=1e-9, atol=1e-12)


@both
def test_extra_steps_learn_the_discriminators_loss_alone(make):
    model, batch = make(data_shape=(4,)), Batch(torch.rand(5, 4))
    torch.manual_seed(1)
    whole = model.learn(batch).losses["discriminator"]
    torch.manual_seed(1)
    play = model.learn_discriminator(batch)
    assert set(play.losses) == {"discriminator"} and torch.equal(play.losses["discriminator"], whole)


# Games that converge: on 300 rows with noise of their own, all of exactly known moments.

MEAN, ROOT = torch.tensor([0.5, -0.3]), torch.tensor([[1.0, 0.0], [0.6, 0.5]])


def white(rows, dim):
    """Draws whose mean is 0 and whose covariance is the unit matrix to the last digits."""
    u = torch.randn(rows, dim)
    u = u - u.mean(0)
    return torch.linalg.solve_triangular(torch.linalg.cholesky(u.T.cov()), u.T, upper=False).T


def played(model, steps=400, rate=0.03):
    """The model at the end of the game, and the batch that it was played on: MEAN + ROOT u."""
    draws = 2 if isinstance(model, BiGAN) else 1
    batch, eps = Batch(MEAN + white(300, 2) @ ROOT.T), white(300, 2 * draws).split(2, -1)
    optimizer = torch.optim.Adam(model.parameters(), rate, (0.0, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        left = iter(eps)
        with noise.use(lambda shape, like, left=left: next(left).unsqueeze(0)):
            loss = sum(loss.mean() for loss in model.learn(batch).losses.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model, batch


def test_a_linear_generator_learns_mean_and_covariance():
    model, _ = played(GAN(2, LINEAR, Quadratic, output="identity", data_shape=(2,)))
    layer = model.generator.network.layers[0]
    torch.testing.assert_close(layer.bias.detach(), MEAN, rtol=0, atol=0.01)
    torch.testing.assert_close((layer.weight @ layer.weight.T).detach(), ROOT @ ROOT.T, rtol=0, atol=0.01)


@both
def test_the_penalty_has_the_centre_that_was_asked_for(make):
    """Where the discriminator is level, a slope of one misses one, and a slope of zero nothing."""
    losses = {}
    for penalty in ("zero_centred", "one_centred"):
        model = make(gradient_penalty=3.0, penalty=penalty, data_shape=(3,))
        for parameter in model.discriminator.parameters():
            nn.init.zeros_(parameter)
        losses[penalty] = model.learn(Batch(torch.rand(5, 3))).losses["discriminator"]
    torch.testing.assert_close(losses["one_centred"] - losses["zero_centred"], torch.full((5,), 3.0), rtol=0, atol=1e-4)


def test_an_encoder_learns_to_invert_the_generator():
    """In the limit its noise vanishes too; after so many steps a tenth of it is left."""
    encoder = partial(GaussianEncoder, network=LINEAR)
    model, batch = played(
        BiGAN(2, encoder, LINEAR, QuadraticCritic, output="identity", gradient_penalty=0.3, data_shape=(2,)),
        steps=1000,
    )
    forth, back = model.generator.network.layers[0], model.encoder.network.layers[0]
    torch.testing.assert_close(forth.bias.detach(), MEAN, rtol=0, atol=0.02)
    torch.testing.assert_close((forth.weight @ forth.weight.T).detach(), ROOT @ ROOT.T, rtol=0, atol=0.02)
    torch.testing.assert_close((back.weight[:2] @ forth.weight).detach(), torch.eye(2), rtol=0, atol=0.05)
    with torch.no_grad():
        scores = model.scores(batch)
    assert scores["reconstruction_error"].mean() < 0.05 * batch.x.var(0).sum()
    assert scores["reconstruction_error"].shape == (300,)
    torch.testing.assert_close(scores["discriminator_loss"].mean(), torch.tensor(2 * math.log(2)), rtol=0, atol=0.02)


# What validation says.


@pytest.mark.usefixtures("float64")
@both
def test_scores_are_those_of_each_row(make):
    """A function of the row, and of nothing else in its batch; R1 is for training."""
    model = perturbed(make(data_shape=(2, 3), gradient_penalty=5.0))
    batch = Batch(torch.rand(6, 2, 3), None, torch.arange(6))

    def scores(of):
        with noise.use(noise.RowNoise(index=of.index)), torch.no_grad():
            return model.scores(of)

    whole, parts = scores(batch), [scores(part) for part in batch.split(2)]
    names = {"generator_loss", "discriminator_loss", "discriminator_accuracy"}
    assert set(whole) == names | ({"reconstruction_error", "encoder_loss"} if make is bigan else set())
    for name, value in whole.items():
        assert value.shape == (6,)
        torch.testing.assert_close(torch.cat([part[name] for part in parts]), value)
    if make is bigan:
        torch.testing.assert_close(
            whole["generator_loss"] + whole["encoder_loss"], whole["discriminator_loss"] + _sum_of_logits(model, batch)
        )


def _sum_of_logits(model, batch):
    """softplus(t) - softplus(-t) = t: what the opponents lose more than the discriminator."""
    with noise.use(noise.RowNoise(index=batch.index)), torch.no_grad():
        model.encode(batch.x, draws=1)[0]
        t_q, t_p = model.discriminator(*map(torch.stack, zip(*model.pairs(batch), strict=True)))
    return t_q - t_p


def test_accuracy_counts_both_kinds():
    model, batch = line()
    with torch.no_grad():
        model.discriminator.linear.weight.copy_(torch.tensor([[1.0, 0.0]]))
        model.discriminator.linear.bias.fill_(-1.0)  # generated is what exceeds 1
        set_line(model.generator.network.layers[0], 0.0, 2.0)
        assert (model.learn(batch).scores["discriminator_accuracy"].mean() - 0.75).abs() < 1e-3
        set_line(model.generator.network.layers[0], 0.0, 0.0)
        assert (model.learn(batch).scores["discriminator_accuracy"].mean() - 0.25).abs() < 1e-3


def test_the_reconstruction_error_is_summed_over_pixels():
    """An encoder and a generator that know nothing: x against grey."""
    model, x = bigan(data_shape=(2, 3)), torch.rand(4, 2, 3)
    last = model.generator.network.layers[-1]
    nn.init.zeros_(last.weight), nn.init.zeros_(last.bias)
    error = model.scores(Batch(x))["reconstruction_error"]
    torch.testing.assert_close(error, (x - 0.5).square().sum((1, 2)))


# Drawing, labels, pictures.


@both
def test_samples_are_of_the_prior_and_of_the_output(make):
    model = perturbed(make(data_shape=(1, 2, 3)), by=3.0)
    torch.manual_seed(1)
    x = model.sample(500)
    assert x.shape == (500, 1, 2, 3) and x.min() >= 0 and x.max() <= 1
    torch.manual_seed(1)
    z = model.prior().sample((500,))
    assert torch.equal(x, model.decode(z)) and torch.equal(x, model.generator.network(z).sigmoid())
    straight = perturbed(make(data_shape=(1, 2, 3), output="identity"), by=3.0)
    assert straight.sample(500).min() < 0
    torch.manual_seed(1)
    assert torch.equal(model.sample(500, mean=False), x)


@both
def test_the_label_reaches_every_network(make):
    model = perturbed(make(data_shape=(3,), conditional=True, classes=CLASSES), by=0.3)
    assert model.sample(4, labels=[2, 0]).shape == (4, 3)
    z, batch = torch.randn(5, 2), Batch(torch.rand(5, 3), torch.zeros(5, dtype=torch.int64))
    other = batch._replace(y=batch.y + 1)
    assert (model.decode(z, batch.y) != model.decode(z, other.y)).all()
    drawn = model.pairs(batch) if make is bigan else model.generate(batch)
    accuracy = [model.terms(of, drawn).discriminator for of in (batch, other)]
    assert (accuracy[0] != accuracy[1]).all()
    if make is bigan:
        torch.manual_seed(1)
        z = model.encode(batch.x, batch.y, draws=1)[0]
        torch.manual_seed(1)
        assert (z != model.encode(batch.x, other.y, draws=1)[0]).all()


class Pixels(TensorDataModule):
    """24 rows of four pixels with labels."""

    data_shape, classes = (1, 2, 2), CLASSES

    def __init__(self, low: float = 0.0) -> None:
        super().__init__(batch_size=8, eval_batch_size=8)
        self.low = low

    def load(self) -> dict[str, Split]:
        x, y = torch.rand(24, 1, 2, 2, generator=torch.Generator().manual_seed(0)), torch.arange(24) % CLASSES
        return {stage: Split(x + self.low, y) for stage in ("train", "val", "test")}


@pytest.mark.parametrize("conditional", [False, True])
@both
def test_pictures_of_what_a_model_can(tmp_path, make, conditional):
    run = trainer(tmp_path, max_steps=2, logger=CSVLogger(tmp_path), callbacks=[Pictures(0)])
    run.fit(make(conditional=conditional), Pixels())
    drawn = {path.name.split("_0")[0] for path in Path(run.log_dir, "pictures").glob("*_0*.png")}
    encodes = {"reconstructions", "interpolations", "latent_plane"} if make is bigan else set()
    assert drawn == {"samples"} | encodes | ({"styles"} if conditional else set())


def test_a_bigan_predicts_codes_and_a_gan_says_that_it_cannot(tmp_path):
    run = trainer(tmp_path, max_steps=1)
    model = bigan()
    run.fit(model, Pixels())
    (first, *_) = run.predict(model, Pixels())
    assert first["z"].shape == (8, 2) and set(first) == {"z", "y", "index"}
    model = gan()
    run = trainer(tmp_path, max_steps=1)
    run.fit(model, Pixels())
    with pytest.raises(ConfigurationError, match=r"^predict: a GAN has no encoder"):
        run.predict(model, Pixels())


# What is refused.

ONE = {"data_shape": (4,)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "logistic"}, "loss: 'logistic' is none of 'non_saturating', 'minimax', 'kl'"),
        ({"output": "tanh"}, "output: 'tanh' is neither 'sigmoid' nor 'identity'"),
        ({"gradient_penalty": -1.0}, "gradient_penalty: -1.0 is not a weight"),
        ({"gradient_penalty": float("nan")}, "gradient_penalty: nan"),
        ({"latent_dim": 0}, "latent_dim: 0 is below 1"),
        ({"conditional": True, **ONE}, "conditional: the data has no labels"),
        ({"prior": FlowPrior, **ONE}, "prior: FlowPrior learns, and here the prior cannot"),
        ({"generator": ConvNet, **ONE}, "network: ConvNet needs pictures .* as input"),
    ],
)
@pytest.mark.parametrize("model", [GAN, BiGAN])
def test_what_makes_no_sense_is_named(model, options, message):
    with pytest.raises(ConfigurationError, match=f"^{message}"):
        model(**{"latent_dim": 2, **options})


@pytest.mark.parametrize(("model", "players"), [(GAN, GANPlayers), (BiGAN, BiGANPlayers)])
def test_only_the_discriminator_takes_more_steps(model, players):
    with pytest.raises(ConfigurationError, match=r"^players.generator.steps: 2; one per batch; only discriminator"):
        model(2, players=players(generator=Player(steps=2)))
    with pytest.raises(ConfigurationError, match=r"^players.discriminator.steps: 0 is below 1"):
        model(2, players=players(discriminator=Player(steps=0)))


def test_a_discriminator_gives_one_number_a_row():
    class Three(MLP):
        def __init__(self, in_shape, out_shape, context_dim=0):
            super().__init__(in_shape, (3,), context_dim)

    model = GAN(2, data_shape=(4,))
    model.discriminator = Three((4,), ())
    with pytest.raises(ConfigurationError, match=r"^discriminator: gives an output of shape \(3,\) per row"):
        model.learn(Batch(torch.rand(5, 4)))


def test_a_sigmoid_does_not_reach_all_data(tmp_path):
    with pytest.raises(ConfigurationError, match=r"^output: 'sigmoid' is for data in \[0, 1\]"):
        trainer(tmp_path, max_steps=1).fit(gan(), Pixels(low=-0.5))
    trainer(tmp_path, max_steps=1).fit(gan(output="identity"), Pixels(low=-0.5))


# Precision.


@both
def test_half_precision_stays_within_the_networks(make):
    """bfloat16 has 8 bits: losses of about 1 agree to 0.05, and the penalty's second derivative exists."""
    model, batch = make(data_shape=(4,), gradient_penalty=2.0), Batch(torch.rand(16, 4))
    torch.manual_seed(1)
    exact = model.learn(batch)
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        play = model.learn(batch)
        sum(loss.mean() for loss in play.losses.values()).backward()
    for name, loss in play.losses.items():
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, exact.losses[name], rtol=0, atol=0.05)
    assert all(torch.isfinite(parameter.grad).all() and parameter.grad.any() for parameter in model.parameters())


class Coded(GAN):
    """The code is z and the label."""

    def make_code(self, z, y=None):
        return z + 10 * y.unsqueeze(-1)


def test_codes_that_hold_the_label_are_drawn_with_it():
    model = Coded(1, LINEAR, LINEAR, output="identity", conditional=True, data_shape=(1,), classes=CLASSES)
    set_line(model.generator.network.layers[0], 1.0, 0.0)
    y = torch.arange(30) % CLASSES
    assert (model.sample(30) - 10 * y.unsqueeze(-1)).abs().max() < 9
