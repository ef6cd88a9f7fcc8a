"""The models as estimators of scikit-learn, for pipelines and searches over parameters.

from lightning_avb.sklearn import LatentVariableEstimator

estimator = LatentVariableEstimator("avb", latent_dim=2).fit(frame)
estimator.transform(frame)          # codes
estimator.score_samples(frame)      # log p(x) of every row
estimator.sample(100)               # new rows
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, DensityMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_array, check_is_fitted, validate_data
from torch import Tensor

from . import inference, noise
from .batch import Batch
from .conditionals import GaussianEncoder, SemiImplicitEncoder, TableDecoder
from .datamodules import Table
from .errors import ConfigurationError, at_least
from .models import AVB, VAE
from .networks import MLP
from .quiet import warnings_alone, without_advertisements

MODELS = ("vae", "avb")
SCORED = 500
"""Weighted draws per row for log p(x)."""


class _AllRows(Table):
    """A table whose rows are all for training."""

    def rows_of_splits(self, count: int) -> dict[str, Tensor]:
        rows = torch.arange(count)
        return {"train": rows, "val": rows[:1], "test": rows[:1]}


class LatentVariableEstimator(ClassNamePrefixFeaturesOutMixin, DensityMixin, TransformerMixin, BaseEstimator):
    """A VAE or AVB of a table: a transformer to codes, and a density.

    X is an array of numbers, nan where a field is missing, or a DataFrame with columns of any type, see `Table`.

    Args:
        model: `vae` or `avb`.
        latent_dim: dimensions of the code.
        hidden: widths of the hidden layers of encoder and decoder.
        max_steps: batches.
        batch_size: rows of a batch; all rows if there are fewer.
        learning_rate: of encoder and decoder.
        random_state: seed of weights, order and noise: an integer, a `RandomState`, or None.
        verbose: whether `fit` prints what the columns hold and what Lightning says, and shows a bar.

    Attributes:
        model_: the fitted model.
        data_: how rows are read.
        n_features_in_, feature_names_in_: as in scikit-learn.
    """

    def __init__(
        self,
        model: str = "vae",
        latent_dim: int = 2,
        hidden: tuple[int, ...] = (64, 64),
        max_steps: int = 1000,
        batch_size: int = 100,
        learning_rate: float = 1e-3,
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.model, self.latent_dim, self.hidden, self.max_steps = model, latent_dim, hidden, max_steps
        self.batch_size, self.learning_rate, self.random_state = batch_size, learning_rate, random_state
        self.verbose = verbose

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    @property
    def _n_features_out(self) -> int:
        return self.latent_dim

    def fit(self, X: Any, y: Any = None) -> LatentVariableEstimator:  # noqa: N803
        """Trains a model.

        Args:
            X: `(rows, columns)`.
            y: ignored.
        """
        if self.model not in MODELS:
            raise ConfigurationError(f"model: {self.model!r} is none of {', '.join(MODELS)}")
        at_least(1, max_steps=self.max_steps)
        frame = self._frame(X, reset=True)
        types = None if isinstance(X, pd.DataFrame) else dict.fromkeys(frame.columns, "number")
        seed = int(check_random_state(self.random_state).randint(2**31))
        self.data_ = _AllRows.of(frame, types=types, batch_size=min(self.batch_size, len(frame)))
        said = nullcontext() if self.verbose else warnings_alone()
        with noise.torch_seeded(seed, "estimator"), _run_seed(seed), without_advertisements(), said:
            model = self._make()
            trainer = pl.Trainer(
                max_steps=self.max_steps,
                max_epochs=-1,
                devices=1,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=self.verbose,
                enable_model_summary=False,
                limit_val_batches=0,
            )
            trainer.fit(model, self.data_)
            # What can be copied and pickled: not the trainer, nor its optimizers.
            self.model_ = self._make()
            self.model_.build_if_known(data_shape=self.data_.data_shape, classes=None)
        self.model_.load_state_dict(model.state_dict())
        self.model_.eval()
        self.data_.trainer = None
        return self

    def _make(self) -> Any:
        network = partial(MLP, hidden=tuple(self.hidden))
        decoder = partial(TableDecoder, network=network)
        adam = partial(torch.optim.Adam, lr=self.learning_rate, fused=True)
        if self.model == "vae":
            made: Any = VAE(self.latent_dim, partial(GaussianEncoder, network=network), decoder)
        else:
            made = AVB(self.latent_dim, partial(SemiImplicitEncoder, network=network), decoder)
        player = made.players["model"]
        made.players["model"] = type(player)(adam, player.scheduler)
        return made

    def _frame(self, X: Any, reset: bool = False) -> pd.DataFrame:  # noqa: N803
        """The rows as a DataFrame, checked as scikit-learn does."""
        if isinstance(X, pd.DataFrame):
            validate_data(self, X, reset=reset, skip_check_array=True)
            return X.rename(columns=str).reset_index(drop=True)
        options = {"dtype": np.float64, "ensure_all_finite": "allow-nan", "ensure_min_samples": 2 if reset else 1}
        values = validate_data(self, X, reset=reset, **options)
        return pd.DataFrame(values, columns=[f"x{i}" for i in range(values.shape[1])])

    def _read(self, X: Any) -> Tensor:  # noqa: N803
        check_is_fitted(self)
        return self.data_.from_rows(self._frame(X))

    def transform(self, X: Any) -> np.ndarray:  # noqa: N803
        """Codes, `(rows, latent_dim)`: the mean of q(z|x)."""
        rows = self._read(X)
        return self.model_.encode(rows).numpy().astype(np.float64)

    def inverse_transform(self, X: Any) -> Any:  # noqa: N803
        """Rows in their own terms: the mean of p(x|z) for codes `(rows, latent_dim)`."""
        check_is_fitted(self)
        codes = torch.tensor(check_array(X), dtype=torch.get_default_dtype())
        rows = self._write(self.model_.decode(codes))
        return rows.set_axis(X.index) if isinstance(X, pd.DataFrame) and isinstance(rows, pd.DataFrame) else rows

    def score_samples(self, X: Any) -> np.ndarray:  # noqa: N803
        """log p(x) of every row in nats, in the columns' own units, by importance weighting."""
        x = self._read(X)
        batch = Batch(x, index=torch.zeros(len(x), dtype=torch.int64))  # the same noise for every row
        return inference.log_prob(self.model_, batch, SCORED).value.numpy().astype(np.float64)

    def score(self, X: Any, y: Any = None) -> float:  # noqa: N803
        """The mean of log p(x)."""
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1, random_state: Any = None) -> Any:
        """New rows: a DataFrame if the estimator was fitted on one, else an array."""
        check_is_fitted(self)
        with noise.torch_seeded(int(check_random_state(random_state).randint(2**31)), "sample"):
            return self._write(self.model_.sample(at_least(1, n_samples=n_samples), mean=False))

    def _write(self, x: Tensor) -> Any:
        frame = self.data_.to_rows(x)
        return frame if hasattr(self, "feature_names_in_") else frame.to_numpy(np.float64)


@contextmanager
def _run_seed(seed: int) -> Iterator[None]:
    """Within the block the engine's seed is this one."""
    before = os.environ.get("PL_GLOBAL_SEED")
    os.environ["PL_GLOBAL_SEED"] = str(seed)
    try:
        yield
    finally:
        if before is None:
            del os.environ["PL_GLOBAL_SEED"]
        else:
            os.environ["PL_GLOBAL_SEED"] = before
