"""The Parzen window estimate of log p(x): a kernel density on samples of the model.

Do not rank models by it. In many dimensions it is far below log p(x) for any practical number of samples, and it
prefers models whose samples are close to few training data: it can rank a model above the true density (Theis et al.
2016, section 3.2; Wu et al. 2016, section 5). It is here because papers on adversarial autoencoders report it; report
`annealing` or `importance` with it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import ConfigurationError, at_least


class ParzenEstimate(NamedTuple):
    """The estimate for every row, and the width of its kernel.

    Attributes:
        log_likelihood: `(batch,)`, in nats, a density in the units of x.
        width: standard deviation of the kernel, in the units of x.
    """

    log_likelihood: Tensor
    width: float


def parzen_window(
    samples: Tensor, validation: Tensor, x: Tensor, widths: Tensor | None = None, elements: int = 1 << 24
) -> ParzenEstimate:
    """log 1/n sum_i N(x; samples_i, width^2 I), with the best width for the validation data.

    Args:
        samples: `(n, *data_shape)`, draws of the model.
        validation: `(rows, *data_shape)`, data to choose the width.
        x: `(batch, *data_shape)`, data to score.
        widths: `(count,)`, to choose from; None: 20 from 0.05 to 1, each a constant factor above the one before.
        elements: distances in memory at a time; only memory depends on it.

    Raises:
        ConfigurationError: a width that is not positive.
    """
    if widths is None:
        widths = torch.logspace(math.log10(0.05), 0, 20)
    best = int(log_density(samples, validation, widths, elements).mean(1).argmax())
    return ParzenEstimate(log_density(samples, x, widths[best : best + 1], elements)[0], widths[best].item())


@torch.no_grad()
def log_density(samples: Tensor, x: Tensor, widths: Tensor, elements: int = 1 << 24) -> Tensor:
    """The kernel density for several widths, `(count, batch)`; the arguments are those of `parzen_window`."""
    at_least(1, elements=elements)
    if not (widths > 0).all():
        raise ConfigurationError(f"widths: {widths.tolist()} has a width that is not positive")
    centre = samples.mean(0)  # differences of large numbers would round
    points = (samples - centre).flatten(1)
    dim, parts = points.shape[1], []
    for rows in (x - centre).flatten(1).split(max(1, elements // len(points))):
        squared = torch.addmm(points.square().sum(1), rows, points.T, alpha=-2) + rows.square().sum(1, keepdim=True)
        parts.append(torch.stack([(squared.clamp_min(0) / (-2 * w * w)).logsumexp(1) for w in widths.tolist()]))
    scale = widths.to(points).log().unsqueeze(1)
    return torch.cat(parts, 1) - math.log(len(points)) - dim * (scale + 0.5 * math.log(2 * math.pi))
