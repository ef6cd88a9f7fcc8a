"""One contract for all networks; then what each of them promises."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import pytest
import torch
from monte_carlo import assert_mean
from torch import nn
from torch.autograd.functional import jacobian

from lightning_avb import noise
from lightning_avb.errors import ConfigurationError
from lightning_avb.networks.conv import ConvNet, DeconvNet, ResidualConv
from lightning_avb.networks.input_noise import InputNoise
from lightning_avb.networks.mlp import MLP, ResidualMLP
from lightning_avb.networks.noisy import NoisyMLP

pytestmark = pytest.mark.usefixtures("float64")

SMALL = {"channels": (3, 4), "hidden": (6,)}
NETWORKS = {
    "mlp": (MLP, (3,), (2,)),
    "mlp on pictures": (partial(MLP, hidden=(7,)), (2, 3, 4), (5, 1)),
    "input noise of none": (partial(InputNoise, network=partial(MLP, hidden=(7,))), (2, 3, 4), (5, 1)),
    "linear": (partial(MLP, hidden=()), (3,), (2, 2)),
    "residual mlp": (partial(ResidualMLP, width=8), (3, 2), (4,)),
    "conv": (partial(ConvNet, **SMALL), (2, 5, 3), (3, 2)),
    "conv with blocks": (partial(ConvNet, **SMALL, kernel=5, blocks=2), (6, 5), (3,)),
    "conv without hidden layers": (partial(ConvNet, channels=(3,), hidden=()), (1, 4, 4), (3,)),
    "deconv": (partial(DeconvNet, **SMALL), (3, 2), (2, 5, 3)),
    "deconv with blocks": (partial(DeconvNet, **SMALL, kernel=5, blocks=2), (3,), (6, 5)),
    "deconv without hidden layers": (partial(DeconvNet, channels=(3,), hidden=()), (3,), (1, 4, 4)),
}
SAMPLES, BATCH = 3, 4


def perturbed(module):
    """The module with its zero-initialised layers moved: they would block the first gradient of those before."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module


@pytest.mark.parametrize("context_dim", [0, 3])
@pytest.mark.parametrize("network, in_shape, out_shape", NETWORKS.values(), ids=NETWORKS)
class TestContract:
    def made(self, network, in_shape, out_shape, context_dim):
        context = torch.randn(BATCH, context_dim) if context_dim else None
        return perturbed(network(in_shape, out_shape, context_dim)), torch.rand(SAMPLES, BATCH, *in_shape), context

    def test_leading_dimensions_are_a_loop(self, network, in_shape, out_shape, context_dim):
        net, x, context = self.made(network, in_shape, out_shape, context_dim)
        together = net(x, context)
        assert together.shape == (SAMPLES, BATCH, *out_shape)
        for i in range(SAMPLES):
            torch.testing.assert_close(together[i], net(x[i], context))
            for j in range(BATCH):
                torch.testing.assert_close(together[i, j], net(x[i, j], None if context is None else context[j]))
        assert net(x[:, :0], None if context is None else context[:0]).shape == (SAMPLES, 0, *out_shape)

    def test_rows_do_not_see_each_other(self, network, in_shape, out_shape, context_dim):
        net, x, context = self.made(network, in_shape, out_shape, context_dim)
        by_x = jacobian(lambda x: net(x, context), x[0]).flatten(1, len(out_shape)).flatten(3).abs().sum((1, 3))
        assert (by_x.diagonal() > 0).all() and torch.equal(by_x, by_x.diagonal().diag())
        if context_dim:
            by_context = jacobian(lambda c: net(x[0], c), context).flatten(1, len(out_shape)).abs().sum(1)
            moved = by_context.movedim(0, -1)  # (row of the context, its dimensions, row of the output)
            assert (moved.diagonal(dim1=0, dim2=2) > 0).all()
            assert torch.equal(moved.sum(1), moved.sum(1).diagonal().diag())

    def test_every_sample_may_have_its_own_context(self, network, in_shape, out_shape, context_dim):
        net, x, _ = self.made(network, in_shape, out_shape, context_dim)
        if context_dim:
            context = torch.randn(SAMPLES, BATCH, context_dim)
            for i in range(SAMPLES):
                torch.testing.assert_close(net(x, context)[i], net(x[i], context[i]))

    def test_gradient_reaches_every_parameter(self, network, in_shape, out_shape, context_dim):
        net, x, context = self.made(network, in_shape, out_shape, context_dim)
        net(x, context).square().sum().backward()
        assert not [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]

    def test_another_context_than_agreed_is_an_error(self, network, in_shape, out_shape, context_dim):
        net, x, _ = self.made(network, in_shape, out_shape, context_dim)
        for given in {0, 2, 3} - {context_dim}:
            with pytest.raises(ValueError, match=f"context of {context_dim} dimensions was called with one of {given}"):
                net(x, torch.rand(BATCH, given) if given else None)


