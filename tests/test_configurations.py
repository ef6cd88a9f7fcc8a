"""The configurations: short, measured, and silent about everything that the code says already."""

from __future__ import annotations

import dataclasses
import inspect
import re
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import yaml

from lightning_avb import AVB, VAE, CategoricalAAE
from lightning_avb.cli.training import CLI
from lightning_avb.recipes import locate, to_config

CONFIGS = Path(__file__).parents[1] / "configs"
UNMEASURED = CONFIGS / "unmeasured"
PATHS = sorted(path for path in CONFIGS.rglob("*.yaml") if path.parent.name != "trainer")
HEADER = ("Command", "Hardware", "Duration", "Expected")
NOTHING = object()
LONG = {
    "mnist/aae_embedding": 23,
    "mnist/aae_semi": 21,
    "unmeasured/celeba/avb": 31,
    "unmeasured/celeba/avb_ac": 30,
    "unmeasured/celeba/vae": 21,
    "unmeasured/cifar10/avb_ac": 25,
    "unmeasured/cifar10/iaf": 23,
    "unmeasured/mnist/avb_ac_conv": 21,
    "unmeasured/mnist/avb_ac_conv32": 21,
    "unmeasured/mnist/avb_conv": 22,
    "unmeasured/mnist/avb_conv32": 22,
    "unmeasured/svhn/avb_ac": 25,
    "unmeasured/svhn/iaf": 23,
}
"""The configurations of more than 20 lines, without their headers."""


def name(path: Path) -> str:
    return path.relative_to(CONFIGS).with_suffix("").as_posix()


def arguments(target: type, given: dict[str, Any]) -> dict[str, Any]:
    """What a class is called with: its own defaults, and what is given in their place."""
    parameters = inspect.signature(target).parameters.values()
    own = {p.name: to_config(p.default) for p in parameters if p.default is not p.empty}
    return {**own, **given}


def repeated(node: Any, default: Any, where: str) -> Iterator[str]:
    """The keys of a configuration whose value is the default at their place, and those that their class does not have.

    Args:
        node: a value of the configuration.
        default: what stands there if nothing is said, as `to_config` writes it; NOTHING: it has to be said.
        where: the key.
    """
    stands = isinstance(default, dict) and "class_path" in default
    named = isinstance(node, dict) and "class_path" in node
    if not stands and not named:
        if default is not NOTHING and node == default:
            yield where
        return
    before, inherited = (locate(default["class_path"]), default["init_args"]) if stands else (None, {})
    if node is None:
        return
    if isinstance(node, str):
        node, named = {"class_path": node}, True
    target = locate(node["class_path"]) if named else before
    if named and target is before:
        yield f"{where}.class_path"
    if before is not None and target is not before:
        # LightningCLI keeps what two classes have in common when one takes the place of the other.
        accepted = inspect.signature(target).parameters
        inherited = {key: value for key, value in arguments(before, inherited).items() if key in accepted}
    expected, parameters = arguments(target, inherited), inspect.signature(target).parameters
    for key, value in (node.get("init_args") or {} if named else node).items():
        if key not in parameters and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            yield f"{where}.{key}"
        yield from repeated(value, expected.get(key, NOTHING), f"{where}.{key}")


def all_repeated(configuration: dict[str, Any]) -> list[str]:
    trainer = arguments(pl.Trainer, {})
    found = [key for key, value in configuration["trainer"].items() if value == trainer[key]]
    for part in ("model", "data"):
        node = configuration[part]
        found += repeated({"class_path": node} if isinstance(node, str) else node, NOTHING, part)
    return found


