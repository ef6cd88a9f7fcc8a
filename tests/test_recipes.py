"""What is written down as plain values is read back as the same thing, and nothing else is called."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch.optim import SGD, Adam

from lightning_avb import (
    AVB,
    MLP,
    VAE,
    Cosine,
    FlowEncoder,
    FlowPrior,
    GaussianContrast,
    GaussianEncoder,
    MixturePrior,
    Player,
    Posterior,
    ResidualCritic,
    SemiImplicitEncoder,
    targets,
)
from lightning_avb.errors import ConfigurationError
from lightning_avb.models.avb import AVBPlayers
from lightning_avb.recipes import from_config, locate, to_config

VALUES = {
    "nothing": None,
    "number": 1.5,
    "list": [1, 2.5, "three", None, True],
    "dict": {"a": {"b": [1, 2]}},
    "class": GaussianEncoder,
    "partial": partial(ResidualCritic, width=32),
    "nested": partial(GaussianEncoder, network=partial(MLP, hidden=[8, 8])),
    "critic with a network": partial(ResidualCritic, network=partial(MLP, hidden=[4])),
    "contrast": partial(GaussianContrast, draws=16),
    "flow with a network": partial(FlowEncoder, network=partial(MLP, hidden=[4]), kind="affine", flow_hidden=[8]),
    "prior": partial(FlowPrior, kind="spline", hidden=[8]),
    "parts in a list": [MLP, partial(MLP, hidden=[3])],
    "player": Player(partial(SGD, lr=0.1), partial(Cosine, total=10), clip_norm=2.0, steps=3),
    "players": AVBPlayers(Player(), Player(partial(Adam, lr=1e-4, betas=[0.5, 0.999]), steps=2)),
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_round_trip(value):
    written = to_config(value)
    assert json.loads(json.dumps(written)) == written
    assert to_config(from_config(written)) == written


def test_three_spellings_of_one_thing():
    path = {"class_path": "lightning_avb.networks.mlp.MLP", "init_args": {"hidden": [8]}}
    assert to_config(partial(MLP, hidden=(8,))) == to_config(path) == path
    assert to_config(MLP) == path | {"init_args": {}}
    for made in (from_config(path), from_config(to_config(partial(MLP, hidden=(8,))))):
        network = made((2,), (3,))
        assert isinstance(network, MLP) and network(torch.zeros(5, 2)).shape == (5, 3)
        assert network.layers[0].out_features == 8


def test_nested_recipes_build():
    encoder = from_config(to_config(VALUES["nested"]))((2,), 3)
    assert isinstance(encoder, GaussianEncoder) and encoder.network.layers[0].out_features == 8


def test_a_model_is_made_again_from_what_it_wrote_down():
    """All its parts, those inside parts too."""
    encoder = partial(SemiImplicitEncoder, network=partial(MLP, hidden=(5,)), mixing=3)
    critic, contrast = VALUES["critic with a network"], VALUES["contrast"]
    model = AVB(2, encoder, critic=critic, contrast=contrast, prior=partial(MixturePrior, components=3), samples=2,
                gradient_penalty=0.5, conditional=True, weight_prior=2.0, data_shape=(4,), classes=3)  # fmt: skip
    written = json.loads(json.dumps({key: value for key, value in model.hparams.items() if key != "_class_path"}))
    again = AVB(**written)
    assert {name: p.shape for name, p in again.named_parameters()} == {n: p.shape for n, p in model.named_parameters()}
    assert (again.classes, again.gradient_penalty, again.weight_prior, again.encoder.mixing) == (3, 0.5, 2.0, 3)
    assert again.encoder.network.layers[0].out_features == 5 and again.density_ratio.contrast.draws == 16
    assert again.density_ratio.critic.x_branch.layers[0].out_features == 4
    assert again.hparams == model.hparams


def test_a_dataclass_comes_back_as_its_value():
    player = from_config(to_config(VALUES["player"]))
    assert isinstance(player, Player) and (player.clip_norm, player.steps) == (2.0, 3)
    optimizer = player.optimizer([torch.nn.Parameter(torch.zeros(1))])
    assert isinstance(optimizer, SGD) and optimizer.defaults["lr"] == 0.1
    assert isinstance(player.scheduler(optimizer), Cosine)


def test_other_values_stay_themselves():
    assert from_config(MLP) is MLP
    assert from_config("os.system") == "os.system"
    assert from_config({"a": 1}) == {"a": 1}


def local_parts():
    class Local(torch.nn.Module):
        pass

    @dataclass
    class LocalPlayers:
        model: Player = Player()

    return {
        "lambda": lambda: None,
        "local class": Local,
        "partial of a local class": partial(Local),
        "local dataclass": LocalPlayers(),
        "function": to_config,
        "partial of a function": partial(to_config, name="x"),
        "tensor": torch.zeros(1),
        "positional argument": partial(MLP, (4,)),
    }


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (GaussianEncoder((3,), 2), "this GaussianEncoder is made already and .*partial\\(GaussianEncoder, opt"),
        (torch.nn.Sequential(torch.nn.Linear(3, 4)), "this Sequential is made already and cannot be stored"),
        (Adam([torch.nn.Parameter(torch.zeros(1))]), "this Adam is made already and cannot be stored"),
        (lambda shape, dim, classes: None, "a lambda cannot be stored in a checkpoint; give a class that can be im"),
        (partial(to_config, name="x"), "the function to_config cannot be stored"),
        (local_parts()["local class"], "the class local_parts.<locals>.Local cannot be stored"),
        (partial(MLP, (4,)), "MLP has options without a name, \\(\\(4,\\),\\); give a class"),
        ("GaussianEncoder", "'GaussianEncoder' makes nothing; give a class or functools.partial"),
        (7, "7 makes nothing; give a class"),
    ],
)
def test_what_is_no_recipe_is_refused_in_one_line(part, said):
    for name, model in (("encoder", partial(VAE, 2)), ("sampler", partial(Posterior, targets.Ring))):
        with pytest.raises(ConfigurationError, match=f"^{name}: {said}") as error:
            model(**{name: part})
        assert "\n" not in str(error.value)


class Outer:
    class Inner(torch.nn.Module):
        pass


@pytest.mark.parametrize("part", local_parts().values(), ids=local_parts())
def test_what_cannot_be_made_again_is_refused_by_name(part):
    for value, name in ((part, "critic"), ({"hidden": [1, part]}, r"critic\.hidden\[1\]")):
        with pytest.raises(ConfigurationError, match=f"^{name}: "):
            to_config(value, "critic")


def test_a_class_inside_a_class_is_read_back_or_refused():
    try:
        written = to_config(Outer.Inner, "critic")
    except ConfigurationError:
        return
    assert isinstance(from_config(written)(), Outer.Inner)


def test_numbers_of_other_libraries_become_plain():
    """A checkpoint with a numpy scalar in it does not open with weights_only=True."""
    numpy = pytest.importorskip("numpy")
    assert type(to_config(numpy.float64(0.1))) is float


@pytest.mark.parametrize("path", ["os.system", "subprocess.Popen", "builtins.eval", "torch.load", "torch.Tensor"])
def test_a_checkpoint_cannot_call_anything_else(path):
    with pytest.raises(ConfigurationError, match=f"'{path}' is no module, optimizer or scheduler"):
        from_config({"encoder": {"class_path": path, "init_args": {}}})


def test_the_nearest_name_of_a_module_is_suggested():
    for path, near in (("lightning_avb.networks.mlp.MPL", "MLP"), ("lightning_avb.gaussianencoder", "GaussianEncoder")):
        with pytest.raises(ConfigurationError, match=rf"^encoder: there is no '{path}'; did you mean {near}\?$"):
            locate(path, "encoder")


@pytest.mark.parametrize("path", ["lightning_avb.Nothing", "no_such_package.Thing", "Thing", ""])
def test_a_path_that_leads_nowhere(path):
    with pytest.raises(ConfigurationError, match=r"^class_path: there is no"):
        from_config({"class_path": path})
