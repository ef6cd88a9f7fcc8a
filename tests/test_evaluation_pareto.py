"""The tail of importance weights and what it says of draws, where the truth is known."""

from __future__ import annotations

import math

import pytest
import torch
from monte_carlo import ERRORS, assert_mean
from torch.distributions import MultivariateNormal

from lightning_avb import StandardNormal
from lightning_avb.distributions import DiagonalNormal
from lightning_avb.errors import ConfigurationError
from lightning_avb.evaluation import (
    DefensiveStudent,
    Quadrature,
    diagnose_draws,
    fit_density,
    fit_generalised_pareto,
    pareto,
    pareto_smoothed,
)
from lightning_avb.evaluation.importance import effective_samples

pytestmark = pytest.mark.usefixtures("float64")

LOG_Z = 3.0


def generalised_pareto(k, uniform):
    """Quantiles of the distribution with scale 1."""
    return torch.expm1(-k * torch.log1p(-uniform)) / k if k else -torch.log1p(-uniform)


# The fit of the tail.


@pytest.mark.parametrize("scale", [1e-3, 5.0])
@pytest.mark.parametrize("k", [-0.3, 0.0, 0.3, 0.7, 1.2])
def test_tail_is_recovered(k, scale):
    """Over 40 samples, with the variances (1 + k)^2 / n and 2 (1 + k) / n of the likelihood's maximum."""
    n = 2000
    fits = [fit_generalised_pareto((scale * generalised_pareto(k, torch.rand(n))).sort().values) for _ in range(40)]
    shapes, scales = torch.tensor(fits).T
    pulled = (n * k + 5) / (n + 10)
    assert ((shapes - pulled).abs() < ERRORS * (1 + k) / math.sqrt(n)).all()
    assert_mean(shapes, pulled, resolution=0.06)
    assert shapes.std() == pytest.approx((1 + k) / math.sqrt(n), rel=0.5)
    assert_mean(scales.log() - math.log(scale), 0.0, resolution=0.06)


@pytest.mark.parametrize(
    ("k", "expected", "largest"),
    [
        (-0.3, -0.15187670587346672, (-4.7829634291384915, -4.762260576835679, -4.762260576835679)),
        (0.2, 0.2551033481647976, (-4.0469191269526155, -3.875352281706654, -3.645713384442883)),
        (0.8, 0.7378791023306154, (-3.1223301987836396, -2.736643500424312, -1.9154753382819196)),
    ],
)
def test_as_another_library_has_it(k, expected, largest):
    """Figures of `psislw` of arviz 0.23.4."""
    uniform = (torch.arange(400) + 0.5) / 400
    order = torch.randperm(400)
    found = pareto_smoothed((generalised_pareto(k, uniform) + 0.1).log()[order] - 1e4)
    assert found.k == pytest.approx(expected, rel=1e-8)
    torch.testing.assert_close(found.log_weights[order.argsort()][-3:], torch.tensor(largest), rtol=1e-8, atol=0)


def test_smoothing_changes_the_tail_alone():
    log_weights = 2 * torch.randn(1000)
    found = pareto_smoothed(log_weights).log_weights
    tail = math.ceil(3 * math.sqrt(1000))
    order = log_weights.argsort()
    moved = (found - log_weights)[order]
    torch.testing.assert_close(moved[:-tail], moved[:1].expand(1000 - tail))
    assert (moved[-tail:] - moved[0]).abs().max() > 0.01
    assert (found[order].diff() >= 0).all() and moved[-1] <= moved[0] + 1e-12
    torch.testing.assert_close(found.logsumexp(0), torch.tensor(0.0))


def test_smoothed_mean_has_less_error():
    """For weights without a variance, k = 0.6: over 200 samples, of the mean weight against its expectation."""
    weights = generalised_pareto(0.6, torch.rand(200, 400)) + 0.5
    truth = 1 / (1 - 0.6) + 0.5
    log_weights = weights.log()
    smoothed = torch.stack([pareto_smoothed(row).log_weights for row in log_weights])
    # The smallest weight is not smoothed: it tells the constant that was taken off.
    least = log_weights.argmin(1, keepdim=True)
    constant = (log_weights.gather(1, least) - smoothed.gather(1, least)).exp()
    error = constant.squeeze(1) / 400 - truth
    assert error.square().mean() < 0.7 * (weights.mean(1) - truth).square().mean()


