"""One contract for all encoders, one for all decoders, one for all critics; then what each of them promises."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from monte_carlo import assert_mean
from torch.autograd.functional import jacobian

from lightning_avb import (
    MLP,
    BernoulliDecoder,
    BoundedNoiseEncoder,
    GaussianDecoder,
    GaussianEncoder,
    InnerProductCritic,
    NoiseBasisEncoder,
    NoiseInjectionEncoder,
    ResidualCritic,
    StandardNormal,
    noise,
)
from lightning_avb.distributions import DiagonalNormal, Implicit
from lightning_avb.errors import ConfigurationError

pytestmark = pytest.mark.usefixtures("float64")

SMALL_BASIS = partial(NoiseBasisEncoder, hidden=(16,), basis=4, noise_dim=3, basis_hidden=(8, 8), start=0.0)
ENCODERS = {
    "gaussian": GaussianEncoder,
    "noise injection": NoiseInjectionEncoder,
    "noise at the first layer": partial(NoiseInjectionEncoder, every_layer=False),
    "noise basis": SMALL_BASIS,
    "bounded noise": BoundedNoiseEncoder,
}
DECODERS = {
    "bernoulli": BernoulliDecoder,
    "gaussian": GaussianDecoder,
    "fixed scale": partial(GaussianDecoder, scale=0.5),
}
CRITICS = {
    "residual": ResidualCritic,
    "residual, x first": partial(ResidualCritic, hidden=(16,)),
    "inner product": InnerProductCritic,
}
SHAPES = [(3,), (1, 4, 5)]
LATENT = 2


def every(parts):
    return pytest.mark.parametrize("part", parts.values(), ids=parts)


every_shape = pytest.mark.parametrize("shape", SHAPES, ids=["table", "image"])


def perturbed(module):
    """The module with its zero-initialised layers moved: they would block the first gradient of those before."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module


def assert_every_parameter_moves(module, output):
    gradients = torch.autograd.grad(output, list(module.parameters()), allow_unused=True)
    missed = [
        name
        for (name, _), gradient in zip(module.named_parameters(), gradients, strict=True)
        if gradient is None or not gradient.any()
    ]
    assert not missed


def draws_of_rows(encoder, x, index, samples=3):
    with noise.use(noise.OfRows(index=index)):
        return encoder(x).rsample((samples,))


@every(ENCODERS)
@every_shape
class TestEncoders:
    def test_shapes(self, part, shape):
        q = part(shape, LATENT)(torch.rand(4, *shape))
        assert (q.batch_shape, q.event_shape) == ((4,), (LATENT,))
        assert q.rsample((5,)).shape == (5, 4, LATENT)
        if isinstance(q, Implicit):
            mean, deviation = q.moments(8)
            assert mean.shape == deviation.shape == (4, LATENT) and (deviation > 0).all()
        else:
            assert q.log_prob(q.rsample((5,))).shape == (5, 4)
            z, log_q = q.rsample_and_log_prob((5,))
            torch.testing.assert_close(log_q, q.log_prob(z))

    def test_every_sample_and_row_is_a_new_draw(self, part, shape):
        z = part(shape, LATENT)(torch.rand(1, *shape).expand(4, *shape)).rsample((5,))
        assert len(z.unique()) == z.numel()

    def test_gradient_reaches_every_parameter(self, part, shape):
        encoder = perturbed(part(shape, LATENT))
        assert_every_parameter_moves(encoder, encoder(torch.rand(4, *shape)).rsample((5,)).square().sum())

    def test_rows_do_not_see_each_other(self, part, shape):
        encoder, x, index = perturbed(part(shape, LATENT)), torch.rand(4, *shape), torch.arange(4)
        whole = draws_of_rows(encoder, x, index)
        pieces = [draws_of_rows(encoder, *rows) for rows in zip(x.split(3), index.split(3), strict=True)]
        torch.testing.assert_close(whole, torch.cat(pieces, 1))

    def test_samples_do_not_see_each_other(self, part, shape):
        encoder, x, noises = perturbed(part(shape, LATENT)), torch.rand(4, *shape), []

        def record(shape, like):
            noises.append(torch.randn(shape))
            return noises[-1]

        with noise.use(record):
            z = encoder(x).rsample((3,))
        for i in range(3):
            with noise.use(lambda shape, like, i=i: noises[0][i : i + 1]):
                torch.testing.assert_close(encoder(x).rsample((1,)), z[i : i + 1])

    def test_x_matters(self, part, shape):
        encoder, index = perturbed(part(shape, LATENT)), torch.arange(4)
        first, second = (draws_of_rows(encoder, torch.rand(4, *shape), index) for _ in range(2))
        assert (first != second).all()