def concatenating(weight, context_weight, bias):
    """The layer that reads input and context as one vector."""
    return partial(nn.functional.linear, weight=torch.cat([weight, context_weight], 1), bias=bias)


@pytest.mark.parametrize("hidden", [(), (5,), (5, 4)])
def test_context_of_an_mlp_is_a_part_of_its_input(hidden):
    net, x, context = MLP((2, 3), (2,), 4, hidden, "tanh"), torch.randn(7, 2, 3), torch.randn(7, 4)
    first, *rest = net.layers
    h = concatenating(first.weight, net.context.linear.weight, first.bias)(torch.cat([x.flatten(1), context], 1))
    for layer in rest:
        h = layer(h)
    torch.testing.assert_close(net(x, context), h, rtol=1e-12, atol=1e-12)


def test_context_of_a_noisy_mlp_is_a_part_of_its_input():
    net, x, context = NoisyMLP((2, 3), 2, (5, 4), 3, context_dim=4), torch.randn(7, 2, 3), torch.randn(7, 4)
    first = concatenating(net.layers[0].weight, net.context.linear.weight, net.layers[0].bias)
    features = first(torch.cat([x.flatten(1), context], 1))
    torch.testing.assert_close(net.features(x, context), features, rtol=1e-12, atol=1e-12)
    eps = torch.randn(6, 7, 3)
    out = net(net.features(x, context), eps)
    assert out.shape == (6, 7, 2)
    out.sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


@pytest.mark.parametrize("context_dim", [0, 4])
def test_another_context_than_agreed_is_an_error_with_noise(context_dim):
    net = NoisyMLP((3,), 2, (5,), 3, context_dim)
    with pytest.raises(ValueError, match=f"context of {context_dim} dimensions"):
        net.features(torch.rand(7, 3), None if context_dim else torch.rand(7, 4))


@pytest.mark.parametrize("scale", [0.01, 0.5])
def test_weights_of_an_mlp_start_as_normal_as_they_are_told(scale):
    """Variance and fourth moment of each layer's, those of the context included; biases are 0."""
    net = MLP((100,), (100,), 100, (100,), init_scale=scale)
    matrices = [parameter for parameter in net.parameters() if parameter.ndim > 1]
    assert len(matrices) == 3
    assert not any(parameter.any() for parameter in net.parameters() if parameter.ndim == 1)
    with torch.no_grad():
        for matrix in matrices:
            w = matrix.flatten() / scale
            assert_mean(torch.stack([w, w**2, w**4], -1), torch.tensor([0.0, 1.0, 3.0]), resolution=0.6)


def test_without_a_scale_an_mlp_starts_as_torch_does():
    torch.manual_seed(0)
    net = MLP((20,), (3,), hidden=(5,))
    torch.manual_seed(0)
    layers = [nn.Linear(20, 5), nn.Linear(5, 3)]
    for found, truth in zip(net.parameters(), [p for layer in layers for p in layer.parameters()], strict=True):
        assert torch.equal(found, truth)


class Echo(nn.Module):
    """Returns input and context, whatever shape it was told."""

    def __init__(self, in_shape, out_shape, context_dim):
        super().__init__()

    def forward(self, x, context=None):
        return x if context is None else (x, context)


