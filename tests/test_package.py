"""The package as it is installed: its wheel, its configurations, what it imports, and a user's own `datamodules`."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml

import lightning_avb
from lightning_avb.cli import configurations
from lightning_avb.cli.configurations import FOLDER, find_configuration
from lightning_avb.errors import ConfigurationError
from lightning_avb.shipped import pretrained

ROOT = Path(__file__).parents[1]
SMALL = ("--trainer.max_steps=2", "--trainer.limit_val_batches=1", "--trainer.enable_progress_bar=false")


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def python(*arguments, folder=None, path=ROOT):
    """What a fresh interpreter prints, in a folder, with the package from `path`."""
    environment = {**os.environ, "PYTHONPATH": str(path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# The wheel.


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of the tree, built with what is installed here."""
    tree = tmp_path_factory.mktemp("tree")
    for name in ("lightning_avb", "datamodules", "configs"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    python("-c", "from setuptools import build_meta; build_meta.build_wheel('out')", folder=tree)
    (path,) = (tree / "out").glob("*.whl")
    return path


def test_a_wheel_has_the_modules_and_the_configurations_and_nothing_else(wheel):
    assert wheel.name == f"lightning_avb-{lightning_avb.__version__}-py3-none-any.whl"
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    code = {
        path.relative_to(ROOT).as_posix()
        for name in ("lightning_avb", "datamodules")
        for path in (ROOT / name).rglob("*.py")
    }
    files = [path for path in (ROOT / "configs").rglob("*") if path.suffix in (".yaml", ".ckpt")]
    configs = {f"lightning_avb/{path.relative_to(ROOT).as_posix()}" for path in files}
    assert names == code | configs | {"lightning_avb/py.typed"}


def test_what_a_wheel_holds_finds_its_own_configurations(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    said = python("-m", "lightning_avb", "configs", folder=tmp_path, path=tmp_path / "installed")
    assert "digits/avb_si" in said
    found = "from lightning_avb.cli.configurations import find_configuration; print(find_configuration('digits/vae'))"
    file = Path(python("-c", found, folder=tmp_path, path=tmp_path / "installed").strip())
    assert file == tmp_path / "installed/lightning_avb/configs/digits/vae.yaml" and file.is_file()


# The configurations.


def test_a_configuration_is_found_by_its_name_and_a_file_here_wins(tmp_path):
    for given in ("digits/avb_si", "digits/avb_si.yaml", "trainer/bf16"):
        assert find_configuration(given) == str(FOLDER / f"{given.removesuffix('.yaml')}.yaml")
    Path("digits").mkdir()
    for name in ("digits/avb_si.yaml", "digits/vae", "mine.yaml"):
        Path(name).write_text("model: VAE")
    assert find_configuration("digits/avb_si") == find_configuration("digits/avb_si.yaml") == "digits/avb_si.yaml"
    assert find_configuration("digits/vae") == "digits/vae"
    assert find_configuration("mine") == "mine.yaml"
    assert find_configuration("{trainer: {max_steps: 3}}") == "{trainer: {max_steps: 3}}"
    for wrong, right in (("digits/avb_sii", "digits/avb_si"), ("configs/minst/vae.yaml", "mnist/vae")):
        with pytest.raises(
            ConfigurationError, match=f"^config: there is no file '{wrong}', .*; did you mean {right}\\?"
        ):
            find_configuration(wrong)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"data: [Digits\nmodel: VAE\n", ", line 2: while parsing a flow sequence: "),
        (b"data: Digits\nmodel:\n\tlatent_dim: 2\n", ", line 3: while scanning for the next token: "),
        (b"", " is empty; keys with values were expected"),
        (b"# model: VAE\n", " is empty; "),
        (b"- data\n- model\n", " holds a list; "),
        (b"VAE\n", " holds a str; "),
        ("# Größe\nmodel: VAE\n".encode("latin1"), " is not in UTF-8 (byte 0xf6); if it is in latin1: iconv -f "),
        ("model: VAE\n".encode("utf-16"), " is not in UTF-8 (byte 0xff); if it is in utf-16: iconv -f utf-16 "),
    ],
)
def test_a_file_that_is_no_configuration_is_named(refusal, content, problem):
    Path("mine.yaml").write_bytes(content)
    for arguments in (["--config=mine.yaml"], ["--config", "digits/vae", "-c", "mine"]):
        assert refusal("fit", *arguments).startswith(f"error: config: 'mine.yaml'{problem}")


