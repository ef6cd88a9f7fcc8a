"""One contract for all encoders, one for all decoders, one for all critics; then what each of them promises."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from closed_forms import LINEAR, perturbed
from monte_carlo import assert_mean
from torch.autograd.functional import jacobian
from torch.distributions import Normal

from lightning_avb import (
    MLP,
    BernoulliDecoder,
    DeterministicEncoder,
    DiscretizedLogisticDecoder,
    FlowEncoder,
    FullGaussianEncoder,
    GaussianContrast,
    GaussianDecoder,
    GaussianEncoder,
    InnerProductCritic,
    NoiseBasisEncoder,
    NoiseInjectionEncoder,
    PooledMixtureEncoder,
    ResidualCritic,
    SemiImplicitEncoder,
    noise,
)
from lightning_avb.conditionals import Conditional
from lightning_avb.distributions import DiscretizedLogistic, SemiImplicit, TriangularNormal
from lightning_avb.errors import ConfigurationError
from lightning_avb.evaluation import has_density

pytestmark = pytest.mark.usefixtures("float64")

SMALL = partial(MLP, hidden=(16,))
SMALL_BASIS = partial(NoiseBasisEncoder, network=SMALL, basis=4, noise_dim=3, basis_hidden=(8, 8), start=0.0)
ENCODERS = {
    "gaussian": GaussianEncoder,
    "full gaussian": FullGaussianEncoder,
    "affine flow": FlowEncoder,
    "spline flow": partial(FlowEncoder, kind="spline", bins=4, transforms=3),
    "semi-implicit": partial(SemiImplicitEncoder, mixing=3),
    "semi-implicit of any width": partial(SemiImplicitEncoder, mixing=3, noise_hidden=(8,), width_range=0.5),
    "pooled mixture": partial(PooledMixtureEncoder, width=16),
    "noise injection": NoiseInjectionEncoder,
    "noise at the first layer": partial(NoiseInjectionEncoder, every_layer=False),
    "noise basis": SMALL_BASIS,
    "deterministic": DeterministicEncoder,
}
DECODERS = {
    "bernoulli": BernoulliDecoder,
    "gaussian": GaussianDecoder,
    "fixed scale": partial(GaussianDecoder, scale=0.5),
    "sigmoid": partial(GaussianDecoder, sigmoid=True),
    "discretized logistic": DiscretizedLogisticDecoder,
}
CRITICS = {
    "residual": ResidualCritic,
    "residual, x linear": partial(ResidualCritic, network=LINEAR),
    "inner product": InnerProductCritic,
}
SHAPES = [(3,), (1, 4, 5)]
LATENT, CLASSES = 2, 3


def every(parts):
    return pytest.mark.parametrize("part", parts.values(), ids=parts)


every_shape = pytest.mark.parametrize("shape", SHAPES, ids=["table", "image"])
with_and_without_labels = pytest.mark.parametrize("classes", [0, CLASSES], ids=["", "labels"])


def labels(classes, rows=4):
    return torch.arange(rows) % classes if classes else None


def assert_every_parameter_moves(module, output):
    names, parameters = zip(*module.named_parameters(), strict=True)
    gradients = torch.autograd.grad(output, parameters, allow_unused=True, retain_graph=True)
    moving = {name for name, gradient in zip(names, gradients, strict=True) if gradient is not None and gradient.any()}
    assert moving == set(names)


def drawn(q, samples=3):
    """Draws of q, and what it says of their log-density, if anything."""
    if hasattr(q, "rsample_and_log_prob"):
        return q.rsample_and_log_prob((samples,))
    return (q.rsample((samples,)),)


def draws_of_rows(encoder, x, index, y=None):
    with noise.use(noise.RowNoise(index=index)):
        return drawn(encoder(x, y))


@every(ENCODERS)
@every_shape
class TestEncoders:
    @pytest.mark.parametrize("latent_dim", [1, 2, 3])
    def test_shapes(self, part, shape, latent_dim):
        q = perturbed(part(shape, latent_dim))(torch.rand(4, *shape))
        assert (q.batch_shape, q.event_shape) == ((4,), (latent_dim,))
        z = q.rsample((5,))
        assert z.shape == (5, 4, latent_dim) and q.support.check(z).all()
        if hasattr(q, "moments"):
            mean, deviation = q.moments(8)
        else:
            mean, deviation = q.mean, q.stddev
        assert mean.shape == deviation.shape == (4, latent_dim)
        assert (deviation == 0 if part is DeterministicEncoder else deviation > 0).all()
        if hasattr(q, "rsample_and_log_prob"):
            z, log_q = q.rsample_and_log_prob((5,))
            assert z.shape == (5, 4, latent_dim) and log_q.shape == (5, 4)
        if has_density(q):
            torch.testing.assert_close(log_q, q.log_prob(z))
        else:
            with pytest.raises(NotImplementedError, match=r"density of \w+ is not known; `\w.* and .*fitted_pro"):
                q.log_prob(z)

    def test_every_sample_and_row_is_a_new_draw(self, part, shape):
        z = part(shape, LATENT)(torch.rand(1, *shape).expand(4, *shape)).rsample((5,))
        assert len(z.unique()) == (LATENT if part is DeterministicEncoder else z.numel())

    @with_and_without_labels
    def test_gradient_reaches_every_parameter(self, part, shape, classes):
        encoder = perturbed(part(shape, LATENT, classes))
        z, *log_q = drawn(encoder(torch.rand(4, *shape), labels(classes)), 5)
        assert_every_parameter_moves(encoder, z.square().sum())
        for bound in log_q:
            assert_every_parameter_moves(encoder, (bound + z.square().sum(-1)).sum())
        *_, last = (p for name, p in encoder.network.named_parameters() if name.endswith("bias"))
        (of_what_is_made_of_x,) = torch.autograd.grad(z.square().sum(), last)
        assert of_what_is_made_of_x.all()

    @with_and_without_labels
    def test_rows_do_not_see_each_other(self, part, shape, classes):
        encoder, x, index = perturbed(part(shape, LATENT, classes)), torch.rand(4, *shape), torch.arange(4)
        y = labels(classes)
        whole = draws_of_rows(encoder, x, index, y)
        for rows in (slice(0, 3), slice(3, 4)):
            pieces = draws_of_rows(encoder, x[rows], index[rows], None if y is None else y[rows])
            for one, all_of_them in zip(pieces, whole, strict=True):
                torch.testing.assert_close(one, all_of_them[:, rows])

    def test_samples_do_not_see_each_other(self, part, shape):
        """But for the density of a semi-implicit q, whose draws are each other's components."""
        encoder, x, noises = perturbed(part(shape, LATENT)), torch.rand(4, *shape), []
        values = slice(1) if isinstance(encoder(x), SemiImplicit) else slice(None)

        def record(shape, like):
            noises.append(torch.randn(shape))
            return noises[-1]

        with noise.use(record):
            whole = drawn(encoder(x))
        for i in range(3):
            own = iter([torch.cat([eps[i : i + 1], eps[3:]]) for eps in noises])
            with noise.use(lambda shape, like, own=own: next(own)):
                for one, all_of_them in list(zip(drawn(encoder(x), 1), whole, strict=True))[values]:
                    torch.testing.assert_close(one, all_of_them[i : i + 1])

    def test_x_matters(self, part, shape):
        encoder, index = perturbed(part(shape, LATENT)), torch.arange(4)
        first, second = (draws_of_rows(encoder, torch.rand(4, *shape), index) for _ in range(2))
        for one, other in zip(first, second, strict=True):
            assert (one != other).all()

    def test_labels_matter_where_there_are_any(self, part, shape):
        x, index, y = torch.rand(4, *shape), torch.arange(4), labels(CLASSES)
        encoder = perturbed(part(shape, LATENT, CLASSES))
        first, second = (draws_of_rows(encoder, x, index, labels) for labels in (y, (y + 1) % CLASSES))
        for one, other in zip(first, second, strict=True):
            assert (one != other).all()
        encoder = perturbed(part(shape, LATENT))
        first, second = (draws_of_rows(encoder, x, index, labels) for labels in (y, None))
        for one, other in zip(first, second, strict=True):
            assert torch.equal(one, other)


