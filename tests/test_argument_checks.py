"""torch.distributions checks arguments where the user's process has it so; the library neither stops nor pays it."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from forked import finish, said, start
from small_models import MODELS, POSTERIORS, trainer
from torch.distributions import Distribution

from datamodules import Digits, NoData
from lightning_avb import SwissRollPrior


def checks_after_importing() -> None:
    import lightning_avb.evaluation

    assert Distribution._validate_args, "importing"
    lightning_avb.FlowEncoder((3,), 2)(torch.ones(1, 3)).rsample((4,))
    assert Distribution._validate_args, "a flow"


def test_importing_leaves_the_checks_of_torch_alone(tmp_path):
    """Of a process that has done nothing but import, since zuko, which turns them off, is imported once."""
    assert finish(start(checks_after_importing, tmp_path)) == [0], said(tmp_path)


def test_a_negative_deviation_is_an_error():
    with pytest.raises(ValueError, match="scale"):
        torch.distributions.Normal(0.0, -1.0)


ALL = {**MODELS, **POSTERIORS, "roll": partial(MODELS["aae_labels"], prior=SwissRollPrior)}


@pytest.mark.parametrize("name", ALL)
def test_no_distribution_of_the_library_is_checked_in_a_step(tmp_path, monkeypatch, name):
    """Nor in validation and test: nothing of it is slower with the checks on."""
    checked = []
    init = Distribution.__init__

    def remember(self, batch_shape=torch.Size(), event_shape=torch.Size(), validate_args=None):
        if validate_args is not False:
            checked.append(type(self).__name__)
        init(self, batch_shape, event_shape, validate_args=validate_args)

    monkeypatch.setattr(Distribution, "__init__", remember)
    monkeypatch.setattr(Distribution, "_validate_sample", lambda self, value: checked.append(type(self).__name__))
    model = ALL[name]()
    data = NoData() if name in POSTERIORS else Digits(batch_size=32, binarize="static")
    run = trainer(tmp_path, max_steps=1, limit_val_batches=1, limit_test_batches=1, num_sanity_val_steps=0)
    run.fit(model, data)
    run.test(model, data, verbose=False)
    assert not checked
