"""What the report concludes of posteriors of known truth: right ones, and ones made wrong on purpose.

`SEEDS=5 pytest tests/test_diagnosis.py` looks at five of each kind.
"""

from __future__ import annotations

import math
import os
from functools import partial

import pytest
import torch

from lightning_avb import targets
from lightning_avb.errors import ConfigurationError
from lightning_avb.evaluation import diagnose_draws, fit_density, move_draws
from lightning_avb.reports import (
    ChainCheck,
    Diagnosis,
    Figure,
    ModeSearch,
    PosteriorCheck,
    PosteriorDraws,
    ReferenceComparison,
    SimulationBasedCalibration,
    WeightCheck,
)
from lightning_avb.reports.posterior import conclusion, examine
from lightning_avb.targets import Gaussian, Mixture, Ring, Rosenbrock, StudentT, Target, Torus

SEEDS = range(int(os.environ.get("SEEDS", 1)))
COUNT = 4000


class Bounded(Target):
    """A rate, a probability with much mass at 0, and shares."""

    def __init__(self):
        super().__init__()
        self.constraints = {"rate": "positive", "p": "unit_interval", "shares": "simplex[3]"}

    beta, dirichlet = torch.distributions.Beta(0.7, 2.0), torch.distributions.Dirichlet(torch.tensor([0.5, 1.0, 4.0]))

    def log_density(self, *, rate, p, shares):
        powers = (self.dirichlet.concentration - 1) * shares.log()
        return -rate - 0.3 * p.log() + torch.log1p(-p) + powers.sum(-1)

    def reference(self, count, seed=0):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            rate = torch.distributions.Exponential(1.0).sample((count,))
            return {"rate": rate, "p": self.beta.sample((count,)), "shares": self.dirichlet.sample((count,))}


TARGETS = {
    "correlated": Gaussian,
    "ten": partial(Gaussian, [[1.0 if i == j else 0.7 for j in range(10)] for i in range(10)]),
    "funnel": partial(targets.Funnel, dim=5, scale=1.0),
    "ring": Ring,
    "torus": Torus,
    "eight modes": Mixture,
    "two modes": partial(Mixture, means=[[-3.0, -3.0], [3.0, 3.0]], scale=1.0, weights=[0.3, 0.7]),
    "student": partial(StudentT, dim=10, df=3),
    "bounded": Bounded,
    "banana": Rosenbrock,
}


def exact(name, seed, count=COUNT):
    target = TARGETS[name]()
    return target, target.support.unconstrain(target.reference(count, seed)).float()


def narrow(z):
    """Deviations a fifth short."""
    return z.mean(0) + 0.8 * (z - z.mean(0))


def wide(z):
    return z.mean(0) + 1.25 * (z - z.mean(0))


def shifted(z):
    return z + 0.3 * z.std(0)


def truncated(z):
    """Nothing beyond half of the radius that one of a thousand exceeds."""
    radius = ((z - z.mean(0)) / z.std(0)).norm(dim=1)
    return z[radius < radius.quantile(0.999) / 2]


def on_chains(target, z, seed, transitions=20, leapfrogs=8):
    """Shorter chains than `test` runs."""
    draws = PosteriorDraws(target, z, seed, transitions=transitions, leapfrogs=leapfrogs)
    return conclusion(ChainCheck().figures(draws))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", TARGETS)
def test_right_draws_are_not_objected_to(name, seed):
    target, z = exact(name, seed)
    assert on_chains(target, z, seed).value == 0
    (found,) = ModeSearch().figures(PosteriorDraws(target, z, seed))
    assert not found.objection


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        pytest.param(name, wrong, marks=() if (i + j) % 2 == 0 else pytest.mark.slow)
        for i, name in enumerate(name for name in TARGETS if name != "ring")
        for j, wrong in enumerate([narrow, shifted, wide, truncated])
    ],
)
def test_wrong_draws_are_objected_to(name, wrong, seed):
    # Tails are rare: half of Student's is the farthest 0.7 % of the draws.
    count = 10000 if wrong is truncated else COUNT
    target, z = exact(name, seed, 3 * count)
    found = on_chains(target, wrong(z)[:count], seed)
    assert found.value > 0 and found.note.startswith("NOT RIGHT: ")


@pytest.mark.parametrize("wrong", [narrow, wide, shifted])
def test_a_ring_of_another_place_or_size(wrong):
    """Its distances from the middle are all nearly the same: none of them can be cut."""
    target, z = exact("ring", 0)
    assert on_chains(target, wrong(z), 0).value > 0


def test_a_thin_banana_without_its_ends():
    """As an unfinished training leaves it: the deviation of z[1] is a fifth short, and chains must go a long way."""
    target = Rosenbrock(width=0.2)
    z = target.reference(12000)["z"]
    z = z[z[:, 0].abs() < 2.4][:10000]
    assert 0.75 < z[:, 1].std() / math.sqrt(2 + 0.2**2) < 0.85
    assert "tails too short" in on_chains(target, z, 0, 40, 16).note


