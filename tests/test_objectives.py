"""The objectives where their values and minima are known, and one critic pass against two."""

from __future__ import annotations

import math

import pytest
import torch
from monte_carlo import assert_mean, standard_error
from torch.func import functional_call
from torch.nn.functional import softplus

from lightning_avb import InnerProductCritic, ResidualCritic
from lightning_avb.distributions import DiagonalNormal
from lightning_avb.objectives import density_ratio_loss, log_mean_exp
from lightning_avb.precision import full_precision_in_half
from lightning_avb.shared_pass import SharedPass


@pytest.mark.usefixtures("float64")
def test_density_ratio_loss_is_smallest_at_the_log_ratio():
    """q and r on five points, in eighths, so that the mean over rows is the expectation."""
    q, r = torch.tensor([1, 2, 3, 1, 1]), torch.tensor([4, 1, 1, 1, 1])
    on_q, on_r = torch.arange(5).repeat_interleave(q), torch.arange(5).repeat_interleave(r)

    def loss(t):
        return density_ratio_loss(t[on_q], t[on_r]).mean()

    truth = (q / r).log()
    torch.testing.assert_close(torch.func.grad(loss)(truth), torch.zeros(5), rtol=0, atol=1e-15)
    assert torch.linalg.eigvalsh(torch.func.hessian(loss)(truth)).min() > 0.01
    a, b = q / 8, r / 8
    jensen_shannon = 0.5 * (a * (2 * a / (a + b)).log() + b * (2 * b / (a + b)).log()).sum()
    torch.testing.assert_close(loss(truth), 2 * math.log(2) - 2 * jensen_shannon)


def test_density_ratio_loss_of_a_sure_critic():
    loss = density_ratio_loss(torch.tensor([1000.0, -1000.0]), torch.tensor([-1000.0, 1000.0]))
    assert loss.tolist() == [0.0, 2000.0]


@pytest.mark.usefixtures("float64")
def test_importance_weighted_bound():
    """z ~ N(0, 1), x|z ~ N(z, 1/4), seen at x = 1, where log p(x) is known; q is the prior."""
    repeats, x = 20000, torch.tensor([1.0])
    truth = DiagonalNormal(torch.zeros(1), torch.full((1,), 1.25**0.5)).log_prob(x)
    q = DiagonalNormal(torch.zeros(repeats, 1), torch.ones(repeats, 1))
    bounds = []
    for samples in (1, 4, 16, 256):
        z, log_q = q.rsample_and_log_prob((samples,))
        log_joint = DiagonalNormal(z, torch.full_like(z, 0.5)).log_prob(x) + q.log_prob(z)
        bounds.append(log_mean_exp(log_joint - log_q))
        assert bounds[-1].shape == (repeats,)
    # one draw: the ELBO of q = p(z), which is E log p(x|z)
    assert_mean(bounds[0], -0.5 * math.log(2 * math.pi / 4) - 0.5 * 4 * 2, resolution=0.3)
    means, errors = torch.stack([b.mean() for b in bounds]), torch.stack([standard_error(b) for b in bounds])
    assert (means[1:] - means[:-1] > 5 * errors[:-1]).all(), "the bound does not rise"
    assert means[-1] < truth and truth - means[-1] < 0.01
    # unbiased before the logarithm, whatever the number of draws
    assert_mean(bounds[1].exp(), truth.exp(), resolution=0.01)


@pytest.mark.usefixtures("float64")
def test_log_mean_exp_is_what_it_says_and_does_not_overflow():
    log_weights = torch.randn(7, 3)
    torch.testing.assert_close(log_mean_exp(log_weights), log_weights.exp().mean(0).log())
    torch.testing.assert_close(log_mean_exp(log_weights - 1e4), log_mean_exp(log_weights) - 1e4)
    torch.testing.assert_close(log_mean_exp(log_weights[:1]), log_weights[0])


@pytest.mark.usefixtures("float64")
def test_importance_weights_of_the_posterior_are_all_alike():
    log_q = torch.randn(7, 3)
    log_marginal = torch.randn(3)
    torch.testing.assert_close(log_mean_exp(log_q + log_marginal - log_q), log_marginal)


# One pass through the critic that serves two players, against two passes.

SAMPLES, ROWS, LATENT = 4, 6, 3
LOSSES = {
    "AVB": (lambda t: t.mean(), lambda t: softplus(-t).mean()),
    "random weights": (
        lambda t: (t * torch.linspace(-2, 3, t.numel()).view_as(t)).sum(),
        lambda t: (t * torch.linspace(5, -4, t.numel()).view_as(t)).sum(),
    ),
    "curved": (lambda t: t.tanh().square().sum(), lambda t: (t.sin() + 0.1 * t.square()).sum()),
    "no loss for the critic": (lambda t: t.mean(), lambda t: 0 * t.sum()),
    "no loss for some pairs": (lambda t: t.mean(), lambda t: softplus(-t[:2]).mean()),
    "no loss for the model": (lambda t: 0 * t.sum(), lambda t: softplus(-t).mean()),
}


