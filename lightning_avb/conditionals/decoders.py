"""Decoders: likelihoods p(x|z) whose dimensions are independent given z."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from ..batch import Shape
from ..distributions import Bernoulli, DiscretizedLogistic, TableEntries, TableLayout
from ..errors import ConfigurationError
from ..networks import MLP, Network
from .base import Decoder


class BernoulliDecoder(Decoder):
    """p(x|z) = prod_j Bernoulli(x_j; sigmoid(network(z)_j)), for data in {0, 1}.

    Args:
        data_shape, latent_dim, classes: given by the model.
        network: from z to the logits.
    """

    def __init__(self, data_shape: Shape, latent_dim: int, classes: int = 0, network: Network = MLP) -> None:
        super().__init__(classes)
        self.dims = len(data_shape)
        self.network = network((latent_dim,), tuple(data_shape), classes)

    def check(self, x: Tensor) -> None:
        if not ((x == 0) | (x == 1)).all():
            raise ConfigurationError(
                "data.binarize: BernoulliDecoder scores zeros and ones, and the data has other values; "
                "set it to 'dynamic' or 'static', or take a GaussianDecoder"
            )

    def forward(self, z: Tensor, y: Tensor | None = None) -> Distribution:
        return Independent(Bernoulli(self._logits(z, y)), self.dims, validate_args=False)

    def _logits(self, z: Tensor, y: Tensor | None) -> Tensor:
        return self.network(z, self.label(y, z)).to(z.dtype)

    def corrupt(self, x: Tensor, level: float) -> Tensor:
        """x with every value flipped with probability `level`."""
        return (x - (torch.rand_like(x) < _checked_probability(level)).to(x.dtype)).abs()

    def noisy(self, z: Tensor, level: float, y: Tensor | None = None) -> Distribution:
        mean = self._logits(z, y).sigmoid()
        return Independent(
            Bernoulli(torch.logit(mean + _checked_probability(level) * (1 - 2 * mean))), self.dims, False
        )


def _checked_probability(level: float) -> float:
    if not 0 < level < 0.5:
        raise ConfigurationError(f"noise: {level} is not a probability of a wrong value between 0 and 0.5")
    return level


class GaussianDecoder(Decoder):
    """p(x|z) = N(x; network(z), scale^2 I).

    Args:
        data_shape, latent_dim, classes: given by the model.
        network: from z to the means; with `sigmoid` to their logits.
        scale: the standard deviation, in the units of x; None: one number learned for all dimensions.
        start: initial value of a learned scale.
        sigmoid: keeps the means in (0, 1), for pictures.
    """

    def __init__(
        self,
        data_shape: Shape,
        latent_dim: int,
        classes: int = 0,
        network: Network = MLP,
        scale: float | None = None,
        start: float = 1.0,
        sigmoid: bool = False,
    ) -> None:
        super().__init__(classes)
        for name, value in {"scale": scale, "start": start}.items():
            if value is not None and not value > 0:
                raise ConfigurationError(f"{name}: {value} is not a positive standard deviation")
        self.dims, self.sigmoid = len(data_shape), sigmoid
        self.network = network((latent_dim,), tuple(data_shape), classes)
        log_scale = torch.tensor(math.log(start if scale is None else scale))
        if scale is None:
            self.log_scale = nn.Parameter(log_scale)
        else:
            self.register_buffer("log_scale", log_scale, persistent=False)  # it is in the configuration

    def check(self, x: Tensor) -> None:
        if self.sigmoid and not ((x >= 0) & (x <= 1)).all():
            raise ConfigurationError(
                "decoder.sigmoid: true keeps the means in (0, 1), and the data has other values; set it to false"
            )

    def forward(self, z: Tensor, y: Tensor | None = None) -> Distribution:
        return self._normal(z, y, self.log_scale.exp())

    def _normal(self, z: Tensor, y: Tensor | None, scale: Tensor) -> Distribution:
        mean = self.network(z, self.label(y, z)).to(z.dtype)
        mean = mean.sigmoid() if self.sigmoid else mean
        return Independent(Normal(mean, scale, validate_args=False), self.dims, validate_args=False)

    def corrupt(self, x: Tensor, level: float) -> Tensor:
        """x plus normal noise of standard deviation `level`, in the units of x."""
        return x + level * torch.randn_like(x)

    def noisy(self, z: Tensor, level: float, y: Tensor | None = None) -> Distribution:
        if not level > 0:
            raise ConfigurationError(f"noise: {level} is not a positive standard deviation")
        return self._normal(z, y, (self.log_scale.exp().square() + level**2).sqrt())


class DiscretizedLogisticDecoder(Decoder):
    """A logistic density integrated over the pixel's value, for 8-bit data k / 255 (Salimans et al. 2017).

    P(x = k / 255 | z) = F(k + 1/2) - F(k - 1/2), F the distribution function of a logistic variable around the
    network's mean, with everything below 0 and above 255 counted to those. It is a probability, as bits per dimension
    need it.

    Args:
        data_shape, latent_dim, classes: given by the model.
        network: from z to the means.
        scale: initial scale of the logistic, in units of x; learned, one number per dimension of x.
    """

    levels = 256

    def __init__(
        self,
        data_shape: Shape,
        latent_dim: int,
        classes: int = 0,
        network: Network = MLP,
        scale: float = 0.1,
    ) -> None:
        super().__init__(classes)
        if not scale > 0:
            raise ConfigurationError(f"scale: {scale} is not a positive scale")
        self.dims = len(data_shape)
        self.network = network((latent_dim,), tuple(data_shape), classes)
        self.log_scale = nn.Parameter(torch.full(tuple(data_shape), math.log(scale)))

    def check(self, x: Tensor) -> None:
        k = x * 255
        if not (((k - k.round()).abs() < 1e-2) & (k > -0.5) & (k < 255.5)).all():
            raise ConfigurationError(
                "decoder: DiscretizedLogisticDecoder scores 8-bit pixels, multiples of 1/255 in [0, 1], and the data "
                "has other values; take a GaussianDecoder, or set data.binarize to 'none'"
            )

    def forward(self, z: Tensor, y: Tensor | None = None) -> Distribution:
        mean = self.network(z, self.label(y, z)).to(z.dtype) + 0.5
        return Independent(DiscretizedLogistic(mean, self.log_scale.exp(), self.levels), self.dims, validate_args=False)


class TableDecoder(Decoder):
    """p(x|z) of the observed fields of a table's row: normals, bits and categories, independent given z.

    For the rows of `datamodules.Table`, which tell what their entries are; the log-density is that of the numbers in
    the table's own units, whatever is missing or modelled by its logarithm. Without a `Table` all entries are numbers.

    Args:
        data_shape, latent_dim, classes: given by the model.
        network: from z to the means of standardised numbers, and to logits.
        start: initial standard deviation of the numbers, which are standardised; learned, one for each.
        least: least standard deviation: a density grows without limit where values repeat.
    """

    def __init__(
        self,
        data_shape: Shape,
        latent_dim: int,
        classes: int = 0,
        network: Network = MLP,
        start: float = 1.0,
        least: float = 0.05,
    ) -> None:
        super().__init__(classes)
        if len(data_shape) != 1:
            raise ConfigurationError(f"decoder: TableDecoder is for rows of a table, not for {tuple(data_shape)}")
        if not 0 < least < start:
            raise ConfigurationError(f"least: {least} is not a standard deviation between 0 and start, {start}")
        (entries,), self.least = data_shape, least
        self.network = network((latent_dim,), (entries,), classes)
        self.log_scale = nn.Parameter(torch.full((entries,), math.log(start - least)))
        self.register_buffer("kind", torch.zeros(entries, dtype=torch.int64))
        self.register_buffer("block", torch.arange(entries))
        self.register_buffer("log_unit", torch.zeros(entries))
        self.register_buffer("shift", torch.zeros(entries))
        self.register_buffer("logged", torch.zeros(entries, dtype=torch.bool))

    @property
    def layout(self) -> TableLayout:
        return TableLayout(*(getattr(self, name) for name in TableLayout._fields))

    def read_layout(self, layout: TableLayout) -> None:
        """Learns what the entries are, from the DataModule."""
        for name, value in layout._asdict().items():
            getattr(self, name).copy_(value)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Distribution:
        outputs = self.network(z, self.label(y, z)).to(z.dtype)
        scale = self.least + self.log_scale.exp()
        return Independent(TableEntries(outputs, scale, self.layout), 1, validate_args=False)
