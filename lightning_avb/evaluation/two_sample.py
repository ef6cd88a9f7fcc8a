"""Whether draws come from the distribution of reference draws, and by how much they miss it.

Every function takes draws `(n, dim)` and reference draws `(m, dim)`, independent rows of both. None of them is enough:
a classifier sees any difference and not how large it is, a distance says how far apart two distributions are in the
units of the draws and hardly sees tails, quantiles see one dimension at a time. Errors of draws that are far fewer than
the reference's are those of the draws, so that two halves of the reference are what to compare a figure with.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .. import noise
from ..errors import ConfigurationError, at_least
from .neighbours import log_distance

MEDIAN_ROWS = 1000
"""Rows of either sample that choose the bandwidth of a kernel."""

PROJECTIONS = 32
"""Projections to hold at a time."""


def standardised(draws: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Both with the mean of the reference taken off and divided by its standard deviation, dimension by dimension.

    Raises:
        ConfigurationError: see `classifier_two_sample`; and a dimension in which the reference is constant.
    """
    _check(draws, reference, 2)
    deviation, mean = torch.std_mean(reference, 0)
    if (deviation == 0).any():
        raise ConfigurationError(f"reference: dimension {int((deviation == 0).nonzero()[0])} is constant")
    return (draws - mean) / deviation, (reference - mean) / deviation