def test_the_objection_names_what_is_wrong():
    target, z = exact("ten", 0)
    assert "too narrow in z" in on_chains(target, narrow(z), 0).note
    assert "too wide in z" in on_chains(target, wide(z), 0).note
    shift = torch.zeros(10)
    shift[3] = 0.4
    assert "shifted in z[3]" in on_chains(target, z + shift, 0).note
    target, z = exact("student", 0, 30000)
    assert "tails too short" in on_chains(target, truncated(z)[:10000], 0).note


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("lost", ["smaller", "larger"])
def test_a_lost_mode_is_found_with_its_mass(lost, seed):
    target, z = exact("two modes", seed, 4 * COUNT)
    z = z[(z.sum(1) > 0) == (lost == "smaller")][:COUNT]
    (found,) = ModeSearch().figures(PosteriorDraws(target, z, seed))
    assert found.value == pytest.approx({"smaller": 0.3, "larger": 0.7}[lost], abs=0.15)
    assert found.objection == "a mode without draws" and "around z[0] = " in found.note


def test_modes_with_wrong_shares_are_seen_by_the_weights_alone():
    target, z = exact("two modes", 0, 4 * COUNT)
    upper = z.sum(1) > 0
    z = torch.stack([z[upper][: COUNT // 2], z[~upper][: COUNT // 2]], 1).flatten(0, 1)
    assert on_chains(target, z, 0).value == 0
    draws = PosteriorDraws(target, z)
    found = conclusion(WeightCheck().figures(draws))
    assert "shifted in z[" in found.note and "according to the weights" in found.note
    # KL(draws, p) = 0.5 log(0.5 / 0.3) + 0.5 log(0.5 / 0.7), less that of the draws from the flow.
    assert 0.05 < draws.weighted.shortfall < 0.087 + 5 * draws.weighted.shortfall_error


def test_right_draws_have_no_shortfall_with_a_poor_flow():
    """A Gaussian for a banana: the bound loses more than a nat, and the draws' own mean nothing."""
    target, z = exact("banana", 0, COUNT)
    draws = PosteriorDraws(target, z)
    draws.weighted = found = diagnose_draws(z, target.log_prob, fit_density(exact("banana", 1)[1], epochs=0))
    assert found.evidence_bound < -0.3 and found.shortfall < 5 * found.shortfall_error
    assert conclusion(WeightCheck().figures(draws)).value == 0


class MeanCheck(PosteriorCheck):
    """A check of the user's own: the mean of the draws is 0."""

    name = "own"

    def figures(self, draws):
        mean = draws.z.mean(0).norm().item()
        return [Figure("own mean", mean, expected="0", objection="" if mean < 0.1 else "away from the middle")]


def test_a_check_of_the_user_s_own_is_one_class():
    """It counts in the first line; others of the list come as they are asked for."""
    target, z = exact("correlated", 0)
    first, *rest = examine(PosteriorDraws(target, z + 0.3), Diagnosis(checks=["chains", MeanCheck()]).checks)
    assert first.name.startswith("shift, z[")
    assert rest[-1].name == "own mean" and rest[-1].objection
    assert conclusion(rest).note.endswith("away from the middle")


def test_a_check_without_its_needs_is_left_out():
    target, z = exact("correlated", 0, 200)
    draws = PosteriorDraws(target, z)
    assert SimulationBasedCalibration().missing(draws) == "a sampler of a family of posteriors"
    family = PosteriorDraws(targets.Parabola(), None)
    for check in Diagnosis().checks[:5]:
        assert check.missing(family) == "draws of one posterior"
    target.reference = lambda count: None
    assert ReferenceComparison().missing(draws) == "reference draws"
    assert examine(draws, [ReferenceComparison(), SimulationBasedCalibration()]) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"checks": ["chain"]}, "diagnosis.checks: 'chain' is none of chains, search"),
        ({"folds": 1}, "diagnosis.folds: 1 is below 2"),
        ({"simulations": 99}, "diagnosis.simulations: 99 is below 100"),
        ({"draws": 100}, "diagnosis.draws: 100 is below 200"),
    ],
)
def test_what_cannot_be_diagnosed_is_refused(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        Diagnosis(**arguments)


def test_chains_leave_draws_of_the_target_what_they_are():
    """Every share is off by a standard normal error."""
    errors = []
    for seed in range(20):
        target, z = exact("funnel", seed, 1000)
        moved = move_draws(z, target.log_prob, seed=seed, transitions=5, leapfrogs=8)
        errors += [share.errors for share in moved.shares.values()]
    assert 0.7 < torch.tensor(errors).abs().quantile(0.6) < 2.0 and max(map(abs, errors)) < 4.5


@pytest.mark.parametrize("wrong", [torch.randn(50, 2), torch.randn(500, 2).log(), torch.zeros(500, 2), torch.ones(500)])
def test_draws_that_are_none_are_refused(wrong):
    with pytest.raises(ConfigurationError, match=r"^draws: "):
        move_draws(wrong, lambda z: -z.square().sum(-1))
