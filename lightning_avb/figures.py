"""Which figure of validation says how good a model is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

from .errors import ConfigurationError

BETTER: dict[str, Literal["max", "min"]] = {
    "log_likelihood": "max",
    "iw_bound": "max",
    "elbo": "max",
    "elbo_lower": "max",
    "elbo_estimate": "max",
    "error": "min",
    "reconstruction_error": "min",
    "reconstruction": "min",
}
"""Figure -> its better side. A model is judged by the first that it logs; docs/architecture.md explains them."""

ESTIMATES = ("elbo_estimate",)
"""Figures from a critic. Weights are not chosen by them: they are too good where the critic is bad."""


class Better(NamedTuple):
    """A figure of validation, `val/...`, and whether larger (`max`) or smaller (`min`) values are better."""

    name: str
    mode: Literal["max", "min"]

    @property
    def is_estimate(self) -> bool:
        """Whether it is one of `ESTIMATES`."""
        return self.name.removeprefix("val/") in ESTIMATES

    def prefers(self, value: float, other: float) -> bool:
        """Whether a value is better than another one; never if one of them is nan."""
        return value > other if self.mode == "max" else value < other


def better_figure(names: Iterable[str]) -> Better | None:
    """The figure of validation that says how good a model is, perhaps one of `ESTIMATES`; None: no figure does.

    Args:
        names: of all that the model logs, such as `val/elbo`.
    """
    logged = {*names}
    return next((Better(f"val/{name}", mode) for name, mode in BETTER.items() if f"val/{name}" in logged), None)


def figure_for_choosing(names: Iterable[str], model: str, asked: str | None = None) -> Better:
    """The figure by which the best weights of a run are chosen.

    Args:
        names: of all that the model logs, such as `val/elbo`.
        model: the name of its class, for messages.
        asked: a figure of `BETTER` that the user wants; None: that of `better_figure`.

    Raises:
        ConfigurationError: there is none, it is the estimate of a critic and was not asked for, or the model does not
            log what was asked for.
    """
    if asked is not None and asked not in BETTER:
        raise ConfigurationError(f"figure: {asked!r} is none of {', '.join(BETTER)}")
    logged = sorted(name for name in names if name.startswith("val/"))
    if asked is not None and f"val/{asked}" not in logged:
        raise ConfigurationError(f"figure: {model} does not log val/{asked}; it logs {', '.join(logged)}")
    found = Better(f"val/{asked}", BETTER[asked]) if asked is not None else better_figure(logged)
    if found is None:
        raise ConfigurationError(
            f"Best: no figure of validation says which weights of {model} are best; it logs {', '.join(logged)}"
        )
    if asked is None and found.is_estimate:
        raise ConfigurationError(
            f"Best: {found.name} of {model} is its critic's estimate, too good where the critic is bad; to choose by "
            f"it all the same, give Best the figure {found.name.removeprefix('val/')}"
        )
    return found
