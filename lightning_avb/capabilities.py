"""Optional abilities of parts, models and DataModules, as protocols.

`can(q, ScoredDraws)` is true for every object with these attributes; no class has to inherit from here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Generic, Protocol, TypeVar

from torch import Tensor
from torch.distributions import Distribution


def can(thing: Any, *capabilities: Any) -> bool:
    """Whether it has all of these capabilities, which are protocols of this file.

    `isinstance` with a protocol does not find the submodules of a module: since Python 3.12 it looks at attributes
    without `__getattr__`.
    """
    return all(hasattr(thing, name) for capability in capabilities for name in _members(capability))


@cache  # asked for in every training step
def _members(protocol: type) -> set[str]:
    parts = [part for part in protocol.__mro__ if part not in (Protocol, Generic, object)]
    names = {name for part in parts for name in (*vars(part), *vars(part).get("__annotations__", {}))}
    return {name for name in names if not name.startswith("_")}


# Distributions.


class ScoredDraws(Protocol):
    """A q(z|x) whose draws come with their log-density, or with a bound of it in expectation."""

    def rsample_and_log_prob(self, sample_shape: tuple[int, ...] = ...) -> tuple[Tensor, Tensor]: ...


class HasMoments(Protocol):
    """A q(z|x) with mean and standard deviation, `(batch, latent_dim)`, estimated from draws if necessary."""

    def moments(self, draws: int) -> tuple[Tensor, Tensor]: ...


class Located(Protocol):
    """A q(z|x) that knows where it lies: the law of (z - location) / scale depends on x through `features` alone.

    `location` and `scale` are `(batch, latent_dim)`, `features` is `(batch, features)`.
    """

    location: Tensor
    scale: Tensor
    features: Tensor


class DensityBounds(Protocol):
    """A q(z|x) whose draws come with a lower and an upper bound of their log-density in expectation."""

    def rsample_and_bounds(self, samples: int, components: int) -> tuple[Tensor, Tensor, Tensor]: ...


# Encoders.


class HasFeatures(Protocol):
    """An encoder whose q(z|x) is `Located`; `feature_dim` is the number of its features."""

    feature_dim: int


def read_shape(encoder: Any, data_shape: Sequence[int]) -> tuple[int, ...]:
    """Shape of a row of what a critic reads: the encoder's features, or x where it has none."""
    return (encoder.feature_dim,) if can(encoder, HasFeatures) else tuple(data_shape)


# Decoders.


class ReadsLayout(Protocol):
    """A decoder of a table's rows that is told what their entries are; its densities are in the table's own units."""

    def read_layout(self, layout: Any) -> None: ...


# Priors.


class HasParts(Protocol):
    """A prior with one part per label, such as a mixture."""

    parts: int

    def given(self, y: Tensor) -> Distribution: ...


# Models.


class Samples(Protocol):
    """A model that samples new data, with the number of labels that it can be asked for, 0: none."""

    label_choices: int

    def sample(self, count: int, labels: Sequence[int] | None = None, mean: bool = True) -> Tensor: ...


class Encodes(Protocol):
    """A model that encodes data: means of q(z|x), or draws."""

    def encode(self, x: Tensor, y: Tensor | None = None, draws: int | None = None) -> Tensor: ...


class Decodes(Protocol):
    """A model that decodes codes of a given length, with the number of labels that it is told of, 0: none."""

    code_dim: int
    classes: int

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor: ...


class HasCodes(Protocol):
    """A model that draws codes from its prior and puts them together from z and a label."""

    prior: Any
    latent_dim: int
    label_choices: int

    def sample_codes(self, count: int, y: Tensor | None = None) -> Tensor: ...

    def make_code(self, z: Tensor, y: Tensor | None = None) -> Tensor: ...


class HasPrior(Protocol):
    """A model with p(z), a module that returns a distribution."""

    prior: Any


class HasLikelihood(HasPrior, Protocol):
    """A model with q(z|x), p(x|z) and p(z), modules that return distributions."""

    encoder: Any
    decoder: Any
    latent_dim: int
    classes: int
    label_choices: int
    log_jacobian: Tensor


class HasDensityRatio(Protocol):
    """A model whose critic estimates log q(z|x) - log p(z)."""

    density_ratio: Any


class DrawsParameters(Protocol):
    """A model that draws the parameters of a log-density; `amortised`: one posterior per data set."""

    target: Any
    latent_dim: int
    amortised: bool

    def draw(self, count: int, x: Tensor | None = None) -> dict[str, Tensor]: ...

    def draw_z(self, count: int, x: Tensor | None = None) -> Tensor: ...


# Data.


T = TypeVar("T")


class _Optional(Generic[T]):
    """An attribute that the DataModule may have, read when it is asked for: it may have to look at the data."""

    def __init__(self, default: T) -> None:
        self.default = default

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, description: DataDescription, owner: type) -> T:
        return getattr(description.datamodule, self.name, self.default)


class DataDescription:
    """What a DataModule says about its data. None, or the default: it does not say.

    Attributes:
        data_shape: shape of a row of x.
        classes: number of labels.
        labels: number of training rows that keep their label, if not all do.
        labelled_rows: number of training rows with a label.
        labelled_per_batch: number of labelled rows at the beginning of a training batch.
        rows: maps a stage, `train`, `val` or `test`, to the number of its rows.
        log_jacobian: the term to add to log p(x) for a density in the original units, in nats.
        columns: names of the columns of a table.
        layout: what the entries of a table's row are, a `TableLayout`.
        to_rows: maps rows of x to rows as a user has them: a DataFrame or an array.
        from_rows: the inverse.
        label: the name of the column of the labels.
        label_names: what the labels stand for.
        without_label: which rows have no label, for messages; empty if all have one.
        restore: maps rows of x to the original units.
        no_data: there are no rows; the model learns from a log-density alone.

    Args:
        datamodule: a DataModule, which may have some of these attributes, or None.
    """

    def __init__(self, datamodule: Any) -> None:
        self.datamodule = datamodule

    data_shape = _Optional[Sequence[int] | None](None)
    classes = _Optional[int | None](None)
    labels = _Optional[int | None](None)
    labelled_rows = _Optional[int | None](None)
    labelled_per_batch = _Optional[int | None](None)
    rows = _Optional[Callable[[str], int] | None](None)
    log_jacobian = _Optional[float](0.0)
    columns = _Optional[Sequence[str] | None](None)
    layout = _Optional[Any](None)
    to_rows = _Optional[Callable[[Tensor], Any] | None](None)
    from_rows = _Optional[Callable[[Any], Tensor] | None](None)
    label = _Optional[Any](None)
    label_names = _Optional[Sequence[str] | None](None)
    without_label = _Optional[str]("")
    restore = _Optional[Callable[[Tensor], Tensor] | None](None)
    no_data = _Optional[bool](False)

    def rows_of(self, x: Tensor) -> Any:
        """Rows of x `(rows, *data_shape)` in the data's own terms: a DataFrame, or an array."""
        if self.to_rows is not None:
            return self.to_rows(x)
        return (self.restore(x) if self.restore else x).cpu().numpy()

    def names_of(self, y: Tensor) -> list[Any]:
        """What labels y `(rows,)` stand for; their numbers where that is not known."""
        names = self.label_names
        return y.tolist() if names is None else [names[label] for label in y.tolist()]