@every(DECODERS)
@every_shape
class TestDecoders:
    @with_and_without_labels
    @pytest.mark.parametrize("rows", [(4,), (5, 4)], ids=["batch", "samples"])
    def test_shapes(self, part, shape, rows, classes):
        p = part(shape, LATENT, classes)(torch.randn(*rows, LATENT), labels(classes))
        assert p.mean.shape == p.sample().shape == (*rows, *shape)
        assert p.base_dist.log_prob(torch.rand(4, *shape).round()).shape == (*rows, *shape)
        assert p.log_prob(torch.rand(4, *shape).round()).shape == rows

    @with_and_without_labels
    def test_samples_are_decoded_one_by_one(self, part, shape, classes):
        decoder, z, x = part(shape, LATENT, classes), torch.randn(5, 4, LATENT), torch.rand(4, *shape).round()
        y = labels(classes)
        one = decoder(z[2, 1:3], None if y is None else y[1:3]).log_prob(x[1:3])
        torch.testing.assert_close(decoder(z, y).log_prob(x)[2, 1:3], one)

    @with_and_without_labels
    def test_gradient_reaches_every_parameter_and_z(self, part, shape, classes):
        decoder, z = part(shape, LATENT, classes), torch.randn(5, 4, LATENT, requires_grad=True)
        log_likelihood = decoder(z, labels(classes)).log_prob(torch.rand(4, *shape).round()).sum()
        (by_z,) = torch.autograd.grad(log_likelihood, z, retain_graph=True)
        assert by_z.all()
        assert_every_parameter_moves(decoder, log_likelihood)

    def test_labels_matter_where_there_are_any(self, part, shape):
        z, x, y = torch.randn(5, 4, LATENT), torch.rand(4, *shape).round(), labels(CLASSES)
        decoder = part(shape, LATENT, CLASSES)
        assert (decoder(z, y).log_prob(x) != decoder(z, (y + 1) % CLASSES).log_prob(x)).all()
        decoder = part(shape, LATENT)
        assert torch.equal(decoder(z, y).log_prob(x), decoder(z).log_prob(x))


