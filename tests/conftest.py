"""Every test starts from the same seed; the command, and what it says when it refuses.

The library is imported where it is needed: the process that hands tests to others needs none of it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # the tensors are small: a second thread costs more than it saves


def pytest_xdist_auto_num_workers(config):
    """For the whole suite one process per core, at most four; for named files no further processes."""
    named = any(not Path(argument).is_dir() for argument in config.args)
    return 0 if named else min(4, os.cpu_count() or 1)


@pytest.fixture(autouse=True)
def seeded(monkeypatch):
    import torch

    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    torch.manual_seed(0)


@pytest.fixture
def float64():
    """Everything made in the test is in double precision."""
    import torch

    previous = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(previous)


@pytest.fixture(scope="session")
def command():
    """`lightning-avb` within this process. All commands share one parser, which is long in the making."""
    from jsonargparse import _core, _subcommands
    from one_parser import CLI, remembering, sharing

    from lightning_avb import cli

    def run(*args):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["lightning-avb", *map(str, args)])
            cli.main()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CLI, "setup_parser", sharing())
        find = remembering()
        for module in (_core, _subcommands):
            patch.setattr(module, "find_action_and_subcommand", find)
        yield run


@pytest.fixture
def without_curves(monkeypatch):
    """A fit ends without the picture of its curves, which takes as long as a hundred steps."""
    monkeypatch.setattr("lightning_avb.pictures.curves", lambda metrics: None)


@pytest.fixture
def undrawn(monkeypatch):
    """Plots are made, and stay black: for tests that ask which there are."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    monkeypatch.setattr("matplotlib.backends.backend_agg.FigureCanvasAgg.draw", FigureCanvasAgg.get_renderer)


@pytest.fixture
def refusal(command, capsys):
    """What a command that must fail says: one line on stderr that begins with `error:`, and the exit code."""

    def run(*args, code=2):
        with pytest.raises(SystemExit) as stop:
            command(*args)
        assert stop.value.code == code
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
        assert len(lines) == 1
        return lines[0]

    return run
