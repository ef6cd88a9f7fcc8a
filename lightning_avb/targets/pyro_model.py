"""A Pyro model as a log-density: its latent sites become parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigurationError
from .base import Target, function_at


class PyroModel(Target):
    """The posterior of a Pyro model, with the model's latent sites as parameters, under their names.

    The model is run once to find its sites. They must be continuous numbers or vectors, and the same in every run; a
    plate may stand around what is observed.

    Args:
        model: the dotted path of the model, a function without arguments: what it needs, data above all, stands in its
            module.

    Raises:
        ConfigurationError: Pyro is not installed; there is no such function; a site is discrete, has a support that
            `Support` does not know, or more than one dimension.
    """

    def __init__(self, model: str) -> None:
        super().__init__()
        try:
            import pyro
        except ModuleNotFoundError as error:
            raise ConfigurationError(f"{error}; it comes with pip install 'lightning-avb[pyro]'") from error
        self._pyro, self._model = pyro, function_at("model", model)
        try:
            with torch.random.fork_rng():
                sites = pyro.poutine.trace(pyro.poutine.block(self._model, hide_fn=_observed)).get_trace().nodes
        except Exception as error:
            raise ConfigurationError(f"model: {model} fails when it is run: {error}") from error
        learned = [name for name, site in sites.items() if site["type"] == "param"]
        if learned:
            raise ConfigurationError(f"model: {learned[0]!r} is a pyro.param; give it a prior, or make it a number")
        self.kinds = {name: _kind(name, site) for name, site in sites.items() if site["type"] == "sample"}

    def log_density(self, **theta: Tensor) -> Tensor:
        """One point after the other through the model, by `torch.vmap`."""
        leading = next(value.shape[: value.ndim - ("[" in self.kinds[name])] for name, value in theta.items())
        flat = {name: value.reshape(-1, *value.shape[len(leading) :]) for name, value in theta.items()}
        # What Pyro validates depends on values, which vmap does not allow.
        with self._pyro.validation_enabled(False):
            return torch.vmap(self._joint)(flat).reshape(leading)

    def _joint(self, theta: dict[str, Tensor]) -> Any:
        conditioned = self._pyro.poutine.condition(self._model, data=theta)
        return self._pyro.poutine.trace(conditioned).get_trace().log_prob_sum()


def _observed(site: Any) -> bool:
    sampled = site["type"] == "sample" and not site["is_observed"] and type(site["fn"]).__name__ != "_Subsample"
    return not (sampled or site["type"] == "param")


def _number(bound: Any) -> Any:
    """A bound as a number, if all sites of a vector have the same."""
    same = isinstance(bound, Tensor) and bound.numel() and (bound == bound.flatten()[0]).all()
    return bound.flatten()[0].item() if same else bound


def _kind(name: str, site: Any) -> str:
    support, shape = site["fn"].support, site["value"].shape
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    bounds = (_number(getattr(support, end, None)) for end in ("lower_bound", "upper_bound"))
    # By name, since Pyro has constraints of its own besides torch's.
    kind = {
        ("_Real", None, None): "real",
        ("_GreaterThan", 0, None): "positive",
        ("_GreaterThanEq", 0, None): "positive",
        ("_Interval", 0, 1): "unit_interval",
        ("_Simplex", None, None): "simplex",
        ("_OrderedVector", None, None): "ordered",
    }.get((type(support).__name__, *bounds))
    if kind is None or len(shape) > 1:
        raise ConfigurationError(
            f"model: site {name!r} has the support {support} and shape {tuple(shape)}; numbers and vectors that are "
            "real, positive, in (0, 1), on a simplex or ordered can be learned"
        )
    return f"{kind}[{shape[0]}]" if shape else kind