@pytest.mark.usefixtures("without_curves")
def test_every_command_with_a_configuration_takes_its_name(command, refusal):
    command("fit", "--config", "digits/vae", "-c", "trainer/bf16", *SMALL)
    folder = Path("runs/digits/vae/version_0")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["trainer"]["precision"] == "bf16-mixed" and config["trainer"]["max_steps"] == 2
    command("predict", "--config=digits/vae", "--ckpt_path", folder, *SMALL[1:])
    assert (folder / "checkpoints" / "last.predictions.pt").exists()
    for stage in ("fit", "validate", "test", "predict"):
        assert "; did you mean digits/vae?" in refusal(stage, "--config=digits/vaee")


def test_the_list_of_configurations(command, refusal, capsys):
    assert "configs: no configuration has 'vaegun' in its name or title" in refusal("configs", "vaegun")
    command("configs")
    lines = capsys.readouterr().out.splitlines()
    listed = [line.split()[0] for line in lines if not line.startswith(" ")]
    assert listed == configurations.names() and len(listed) == len(list((ROOT / "configs").rglob("*.yaml")))
    command("configs", "FUNNEL")
    title, expected = capsys.readouterr().out.splitlines()
    assert title == f"{'posteriors/funnel':<36} Neal's funnel in ten dimensions."
    assert expected.split()[0] == "Expected"
    command("configs", "own", "table", "Vae")
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines() if not line.startswith(" ")]
    assert "unmeasured/own_table/vae" in names and "unmeasured/own_table/avb_si" not in names


# What is said without torch.


def test_help_of_our_own_commands_imports_no_torch(tmp_path):
    script = """
import sys
from lightning_avb import cli
for words in ["--help"], ["--version"], ["configs"], *([name, "--help"] for name in cli.COMMANDS):
    try:
        cli.main(words)
    except SystemExit as done:
        assert done.code == 0
assert not {"torch", "pytorch_lightning", "numpy"} & sys.modules.keys()
"""
    assert f"lightning-avb {lightning_avb.__version__}" in python("-c", script, folder=tmp_path)


@pytest.mark.parametrize(
    ("word", "right"),
    [("train", "fit"), ("trian", "fit"), ("fitt", "fit"), ("smaple", "sample"), ("config", "configs")],
)
def test_the_nearest_command_is_named(refusal, word, right):
    assert refusal(word, "--config", "digits/vae") == f"error: {word}: no such command; did you mean {right}?"


def test_help_of_fit_begins_with_what_most_runs_set(command, capsys):
    with pytest.raises(SystemExit) as stop:
        command("fit", "--help")
    begin = capsys.readouterr().out.splitlines()[:30]
    assert stop.value.code == 0 and begin[0] == "usage: lightning-avb fit --config NAME_OR_FILE [--KEY VALUE ...]"
    for key in ("--config", "--model", "--data", "--trainer.max_steps", "--trainer.devices", "--seed_everything"):
        assert any(line.startswith(f"  {key} ") for line in begin)
    assert "  lightning-avb fit --config digits/avb_si" in begin


def test_what_the_package_exports_is_there_for_python_and_for_type_checkers():
    (block,) = (node for node in ast.parse(Path(lightning_avb.__file__).read_text()).body if isinstance(node, ast.If))
    declared = [name.name for statement in block.body for name in statement.names]
    assert sorted(declared) == sorted(lightning_avb.__all__)
    for name in lightning_avb.__all__:
        found = getattr(lightning_avb, name)
        assert name.endswith("Recipe") or name == "Network" or found.__name__ == name
    with pytest.raises(AttributeError, match="module 'lightning_avb' has no attribute 'AVV'"):
        lightning_avb.AVV  # noqa: B018


# A user's `datamodules`.


THEIRS = """
import lightning_avb.datamodules


class Mine(lightning_avb.datamodules.Digits):
    pass
"""

