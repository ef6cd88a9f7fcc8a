"""One contract for all priors: densities that integrate to one, draws from them, parameters that learn."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from closed_forms import bounded_moments, perturbed
from monte_carlo import assert_mean

from lightning_avb import FlowPrior, MixturePrior, NormalPrior, PetalPrior, StandardNormal, SwissRollPrior, noise
from lightning_avb.distributions import DiagonalNormal
from lightning_avb.errors import ConfigurationError
from lightning_avb.evaluation import Quadrature

pytestmark = pytest.mark.usefixtures("float64")

PRIORS = {
    "standard": StandardNormal,
    "normal": partial(NormalPrior, scale=1.7),
    "mixture": partial(MixturePrior, components=3),
    "one normal": partial(MixturePrior, components=1),
    "splines": partial(FlowPrior, transforms=2, flow_hidden=(8,), bins=4),
    "affine": partial(FlowPrior, kind="affine", flow_hidden=(8,)),
}
CASES = [pytest.param(part, dim, id=f"{name}-{dim}") for name, part in PRIORS.items() for dim in (1, 2)]
CASES.append(pytest.param(partial(PetalPrior, components=5), 2, id="petals"))


@pytest.mark.parametrize(("part", "latent_dim"), CASES)
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
            with noise.use(noise.RowNoise(index=index)):
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


@pytest.mark.parametrize("scale", [0.5, 2])
def test_normal_prior(scale):
    z = torch.tensor([1.0, -2.0, 0.5])
    by_hand = sum(-0.5 * (v / scale) ** 2 - math.log(scale * math.sqrt(2 * math.pi)) for v in z.tolist())
    torch.testing.assert_close(NormalPrior(3, scale)().log_prob(z).item(), by_hand)
    torch.testing.assert_close(NormalPrior(3)().log_prob(z), StandardNormal(3)().log_prob(z))


# Priors with parts that labels can name.

PARTED = {
    "petals": PetalPrior,
    "mixture": partial(MixturePrior, latent_dim=2, components=10),
    "roll": SwissRollPrior,
}
every_parted = pytest.mark.parametrize("part", PARTED.values(), ids=PARTED)


@every_parted
class TestParts:
    def test_a_row_is_a_function_of_its_label_and_noise(self, part):
        prior, index = part(latent_dim=2), torch.arange(4)
        y = torch.tensor([3, -1, 9, 0])
        with noise.use(noise.RowNoise(index=index)):
            z = prior.given(y).sample((5,))
        assert z.shape == (5, 4, 2) and not z.requires_grad
        with noise.use(noise.RowNoise(index=index[2:])):
            torch.testing.assert_close(prior.given(y[2:]).sample((5,)), z[:, 2:])

    def test_without_a_label_it_is_the_whole_prior(self, part):
        prior, draws = part(latent_dim=2), []
        for p in (prior.given(torch.full((4,), -1)), prior().expand(torch.Size([4]))):
            with noise.use(noise.RowNoise(index=torch.arange(4))):
                draws.append(p.sample((5,)))
        torch.testing.assert_close(*draws)
        assert (prior.parts, draws[0].shape) == (10, (5, 4, 2))

    def test_all_parts_together_are_the_prior(self, part):
        prior, y = part(latent_dim=2), torch.arange(10)
        together = bounded_moments(prior.given(y).sample((4000,))).mean(1)  # of independent sets of parts
        whole = bounded_moments(prior().sample((4000, 10))).mean(1)
        assert_mean(together - whole, 0.0, resolution=0.05)

    def test_parts_are_different(self, part):
        means = part(latent_dim=2).given(torch.arange(10)).sample((2000,)).mean(0)
        assert (torch.pdist(means) > 0.1).all()

    @pytest.mark.parametrize("y", [-2, 10])
    def test_other_labels_are_refused(self, part, y):
        with pytest.raises(ConfigurationError, match=f"^labels: from .*{y}.* parts 0 to 9"):
            part(latent_dim=2).given(torch.tensor([3, y]))


@pytest.mark.parametrize("part", [PetalPrior, MixturePrior])
def test_the_density_of_a_mixture_is_the_mean_of_its_parts(part):
    prior, z, y = part(2), 2 * torch.randn(50, 1, 2), torch.arange(10)
    mean = prior.given(y).log_prob(z).logsumexp(-1) - math.log(10)
    torch.testing.assert_close(mean, prior().log_prob(z[:, 0]))


def test_petals_by_hand():
    """In coordinates along and across the direction of the petal they are two independent normals."""
    radius, radial, tangential = 2.0, 0.6, 0.2
    prior, z = PetalPrior(2, 7, radius, radial, tangential), 2 * torch.randn(50, 2)
    for k in range(7):
        angle = torch.tensor(2 * math.pi * k / 7)
        along, across = (z[:, 0] * angle.cos() + z[:, 1] * angle.sin(), z[:, 1] * angle.cos() - z[:, 0] * angle.sin())
        by_hand = torch.distributions.Normal(radius, radial).log_prob(along)
        by_hand = by_hand + torch.distributions.Normal(0.0, tangential).log_prob(across)
        torch.testing.assert_close(prior.given(torch.full((50,), k)).log_prob(z), by_hand)


def test_petals_hardly_overlap():
    """But for one draw in a thousand the likeliest petal is its own, and |z| < 4; three times as many are refused."""
    prior, y = PetalPrior(2), torch.arange(10)
    z = prior.given(y).sample((1000,))
    likeliest = torch.stack([prior.given(torch.full((10,), k)).log_prob(z) for k in range(10)]).argmax(0)
    assert (likeliest != y).double().mean() < 3e-3
    assert (z.norm(dim=-1) > 4).double().mean() < 3e-3


def test_the_roll_is_as_large_as_it_says():
    prior = SwissRollPrior(2)
    reach = prior.given(torch.tensor([9])).sample((20000,)).norm(dim=-1).max()
    assert prior.radius < reach < 4.2 and not list(prior.parameters())
    with pytest.raises(NotImplementedError):
        prior().log_prob(torch.zeros(2))


def test_stretches_of_a_roll_go_outwards_one_after_the_other():
    """Without width the nearest of a part is as far from the origin as the farthest of the one before."""
    z = SwissRollPrior(2, parts=4, width=1e-9).given(torch.arange(4)).sample((20000,)).norm(dim=-1)
    nearest, farthest = z.min(0).values, z.max(0).values
    torch.testing.assert_close(nearest, torch.cat([torch.zeros(1), farthest[:-1]]), rtol=0, atol=5e-3)


def test_components_of_a_mixture_differ_at_the_start():
    """Otherwise they would stay alike for ever."""
    prior = MixturePrior(2, components=5)
    assert len(prior.loc.unique(dim=0)) == 5
    torch.testing.assert_close(prior().logits.exp(), torch.full((5,), 0.2))


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("components", partial(MixturePrior, components=0)),
        ("components", partial(PetalPrior, components=0)),
        ("radius", partial(PetalPrior, radius=0.0)),
        ("radial", partial(PetalPrior, radial=-1.0)),
        ("tangential", partial(PetalPrior, tangential=0.0)),
        ("parts", partial(SwissRollPrior, parts=0)),
        ("turns", partial(SwissRollPrior, turns=0.0)),
        ("radius", partial(SwissRollPrior, radius=-1.0)),
        ("width", partial(SwissRollPrior, width=float("nan"))),
        ("scale", partial(NormalPrior, scale=0.0)),
        ("kind", partial(FlowPrior, kind="cubic")),
        ("transforms", partial(FlowPrior, transforms=0)),
        ("flow_hidden", partial(FlowPrior, flow_hidden=(0,))),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(name, part):
    with pytest.raises(ConfigurationError, match=f"^{name}: "):
        part(2)


@pytest.mark.parametrize("part", [PetalPrior, SwissRollPrior])
@pytest.mark.parametrize("latent_dim", [1, 3])
def test_what_is_in_the_plane_has_two_dimensions(part, latent_dim):
    with pytest.raises(ConfigurationError, match=f"^latent_dim: {latent_dim} must be 2"):
        part(latent_dim)
