"""Comparisons of draws with reference draws, where the difference is known."""

from __future__ import annotations

import math

import pytest
import torch
from monte_carlo import ERRORS, assert_mean

from lightning_avb.errors import ConfigurationError
from lightning_avb.evaluation import (
    classifier_two_sample,
    marginal_quantiles,
    maximum_mean_discrepancy,
    median_distance,
    moment_errors,
    neighbour_kl,
    sliced_wasserstein,
    standardised,
)

pytestmark = pytest.mark.usefixtures("float64")

SCALES = torch.tensor([1e-4, 1.0, 1e4], dtype=torch.float64)


def accuracy_error(rows):
    return ERRORS * math.sqrt(0.25 / (2 * rows))


# The classifier.


def test_one_distribution_is_not_told_apart():
    assert abs(classifier_two_sample(torch.randn(1000, 3), torch.randn(1000, 3)) - 0.5) < accuracy_error(1000)
    assert abs(classifier_two_sample(torch.randn(1500, 3), torch.randn(500, 3)) - 0.5) < accuracy_error(500)


def test_best_accuracy_of_a_shift():
    """Phi(|shift| / 2), which no classifier betters; in units that differ by eight powers of ten."""
    draws = SCALES * (torch.randn(1000, 3) + torch.tensor([1.2, 1.6, 0.0]))
    best = torch.special.ndtr(torch.tensor(1.0)).item()
    found = classifier_two_sample(draws + 7, SCALES * torch.randn(1000, 3) + 7)
    assert best - accuracy_error(1000) < found < best + accuracy_error(1000)


def test_power():
    """Differences as a poor approximation has them; the best accuracy is 0.587, 0.595 and 0.634."""
    correlated, modes = torch.randn(1500, 5), torch.randn(1500, 5)
    correlated[:, 1] = 0.5 * correlated[:, 0] + math.sqrt(0.75) * correlated[:, 1]
    modes[:300, 0] += 4
    for draws, reference in (
        (torch.randn(1500, 5), correlated),
        (torch.randn(1500, 5), modes),
        (0.8 * torch.randn(1500, 5), torch.randn(1500, 5)),
    ):
        assert classifier_two_sample(draws, reference) > 0.5 + accuracy_error(1500)


def test_same_seed_same_accuracy():
    draws, reference = torch.randn(200, 2), torch.randn(150, 2)
    state = torch.get_rng_state()
    found = [classifier_two_sample(draws, reference, folds=3, seed=seed) for seed in (5, 5, 6)]
    assert found[0] == found[1] != found[2] and torch.equal(torch.get_rng_state(), state)


# Distances.


def test_discrepancy_of_normal_distributions():
    """The closed form, from so few rows that a biased estimate would be far off."""
    shift, scale, h, dim = torch.tensor([0.8, -0.3]), 1.5, 0.9, 2

    def mean_kernel(variance, apart=0.0):
        return (h**2 / (h**2 + variance)) ** (dim / 2) * math.exp(-apart / (2 * (h**2 + variance)))

    truth = mean_kernel(2.0) + mean_kernel(2 * scale**2) - 2 * mean_kernel(1 + scale**2, shift.square().sum().item())
    found = [
        maximum_mean_discrepancy(torch.randn(12, dim), shift + scale * torch.randn(7, dim), h) for _ in range(3000)
    ]
    assert_mean(torch.tensor(found), truth, resolution=0.02)


def test_discrepancy_by_its_definition():
    x, y = torch.randn(9, 3), torch.randn(14, 3) + 1
    h = median_distance(x, y)
    pooled = torch.cat([x, y])
    assert h == pytest.approx(torch.cdist(pooled, pooled)[torch.ones(23, 23).triu(1) > 0].median().item())
    kernel = (-torch.cdist(pooled, pooled).square() / (2 * h**2)).exp()
    off = kernel - torch.eye(23)
    truth = off[:9, :9].sum() / 72 + off[9:, 9:].sum() / 182 - 2 * off[:9, 9:].mean()
    assert maximum_mean_discrepancy(x, y) == pytest.approx(truth.item())
    assert maximum_mean_discrepancy(x, y, elements=20) == pytest.approx(truth.item())


