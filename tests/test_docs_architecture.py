"""The tables of docs/architecture.md are those of the tree."""

from __future__ import annotations

import ast
import configparser
import graphlib
import re
from collections import defaultdict
from functools import partial
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from small_models import ACROSS_ROWS, MODELS, POSTERIORS, SMALL, trainer
from torch.utils.data import DataLoader

import lightning_avb as avb
from datamodules import Digits, NoData
from lightning_avb.batch import Batch
from lightning_avb.errors import ConfigurationError

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lightning_avb"
PAGE = (ROOT / "docs/architecture.md").read_text()
ROOMS = {path.name + "/" * path.is_dir() for path in PACKAGE.iterdir() if not path.name.startswith(("_", "py."))}


def section(heading: str) -> str:
    """What stands under a heading, up to the next one of its level or above."""
    level = heading.index(" ")
    return re.split(rf"^#{{1,{level}}} ", PAGE.partition(f"\n{heading}\n")[2], maxsplit=1, flags=re.M)[0]


def table(heading: str, number: int = 0) -> list[list[str]]:
    """The rows of a section's table of that number, without its head; cells as they are written."""
    tables = re.findall(r"(?:^\|.*\n)+", section(heading), re.M)
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in tables[number].splitlines()[2:]]
    return [[cell.strip() for cell in row] for row in rows]


def codes(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.py") if not path.name.startswith("_")}


def imported(path: Path) -> set[str]:
    """The modules of this project that a file imports, also inside its functions, with their full names."""
    here, found = path.relative_to(ROOT).parent.parts, set()
    nodes = [ast.parse(path.read_text())]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            continue
        nodes += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = here[: len(here) - node.level + 1] if node.level else ()
            module = ".".join([*parts, *([node.module] if node.module else [])])
            named = {f"{module}.{alias.name}" for alias in node.names if not alias.name.startswith("__")}
            found |= {name if is_module(name) else module for name in named}
    return {name for name in found if name.split(".")[0] in ("lightning_avb", "datamodules")}


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def room(module: str) -> str:
    """The row of the table in which a module stands; the package itself stands below all."""
    part = module.split(".")[1:2]
    return next((name for name in ROOMS if part == [name.removesuffix("/").removesuffix(".py")]), "")


# Files.


def test_every_file_of_the_package_is_in_the_table():
    rows = [codes(row[0]) for row in table("## Files")]
    assert all(len(row) == 1 for row in rows)
    assert sorted(name for (name,) in rows) == sorted(ROOMS)


def test_a_row_that_names_files_of_its_folder_names_all():
    for first, text in table("## Files"):
        (name,) = codes(first)
        named = {code for code in codes(text) if code.endswith(".py") and code not in ROOMS}
        if name.endswith("/") and named:
            assert named == files(PACKAGE / name), name


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_only_what_stands_above_it(path):
    place = {name: number for number, ((name,), _) in enumerate((codes(row[0]), row[1]) for row in table("## Files"))}
    mine = path.relative_to(PACKAGE).parts[0] + "/" * (len(path.relative_to(PACKAGE).parts) > 1)
    if mine.startswith("__"):
        return
    for module in imported(path):
        if module.startswith("lightning_avb"):
            theirs = room(module)
            assert theirs, f"{module} is the package itself, or nothing of it"
            assert theirs == mine or place[theirs] < place[mine], module


def test_no_file_imports_itself_by_way_of_others():
    graph = {}
    for package in ("lightning_avb", "datamodules"):
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            if parts[-1] != "__init__":
                graph[".".join(parts)] = imported(path)
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) >= len(graph)


def test_what_is_said_of_the_imports_of_other_folders():
    (models,) = re.findall(r"Models import nothing of (.*?), and", section("## Files"), re.S)
    (data,) = re.findall(r"`datamodules` imports (.*?)\s+of the package", section("## Files"), re.S)
    used = {name for path in (PACKAGE / "models").glob("*.py") for name in imported(path)}
    assert codes(models) and not {room(name).removesuffix("/").removesuffix(".py") for name in used} & {*codes(models)}
    used = {name for path in (ROOT / "datamodules").glob("*.py") for name in imported(path)}
    rooms = {room(name).removesuffix(".py").removesuffix("/") for name in used if name.startswith("lightning_avb")}
    assert rooms - {"datamodules"} == {*codes(data)}


def test_every_file_of_evaluation_is_in_its_table():
    named = [code for row in table("## Evaluation") for code in codes(row[0])]
    assert sorted(named) == sorted(files(PACKAGE / "evaluation"))