@every(ENCODERS | DECODERS)
def test_without_the_label_that_it_needs_nothing_is_computed(part):
    conditional = part((3,), LATENT, CLASSES)
    with pytest.raises(ValueError, match="without labels"):
        conditional(torch.rand(4, LATENT if part in DECODERS.values() else 3))


def test_labels_are_told_one_by_one():
    like, y = torch.zeros(1, dtype=torch.float32), torch.tensor([[2, 0], [1, 1]])
    told = Conditional(3).label(y, like)
    assert told.dtype == torch.float32
    assert told.tolist() == [[[0, 0, 1], [1, 0, 0]], [[0, 1, 0], [0, 1, 0]]]
    assert Conditional(0).label(y, like) is None


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


@every_shape
def test_gaussian_means_of_pictures(shape):
    """Behind the sigmoid they are in (0, 1), also with more noise; otherwise all is as with the same means."""
    decoder = perturbed(GaussianDecoder(shape, LATENT, scale=0.5, sigmoid=True))
    z, x = torch.randn(4, LATENT), torch.rand(4, *shape)
    mean = decoder.network(z).sigmoid()
    torch.testing.assert_close(decoder(z).mean, mean)
    torch.testing.assert_close(decoder(z).log_prob(x), Normal(mean, 0.5).log_prob(x).flatten(1).sum(-1))
    noisy = decoder.noisy(z, 1.2)
    torch.testing.assert_close(noisy.log_prob(x), Normal(mean, 1.3).log_prob(x).flatten(1).sum(-1))
    far = decoder(10 * z).mean
    assert (far > 0).all() and (far < 1).all() and (far > 0.9).any()
    assert GaussianDecoder(shape, LATENT).sigmoid is False


