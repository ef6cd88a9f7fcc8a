"""What a part, a model or a DataModule can do beyond what it must: the questions that other files ask, in one place.

`isinstance(q, ScoredDraws)` is true for every object with these attributes; no class has to inherit from here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, runtime_checkable

from torch import Size, Tensor
from torch.distributions import Distribution

# Distributions.


@runtime_checkable
class ScoredDraws(Protocol):
    """A q(z|x) whose draws come with their log-density, or with a bound of it in expectation."""

    def rsample_and_log_prob(self, sample_shape: Size = ...) -> tuple[Tensor, Tensor]: ...


@runtime_checkable
class HasMoments(Protocol):
    """A q(z|x) that tells mean and standard deviation, `(batch, latent_dim)`, from draws if it must."""

    def moments(self, draws: int) -> tuple[Tensor, Tensor]: ...


# Priors.


@runtime_checkable
class HasParts(Protocol):
    """A prior with parts that labels can name."""

    parts: int

    def given(self, y: Tensor) -> Distribution: ...


# Models.


@runtime_checkable
class Samples(Protocol):
    """A model that makes new data."""

    def sample(self, count: int, labels: Sequence[int] | None = None, mean: bool = True) -> Tensor: ...


@runtime_checkable
class Encodes(Protocol):
    """A model that gives codes of data."""

    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor: ...


@runtime_checkable
class Decodes(Protocol):
    """A model that gives data for codes."""

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor: ...


@runtime_checkable
class HasLikelihood(Protocol):
    """A model with q(z|x), p(x|z) and p(z), modules that return distributions."""

    encoder: Any
    decoder: Any
    prior: Any


@runtime_checkable
class HasDensityRatio(Protocol):
    """A model whose critic estimates log q(z|x) - log p(z)."""

    density_ratio: Any


@runtime_checkable
class DrawsParameters(Protocol):
    """A model that draws the parameters of a log-density."""

    def draw_z(self, count: int, x: Tensor | None = None) -> Tensor: ...


# Data.


@dataclass(frozen=True)
class DataDescription:
    """What a DataModule tells of its data. None, or the default: it does not tell.

    Attributes:
        data_shape: shape of a row of x.
        classes: number of labels.
        labels: how many training rows show their label, where that is not all of them.
        labelled_rows: how many training rows have a label.
        labelled_per_batch: how many rows at the beginning of a training batch are labelled ones.
        rows: maps a stage, `train`, `val` or `test`, to the number of its rows.
        log_jacobian: what to add to log p(x) to have nats of the original units.
        columns: names of the columns of a table.
        restore: maps rows of x to the original units.
        no_data: there are no rows; the model learns from a log-density alone.
    """

    data_shape: Sequence[int] | None = None
    classes: int | None = None
    labels: int | None = None
    labelled_rows: int | None = None
    labelled_per_batch: int | None = None
    rows: Callable[[str], int] | None = None
    log_jacobian: float = 0.0
    columns: Sequence[str] | None = None
    restore: Callable[[Tensor], Tensor] | None = None
    no_data: bool = False

    @classmethod
    def of(cls, datamodule: Any) -> DataDescription:
        """That of a DataModule, which may have some of these attributes, or of None."""
        return cls(**{field.name: getattr(datamodule, field.name, field.default) for field in fields(cls)})  # type: ignore[arg-type]
