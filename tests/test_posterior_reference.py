"""Posteriors of log-densities: draws compared with reference draws, and resampled."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from monte_carlo import assert_mean

import lightning_avb as avb
from lightning_avb import PooledMixtureEncoder, Posterior, noise, targets
from lightning_avb.distributions import DiagonalNormal, SemiImplicit
from lightning_avb.errors import ConfigurationError
from lightning_avb.evaluation import resample_posterior
from lightning_avb.evaluation.resampling import PROPOSALS, _resample_by_weight
from lightning_avb.reports import Diagnosis
from lightning_avb.reports.checks import compare
from lightning_avb.targets import Gaussian, Mixture

# Reference draws.


def test_the_divergence_from_reference_draws_is_of_the_parameters_alone():
    """A derived quantity is a function of them: counted as a dimension, it would give another number."""
    target, shift = targets.NormalSample(), 0.3
    known, other = target.reference(4000), target.reference(4000, seed=1)
    spread = other["mu"].std()
    moved = {**other, "mu": other["mu"] + shift * spread}
    found = {figure.name: figure.value for figure in compare(target, moved, known, folds=2)}
    plain = {name: value for name, value in moved.items() if name != "sigma"}
    alone = {figure.name: figure.value for figure in compare(target, plain, known, folds=2)}
    name = "KL(draws, reference)"
    assert found[name] == alone[name] and 0.02 < found[name] < 0.3
    assert name not in {f.name for f in compare(target, {"mu": moved["mu"]}, known, folds=2)}
    with pytest.raises(ConfigurationError, match=r"^target: NormalSample draws a, and its reference has mu, log_sigma"):
        compare(target, {"a": moved["mu"]}, known)


@pytest.mark.parametrize("target", [partial(Gaussian, [[1.0]]), partial(Gaussian, mean=[1e4, 1e4])])
def test_draws_of_single_precision_may_coincide(target):
    """Among twice 10,000 of them on a line some do."""
    target = target()
    found = {f.name: f.value for f in compare(target, target.reference(10000, seed=1), target.reference(10000), 2)}
    assert abs(found["KL(draws, reference)"]) < 0.1
    same = {name: value[:100].repeat_interleave(100, 0) for name, value in target.reference(10000).items()}
    assert "KL(draws, reference)" not in {f.name for f in compare(target, target.reference(10000, 1), same, 2)}


class FewReferences(Gaussian):
    def reference(self, count, seed=0):
        return super().reference(min(count, 30), seed)


def test_too_few_reference_draws_leave_the_rest_of_the_diagnosis():
    with torch.inference_mode(False):
        figures = Diagnosis(draws=400).of(Posterior(FewReferences))
    assert figures[0].name == "objections" and "Pareto k" in {figure.name for figure in figures}
    assert figures[-1].name == "reference" and "30 rows are too few" in figures[-1].note


def test_draws_that_are_too_wide_are_not_called_good():
    """The weights of a flow that is far too wide are bounded: Pareto k has nothing to say against it."""
    model = Posterior(partial(Gaussian, covariance=[[1.0, 0.0], [0.0, 1.0]]))
    diagnosis = Diagnosis(draws=1000, checks=["chains", "weights", "moments"])
    first, *_ = diagnosis.of(model)
    assert first.value == 0 and "agree" in first.note
    model.scale_tril.mul_(3)
    first, *rest = diagnosis.of(model)
    value = {figure.name: figure.value for figure in rest}
    assert value["Pareto k"] < 0.7 and "too wide in z[" in first.note and "above the draws' own" in first.note
    assert value["deviation of z[0]"] == pytest.approx(3, rel=0.1) and value["shortfall of the draws"] > 1


# Resampling.


def test_resampled_draws_are_those_of_the_target():
    """An untrained sampler, N(0, I) a fifth too narrow and shifted, for a Student's t with wider tails than its own."""
    model = Posterior(partial(targets.StudentT, dim=2, df=5))
    model.scale_tril.mul_(0.8)
    model.location.add_(0.4)
    found = resample_posterior(model, 4000)
    assert found.z.shape == (4000, 1, 2) and len(found.z.unique(dim=0)) > 3900
    # Without wider components 0.15 of the proposals would count, and k would be above 0.7.
    assert 0.5 < found.effective.item() < 1 and found.k.item() < 0.7
    z, exact = found.z.squeeze(1), model.target.reference(200_000)["z"]
    for p in (0.05, 0.5, 0.95, 0.995):
        limit = exact.norm(dim=1).quantile(p)
        # Weighted draws: their number as the effective share has it.
        error = math.sqrt(p * (1 - p) / (4000 * min(1.0, 10 * found.effective.item())))
        assert abs((z.norm(dim=1) < limit).double().mean().item() - p) < 5 * error
    assert_mean(z, 0.0, resolution=0.2)
    assert (model.draw_z(4000).squeeze(1).mean(0) > 0.3).all()
    again = resample_posterior(model, 4000)
    assert torch.equal(found.z, again.z) and not torch.equal(found.z, resample_posterior(model, 4000, seed=1).z)