@pytest.mark.parametrize("x", [torch.tensor([[0.5, 1.1]]), torch.tensor([[-0.1, 0.5]])])
def test_means_in_the_unit_interval_are_not_for_other_data(x):
    GaussianDecoder((2,), LATENT).check(x)
    GaussianDecoder((2,), LATENT, sigmoid=True).check(torch.tensor([[0.0, 1.0]]))
    with pytest.raises(ConfigurationError, match=r"decoder\.sigmoid: true keeps"):
        GaussianDecoder((2,), LATENT, sigmoid=True).check(x)


def test_gradient_of_gaussian_means_of_pictures():
    """Of -(x - sigmoid(l))^2 / (2 s^2) by the bias of l: (x - m) m (1 - m) / s^2."""
    decoder = GaussianDecoder((3,), LATENT, network=LINEAR, scale=0.5, sigmoid=True)
    z, x = torch.randn(4, LATENT), torch.rand(4, 3)
    (found,) = torch.autograd.grad(decoder(z).log_prob(x).sum(), decoder.network.layers[0].bias)
    mean = decoder.network(z).sigmoid()
    torch.testing.assert_close(found, ((x - mean) * mean * (1 - mean) / 0.25).sum(0))


@with_and_without_labels
def test_a_deterministic_encoder_is_a_point(classes):
    encoder, x, y = DeterministicEncoder((3,), LATENT, classes), torch.rand(4, 3), labels(classes)
    q, point = encoder(x, y), encoder.network(x, encoder.label(y, x))
    assert torch.equal(q.rsample((5,)), point.expand(5, 4, LATENT)) and torch.equal(q.rsample(), point)
    mean, deviation = q.moments(2)
    assert torch.equal(mean, point) and not deviation.any() and not mean.requires_grad
    with pytest.raises(NotImplementedError):
        q.log_prob(point)
    assert not hasattr(q, "rsample_and_log_prob")
    weights = torch.randn(5, 4, LATENT)
    jacobian_of = lambda z: torch.autograd.grad(z, [*encoder.parameters()])
    found, truth = jacobian_of((weights * q.rsample((5,))).sum()), jacobian_of((weights.sum(0) * point).sum())
    for one, other in zip(found, truth, strict=True):
        torch.testing.assert_close(one, other)


def rows_of(*tensors):
    """Rows of flat lists of numbers."""
    return zip(*(tensor.flatten(1).tolist() for tensor in tensors), strict=True)


