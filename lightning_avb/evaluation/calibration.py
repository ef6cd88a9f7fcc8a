"""Whether posteriors are calibrated, by simulation (Talts et al. 2018).

With theta ~ p(theta) and x ~ p(x|theta), theta is itself a draw of p(theta|x): among L independent draws of that
posterior its rank is uniform on 0 .. L. If the draws are too narrow, ranks accumulate at both ends; if they are too
wide, in the middle; if they are too low, at L. Uniform ranks are necessary but not sufficient: draws of the prior have
them, too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ConfigurationError, at_least


def calibration_ranks(theta: Tensor, draws: Tensor) -> Tensor:
    """How many draws lie below the truth, `(simulations, dim)` int64, from 0 to the number of draws.

    An equal draw is not below: parameters are continuous.

    Args:
        theta: `(simulations, dim)`, the parameters that made the data.
        draws: `(draws, simulations, dim)`, independent draws of the posterior of every simulation; those of a Markov
            chain need thinning, or the ranks accumulate at the ends.

    Raises:
        ConfigurationError: shapes that do not match, no draws, or nan.
    """
    if theta.ndim != 2 or draws.shape[1:] != theta.shape:
        raise ConfigurationError(
            f"draws: shape {tuple(draws.shape)} is not (draws, simulations, dim) for theta of {tuple(theta.shape)}"
        )
    at_least(1, draws=len(draws))
    for name, values in (("theta", theta), ("draws", draws)):
        if values.isnan().any():
            raise ConfigurationError(f"{name}: holds a nan")
    return (draws < theta).sum(0)


def uniformity(ranks: Tensor, draws: int, bins: int | None = None) -> Tensor:
    """The p-value of Pearson's chi-square test that ranks are uniform on 0 .. draws, for every dimension, `(dim,)`.

    It is small for posteriors that are not calibrated, and uniform in (0, 1) for those that are: among many dimensions
    some are small by chance.

    Args:
        ranks: `(simulations, dim)`, from `calibration_ranks`.
        draws: number of draws among which the ranks are.
        bins: number of bins of neighbouring ranks, of nearly equal width; expected counts are in proportion to the
            widths. None: 20, or fewer, with at least 10 simulations and one rank per bin.

    Raises:
        ConfigurationError: ranks out of range, fewer than two bins or more than ranks, fewer than 5 simulations
            per bin.
    """
    at_least(1, draws=draws)
    if ranks.ndim != 2 or ranks.is_floating_point():
        raise ConfigurationError(f"ranks: {ranks.dtype} of shape {tuple(ranks.shape)}, not integers (simulations, dim)")
    simulations = at_least(10, simulations=len(ranks))
    if ranks.min() < 0 or ranks.max() > draws:
        raise ConfigurationError(f"ranks: from {ranks.min()} to {ranks.max()}, not within 0 to {draws}")
    bins = at_least(2, bins=max(2, min(20, simulations // 10, draws + 1)) if bins is None else bins)
    if bins > draws + 1:
        raise ConfigurationError(f"bins: {bins} are more than the {draws + 1} ranks")
    bin_of = torch.arange(draws + 1, device=ranks.device) * bins // (draws + 1)
    expected = bin_of.bincount(minlength=bins).double() * simulations / (draws + 1)
    if expected.min() < 5:
        raise ConfigurationError(
            f"bins: {simulations} simulations are too few for {bins} bins; 5 for each is the least"
        )
    every = torch.arange(bins, device=ranks.device).view(-1, 1, 1)
    found = (bin_of[ranks.long()] == every).sum(1).double()
    squared = ((found - expected.unsqueeze(1)).square() / expected.unsqueeze(1)).sum(0)
    half = torch.full_like(squared, 0.5 * (bins - 1))
    return torch.special.gammaincc(half, 0.5 * squared)
