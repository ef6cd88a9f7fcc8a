"""Compiled networks compute what they compute as written, in training steps alone, and say what they cannot do."""

from __future__ import annotations

import copy
import pickle
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from small_models import ADAM, MODELS, SMALL, trainer, vae
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lightning_avb as avb
from datamodules import FourPoints
from lightning_avb import compiling
from lightning_avb.errors import ConfigurationError
from lightning_avb.models.vae import VAEPlayers
from lightning_avb.objectives import squared_slope

DATA = partial(FourPoints, batch_size=16, copies=100)


@pytest.fixture
def calls(monkeypatch):
    """The shapes of what compiled networks are called with; nothing is compiled."""
    found = []

    def watched(forward, **options):
        def call(*args, **kwargs):
            found.append(tuple(args[0].shape))
            return forward(*args, **kwargs)

        return call

    monkeypatch.setattr(torch, "compile", watched)
    return found


class Watch(pl.Callback):
    """Keeps the loss of every batch, and the model as it is copied, pickled and validated between training steps."""

    def __init__(self, calls=()) -> None:
        self.calls, self.losses, self.copies = calls, [], []

    def on_train_batch_end(self, trainer, module, *_) -> None:
        self.losses.append(float(trainer.callback_metrics.get("train/model_loss", torch.nan)))
        self.copies = [copy.deepcopy(module.encoder), pickle.loads(pickle.dumps(module.decoder))]
        assert not any("forward" in vars(part) for part in module.modules())

    def on_validation_start(self, *_) -> None:
        self.before = len(self.calls)

    def on_validation_end(self, *_) -> None:
        assert len(self.calls) == self.before


def test_networks_are_compiled_in_training_steps_alone(tmp_path, calls, caplog):
    model, watch = vae(compile=True), Watch(calls)
    save = ModelCheckpoint(tmp_path, save_last=True)
    run = trainer(tmp_path, max_steps=5, val_check_interval=2, callbacks=[watch, save])
    with caplog.at_level("INFO"):
        run.fit(model, DATA())
    assert calls == [(16, 4), (1, 16, 2)] * 5
    said = [record.message for record in caplog.records if record.message.startswith("model.compile")]
    assert said[0].startswith("model.compile: encoder.network, decoder.network, 100% of the weights")
    assert said[1].startswith("model.compile: the first step took ") and len(said) == 2
    calls.clear()
    trainer(tmp_path).test(model, DATA(), verbose=False)
    watch.copies[0](torch.zeros(3, 4))
    loaded = avb.VAE.load_from_checkpoint(tmp_path / "last.ckpt")
    assert loaded.hparams["compile"] and loaded.state_dict().keys() == vae(data_shape=(4,)).state_dict().keys()
    assert not copy.deepcopy(model).compilation.forwards and not calls


def test_noise_is_drawn_outside_of_what_is_compiled():
    noisy = partial(avb.InputNoise, network=SMALL, normal=0.1)
    model = vae(data_shape=(4,))
    model.encoder = avb.GaussianEncoder((4,), 2, network=noisy)
    model.critic = avb.ResidualCritic((4,), 2, network=noisy)
    found = [name for name, _ in compiling._outermost(model)]
    assert found == ["encoder.network.network", "decoder.network", "critic.x_branch.network"]


def test_gradients_that_are_differentiated_again_are_of_networks_as_written(tmp_path, calls):
    trainer(tmp_path, max_steps=1, num_sanity_val_steps=0).fit(MODELS["gan"](compile=True), DATA())
    # Generator and discriminator; then both again, for the second step. The penalties' passes have 16 rows each.
    assert calls == [(16, 2), (2, 16, 4)] * 2


class Own(nn.Module):
    """A network of one's own."""

    def __init__(self, in_shape, out_shape, context_dim=0) -> None:
        super().__init__()
        self.linear = nn.Linear(in_shape[0], out_shape[0])

    def forward(self, x, context=None):
        return self.linear(x)


def test_a_model_without_a_known_network_is_refused(tmp_path):
    encoder, decoder = partial(avb.GaussianEncoder, network=Own), partial(avb.BernoulliDecoder, network=Own)
    with pytest.raises(ConfigurationError, match=r"model.compile: none of the model's networks is a MLP, .*leave it"):
        trainer(tmp_path, max_steps=1).fit(avb.VAE(2, encoder, decoder, compile=True), DATA())


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("TorchDynamoException", r"torch cannot compile this model here: no compiler; it needs a C\+\+ compiler"),
        ("FailOnRecompileLimitHit", r"more than 64 graphs, one for every size of a batch"),
    ],
)
def test_what_torch_cannot_compile_is_one_line(tmp_path, monkeypatch, error, message):
    def refuse(*_):
        from torch._dynamo import exc

        raise getattr(exc, error)("\nno compiler\nmore")

    monkeypatch.setattr(torch, "compile", lambda forward, **_: refuse)
    model = vae(compile=True)
    with pytest.raises(ConfigurationError, match=f"model.compile: {message}"):
        trainer(tmp_path, max_steps=1).fit(model, DATA())
    assert not any("forward" in vars(part) for part in model.modules())


