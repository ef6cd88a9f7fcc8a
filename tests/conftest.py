"""Every test starts from the same seed; the command, and what it says when it refuses."""

from __future__ import annotations

import sys

import pytest
import torch

from lightning_avb import cli

torch.set_num_threads(1)  # the tensors are small: a second thread costs more than it gives


@pytest.fixture(autouse=True)
def seeded(monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    torch.manual_seed(0)


@pytest.fixture
def float64():
    """Everything made in the test is in double precision."""
    previous = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(previous)


@pytest.fixture
def command(monkeypatch):
    def run(*args):
        monkeypatch.setattr(sys, "argv", ["lightning-avb", *map(str, args)])
        cli.main()

    return run


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