def test_wasserstein_of_a_shift():
    """Every projection is moved by u . shift, whose square has the mean |shift|^2 / dim."""
    x, shift, dim, projections = torch.randn(50, 3), torch.tensor([1.0, 2.0, -2.0]), 3, 4000
    error = 9 * math.sqrt((3 / (dim * (dim + 2)) - 1 / dim**2) / projections)
    found = sliced_wasserstein(x + shift, x, projections)
    assert abs(found**2 - 9 / dim) < ERRORS * error
    # |u . shift| / |shift| is uniform on (0, 1) in three dimensions.
    found = sliced_wasserstein(x + shift, x, projections, p=1)
    assert abs(found - 1.5) < ERRORS * 3 / math.sqrt(12 * projections)


def test_wasserstein_of_samples_of_different_size():
    """In one dimension there is one direction and its reverse: halves at 0, 1 against thirds at 0, 1, 2."""
    x, y = torch.tensor([[1.0], [0.0]]), torch.tensor([[2.0], [0.0], [1.0]])
    # Levels 0 to 1/3: 0 and 0; to 1/2: 0 and 1; to 2/3: 1 and 1; to 1: 1 and 2.
    assert sliced_wasserstein(x, y, 7, p=1) == pytest.approx(1 / 6 + 1 / 3)
    assert sliced_wasserstein(2 * x, 2 * y, 7) == pytest.approx(2 * math.sqrt(0.5))
    many = torch.randn(6, 2), torch.randn(9, 2)
    as_many = many[0].repeat(3, 1), many[1].repeat(2, 1)
    assert sliced_wasserstein(*many) == pytest.approx(sliced_wasserstein(*as_many))


