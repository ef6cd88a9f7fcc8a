"""The terms of a model's bound, over rows that are all equally likely, and the errors of q(z|x) and the critic.

In one or two latent dimensions log p(x) is an integral over a grid, and so are the other terms if q has a density. A
black-box q only has draws: its entropy is estimated from nearest neighbours. In more dimensions only I(x; z) and
KL(q(z), p(z)) are computed, with a Gaussian in place of a black box.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution
from torchmetrics.utilities.distributed import gather_all_tensors

from ... import noise
from ...batch import Batch
from ...capabilities import HasDensityRatio, can
from ...evaluation import (
    Decomposition,
    Quadrature,
    as_prior,
    critic_error,
    decompose,
    decompose_draws,
    fitted_proposal,
    has_density,
    kl_of_aggregate,
    kl_of_draws,
    on_grid,
)
from ...evaluation.importance import DRAWS_PER_CALL
from ...evaluation.inputs import as_row_distribution, draws_with_log_prob
from ..base import Figure, Subset
from .base import LikelihoodEstimator, Run, without_fillers

GRID_ROWS = 16
"""The largest number of rows with integrals over a grid."""

DRAWS, FEW_DRAWS = 400000, 1000
"""Draws of a black box: for all these rows together, and for each row if there are more."""

CRITIC_DRAWS = 20000
"""Draws per row for the error of the critic."""

KL_TERM = "none: a part of the KL term"


class BoundTerms(LikelihoodEstimator):
    """The terms of the bound, and the errors of q and the critic; see `bound_terms`."""

    name = "bound terms"
    ROWS = 1000
    """The largest number of rows for I(x; z)."""

    def begin(self, run: Run) -> None:
        self.batches: list[Batch] = []

    def update(self, run: Run, batch: Batch) -> None:
        if sum(len(part.x) for part in self.batches) < self.ROWS:
            self.batches.append(without_fillers(batch))

    def gather(self, run: Run) -> None:
        """The first rows of the test data, each once."""
        columns = [None if column[0] is None else torch.cat(column) for column in zip(*self.batches, strict=True)]
        if run.trainer.world_size > 1:
            columns = [None if column is None else torch.cat(gather_all_tensors(column)) for column in columns]
        index, order = columns[2].sort(stable=True)  # type: ignore[union-attr]
        first = index.diff(prepend=index[:1] - 1) > 0
        self.batch = Batch(*columns).at(order[first]).first(self.ROWS)  # type: ignore[arg-type]

    def figures(self, run: Run) -> list[Figure]:
        begin = time.perf_counter()
        figures = bound_terms(run.model, self.batch, run.seed, run.rows)
        seconds = time.perf_counter() - begin
        return [figure._replace(seconds=seconds if figure is figures[0] else 0.0) for figure in figures]


@torch.inference_mode(False)
@torch.no_grad()
def bound_terms(model: Any, batch: Batch, seed: int, rows: int | None = None) -> list[Figure]:
    """The terms of the bound: a function of (seed, rows), in nats.

    In one or two latent dimensions, for the first `GRID_ROWS` rows: log p(x), the ELBO of q and their difference
    KL(q(z|x), p(z|x)), and for a model with a critic the error of its KL(q(z|x), p(z)). In any number of dimensions:
    I(x; z) and KL(q(z), p(z)). Empty if q is deterministic, since all of these are infinite.

    Args:
        model: with `encoder`, `decoder` and `prior`.
        batch: with its `index`. Equal rows count once if there are few different ones.
        seed: of the draws.
        rows: limit of the number of rows on a grid.
    """
    whole = batch._replace(x=batch.x.clone())
    batch = _distinct(whole, bool(model.classes))
    subset: Subset = "first" if len(batch.x) == len(whole.x) else "different"
    q = model.encoder(batch.x[:1], None if batch.y is None else batch.y[:1])
    if not has_density(q) and not q.moments(2)[1].any():
        return []
    few = batch.first(GRID_ROWS if rows is None else min(rows, GRID_ROWS))
    plane, figures = model.latent_dim <= 2, list[Figure]()
    if plane:
        with _seeded(seed, "bound", few):
            found, how, figures = _bound(model, few, subset)
    if plane and len(few.x) == len(batch.x) and found.kl.isfinite().all():
        information, aggregate = found.information, found.kl_of_aggregate
    else:
        with _seeded(seed, "parts", batch):
            information, aggregate, how = _by_draws(model, batch, plane)
    n, parts = len(batch.x), {"I(x; z)": information, "KL(q(z), p(z))": aggregate}
    return figures + [Figure(name, value.item(), math.nan, n, subset, KL_TERM, how) for name, value in parts.items()]


@contextmanager
def _seeded(seed: int, name: str, batch: Batch) -> Iterator[None]:
    """Within the block all draws are a function of (seed, name, rows)."""
    with noise.torch_seeded(seed, name), noise.use(noise.RowNoise(seed, name, index=batch.index)):  # type: ignore[arg-type]
        yield


def _distinct(batch: Batch, with_labels: bool) -> Batch:
    """Each row once if there are few different ones, as in a data set of four points."""
    rows = batch.x.flatten(1)
    if with_labels and batch.y is not None:
        rows = torch.cat([rows, batch.y.unsqueeze(1).to(rows)], 1)
    different, place = rows.unique(dim=0, return_inverse=True)
    if len(different) > GRID_ROWS:
        return batch
    return batch.at(torch.stack([(place == i).nonzero()[0, 0] for i in range(len(different))]))


def _bound(model: Any, batch: Batch, subset: Subset) -> tuple[Decomposition, str, list[Figure]]:
    n, p, q = len(batch.x), as_prior(model.prior), as_row_distribution(model.encoder(batch.x, batch.y), "encoder")
    grid, has_critic = Quadrature.grid(model.latent_dim, device=batch.x.device), can(model, HasDensityRatio)

    def decoder(z: Tensor) -> Distribution:
        return model.decoder(z.expand(-1, n, -1), batch.y) if model.classes else model.decoder(z)

    def critic_kl(z: Tensor) -> Tensor:
        return model.density_ratio(p, q, z, batch.x, batch.y).kl

    error: Tensor | None = None
    exact = "log p(x), on a grid"
    if has_density(q):
        how, side, elbo = "on a grid", "below, to within the grid", "ELBO, on a grid"
        log_q = on_grid(q.log_prob, grid, n)
        found = decompose(log_q, decoder, model.prior, batch.x, grid)
        if has_critic:
            error = critic_error(on_grid(critic_kl, grid, n), log_q, model.prior, grid)
    else:
        z = _draws(q, DRAWS // n)
        how, side, elbo = _neighbours(z), "either, by the error of the entropy of q", "ELBO, by neighbours"
        found = decompose_draws(z, decoder, model.prior, batch.x, grid)
        if has_critic:
            error = torch.cat([critic_kl(part) for part in z[:CRITIC_DRAWS].split(DRAWS_PER_CALL)]).mean(0) - found.kl
    rows = {
        exact: (found.log_likelihood + model.log_jacobian, "exact to the grid"),
        elbo: (found.elbo + model.log_jacobian, side),
        "KL(q(z|x), p(z|x))": (found.kl_to_posterior, "none: log p(x) - ELBO of these rows"),
        **({"mass of q on the grid": (found.mass, "none: 1 if the grid holds q")} if has_density(q) else {}),
        **(
            {"critic's error, its KL - the true one": (error, "none: how far its ELBO is off")}
            if error is not None
            else {}
        ),
    }
    figures = [
        _mean(name, values, subset, side, "grid" if name == exact else how) for name, (values, side) in rows.items()
    ]
    return found, how, figures


def _mean(name: str, values: Tensor, subset: Subset, side: str, how: str) -> Figure:
    n = len(values)
    error = values.std().item() / math.sqrt(n) if n > 1 else math.nan
    return Figure(name, values.mean().item(), error, n, subset, side, how)


def _draws(q: Distribution, count: int) -> Tensor:
    return torch.cat([q.sample((min(DRAWS_PER_CALL, count - start),)) for start in range(0, count, DRAWS_PER_CALL)])


def _neighbours(z: Tensor) -> str:
    return f"nearest neighbours, {len(z):,} draws per row"


def _by_draws(model: Any, batch: Batch, plane: bool) -> tuple[Tensor, Tensor, str]:
    """I(x; z) and KL(q(z), p(z)), and the method."""
    n, p, q = len(batch.x), as_prior(model.prior), as_row_distribution(model.encoder(batch.x, batch.y), "encoder")
    q_has_density = has_density(q)
    if plane and not q_has_density:
        z = _draws(q, FEW_DRAWS)
        kl, aggregate = kl_of_draws(z, model.prior).mean(), kl_of_aggregate(z, model.prior)
        if kl.isfinite():
            return kl - aggregate, aggregate, _neighbours(z)
    r = q if q_has_density else fitted_proposal(q, p, df=None, inflate=1.0, share=0.0)
    z, log_q = (part[0] for part in draws_with_log_prob(r)((1,)))
    every = torch.cat([r.log_prob(row.expand(1, n, -1)) for row in z])
    log_aggregate = every.logsumexp(1) - math.log(n)
    how = "one draw per row" if q_has_density else "one draw per row, q as a Gaussian with its moments"
    return (log_q - log_aggregate).mean(), (log_aggregate - p.log_prob(z)).mean(), how