@pytest.fixture
def traced(monkeypatch):
    """Networks are traced, which is most of what can fail, and not translated to C++."""
    monkeypatch.setattr(compiling, "OPTIONS", {**compiling.OPTIONS, "backend": "eager", "options": None})
    yield
    torch.compiler.reset()


@pytest.mark.slow
def test_too_many_shapes_end_the_run(tmp_path, traced, monkeypatch):
    monkeypatch.setattr(compiling, "GRAPHS", 2)
    rows = torch.eye(4)[torch.arange(5) % 4]
    loader = DataLoader(TensorDataset(rows), batch_sampler=[[0], [0, 1], [0, 1, 2]])
    few = torch._dynamo.config.patch(recompile_limit=2)
    with few, pytest.raises(ConfigurationError, match=r"model.compile: more than 2 graphs"):
        trainer(tmp_path, max_epochs=1).fit(vae(compile=True, data_shape=(4,)), loader)


@pytest.mark.slow
def test_every_shape_has_a_graph_of_its_own(monkeypatch):
    """A graph for any number of rows would be met or not, depending on the shapes before it."""
    sizes = []

    def backend(graph, inputs):
        sizes.append({size for one in inputs for size in one.shape})
        return graph

    monkeypatch.setattr(compiling, "OPTIONS", {**compiling.OPTIONS, "backend": backend, "options": None})
    forward = compiling._switched(avb.MLP((4,), (2,), hidden=(8,)).forward)
    for rows in (3, 5, 7):
        forward(torch.zeros(rows, 4))
    torch.compiler.reset()
    assert [all(type(size) is int for size in found) for found in sizes] == [True] * 3


class Printing(avb.MLP):
    """What torch cannot trace."""

    def forward(self, x, context=None):
        return super().forward(x + float(str(x.sum().item())) * 0, context)


@pytest.mark.slow
def test_what_cannot_be_traced_is_said(tmp_path, traced):
    encoder = partial(avb.GaussianEncoder, network=partial(Printing, hidden=(8,)))
    with pytest.raises(ConfigurationError, match=r"model.compile: torch cannot compile this model here: .* leave it"):
        trainer(tmp_path, max_steps=1).fit(avb.VAE(2, encoder, compile=True), DATA())


@pytest.mark.slow
def test_without_a_compiler_it_is_said(tmp_path):
    from torch._inductor import config
    from torch._inductor.utils import fresh_cache

    without = config.patch({"cpp.cxx": (None, "nonesuch")})
    with without, fresh_cache(), pytest.raises(ConfigurationError, match=r"No working C\+\+ compiler.*g\+\+"):
        trainer(tmp_path, max_steps=1).fit(vae(compile=True), DATA())


def losses_and_gradients(tmp_path, make, precision, steps=3):
    """Of a few steps, as written and compiled."""
    from test_game import Watch as Gradients

    ends = []
    for compile in (False, True):
        pl.seed_everything(0)
        losses, gradients = Watch(), Gradients()
        options = {"precision": precision, "log_every_n_steps": 1, "limit_val_batches": 0}
        run = trainer(tmp_path, max_steps=steps, callbacks=[losses, gradients], **options)
        run.fit(make(compile=compile), DATA())
        ends.append((torch.tensor(losses.losses), [g for _, step in gradients.steps for g in step]))
    return ends


DROPOUT = partial(avb.GaussianEncoder, network=partial(avb.MLP, hidden=(8,), dropout=0.5))
DROPPED = partial(avb.VAE, 2, DROPOUT, players=VAEPlayers(avb.Player(ADAM)))


@pytest.mark.slow
@pytest.mark.parametrize("make", [vae, DROPPED, MODELS["avb_ac"], MODELS["avb_score"]])
@pytest.mark.parametrize(("precision", "tolerance"), [("32-true", 1e-5), ("bf16-mixed", 0.05)])
def test_compiled_losses_and_gradients_are_those_as_written(tmp_path, make, precision, tolerance):
    (losses, gradients), (compiled, others) = losses_and_gradients(tmp_path, make, precision)
    assert torch.isfinite(losses).all()
    torch.testing.assert_close(compiled, losses, rtol=tolerance, atol=tolerance)
    for one, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(other, one, rtol=tolerance, atol=tolerance)


@pytest.mark.slow
def test_torch_still_refuses_to_differentiate_twice_what_is_compiled():
    """Why penalties need networks as written."""
    network = avb.MLP((3,), ())
    compiled = torch.compile(network.forward, backend="aot_eager", **compiling.OPTIONS | {"options": None})
    with pytest.raises(RuntimeError, match="double backward"):
        squared_slope(compiled, [torch.zeros(2, 3)]).sum().backward()
