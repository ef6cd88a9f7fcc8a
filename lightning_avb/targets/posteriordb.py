"""Posteriors of posteriordb (Magnusson et al. 2025, https://github.com/stan-dev/posteriordb).

The models read its data. Their `reference` gives its reference draws where these are beside the data. Each log-density
is log p(data, theta): the prior is normalised wherever it is proper. The second argument of N is the standard
deviation.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from ..errors import ConfigurationError, at_least
from ..support import Parameters
from .base import Target
from .bayes import school_effects
from .densities import log_normal
from .exact import seeded_generator
from .files import error_reason, finite_tensor

REFERENCE_FILE = "reference_draws.npz"
"""Beside data.json: `draws` `(count, d)` and their `names` `(d,)`, a vector's as `theta[1]` to `theta[n]`."""


class PosteriordbTarget(Target):
    """Base class of posteriordb's models.

    Args:
        path: path of its data.json.

    Raises:
        ConfigurationError: the file is missing, is no JSON, or lacks what the model needs.
    """

    required_data: ClassVar[Mapping[str, int]]
    """Name in data.json -> number of dimensions."""

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = Path(path)
        expected = f"the data.json of a posterior in posteriordb with {' and '.join(self.required_data)} was expected"
        try:
            content = json.loads(self.path.read_text())
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"path: {self.path} cannot be read ({error_reason(error)}); {expected}") from error
        for name, dimensions in self.required_data.items():
            if not isinstance(content, dict) or name not in content:
                raise ConfigurationError(f"path: {self.path} has no {name}; {expected}")
            self.register_buffer(name, finite_tensor(self.path, name, content[name], dimensions))
        if len({len(getattr(self, name)) for name, dimensions in self.required_data.items() if dimensions}) > 1:
            raise ConfigurationError(f"path: {self.path} has lists of different lengths; {expected}")

    def reference(self, count: int, seed: int = 0) -> Parameters | None:
        """`count` of the reference draws, or all if there are fewer, with what is derived from them.

        Raises:
            ConfigurationError: a count below 1.
        """
        at_least(1, count=count)
        file = self.path.with_name(REFERENCE_FILE)
        if not file.exists():
            return None
        with np.load(file) as content:
            draws, names = torch.from_numpy(content["draws"]).double(), [str(name) for name in content["names"]]
        draws = draws[torch.randperm(len(draws), generator=seeded_generator(seed))[:count]]
        columns: dict[str, list[Tensor]] = {}
        for name, column in zip(names, draws.unbind(-1), strict=True):
            columns.setdefault(re.sub(r"\[\d+\]$", "", name), []).append(column)
        vectors = {name for name, block in self.support.blocks.items() if block.shape}
        vectors |= {name for name, elements in columns.items() if elements[1:]}
        theta = {n: torch.stack(c, -1) if n in vectors else c[0] for n, c in columns.items()}
        dtype = torch.get_default_dtype()
        return {name: value.to(dtype) for name, value in {**theta, **self._complete(theta)}.items()}

    def _complete(self, theta: Parameters) -> Parameters:
        """The parameters that the reference draws lack, computed from those that they have."""
        return {}


class EightSchoolsNoncentered(PosteriordbTarget):
    """posteriordb's `eight_schools_noncentered`, a funnel between tau and the effects theta.

    mu ~ N(0, 5), tau ~ half-Cauchy(0, 5), eta_j ~ N(0, 1), theta_j = mu + tau eta_j, y_j ~ N(theta_j, sigma_j).

    Args:
        path: path of its data.json, with `y` and `sigma`.

    Raises:
        ConfigurationError: the file is missing, is no JSON, or lacks this data.
    """

    required_data: ClassVar[Mapping[str, int]] = {"y": 1, "sigma": 1}
    y: Tensor
    sigma: Tensor

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self.constraints = {"mu": "real", "tau": "positive", "eta": f"real[{len(self.y)}]"}

    def log_density(self, *, mu: Tensor, tau: Tensor, eta: Tensor) -> Tensor:  # type: ignore[override]
        prior = log_normal(mu, 0.0, 5.0) + _log_half_cauchy(tau, 5.0)
        schools = log_normal(self.y.to(mu), school_effects(mu, tau, eta), self.sigma.to(mu))
        return prior + (schools + log_normal(eta, 0.0, 1.0)).sum(-1)

    def derived(self, *, mu: Tensor, tau: Tensor, eta: Tensor) -> Parameters:  # type: ignore[override]
        return {"theta": school_effects(mu, tau, eta)}

    def _complete(self, theta: Parameters) -> Parameters:
        return {"eta": (theta["theta"] - theta["mu"].unsqueeze(-1)) / theta["tau"].unsqueeze(-1)}