def one_pass(critic, x, z, context, model_loss, critic_loss):
    z = z.clone().requires_grad_()
    shared = SharedPass()
    for_model, for_critic = shared.critic_output(critic(x, shared.critic_input(z), context))
    total = model_loss(for_model) + critic_loss(for_critic)
    return (for_model, for_critic), torch.autograd.grad(total, [z, *critic.parameters()])


def two_passes(critic, x, z, context, model_loss, critic_loss):
    z = z.clone().requires_grad_()
    constant = {name: parameter.detach() for name, parameter in critic.named_parameters()}
    for_model = functional_call(critic, constant, (x, z, context))
    for_critic = critic(x, z.detach(), context)
    of_z = torch.autograd.grad(model_loss(for_model), z)
    return (for_model, for_critic), of_z + torch.autograd.grad(critic_loss(for_critic), list(critic.parameters()))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("losses", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("make", [ResidualCritic, InnerProductCritic])
def test_one_pass_is_two(make, losses):
    arguments = make((2,), LATENT, 2), torch.randn(ROWS, 2), torch.randn(SAMPLES, ROWS, LATENT), torch.randn(ROWS, 2)
    values, gradients = one_pass(*arguments, *losses)
    expected_values, expected = two_passes(*arguments, *losses)
    for value, other in zip(values, expected_values, strict=True):
        assert torch.equal(value, other)
    for gradient, other in zip(gradients, expected, strict=True):
        scale = other.abs().max().item()
        torch.testing.assert_close(gradient, other, rtol=1e-10, atol=1e-10 * scale if scale else 1e-18)


class Shifted(torch.nn.Module):
    """A critic that is surer than it was trained to be: T + x."""

    def __init__(self, critic):
        super().__init__()
        self.critic = critic

    def forward(self, x, z, context=None):
        return self.critic(x, z) + x.squeeze(-1)


@pytest.mark.parametrize("levels", [(60.0,), (-60.0,), (60.0, -60.0), (200.0, 0.0)], ids=str)
@pytest.mark.parametrize("make", [ResidualCritic, InnerProductCritic])
def test_a_sure_critic_in_single_precision(make, levels):
    """-log sigmoid(60) has a derivative of 1e-26, that of 200 is zero: the model's gradient survives the division.

    The floor under that derivative, 1e-20 of the model's, may show in the critic's gradient.
    """
    x = torch.tensor(levels).repeat(256 // len(levels)).unsqueeze(-1)
    arguments = Shifted(make((1,), LATENT)), x, torch.randn(SAMPLES, 256, LATENT), None, *LOSSES["AVB"]
    _, (of_z, *of_critic) = one_pass(*arguments)
    _, (expected_of_z, *expected) = two_passes(*arguments)
    torch.testing.assert_close(of_z, expected_of_z, rtol=1e-4, atol=1e-5 * expected_of_z.abs().max().item())
    for gradient, other in zip(of_critic, expected, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-5 * other.abs().max().item() + 1e-18)


@pytest.mark.usefixtures("float64")
def test_both_players_gradients_do_not_depend_on_who_else_is_differentiated():
    """The engine may ask for the gradient of one player alone, of the sum of both losses."""
    critic, x, z = ResidualCritic((2,), LATENT), torch.randn(ROWS, 2), torch.randn(SAMPLES, ROWS, LATENT)
    _, (expected_z, *expected) = two_passes(critic, x, z, None, *LOSSES["AVB"])
    for wanted in ("z", "critic"):
        shift = torch.zeros_like(z, requires_grad=True)
        shared = SharedPass()
        for_model, for_critic = shared.critic_output(critic(x, shared.critic_input(z + shift)))
        total = for_model.mean() + softplus(-for_critic).mean()
        inputs = [shift] if wanted == "z" else list(critic.parameters())
        for gradient, other in zip(
            torch.autograd.grad(total, inputs), [expected_z] if wanted == "z" else expected, strict=True
        ):
            torch.testing.assert_close(gradient, other, rtol=1e-10, atol=1e-14)


def test_without_gradients_nothing_is_added():
    shared, z, t = SharedPass(), torch.randn(2, 3, 1, requires_grad=True), torch.randn(2, 3, requires_grad=True)
    with torch.no_grad():
        assert shared.critic_input(z) is z and shared.critic_output(t) == (t, t)


@pytest.mark.parametrize(
    ("around", "inside"), [(torch.float16, torch.float32), (torch.bfloat16, torch.bfloat16), (None, torch.float32)]
)
def test_no_autocast_to_float16(around, inside):
    layer, x = torch.nn.Linear(2, 2), torch.randn(3, 2)
    with torch.autocast("cpu", around, enabled=around is not None), full_precision_in_half("cpu"):
        assert layer(x).dtype == inside
