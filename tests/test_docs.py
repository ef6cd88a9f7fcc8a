"""What the pages say exists: links, commands, options, names, examples."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import re
import shlex
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import yaml
from small_models import trainer

import datamodules
import lightning_avb as avb
from lightning_avb import cli
from lightning_avb.cli import comparison
from lightning_avb.cli.training import CLI

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
TEXTS = dict(zip(NAMES, (page.read_text() for page in PAGES), strict=True))
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.S | re.M)
every_page = pytest.mark.parametrize("page", NAMES)


def prose(page: str) -> str:
    """A page without its blocks of code."""
    return FENCED.sub("", TEXTS[page])


def blocks(page: str, *languages: str) -> list[str]:
    return [block for language, block in FENCED.findall(TEXTS[page]) if language in languages]


def inline(page: str) -> list[str]:
    """What is set as code within the text."""
    return [code.replace("\n", " ") for code in re.findall(r"`([^`]+)`", prose(page))]


# Links.


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", text), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path.read_text()), target


@every_page
def test_every_file_that_is_named_exists(page):
    folders = (ROOT, ROOT / "docs", ROOT / "lightning_avb", ROOT / "configs/mnist", ROOT / "configs/digits")
    for code in inline(page):
        if re.fullmatch(
            r"[\w{},*]+(/[\w{},*]+)*\.(py|yaml|md)|(lightning_avb|docs|configs|tests|benchmarks)/\S*", code
        ):
            names = [code]
            if part := re.search(r"{([^}]*)}", code):
                names = [code.replace(part[0], each) for each in part[1].split(",")]
            for name in names:
                exists = any(any(folder.glob(name)) for folder in folders)
                exists = exists or any(any((ROOT / part).glob(f"**/{name}")) for part in OURS)
                assert exists or re.search(r"[A-Z]{4}|^(RUN/)?config(_\d)?\.yaml", name) or name in PLACEHOLDERS, name


OURS = ("lightning_avb", "datamodules", "configs", "tests", "benchmarks", "docs")
MODULES = {"rings.py", "parts.py", "my_parts.py", "my_encoder.py", "recordings.py"}
PLACEHOLDERS = {"run.yaml", "hparams.yaml", "cancer.yaml", *MODULES}
"""Files that a run or a reader makes."""


def test_the_gallery_shows_every_picture():
    shown = re.findall(r"!\[[^]]+\]\(images/([^)]+)\)", TEXTS["docs/gallery.md"])
    assert sorted(shown) == sorted(path.name for path in (ROOT / "docs/images").iterdir())


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == avb.__version__
    assert [author["name"].lower() for author in citation["authors"]] == ["the lightning_avb authors"]


# Commands.


def commands(page: str, program: str) -> list[list[str]]:
    """The arguments of every call of a program in a page's blocks; lines are joined where they go on."""
    indented = re.findall(r"^ {4}(\S.+)$", prose(page), re.M)
    lines = "\n".join([*blocks(page, "", "bash"), *indented]).replace("\\\n", " ").splitlines()
    calls = [re.search(rf'(?:^|[\s"/])(?:{program})(?:\)")?(?=\s)(.*)', line) for line in lines]
    remarks = re.compile(r"\s#.*|\s{3,}\(.*")  # in the last, of RESULTS.md, stand seeds and durations
    return [shlex.split(remarks.sub("", call[1])) for call in calls if call]


EXPORTED = [getattr(package, name) for package in (avb, datamodules) for name in package.__all__]
PARTS = [part for part in EXPORTED if isinstance(part, type) and not issubclass(part, (Exception, tuple))]
KEYS = {name for part in (*PARTS, torch.optim.Adam) for name in inspect.signature(part).parameters}
"""What a configuration calls the arguments of models, their parts, their players and data."""


class Parsed(Exception):  # noqa: N818
    """A command line is right, and is not obeyed."""


@pytest.fixture(scope="module")
def parser(command):
    """The attributes of a CLI that has made its parser."""
    made: dict[str, Any] = {}

    class First(CLI):
        def parse_arguments(self, parser: Any, args: Any) -> None:
            made.update(vars(self))
            raise Parsed

    with pytest.raises(Parsed):
        First([])
    return made