@every(DECODERS)
@every_shape
class TestDecoders:
    @pytest.mark.parametrize("rows", [(4,), (5, 4)], ids=["batch", "samples"])
    def test_shapes(self, part, shape, rows):
        p = part(shape, LATENT)(torch.randn(*rows, LATENT))
        assert p.mean.shape == p.sample().shape == (*rows, *shape)
        assert p.log_prob(torch.rand(4, *shape).round()).shape == rows

    def test_samples_are_decoded_one_by_one(self, part, shape):
        decoder, z, x = part(shape, LATENT), torch.randn(5, 4, LATENT), torch.rand(4, *shape).round()
        torch.testing.assert_close(decoder(z).log_prob(x)[2, 1:3], decoder(z[2, 1:3]).log_prob(x[1:3]))

    def test_gradient_reaches_every_parameter_and_z(self, part, shape):
        decoder, z = part(shape, LATENT), torch.randn(5, 4, LATENT, requires_grad=True)
        log_likelihood = decoder(z).log_prob(torch.rand(4, *shape).round()).sum()
        (by_z,) = torch.autograd.grad(log_likelihood, z, retain_graph=True)
        assert by_z.all()
        assert_every_parameter_moves(decoder, log_likelihood)


@every_shape
def test_bernoulli_log_prob_by_hand(shape):
    decoder, z, x = BernoulliDecoder(shape, LATENT), torch.randn(4, LATENT), torch.rand(4, *shape).round()
    mean = decoder.network(z).sigmoid()
    by_hand = [sum(math.log(m if on else 1 - m) for m, on in zip(*row, strict=True)) for row in rows_of(mean, x)]
    torch.testing.assert_close(decoder(z).log_prob(x), torch.tensor(by_hand))
    torch.testing.assert_close(decoder(z).mean, mean)


@pytest.mark.parametrize("scale", [0.5, None])
@every_shape
def test_gaussian_log_prob_by_hand(shape, scale):
    decoder, z, x = GaussianDecoder(shape, LATENT, scale=scale), torch.randn(4, LATENT), torch.randn(4, *shape)
    if scale is None:
        scale = 0.7
        decoder.log_scale.data.fill_(math.log(scale))
    by_hand = [
        sum(-0.5 * ((v - m) / scale) ** 2 - math.log(scale * math.sqrt(2 * math.pi)) for m, v in zip(*row, strict=True))
        for row in rows_of(decoder.network(z), x)
    ]
    torch.testing.assert_close(decoder(z).log_prob(x), torch.tensor(by_hand))


def rows_of(*tensors):
    """Rows of flat lists of numbers."""
    return zip(*(tensor.flatten(1).tolist() for tensor in tensors), strict=True)


def test_standard_normal():
    p = StandardNormal(LATENT)()
    assert isinstance(p, DiagonalNormal) and not list(StandardNormal(LATENT).parameters())
    torch.testing.assert_close(p.log_prob(torch.tensor([1.0, 2.0])).item(), -math.log(2 * math.pi) - 2.5)


def shift_of(encoder, x):
    """What the encoder adds to its noise, in standard deviations of its Gaussian start."""
    eps = torch.randn(200, len(x), encoder.noise_dim)
    with noise.use(lambda shape, like: eps):
        z = encoder(x).rsample((200,))
    mean, log_scale = encoder.network(x)[:, : 2 * LATENT].chunk(2, -1)
    return (z - mean) / log_scale.exp() - eps[..., :LATENT]


def test_bounded_noise_starts_as_a_gaussian():
    assert shift_of(BoundedNoiseEncoder((3,), LATENT), torch.rand(4, 3)).abs().max() < 1e-13


@pytest.mark.parametrize("bound", [0.5, 3.0])
def test_bounded_noise_stays_in_its_bound(bound):
    encoder, x = BoundedNoiseEncoder((3,), LATENT, bound=bound), torch.rand(4, 3)
    torch.nn.init.normal_(encoder.correction[-1].layers[-1].weight, std=30.0)
    shift = shift_of(encoder, x)
    assert shift.abs().max() <= bound + 1e-9
    assert shift.max() > 0.9 * bound and shift.min() < -0.9 * bound, "the bound was not reached"


