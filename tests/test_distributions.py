"""Densities against torch's own; black-box draws and moments."""

from __future__ import annotations

import pytest
import torch
from monte_carlo import assert_mean
from torch.distributions import Independent, Normal, kl_divergence

from lightning_avb import noise
from lightning_avb.distributions import Bernoulli, DiagonalNormal, Implicit

pytestmark = pytest.mark.usefixtures("float64")


def pair(*shape):
    """The same distribution, ours and torch's."""
    loc, scale = torch.randn(shape), torch.rand(shape) + 0.2
    return DiagonalNormal(loc, scale), Independent(Normal(loc, scale), 1)


@pytest.mark.parametrize("shape", [(3,), (4, 3)])
def test_density_and_entropy(shape):
    ours, theirs = pair(*shape)
    z = torch.randn(6, 4, 3)
    assert (ours.batch_shape, ours.event_shape) == (theirs.batch_shape, theirs.event_shape)
    assert ours.log_prob(z).shape == (6, 4)
    torch.testing.assert_close(ours.log_prob(z), theirs.log_prob(z))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    torch.testing.assert_close(ours.mean, theirs.mean)
    torch.testing.assert_close(ours.stddev, theirs.stddev)
    torch.testing.assert_close(ours.variance, theirs.variance)


@pytest.mark.parametrize("prior_shape", [(3,), (4, 3)])
def test_kl(prior_shape):
    (q, torch_q), (p, torch_p) = pair(4, 3), pair(*prior_shape)
    torch.testing.assert_close(kl_divergence(q, p), kl_divergence(torch_q, torch_p))
    torch.testing.assert_close(kl_divergence(q, q), torch.zeros(4))


def test_density_integrates_to_one():
    q, _ = pair(4, 2)
    line = (torch.arange(400) + 0.5) / 20 - 10
    grid = torch.cartesian_prod(line, line).unsqueeze(1)
    torch.testing.assert_close(q.log_prob(grid).exp().sum(0) / 400, torch.ones(4))


def test_draws_come_with_their_density():
    q, _ = pair(4, 3)
    z, log_q = q.rsample_and_log_prob((5,))
    assert z.shape == (5, 4, 3)
    torch.testing.assert_close(log_q, q.log_prob(z))


def test_both_ways_to_draw_use_the_same_noise():
    q, _ = pair(4, 3)
    with noise.use(noise.OfRows(index=torch.arange(4))):
        z = q.rsample((5,))
    with noise.use(noise.OfRows(index=torch.arange(4))):
        assert torch.equal(z, q.rsample_and_log_prob((5,))[0])
    with noise.use(noise.OfRows(index=torch.arange(4))):
        eps = noise.normal((5, 4, 3), z)
    torch.testing.assert_close(z, q.loc + q.scale * eps)


def test_moments_of_the_draws():
    q, _ = pair(4, 3)
    standardised = (q.rsample((20000,)) - q.mean) / q.stddev
    assert_mean(standardised, 0.0, resolution=0.05)
    assert_mean(standardised.square(), 1.0, resolution=0.1)


def test_expanded_is_the_same_for_every_row():
    p, _ = pair(3)
    rows = p.expand(torch.Size([4]))
    z = rows.rsample((5,))
    assert z.shape == (5, 4, 3) and len(z.unique()) == 60
    torch.testing.assert_close(rows.log_prob(z), p.log_prob(z))


def test_draws_of_a_prior_carry_no_gradient_and_reparametrised_ones_do():
    loc = torch.zeros(4, 3, requires_grad=True)
    q = DiagonalNormal(loc, torch.ones(4, 3))
    assert not q.sample((2,)).requires_grad
    (gradient,) = torch.autograd.grad(q.rsample((2,)).sum(), loc)
    assert torch.equal(gradient, torch.full((4, 3), 2.0))


def implicit(scale, closed=None):
    def push(samples):
        return 1 + scale * noise.normal((samples, 4, 3), scale).exp()

    return Implicit(push, torch.Size([4]), torch.Size([3]), closed)


@pytest.mark.parametrize("sample_shape", [(), (5,), (2, 5)])
def test_implicit_shapes(sample_shape):
    assert implicit(torch.ones(3)).rsample(sample_shape).shape == (*sample_shape, 4, 3)


def test_implicit_moments_are_those_of_its_draws():
    """exp of a normal variable has mean e^(1/2) and variance e^2 - e."""
    estimates = [torch.stack(implicit(torch.tensor([1.0, 2.0, 3.0])).moments(200)) for _ in range(200)]
    mean, deviation = torch.stack(estimates).unbind(1)
    scale = torch.tensor([1.0, 2.0, 3.0])
    assert_mean(mean, 1 + scale * torch.e**0.5, resolution=0.25)
    assert_mean(deviation.square(), scale.square() * (torch.e**2 - torch.e), resolution=0.25 * 42)


def test_every_call_of_moments_draws_anew():
    q = implicit(torch.ones(3))
    (first, first_deviation), (second, second_deviation) = q.moments(16), q.moments(16)
    assert (first != second).all() and (first_deviation != second_deviation).all()


def test_closed_moments_are_used():
    closed = torch.full((4, 3), 7.0), torch.full((4, 3), 8.0)
    mean, deviation = implicit(torch.ones(3), lambda: closed).moments(16)
    assert torch.equal(mean, closed[0]) and torch.equal(deviation, closed[1])


def test_moments_are_constants():
    scale = torch.ones(4, 3, requires_grad=True)
    assert implicit(scale).rsample((2,)).requires_grad
    computed = implicit(scale, lambda: (2 * scale, scale.exp()))
    given = implicit(scale, lambda: (scale, scale))
    for q in (implicit(scale), computed, given):
        assert not any(moment.requires_grad for moment in q.moments(16))


def test_bernoulli_is_torchs():
    logits = torch.cat([torch.tensor([0.0, 800.0, -800.0]), 5 * torch.randn(7)]).requires_grad_()
    x = torch.randint(2, (6, 10)).double().requires_grad_()
    theirs = torch.distributions.Bernoulli(logits=logits, validate_args=False)
    torch.testing.assert_close(Bernoulli(logits).log_prob(x), theirs.log_prob(x))
    weights = torch.randn(6, 10)
    ours = torch.autograd.grad((Bernoulli(logits).log_prob(x) * weights).sum(), [logits, x])
    theirs_by_logits = (weights * (x - logits.sigmoid())).sum(0)
    torch.testing.assert_close(ours, (theirs_by_logits, weights * logits))
    assert Bernoulli(logits).expand((6, 10)).sample().shape == (6, 10)


def test_bernoulli_in_single_precision_loses_nothing():
    logits = 10 * torch.randn(100, 784)
    x = torch.randint(2, (100, 784)).double()
    exact = torch.distributions.Bernoulli(logits=logits).log_prob(x).sum(-1)
    ours = Bernoulli(logits.float()).log_prob(x.float()).double().sum(-1)
    theirs = torch.distributions.Bernoulli(logits=logits.float()).log_prob(x.float()).double().sum(-1)
    assert (ours - exact).abs().max() < 2 * (theirs - exact).abs().max()


def test_bernoulli_has_second_derivatives():
    logits, x = torch.randn(4, requires_grad=True), torch.ones(4)
    assert torch.autograd.gradgradcheck(lambda logits: Bernoulli(logits).log_prob(x), logits)
