"""The estimator of scikit-learn: its own checks, a pipeline, a search."""

from __future__ import annotations

import logging
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from lightning_avb.errors import ConfigurationError
from lightning_avb.sklearn import LatentVariableEstimator


@parametrize_with_checks([LatentVariableEstimator(max_steps=2, hidden=(8,), random_state=0)])
def test_the_checks_of_scikit_learn(estimator, check):
    check(estimator)


def test_codes_and_densities_of_a_frame():
    iris = load_iris(as_frame=True)
    frame = iris.data.assign(kind=iris.target_names[iris.target])
    frame.iloc[::10, 0] = np.nan
    estimator = LatentVariableEstimator(latent_dim=2, max_steps=800, random_state=1).fit(frame)
    codes, scores = estimator.transform(frame), estimator.score_samples(frame)
    assert codes.shape == (150, 2) and estimator.score(frame) == pytest.approx(scores.mean())
    shuffled = frame.assign(**{"petal length (cm)": frame["petal length (cm)"].to_numpy()[::-1]})
    assert estimator.score(frame) > estimator.score(shuffled) + 1
    rows = estimator.sample(50, random_state=0)
    assert isinstance(rows, pd.DataFrame) and {*rows["kind"]} <= {*iris.target_names}
    assert list(estimator.inverse_transform(codes).columns) == list(frame.columns)
    again = pickle.loads(pickle.dumps(estimator))
    assert np.array_equal(again.transform(frame), codes)


def test_codes_have_names_and_the_index_of_their_rows():
    frame = pd.DataFrame(load_iris().data[:20], columns=list("abcd")).set_axis(range(20, 0, -1))
    estimator = LatentVariableEstimator("avb", latent_dim=3, max_steps=1).set_output(transform="pandas")
    for method in (estimator.transform, estimator.score_samples, estimator.inverse_transform):
        with pytest.raises(NotFittedError):
            method(frame)
    codes = estimator.fit_transform(frame)
    assert list(codes) == [f"latentvariableestimator{i}" for i in range(3)] and codes.index.equals(frame.index)
    assert estimator.inverse_transform(codes).index.equals(frame.index)


@pytest.mark.parametrize("verbose", [False, True])
def test_a_fit_is_silent_unless_it_is_asked(verbose, caplog, capsys, recwarn):
    logging.getLogger("pytorch_lightning").setLevel(logging.INFO)
    LatentVariableEstimator(max_steps=1, verbose=verbose).fit(load_iris().data)
    said = caplog.text + capsys.readouterr().out
    assert ("data: 150 rows in memory" in said) == verbose and "Tip" not in said
    assert verbose or not (said or [str(each.message) for each in recwarn])


def test_a_pipeline_and_a_search():
    x, y = load_iris(return_X_y=True)
    estimator = LatentVariableEstimator(max_steps=200, hidden=(16,), random_state=0)
    assert make_pipeline(estimator, LogisticRegression()).fit(x, y).score(x, y) > 0.6
    estimator.set_params(max_steps=40)
    search = GridSearchCV(estimator, {"latent_dim": [1, 2], "model": ["vae", "avb"]}, cv=2, error_score="raise").fit(x)
    assert search.best_score_ > -50 and search.best_estimator_.transform(x).shape[0] == 150


def test_the_same_seed_is_the_same_model_and_leaves_torch_as_it_was():
    x = load_iris().data
    before = torch.random.get_rng_state()
    first, second = (LatentVariableEstimator(max_steps=3, random_state=5).fit(x).transform(x) for _ in range(2))
    assert np.array_equal(first, second) and torch.equal(torch.random.get_rng_state(), before)
    with pytest.raises(ConfigurationError, match="model: 'gan' is none of vae, avb"):
        LatentVariableEstimator("gan").fit(x)
