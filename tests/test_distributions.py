"""Densities against torch's own and against the calculus; draws, moments and discretised data."""

from __future__ import annotations

import pytest
import torch
from closed_forms import bounded_moments, perturbed
from monte_carlo import assert_mean
from torch.distributions import (
    Categorical,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    kl_divergence,
)

from lightning_avb import noise
from lightning_avb.distributions import (
    Bernoulli,
    DiagonalNormal,
    DiscretizedLogistic,
    Flow,
    Implicit,
    NormalMixture,
    SemiImplicit,
    SwissRoll,
    TriangularNormal,
)
from lightning_avb.evaluation import Quadrature
from lightning_avb.networks.flows import AutoregressiveFlow

pytestmark = pytest.mark.usefixtures("float64")


def diagonal(*shape):
    """The same distribution, ours and torch's."""
    loc, scale = torch.randn(shape), torch.rand(shape) + 0.2
    return DiagonalNormal(loc, scale), Independent(Normal(loc, scale), 1)


def triangular(*shape):
    loc, tril = torch.randn(shape), torch.randn(*shape, shape[-1]).tril(-1)
    tril = tril + (torch.rand(shape) + 0.2).diag_embed()
    return TriangularNormal(loc, tril), MultivariateNormal(loc, scale_tril=tril)


def mixture(*shape):
    return mixture_of(diagonal, *shape)


def full_mixture(*shape):
    """With correlated components."""
    return mixture_of(triangular, *shape)


def mixture_of(pair, *shape):
    """With weights of its own for every row, if there are rows."""
    logits, (parts, theirs) = torch.randn(*shape[:-1], 3), pair(3, shape[-1])
    ours = NormalMixture(logits, parts.loc, parts.scale if pair is diagonal else parts.scale_tril)
    return ours, MixtureSameFamily(Categorical(logits=logits), theirs.expand((*shape[:-1], 3)))


every_density = pytest.mark.parametrize("pair", [diagonal, triangular, mixture, full_mixture])
every_normal = pytest.mark.parametrize("pair", [diagonal, triangular])


@every_density
@pytest.mark.parametrize("shape", [(3,), (4, 3)])
def test_density(pair, shape):
    ours, theirs = pair(*shape)
    z = torch.randn(6, 4, 3)
    assert (ours.batch_shape, ours.event_shape) == (theirs.batch_shape, theirs.event_shape)
    assert ours.log_prob(z).shape == (6, 4)
    torch.testing.assert_close(ours.log_prob(z), theirs.log_prob(z))


@every_normal
@pytest.mark.parametrize("shape", [(3,), (4, 3)])
def test_moments(pair, shape):
    ours, theirs = pair(*shape)
    torch.testing.assert_close(ours.mean, theirs.mean)
    torch.testing.assert_close(ours.stddev, theirs.stddev)
    torch.testing.assert_close(ours.variance, theirs.variance)
    if isinstance(ours, TriangularNormal):
        torch.testing.assert_close(ours.covariance_matrix, theirs.covariance_matrix)
    else:
        torch.testing.assert_close(ours.entropy(), theirs.entropy())


@every_normal
@pytest.mark.parametrize("prior_shape", [(3,), (4, 3)])
def test_kl(pair, prior_shape):
    (q, torch_q), (p, torch_p) = pair(4, 3), diagonal(*prior_shape)
    if pair is triangular:
        torch_p = MultivariateNormal(p.loc, p.variance.diag_embed())
    torch.testing.assert_close(kl_divergence(q, p), kl_divergence(torch_q, torch_p))


def test_kl_from_itself_is_zero():
    q, _ = diagonal(4, 3)
    for same in (q, TriangularNormal(q.loc, q.scale.diag_embed())):
        torch.testing.assert_close(kl_divergence(same, q), torch.zeros(4))


# Normalizing flows.

FLOWS = {
    "affine": {"kind": "affine"},
    "spline": {"kind": "spline", "bins": 5},
    "coupling splines": {"kind": "spline", "passes": 2},
}
every_flow = pytest.mark.parametrize("options", FLOWS.values(), ids=FLOWS)
every_dim = pytest.mark.parametrize("dim", [1, 2])


def flow(dim, options, inverse=False, by=0.1, rows=2):
    """A flow of its own for every row, away from the identity."""
    transform = perturbed(AutoregressiveFlow(dim, 3, hidden=(8,), **options), by)(torch.randn(rows, 3))
    return Flow(
        0.5 * torch.randn(rows, dim), 0.8 + 0.4 * torch.rand(rows, dim), transform.inv if inverse else transform
    )


def gaussian_start(q):
    return DiagonalNormal(q.loc, q.scale)


