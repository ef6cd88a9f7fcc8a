"""Every test starts from the same seed."""

from __future__ import annotations

import pytest
import torch

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