class UnknownAbove(targets.Target):
    """A standard normal whose density nobody knows above 1."""

    constraints = {"a": "real"}  # noqa: RUF012

    def log_density(self, *, a):
        return (-0.5 * a.square()).where(a < 1, math.nan)


def test_where_the_density_is_not_known_nothing_is_resampled():
    with torch.inference_mode(False):
        z = resample_posterior(Posterior(UnknownAbove), 500, transitions=0).z
    assert z.max() < 1


def test_chains_move_what_was_chosen():
    model = Posterior(Gaussian)
    chosen, moved = (resample_posterior(model, 500, transitions=transitions).z for transitions in (0, 10))
    assert (chosen != moved).any(-1).double().mean() > 0.9


@pytest.mark.parametrize("seed", range(3))
def test_a_draw_without_weight_is_not_chosen(seed):
    """The first, where the search for the chosen begins; of the others each comes once."""
    torch.manual_seed(seed)
    u = torch.arange(10.0 * PROPOSALS).unsqueeze(1)
    log_weights = torch.full((10 * PROPOSALS,), -math.inf, dtype=torch.float64)
    log_weights[PROPOSALS :: PROPOSALS + 1] = -math.log(9)
    chosen = _resample_by_weight(u, log_weights).flatten()
    assert chosen.min() > 0 and set(chosen.tolist()) == set((log_weights > -math.inf).nonzero().flatten().tolist())


def test_shares_of_modes_are_resampled():
    """A sampler with halves for shares of 0.3 and 0.7."""
    means = [[-3.0, -3.0], [3.0, 3.0]]
    model = Posterior(partial(Mixture, means=means, scale=1.0, weights=[0.3, 0.7]), HalfAndHalf)
    z = resample_posterior(model, 4000).z.squeeze(1)
    assert (z.sum(1) < 0).double().mean().item() == pytest.approx(0.3, abs=5 * math.sqrt(0.21 / 4000))


def test_resampling_refuses_what_it_cannot_mend():
    model = Posterior(partial(Gaussian, mean=[8.0, -8.0]))
    with pytest.raises(ConfigurationError, match=r"^resample: .*% of the proposals are effective, and 1% is the least"):
        resample_posterior(model, 100)
    with pytest.raises(
        ConfigurationError, match=r"^resample: needs the density of a PooledMixtureEncoder, and .* FlowE"
    ):
        resample_posterior(Posterior(Gaussian, avb.FlowEncoder), 100)


class HalfAndHalf(PooledMixtureEncoder):
    def forward(self, x, y=None):
        def components(samples):
            side = noise.normal((samples, len(x), 1), x).sign()
            loc = 3 * side.expand(-1, -1, 2)
            return DiagonalNormal(loc, torch.ones_like(loc))

        return SemiImplicit(components, x.shape[:1], torch.Size([2]))
