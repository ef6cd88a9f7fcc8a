"""Weighted draws of a flow fitted to the draws: the evidence, and the shares that the draws should have."""

from __future__ import annotations

from torch import Tensor

from ..base import Figure
from .base import MOST_ERRORS, PosteriorCheck, PosteriorDraws


class WeightCheck(PosteriorCheck):
    """The evidence, and shares of the draws, by weights p / flow."""

    name = "weights"

    def figures(self, draws: PosteriorDraws) -> list[Figure]:
        found = draws.weighted
        trusted = found.smoothed.k < 0.7
        weights = "by the weights" if trusted else f"by weights that are not to be trusted, k {found.smoothed.k:.2f}"
        differs = found.shortfall > 0.05 and found.shortfall > MOST_ERRORS * found.shortfall_error
        return [
            Figure(
                "Pareto k",
                found.k,
                expected="below 0.7",
                note="of a flow fitted to the draws; above: flow or draws end too early",
            ),
            Figure(
                "effective samples",
                found.effective_samples,
                expected="most",
                note=f"of {found.samples} draws of this flow",
            ),
            Figure(
                "evidence bound",
                found.evidence_bound,
                note=f"+- {found.evidence_bound_error:.2g}; below log Z in expectation, by as much as the flow is off",
            ),
            Figure("log evidence", found.log_evidence, note=f"+- {found.log_evidence_error:.2g}; {weights}"),
            Figure(
                "shortfall of the draws",
                found.shortfall,
                expected="below 0.05",
                note=f"+- {found.shortfall_error:.2g} nats; log evidence less the draws' own mean of log p - log flow",
                objection="log evidence above the draws' own" if trusted and differs else "",
            ),
            *self._shares(draws, trusted, weights),
        ]

    def _shares(self, draws: PosteriorDraws, trusted: bool, weights: str) -> list[Figure]:
        """The weight below the draws' medians, and outside their central parts.

        Shares and not moments: a variance that depends on a few far draws is too small if the flow does not reach them.
        For the same reason, too little weight far out is no objection to the draws.
        """
        z, fresh, log_weights = draws.z, draws.weighted.z, draws.weighted.smoothed.log_weights
        lowest, low, middle, high, highest = (z.quantile(level, 0) for level in (0.005, 0.05, 0.5, 0.95, 0.995))
        beyond_90, beyond_99 = (fresh < low) | (fresh > high), (fresh < lowest) | (fresh > highest)
        rules = (
            ("below the draws' median", fresh < middle, 0.5, 0.46, 0.54, "shifted", "shifted"),
            ("out of their central 90 %", beyond_90, 0.1, 0.07, 0.14, "", "too narrow"),
            ("out of their central 99 %", beyond_99, 0.01, 0.005, 0.02, "", "tails too short"),
        )
        figures = []
        for what, inside, before, least, most, below, above in rules:
            share, error = weighted_share(inside, log_weights)
            # The draws have standard errors, too.
            error = (error.square() + before * (1 - before) / len(z)).sqrt()
            i = int(((share - before) / error).abs().argmax())
            value, off = share[i].item(), abs(share[i].item() - before) > MOST_ERRORS * error[i].item()
            wrong = below if value < before else above
            objects = trusted and off and wrong and not least <= value <= most
            name = draws.coordinates[i]
            figures.append(
                Figure(
                    f"{what}, weighted, {name}",
                    value,
                    expected=f"{least:g} to {most:g}",
                    note=f"share by weight, +- {error[i].item():.2g}; {weights}",
                    objection=f"{wrong} in {name}, as weights have it" if objects else "",
                )
            )
        return figures


def weighted_share(inside: Tensor, log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Shares of weighted draws in sets `(n, sets)`, and their standard errors; weights sum to 1."""
    weight, inside = log_weights.double().exp().unsqueeze(-1), inside.double()
    share = (weight * inside).sum(0)
    return share.cpu(), (weight.square() * (inside - share).square()).sum(0).sqrt().cpu()
