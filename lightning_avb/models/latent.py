"""Base classes of the models with a latent z and a prior: labels, sampling, encoding and decoding."""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .. import inference
from ..batch import Batch, Shape
from ..capabilities import ReadsLayout, can
from ..conditionals import Decoder, Encoder
from ..errors import ConfigurationError, at_least
from ..game import Game
from ..inference import LogProb
from ..lightning_private import attached_datamodule
from ..recipes import part_recipe
from .made_priors import make_prior


def cycled_labels(count: int, labels: Sequence[int] | None, classes: int, device: torch.device) -> Tensor | None:
    """`(count,)` labels that repeat those asked for, or all `classes`, in turn; None for a model without labels.

    Raises:
        ConfigurationError: labels that the model does not know.
    """
    if labels is not None and not classes:
        raise ConfigurationError("labels: the model is not class-conditional")
    if labels is not None and (not labels or min(labels) < 0 or max(labels) >= classes):
        raise ConfigurationError(f"labels: {list(labels)} are not in 0..{classes - 1}")
    if not classes:
        return None
    turns = torch.tensor(list(range(classes)) if labels is None else list(labels), device=device)
    return turns[torch.arange(count, device=device) % len(turns)]


class GenerativeModel(Game):
    """A model that generates x from z; its `prior` is a module that returns p(z).

    Args:
        latent_dim: dimensions of z.
        recipes: name -> recipe of `prior` and of the other parts of the model.
        conditional: whether the model is class-conditional: the label is an input of all networks but the prior's.
        engine: the arguments of `Game`.
    """

    data_attributes: ClassVar[tuple[str, ...]] = ("data_shape", "classes")
    label_argument: ClassVar[str] = "conditional"
    """The argument that messages about labels name."""
    prior: nn.Module

    def __init__(
        self,
        *,
        latent_dim: int,
        recipes: dict[str, Any],
        conditional: bool = False,
        **engine: Any,
    ) -> None:
        super().__init__(**engine)
        self.latent_dim = at_least(1, latent_dim=latent_dim)
        self.recipes = {name: part_recipe(value, name) for name, value in recipes.items()}
        self.conditional = conditional

    @property
    def classes(self) -> int:
        """The number of labels that are inputs of the networks; 0 in a model that is not conditional."""
        return (self.hparams.get("classes") or 0) if self.conditional else 0

    @property
    def labels_used(self) -> int:
        """The number of labels that the model uses in any way."""
        return self.classes

    def __getattr__(self, name: str) -> Tensor | nn.Module:
        try:
            return super().__getattr__(name)
        except AttributeError as error:
            is_part = any(name in vars(cls).get("__annotations__", {}) for cls in type(self).__mro__)
            if not is_part or self.__dict__.get("data_shape", ()) is not None:
                raise
            raise AttributeError(
                f"{type(self).__name__} makes its {name} when it knows the shape of the data: fit it, or give it "
                "data_shape=(...)"
            ) from error

    def build_if_known(self, **data_attributes: Any) -> None:
        if data_attributes.get("classes") is not None:
            at_least(1, classes=data_attributes["classes"])
        super().build_if_known(**data_attributes)

    def build(self, data_shape: Shape) -> None:
        if self.conditional and not self.classes:
            raise ConfigurationError(f"{self.label_argument}: the data has no labels")
        self.prior = make_prior(self.recipes["prior"], self.latent_dim)

    def configure_model(self) -> None:
        super().configure_model()
        classes, kept_labels = self.data.classes, self.data.labels
        if self.classes and isinstance(kept_labels, int):
            raise ConfigurationError(
                f"data.labels: {kept_labels}, and the model reads the label of every row; leave it null"
            )
        if self.classes and self.data.without_label:
            raise ConfigurationError(
                f"{self.label_argument}: {self.data.without_label}, and the model reads the label of every row; leave "
                "them out, or take a model that needs few labels, such as CategoricalAAE"
            )
        if self.labels_used and classes is not None and self.labels_used != classes:
            raise ConfigurationError(
                f"{self.label_argument}: the model knows {self.labels_used} labels, the data has {classes}"
            )

    def check_batch(self, batch: Batch, batch_idx: int) -> None:
        if self.classes and batch.y is None:
            raise ConfigurationError(
                f"{self.label_argument}: the model reads the label of every row, and rows have none"
            )
        if self.classes:
            self.check_labels(batch, minimum=0)
        if batch_idx == 0:
            self.check_rows(batch.x)
            self.check_values(batch.x)

    def check_rows(self, x: Tensor) -> None:
        """Raises ConfigurationError if these are no rows of data, a floating-point tensor `(batch, *data_shape)`."""
        found = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        if not isinstance(x, Tensor) or tuple(x.shape[1:]) != self.data_shape or not x.is_floating_point():
            shape = ", ".join(map(str, ("batch", *(self.data_shape or ()))))
            raise ConfigurationError(f"x: {found}; a floating-point tensor ({shape}) was expected")

    def check_values(self, x: Tensor) -> None:
        """Raises ConfigurationError if the model cannot make such an x. Called for the first batch of a stage."""

    def check_labels(self, batch: Batch, minimum: int) -> None:
        """Raises ConfigurationError if a label is not between `minimum` and the number of classes - 1."""
        y, classes = batch.y, self.labels_used
        if y is None:
            return
        if y.dtype != torch.int64 or y.shape != batch.x.shape[:1]:
            raise ConfigurationError(
                f"{self.label_argument}: labels must be int64, one per row: {tuple(batch.x.shape[:1])}; these are "
                f"{str(y.dtype).removeprefix('torch.')} of shape {tuple(y.shape)}"
            )
        if len(wrong := y[(y < minimum) | (y >= classes)]):
            valid = f"0..{classes - 1}" if classes else "none"
            unlabelled = ", and -1 for a row without one" if minimum < 0 else ""
            label = "no label" if wrong[0] == -1 else f"the label {wrong[0]}"
            raise ConfigurationError(f"{self.label_argument}: a row has {label}; the model knows {valid}{unlabelled}")

    @property
    def code_dim(self) -> int:
        """Length of a code, which `encode` returns and `decode` takes."""
        return self.latent_dim

    @property
    def label_choices(self) -> int:
        """The number of labels, or categories, that `sample` can be asked for; 0: none."""
        return self.classes

    @torch.no_grad()
    def sample_codes(self, count: int, y: Tensor | None = None) -> Tensor:
        """`(count, code_dim)` codes with z drawn from the prior, and labels y `(count,)` if they are part of a code."""
        return self.make_code(self.prior().sample((count,)), y)

    def make_code(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """`(count, code_dim)`, the code of z `(count, latent_dim)` and labels y; z if labels are no part of it."""
        return z

    @abc.abstractmethod
    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """x, or the mean of p(x|z), `(..., *data_shape)`, for codes z `(..., code_dim)` and labels `(...)`."""

    @torch.no_grad()
    def sample(self, count: int, labels: Sequence[int] | None = None, mean: bool = True) -> Tensor:
        """`(count, *data_shape)`: samples of x, from codes that are drawn from the prior.

        Args:
            count: number of samples.
            labels: for a class-conditional model, used in turn; None: all of them.
            mean: whether to return the mean of p(x|z), as usual for pictures, or a draw; the same for a generator.

        Raises:
            ConfigurationError: labels that the model does not know.
        """
        y = cycled_labels(count, labels, self.label_choices, self.device)
        return self.decode(self.sample_codes(count, y), y)


class EncodingModel(GenerativeModel):
    """A generative model with an `encoder`, which returns q(z|x)."""

    encoder: Encoder

    def encode(self, x: Any, y: Any = None, draws: int | None = None) -> Tensor:
        """Codes of rows: the mean of q(z|x), `(batch, latent_dim)`, or draws of it, `(draws, batch, latent_dim)`.

        Args:
            x: a tensor or an array `(batch, *data_shape)`.
            y: labels, for a class-conditional model.
            draws: of q(z|x); None: the mean.

        Raises:
            ConfigurationError: x is no such rows, or has values that are not finite.
        """
        return self.code_of(inference.rows_of(self, x, y), draws)

    @torch.no_grad()
    def code_of(self, rows: Batch, draws: int | None = None) -> Tensor:
        """What `encode` gives, of rows that are known to be the model's: no check, for which a GPU would wait."""
        q = self.encoder(rows.x, rows.y)
        return inference.mean_of(q) if draws is None else q.rsample((at_least(1, draws=draws),))

    def reconstruct(self, x: Any, y: Any = None) -> Tensor:
        """The mean of p(x|z), `(batch, *data_shape)`, for the code z of every row."""
        rows = inference.rows_of(self, x, y)
        return self.decode(self.code_of(rows), rows.y)

    def reconstruction_error(self, batch: Batch) -> Tensor:
        """|x - decode(z)|^2, `(batch,)`, for a draw z of q(z|x), summed over the dimensions of x."""
        return (batch.x - self.decode(self.code_of(batch, draws=1)[0], batch.y)).square().flatten(1).sum(1)

    def predictions(self, batch: Batch) -> dict[str, Any]:
        """One posterior draw per row: `z` `(batch, latent_dim)`, with the rows' `y` and `index`."""
        return {"z": self.code_of(batch, draws=1)[0], "y": batch.y, "index": batch.index}


class LatentVariableModel(EncodingModel):
    """A model with `encoder`, `decoder` and `prior`, modules that return distributions.

    Args:
        latent_dim: dimensions of z.
        recipes: name -> recipe of `encoder`, `decoder`, `prior` and of the other parts of the model.
        conditional: whether the model is class-conditional: the label is an input of encoder, decoder and critic.
        samples: draws of z per row.
        kl_warmup: steps over which the weight of the KL term rises from 0 to 1; 0: no warm-up.
        weight_prior: standard deviation of a Gaussian prior on the decoder's weights, which makes the decoder a
            maximum a posteriori (MAP) estimate; None: maximum likelihood.
        engine: the arguments of `Game`.
    """

    decoder: Decoder
    log_jacobian: Tensor

    def __init__(
        self,
        *,
        latent_dim: int,
        recipes: dict[str, Any],
        samples: int = 1,
        conditional: bool = False,
        kl_warmup: int = 0,
        weight_prior: float | None = None,
        **engine: Any,
    ) -> None:
        super().__init__(latent_dim=latent_dim, recipes=recipes, conditional=conditional, **engine)
        self.samples, self.kl_warmup = at_least(1, samples=samples), at_least(0, kl_warmup=kl_warmup)
        if weight_prior is not None and not weight_prior > 0:
            raise ConfigurationError(f"weight_prior: {weight_prior} is not a positive standard deviation")
        self.weight_prior, self.train_rows = weight_prior, 0
        self.register_buffer("log_jacobian", torch.zeros(()))

    def build(self, data_shape: Shape) -> None:
        self.encoder = self.recipes["encoder"](data_shape, self.latent_dim, self.classes)
        self.decoder = self.recipes["decoder"](data_shape, self.latent_dim, self.classes)
        super().build(data_shape)

    def configure_model(self) -> None:
        super().configure_model()
        if attached_datamodule(self) is None:
            return
        data = self.data
        if data.layout is not None and can(self.decoder, ReadsLayout):
            self.decoder.read_layout(data.layout)  # type: ignore[operator]
            self.log_jacobian.zero_()
        elif data.layout is not None and not data.layout.of_numbers_alone:
            raise ConfigurationError(
                f"decoder: the table has more than numbers, and a {type(self.decoder).__name__} does not know its "
                "columns; take TableDecoder"
            )
        else:
            self.log_jacobian.fill_(data.log_jacobian)
        self.train_rows = data.rows("train") if self.weight_prior is not None and data.rows else 0

    @property
    def kl_weight(self) -> float:
        """Weight of the KL term in the training loss: 1 once the warm-up is over."""
        return min(1.0, (self.global_step + 1) / self.kl_warmup) if self.kl_warmup else 1.0

    @property
    def weight_penalty(self) -> Tensor | float:
        """-log p(weights of the decoder) / rows of the training data, up to a constant; 0 for maximum likelihood.

        The mean loss over rows plus this is the MAP objective, divided by the number of rows.
        """
        if self.weight_prior is None:
            return 0.0
        if not self.train_rows:
            raise ConfigurationError("weight_prior: needs a datamodule that gives the number of its rows (`rows`)")
        squares = torch.stack([parameter.square().sum() for parameter in self.decoder.parameters()]).sum()
        return squares / (2 * self.weight_prior**2 * self.train_rows)

    def log_likelihood(self, batch: Batch, z: Tensor) -> Tensor:
        """log p(x|z), `(samples, batch)`, in nats, a density in the units that x had before it was standardised."""
        return self.decoder(z, batch.y).log_prob(batch.x) + self.log_jacobian

    def log_prob(
        self,
        x: Any,
        y: Any = None,
        samples: int | None = None,
        annealing: int | None = None,
        seed: int = 0,
    ) -> LogProb:
        """log p(x) of every row in nats, with its standard error; see `inference.log_prob`."""
        return inference.log_prob(self, inference.rows_of(self, x, y), samples, annealing, seed)

    def impute(self, x: Any, observed: Any = None, y: Any = None, draws: int = 1, seed: int = 0) -> Tensor:
        """`(draws, batch, *data_shape)`: x with what is missing, nan as well, drawn; see `inference.impute`."""
        x, seen = inference.without_nan(x, observed)
        return inference.impute(self, inference.rows_of(self, x, y), seen, draws, seed=seed)

    def bits_per_dim(self, bound: Tensor) -> dict[str, Tensor]:
        """A bound of log p(x) in bits per dimension of x, for decoders of data with a fixed number of values."""
        if self.decoder.levels is None or self.data_shape is None:
            return {}
        return {"bits_per_dim": bound / (-math.log(2) * math.prod(self.data_shape))}

    def check_values(self, x: Tensor) -> None:
        self.decoder.check(x)

    @torch.no_grad()
    def sample(self, count: int, labels: Sequence[int] | None = None, mean: bool = True) -> Tensor:
        y = cycled_labels(count, labels, self.label_choices, self.device)
        p = self.decoder(self.sample_codes(count, y), y)
        return p.mean if mean else p.sample()

    @torch.no_grad()
    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Means of p(x|z), `(..., *data_shape)`, for z `(..., latent_dim)` and labels `(...)`."""
        return self.decoder(z, y).mean
