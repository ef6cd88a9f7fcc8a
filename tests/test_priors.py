"""One contract for all priors: densities that integrate to one, draws from them, parameters that learn."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from monte_carlo import assert_mean
from worlds import bounded_moments, perturbed

from lightning_avb import FlowPrior, MixturePrior, StandardNormal, noise
from lightning_avb.distributions import DiagonalNormal
from lightning_avb.errors import ConfigurationError
from lightning_avb.evaluation import Quadrature

pytestmark = pytest.mark.usefixtures("float64")

PRIORS = {
    "standard": StandardNormal,
    "mixture": partial(MixturePrior, components=3),
    "one normal": partial(MixturePrior, components=1),
    "splines": partial(FlowPrior, transforms=2, flow_hidden=(8,), bins=4),
    "affine": partial(FlowPrior, kind="affine", flow_hidden=(8,)),
}


@pytest.mark.parametrize("part", PRIORS.values(), ids=PRIORS)
@pytest.mark.parametrize("latent_dim", [1, 2])
class TestPriors:
    def test_shapes(self, part, latent_dim):
        p = perturbed(part(latent_dim))()
        assert (p.batch_shape, p.event_shape) == ((), (latent_dim,))
        assert p.sample((7,)).shape == (7, latent_dim)
        assert p.log_prob(torch.randn(5, 4, latent_dim)).shape == (5, 4)
        rows = p.expand(torch.Size([4]))
        z = rows.sample((5,))
        assert z.shape == (5, 4, latent_dim) and len(z.unique()) == z.numel() and not z.requires_grad
        torch.testing.assert_close(rows.log_prob(z), p.log_prob(z))

    @torch.no_grad()
    def test_density_integrates_to_one_and_is_that_of_the_draws(self, part, latent_dim):
        p = perturbed(part(latent_dim), 0.15)()
        points, log_weight = Quadrature.grid(latent_dim, 9.0, 4000 if latent_dim == 1 else 200)
        density = (p.log_prob(points) + log_weight).exp()
        assert abs(density.sum() - 1) < 2e-3
        assert_mean(bounded_moments(p.sample((40000,))), density @ bounded_moments(points), resolution=0.03)

    def test_every_parameter_learns_from_draws_of_q(self, part, latent_dim):
        prior, z = perturbed(part(latent_dim)), torch.randn(5, 4, latent_dim, requires_grad=True)
        log_p = prior().log_prob(z).sum()
        assert torch.autograd.grad(log_p, z, retain_graph=True)[0].all()
        # weights of a mixture with one component are none
        moving = {name: p for name, p in prior.named_parameters() if not (name == "logits" and len(p) == 1)}
        gradients = torch.autograd.grad(log_p, [*moving.values()]) if moving else []
        assert all(gradient.any() for gradient in gradients)

    def test_draws_are_functions_of_the_row(self, part, latent_dim):
        p, z = perturbed(part(latent_dim))(), []
        for index in (torch.arange(4), torch.tensor([2, 3])):
            with noise.use(noise.OfRows(index=index)):
                z.append(p.expand(index.shape).sample((5,)))
        torch.testing.assert_close(z[0][:, 2:], z[1])


@pytest.mark.parametrize("latent_dim", [1, 3])
@pytest.mark.parametrize("kind", ["affine", "spline"])
def test_a_flow_starts_as_the_standard_normal(kind, latent_dim):
    z = 3 * torch.randn(50, latent_dim)
    found = FlowPrior(latent_dim, kind)().log_prob(z)
    torch.testing.assert_close(found, StandardNormal(latent_dim)().log_prob(z))


def test_standard_normal():
    p = StandardNormal(2)()
    assert isinstance(p, DiagonalNormal) and not list(StandardNormal(2).parameters())
    torch.testing.assert_close(p.log_prob(torch.tensor([1.0, 2.0])).item(), -math.log(2 * math.pi) - 2.5)


def test_components_of_a_mixture_differ_at_the_start():
    """Otherwise they would stay alike for ever."""
    prior = MixturePrior(2, components=5)
    assert len(prior.loc.unique(dim=0)) == 5
    torch.testing.assert_close(prior().logits.exp(), torch.full((5,), 0.2))


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("components", partial(MixturePrior, components=0)),
        ("kind", partial(FlowPrior, kind="cubic")),
        ("transforms", partial(FlowPrior, transforms=0)),
        ("flow_hidden", partial(FlowPrior, flow_hidden=(0,))),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(name, part):
    with pytest.raises(ConfigurationError, match=f"^{name}: "):
        part(2)
