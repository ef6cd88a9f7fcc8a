"""A Pyro model as the target of a posterior."""

from __future__ import annotations

import pytest
import torch

from lightning_avb.errors import ConfigurationError
from lightning_avb.targets import EightSchools, PyroModel

pyro = pytest.importorskip("pyro")
dist = pytest.importorskip("pyro.distributions")

Y = torch.tensor([2.8, 0.8, -0.3, 0.7, -0.1, 0.1, 1.8, 1.2])
SIGMA = torch.tensor([0.8, 0.5, 0.8, 0.6, 0.5, 0.6, 0.5, 0.4])


def schools():
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    tau = pyro.sample("tau", dist.Normal(0.0, 1.0))
    eta = pyro.sample("eta", dist.Normal(torch.zeros(8), 1.0).to_event(1))
    with pyro.plate("schools", 8):
        pyro.sample("y", dist.Normal(mu + tau * eta, SIGMA), obs=Y)


def many_supports():
    pyro.sample("scale", dist.HalfCauchy(2.0))
    pyro.sample("rate", dist.Gamma(2.0, 1.0))
    pyro.sample("share", dist.Beta(2.0, 3.0))
    pyro.sample("shares", dist.Dirichlet(torch.tensor([1.0, 2.0, 3.0])))


def more_supports():
    pyro.sample("above", dist.Pareto(2.0, 3.0))
    pyro.sample("between", dist.Uniform(-1.0, 3.0).expand([2]).to_event(1))
    pyro.sample("correlation", dist.LKJCholesky(3, 2.0))


def discrete():
    pyro.sample("kind", dist.Bernoulli(0.5))


def test_a_pyro_model_has_the_density_of_ours():
    target, ours = PyroModel(f"{__name__}.schools"), EightSchools()
    assert target.constraints == {"mu": "real", "tau": "real", "eta": "real[8]"}
    z = torch.randn(5, 3, 10, requires_grad=True)
    torch.testing.assert_close(target.log_prob(z), ours.log_prob(z), rtol=1e-4, atol=1e-4)
    (slope,) = torch.autograd.grad(target.log_prob(z).sum(), z)
    (expected,) = torch.autograd.grad(ours.log_prob(z).sum(), z)
    torch.testing.assert_close(slope, expected, rtol=1e-4, atol=1e-4)
    assert set(target.by_name(z)) == {"mu", "tau", "eta"}


def test_supports_come_from_the_sites():
    target = PyroModel(f"{__name__}.many_supports")
    constraints = {"scale": "positive", "rate": "positive", "share": "unit_interval", "shares": "simplex[3]"}
    assert target.constraints == constraints
    z = torch.randn(4, 5)
    theta, volume = target.support.constrain(z)
    expected = (
        dist.HalfCauchy(2.0).log_prob(theta["scale"])
        + dist.Gamma(2.0, 1.0).log_prob(theta["rate"])
        + dist.Beta(2.0, 3.0).log_prob(theta["share"])
        + dist.Dirichlet(torch.tensor([1.0, 2.0, 3.0])).log_prob(theta["shares"])
    )
    torch.testing.assert_close(target.log_prob(z), expected + volume)


def test_matrices_and_bounds_come_from_the_sites():
    target = PyroModel(f"{__name__}.more_supports")
    constraints = {"above": "above(2.0)", "between": "interval(-1.0, 3.0)[2]", "correlation": "correlation_cholesky[3]"}
    assert target.constraints == constraints
    z = torch.randn(4, 6)
    theta, volume = target.support.constrain(z)
    expected = dist.Pareto(2.0, 3.0).log_prob(theta["above"]) - 2 * torch.tensor(4.0).log()
    expected = expected + dist.LKJCholesky(3, 2.0).log_prob(theta["correlation"])
    torch.testing.assert_close(target.log_prob(z), expected + volume)
    correlation_first = dict(reversed(theta.items()))
    torch.testing.assert_close(target.log_density(**correlation_first), expected)


def tall():
    pyro.sample("matrix", dist.Normal(torch.zeros(2, 3), 1.0).to_event(2))


def parametrised():
    pyro.sample("mu", dist.Normal(pyro.param("centre", torch.zeros(())), 1.0))


def twice():
    pyro.sample("mu", dist.Normal(0.0, 1.0))
    pyro.sample("mu", dist.Normal(0.0, 1.0))


def between_tensors():
    pyro.sample("share", dist.Uniform(torch.zeros(()), torch.ones(())))


def test_bounds_may_be_tensors():
    assert PyroModel(f"{__name__}.between_tensors").constraints == {"share": "unit_interval"}


def test_sites_that_cannot_be_learned_are_named():
    with pytest.raises(ConfigurationError, match=r"^model: 'centre' is a pyro\.param"):
        PyroModel(f"{__name__}.parametrised")
    with pytest.raises(ConfigurationError, match=r"^model: .*\.twice fails when it is run: .*mu"):
        PyroModel(f"{__name__}.twice")
    with pytest.raises(ConfigurationError, match=r"^model: site 'kind' has the support"):
        PyroModel(f"{__name__}.discrete")
    with pytest.raises(ConfigurationError, match=r"^model: site 'matrix' has the support .* and shape \(2, 3\)"):
        PyroModel(f"{__name__}.tall")
    with pytest.raises(ConfigurationError, match="there is no"):
        PyroModel("no.such")