@torch.no_grad()
def on_a_grid(q, limit, cells, function=lambda z: torch.ones(len(z), 1)):
    """The integral of q(z) f(z)."""
    points, log_weight = Quadrature.grid(q.event_shape[0], limit, cells)
    density = (q.log_prob(points.unsqueeze(1)) + log_weight).exp()
    return density.T @ function(points)


@every_flow
@every_dim
@pytest.mark.parametrize("inverse", [False, True], ids=["", "inverse"])
def test_a_flow_has_a_density_and_draws_from_it(options, dim, inverse):
    q = flow(dim, options, inverse)
    limit, cells = (30, 8000) if dim == 1 else (9, 200)
    torch.testing.assert_close(on_a_grid(q, limit, cells), torch.ones(2, 1), rtol=0, atol=2e-3)
    with torch.no_grad():
        z, log_q = q.rsample_and_log_prob((20000,))
    distance = (log_q - gaussian_start(q).log_prob(z)).abs().mean(0)
    assert (distance > 0.1).all(), "the flow is close to the identity"
    truth = on_a_grid(q, limit, cells, bounded_moments)
    assert_mean(bounded_moments(z), truth, resolution=0.05)


@every_flow
@pytest.mark.parametrize("dim", [1, 3])
@pytest.mark.parametrize("inverse", [False, True], ids=["", "inverse"])
def test_draws_of_a_flow_come_with_their_density(options, dim, inverse):
    """As its inverse says, and as the Jacobian of the draws says."""
    q, eps = flow(dim, options, inverse), torch.randn(5, 2, dim)
    with noise.use(lambda shape, like: eps):
        z, log_q = q.rsample_and_log_prob((5,))
        torch.testing.assert_close(q.rsample((5,)), z)
    torch.testing.assert_close(log_q, q.log_prob(z))

    def drawn(eps):
        with noise.use(lambda shape, like: eps):
            return q.rsample((5,)).sum((0, 1))  # each draw depends on its own noise alone

    jacobian = torch.func.jacrev(drawn)(eps).permute(1, 2, 0, 3)
    standard = DiagonalNormal(torch.zeros(dim), torch.ones(dim))
    torch.testing.assert_close(log_q, standard.log_prob(eps) - torch.linalg.slogdet(jacobian)[1])


@every_flow
@pytest.mark.parametrize("dim", [1, 3])
def test_a_new_flow_is_the_identity(options, dim):
    q = flow(dim, options, by=0.0)
    z = torch.cat([torch.randn(5, 2, dim), 10 * torch.randn(5, 2, dim)])
    torch.testing.assert_close(q.log_prob(z), gaussian_start(q).log_prob(z))
    eps = torch.randn(5, 2, dim)
    with noise.use(lambda shape, like: eps):
        torch.testing.assert_close(q.rsample((5,)), q.loc + q.scale * eps)


@pytest.mark.parametrize("options", [FLOWS["affine"], FLOWS["spline"]], ids=["affine", "spline"])
def test_every_dimension_of_a_flow_sees_every_other(options):
    """The order is reversed from one transform to the next; one alone leaves the first dimension by itself."""
    eps = torch.randn(1, 1, 3)
    for transforms, zeros in ((1, 3), (2, 0)):
        transform = perturbed(AutoregressiveFlow(3, 0, transforms=transforms, **options), 0.5)()
        jacobian = torch.func.jacrev(lambda eps, transform=transform: transform(eps))(eps).view(3, 3)
        assert (jacobian == 0).sum() == zeros


# What all of them promise.

EXPANDED = {
    "normal": lambda: diagonal(3)[0],
    "mixture": lambda: mixture(3)[0],
    "full mixture": lambda: full_mixture(3)[0],
    "flow": lambda: Flow(torch.randn(3), torch.rand(3) + 0.5, perturbed(AutoregressiveFlow(3))()),
}


@pytest.mark.parametrize("make", EXPANDED.values(), ids=EXPANDED)
def test_expanded_is_the_same_for_every_row(make):
    p = make()
    rows = p.expand(torch.Size([4]))
    z = rows.sample((5,))
    assert (rows.batch_shape, rows.event_shape) == ((4,), (3,))
    assert z.shape == (5, 4, 3) and len(z.unique()) == 60
    torch.testing.assert_close(rows.log_prob(z), p.log_prob(z))


def test_density_integrates_to_one():
    torch.testing.assert_close(on_a_grid(diagonal(4, 2)[0], 10, 400), torch.ones(4, 1))


