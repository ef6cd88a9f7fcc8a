"""Whether posteriors are calibrated, by simulation (Talts et al. 2018).

With theta ~ p(theta) and x ~ p(x|theta), theta is itself a draw of p(theta|x): among L independent draws of that
posterior its rank is uniform on 0 .. L. Draws of too narrow a distribution heap the ranks up at both ends, of too wide
a one in the middle, of one that lies too low at L. Uniform ranks are necessary and not sufficient: draws of the prior
have them too.
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
            chain need thinning, or the ranks heap up at the ends.

    Raises:
        ConfigurationError: shapes that do not belong together, no draws, or numbers that are nan.
    """
    if theta.ndim != 2 or draws.shape[1:] != theta.shape:
        raise ConfigurationError(
            f"draws: shape {tuple(draws.shape)} is not (draws, simulations, dim) for theta of {tuple(theta.shape)}"
        )
    at_least(1, draws=len(draws))
    for name, values in (("theta", theta), ("draws", draws)):
        if values.isnan().any():
            raise ConfigurationError(f"{name}: holds a number that is nan")
    return (draws < theta).sum(0)


def uniformity(ranks: Tensor, draws: int, bins: int | None = None) -> Tensor:
    """The p-value of Pearson's chi-square test that ranks are uniform on 0 .. draws, for every dimension, `(dim,)`.

    Small for posteriors that are not calibrated. It is uniform in (0, 1) for those that are: among many dimensions
    some are small by chance.

    Args:
        ranks: `(simulations, dim)`, from `calibration_ranks`.
        draws: how many the ranks are among.
        bins: neighbouring ranks are counted together, in so many bins of nearly equal width, whose expected counts are
            those of their widths; None: 20, or as many as leave at least 10 simulations to a bin, or a rank to each.

    Raises:
        ConfigurationError: ranks out of range, fewer than two bins or more than ranks, fewer than 5 simulations a bin.
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