def noisy(**options):
    return InputNoise((3, 4), (3, 4), 0, Echo, **options)


@pytest.mark.parametrize("options", [{}, {"normal": 0.3}, {"dropout": 0.2}, {"normal": 0.3, "dropout": 0.2}], ids=str)
def test_input_is_noisy_in_training_alone(options):
    x, net = torch.rand(50, 3, 4), noisy(**options)
    first, second = net(x), net(x)
    assert torch.equal(first, x) is torch.equal(first, second) is (not options)
    assert torch.equal(net.eval()(x), x) and torch.equal(net.train()(x), x) is (not options)


def test_normal_noise_on_the_input():
    x = torch.rand(2000, 3, 4)
    eps = noisy(normal=0.3)(x) - x
    assert_mean(torch.stack([eps, eps**2, eps**4], -1).flatten(0, 2), torch.tensor([0, 0.3**2, 3 * 0.3**4]), 0.02)
    given = torch.randn(2000, 3, 4)
    with noise.use(lambda shape, like: given.view(shape)):
        torch.testing.assert_close(noisy(normal=0.3)(x), x + 0.3 * given)


def test_dropout_of_the_input():
    """Every value by itself; what stays keeps the mean. Behind normal noise, so that what is 0 stays 0."""
    x = torch.rand(2000, 3, 4) + 1
    for net in (noisy(dropout=0.2), noisy(dropout=0.2, normal=0.1)):
        out = net(x)
        assert_mean((out == 0).double(), 0.2, resolution=0.06)
        assert_mean(out - x, 0.0, resolution=0.1)
    kept = (out := noisy(dropout=0.2)(x)) != 0
    torch.testing.assert_close(out[kept], x[kept] / 0.8)


def test_noise_on_the_input_is_a_function_of_the_step():
    x, net = torch.rand(5, 3, 4), noisy(normal=0.3, dropout=0.2)
    draws = []
    for step in (7, 8, 7):
        noise.seed_step(0, step, 0)
        draws.append(net(x))
    assert torch.equal(draws[0], draws[2]) and not torch.equal(draws[0], draws[1])


def test_noise_on_the_input_leaves_the_context_alone():
    context, net = torch.rand(5, 2), InputNoise((3,), (3,), 2, Echo, 0.3, 0.2)
    assert torch.equal(net(torch.rand(5, 3), context)[1], context)


def test_without_context_checkpoints_keep_their_names():
    layers = [f"layers.{i}.{kind}" for i in (0, 2, 4) for kind in ("weight", "bias")]
    assert list(MLP((3,), (2,)).state_dict()) == layers
    noisy = {"layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias", "noise.0.weight", "noise.1.weight"}
    assert set(NoisyMLP((3,), 2, (5,), 3).state_dict()) == noisy


class ByHand:
    """The layers of a network in the order of its parameters."""

    def __init__(self, net):
        self.parameters = net.parameters()

    def linear(self, h):
        return h @ next(self.parameters).T + next(self.parameters)

    def conv(self, h, stride=1):
        return nn.functional.conv2d(h, next(self.parameters), next(self.parameters), stride, 1)

    def deconv(self, h, rest):
        return nn.functional.conv_transpose2d(h, next(self.parameters), next(self.parameters), 2, 1, rest)


@pytest.mark.parametrize("blocks", [0, 1, 3])
def test_residual_mlp_by_hand(blocks):
    net, x = ResidualMLP((3,), (2,), width=8, blocks=blocks, activation="tanh"), torch.randn(7, 3)
    by_hand = ByHand(net)
    h = by_hand.linear(x)
    for _ in range(blocks):
        h = h + by_hand.linear(by_hand.linear(h.tanh()).tanh())
    torch.testing.assert_close(net(x), by_hand.linear(h.tanh()))