@every_normal
def test_draws_come_with_their_density(pair):
    q, _ = pair(4, 3)
    z, log_q = q.rsample_and_log_prob((5,))
    assert z.shape == (5, 4, 3)
    torch.testing.assert_close(log_q, q.log_prob(z))


@every_normal
def test_both_ways_to_draw_use_the_same_noise(pair):
    q, _ = pair(4, 3)
    with noise.use(noise.RowNoise(index=torch.arange(4))):
        z = q.rsample((5,))
    with noise.use(noise.RowNoise(index=torch.arange(4))):
        assert torch.equal(z, q.rsample_and_log_prob((5,))[0])
    with noise.use(noise.RowNoise(index=torch.arange(4))):
        eps = noise.normal((5, 4, 3), z)
    scaled = q.scale * eps if pair is diagonal else torch.einsum("bij,sbj->sbi", q.scale_tril, eps)
    torch.testing.assert_close(z, q.loc + scaled)


def second_moments(z):
    return z.unsqueeze(-1) * z.unsqueeze(-2)


@every_density
def test_moments_of_the_draws(pair):
    ours, theirs = pair(4, 3)
    z = ours.sample((20000,))
    if pair in (mixture, full_mixture):
        weights, parts = theirs.mixture_distribution.probs, theirs.component_distribution
        around = parts.variance.diag_embed() if pair is mixture else parts.covariance_matrix
        spread = second_moments(parts.mean) + around
        second = (weights[..., None, None] * spread).sum(-3)
    elif pair is diagonal:
        second = second_moments(theirs.mean) + theirs.variance.diag_embed()
    else:
        second = second_moments(theirs.mean) + theirs.covariance_matrix
    assert_mean(z, theirs.mean, resolution=0.15)
    assert_mean(second_moments(z), second, resolution=0.5)


def test_draws_of_a_mixture_are_of_one_component_and_of_their_row():
    loc = torch.tensor([[0.0, 0.0], [10.0, 20.0], [-10.0, 30.0]])
    p = NormalMixture(torch.tensor([0.2, 0.3, 0.5]).log(), loc, torch.full((3, 2), 0.01))

    def draw(rows):
        with noise.use(noise.RowNoise(index=rows)):
            return p.expand(rows.shape).sample((2000,))

    z = draw(torch.arange(4))
    distance = (z.unsqueeze(-2) - loc).abs().amax(-1)
    assert (distance.min(-1).values < 0.1).all()
    shares = (distance < 0.1).double().flatten(0, 1)
    assert_mean(shares, torch.tensor([0.2, 0.3, 0.5]), resolution=0.05)
    torch.testing.assert_close(draw(torch.tensor([2, 3])), z[:, 2:])


@pytest.mark.parametrize("pair", [mixture, full_mixture])
def test_a_mixture_given_its_component(pair):
    p, _ = pair(2)
    parts = p._normal(p.loc, p.scale)
    y, z = torch.tensor([0, 1, 2, -1, 1]), torch.randn(6, 5, 2)
    found = p.given(y)
    assert found.batch_shape == (5,)
    every = torch.cat([parts.log_prob(z.unsqueeze(-2)), p.log_prob(z).unsqueeze(-1)], -1)
    torch.testing.assert_close(found.log_prob(z), every[:, range(5), y])
    # with the same noise the draws are those of the component, or of the mixture
    eps = torch.randn(20, 5, 3)
    with noise.use(lambda shape, like: eps):
        z, whole = found.sample((20,)), p.expand(torch.Size([5])).sample((20,))
    torch.testing.assert_close(z[:, 3], whole[:, 3])
    for row in (0, 1, 2, 4):
        k = y[row]
        torch.testing.assert_close(z[:, row], type(parts)(p.loc[k], p.scale[k]).from_noise(eps[:, row, 1:]))


def test_gradients_of_a_mixture_given_its_component():
    """Finite where a weight is 0, and none for the weights or for another component than that of the row."""
    logits, loc = torch.randn(3, requires_grad=True), torch.randn(3, 2, requires_grad=True)
    z = torch.randn(4, 2)

    def gradients(of):
        return torch.autograd.grad(of(NormalMixture(logits, loc, torch.ones(3, 2))).log_prob(z).sum(), [logits, loc])

    by_logits, by_loc = gradients(lambda p: p.given(torch.full((4,), 1)))
    assert torch.equal(by_logits, torch.zeros(3))
    assert by_loc[1].all() and not by_loc[[0, 2]].any()
    for found, truth in zip(gradients(lambda p: p.given(torch.full((4,), -1))), gradients(lambda p: p), strict=True):
        torch.testing.assert_close(found, truth)


# The roll.

TURNS, RADIUS, END = 1.5, 3.0, 3 * torch.pi


