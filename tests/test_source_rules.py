"""Rules of the source that a reader relies on, compared with the tree."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted([*(ROOT / "lightning_avb").rglob("*.py"), *(ROOT / "datamodules").rglob("*.py")])

PUBLIC = {"_replace", "_asdict", "_fields"}
"""Of a NamedTuple, whose fields must not have such names."""
ELSEWHERE = {"_BatchNorm", "_DropoutNd", "_rebuild_buckets", "_validate_args", "_step_supports_amp_scaling", "_actions"}
"""Private attributes of torch and argparse, where there is no public way."""


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_file_has_one_reason_to_exist(file):
    """350 lines are a sign of two."""
    assert len(file.read_text().splitlines()) <= 350


def private(source):
    """Private attributes that a file uses and nowhere makes."""
    tree = ast.parse(source)
    made = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    made |= {
        node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }
    made |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return {name for name in used - made - PUBLIC if name.startswith("_") and not name.startswith("__")}


def test_what_lightning_keeps_private_is_used_in_one_file():
    """A method that a base class of ours has, in another file, is ours."""
    sources = {file: file.read_text() for file in FILES}
    ours = {
        node.name for source in sources.values() for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef)
    }  # fmt: skip
    found = {
        (file.name, name)
        for file, source in sources.items()
        if file.name != "lightning_private.py"
        for name in private(source) - ours - ELSEWHERE
    }
    assert not found
    assert "_hparams" in private("def f(module):\n    return module._hparams\n")