class KidScore(PosteriordbTarget):
    """posteriordb's `kidscore_momhsiq`: a linear regression, with beta_1 and beta_3 strongly correlated.

    kid_score_n ~ N(beta_1 + beta_2 mom_hs_n + beta_3 mom_iq_n, sigma), beta flat, sigma ~ half-Cauchy(0, 2.5).

    Args:
        path: path of its data.json, with `kid_score`, `mom_hs` and `mom_iq`.

    Raises:
        ConfigurationError: the file is missing, is no JSON, or lacks this data.
    """

    required_data: ClassVar[Mapping[str, int]] = {"kid_score": 1, "mom_hs": 1, "mom_iq": 1}
    kid_score: Tensor
    mom_hs: Tensor
    mom_iq: Tensor

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self.constraints = {"beta": "real[3]", "sigma": "positive"}

    def log_density(self, *, beta: Tensor, sigma: Tensor) -> Tensor:  # type: ignore[override]
        inputs = torch.stack([torch.ones_like(self.mom_hs), self.mom_hs, self.mom_iq]).to(beta)
        scores = log_normal(self.kid_score.to(beta), beta @ inputs, sigma.unsqueeze(-1))
        return _log_half_cauchy(sigma, 2.5) + scores.sum(-1)


class Garch(PosteriordbTarget):
    """posteriordb's `garch11`: y_t ~ N(mu, s_t) with s_t^2 = alpha0 + alpha1 (y_{t-1} - mu)^2 + beta1 s_{t-1}^2.

    s_1 is given; mu, alpha0 > 0 and (alpha1, beta1) on the triangle alpha1, beta1 > 0, alpha1 + beta1 < 1 are flat.
    The parameter in place of beta1 is share = beta1 / (1 - alpha1), in the unit interval.

    Args:
        path: path of its data.json, with `y` and `sigma1`.

    Raises:
        ConfigurationError: the file is missing, is no JSON, or lacks this data.
    """

    required_data: ClassVar[Mapping[str, int]] = {"y": 1, "sigma1": 0}
    y: Tensor
    sigma1: Tensor

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self.constraints = {"mu": "real", "alpha0": "positive", "alpha1": "unit_interval", "share": "unit_interval"}

    def log_density(  # type: ignore[override]
        self, *, mu: Tensor, alpha0: Tensor, alpha1: Tensor, share: Tensor
    ) -> Tensor:
        rest = 1 - alpha1
        beta1 = (rest * share).unsqueeze(-1)
        square = (self.y.to(mu) - mu.unsqueeze(-1)).square()
        first = self.sigma1.to(mu).square().expand(*mu.shape, 1)
        variance = torch.cat([first, torch.addcmul(alpha0.unsqueeze(-1), alpha1.unsqueeze(-1), square[..., :-1])], -1)
        # s_t^2 is a sum over k of beta1^k times the term of k steps before: each round doubles the number of terms.
        power, terms = beta1, 1
        while terms < len(self.y):
            longer = torch.addcmul(variance[..., terms:], power, variance[..., :-terms])
            variance = torch.cat([variance[..., :terms], longer], -1)
            power, terms = power.square(), 2 * terms
        log_likelihood = -0.5 * (square / variance + variance.log()).sum(-1) - 0.5 * len(self.y) * math.log(2 * math.pi)
        return log_likelihood + rest.log()

    def derived(self, *, alpha1: Tensor, share: Tensor, **others: Tensor) -> Parameters:  # type: ignore[override]
        return {"beta1": (1 - alpha1) * share}

    def _complete(self, theta: Parameters) -> Parameters:
        return {"share": theta["beta1"] / (1 - theta["alpha1"])}


class LowDimGaussMix(PosteriordbTarget):
    """posteriordb's `low_dim_gauss_mix`: y_n ~ theta N(mu_1, sigma_1) + (1 - theta) N(mu_2, sigma_2), mu_1 < mu_2.

    mu_k ~ N(0, 2), sigma_k ~ half-N(0, 2), theta ~ Beta(5, 5).

    Args:
        path: path of its data.json, with `y`.

    Raises:
        ConfigurationError: the file is missing, is no JSON, or lacks this data.
    """

    required_data: ClassVar[Mapping[str, int]] = {"y": 1}
    y: Tensor

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self.constraints = {"mu": "ordered[2]", "sigma": "positive[2]", "theta": "unit_interval"}

    def log_density(self, *, mu: Tensor, sigma: Tensor, theta: Tensor) -> Tensor:  # type: ignore[override]
        # The order of mu, and each of the half-normals, leave half of a normal density.
        prior = (log_normal(mu, 0.0, 2.0) + log_normal(sigma, 0.0, 2.0)).sum(-1) + 3 * math.log(2)
        prior = prior + 4 * (theta.log() + torch.log1p(-theta)) + math.lgamma(10) - 2 * math.lgamma(5)
        y, log_scale = self.y.to(mu), sigma.log()
        first, second = (((y - mu[..., k, None]) / sigma[..., k, None]).square() for k in (0, 1))
        # log of the mixture = log of the first part + softplus(log of the ratio of the second to it).
        odds = torch.log1p(-theta) - theta.log() + log_scale[..., 0] - log_scale[..., 1]
        log_ratio = torch.add(odds.unsqueeze(-1), first - second, alpha=0.5)
        constant = theta.log() - log_scale[..., 0] - 0.5 * math.log(2 * math.pi)
        return prior + softplus(log_ratio).sum(-1) - 0.5 * first.sum(-1) + len(y) * constant


def _log_half_cauchy(value: Tensor, scale: float) -> Tensor:
    return math.log(2 / (math.pi * scale)) - torch.log1p((value / scale).square())
