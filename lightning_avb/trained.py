"""A trained model in the terms of its data: rows in, rows out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from . import inference, noise
from .batch import Batch
from .capabilities import Decodes, DrawsParameters, Encodes, Samples, can
from .checkpoints import Location, data_of, load
from .datamodules import Table
from .errors import ConfigurationError, did_you_mean
from .models.latent import cycled_labels

PART = 1000
"""Rows that a network takes at a time."""


class Trained:
    """A model of a checkpoint, and how its data is read.

    Rows are a DataFrame for a model of a `Table`, or an array with its columns; a DataFrame comes back. Else
    they are an array or tensor `(rows, ...)`, and the same comes back. All are in the data's own units. Rows of a
    class-conditional model come with their labels, by name or number: the column of the label in a table, else the
    argument `labels`.

    Args:
        location: a checkpoint, or the folder of a run.
        root: folder or file of the data, if it has moved since the training.

    Attributes:
        model: the model, in evaluation mode; its methods take and give tensors of x.
        data: what is known of its data.

    Raises:
        ConfigurationError: no such checkpoint; or, from the methods, rows that the data or the model cannot be.
    """

    def __init__(self, location: Location, root: str | None = None) -> None:
        self.model: Any = load(location, root)
        if can(self.model, DrawsParameters):
            raise ConfigurationError("ckpt_path: a posterior has no rows of data; `sample` draws its parameters")
        self.data = data_of(location, root)
        self.datamodule = self.data.datamodule

    def read(self, rows: Any, labels: Sequence[Any] | None = None) -> Batch:
        """Rows as the model takes them."""
        rows = self._as_given(rows)
        x = self.data.from_rows(rows) if self.data.from_rows else torch.as_tensor(rows).to(torch.get_default_dtype())
        return self._batch(x, rows, labels)

    def _as_given(self, rows: Any) -> Any:
        """Rows of a table as a DataFrame with its names, others as they are."""
        if not len(rows):
            raise ConfigurationError("rows: there are none")
        if isinstance(self.datamodule, Table):
            return self.datamodule.as_frame(rows)
        if isinstance(rows, pd.DataFrame):
            raise ConfigurationError("rows: a DataFrame is for a model of a table, an array for all others")
        return rows

    def _batch(self, x: Tensor, rows: Any, labels: Sequence[Any] | None) -> Batch:
        shape = tuple(self.model.data_shape)
        if tuple(x.shape[1:]) != shape:
            raise ConfigurationError(f"rows: they have the shape {tuple(x.shape[1:])}, the model is made for {shape}")
        self._check(x)
        if not self.model.classes:
            return Batch(x)
        if labels is None and isinstance(rows, pd.DataFrame) and self.data.label in rows.columns:
            labels = rows[self.data.label].tolist()
        if labels is None or len(labels) != len(x):
            raise ConfigurationError("labels: the model reads the label of every row; give one for each")
        return Batch(x, torch.tensor(numbers_of_labels("labels", self.model, self.data.label_names, labels)))

    def _check(self, x: Tensor) -> None:
        if x.isfinite().all():
            self.model.check_values(x)
            return
        row, *place = (~x.isfinite()).nonzero()[0].tolist()
        raise ConfigurationError(f"rows: row {row} has {x[tuple([row, *place])].item()} at {place}")

    def write(self, x: Tensor, like: Any = None) -> Any:
        """Rows of x in the data's own terms, with the index of a DataFrame of as many rows."""
        rows = self.data.rows_of(x)
        return rows.set_axis(like.index) if isinstance(like, pd.DataFrame) else rows

    def sample(self, count: int, labels: Sequence[Any] | None = None, seed: int = 0, mean: bool = False) -> Any:
        """New rows, as draws of p(x|z), or with `mean` the means of it; `labels` are used in turn.

        A table of a class-conditional model has the column of the label.
        """
        rows, names = self.labelled_samples(count, labels, seed, mean)
        return rows.assign(**{self.label: names}) if names is not None and isinstance(rows, pd.DataFrame) else rows

    def labelled_samples(
        self, count: int, labels: Sequence[Any] | None = None, seed: int = 0, mean: bool = False
    ) -> tuple[Any, list[Any] | None]:
        """New rows without, and the label of each, None for a model without labels; see `sample`."""
        self._require("sample", Samples)
        numbers = labels
        if labels is not None:
            numbers = numbers_of_labels("labels", self.model, self.data.label_names, labels)
        with noise.torch_seeded(seed, "sample"):
            rows = self.write(self.model.sample(count, numbers, mean=mean))
        y = cycled_labels(count, numbers, self.model.label_choices, self.model.device)
        return rows, None if y is None else y.tolist() if _has_clusters(self.model) else self.data.names_of(y)

    @property
    def label(self) -> str:
        """The name of the column of the labels, or of the clusters that a model has found."""
        return "cluster" if _has_clusters(self.model) else str(self.data.label or "label")

    def embed(
        self, rows: Any, labels: Sequence[Any] | None = None, draws: int | None = None, seed: int = 0
    ) -> np.ndarray:
        """Codes: the mean of q(z|x), `(rows, latent_dim)`, always the same; or draws, `(draws, rows, latent_dim)`."""
        self._require("encode", Encodes)
        batch, axis = self.read(rows, labels), 0 if draws is None else 1
        with noise.torch_seeded(seed, "embed"):
            parts = [self.model.encode(part.x, part.y, draws) for part in _parts(batch)]
        return torch.cat(parts, axis).numpy()

    def reconstruct(self, rows: Any, labels: Sequence[Any] | None = None) -> Any:
        """The mean of p(x|z) at the code of every row, in the data's own terms."""
        self._require("reconstruct", Encodes, Decodes)
        parts = [self.model.reconstruct(part.x, part.y) for part in _parts(self.read(rows, labels))]
        return self.write(torch.cat(parts), rows)

    def score(
        self,
        rows: Any,
        labels: Sequence[Any] | None = None,
        samples: int | None = None,
        annealing: int | None = None,
        seed: int = 0,
    ) -> tuple[np.ndarray, np.ndarray]:
        """log p(x) of every row in nats, in the data's own units, and its standard error; see `inference.log_prob`."""
        value, error = inference.log_prob(self.model, self.read(rows, labels), samples, annealing, seed)
        return value.numpy(), error.numpy()

    def impute(self, rows: Any, labels: Sequence[Any] | None = None, draws: int = 1, seed: int = 0) -> list[Any]:
        """The rows with missing fields of a table, or nan in an array, drawn from the model, `draws` times.

        Raises:
            ConfigurationError: also for a model without a likelihood, and nothing missing.
        """
        rows = self._as_given(rows)
        if isinstance(rows, pd.DataFrame):
            x, observed = self.datamodule.from_incomplete_rows(rows)  # type: ignore[union-attr]
            filled = inference.impute(self.model, self._batch(x, rows, labels), observed, draws, seed=seed)
            return [self._with_observed(rows, self.write(one, rows)) for one in filled]
        whole, observed = inference.without_nan(rows)
        if observed is None:
            raise ConfigurationError("impute: nothing is missing; hidden values are nan")
        batch = self.read(whole, labels)
        filled = inference.impute(self.model, batch, observed.view(batch.x.shape), draws, seed=seed)
        given = np.asarray(rows)
        return [np.where(observed, given, self.write(one).reshape(given.shape)) for one in filled]

    @staticmethod
    def _with_observed(rows: pd.DataFrame, filled: pd.DataFrame) -> pd.DataFrame:
        """The rows as they were, with the model's values where they are missing."""
        found = rows.copy()
        for name in filled.columns:
            missing = found[name].isna().to_numpy()
            if missing.any():
                fields = np.where(missing, filled[name].astype(object), found[name].astype(object))
                found[name] = pd.Series(fields, found.index, object).infer_objects()
        return found

    def with_types(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Rows of a text file with numbers, in place of texts, where a column of the model has numbers."""
        typed = {}
        for column in self.datamodule.known_format():  # type: ignore[union-attr]
            fields = rows[column.name]
            if fields.dtype == object:
                numbers = column.kind == "number" or not isinstance(column.values[0], str)
                typed[column.name] = pd.to_numeric(fields) if numbers else fields.astype("string")
        return rows.assign(**typed)

    def _require(self, what: str, *capabilities: Any) -> None:
        if not can(self.model, *capabilities):
            raise ConfigurationError(f"{type(self.model).__name__} cannot {what}")


def numbers_of_labels(key: str, model: Any, names: Sequence[str] | None, asked: Sequence[Any]) -> list[int]:
    """The numbers of labels that are given by number, by name, or as lists of these.

    Where the names are numbers, as in a table with the classes 1 and 2, a number is a name.

    Args:
        key: the option, for the message.
        model: the model; the clusters of an autoencoder have no names.
        names: what the labels stand for, if it is known.
        asked: the labels.

    Raises:
        ConfigurationError: a label that is neither; the message has the most similar name.
    """
    names = [] if _has_clusters(model) else [str(name) for name in names or []]
    numbers = {name: number for number, name in enumerate(names)}
    if not any(name.lstrip("-").isdigit() for name in names):
        numbers.update({str(number): number for number in range(len(names))})
    found = []
    for label in (each for part in asked for each in (part if isinstance(part, list) else [part])):
        if names and str(label) not in numbers:
            raise ConfigurationError(f"{key}: {label!r} is none of {', '.join(names)}{did_you_mean(str(label), names)}")
        if not names and isinstance(label, str):
            raise ConfigurationError(f"{key}: {label!r} is no number, and the checkpoint has no names of labels")
        found.append(numbers.get(str(label), label))
    return found


def _has_clusters(model: Any) -> bool:
    """Whether what `sample` takes as labels are clusters, which have no names."""
    return bool(getattr(model, "clusters", None))


def _parts(batch: Batch) -> list[Batch]:
    return batch.split(math.ceil(len(batch.x) / PART))


def read_input(trained: Trained, path: Path) -> tuple[Any, list[str] | None]:
    """The rows of a file for a trained model, and their names where they have some."""
    from .datamodules.new_rows import read_rows

    return read_rows(path, trained.datamodule, tuple(trained.model.data_shape))