@every_shape
def test_discretized_logistic_log_prob_by_hand(shape):
    """One scale for every dimension of x; the network's zero is a grey of 1/2."""
    decoder, z = perturbed(DiscretizedLogisticDecoder(shape, LATENT)), torch.randn(4, LATENT)
    x = torch.randint(256, (4, *shape)) / 255
    assert len(decoder.log_scale.unique()) == math.prod(shape)
    mean = decoder.network(z) + 0.5
    by_hand = DiscretizedLogistic(mean, decoder.log_scale.exp()).log_prob(x).flatten(1).sum(-1)
    torch.testing.assert_close(decoder(z).log_prob(x), by_hand)
    torch.testing.assert_close(decoder(z).mean, mean.clamp(0, 1))
    new = DiscretizedLogisticDecoder(shape, LATENT, scale=0.3)
    torch.testing.assert_close(new.log_scale, torch.full(shape, math.log(0.3)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_grey_values_of_eight_bits_are_accepted(dtype):
    """The two of binary data among them."""
    decoder, x = DiscretizedLogisticDecoder((256,), LATENT), torch.arange(256).to(torch.uint8).to(dtype) / 255
    decoder.check(x.expand(4, 256))
    decoder.check(x.round().expand(4, 256))


@pytest.mark.parametrize("x", [0.5 / 255, 254.9 / 255, -1 / 255, 256 / 255, 3 / 16, float("nan"), float("inf")])
def test_other_grey_values_are_refused(x):
    values = torch.zeros(4, 3)
    values[2, 1] = x
    with pytest.raises(ConfigurationError, match=r"^decoder: DiscretizedLogisticDecoder scores 8-bit pixels"):
        DiscretizedLogisticDecoder((3,), LATENT).check(values)


@pytest.mark.parametrize("x", [0.5, -1.0, 2.0, float("nan")])
def test_a_bernoulli_refuses_what_is_not_binary(x):
    values = torch.zeros(4, 3)
    BernoulliDecoder((3,), LATENT).check(values.round())
    values[2, 1] = x
    with pytest.raises(ConfigurationError, match=r"^data\.binarize: "):
        BernoulliDecoder((3,), LATENT).check(values)


@pytest.mark.parametrize("latent_dim", [1, 3])
def test_covariance_of_the_full_gaussian(latent_dim):
    """S (I + T) (I + T)^T S."""
    encoder, x = FullGaussianEncoder((3,), latent_dim), torch.rand(4, 3)
    mean, log_scale, triangle = encoder.network(x).tensor_split([latent_dim, 2 * latent_dim], -1)
    q = encoder(x)
    assert isinstance(q, TriangularNormal)
    torch.testing.assert_close(q.mean, mean)
    for row in range(4):
        unit = torch.eye(latent_dim)
        pairs = [(i, j) for i in range(latent_dim) for j in range(i)]
        for (i, j), value in zip(pairs, triangle[row], strict=True):
            unit[i, j] = value
        tril = log_scale[row].exp().diag() @ unit
        torch.testing.assert_close(q.covariance_matrix[row], tril @ tril.T)
        assert (tril.diagonal() > 0).all() and (tril.tril() == tril).all()


STARTS = {
    "affine flow": FlowEncoder,
    "spline flow": partial(FlowEncoder, kind="spline"),
}


@every(STARTS)
def test_it_starts_as_a_gaussian(part):
    encoder, x, noises = part((3,), LATENT), torch.rand(4, 3), []

    def record(shape, like):
        noises.append(torch.randn(shape))
        return noises[-1]

    with noise.use(record):
        z = encoder(x).rsample((200,))
    mean, log_scale = encoder.network(x)[:, : 2 * LATENT].chunk(2, -1)
    torch.testing.assert_close(z, mean + log_scale.exp() * noises[-1])


@pytest.mark.parametrize("narrow", [0.3, 0.8])
def test_a_semi_implicit_posterior_starts_as_a_gaussian(narrow):
    """mean + scale (sqrt(1 - narrow^2) e_1 + narrow eps): linear in two independent noises, hence N(mean, scale^2)."""
    encoder, x, noises = SemiImplicitEncoder((3,), LATENT, narrow=narrow), torch.rand(4, 3), []

    def record(shape, like):
        noises.append(torch.randn(shape))
        return noises[-1]

    with noise.use(record):
        q = encoder(x)
        z = q.rsample((200,))
    mean, log_scale = encoder.network(x)[:, : 2 * LATENT].chunk(2, -1)
    assert torch.equal(q.location, mean) and torch.equal(q.scale, log_scale.exp())
    e, eps = noises
    assert e.shape == (200, 4, LATENT + 8) and eps.shape == (200, 4, LATENT)
    unit = math.sqrt(1 - narrow**2) * e[..., :LATENT] + narrow * eps
    torch.testing.assert_close(z, mean + log_scale.exp() * unit)


def shift_and_width(encoder, x):
    """What the encoder adds to the linear part of its noise, and its w, in standard deviations of the start."""
    e = torch.randn(200, len(x), encoder.noise_dim)
    with noise.use(lambda shape, like: e):
        q = encoder(x)
        components = q.components(200)
    linear = math.sqrt(1 - encoder.narrow**2) * e[..., :LATENT]
    return (components.loc - q.location) / q.scale - linear, components.scale / q.scale


def bent(encoder, std):
    """The encoder far from its start."""
    torch.nn.init.normal_(encoder.shape[-1].layers[-1].weight, std=std)
    return encoder


@pytest.mark.parametrize("bound", [0.5, 3.0])
def test_the_shift_stays_in_its_bound(bound):
    shift, _ = shift_and_width(bent(SemiImplicitEncoder((3,), LATENT, bound=bound), 30.0), torch.rand(4, 3))
    assert shift.abs().max() <= bound + 1e-9
    assert shift.max() > 0.9 * bound and shift.min() < -0.9 * bound, "the bound was not reached"


@pytest.mark.parametrize("width_range", [0.0, 1.5])
def test_the_width_stays_in_its_range(width_range):
    encoder = bent(SemiImplicitEncoder((3,), LATENT, narrow=0.6, width_range=width_range), 30.0)
    log_width = (shift_and_width(encoder, torch.rand(4, 3))[1] / 0.6).log()
    assert log_width.abs().max() <= width_range + 1e-9
    assert log_width.max() >= 0.9 * width_range - 1e-9, "the range was not reached"
    assert log_width.min() <= 1e-9 - 0.9 * width_range, "the range was not reached"


def test_far_from_its_bound_the_shift_does_not_depend_on_it():
    encoders, x = [SemiImplicitEncoder((3,), LATENT, bound=bound) for bound in (0.5, 3.0)], torch.rand(4, 3)
    encoders[1].load_state_dict(bent(encoders[0], 1e-3).state_dict())
    shifts = []
    for encoder in encoders:
        torch.manual_seed(0)
        shifts.append(shift_and_width(encoder, x)[0])
    assert shifts[0].std() > 1e-4
    torch.testing.assert_close(*shifts, rtol=1e-2, atol=1e-6)


def test_nothing_but_location_scale_and_features_tells_rows_apart():
    """The law of (z - location) / scale: another row with the same features has the same."""
    encoder, x = perturbed(SemiImplicitEncoder((3,), LATENT, width_range=1.0)), torch.rand(4, 3)
    start = 2 * LATENT
    last = encoder.network.layers[-1]
    with torch.no_grad():
        last.weight[start:] = 0  # the same features for all rows
    q, index = encoder(x), torch.zeros(4, dtype=torch.int64)
    assert len(q.features.unique(dim=0)) == 1 and len(q.location.unique(dim=0)) == 4
    with noise.use(noise.RowNoise(index=index)):
        u = (q.rsample((5,)) - q.location) / q.scale
    torch.testing.assert_close(u, u[:, :1].expand_as(u))


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


REFUSED = [
    ("kind", partial(FlowEncoder, kind="cubic")),
    ("transforms", partial(FlowEncoder, transforms=0)),
    ("bins", partial(FlowEncoder, kind="spline", bins=1)),
    ("features", partial(FlowEncoder, features=0)),
    ("flow_hidden", partial(FlowEncoder, flow_hidden=(0,))),
    ("mixing", partial(SemiImplicitEncoder, mixing=0)),
    ("extra_noise", partial(SemiImplicitEncoder, extra_noise=-1)),
    ("bound", partial(SemiImplicitEncoder, bound=0.0)),
    ("narrow", partial(SemiImplicitEncoder, narrow=0.0)),
    ("narrow", partial(SemiImplicitEncoder, narrow=1.0)),
    ("width_range", partial(SemiImplicitEncoder, width_range=-0.1)),
    ("noise_hidden", partial(SemiImplicitEncoder, noise_hidden=())),
    ("noise_hidden", partial(SemiImplicitEncoder, noise_hidden=(0,))),
    ("draws", partial(GaussianContrast, draws=1)),
    ("hidden", partial(NoiseInjectionEncoder, hidden=())),
    ("noise_dim", partial(NoiseInjectionEncoder, noise_dim=0)),
    ("scale", partial(GaussianDecoder, scale=-1.0)),
    ("scale", partial(DiscretizedLogisticDecoder, scale=0.0)),
    ("activation", partial(GaussianEncoder, network=partial(MLP, activation="rellu"))),
]


@pytest.mark.parametrize(("name", "part"), REFUSED)
def test_what_makes_no_sense_is_refused_by_name(name, part):
    with pytest.raises(ConfigurationError, match=f"^{name}: "):
        part((3,), LATENT)