def test_far_from_its_bound_the_shift_does_not_depend_on_it():
    encoders, x = [BoundedNoiseEncoder((3,), LATENT, bound=bound) for bound in (0.5, 3.0)], torch.rand(4, 3)
    torch.nn.init.normal_(encoders[0].correction[-1].layers[-1].weight, std=1e-3)
    encoders[1].load_state_dict(encoders[0].state_dict())
    shifts = []
    for encoder in encoders:
        torch.manual_seed(0)
        shifts.append(shift_of(encoder, x))
    assert shifts[0].std() > 1e-4
    torch.testing.assert_close(*shifts, rtol=1e-2, atol=1e-6)


def test_closed_moments_of_the_noise_basis():
    encoder, x, repeats = SMALL_BASIS((3,), LATENT, moment_draws=1000), torch.rand(4, 3), 20
    q = encoder(x)
    mean, deviation = torch.stack([torch.stack(q.moments(2)) for _ in range(repeats)]).unbind(1)
    draws = torch.stack([torch.stack(torch.std_mean(q.rsample((1000,)), 0)) for _ in range(repeats)])
    assert_mean(mean - draws[:, 1], 0.0, resolution=0.05)
    assert_mean(deviation.square() - draws[:, 0].square(), 0.0, resolution=0.05)


def test_noise_basis_starts_with_the_noise_that_it_says():
    x = torch.rand(4, 3)
    little, ordinary = (SMALL_BASIS((3,), LATENT, start=start) for start in (5.0, 0.0))
    little.load_state_dict(ordinary.state_dict())
    ratio = little(x).rsample((500,)).std(0) / ordinary(x).rsample((500,)).std(0)
    assert ratio.max() < 5 * math.exp(-5)


@pytest.mark.parametrize("context_dim", [0, 4])
@every(CRITICS)
@every_shape
class TestCritics:
    def arguments(self, shape, context_dim):
        context = torch.randn(4, context_dim) if context_dim else None
        return torch.rand(4, *shape), torch.randn(5, 4, LATENT), context

    def test_shape_and_gradient(self, part, shape, context_dim):
        critic = part(shape, LATENT, context_dim)
        t = critic(*self.arguments(shape, context_dim))
        assert t.shape == (5, 4)
        assert_every_parameter_moves(critic, t.square().sum())

    def test_pairs_are_independent(self, part, shape, context_dim):
        """dT_ij / dz_kl is zero but for (i, j) = (k, l), and row j of x moves column j alone."""
        critic, (x, z, context) = part(shape, LATENT, context_dim), self.arguments(shape, context_dim)
        by_z = jacobian(lambda z: critic(x, z, context), z).abs().sum(-1).view(z[..., 0].numel(), -1)
        by_x = jacobian(lambda x: critic(x, z, context).sum(0), x).abs().flatten(2).sum(-1)
        for by in (by_z, by_x):
            assert (by.diagonal() > 0).all() and torch.equal(by, by.diagonal().diag())

    def test_x_and_context_matter(self, part, shape, context_dim):
        critic, (x, z, context) = part(shape, LATENT, context_dim), self.arguments(shape, context_dim)
        assert (critic(x, z, context) != critic(x + 0.1, z, context)).all()
        if context_dim:
            assert (critic(x, z, context) != critic(x, z, context + 0.1)).all()

    def test_more_than_a_sum_over_x_and_z(self, part, shape, context_dim):
        """T(x, z) has an interaction: otherwise the model's gradient would not know x."""
        critic, (x, z, context) = part(shape, LATENT, context_dim), self.arguments(shape, context_dim)
        t = torch.stack([critic(rows, z, context) for rows in (x, x + 0.5)])
        assert (t[0, 0] - t[0, 1] - t[1, 0] + t[1, 1]).abs().min() > 1e-6


REFUSED = {
    "bound": partial(BoundedNoiseEncoder, bound=0.0),
    "noise_hidden": partial(BoundedNoiseEncoder, noise_hidden=()),
    "hidden": partial(NoiseInjectionEncoder, hidden=()),
    "noise_dim": partial(NoiseInjectionEncoder, noise_dim=0),
    "scale": partial(GaussianDecoder, scale=-1.0),
    "activation": partial(GaussianEncoder, network=partial(MLP, activation="rellu")),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_makes_no_sense_is_refused_by_name(name):
    with pytest.raises(ConfigurationError, match=f"^{name}: "):
        REFUSED[name]((3,), LATENT)
