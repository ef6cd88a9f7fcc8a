"""A Pyro model as a log-density: its latent sites become parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigurationError
from .base import Target
from .function import import_function


class PyroModel(Target):
    """The posterior of a Pyro model, with the model's latent sites as parameters, under their names.

    The model is run once to find its sites. They must be continuous numbers or vectors, or Cholesky factors, and the
    same in every run. Observed sites may be inside a plate.

    Args:
        model: the dotted path of the model, a function without arguments. Its data are variables of its module.

    Raises:
        ConfigurationError: Pyro is not installed; there is no such function; a site is discrete, has a support that
            `Support` does not know, or more dimensions.
    """

    def __init__(self, model: str) -> None:
        super().__init__()
        try:
            import pyro
        except ModuleNotFoundError as error:
            raise ConfigurationError(f"{error}; it comes with pip install 'lightning-avb[pyro]'") from error
        self._pyro, self._model = pyro, import_function("model", model)
        try:
            with torch.random.fork_rng():
                sites = pyro.poutine.trace(pyro.poutine.block(self._model, hide_fn=_is_hidden)).get_trace().nodes
        except Exception as error:
            raise ConfigurationError(f"model: {model} fails when it is run: {error}") from error
        parameters = [name for name, site in sites.items() if site["type"] == "param"]
        if parameters:
            raise ConfigurationError(f"model: {parameters[0]!r} is a pyro.param; give it a prior, or make it a number")
        self.constraints = {name: _kind(name, site) for name, site in sites.items() if site["type"] == "sample"}

    def log_density(self, **theta: Tensor) -> Tensor:
        """The log-density of every point, by `torch.vmap` over the model."""
        name, value = next(iter(theta.items()))
        leading = value.shape[: value.ndim - len(self.support.blocks[name].shape)]
        flat = {name: value.reshape(-1, *value.shape[len(leading) :]) for name, value in theta.items()}
        # Pyro's validation depends on values, which vmap does not allow.
        with self._pyro.validation_enabled(False):
            return torch.vmap(self._joint)(flat).reshape(leading)

    def _joint(self, theta: dict[str, Tensor]) -> Any:
        conditioned = self._pyro.poutine.condition(self._model, data=theta)
        return self._pyro.poutine.trace(conditioned).get_trace().log_prob_sum()


def _is_hidden(site: Any) -> bool:
    sampled = site["type"] == "sample" and not site["is_observed"] and type(site["fn"]).__name__ != "_Subsample"
    return not (sampled or site["type"] == "param")


def _common_number(bound: Any) -> Any:
    """A bound as a number, where it is the same for all elements."""
    same = isinstance(bound, Tensor) and bound.numel() and (bound == bound.flatten()[0]).all()
    return bound.flatten()[0].item() if same else bound


def _kind(name: str, site: Any) -> str:
    support, shape = site["fn"].support, site["value"].shape
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    low, high = (_common_number(getattr(support, end, None)) for end in ("lower_bound", "upper_bound"))
    # By name, since Pyro has constraints of its own besides torch's.
    kind, dimensions = {
        "_Real": ("real", 0),
        "_GreaterThan": ("positive" if low == 0 else f"above({low})", 0),
        "_GreaterThanEq": ("positive" if low == 0 else f"above({low})", 0),
        "_LessThan": (f"below({high})", 0),
        "_Interval": ("unit_interval" if (low, high) == (0, 1) else f"interval({low}, {high})", 0),
        "_Simplex": ("simplex", 1),
        "_OrderedVector": ("ordered", 1),
        "_PositiveOrderedVector": ("positive_ordered", 1),
        "_CorrCholesky": ("correlation_cholesky", 2),
        "_LowerCholesky": ("covariance_cholesky", 2),
    }.get(type(support).__name__, (None, 0))
    several = any(isinstance(bound, Tensor) for bound in (low, high))
    if kind is None or several or len(shape) not in ((0, 1) if dimensions == 0 else (dimensions,)):
        raise ConfigurationError(
            f"model: site {name!r} has the support {support} and shape {tuple(shape)}; numbers, vectors and Cholesky "
            "factors of the constraints that Support knows can be learned"
        )
    return f"{kind}[{shape[0]}]" if shape else kind
