"""What estimators take from anybody: torch's distributions as priors and proposals, and what is refused."""

from __future__ import annotations

import pytest
import torch
from closed_forms import LinearGaussian
from torch import nn
from torch.distributions import (
    Bernoulli,
    Categorical,
    Independent,
    Laplace,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    StudentT,
)

from lightning_avb import Batch, StandardNormal
from lightning_avb.distributions import Implicit
from lightning_avb.errors import ConfigurationError
from lightning_avb.evaluation import (
    AnnealingSettings,
    annealed_importance_sampling,
    as_prior,
    fitted_proposal,
    importance_weighting,
    log_joint,
    map_rows,
    schedule,
    simulate,
)

pytestmark = pytest.mark.usefixtures("float64")

ROWS, SETTINGS = 12, AnnealingSettings(schedule(3), (0.3,) * 4, 1)

FAMILIES = {
    "Normal": Normal,
    "Independent": lambda loc, scale: Independent(Normal(loc, scale), 1),
    "MultivariateNormal": lambda loc, scale: MultivariateNormal(loc, scale_tril=scale.diag_embed()),
    "StudentT": lambda loc, scale: Independent(StudentT(4.0, loc, scale), 1),
    "Laplace": lambda loc, scale: Independent(Laplace(loc, scale), 1),
    "MixtureSameFamily": lambda loc, scale: MixtureSameFamily(
        Categorical(torch.ones(*loc.shape[:-1], 2)),
        Independent(Normal(torch.stack([loc, loc + 0.3], -2), torch.stack([scale, 2 * scale], -2)), 1),
    ),
}


@pytest.fixture(params=FAMILIES.values(), ids=FAMILIES)
def family(request, float64):
    return request.param


def prior_as_object(family):
    return family(torch.zeros(2), torch.ones(2))


def by_prior(world, family):
    """Annealing from a fit that holds a share of the prior, and from the prior itself."""
    prior = prior_as_object(family)

    def estimate(rows):
        target = log_joint(world.decoder(), prior, rows.x)
        fit = fitted_proposal(world.encoder()(rows.x), prior, draws=20, share=0.5)
        return annealed_importance_sampling(fit, target, SETTINGS, 4, fit.scale_tril)

    return estimate


def by_proposal(world, family):
    def estimate(rows):
        q = world.encoder()(rows.x)
        target = log_joint(world.decoder(), StandardNormal(2), rows.x)
        return importance_weighting(family(q.mean, 1.2 * q.stddev), target, 80)

    return estimate


def by_start(world, family):
    def estimate(rows):
        q = world.encoder()(rows.x)
        target = log_joint(world.decoder(), StandardNormal(2), rows.x)
        return annealed_importance_sampling(family(q.mean, 1.2 * q.stddev), target, SETTINGS, 3)

    return estimate


@pytest.mark.parametrize("use", [by_prior, by_proposal, by_start])
@torch.no_grad()
def test_a_figure_is_a_function_of_its_row_whoever_draws(family, use):
    """Batches of 1, 5 and 12 rows, and rows in another order, with what torch's own generator draws."""
    world = LinearGaussian.example()
    x, index, estimate = world.sample(ROWS), torch.arange(ROWS) + 40, use(world, family)
    whole = map_rows(estimate, Batch(x, index=index), ROWS, 3, "mine")
    for rows, order in ((1, torch.arange(ROWS)), (5, torch.arange(ROWS)), (5, torch.randperm(ROWS))):
        torch.manual_seed(rows)  # what was drawn before does not matter
        found = map_rows(estimate, Batch(x[order], index=index[order]), rows, 3, "mine")
        for mine, theirs in zip(found, whole, strict=True):
            torch.testing.assert_close(mine, theirs[..., order] if mine.ndim < 3 else theirs[:, order])
    other = map_rows(estimate, Batch(x, index=index), 5, 4, "mine")
    assert ((whole[0] - other[0]).abs() > 1e-6).all()
    if use is by_proposal:
        assert ((whole.bound - world.log_marginal(x)).abs() < 0.5).all()


def test_the_generator_is_left_as_it_was():
    x, state = torch.zeros(7, 1), torch.get_rng_state()
    (drawn,) = map_rows(lambda rows: (torch.rand(len(rows.x)),), Batch(x, index=torch.arange(7)), 3, 0)
    assert torch.equal(torch.get_rng_state(), state) and len(drawn.unique()) == 7