def roll(begin=0.0, stop=1.0, width=1e-9):
    begin, stop = torch.as_tensor(begin), torch.as_tensor(stop)
    return SwissRoll(begin, stop, TURNS, RADIUS, width)


def shares(z):
    """How far along the spiral a point on it lies, as a share of its length: a sum over small chords."""
    t = torch.linspace(0, END, 100001)
    on_it = RADIUS * t / END * torch.stack([t.cos(), t.sin()])
    length = torch.cat([torch.zeros(1), on_it.diff().norm(dim=0).cumsum(0)])
    return (length / length[-1])[torch.searchsorted(on_it.norm(dim=0), z.norm(dim=-1)).clamp_max(len(t) - 1)]


def test_draws_of_a_roll_lie_on_a_spiral():
    z = roll().sample((1000,))
    t = z.norm(dim=-1) / RADIUS * END
    torch.testing.assert_close(z, z.norm(dim=-1, keepdim=True) * torch.stack([t.cos(), t.sin()], -1), atol=1e-6, rtol=0)
    assert z.norm(dim=-1).max() > 0.99 * RADIUS


@pytest.mark.parametrize(("begin", "stop"), [(0.0, 1.0), (0.0, 0.1), (0.6, 0.7)])
def test_equal_lengths_of_a_roll_are_equally_likely(begin, stop):
    """The Kolmogorov distance from the uniform distribution; above 2.5 / n^0.5 by chance once in 100,000 times."""
    n = 20000
    within = ((shares(roll(begin, stop).sample((n,))) - begin) / (stop - begin)).sort().values
    assert within[0] > -1e-3 and within[-1] < 1 + 1e-3
    assert (within - torch.arange(n) / n).abs().max() < 2.5 / n**0.5


def test_rows_of_a_roll_have_their_stretch():
    begin, stop = torch.tensor([0.0, 0.25, 0.9]), torch.tensor([0.25, 0.5, 1.0])
    z = roll(begin, stop).sample((500,))
    assert z.shape == (500, 3, 2)
    assert ((shares(z) > begin - 1e-3) & (shares(z) < stop + 1e-3)).all()


def test_noise_of_a_roll_is_across_it():
    """At right angles to the chord between two close points of the spiral, with the standard deviation `width`."""
    where = torch.linspace(-3, 3, 50)

    def at(share_noise, across, width=0.2):
        with noise.use(lambda shape, like: torch.stack([share_noise, across], -1)):
            return roll(width=width).sample((50,))

    zero, one = torch.zeros(50), torch.ones(50)
    shift = at(where, 1.5 * one) - at(where, zero)
    along = at(where + 1e-5, zero) - at(where - 1e-5, zero)
    torch.testing.assert_close(shift.norm(dim=-1), 0.3 * one)
    assert (shift * along / along.norm(dim=-1, keepdim=True)).sum(-1).abs().max() < 1e-4
    torch.testing.assert_close(at(where, -1.5 * one) - at(where, zero), -shift)


def test_a_roll_has_no_density():
    with pytest.raises(NotImplementedError):
        roll().log_prob(torch.zeros(2))


def test_draws_of_a_prior_carry_no_gradient_and_reparametrised_ones_do():
    loc = torch.zeros(4, 3, requires_grad=True)
    q = DiagonalNormal(loc, torch.ones(4, 3))
    assert not q.sample((2,)).requires_grad
    (gradient,) = torch.autograd.grad(q.rsample((2,)).sum(), loc)
    assert torch.equal(gradient, torch.full((4, 3), 2.0))


# Black boxes.


def implicit(scale, closed=None):
    def push(samples):
        return 1 + scale * noise.normal((samples, 4, 3), scale).exp()

    return Implicit(push, torch.Size([4]), torch.Size([3]), closed)


@pytest.mark.parametrize("sample_shape", [(), (5,), (2, 5)])
def test_implicit_shapes(sample_shape):
    assert implicit(torch.ones(3)).rsample(sample_shape).shape == (*sample_shape, 4, 3)


def semi_implicit(others=0):
    """A mixture of Gaussians with means of the given noise."""

    def components(samples):
        loc = noise.normal((samples, 4, 3), torch.zeros(()))
        return DiagonalNormal(loc, torch.full_like(loc, 0.5))

    return SemiImplicit(components, torch.Size([4]), torch.Size([3]), others)


def test_what_has_no_density_does_not_pretend():
    for q, instead in ((semi_implicit(), "`rsample_and_bounds`"), (implicit(torch.ones(3)), "DensityRatio`")):
        with pytest.raises(NotImplementedError, match=f"not known; .*{instead} .* `lightning_avb.evaluation.fitted_"):
            q.log_prob(torch.randn(6, 4, 3))


