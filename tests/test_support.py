"""Bijections from vectors of real numbers to named parameters, and their Jacobians."""

from __future__ import annotations

import math

import pytest
import torch
from monte_carlo import assert_mean
from torch.distributions import (
    Beta,
    Dirichlet,
    Exponential,
    HalfNormal,
    LKJCholesky,
    LogNormal,
    Normal,
    Uniform,
    Wishart,
)

from lightning_avb.errors import ConfigurationError
from lightning_avb.evaluation import Quadrature
from lightning_avb.support import Support

pytestmark = pytest.mark.usefixtures("float64")

# kind -> the shape of a parameter, and how many numbers it is free in
KINDS = {
    "real": ((), 1),
    "positive": ((), 1),
    "unit_interval": ((), 1),
    "interval(-1, 3)": ((), 1),
    "above(-2.5)": ((), 1),
    "below(1e3)": ((), 1),
    "real[3]": ((3,), 3),
    "positive[2]": ((2,), 2),
    "unit_interval[2]": ((2,), 2),
    "interval(-.5,0.5)[4]": ((4,), 4),
    "above(2)[1]": ((1,), 1),
    "below(0)[2]": ((2,), 2),
    "simplex[4]": ((4,), 3),
    "ordered[3]": ((3,), 3),
    "positive_ordered[3]": ((3,), 3),
    "correlation_cholesky[2]": ((2, 2), 1),
    "correlation_cholesky[4]": ((4, 4), 6),
    "covariance_cholesky[3]": ((3, 3), 6),
}
EVERY = Support({f"p{i}": kind for i, kind in enumerate(KINDS)})
NAME = {kind: f"p{i}" for i, kind in enumerate(KINDS)}
INSIDE = {
    "positive": lambda v: v > 0,
    "unit_interval": lambda v: (v > 0) & (v < 1),
    "interval(-1, 3)": lambda v: (v > -1) & (v < 3),
    "above(-2.5)": lambda v: v > -2.5,
    "below(1e3)": lambda v: v < 1000,
    "interval(-.5,0.5)[4]": lambda v: v.abs() < 0.5,
    "above(2)[1]": lambda v: v > 2,
    "below(0)[2]": lambda v: v < 0,
    "simplex[4]": lambda v: (v > 0) & ((v.sum(-1, keepdim=True) - 1).abs() < 1e-12),
    "ordered[3]": lambda v: v.diff(dim=-1) > 0,
    "positive_ordered[3]": lambda v: torch.cat([v[..., :1], v.diff(dim=-1)], -1) > 0,
    "correlation_cholesky[4]": lambda v: (v.norm(dim=-1) - 1).abs() < 1e-12,
    "covariance_cholesky[3]": lambda v: torch.linalg.eigvalsh(v @ v.mT) > 0,
}


def free(kind, value):
    """The numbers that a parameter is free in: of shares that sum to one all but the last."""
    if "cholesky" in kind:
        below = torch.ones_like(value, dtype=torch.bool).tril(-1 if "correlation" in kind else 0)
        return value[below]
    return value[..., :-1] if "simplex" in kind else value.reshape(-1)


def test_points_and_parameters_belong_to_each_other():
    z = torch.randn(5, 4, EVERY.dim)
    theta, volume = EVERY.constrain(z)
    assert volume.shape == (5, 4)
    assert [tuple(value.shape[2:]) for value in theta.values()] == [shape for shape, _ in KINDS.values()]
    assert EVERY.dim == sum(size for _, size in KINDS.values()) == len(set(EVERY.coordinates))
    torch.testing.assert_close(EVERY.unconstrain(theta), z)
    # the order in which a user names them is of no matter
    torch.testing.assert_close(EVERY.unconstrain(dict(reversed(theta.items()))), z)


def test_parameters_are_where_they_should_be():
    theta, _ = EVERY.constrain(3 * torch.randn(500, EVERY.dim))
    assert EVERY.contains(theta).shape == (500,) and EVERY.contains(theta).all()
    for kind, inside in INSIDE.items():
        assert inside(theta[NAME[kind]]).all(), kind
    for kind in ("correlation_cholesky[4]", "covariance_cholesky[3]"):
        matrix = theta[NAME[kind]]
        assert (matrix.triu(1) == 0).all() and (matrix.diagonal(dim1=-2, dim2=-1) > 0).all()
    # all of it, not a corner
    for kind, low, high in [
        ("real", -3, 3),
        ("ordered[3]", -3, 20),
        ("positive", 0.1, 20),
        ("interval(-1, 3)", -0.9, 2.9),
    ]:
        assert theta[NAME[kind]].min() < low and theta[NAME[kind]].max() > high
    assert theta[NAME["below(1e3)"]].min() < 980
    assert theta[NAME["correlation_cholesky[4]"]][:, 3, 0].abs().max() > 0.95