def test_rows_are_taken_together_where_nothing_else_draws():
    """One call a piece: the slow way is for those who need it."""
    calls, prior = [], as_prior(Normal(torch.zeros(2), torch.ones(2)))

    def estimate(rows):
        calls.append(len(rows.x))
        return (prior.expand(rows.x.shape[:1]).sample((2,)),)

    map_rows(estimate, Batch(torch.rand(12, 2), index=torch.arange(12)), 5, 0)
    assert calls == [4, 4, 4]


@torch.no_grad()
def test_draws_of_a_prior_of_torch_are_draws_of_it(family):
    """And its log-density is the sum over dimensions: `Normal(zeros(2), ones(2))` means independent ones."""
    prior = prior_as_object(family)
    world = LinearGaussian.example()
    z, x = simulate(world.decoder(), prior, 20000, 0)
    reference = prior.sample((20000,))
    for draws in (z, reference):
        assert draws.shape == (20000, 2)
    assert ((z.mean(0) - reference.mean(0)).abs() < 0.1).all() and (
        z.median(0)[0] - reference.median(0)[0]
    ).abs().max() < 0.1
    log_p = prior.log_prob(z[:5])
    log_p = log_p.sum(-1) if log_p.ndim > 1 else log_p
    expected = world.decoder()(z[:5]).log_prob(x[:5]) + log_p
    torch.testing.assert_close(log_joint(world.decoder(), prior, x[:5])(z[:5].unsqueeze(0))[0], expected)


class Net(nn.Module):
    def __init__(self, of):
        super().__init__()
        self.layer, self.of = nn.Linear(2, 3), of

    def forward(self, z):
        return self.of(self.layer(z))


def at_one(decoder=None, prior=None, x=None):
    decoder = decoder or Net(lambda logits: Independent(Bernoulli(logits=logits), 1))
    x = torch.ones(5, 3) if x is None else x
    return log_joint(decoder, StandardNormal(2) if prior is None else prior, x)(torch.zeros(4, 5, 2))


def checked(z):
    return Independent(Bernoulli(logits=z[..., :1].expand(*z.shape[:-1], 3), validate_args=True), 1)


def weighted(q):
    return importance_weighting(q, lambda z: z.sum(-1), 3)


def black_box():
    return Implicit(lambda n: torch.randn(n, 5, 2), torch.Size([5]), torch.Size([2]))


@pytest.mark.parametrize(
    ("message", "make"),
    [
        (
            r"^decoder: Bernoulli with batch shape \(4, 5, 3\).*Independent\(\.\.\., 1\)",
            lambda: at_one(Net(lambda a: Bernoulli(logits=a))),
        ),
        (
            r"^decoder: Independent with batch shape \(4, 5, 1\).*Independent\(\.\.\., 1\)",
            lambda: at_one(Net(lambda a: Independent(Bernoulli(logits=a.unsqueeze(-2)), 1)), x=torch.ones(5, 1, 3)),
        ),
        ("^decoder: returned a Tensor", lambda: at_one(Net(lambda a: a))),
        (r"^decoder: .* rows end in \(7,\)", lambda: at_one(x=torch.ones(5, 7))),
        ("^x: Independent cannot score it", lambda: at_one(checked, x=torch.full((5, 3), 0.5))),
        ("^prior: a Tensor", lambda: at_one(prior=torch.zeros(2))),
        (r"^prior: Normal with batch shape \(\)", lambda: at_one(prior=Normal(0.0, 1.0))),
        ("^prior: .*batch shape", lambda: at_one(prior=lambda: Normal(torch.zeros(5, 2), 1.0))),
        ("^proposal: Implicit has no density.*fitted_proposal", lambda: weighted(black_box())),
        ("^proposal: .*expand it", lambda: weighted(Independent(Normal(torch.zeros(2), 1.0), 1))),
        ("^proposal: a function", lambda: weighted(lambda n: n)),
    ],
)
def test_what_is_no_decoder_prior_or_proposal_is_refused(message, make):
    with pytest.raises(ConfigurationError, match=message):
        make()
