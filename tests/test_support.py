"""Bijections from vectors of real numbers to named parameters, and their Jacobians."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Beta, Dirichlet, LogNormal, Normal

from lightning_avb.errors import ConfigurationError
from lightning_avb.evaluation import Quadrature
from lightning_avb.support import Support

pytestmark = pytest.mark.usefixtures("float64")

KINDS = ["real", "positive", "unit_interval", "real[3]", "positive[2]", "unit_interval[2]", "simplex[4]", "ordered[3]"]
EVERY = Support({f"p{i}": kind for i, kind in enumerate(KINDS)})


def free(theta):
    """The numbers that theta is free in: of shares that sum to one, all but the last."""
    return torch.cat([part.reshape(-1)[:-1] if name == "p6" else part.reshape(-1) for name, part in theta.items()])


def test_points_and_parameters_belong_to_each_other():
    z = torch.randn(5, 4, EVERY.dim)
    theta, volume = EVERY.constrain(z)
    assert volume.shape == (5, 4)
    shapes = [(), (), (), (3,), (2,), (2,), (4,), (3,)]
    assert [tuple(value.shape[2:]) for value in theta.values()] == shapes
    torch.testing.assert_close(EVERY.unconstrain(theta), z)
    # the order in which a user names them is of no matter
    torch.testing.assert_close(EVERY.unconstrain(dict(reversed(theta.items()))), z)


def test_parameters_are_where_they_should_be():
    theta, _ = EVERY.constrain(3 * torch.randn(500, EVERY.dim))
    assert (theta["p1"] > 0).all() and (theta["p4"] > 0).all()
    assert all(((theta[name] > 0) & (theta[name] < 1)).all() for name in ("p2", "p5", "p6"))
    torch.testing.assert_close(theta["p6"].sum(-1), torch.ones(500))
    assert (theta["p7"].diff(dim=-1) > 0).all()
    assert theta["p0"].min() < -3 and theta["p7"].min() < -3 and theta["p1"].max() > 20


@pytest.mark.parametrize("kind", KINDS)
def test_volume_is_the_determinant_of_autograds_jacobian(kind):
    name = "p6" if "simplex" in kind else "p"
    support = Support({name: kind})
    z = torch.randn(support.dim)
    jacobian = torch.autograd.functional.jacobian(lambda z: free(support.constrain(z)[0]), z)
    torch.testing.assert_close(support.constrain(z)[1], jacobian.det().abs().log())


def test_volume_of_a_product():
    z = torch.randn(EVERY.dim)
    jacobian = torch.autograd.functional.jacobian(lambda z: free(EVERY.constrain(z)[0]), z)
    torch.testing.assert_close(EVERY.constrain(z)[1], jacobian.det().abs().log())


@pytest.mark.parametrize(
    ("kind", "log_density"),
    [
        ("real", Normal(0.5, 0.8).log_prob),
        ("positive", LogNormal(0.3, 0.5).log_prob),
        ("unit_interval", Beta(2.0, 3.0).log_prob),
        ("simplex[3]", Dirichlet(torch.tensor([2.0, 3.0, 1.5])).log_prob),
        ("ordered[2]", lambda theta: Normal(0.0, 1.0).log_prob(theta).sum(-1) + torch.tensor(2.0).log()),
    ],
)
def test_densities_integrate_to_one_in_z(kind, log_density):
    support = Support({"p": kind})
    points, log_weight = Quadrature.grid(support.dim, 12.0, 600)
    theta, volume = support.constrain(points)
    # at the far ends theta rounds to the edge of its support, where the density is none
    density = (log_density(theta["p"]) + volume + log_weight).exp()
    assert abs(density.nan_to_num().sum() - 1) < 1e-3


def test_coordinates_have_names():
    support = Support({"mu": "real", "eta": "real[2]", "shares": "simplex[3]", "cuts": "ordered[2]"})
    assert support.dim == 7
    assert support.coordinates == ["mu", "eta[0]", "eta[1]", "shares[0]", "shares[1]", "cuts[0]", "cuts[1]"]


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        ({}, "names no parameter"),
        ({"tau": "positve"}, "support.tau: 'positve' is none of real, positive"),
        ({"tau": "real[2"}, "support.tau: 'real\\[2'"),
        ({"tau": "real[0]"}, "support.tau: 'real\\[0\\]'; .* an n from 1"),
        ({"tau": "simplex"}, "support.tau: 'simplex'; .* an n from 2"),
        ({"tau": "ordered[1]"}, "support.tau: 'ordered\\[1\\]'; .* an n from 2"),
        ({"mu": "real", "tau": ""}, "support.tau: ''"),
    ],
)
def test_kinds_that_do_not_exist_are_named(kinds, message):
    with pytest.raises(ConfigurationError, match=message):
        Support(kinds)


def test_points_and_parameters_that_do_not_fit_are_named():
    support = Support({"mu": "real", "tau": "positive"})
    with pytest.raises(ConfigurationError, match="takes 2 numbers, and a point has 3"):
        support.constrain(torch.zeros(3))
    with pytest.raises(ConfigurationError, match="tau is not among mu"):
        support.unconstrain({"mu": torch.zeros(4)})