EXAMPLES = [
    ("rings.py", "docs/architecture.md", 0),
    ("parts.py", "docs/architecture.md", 1),
    ("beta_vae.py", "docs/architecture.md", 2),
    ("my_posterior.py", "docs/black_box.md", 0),
    ("recordings.py", "docs/own_data.md", 0),
    ("my_parts.py", "docs/likelihood.md", 1),
    ("my_encoder.py", "docs/python.md", 10),
]
"""(file, page, number of the example there): modules that a reader writes."""


@pytest.fixture
def examples(tmp_path, monkeypatch):
    """The current folder, with those modules in it, which can be imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for file, page, number in EXAMPLES:
        Path(file).write_text(blocks(page, "python")[number])
        monkeypatch.delitem(sys.modules, Path(file).stem, raising=False)
    return tmp_path


@pytest.fixture
def parse(parser, examples, monkeypatch):
    """Parses the arguments of `lightning-avb`, in a folder with what the pages speak of, up to where it would begin."""

    class Unbegun(CLI):
        def setup_parser(self, *_: Any) -> None:
            vars(self).update({key: value for key, value in parser.items() if key not in vars(self)})

        def before_instantiate_classes(self) -> None:
            raise Parsed

    def unbegun(command: Any) -> Any:
        @functools.wraps(command)
        def refuse(**_: Any) -> None:
            raise Parsed

        return refuse

    monkeypatch.setattr("lightning_avb.cli.training.CLI", Unbegun)
    monkeypatch.setattr("lightning_avb.cli.comparison.compare", unbegun(comparison.compare))
    for name, command in cli.COMMANDS.items():
        monkeypatch.setitem(cli.COMMANDS, name, unbegun(command))
    Path("configs").symlink_to(ROOT / "configs")
    Path("RUN").mkdir()
    Path("RUN/config.yaml").symlink_to(ROOT / "configs/digits/avb_si.yaml")
    Path("mine.yaml").write_text(next(block for block in blocks("docs/black_box.md", "yaml") if "trainer" in block))
    Path("cancer.yaml").write_text(blocks("docs/tables.md", "yaml")[0])

    def run(*arguments: str) -> None:
        given = [re.sub(r"MODEL(?=\.yaml)", "vae", re.sub(r"^(SEED|\$\w+)$", "0", word)) for word in arguments]
        with pytest.raises(Parsed):
            cli.main(given)

    return run


def configuration(name: str) -> Path:
    """The file of a configuration of the package, from its short name or its path in the repository."""
    return ROOT / "configs" / f"{name.removeprefix('configs/').removesuffix('.yaml')}.yaml"


PLAIN = re.compile(r"fit --config \S+( --data\.root \S+| --seed_everything \S+| --trainer\.precision \S+)*")
"""The command in the head of a configuration, which test_cli builds."""
UNDERSTOOD: set[str] = set()
"""What has been parsed for another page."""


@every_page
def test_every_command_line_is_understood(page, parse, capsys):
    for arguments in commands(page, "lightning-avb|python -m lightning_avb"):
        line = shlex.join(arguments)
        if arguments[:2] == ["fit", "--config"] and configuration(arguments[2]).is_file():
            if PLAIN.fullmatch(line):
                continue
            if not re.search("--(model|data)", line):
                arguments[2] = "digits/vae"  # the options are the same with every model, and soonest read with this
        if shlex.join(arguments) in UNDERSTOOD:
            continue
        UNDERSTOOD.add(shlex.join(arguments))
        try:
            parse(*arguments)
        except SystemExit:
            pytest.fail(f"{line}: {capsys.readouterr().err}")


def test_the_pages_have_commands():
    """That the search for them still finds them."""
    assert sum(len(commands(page, "lightning-avb|python -m lightning_avb")) for page in NAMES) > 40
    assert sum(len(commands(page, r"python benchmarks/\w+\.py")) for page in NAMES) > 15


@every_page
def test_every_benchmark_and_make_target_exists(page):
    text = TEXTS[page]
    for name in re.findall(r"python (benchmarks/\w+\.py)", text):
        source = (ROOT / name).read_text()
        for arguments in commands(page, f"python {name}"):
            assert all(f'"{word}"' in source for word in arguments if word.startswith("--")), arguments
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
    assert {*re.findall(r"(?:^|`)make ([\w-]+)", text, re.M)} <= {*targets}


def test_the_makefile_says_what_all_targets_do():
    text = (ROOT / "Makefile").read_text()
    (targets,) = re.findall(r"^\.PHONY: (.*)$", text, re.M)
    assert re.findall(r"^# make ([\w-]+)", text, re.M) == targets.split()
    assert {*targets.split()} == {*re.findall(r"^([\w-]+):", text, re.M)}


FOREIGN = {
    "array", "cpus-per-task", "gpus-per-node", "gpus-per-task", "kill-on-bad-exit", "nodes", "ntasks",
    "ntasks-per-node", "open-mode", "output", "requeue", "signal", "time",
    "master-addr", "max-restarts", "nnodes", "node-rank", "nproc-per-node", "rdzv-backend", "rdzv-id", "standalone",
}  # fmt: skip
"""Options of sbatch and srun, and of torchrun."""
SLURM = {"GraceTime", "KillWait"}


@every_page
def test_every_option_that_is_named_exists(page, parser):
    known = {option for sub in parser["_subcommand_parsers"].values() for option in sub._option_string_actions}
    known |= {f"--{name}" for command in cli.COMMANDS.values() for name in inspect.signature(command).parameters}
    for code in inline(page):
        if code.startswith("python benchmarks") or code.endswith(".py") or page == "CHANGELOG.md":
            continue
        for option in re.findall(r"(?<!\S)--[\w.-]+", code):
            head, _, rest = option.partition(".")
            if head in ("--model", "--data") and rest:
                assert {*rest.split(".")} - {"init_args"} <= KEYS | {"class_path"}, option
            elif not rest.isupper():
                option = option.rstrip(".")
                assert option in known or option[2:] in FOREIGN or option.startswith("--trainer.logger."), option
        key = re.fullmatch(r"(model|data|trainer|checkpoint|likelihood|diagnosis)\.([\w.*]+)(: .*)?", code)
        if key and key[1] in ("model", "data"):
            assert {*key[2].split(".")} - {"*", "init_args"} <= KEYS | written(), code
        elif key:
            assert f"--{key[1]}.{key[2]}" in known or key[2].partition(".")[0] in written(), code


# Examples.


@every_page
def test_every_yaml_example_is_understood(page, parse):
    for number, block in enumerate(blocks(page, "yaml")):
        content = yaml.safe_load(block)
        if "method" in content:  # a sweep of Weights & Biases, which puts options in the place of ${args}
            first = {key: spec.get("values", [spec.get("min")])[0] for key, spec in content["parameters"].items()}
            program, *words, place = content["command"]
            assert (program, place) == ("lightning-avb", "${args}")
            parse(*words, *(f"--{key}={value}" for key, value in first.items()))
            continue
        head = next(key for key in ("model", "target", "decoder", "trainer", "likelihood") if key in content)
        if head in ("target", "decoder"):
            model = "Posterior" if head == "target" else "VAE"
            dims = {} if head == "target" else {"latent_dim": 2}
            content = {"model": {"class_path": f"lightning_avb.{model}", "init_args": {**dims, **content}}}
        elif "model" not in content:
            content["model"] = {"class_path": "lightning_avb.VAE", "init_args": {"latent_dim": 2}}
        file = Path(f"example_{number}.yaml")
        file.write_text(yaml.safe_dump({"data": "datamodules.Digits", **content}))
        parse("test" if head == "likelihood" else "fit", "--config", str(file))


class Short(pl.Trainer):
    """Two steps, whatever was asked for, and a checkpoint under every name that the pages use."""

    def __init__(self, **_: Any) -> None:
        super().__init__(max_steps=2, accelerator="cpu", logger=False, enable_progress_bar=False, limit_val_batches=1)

    def fit(self, model: Any, datamodule: Any, ckpt_path: str | None = None) -> None:  # type: ignore[override]
        super().fit(model, datamodule)
        for name in ("some.ckpt", "last.ckpt"):
            self.save_checkpoint(name)


@pytest.mark.parametrize(
    "page",
    ["README.md", "docs/python.md", "docs/resuming.md", "docs/black_box.md", "docs/architecture.md", "docs/tables.md"],
)
def test_every_python_example_runs(page, examples, monkeypatch):
    """Those of the other pages have tests of their own, beside what they show."""
    monkeypatch.setattr(pl, "Trainer", Short)
    names: dict[str, Any] = {"__name__": __name__, "Family": avb.targets.Family}
    for code in blocks(page, "python"):
        exec(compile(code, page, "exec"), names)


def test_the_search_with_optuna_runs(command, tmp_path, monkeypatch, without_curves, capsys):
    """With an Optuna that tries one pair of options, and for two steps."""

    class Study:
        def optimize(self, objective: Any, n_trials: int) -> None:
            attributes: dict[str, Any] = {}
            self.best_params = {"latent_dim": 3, "lr": 0.002}
            trial = types.SimpleNamespace(
                suggest_int=lambda name, *_, **__: self.best_params[name],
                suggest_float=lambda name, *_, **__: self.best_params[name],
                set_user_attr=attributes.__setitem__,
            )
            self.best_value, self.best_trial = objective(trial), types.SimpleNamespace(user_attrs=attributes)

    def quick(arguments: list[str]) -> CLI:
        more = ["--trainer.max_steps=12", "--trainer.check_val_every_n_epoch=1", "--pictures.every_n_epochs=0"]
        return CLI([*arguments, *more])

    optuna = types.SimpleNamespace(Trial=object, create_study=lambda **_: Study())
    monkeypatch.setitem(sys.modules, "optuna", optuna)
    monkeypatch.setattr("lightning_avb.cli.training.CLI", quick)
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("docs/sweeps.md", "python")
    exec(compile(code, "search.py", "exec"), {"__name__": "__main__"})
    folder = Path("runs/digits/vae/version_0")
    config = (folder / "config.yaml").read_text()
    assert "latent_dim: 3\n" in config and "lr: 0.002\n" in config
    value, params, found = re.match(r"(\S+) ({.*}) (\S+)$", capsys.readouterr().out.splitlines()[-1]).groups()
    assert float(value) < 0 and ast.literal_eval(params) == {"latent_dim": 3, "lr": 0.002} and found == str(folder)


@every_page
def test_every_python_example_is_python(page):
    for code in blocks(page, "python"):
        ast.parse(code)


def test_the_method_of_the_docs_learns(examples):
    """The example of docs/architecture.md is a model like any other, with the parts and the data shown there."""
    beta_vae, parts, rings = (importlib.import_module(name) for name in ("beta_vae", "parts", "rings"))
    model = beta_vae.BetaVAE(2, parts.IsotropicEncoder, parts.LaplaceDecoder)
    run = trainer(examples, max_steps=2, enable_checkpointing=False)
    run.fit(model, rings.Rings(50, count=100))
    figures = run.callback_metrics
    assert abs(figures["val/elbo"] + figures["val/reconstruction"] + figures["val/kl"]) < 1e-3


# Names.


@functools.cache
def written() -> set[str]:
    """All that the library, and nobody else, names: classes, functions, arguments, attributes and variables."""
    found = set()
    for path in [path for folder in ("lightning_avb", "datamodules") for path in (ROOT / folder).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                found.add(node.name)
            elif isinstance(node, ast.arg):
                found.add(node.arg)
            elif isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.attr if isinstance(node, ast.Attribute) else node.id)
    return found


@functools.cache
def theirs() -> list[Any]:
    """Modules of others, whose classes the pages name."""
    import sklearn.ensemble
    import torchvision.datasets
    import zuko.flows

    return [
        *(torch, torch.nn, torch.distributions, torch.optim, torch.optim.lr_scheduler, torch.utils.data, pl),
        *(pl.callbacks, pl.loggers, pl.plugins, pl.plugins.environments, pl.strategies),
        *(sklearn.ensemble, torchvision.datasets, zuko.flows),
    ]


@pytest.mark.parametrize("page", [page for page in NAMES if page != "CHANGELOG.md"])
def test_every_class_that_is_named_exists(page):
    examples = {
        node.name for code in blocks(page, "python") for node in ast.walk(ast.parse(code)) if hasattr(node, "name")
    }
    for code in inline(page):
        name = re.fullmatch(r"([A-Z]\w*[a-z]\w*|[A-Z]+(?=\.[a-z]))(?:\.(\w+))?(?:\(.*\))?", code)
        if name and code not in SLURM and not any(hasattr(module, name[1]) for module in theirs()):
            assert name[1] in written() | examples, code
            assert not name[2] or name[2] in written() or name[2] == "load_from_checkpoint", code


@every_page
def test_every_full_name_leads_somewhere(page):
    for code in inline(page):
        if re.fullmatch(r"(lightning_avb|datamodules)(\.\w+)+", code) and not code.endswith(".py"):
            module, found = code, None
            while found is None:
                try:
                    found = importlib.import_module(module)
                except ModuleNotFoundError:
                    module = module.rpartition(".")[0]
            for part in code.removeprefix(module).strip(".").split("."):
                found = getattr(found, part) if part else found
