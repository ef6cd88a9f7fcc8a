"""Encoders with a density or a bound of it, as a variational autoencoder needs, and a deterministic one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..batch import Shape
from ..distributions import DiagonalNormal, Flow, Implicit, TriangularNormal
from ..errors import at_least
from ..networks import MLP, Network
from ..networks.flows import AutoregressiveFlow, FlowKind
from .base import Encoder


class DeterministicEncoder(Encoder):
    """z = network(x), the encoder of an ordinary autoencoder: all draws of a row are equal, and have no density.

    Args:
        data_shape, latent_dim, classes: given by the model.
        network: from x to z.
    """

    def __init__(self, data_shape: Shape, latent_dim: int, classes: int = 0, network: Network = MLP) -> None:
        super().__init__(classes)
        self.network = network(data_shape, (latent_dim,), classes)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Implicit:
        z = self.network(x, self.label(y, x)).to(x.dtype)
        moments = lambda: (z, torch.zeros_like(z))
        return Implicit(lambda samples: z.expand(samples, *z.shape), z.shape[:1], z.shape[1:], moments)


class GaussianEncoder(Encoder):
    """q(z|x) = N(mean(x), diag(scale(x)^2)), both from one network (Kingma & Welling 2013, appendix C.2).

    Args:
        data_shape, latent_dim, classes: given by the model.
        network: from x to the means and the logarithms of the scales.
    """

    def __init__(self, data_shape: Shape, latent_dim: int, classes: int = 0, network: Network = MLP) -> None:
        super().__init__(classes)
        self.network = network(data_shape, (2 * latent_dim,), classes)

    def forward(self, x: Tensor, y: Tensor | None = None) -> DiagonalNormal:
        mean, log_scale = self.network(x, self.label(y, x)).to(x.dtype).chunk(2, -1)
        return DiagonalNormal(mean, log_scale.exp())


class FullGaussianEncoder(Encoder):
    """q(z|x) = N(mean(x), L(x) L(x)^T) with a full covariance, L = S(x) (I + strictly lower triangle).

    Args:
        data_shape, latent_dim, classes: given by the model.
        network: from x to the means, the logarithms of the diagonal of L, and its triangle.
    """

    def __init__(self, data_shape: Shape, latent_dim: int, classes: int = 0, network: Network = MLP) -> None:
        super().__init__(classes)
        self.latent_dim = latent_dim
        self.network = network(data_shape, (2 * latent_dim + latent_dim * (latent_dim - 1) // 2,), classes)
        self.rows: Tensor
        self.columns: Tensor
        rows, columns = torch.tril_indices(latent_dim, latent_dim, -1)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)

    def forward(self, x: Tensor, y: Tensor | None = None) -> TriangularNormal:
        out = self.network(x, self.label(y, x)).to(x.dtype)
        mean, log_scale, triangle = out.tensor_split([self.latent_dim, 2 * self.latent_dim], -1)
        unit = torch.eye(self.latent_dim, dtype=x.dtype, device=x.device).repeat(len(x), 1, 1)
        unit = unit.index_put((torch.arange(len(x), device=x.device)[:, None], self.rows, self.columns), triangle)
        return TriangularNormal(mean, log_scale.exp().unsqueeze(-1) * unit)


class FlowEncoder(Encoder):
    """A Gaussian whose noise goes through a normalizing flow conditioned on features of x; Gaussian at the start.

    `affine` is the inverse autoregressive flow (Kingma et al. 2016), `spline` a chain of coupling splines (Durkan
    et al. 2019). Both draw with one pass per transform.

    Args:
        data_shape, latent_dim, classes: given by the model.
        network: from x to the means, the logarithms of the scales and the features.
        kind, transforms, flow_hidden, bins: see `AutoregressiveFlow`.
        features: number of features of x for the flow.
    """

    def __init__(
        self,
        data_shape: Shape,
        latent_dim: int,
        classes: int = 0,
        network: Network = MLP,
        kind: FlowKind = "affine",
        transforms: int = 2,
        flow_hidden: Sequence[int] = (64, 64),
        features: int = 32,
        bins: int = 8,
    ) -> None:
        super().__init__(classes)
        self.latent_dim = latent_dim
        self.network = network(data_shape, (2 * latent_dim + at_least(1, features=features),), classes)
        passes = 2 if kind == "spline" else None
        self.flow = AutoregressiveFlow(latent_dim, features, kind, transforms, flow_hidden, bins, passes)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Flow:
        out = self.network(x, self.label(y, x)).to(x.dtype)
        mean, log_scale, features = out.tensor_split([self.latent_dim, 2 * self.latent_dim], -1)
        return Flow(mean, log_scale.exp(), self.flow(features))