def classifier_two_sample(draws: Tensor, reference: Tensor, folds: int = 5, seed: int = 0) -> float:
    """C2ST: the accuracy of a classifier that tells draws from reference draws (Lopez-Paz & Oquab 2017).

    0.5: it cannot; 1: it always can. The accuracy is that on rows it was not trained on, by cross-validation with as
    many of either sample in every fold. The standard error is about (a (1 - a) / (n + m))^(1/2) with the accuracy a,
    0.0035 for 10,000 of both. Of samples of different size the larger is cut to the size of the smaller, at random.

    The classifier is that of Lueckmann et al. 2021, scikit-learn's `MLPClassifier` with two hidden
    layers of 10 dim rectified units, Adam with the step size 0.001 and at most 1000 epochs, on data that are
    standardised by the reference. Unlike theirs it works in single precision, and a tenth of its training rows is held
    out: it stops after 10 epochs in which the accuracy on them did not rise by 0.0001, and the best epoch's weights are
    taken. Figures from other classifiers are not comparable.

    What it sees, beside the best accuracy that there is, of 10,000 against 10,000 normal draws in 10 dimensions: a
    correlation of 0.5 dropped 0.580 of 0.587, a mode with a fifth of the mass missing 0.586 of 0.595, every deviation
    too small by a fifth 0.683 of 0.690, one of the ten 0.535 of 0.553. With 2,000 it does not see the last.

    Args:
        draws: `(n, dim)`.
        reference: `(m, dim)`.
        folds: of the cross-validation.
        seed: of the folds, the initial weights and the order of the rows.

    Raises:
        ConfigurationError: fewer than two folds, fewer than 10 rows a fold, dimensions that differ, numbers that are
            not finite.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import StratifiedKFold
    from sklearn.neural_network import MLPClassifier

    _check(draws, reference, 10 * at_least(2, folds=folds))
    count = min(len(draws), len(reference))
    parts = []
    for sample in standardised(draws.double(), reference.double()):
        order = torch.randperm(len(sample), generator=torch.Generator().manual_seed(noise.mixed_seed(seed, "c2st")))
        parts.append(sample.float().cpu()[order[:count]])
    x, y = torch.cat(parts).numpy(), torch.arange(2).repeat_interleave(count).numpy()
    width, state, right = 10 * x.shape[1], noise.mixed_seed(seed, "c2st") % 2**32, 0
    for train, test in StratifiedKFold(folds, shuffle=True, random_state=state).split(x, y):
        classifier = MLPClassifier(
            (width, width), activation="relu", solver="adam", max_iter=1000, early_stopping=True, random_state=state
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            classifier.fit(x[train], y[train])
        right += int((classifier.predict(x[test]) == y[test]).sum())
    return right / len(y)


@torch.no_grad()
def maximum_mean_discrepancy(
    draws: Tensor, reference: Tensor, bandwidth: float | None = None, elements: int = 1 << 22
) -> float:
    """The squared maximum mean discrepancy with a Gaussian kernel, unbiased (Gretton et al. 2012, lemma 6).

        MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y),      k(a, b) = exp(-|a - b|^2 / (2 bandwidth^2)),

    over different rows. Its expectation is 0 for two samples of one distribution, and then half of its values are
    below 0. It has no unit; the kernel looks at the dimensions as they come, so that those of different scale want
    `standardised` first.

    Args:
        draws: `(n, dim)`.
        reference: `(m, dim)`.
        bandwidth: in the units of the draws; None: the median distance of two rows of both samples together, of at
            most 1000 of each. Compare figures of one bandwidth.
        elements: distances to hold at a time; fewer need less memory, and change nothing else.

    Raises:
        ConfigurationError: fewer than two rows, dimensions that differ, numbers that are not finite, a bandwidth that
            is not positive.
    """
    _check(draws, reference, 2)
    at_least(1, elements=elements)
    draws, reference = draws.double(), reference.double()
    if bandwidth is None:
        bandwidth = median_distance(draws, reference)
    if not 0 < bandwidth < math.inf:
        raise ConfigurationError(f"bandwidth: {bandwidth} is not a positive distance")

    def total(a: Tensor, b: Tensor) -> float:
        return sum(
            torch.cdist(rows, b).div_(bandwidth).square_().mul_(-0.5).exp_().sum().item()
            for rows in a.split(max(1, elements // len(b)))
        )

    n, m = len(draws), len(reference)
    within = (total(draws, draws) - n) / (n * (n - 1)) + (total(reference, reference) - m) / (m * (m - 1))
    return within - 2 * total(draws, reference) / (n * m)


def median_distance(draws: Tensor, reference: Tensor) -> float:
    """The median distance of two rows of both samples together, of at most 1000 of each, evenly spread over it."""
    some = [
        sample[torch.linspace(0, len(sample) - 1, min(len(sample), MEDIAN_ROWS)).long()]
        for sample in (draws, reference)
    ]
    return torch.pdist(torch.cat(some)).median().item()


@torch.no_grad()
def sliced_wasserstein(draws: Tensor, reference: Tensor, projections: int = 200, p: float = 2, seed: int = 0) -> float:
    """The sliced Wasserstein distance, in the units of the draws (Bonneel et al. 2015).

        SW_p = (mean over directions u of W_p(u . draws, u . reference)^p)^(1/p),

    with directions drawn uniformly from the sphere, and W_p in one dimension from the quantile functions of both
    samples, exact for samples of different size too. It is never below 0: two samples of
    10,000 normal draws are apart by 0.03 standard deviations.

    Args:
        draws: `(n, dim)`.
        reference: `(m, dim)`.
        projections: directions.
        p: the power of the distance.
        seed: of the directions: the same for all samples with as many dimensions.

    Raises:
        ConfigurationError: no rows, dimensions that differ, numbers that are not finite, no projections, a power
            below 1.
    """
    _check(draws, reference, 1)
    at_least(1, projections=projections)
    if not 1 <= p < math.inf:
        raise ConfigurationError(f"p: {p} is no finite power from 1")
    n, m = len(draws), len(reference)
    # Both quantile functions are constant between these levels, in units of 1 / (n m).
    level = torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n]).unique()
    share = level.diff(prepend=torch.zeros(1, dtype=torch.int64)).double() / (n * m)
    first, second = (level - 1) // m, (level - 1) // n
    directions = noise.seeded(seed, "sliced_wasserstein")((projections, draws.shape[1]), draws.double())
    total = 0.0
    for some in torch.nn.functional.normalize(directions, dim=1).split(PROJECTIONS):
        a, b = (some @ sample.double().T for sample in (draws, reference))
        apart = (a.sort(1).values[:, first.to(a.device)] - b.sort(1).values[:, second.to(b.device)]).abs()
        total += (apart.pow(p) @ share.to(apart)).sum().item()
    return (total / projections) ** (1 / p)


@torch.no_grad()
def neighbour_kl(draws: Tensor, reference: Tensor, neighbour: int = 1) -> float:
    """KL(draws || reference) from nearest neighbours, in nats (Wang et al. 2009; Perez-Cruz 2008).

    With the distance r_i from draw i to the k-th nearest other draw, and s_i to the k-th nearest reference draw,

        KL = d/n sum_i (log s_i - log r_i) + log m - log (n - 1),

    on data that are standardised by the reference. For as many draws of both, the standard error is about
    ((Var log (q / p) + 2 psi'(k)) / n)^(1/2), and there is a bias besides, which grows with the dimension and is
    towards 0 where the distributions are far apart. It may come out negative.

    Args:
        draws: `(n, dim)`.
        reference: `(m, dim)`.
        neighbour: k. More of them have less noise and more bias.

    Raises:
        ConfigurationError: no more rows than neighbours, dimensions that differ, numbers that are not finite, or rows
            that occur several times, as those of a Markov chain that stood still do: they have no density.
    """
    _check(draws, reference, at_least(1, neighbour=neighbour) + 1)
    (n, dim), m = draws.shape, len(reference)
    x, y = (sample.cpu() for sample in standardised(draws.double(), reference.double()))
    if x.unique(dim=0, return_counts=True)[1].max() > neighbour:
        raise ConfigurationError("draws: rows occur several times; nearest neighbours need independent draws")
    between = log_distance(x, y, neighbour)
    if between.isinf().any():
        raise ConfigurationError("draws: rows are those of the reference; nearest neighbours need independent draws")
    within = log_distance(x, x, neighbour + 1)  # the nearest is the draw itself
    return (dim * (between - within).mean()).item() + math.log(m / (n - 1))


@torch.no_grad()
def marginal_quantiles(
    draws: Tensor, reference: Tensor, levels: Sequence[float] = (0.05, 0.25, 0.5, 0.75, 0.95)
) -> Tensor:
    """How far every dimension's quantiles are off, in standard deviations of the reference, `(levels, dim)`.

    The standard error of a quantile at level a, where the density is f, is (a (1 - a) / n)^(1/2) / f.

    Args:
        draws: `(n, dim)`.
        reference: `(m, dim)`.
        levels: from 0 to 1.

    Raises:
        ConfigurationError: a level out of range, fewer than two rows, dimensions that differ, numbers that are not
            finite, a dimension in which the reference is constant.
    """
    if not levels or not all(0 <= level <= 1 for level in levels):
        raise ConfigurationError(f"levels: {list(levels)} are not levels from 0 to 1")
    x, y = standardised(draws, reference)
    return _quantiles(x, levels) - _quantiles(y, levels)


def _quantiles(x: Tensor, levels: Sequence[float]) -> Tensor:
    """By linear interpolation; torch's own takes no more than 16 million numbers."""
    place = torch.tensor(levels, dtype=torch.float64, device=x.device) * (len(x) - 1)
    below, ordered = place.floor().long(), x.sort(0).values
    return torch.lerp(ordered[below], ordered[(below + 1).clamp(max=len(x) - 1)], (place - below).to(x).unsqueeze(1))


class MomentErrors(NamedTuple):
    """How far the moments of every dimension are off, `(dim,)` each.

    Attributes:
        mean: mean of the draws minus that of the reference, in standard deviations of the reference.
        deviation: standard deviation of the draws over that of the reference, minus 1.
    """

    mean: Tensor
    deviation: Tensor


@torch.no_grad()
def moment_errors(draws: Tensor, reference: Tensor) -> MomentErrors:
    """Errors of mean and standard deviation.

    Args:
        draws: `(n, dim)`.
        reference: `(m, dim)`.

    Raises:
        ConfigurationError: see `marginal_quantiles`.
    """
    deviation, mean = torch.std_mean(standardised(draws, reference)[0], 0)
    return MomentErrors(mean, deviation - 1)


def _check(draws: Tensor, reference: Tensor, least: int) -> None:
    for name, sample in (("draws", draws), ("reference", reference)):
        if sample.ndim != 2 or not sample.shape[1]:
            raise ConfigurationError(f"{name}: a sample of shape {tuple(sample.shape)} is not (rows, dim)")
        if len(sample) < least:
            raise ConfigurationError(f"{name}: {len(sample)} rows are too few, {least} is the least")
        if not sample.isfinite().all():
            row = int((~sample.isfinite().all(1)).nonzero()[0])
            raise ConfigurationError(f"{name}: row {row} holds a number that is not finite")
    if draws.shape[1] != reference.shape[1]:
        raise ConfigurationError(f"draws: have {draws.shape[1]} dimensions, the reference has {reference.shape[1]}")
