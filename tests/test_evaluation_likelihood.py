"""log p(x) of anybody's decoder in one call, and when it is not to be trusted, where log p(x) is known."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest
import torch
from closed_forms import LinearGaussian
from monte_carlo import assert_mean
from torch import nn
from torch.distributions import Bernoulli, Independent, MultivariateNormal, Normal

from lightning_avb import StandardNormal
from lightning_avb.errors import ConfigurationError
from lightning_avb.evaluation import importance_weighting, log_joint, log_likelihood
from lightning_avb.evaluation.reliability import (
    ENOUGH_SAMPLES,
    annealing_objection,
    harmonic_mean,
    importance_objection,
)

QUICK = {"steps": 40, "chains": 16, "simulated": 16}


class Flat(nn.Module):
    """Somebody's own decoder: it takes `(n, dim)` and nothing else."""

    def __init__(self, world, extra=()):
        super().__init__()
        self.world, self.extra = world, nn.Sequential(*extra)
        self.scale = nn.Parameter(torch.tensor(world.scale))

    def forward(self, z):
        assert z.ndim == 2, z.shape
        return Independent(Normal(self.extra(z @ self.world.weight.T + self.world.bias), self.scale), 1)


@pytest.fixture
def world(float64):
    return LinearGaussian.example()


def test_every_row_is_right_to_within_its_standard_error(world):
    x = world.sample(150)
    found = log_likelihood(Flat(world), x, latent_dim=2, **QUICK)
    truth = world.log_marginal(x)
    off = (found.values - truth) / found.standard_errors
    assert_mean(found.values, truth.mean() - (truth - found.values).mean(), resolution=1.0)
    assert abs((found.values - truth).mean()) < 0.05 and found.standard_errors.mean() < 0.3
    # chi-square with 150 degrees of freedom over 150: a standard deviation of 0.12, and tails that are a bit heavier
    assert 0.6 < off.square().mean() < 1.6
    assert found.mean == found.values.mean().item() and found.standard_error == found.values.std().item() / 150**0.5
    assert abs(found.gap) < 0.25 and 0 < found.gap_standard_error < 0.2 and found.trusted
    assert "nothing speaks against it" in str(found)


@pytest.mark.parametrize(
    "options",
    [
        lambda world: {"prior": StandardNormal(2)},
        lambda world: {"prior": Normal(torch.zeros(2), torch.ones(2))},
        lambda world: {"prior": lambda: MultivariateNormal(torch.zeros(2), torch.eye(2))},
        lambda world: {"latent_dim": 2},
        lambda world: {"encoder": world.encoder()},
    ],
    ids=["module", "object", "function", "number", "encoder"],
)
def test_whoever_says_the_dimension_of_z(world, options):
    """A prior as a module, an object, a function; a number; an encoder, near which the chains start."""
    x, options = world.sample(12), options(world)
    found = log_likelihood(Flat(world), x, **QUICK, **options)
    assert ((found.values - world.log_marginal(x)).abs() < 5 * found.standard_errors + 0.01).all()
    if "encoder" in options:
        assert found.standard_errors.mean() < 0.1


def test_memory_and_what_was_drawn_before_change_nothing(world):
    x = world.sample(7)
    options = {"latent_dim": 2, "steps": 8, "chains": 4, "simulated": 4}
    first = log_likelihood(Flat(world), x, **options)
    torch.manual_seed(5)
    again, other = (log_likelihood(Flat(world), x, chunk=20, seed=seed, **options) for seed in (0, 1))
    torch.testing.assert_close(again.values, first.values)
    assert abs(again.gap - first.gap) < 1e-6 and (other.values != first.values).all()


def test_weights_of_the_decoder_get_no_gradient(world):
    decoder = Flat(world)
    assert not log_likelihood(decoder, world.sample(3), latent_dim=2, **QUICK).values.requires_grad
    assert decoder.scale.grad is None and decoder.scale.requires_grad


def net(of, inside=()):
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(2, 3), *inside)
    return lambda z: of(layers(z))


def bernoulli(logits):
    return Independent(Bernoulli(logits=logits), 1)


class Dropped(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.5))

    def forward(self, z):
        return bernoulli(self.layers(z))