@pytest.mark.parametrize("path", PATHS, ids=name)
def test_no_value_repeats_a_default(path):
    assert all_repeated(yaml.safe_load(path.read_text())) == []


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        ("encoder", {"noise_hidden": [64, 64]}, "model.encoder.noise_hidden"),
        ("encoder", {"network": {"hidden": [128, 128]}}, "model.encoder.network.hidden"),
        (
            "critic",
            {"class_path": "lightning_avb.ScoreNetwork", "init_args": {"width": 9}},
            "model.critic.class_path",
        ),
        ("contrast", "lightning_avb.GaussianContrast", "model.contrast.class_path"),
        ("players", {"critic": {"steps": 1}}, "model.players.critic.steps"),
        ("players", {"critic": {"optimizer": {"lr": 2.0e-3}}}, "model.players.critic.optimizer.lr"),
        ("samples", 1, "model.samples"),
        ("sampels", 2, "model.sampels"),
        # A network of another kind keeps the widths of the one before.
        (
            "encoder",
            {"network": {"class_path": "lightning_avb.ConvNet", "init_args": {"hidden": [128, 128]}}},
            "model.encoder.network.hidden",
        ),
    ],
)
def test_a_repeated_default_is_found(key, value, found):
    configuration = yaml.safe_load((CONFIGS / "digits" / "avb_si.yaml").read_text())
    configuration["model"]["init_args"][key] = value
    assert all_repeated(configuration) == [found]


@pytest.mark.parametrize("path", PATHS, ids=name)
def test_a_header_says_what_to_expect(path):
    title, *lines = (line for line in path.read_text().splitlines() if line.startswith("#"))
    said = dict(line[2:].split(maxsplit=1) for line in lines)
    assert re.fullmatch(r"# [A-Z].*\.", title)
    assert tuple(said) == HEADER
    assert re.fullmatch(rf"lightning-avb fit --config {name(path)}( --\S+ \S+)*", said["Command"])
    measured = {key: said[key] for key in ("Duration", "Expected") if said[key] != "not yet measured"}
    assert set(measured) == (set() if path.is_relative_to(UNMEASURED) else {"Duration", "Expected"})
    assert "seed" in said["Expected"] or path.is_relative_to(UNMEASURED)


def test_a_typical_configuration_is_short():
    lines = {name(path): sum(line[0] != "#" for line in path.read_text().splitlines()) for path in PATHS}
    assert statistics.median(lines.values()) <= 15
    assert {name: count for name, count in lines.items() if count > 20} == LONG


def built(monkeypatch, *options):
    """The model that a command line makes."""
    models = []

    class Instantiate(CLI):
        def _run_subcommand(self, subcommand):
            models.append(self.model)

    monkeypatch.setattr(sys, "argv", ["lightning-avb", "fit", *options])
    Instantiate()
    return models[0]


def optimizers(model):
    """What `configure_optimizers` would make of the players, without a trainer."""
    made = {player: model.players[player].optimizer(model.parameters_of(player)) for player in model.players}
    return {player: (type(optimizer), optimizer.defaults) for player, optimizer in made.items()}


@pytest.mark.usefixtures("command")
@pytest.mark.parametrize(
    ("method", "model", "latent_dim"), [(AVB, "avb_si", 4), (VAE, "vae", 4), (CategoricalAAE, "aae_semi", 5)]
)
def test_python_without_another_word_is_the_configuration_of_the_digits(
    method, model, latent_dim, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    models = [built(monkeypatch, "--config", str(CONFIGS / "digits" / f"{model}.yaml")), method(latent_dim=latent_dim)]
    for each in models:
        torch.manual_seed(0)
        each.build_if_known(data_shape=(1, 8, 8), classes=10)
    theirs, ours = ([p for p in each.parameters()] for each in models)
    assert all(torch.equal(a, b) for a, b in zip(theirs, ours, strict=True))
    assert optimizers(models[0]) == optimizers(models[1])
    assert [dataclasses.replace(player, optimizer=None, scheduler=None) for player in models[0].players.values()] == [
        dataclasses.replace(player, optimizer=None, scheduler=None) for player in models[1].players.values()
    ]


@pytest.mark.usefixtures("command")
def test_a_part_of_a_default_recipe_can_be_changed(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    options = ("--model.players.critic.optimizer.lr=0.005", "--model.critic.network.hidden=[8]")
    model = built(monkeypatch, "--config", str(CONFIGS / "digits" / "avb_si.yaml"), *options)
    model.build_if_known(data_shape=(1, 8, 8), classes=10)
    kind, settings = optimizers(model)["critic"]
    assert kind is torch.optim.Adam
    assert settings["lr"] == 0.005
    assert settings["fused"]
    assert model.divergence.critic.x_branch.layers[0].out_features == 8
    assert model.divergence.critic.head.in_features == 128