@pytest.mark.parametrize("kind", INSIDE)
def test_what_is_off_the_support_is_not_contained(kind):
    (shape, _), support = KINDS[kind], Support({"p": kind})
    value = support.constrain(torch.zeros(3, support.dim))[0]["p"]
    value[1] = 2000.0 if "below" in kind else -3.0
    value[2] = math.nan
    assert support.contains({"p": value}).tolist() == [True, False, False], shape


@pytest.mark.parametrize("kind", KINDS)
def test_volume_is_the_determinant_of_autograds_jacobian(kind):
    support = Support({"p": kind})
    z = torch.randn(support.dim)
    jacobian = torch.autograd.functional.jacobian(lambda z: free(kind, support.constrain(z)[0]["p"]), z)
    torch.testing.assert_close(support.constrain(z)[1], jacobian.det().abs().log())


@pytest.mark.parametrize("kind", KINDS)
def test_volumes_and_slopes_survive_single_precision(kind):
    """Three deviations out, and all of it: torch's own volume of a correlation is 5 nats off, or not a number."""
    support, z = Support({"p": kind}), 3 * torch.randn(2000, Support({"p": kind}).dim)
    z = z.float().requires_grad_()
    theta, volume = support.constrain(z)
    (slope,) = torch.autograd.grad(volume.sum() + theta["p"].sum(), z)
    assert slope.isfinite().all()
    exact = support.constrain(z.detach().double())[1]
    torch.testing.assert_close(volume.detach().double(), exact, rtol=1e-5, atol=1e-3)


def test_volume_of_a_product():
    z = torch.randn(EVERY.dim)

    def every(z):
        theta = EVERY.constrain(z)[0]
        return torch.cat([free(kind, theta[NAME[kind]]) for kind in KINDS])

    jacobian = torch.autograd.functional.jacobian(every, z)
    torch.testing.assert_close(EVERY.constrain(z)[1], jacobian.det().abs().log())


@pytest.mark.parametrize(
    ("kind", "log_density"),
    [
        ("real", Normal(0.5, 0.8).log_prob),
        ("positive", LogNormal(0.3, 0.5).log_prob),
        ("unit_interval", Beta(2.0, 3.0).log_prob),
        ("simplex[3]", Dirichlet(torch.tensor([2.0, 3.0, 1.5])).log_prob),
        ("interval(-1, 3)", Uniform(-1.0, 3.0).log_prob),
        ("above(2)", lambda theta: Exponential(0.7).log_prob(theta - 2)),
        ("below(-1)", lambda theta: LogNormal(0.2, 0.6).log_prob(-1 - theta)),
        ("ordered[2]", lambda theta: Normal(0.0, 1.0).log_prob(theta).sum(-1) + math.log(2.0)),
        ("positive_ordered[2]", lambda theta: HalfNormal(1.5).log_prob(theta).sum(-1) + math.log(2.0)),
        ("correlation_cholesky[2]", lambda theta: LKJCholesky(2, 0.7).log_prob(theta)),
    ],
)
def test_densities_integrate_to_one_in_z(kind, log_density):
    support = Support({"p": kind})
    points, log_weight = Quadrature.grid(support.dim, 12.0, 600)
    theta, volume = support.constrain(points)
    # at the far ends theta rounds to the edge of its support, where the density is none
    density = (log_density(theta["p"]) + volume + log_weight).exp()
    assert abs(density.nan_to_num().sum() - 1) < 1e-3


def weighed(support, log_density, spread, draws=100_000):
    """Weights p / N(0, spread) of draws of a normal distribution of z, and what they make."""
    z = spread * torch.randn(draws, support.dim)
    theta, volume = support.constrain(z)
    return (log_density(theta["p"]) + volume - Normal(0.0, spread).log_prob(z).sum(-1)).exp(), theta["p"]


def test_a_correlation_is_drawn_as_lkj_says():
    """Each correlation is a beta variable on (-1, 1), of variance 1 / (2 concentration + n - 1)."""
    n, concentration = 4, 1.5
    weight, tril = weighed(Support({"p": f"correlation_cholesky[{n}]"}), LKJCholesky(n, concentration).log_prob, 0.6)
    correlation = tril @ tril.mT
    assert_mean(weight, 1.0, 0.02)
    assert_mean(weight.unsqueeze(-1) * correlation[:, 3, :3].square(), 1 / (2 * concentration + n - 1), 0.01)


