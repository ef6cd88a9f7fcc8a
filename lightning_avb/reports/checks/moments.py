"""Moments of the parameters side by side."""

from __future__ import annotations

import torch

from ...draws import to_table
from ..base import Figure
from .base import PosteriorCheck, PosteriorDraws


class Moments(PosteriorCheck):
    """Mean and deviation of every parameter: of the draws, after the chains, and by the weights."""

    name = "moments"
    SHOWN = 8
    """Number of parameters, those with the largest differences first."""

    def figures(self, draws: PosteriorDraws) -> list[Figure]:
        weighted, samples = draws.weighted, (draws.z, draws.moved.z, draws.weighted.z)
        tables = [
            to_table({name: value.double() for name, value in draws.target.by_name(points).items()})
            for points in samples
        ]
        names, (drawn, after, fresh) = tables[0][1], (table.cpu() for table, _ in tables)
        weight = weighted.smoothed.log_weights.double().cpu().exp().unsqueeze(-1)
        mean = (weight * fresh).sum(0)
        deviation = (weight * (fresh - mean).square()).sum(0).sqrt()
        spread = drawn.std(0).clamp_min(1e-300)
        shift = torch.stack([(other - drawn.mean(0)).abs() / spread for other in (after.mean(0), mean)])
        scaling = torch.stack([(other / spread).log().abs() for other in (after.std(0), deviation)])
        order = torch.maximum(shift, scaling).amax(0).nan_to_num(0.0).argsort(descending=True)[: self.SHOWN]
        return [
            Figure(
                f"{what} of {names[i]}",
                own[i].item(),
                note=f"of the draws; {chains[i]:.4g} after the chains, {by[i]:.4g} by weights",
            )
            for i in order.tolist()
            for what, own, chains, by in (
                ("mean", drawn.mean(0), after.mean(0), mean),
                ("deviation", drawn.std(0), after.std(0), deviation),
            )
        ]