def test_equal_weights_have_no_tail():
    found = pareto_smoothed(torch.full((100,), -7.0))
    assert found.k == -math.inf
    torch.testing.assert_close(found.log_weights, torch.full((100,), -math.log(100)))
    assert pareto_smoothed(torch.tensor([0.0])).k == -math.inf


def test_few_weights_cannot_be_fitted():
    assert pareto_smoothed(torch.randn(15)).k == math.inf
    zeros = torch.cat([torch.randn(3), torch.full((100,), -math.inf)])
    found = pareto_smoothed(zeros)
    assert found.k == math.inf and found.log_weights.exp().sum() == pytest.approx(1.0)


@pytest.mark.parametrize("dim", [1, 4])
def test_narrow_and_wide_proposals(dim):
    """A Gaussian proposal of deviation s for N(0, I): the weights' tail has k = 1 - s^2 for s < 1; for s > 1 none."""
    target = DiagonalNormal(torch.zeros(dim), torch.ones(dim))

    def k_of(scale):
        z = scale * torch.randn(20000, dim)
        proposal = DiagonalNormal(torch.zeros(dim), torch.full((dim,), scale))
        return pareto_smoothed(target.log_prob(z) - proposal.log_prob(z)).k

    assert k_of(0.45) > 0.7 > 0.5 > k_of(0.85) and k_of(1.3) < 0.3


# The fitted density.


def banana(n):
    z = torch.randn(n, 2)
    return torch.stack([100 * z[:, 0], z[:, 0].square() + 0.4 * z[:, 1]], 1)


def banana_log_density(x):
    first = x[:, 0] / 100
    standard = torch.stack([first, (x[:, 1] - first.square()) / 0.4], 1)
    return -0.5 * standard.square().sum(1) - math.log(2 * math.pi) - math.log(100 * 0.4)


@pytest.fixture(scope="module")
def fitted():
    torch.manual_seed(3)
    return fit_density(banana(4000).double(), epochs=15)


def test_without_epochs_it_is_the_gaussian():
    tril = torch.tensor([[1.0, 0.0, 0.0], [5.0, 0.3, 0.0], [0.1, -2.0, 40.0]])
    draws = torch.randn(500, 3) @ tril.T + 7
    flow = fit_density(draws, epochs=0)
    gaussian = MultivariateNormal(draws.mean(0), draws.T.cov())
    z = gaussian.sample((100,))
    torch.testing.assert_close(flow.log_prob(z), gaussian.log_prob(z))
    fresh = torch.linalg.solve(gaussian.scale_tril, (flow.rsample((20000,)) - gaussian.mean).T).T
    assert_mean(fresh, 0.0, resolution=0.05)
    assert_mean(fresh.unsqueeze(1) * fresh.unsqueeze(2), torch.eye(3), resolution=0.06)


def test_fit_comes_near_the_density(fitted):
    """KL from fresh exact draws, beside that of the Gaussian with their moments."""
    x = banana(4000)
    assert (banana_log_density(x) - fitted.log_prob(x)).mean() < 0.1
    gaussian = MultivariateNormal(x.mean(0), x.T.cov())
    assert (banana_log_density(x) - gaussian.log_prob(x)).mean() > 0.5


@torch.no_grad()
def test_fit_is_a_density(fitted):
    z, log_f = fitted.rsample_and_log_prob((2000,))
    assert z.dtype == torch.float64 and not z.requires_grad
    torch.testing.assert_close(log_f, fitted.log_prob(z), rtol=0, atol=1e-6)
    grid = Quadrature.grid(2, limit=8.0, cells=400)
    points = grid.points * torch.tensor([100.0, 4.0])
    mass = fitted.log_prob(points).logsumexp(0) + grid.log_weight + math.log(400.0)
    assert mass.item() == pytest.approx(0.0, abs=2e-3)


def test_fit_is_a_function_of_draws_and_seed():
    draws = torch.randn(200, 2)
    draws[:, 1] += draws[:, 0].square()
    state = torch.get_rng_state()
    first, same, other = (fit_density(draws, epochs=2, seed=seed).log_prob(draws) for seed in (1, 1, 2))
    assert torch.equal(first, same) and not torch.allclose(first, other)
    assert torch.equal(torch.get_rng_state(), state)
    assert fit_density(draws.float(), epochs=1).rsample((2,)).dtype == torch.float32
    assert fit_density(draws[:, :1], epochs=1).rsample((2,)).shape == (2, 1)


