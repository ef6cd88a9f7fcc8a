"""log p(x) by numerical integration over the latent space: exact to the grid's resolution, for 1 or 2 dimensions."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import ConfigurationError
from .inputs import Decoder, Prior, as_prior


class Quadrature(NamedTuple):
    """A midpoint rule on `[-limit, limit]^latent_dim`.

    Attributes:
        points: `(n, latent_dim)`.
        log_weight: logarithm of the volume of a cell.
    """

    points: Tensor
    log_weight: float

    @classmethod
    def grid(
        cls, latent_dim: int, limit: float = 7.0, cells: int = 240, device: torch.device | None = None
    ) -> Quadrature:
        """`cells` cells along each dimension.

        Raises:
            ConfigurationError: more than 2 dimensions.
        """
        if latent_dim > 2:
            raise ConfigurationError(
                f"latent_dim: {latent_dim} dimensions cannot be integrated on a grid; at most 2 can"
            )
        width = 2 * limit / cells
        line = torch.arange(cells, device=device) * width + width / 2 - limit
        return cls(torch.cartesian_prod(*[line] * latent_dim).view(-1, latent_dim), latent_dim * math.log(width))


@torch.no_grad()
def log_likelihood_on_grid(
    decoder: Decoder,
    prior: Prior,
    x: Tensor,
    quadrature: Quadrature,
    elements: int = 1 << 22,
) -> Tensor:
    """log p(x) = log of the integral of p(x|z) p(z) over z, in nats.

    Args:
        decoder: z `(points, 1, dim)` -> p(x|z). prior: p(z), or a module or function whose call gives it.
        x: `(batch, *data_shape)`.
        quadrature: the grid.
        elements: size of the output of one decoder call, at most; only memory depends on it.

    Returns:
        `(batch,)`.
    """
    p, parts = as_prior(prior), []
    for z in quadrature.points.split(max(1, elements // x.numel())):
        log_joint = decoder(z.unsqueeze(1)).log_prob(x) + p.log_prob(z).unsqueeze(1)
        parts.append(log_joint.logsumexp(0))
    return torch.stack(parts).logsumexp(0) + quadrature.log_weight