BOTH = """
import os, sys
import matplotlib.figure, sklearn.datasets  # once, before the forks
from pathlib import Path
import lightning_avb.datamodules
from contextlib import redirect_stderr, suppress
from io import StringIO
from lightning_avb import checkpoints
from lightning_avb.cli import main
from one_parser import CLI, sharing

script = sys.path[0]  # as the console command; python -m begins with the current folder
CLI.setup_parser = sharing()
with suppress(SystemExit):
    main(["fit", "--help"])
failed = 0
names = {"package": "datamodules.Mine", "folder": "datamodules.mine.Mine", "file": "datamodules.Mine"}
for kind, theirs in names.items():
    for first in script, None:
        child = os.fork()
        if child:
            failed += bool(os.waitpid(child, 0)[1])
            continue
        os.chdir(kind)
        sys.path[0] = first or os.getcwd()
        ways = {"theirs": ["--data", theirs], **({"ours": []} if kind == "package" else {})}
        for way, given in ways.items():
            root = f"{way}_{first is None}"
            options = [*given, "--trainer.max_steps=1", "--trainer.limit_val_batches=0", "--pictures.count=1"]
            main(["fit", "--config", "digits/vae", "--trainer.default_root_dir", root, *options])
            (last,) = Path(root).rglob("last.ckpt")
            if way == "theirs":
                main(["reconstruct", "--ckpt_path", str(last), "--output", f"{root}.png"])
            cls = type(checkpoints.load_datamodule(last))
            assert isinstance(checkpoints.load_datamodule(last), lightning_avb.datamodules.Digits)
            named = "lightning_avb.datamodules.digits.Digits" if way == "ours" else theirs
            assert f"{cls.__module__}.{cls.__qualname__}" == named, cls
        if kind == "file":
            with redirect_stderr(StringIO()) as said:
                try:
                    main(["fit", "--config", "digits/vae", "--data", "datamodules.Digits"])
                except SystemExit as done:
                    assert done.code == 2
            assert "no datamodules.Digits; did you mean lightning_avb.datamodules.Digits?" in said.getvalue(), said
        os._exit(0)
sys.exit(failed)
"""


def test_a_users_datamodules_and_ours_both_work(tmp_path):
    """A package, a plain folder and a file; from the console command, from `python -m` and from a checkpoint.

    A class of ours that theirs hide is named in full.
    """
    for path in ("package/datamodules/__init__.py", "folder/datamodules/mine.py", "file/datamodules.py"):
        Path(path).parent.mkdir(parents=True)
        Path(path).write_text(THEIRS)
    Path("folder/datamodules/digits.py").write_text("")  # a name that ours has too
    Path("bin").mkdir()
    Path("bin/both.py").write_text(BOTH)
    python("bin/both.py", folder=tmp_path, path=f"{ROOT}:{ROOT / 'tests'}")


def test_the_short_name_of_our_data_sets_gives_the_same_classes():
    import datamodules
    import datamodules.tensors

    assert all(getattr(datamodules, name) is getattr(lightning_avb.datamodules, name) for name in datamodules.__all__)
    assert datamodules.tensors is sys.modules["lightning_avb.datamodules.tensors"]
    shipped = [path for path in (ROOT / "configs").rglob("*.yaml") if " datamodules." in path.read_text()]
    assert not shipped  # a user's `datamodules` would hide them


@pytest.mark.parametrize("name", ["digits/avb_si", "four_points/avb_si"])
def test_pretrained_models_can_be_used_at_once(command, refusal, tmp_path, name):
    path = pretrained()[f"pretrained/{name}"]
    assert path.stat().st_size < 1e6 and find_configuration(name)
    command("sample", "--ckpt_path", f"pretrained/{name}", "--output", tmp_path / "samples.npz", "--n", 4)
    assert np.isfinite(np.load(tmp_path / "samples.npz")["x"]).all()
    for stage in ("fit", "test"):  # what is written there would be lost with the next installation
        said = refusal(stage, f"--config={name}", "--ckpt_path", f"pretrained/{name}")
        assert f"ckpt_path: '{stage}' writes beside the checkpoint; copy {str(path)!r} to a folder of yours" in said


def test_a_misspelt_pretrained_model(refusal):
    said = refusal("sample", "--ckpt_path", "pretrained/digits/avb", "--output", "x.png")
    assert said.startswith(
        "error: ckpt_path: there is no file 'pretrained/digits/avb'; did you mean pretrained/digits/"
    )
