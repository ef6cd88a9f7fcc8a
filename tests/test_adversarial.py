"""The pairs of losses and the penalties of adversarial games."""

from functools import partial
from typing import get_args

import pytest
import torch
from torch import nn

from lightning_avb import MLP, noise
from lightning_avb.adversarial import AdversarialForm, AdversarialObjective
from lightning_avb.errors import ConfigurationError
from lightning_avb.objectives import squared_slope

FORMS = get_args(AdversarialForm)

# q and p are the densities of generated and of real rows at one point.
OPTIMUM = {
    "non_saturating": lambda q, p: (q / p).log(),
    "minimax": lambda q, p: (q / p).log(),
    "kl": lambda q, p: (q / p).log(),
    "least_squares": lambda q, p: (q - p) / (q + p),
    "hinge": lambda q, p: (q - p).sign(),
}
LOWEST = {
    # Of the discriminator's loss, in the divergences of the papers, point by point.
    "non_saturating": lambda q, p: -q * (q / (q + p)).log() - p * (p / (q + p)).log(),
    "minimax": lambda q, p: -q * (q / (q + p)).log() - p * (p / (q + p)).log(),
    "kl": lambda q, p: -q * (q / (q + p)).log() - p * (p / (q + p)).log(),
    "least_squares": lambda q, p: 2 * q * p / (q + p),
    "hinge": lambda q, p: 2 * torch.minimum(q, p),
}


def objective(form, gradient_penalty=0.1, **options):
    return AdversarialObjective(form, gradient_penalty, **options)


@pytest.mark.parametrize("form", OPTIMUM)
def test_the_discriminators_loss_is_lowest_at_its_optimum(form):
    """No T on a fine grid is better, and the value is the one that the papers derive."""
    q, p = torch.tensor([[0.7, 0.2, 1.5], [0.3, 0.9, 0.1]], dtype=torch.float64)
    grid = torch.linspace(-6, 6, 1201, dtype=torch.float64).unsqueeze(-1)

    def loss(t):
        # -T as T of real rows would be another game: `discriminator_loss` is a sum over the two kinds.
        on_generated, on_real = (
            objective(form).discriminator_loss(t, t * 0),
            objective(form).discriminator_loss(t * 0, t),
        )
        at_zero = objective(form).discriminator_loss(t * 0, t * 0)
        return q * (on_generated - at_zero / 2) + p * (on_real - at_zero / 2)

    best = loss(OPTIMUM[form](q, p))
    torch.testing.assert_close(best, LOWEST[form](q, p))
    assert (loss(grid) >= best - 1e-12).all()


def test_the_wasserstein_critic_estimates_a_difference_of_means():
    on_generated, on_real = torch.randn(2, 50)
    loss = objective("wasserstein").discriminator_loss(on_generated, on_real)
    torch.testing.assert_close(loss.mean(), on_real.mean() - on_generated.mean())


@pytest.mark.parametrize("form", FORMS)
def test_a_generator_wants_a_low_t(form):
    """Everywhere for most forms; with least squares down to the value of real rows, which is -1."""
    t = torch.linspace(-0.99 if form == "least_squares" else -5.0, 5.0, 101, requires_grad=True)
    (slope,) = torch.autograd.grad(objective(form).generator_loss(t).sum(), t)
    assert (slope > 0).all()


def test_values_of_the_generators_losses():
    t = torch.tensor([-1.0, 0.0, 2.0])
    values = {form: objective(form).generator_loss(t) for form in FORMS}
    torch.testing.assert_close(values["non_saturating"], -(-t).sigmoid().log())
    torch.testing.assert_close(values["minimax"], t.sigmoid().log())
    torch.testing.assert_close(values["least_squares"], torch.tensor([0.0, 0.5, 4.5]))
    for form in ("kl", "hinge", "wasserstein"):
        torch.testing.assert_close(values[form], t)