@pytest.mark.parametrize("sample_shape", [(), (5,), (2, 5)])
@pytest.mark.parametrize("others", [0, 2])
def test_semi_implicit_shapes(sample_shape, others):
    q = semi_implicit(others)
    assert q.rsample(sample_shape).shape == (*sample_shape, 4, 3)
    z, log_q = q.rsample_and_log_prob(sample_shape)
    assert z.shape == (*sample_shape, 4, 3) and log_q.shape == (*sample_shape, 4)


def test_a_semi_implicit_draw_is_weighed_by_the_other_components_too():
    noises = [torch.randn(7, 4, 3), torch.randn(5, 4, 3)]
    handed_out = iter(noises)
    with noise.use(lambda shape, like: next(handed_out)):
        z, log_q = semi_implicit(others=2).rsample_and_log_prob((5,))
    loc, eps = noises
    torch.testing.assert_close(z, loc[:5] + 0.5 * eps)
    pairs = Independent(Normal(loc.unsqueeze(0), 0.5), 1).log_prob(z.unsqueeze(1))
    torch.testing.assert_close(log_q, pairs.exp().mean(1).log())


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


# Discretised data.


def values(levels):
    return torch.arange(levels) / (levels - 1.0)


def with_scales(*scales):
    """Every location, beyond [0, 1] too, with every scale."""
    return torch.cartesian_prod(torch.tensor([-0.7, 0.0, 0.25, 0.5, 1.0, 1.6]), torch.tensor([*map(float, scales)])).T


@pytest.mark.parametrize("levels", [2, 16, 256])
def test_masses_of_a_discretized_logistic_sum_to_one(levels):
    loc, scale = with_scales(1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 1e3)
    log_mass = DiscretizedLogistic(loc, scale, levels).log_prob(values(levels).unsqueeze(-1))
    torch.testing.assert_close(log_mass.logsumexp(0), torch.zeros(len(loc)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("levels", [16, 256])
def test_discretized_logistic_is_a_difference_of_distribution_functions(levels):
    """Where the difference is accurate; the edges take everything beyond."""
    loc, scale = with_scales(0.05, 0.2, 1.0)
    x, half = values(levels).unsqueeze(-1), 0.5 / (levels - 1)
    above, below = (((x + side - loc) / scale).sigmoid() for side in (half, -half))
    above[-1], below[0] = 1.0, 0.0
    mass = DiscretizedLogistic(loc, scale, levels).log_prob(x).exp()
    torch.testing.assert_close(mass, above - below, rtol=1e-6, atol=1e-14)


def test_discretized_logistic_in_single_precision():
    """Values as data come, and finite gradients however large or small the scale has become."""
    x = (torch.arange(256, dtype=torch.uint8).float() / 255).unsqueeze(-1)
    loc, log_scale = with_scales(*range(-20, 21, 2))
    exact = DiscretizedLogistic(loc, log_scale.exp()).log_prob(values(256).unsqueeze(-1))
    loc, log_scale = loc.float().requires_grad_(), log_scale.float().requires_grad_()
    found = DiscretizedLogistic(loc, log_scale.exp()).log_prob(x)
    assert found.dtype == torch.float32
    usual = log_scale > -7  # below, the rounding of x itself shows
    torch.testing.assert_close(found[:, usual].double(), exact[:, usual], rtol=1e-4, atol=1e-3)
    for gradient in torch.autograd.grad(found.sum(), [loc, log_scale]):
        assert gradient.isfinite().all() and gradient.any()


def test_gradient_of_a_discretized_logistic():
    loc, scale = (part.clone().requires_grad_() for part in with_scales(0.1))
    x = values(16)[[0, 3, 5, 8, 12, 15]]
    assert torch.autograd.gradcheck(lambda loc, scale: DiscretizedLogistic(loc, scale, 16).log_prob(x), [loc, scale])


def test_draws_of_a_discretized_logistic():
    p = DiscretizedLogistic(torch.tensor([-0.1, 0.4, 0.9]), torch.tensor([0.2, 0.3, 0.2]), 8)
    x, mass = p.expand((3,)).sample((50000,)), p.log_prob(values(8).unsqueeze(-1)).exp()
    torch.testing.assert_close(7 * x, (7 * x).round())
    for function in (torch.Tensor.clone, torch.square, lambda x: (x < 0.01).double(), lambda x: (x > 0.99).double()):
        assert_mean(function(x), function(values(8)) @ mass, resolution=0.02)
    assert p.mean.tolist() == [0.0, 0.4, 0.9]