def test_every_distribution_of_the_table_is_one_of_the_library():
    named = {codes(row[0])[0] for row in table("### Distributions")}
    written = {
        name
        for name, kind in vars(avb.distributions).items()
        if isinstance(kind, type) and issubclass(kind, torch.distributions.Distribution)
    }
    assert named == written


# Dependencies.


def packages(requirements: str) -> set[str]:
    """The names of packages, without versions."""
    return {re.split(r"[ <>=]", line, maxsplit=1)[0] for line in requirements.split("\n") if line}


def test_every_dependency_has_its_row():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert {codes(row[0])[0] for row in table("## Dependencies")} == packages(setup["options"]["install_requires"])
    extras = {codes(row[0])[0]: {*codes(row[1])} for row in table("## Dependencies", 1)}
    assert extras == {
        extra: {name.partition("[")[0] for name in packages(lines)}
        for extra, lines in setup["options.extras_require"].items()
    }


# What is logged.


class Names(Logger):
    """Keeps the names of what is logged."""

    name = version = "names"

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def log_hyperparams(self, *_: object, **__: object) -> None:
        pass

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.seen |= set(metrics) - {"epoch"}


LEVELS = partial(avb.DiscretizedLogisticDecoder, network=SMALL)
NOISE = partial(avb.NoiseInjectionEncoder, hidden=(8,))
WITH_LEVELS = {
    "vae": partial(avb.VAE, 2, partial(avb.GaussianEncoder, network=SMALL), LEVELS),
    "avb": partial(avb.AVB, 2, NOISE, LEVELS, partial(avb.ResidualCritic, width=8, blocks=1, network=SMALL)),
    "avb_si": partial(
        avb.AVB,
        2,
        partial(avb.SemiImplicitEncoder, network=SMALL),
        LEVELS,
        components=2,
        critic=partial(avb.ScoreNetwork, width=8, blocks=1, network=SMALL),
    ),
}
"""Models that have figures in bits."""


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """{name: {class of model: stages}} over all small models, one step and one batch of validation each."""
    found = defaultdict(lambda: defaultdict(set))
    for make in (*MODELS.values(), *ACROSS_ROWS.values(), *POSTERIORS.values(), *WITH_LEVELS.values()):
        pl.seed_everything(0, verbose=False)
        model, log = make(), Names()
        streams = {"labels": 100, "labelled_per_batch": 20} if getattr(model, "classifier", None) else {}
        posterior = isinstance(model, avb.Posterior)
        data = NoData(1) if posterior else Digits(64, binarize="dynamic", **streams)
        run = trainer(
            tmp_path_factory.mktemp("logged"), max_epochs=1, limit_train_batches=1, limit_val_batches=1,
            num_sanity_val_steps=0, log_every_n_steps=1, enable_checkpointing=False, logger=log,
        )  # fmt: skip
        run.fit(model, data)
        for name in log.seen:
            stage, _, name = name.partition("/")
            found[name][type(model).__name__].add(stage)
    return found


def test_every_name_that_is_logged_is_in_the_table_and_no_other(logged):
    written = {}
    for names, _, _, stages, models in table("### What is logged"):
        for name in codes(names):
            written[name] = {model: {*codes(stages)} for model in codes(models) if hasattr(avb, model)}
    written = {name: models for name, models in written.items() if models}  # the others are a callback's
    assert written.keys() == logged.keys()
    for name, models in logged.items():
        assert written[name].keys() == models.keys(), name
        stages = set.union(*models.values())
        assert written[name].popitem()[1] == stages | ({"test"} if "val" in stages else set()), name


# When model and data are compared.


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("wrong", ["label", "value"])
def test_labels_are_checked_in_every_batch_and_values_in_the_first(tmp_path, wrong, first):
    text = " ".join(PAGE.split())
    assert "Labels are checked in every batch" in text and "checked in the first batch of every epoch" in text
    good = Batch(torch.ones(4, 3), torch.zeros(4, dtype=torch.int64), torch.arange(4))
    bad = good._replace(y=good.y - 1) if wrong == "label" else good._replace(x=good.x + 0.5)
    batches = [bad, good] if first else [good, bad]
    model = MODELS["vae"](conditional=True, data_shape=(3,), classes=2)
    run = trainer(tmp_path, max_epochs=1, enable_checkpointing=False)
    if wrong == "label" or first:
        with pytest.raises(ConfigurationError):
            run.fit(model, DataLoader(batches, batch_size=None))
    else:
        run.fit(model, DataLoader(batches, batch_size=None))