# What it says of draws.


TARGET_SCALES = torch.tensor([1.0, 0.1, 20.0], dtype=torch.float64)


def log_target(z):
    return LOG_Z + DiagonalNormal(torch.ones(3), TARGET_SCALES).log_prob(z)


def target_draws(n, scale=1.0):
    return 1 + scale * TARGET_SCALES * torch.randn(n, 3)


def test_exact_draws():
    """The Gaussian of n draws misses the bound by about dim (dim + 3) / (4 n)."""
    draws = target_draws(4000)
    found = diagnose_draws(draws, log_target, fit_density(draws, epochs=0))
    assert found.k < 0.5 and found.effective_samples > 0.98 * found.samples and found.samples == 9500
    lost = LOG_Z - found.evidence_bound
    assert 0 < lost < 4 * 18 / 16000 + ERRORS * found.evidence_bound_error and found.evidence_bound_error < 0.002
    assert abs(found.log_evidence - LOG_Z) < ERRORS * found.log_evidence_error < 0.02


def test_narrow_draws():
    """KL(N(0, s^2), N(0, 1)) = s^2 / 2 - 1/2 - log s in every dimension; the evidence is right all the same."""
    draws = target_draws(4000, 0.4)
    found = diagnose_draws(draws, log_target, fit_density(draws, epochs=0))
    assert found.k > 0.7 and found.effective_samples < 0.3 * found.samples
    lost = 3 * (0.5 * 0.16 - 0.5 - math.log(0.4))
    # The deviations of the draws add theirs: d lost / d log s = s^2 - 1, with the variance 1 / (2 n) of log s.
    error = math.hypot(found.evidence_bound_error, 0.84 * math.sqrt(3 / 8000))
    assert abs(LOG_Z - lost - found.evidence_bound) < ERRORS * error < 0.1
    assert abs(found.log_evidence - LOG_Z) < ERRORS * found.log_evidence_error < 0.4
    alone = diagnose_draws(draws, log_target, fit_density(draws, epochs=0), share=0.0)
    assert alone.k > 0.7 and alone.samples == 10000
    assert alone.log_evidence_error > 1.5 * found.log_evidence_error


def test_a_learnt_flow():
    """Draws of a density with a curved ridge: the Gaussian's bound loses more than 1."""
    draws = banana(4000)
    found = diagnose_draws(draws, lambda x: LOG_Z + banana_log_density(x), fit_density(draws, epochs=15), samples=4000)
    gaussian = diagnose_draws(draws, lambda x: LOG_Z + banana_log_density(x), fit_density(draws, epochs=0))
    assert gaussian.evidence_bound < LOG_Z - 1 and gaussian.effective_samples < 0.6 * gaussian.samples
    assert LOG_Z - 0.3 < found.evidence_bound < LOG_Z + ERRORS * found.evidence_bound_error
    assert found.effective_samples > 0.8 * found.samples
    assert abs(found.log_evidence - LOG_Z) < ERRORS * found.log_evidence_error < 0.1


def test_a_missing_mode_is_not_seen():
    """Half of the mass is far away: the evidence is that of the other half, and nothing says so."""

    def two_modes(z):
        return torch.logaddexp(log_target(z), log_target(z + 30 * TARGET_SCALES)) - math.log(2)

    draws = target_draws(4000)
    found = diagnose_draws(draws, two_modes, fit_density(draws, epochs=0))
    assert found.k < 0.5 and abs(found.log_evidence - LOG_Z + math.log(2)) < 0.01


def test_diagnosis_is_a_function_of_its_arguments():
    draws = target_draws(100)
    flow, state = fit_density(draws, epochs=0), torch.get_rng_state()
    found = [diagnose_draws(draws, log_target, flow, 100, seed=seed) for seed in (1, 1, 2)]
    assert found[0][:9] == found[1][:9] != found[2][:9] and torch.equal(torch.get_rng_state(), state)


def test_where_the_target_is_zero():
    """A half space: the weights are 0 beyond it, and the bound is -inf."""
    draws = target_draws(2000)
    found = diagnose_draws(draws, lambda z: log_target(z).where(z[:, 0] > 1, -math.inf), fit_density(draws, epochs=0))
    assert found.evidence_bound == -math.inf
    assert abs(found.log_evidence - LOG_Z + math.log(2)) < ERRORS * found.log_evidence_error < 0.1