@pytest.mark.parametrize(
    ("message", "decoder", "options"),
    [
        ("^latent_dim: needed without a prior and an encoder", net(bernoulli), {"latent_dim": None}),
        ("^latent_dim: 3, where the prior has 2", net(bernoulli), {"latent_dim": 3, "prior": StandardNormal(2)}),
        (r"^decoder: does not take z of shape \(8, 5\)", net(bernoulli), {"latent_dim": 5}),
        (r"^decoder: returned a Tensor", net(lambda logits: logits), {}),
        (r"^decoder: Bernoulli .*wrap it in Independent\(\.\.\., 1\)", net(lambda a: Bernoulli(logits=a)), {}),
        ("^decoder: dropout or batch normalisation in training mode", Dropped(), {}),
        ("^decoder: .* is not a distribution of x", net(bernoulli), {"x": torch.ones(4, 7)}),
        (
            "^x: row 2 holds what Bernoulli gives no probability",
            net(bernoulli),
            {"x": torch.tensor([[1.0, 0, 1], [0, 0, 0], [0.5, 0, 1]])},
        ),
        ("^x: there are no rows", net(bernoulli), {"x": torch.ones(0, 3)}),
        (
            "^decoder: its log-probability is nan",
            net(lambda a: Independent(Bernoulli(logits=a * float("nan"), validate_args=False), 1)),
            {},
        ),
        (r"^decoder: does not take z .*to satisfy the constraint", net(lambda a: bernoulli(a * float("nan"))), {}),
        ("^chains: 1", net(bernoulli), {"chains": 1}),
        ("^steps: 0", net(bernoulli), {"steps": 0}),
        ("^prior: a str", net(bernoulli), {"prior": "normal"}),
        ("^encoder: .*expand it", net(bernoulli), {"encoder": lambda x: Independent(Normal(torch.zeros(2), 1.0), 1)}),
    ],
)
def test_refuses(message, decoder, options):
    arguments = {"x": torch.ones(4, 3), "latent_dim": 2, "steps": 3, "simulated": 2, **options}
    with pytest.raises(ConfigurationError, match=message):
        log_likelihood(decoder, **arguments)


def test_the_first_example_of_the_docs():
    (example,) = re.findall(
        r"```python\n(.*?)```", (Path(__file__).parents[1] / "docs" / "likelihood.md").read_text(), re.S
    )[:1]
    printed, names = io.StringIO(), {}
    with contextlib.redirect_stdout(printed):
        exec(example, names)
    assert "log p(x) = " in printed.getvalue() and len(names["found"].values) == len(names["x"])


# What is not to be trusted.


@pytest.mark.parametrize(("scale", "shift", "trusted"), [(1.1, 0.0, True), (0.8, 0.5, False), (1.6, 0.5, False)])
@torch.no_grad()
def test_few_effective_samples_are_not_trusted(float64, scale, shift, trusted):
    """Twenty dimensions, 1,000 samples: what is not objected to lacks less than 0.1 nats, and what is, more."""
    torch.manual_seed(1)
    world = LinearGaussian(1.5 * torch.randn(40, 20) / 20**0.5, torch.zeros(40), 0.7)
    x = world.sample(60)
    q = world.full_encoder()(x)
    steps = shift * torch.randn(60, 20)
    proposal = MultivariateNormal(q.mean + steps @ q.scale_tril[0].T, scale_tril=scale * q.scale_tril)
    found = importance_weighting(proposal, log_joint(world.decoder(), StandardNormal(20), x), 1000)
    lack = (world.log_marginal(x) - found.bound).mean()
    objection = importance_objection(found.effective_samples)
    assert (not objection) == trusted == bool(lack < 0.1)
    assert trusted == (harmonic_mean(found.effective_samples) > ENOUGH_SAMPLES)


def test_few_steps_are_not_trusted(world):
    """Ten dimensions from the prior: few temperatures lack nats, and both the chains and the gap tell."""
    torch.manual_seed(1)
    world = LinearGaussian(1.5 * torch.randn(20, 10) / 10**0.5, torch.zeros(20), 0.5)
    x = world.sample(10)
    truth = world.log_marginal(x).mean().item()
    few, many = (log_likelihood(Flat(world), x, latent_dim=10, steps=n, simulated=10) for n in (10, 300))
    assert few.mean < truth - 1 and not few.trusted and "not to be trusted" in str(few)
    assert "effective chains" in few.objection and "gap" in few.objection
    error = many.standard_errors.square().mean().item() ** 0.5 / len(x) ** 0.5
    assert abs(many.mean - truth) < 5 * error < 0.7 and many.trusted


def test_what_speaks_against_annealing():
    good = torch.full((5,), 7.0), torch.full((5,), 0.6)
    assert not annealing_objection(8, *good, gap=0.1) and not annealing_objection(8, *good, gap=None)
    assert "gap of 0.60" in annealing_objection(8, *good, gap=0.6)
    assert "gap" in annealing_objection(8, *good, gap=float("nan"))
    assert "hardly move" in annealing_objection(8, good[0], good[1] / 10, gap=0.1)
    assert "4.0 effective chains of 8, 4.4 are enough" in annealing_objection(8, good[0] * 0 + 4, good[1], gap=0.1)
    assert not annealing_objection(8, good[0] * 0 + 4.5, good[1], gap=0.1)
    one = good[0] * 0 + 1
    assert "one chain" in annealing_objection(1, one, good[1], gap=None)
    assert not annealing_objection(1, one, good[1], gap=0.1)


def test_a_few_bad_rows_speak_for_themselves():
    """A tenth of the rows with two effective samples lack nats, whatever the median is."""
    effective = torch.full((100,), 800.0)
    assert not importance_objection(effective)
    effective[:10] = 2
    assert "effective samples, 100 are enough" in importance_objection(effective)


def test_a_standard_error_grows_where_one_chain_has_the_weight():
    from lightning_avb.evaluation import AnnealedEstimate

    equal = torch.randn(16, 1, dtype=torch.float64) * 0.001
    alone = equal.clone()
    alone[3] += 8
    first, second = (AnnealedEstimate(w, w.unsqueeze(-1), w[0]).standard_error.item() for w in (equal, alone))
    assert abs(first / (equal.std().item() / 4) - 1) < 0.005 and second > 3