@pytest.mark.parametrize("blocks", [0, 2])
def test_convolutions_by_hand(blocks):
    options = {**SMALL, "blocks": blocks, "activation": "tanh"}
    down = perturbed(ConvNet((2, 7, 4), (3,), **options))
    x, by_hand = torch.rand(5, 2, 7, 4), ByHand(down)
    h = x
    for _ in range(2):
        h = by_hand.conv(h, stride=2)
        for _ in range(blocks):
            h = h + by_hand.conv(by_hand.conv(h.tanh()).tanh())
        h = h.tanh()
    torch.testing.assert_close(down(x), by_hand.linear(by_hand.linear(h.flatten(1)).tanh()))

    up = perturbed(DeconvNet((3,), (2, 7, 4), **options))
    z, by_hand = torch.rand(5, 3), ByHand(up)
    h = by_hand.linear(by_hand.linear(z).tanh()).view(5, 4, 2, 1)
    for rest in ((1, 1), (0, 1)):
        for _ in range(blocks):
            h = h + by_hand.conv(by_hand.conv(h.tanh()).tanh())
        h = by_hand.deconv(h.tanh(), rest)
    torch.testing.assert_close(up(z), h)


SIZES = {
    (1, 28, 28): [(28, 28), (14, 14), (7, 7), (4, 4)],
    (48, 40): [(48, 40), (24, 20), (12, 10), (6, 5)],
    (3, 64, 64): [(64, 64), (32, 32), (16, 16), (8, 8)],
    (2, 7, 5): [(7, 5), (4, 3), (2, 2), (1, 1)],
    (3, 1, 6): [(1, 6), (1, 3), (1, 2), (1, 1)],
    (1, 1): [(1, 1)] * 4,
}


def sizes_of_inputs(net, kind, *arguments):
    """Height and width of what enters each layer of one kind, and of what the last of them returns."""
    sizes = []
    for layer in net.modules():
        if isinstance(layer, kind):
            layer.register_forward_hook(
                lambda _, inputs, output: sizes.append((inputs[0].shape[-2:], output.shape[-2:]))
            )
    net(*arguments)
    assert all(before[1] == after[0] for before, after in pairwise(sizes))
    return [tuple(size) for size, _ in sizes] + [tuple(sizes[-1][1])]


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_sizes_of_pictures(shape, kernel):
    options = {"channels": (2, 3, 2), "kernel": kernel, "hidden": (4,)}
    down, up = ConvNet(shape, (5,), **options), DeconvNet((5,), shape, **options)
    x, z = torch.rand(2, *shape), torch.rand(2, 5)
    assert down(x).shape == z.shape and up(z).shape == x.shape
    assert sizes_of_inputs(down, nn.Conv2d, x) == SIZES[shape]
    assert sizes_of_inputs(up, nn.ConvTranspose2d, z) == SIZES[shape][::-1]


@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_deconvolution_is_the_adjoint(shape):
    """<C x, y> = <x, C' y>: with the weights of the convolution, every pixel returns to where it came from."""
    down, up = ConvNet(shape, (1,), channels=(2,), kernel=5), DeconvNet((1,), shape, channels=(2,), kernel=5)
    down, up = down.convolutions[0], up.convolutions[-1]
    up.weight = down.weight
    x = torch.randn(2, *down.weight.shape[1:2], *SIZES[shape][0])
    y = torch.randn(2, 2, *SIZES[shape][1])
    assert not (down.bias.any() or up.bias.any())
    torch.testing.assert_close((down(x) * y).sum(), (x * up(y)).sum())


def test_grey_pictures_need_no_channel():
    with_channel, without = (ConvNet(shape, (2,), **SMALL) for shape in ((1, 6, 5), (6, 5)))
    without.load_state_dict(with_channel.state_dict())
    x = torch.rand(4, 1, 6, 5)
    assert torch.equal(with_channel(x), without(x[:, 0]))
    with_channel, without = (DeconvNet((2,), shape, **SMALL) for shape in ((1, 6, 5), (6, 5)))
    without.load_state_dict(with_channel.state_dict())
    assert torch.equal(with_channel(x[:, 0, 0, :2])[:, 0], without(x[:, 0, 0, :2]))


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("network", [ConvNet, DeconvNet])
def test_weights_keep_the_variance_at_the_start(network, kernel):
    """Of features max(0, N(0, 1)), from layer to layer, but for the border of a picture.

    They have mean 0.4 and mean square 0.5. Of a channel's mean square 1 the share 2 0.4^2 = 0.32 is the square of one
    normal number, hence an error of 0.32 2^0.5 / 8 = 0.06 over 64 channels.
    """
    shapes = ((64, 48, 48), (1,)) if network is ConvNet else ((1,), (64, 48, 48))
    net = network(*shapes, channels=(64,), kernel=kernel, hidden=())
    (layer,) = (layer for layer in net.convolutions if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d))
    features = torch.randn(4, 64, *net.stages[network is DeconvNet][1:]).relu()
    assert abs(layer(features).square().mean() - 1) < 5 * 0.06


