"""Figures of validation and test, and predictions, are those of the data: the same on any number of processes."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import pytorch_lightning as pl
from forked import finish, free_port, said, start, torchrun_environment
from small_models import MODELS, POSTERIORS, trainer

from datamodules import Digits, NoData
from lightning_avb.callbacks import ExactLikelihood
from lightning_avb.reports import SavePredictions

PLANE = ["vae", "avb_ac", "avb_score"]


def figures(processes: int) -> None:
    """Validates and tests every model; 250 rows do not divide among 3 or 4 processes, nor 37 among 2."""
    found = {}
    for name, build in {**MODELS, **POSTERIORS}.items():
        pl.seed_everything(3)
        data = NoData(37) if name in POSTERIORS else Digits(50, eval_batch_size=37, binarize="static")
        callbacks = [ExactLikelihood(cells=40)] if name in PLANE else []
        run = trainer(
            Path(),
            devices=processes,
            strategy="ddp" if processes > 1 else "auto",
            callbacks=callbacks,
            inference_mode=False,
        )
        options = {} if name in POSTERIORS else {"data_shape": data.data_shape, "classes": data.classes}
        (val,), (test,) = (
            run.validate(model := build(**options), data, verbose=False),
            run.test(model, data, verbose=False),
        )
        found[name] = {**val, **test}
    if run.is_global_zero:
        Path("figures.json").write_text(json.dumps(found))
    data = Digits(50, eval_batch_size=37, binarize="static")
    callbacks = [SavePredictions("codes.csv")]
    run = trainer(Path(), devices=processes, strategy="ddp" if processes > 1 else "auto", callbacks=callbacks)
    pl.seed_everything(3)
    run.predict(MODELS["vae"](data_shape=data.data_shape, classes=data.classes), data, return_predictions=False)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    return on(tmp_path_factory.mktemp("ranks"), 1)


def on(folder: Path, processes: int) -> tuple[dict[str, dict[str, float]], pd.DataFrame]:
    port = free_port()
    environments = [torchrun_environment(rank, processes, port) for rank in range(processes)]
    codes = finish(start(partial(figures, processes), folder, environments), timeout=300)
    assert codes == [0] * processes, said(folder)
    return json.loads((folder / "figures.json").read_text()), pd.read_csv(folder / "codes.csv")


@pytest.mark.parametrize("processes", [3, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 4))])
def test_figures_are_the_same_on_any_number_of_processes(tmp_path, one_process, processes):
    found, codes = on(tmp_path, processes)
    expected, theirs = one_process
    pd.testing.assert_frame_equal(codes, theirs, rtol=1e-4, atol=1e-5)
    assert codes["row"].tolist() == [*range(250)]
    assert found.keys() == expected.keys()
    for name, figures_of in expected.items():
        assert set(figures_of) == set(found[name])
        assert any(key.startswith("val/") for key in figures_of)
        assert any(key.startswith("test/") for key in figures_of)
        for key, value in figures_of.items():
            assert found[name][key] == pytest.approx(value, rel=1e-6, abs=1e-6), f"{name}, {key}"
