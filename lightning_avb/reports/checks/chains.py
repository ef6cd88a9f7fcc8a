"""Hamiltonian chains from the draws, and from far away."""

from __future__ import annotations

from ...draws import to_table
from ...evaluation import find_missed_mode
from ..base import Figure
from .base import MOST_ERRORS, PosteriorCheck, PosteriorDraws

SHOWN_PARAMETERS = 8
"""Number of parameters in the description of a mode."""


class ChainCheck(PosteriorCheck):
    """Chains that leave the target invariant: shares of correct draws stay the same in expectation."""

    name = "chains"

    def figures(self, draws: PosteriorDraws) -> list[Figure]:
        moved = draws.moved
        low, high = "too few draws where the density is low: ridges are too thin", "draws where the density is low"
        rules = {
            "outside_90": ("out of the draws' central 90 %", 0.07, 0.14, "too wide", "too narrow"),
            "outside_99": ("out of their central 99 %", 0.005, 0.02, "tails too long", "tails too short"),
            "outside_radius": ("beyond the radius of 99.9 %", 0.0, 0.003, "", "tails too short"),
            "high_density": ("log p above their median", 0.45, 0.55, low, high),
            "lowest_tenth": ("log p below that of 90 %", 0.07, 0.14, high, low),
            "lowest_hundredth": ("log p below that of 99 %", 0.005, 0.02, high, low),
        }
        middle = moved.shares["below_median"]
        shifted = abs(moved.shift) > 0.1 and abs(middle.errors) > MOST_ERRORS
        figures = [
            Figure(
                f"shift, {middle.where}",
                moved.shift,
                expected="-0.1 to 0.1",
                note="deviations by which short Hamiltonian chains from every draw move the middle, at worst",
                objection=f"shifted in {middle.where}" if shifted else "",
            )
        ]
        for name, (what, least, most, below, above) in rules.items():
            share, objection = moved.shares[name], ""
            if abs(share.errors) > MOST_ERRORS and not least <= share.after <= most:
                objection = (below if share.after < least else above) + (f" in {share.where}" if share.where else "")
            note = f"share of the draws after these chains, {share.errors:+.1f} standard errors off"
            quantity = what + (f", {share.where}" if share.where else "")
            expected = f"{least:g} to {most:g}"
            figures.append(Figure(quantity, share.after, expected=expected, note=note, objection=objection))
        return figures


class ModeSearch(PosteriorCheck):
    """Descents and chains from far away, which may find a mode that has no draw."""

    name = "search"

    def figures(self, draws: PosteriorDraws) -> list[Figure]:
        found = find_missed_mode(draws.z, draws.log_density, seed=draws.seed)
        note, objection = f"none of {found.starts} chains from far away found more", ""
        if found.share > 0.02:
            numbers, names = to_table(
                {name: value.unsqueeze(0) for name, value in draws.target.by_name(found.where).items()}
            )
            values = zip(names[:SHOWN_PARAMETERS], numbers[0].tolist(), strict=False)
            near = ", ".join(f"{name} = {value:.3g}" for name, value in values)
            note = f"{found.chains} of {found.starts} chains from far away ended there, around {near}"
            objection = "a mode without draws"
        return [Figure("mass where no draw is", found.share, expected="below 0.02", note=note, objection=objection)]