def test_residual_block_begins_as_the_identity():
    block, h = ResidualConv(3, 3, "silu"), torch.randn(2, 3, 4, 4)
    assert torch.equal(block(h), h)


def test_sizes_of_the_authors():
    """Mescheder et al. (2017): 5x5 convolutions of stride 2, on MNIST and on CelebA."""
    mnist = {"channels": (16, 32, 32), "kernel": 5, "activation": "elu"}
    encoder = ConvNet((1, 28, 28), (64,), hidden=(800,), **mnist)
    decoder = DeconvNet((32,), (1, 28, 28), hidden=(300,), **mnist)
    convolutions = 25 * (1 * 16 + 16 * 32 + 32 * 32)
    count = lambda net: sum(p.numel() for p in net.parameters())
    assert count(encoder) == convolutions + 16 + 32 + 32 + 4 * 4 * 32 * 800 + 800 + 800 * 64 + 64
    assert count(decoder) == convolutions + 32 + 16 + 1 + 32 * 300 + 300 + 300 * 4 * 4 * 32 + 4 * 4 * 32
    celeba = ConvNet((3, 64, 64), (1,), channels=(64, 128, 256, 512), kernel=5, hidden=())
    assert count(celeba.dense) == 512 * 4 * 4 + 1


REFUSED = {
    "network: ConvNet needs pictures": partial(ConvNet, (3,), (2,)),
    "network: DeconvNet needs pictures": partial(DeconvNet, (3,), (2,)),
    "channels: a convolutional": partial(ConvNet, (1, 4, 4), (2,), channels=()),
    r"channels: \[3, 0\]": partial(ConvNet, (1, 4, 4), (2,), channels=(3, 0)),
    "kernel: 4 ": partial(DeconvNet, (2,), (1, 4, 4), kernel=4),
    "kernel: 1 ": partial(DeconvNet, (2,), (1, 4, 4), kernel=1),
    "blocks: -1 ": partial(ConvNet, (1, 4, 4), (2,), blocks=-1),
    "hidden: ": partial(ConvNet, (1, 4, 4), (2,), hidden=(0,)),
    "activation: 'rellu'": partial(DeconvNet, (2,), (1, 4, 4), activation="rellu"),
    "init_scale: 0.0 ": partial(MLP, (2,), (1,), init_scale=0.0),
    "normal: -0.1 ": partial(InputNoise, (2,), (1,), normal=-0.1),
    "dropout: 1.0 ": partial(InputNoise, (2,), (1,), dropout=1.0),
    "dropout: -0.1 ": partial(InputNoise, (2,), (1,), dropout=-0.1),
    "context_dim: -1 ": partial(MLP, (2,), (1,), context_dim=-1),
    "width: ": partial(ResidualMLP, (2,), (1,), width=0),
    "blocks: -2 ": partial(ResidualMLP, (2,), (1,), blocks=-2),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_makes_no_network_is_refused_by_name(message):
    with pytest.raises(ConfigurationError, match=f"^{message}"):
        REFUSED[message]()


def test_a_row_alone_is_not_normalised():
    network = MLP((3,), (2,), hidden=(4,), batch_norm=True)
    with pytest.raises(ConfigurationError, match=r"^batch_norm: a single row"):
        network(torch.randn(1, 3))
    assert network.eval()(torch.randn(1, 3)).shape == (1, 2)