@pytest.mark.parametrize("neighbour", [1, 4])
@pytest.mark.parametrize(("dim", "bias"), [(1, 0.0), (3, 0.03)])
def test_kl_of_normal_distributions(dim, bias, neighbour):
    """N(0.5, 0.8^2) from N(0, 1) in every dimension, in units of their own; and four times as many of one."""
    n, mean, scale = 4000, 0.5, 0.8
    units = torch.tensor([10.0, 1e-3, 1.0])[:dim]
    truth = dim * (0.5 * (scale**2 + mean**2 - 1) - math.log(scale))
    z = mean + scale * torch.randn(n, dim)
    log_ratio = (-0.5 * ((z - mean) / scale).square() - math.log(scale) + 0.5 * z.square()).sum(1)
    trigamma = torch.special.polygamma(1, torch.tensor(float(neighbour))).item()
    allowed = ERRORS * math.sqrt((log_ratio.var().item() + 2 * trigamma) / n) + bias
    assert allowed < 0.2
    for m in (n, 4 * n):
        assert abs(neighbour_kl(units * z, units * torch.randn(m, dim), neighbour) - truth) < allowed
    few = z[: n // 4]
    assert abs(neighbour_kl(few, torch.randn(n, dim), neighbour) - truth) < 2 * allowed


@pytest.mark.parametrize("neighbour", [1, 2])
def test_kl_by_its_definition(neighbour):
    draws, reference = torch.randn(6, 2, dtype=torch.float64), 2 * torch.randn(9, 2, dtype=torch.float64) + 1
    x, y = ((sample - reference.mean(0)) / reference.std(0) for sample in (draws, reference))
    # Among the draws the nearest is the draw itself.
    r = torch.cdist(x, x).sort(1).values[:, neighbour]
    s = torch.cdist(x, y).sort(1).values[:, neighbour - 1]
    expected = 2 / 6 * (s.log() - r.log()).sum() + math.log(9) - math.log(6 - 1)
    assert neighbour_kl(draws, reference, neighbour) == pytest.approx(expected.item(), abs=1e-6)


def test_copies_have_no_density():
    x, y = torch.randn(50, 2), torch.randn(60, 2)
    with pytest.raises(ConfigurationError, match=r"^draws: rows occur several times"):
        neighbour_kl(torch.cat([x, x]), y)
    with pytest.raises(ConfigurationError, match=r"^draws: rows are those of the reference"):
        neighbour_kl(torch.cat([x, y[:1]]), y)


# One dimension at a time.


def test_quantiles_and_moments_of_a_linear_function():
    reference = torch.randn(501, 3) * SCALES + 3
    mean, deviation = reference.mean(0), reference.std(0)
    draws = 1.5 * (reference - mean) + mean + 0.2 * deviation
    levels = (0.0, 0.1, 0.5, 0.777, 1.0)
    standard = (torch.quantile(reference, torch.tensor(levels), 0) - mean) / deviation
    torch.testing.assert_close(marginal_quantiles(draws, reference, levels), 0.5 * standard + 0.2)
    found = moment_errors(draws, reference)
    torch.testing.assert_close(found.mean, torch.full((3,), 0.2))
    torch.testing.assert_close(found.deviation, torch.full((3,), 0.5))


def test_standardised_by_the_reference():
    x, y = standardised(torch.tensor([[5.0], [9.0]]), torch.tensor([[1.0], [3.0], [5.0]]))
    assert x.flatten().tolist() == [1.0, 3.0] and y.flatten().tolist() == [-1.0, 0.0, 1.0]


COMPARISONS = [
    classifier_two_sample,
    maximum_mean_discrepancy,
    sliced_wasserstein,
    neighbour_kl,
    marginal_quantiles,
    moment_errors,
]


@pytest.mark.parametrize("compare", COMPARISONS)
def test_refuses_samples(compare):
    good, nan = torch.randn(60, 2), torch.randn(60, 2)
    nan[7, 1] = math.nan
    for draws, reference, message in (
        (good, torch.randn(60, 3), "draws: have 2 dimensions, the reference has 3"),
        (nan, good, "draws: row 7 holds"),
        (good, nan, "reference: row 7 holds"),
        (good[:0], good, "draws: 0 rows are too few"),
        (good, good[:0], "reference: 0 rows are too few"),
        (good[0], good, r"draws: a sample of shape \(2,\)"),
    ):
        with pytest.raises(ConfigurationError, match="^" + message):
            compare(draws, reference)


@pytest.mark.parametrize(
    ("key", "call"),
    [
        ("folds", lambda x, y: classifier_two_sample(x, y, folds=1)),
        ("draws", lambda x, y: classifier_two_sample(x[:49], y)),
        ("reference", lambda x, y: classifier_two_sample(x, torch.ones(60, 2))),
        ("bandwidth", lambda x, y: maximum_mean_discrepancy(x, y, 0.0)),
        ("bandwidth", lambda x, y: maximum_mean_discrepancy(torch.ones(5, 2), torch.ones(5, 2))),
        ("elements", lambda x, y: maximum_mean_discrepancy(x, y, elements=0)),
        ("projections", lambda x, y: sliced_wasserstein(x, y, 0)),
        ("p", lambda x, y: sliced_wasserstein(x, y, p=0.5)),
        ("neighbour", lambda x, y: neighbour_kl(x, y, 0)),
        ("draws", lambda x, y: neighbour_kl(x[:3], y, 3)),
        ("levels", lambda x, y: marginal_quantiles(x, y, [0.5, 1.5])),
        ("levels", lambda x, y: marginal_quantiles(x, y, [])),
    ],
)
def test_refuses(key, call):
    with pytest.raises(ConfigurationError, match=rf"^{key}: "):
        call(torch.randn(60, 2), torch.randn(60, 2))