def test_a_covariance_is_drawn_as_wishart_says():
    """Of L L^T with the density of a Wishart distribution, which torch has of the product: 2^n prod L_ii^(n - i)."""
    n, scale = 3, torch.tensor([[1.0, 0.3, 0.0], [0.3, 0.8, -0.2], [0.0, -0.2, 0.6]])
    wishart = Wishart(torch.tensor(8.0), scale)

    def log_density(tril):
        diagonal = tril.diagonal(dim1=-2, dim2=-1).log()
        return wishart.log_prob(tril @ tril.mT) + n * math.log(2.0) + (diagonal * torch.arange(n, 0, -1)).sum(-1)

    support = Support({"p": f"covariance_cholesky[{n}]"})
    mode = support.unconstrain({"p": torch.linalg.cholesky(8 * scale)})
    z = mode + 0.7 * torch.randn(200_000, support.dim)
    theta, volume = support.constrain(z)
    weight = (log_density(theta["p"]) + volume - Normal(mode, 0.7).log_prob(z).sum(-1)).exp()
    assert_mean(weight, 1.0, 0.05)
    assert_mean(weight[:, None, None] * (theta["p"] @ theta["p"].mT), 8 * scale, 0.3)


def test_coordinates_have_names():
    constraints = {"mu": "real", "eta": "real[2]", "shares": "simplex[3]", "cuts": "ordered[2]"}
    support = Support(
        {**constraints, "c": "correlation_cholesky[3]", "s": "covariance_cholesky[2]", "a": "interval(0, 2)[1]"}
    )
    assert support.dim == 14
    first = ["mu", "eta[0]", "eta[1]", "shares[0]", "shares[1]", "cuts[0]", "cuts[1]"]
    assert support.coordinates == [*first, "c[1,0]", "c[2,0]", "c[2,1]", "s[0,0]", "s[1,0]", "s[1,1]", "a[0]"]
    theta, _ = support.constrain(torch.zeros(14).index_fill(0, torch.tensor(8), 1.0))
    assert theta["c"].nonzero().tolist() == [[0, 0], [1, 1], [2, 0], [2, 2]]


@pytest.mark.parametrize(
    ("constraints", "message"),
    [
        ({}, "support: there is no parameter"),
        ({"tau": "positve"}, "support.tau: 'positve' is none of real, positive"),
        ({"tau": "real[2"}, "support.tau: 'real\\[2'"),
        ({"tau": "real[0]"}, "support.tau: 'real\\[0\\]'; .* an n of at least 1"),
        ({"tau": "simplex"}, "support.tau: 'simplex'; .* an n of at least 2"),
        ({"tau": "ordered[1]"}, "support.tau: 'ordered\\[1\\]'; .* an n of at least 2"),
        ({"mu": "real", "tau": ""}, "support.tau: ''"),
        ({"tau": "intervall(0, 1)"}, "support.tau: 'intervall\\(0, 1\\)' is none of .* interval\\(low, high\\)"),
        ({"tau": "interval(0, 1"}, "support.tau: 'interval\\(0, 1' is none of .* in YAML's {} it needs quotes"),
        ({"tau": "interval"}, "support.tau: 'interval'; has 0 bounds, and needs 2"),
        ({"tau": "interval(1)"}, "support.tau: .* has 1 bounds, and needs 2"),
        ({"tau": "real(1)"}, "support.tau: .* has 1 bounds, and needs 0"),
        ({"tau": "above()"}, "support.tau: 'above\\(\\)'; '' is no number"),
        ({"tau": "interval(0, b)"}, "support.tau: 'interval\\(0, b\\)'; 'b' is no number"),
        ({"tau": "interval(3, -1)"}, "support.tau: .*; 3 is not below -1"),
        ({"tau": "interval(1, 1)[2]"}, "support.tau: .*; 1 is not below 1"),
        ({"tau": "interval(0, inf)"}, "support.tau: .*; a bound must be finite; .* above\\(low\\)"),
        ({"tau": "above(nan)"}, "support.tau: .*; a bound must be finite"),
        ({"tau": "positive_ordered"}, "support.tau: 'positive_ordered'; .* an n of at least 2"),
        ({"tau": "correlation_cholesky"}, "support.tau: 'correlation_cholesky'; .* an n of at least 2"),
        ({"tau": "covariance_cholesky[1]"}, "support.tau: .*; covariance_cholesky\\[n\\] needs an n of at least 2"),
    ],
)
def test_constraints_that_do_not_exist_are_named(constraints, message):
    with pytest.raises(ConfigurationError, match=message):
        Support(constraints)


def test_points_and_parameters_that_do_not_fit_are_named():
    support = Support({"mu": "real", "tau": "positive"})
    with pytest.raises(ConfigurationError, match="a point has 3 numbers; 2 were expected"):
        support.constrain(torch.zeros(3))
    with pytest.raises(ConfigurationError, match="tau is not among mu"):
        support.unconstrain({"mu": torch.zeros(4)})