def test_figures_of_the_flow_and_of_the_mixture():
    draws = target_draws(300, 0.7)
    flow, seen = fit_density(draws, epochs=0), []

    def log_density(z):
        seen.append(z)
        return log_target(z)

    found = diagnose_draws(draws, log_density, flow, samples=1000, share=0.1)
    z, unseen = seen
    assert unseen is draws
    weights = (log_target(z) - flow.log_prob(z))[:900]
    assert found.samples == 900 and len(z) == 1000
    assert found.effective_samples == pytest.approx(effective_samples(weights).item())
    assert found.evidence_bound == pytest.approx(weights.mean().item())
    assert found.k == pytest.approx(pareto_smoothed(weights).k)
    student = DefensiveStudent(draws.mean(0)[None], draws.T.cov()[None], StandardNormal(3)(), share=0.0)
    log_student = student.log_prob(z.unsqueeze(1)).squeeze(1)
    weights = (log_target(z).exp() / (0.9 * flow.log_prob(z).exp() + 0.1 * log_student.exp())).log()
    assert found.log_evidence == pytest.approx(weights.exp().mean().log().item())
    assert found.shortfall == pytest.approx(
        found.log_evidence - (log_target(draws) - flow.log_prob(draws)).mean().item()
    )
    assert torch.equal(found.z, z) and found.smoothed.k == pytest.approx(pareto_smoothed(weights).k)
    assert found.log_evidence_error == pytest.approx(
        (weights.exp().std() / weights.exp().mean()).item() / 1000**0.5, rel=1e-3
    )


def test_a_shape_of_zero_is_the_limit_of_small_ones(monkeypatch):
    """Exactly 0 is seldom estimated."""
    log_weights, found = torch.randn(500), []
    for k in (0.0, 1e-6):
        monkeypatch.setattr(pareto, "fit_generalised_pareto", lambda excess, k=k: (k, 0.7))
        found.append(pareto_smoothed(log_weights).log_weights)
    torch.testing.assert_close(*found, rtol=0, atol=1e-4)


def test_twenty_draws_are_enough():
    x = torch.randn(50, 2)
    found = diagnose_draws(x, lambda z: -0.5 * z.square().sum(-1), fit_density(x, epochs=0), samples=20)
    assert abs(found.log_evidence - math.log(2 * math.pi)) < 2


@pytest.mark.parametrize(
    ("key", "call"),
    [
        ("log_weights", lambda x: pareto_smoothed(torch.zeros(3, 2))),
        ("log_weights", lambda x: pareto_smoothed(torch.zeros(0))),
        ("log_weights: weight 1 is", lambda x: pareto_smoothed(torch.tensor([0.0, math.nan]))),
        ("log_weights", lambda x: pareto_smoothed(torch.tensor([0.0, math.inf]))),
        ("log_weights: all weights", lambda x: pareto_smoothed(torch.full((3,), -math.inf))),
        ("draws", lambda x: fit_density(x[0])),
        ("draws", lambda x: fit_density(x[:19])),
        ("draws", lambda x: fit_density(x.log())),
        ("draws", lambda x: fit_density(x * torch.tensor([1.0, 0.0]))),
        ("draws", lambda x: fit_density(torch.cat([x, x.sum(1, keepdim=True)], 1))),
        ("epochs", lambda x: fit_density(x, epochs=-1)),
        ("batch_size", lambda x: fit_density(x, batch_size=0)),
        ("learning_rate", lambda x: fit_density(x, learning_rate=0.0)),
        ("samples", lambda x: diagnose_draws(x, log_target, samples=10)),
        ("share", lambda x: diagnose_draws(x, log_target, share=1.0)),
        ("log_density", lambda x: diagnose_draws(x, lambda z: z, fit_density(x, epochs=0))),
        ("log_density", lambda x: diagnose_draws(x, lambda z: z[:, 0] * math.nan, fit_density(x, epochs=0))),
        ("log_density", lambda x: diagnose_draws(x, lambda z: z[:, 0] - math.inf, fit_density(x, epochs=0))),
    ],
)
def test_refuses(key, call):
    with pytest.raises(ConfigurationError, match=rf"^{key}\b"):
        call(torch.randn(50, 2))