@pytest.mark.parametrize("form", FORMS)
def test_both_sides_of_a_pair_are_treated_alike(form):
    """The one whose rows stand in the place of real ones has the other's loss, with the sign of T turned."""
    discriminator, rows, others = MLP((3,), ()), torch.randn(5, 3), torch.randn(5, 3)
    one = objective(form)(discriminator, [rows], [others])
    turned = nn.Sequential(discriminator)
    turned.forward = lambda x, context: -discriminator(x, context)
    other = objective(form)(turned, [others], [rows])
    torch.testing.assert_close(one.generator_on_real, other.generator)
    torch.testing.assert_close(objective(form, 0.0 if form != "wasserstein" else 0.1).discriminator_loss(rows, others),
                               objective(form).discriminator_loss(-others, -rows))  # fmt: skip


# Penalties.


class Quadratic(nn.Module):
    """T = a |x|^2 / 2, with slope a x."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.7))

    def forward(self, x, context=None):
        return 0.5 * self.a * x.square().sum(-1)


def test_the_squared_slope_by_hand():
    x, z = torch.randn(2, 4, 3), torch.randn(2, 4, 5)
    found = squared_slope(lambda x, z, context: x.square().sum(-1) + 3 * z.sum(-1), [x, z])
    torch.testing.assert_close(found, 4 * x.square().sum(-1) + 9 * 5)


@pytest.mark.parametrize(("penalise", "at"), [("real", 1), ("generated", 0)])
def test_r1_is_taken_at_rows_of_the_data(penalise, at):
    rows, discriminator = torch.randn(2, 6, 3), Quadratic()
    with_penalty, without = (
        objective("kl", gamma)(discriminator, [rows[0]], [rows[1]], penalise=penalise).discriminator
        for gamma in (0.4, 0.0)
    )
    torch.testing.assert_close(with_penalty - without, 0.2 * (0.7 * rows[at]).square().sum(-1))


def test_the_one_centred_penalty_is_taken_between_the_rows():
    rows, discriminator, share = torch.randn(2, 6, 3), Quadratic(), torch.rand(6, 1)
    draws = torch.special.ndtri(share).view(1, 6, 1)
    with noise.use(lambda shape, like: draws):
        found = objective("wasserstein", 10.0, penalty="one_centred")(discriminator, [rows[0]], [rows[1]])
    slope = (0.7 * (rows[0] + share * (rows[1] - rows[0]))).norm(dim=-1)
    plain = discriminator(rows[1]) - discriminator(rows[0])
    torch.testing.assert_close(found.discriminator, plain + 10 * (slope - 1).square())
    assert slope.min() < 1 < slope.max()


def test_a_penalty_is_no_part_of_a_figure():
    rows = torch.randn(2, 6, 3)
    with torch.no_grad():
        found = objective("kl", 5.0)(Quadratic(), [rows[0]], [rows[1]]).discriminator
    torch.testing.assert_close(found, objective("kl", 0.0).discriminator_loss(*Quadratic()(rows)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "logistic"}, r"^loss: 'logistic' is none of 'non_saturating', 'minimax', 'kl', 'least_squares'"),
        ({"form": "hinge", "penalty": "r2"}, "^penalty: 'r2' is none of 'zero_centred', 'one_centred'"),
        ({"form": "hinge", "gradient_penalty": -1.0}, "^gradient_penalty: -1"),
        ({"form": "wasserstein"}, "^gradient_penalty: 0, and loss: 'wasserstein' needs one"),
    ],
)
def test_objectives_that_are_none(options, message):
    with pytest.raises(ConfigurationError, match=message):
        AdversarialObjective(**options)


def test_a_discriminator_gives_one_number_per_row():
    with pytest.raises(ConfigurationError, match=r"^discriminator: gives an output of shape \(2,\) per row"):
        objective("kl")(partial(MLP, (3,), (2,))(), [torch.randn(5, 3)], [torch.randn(5, 3)])
