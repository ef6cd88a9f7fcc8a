"""Posteriors of Bayesian models on real data.

Each log-density is log p(data, theta): the prior is normalised wherever it is proper. The second argument of N is the
standard deviation. The models of posteriordb (Magnusson et al. 2025, https://github.com/stan-dev/posteriordb) read its
data, and their `reference` its reference draws where these lie beside the data.
"""

from __future__ import annotations

import json
import math
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from ..errors import ConfigurationError, at_least
from ..support import Parameters
from .base import Target
from .densities import log_normal, positive
from .exact import from_grid, generator

REFERENCE_FILE = "reference_draws.npz"
"""Beside data.json: `draws` `(count, d)` and their `names` `(d,)`, vectors as `theta[1]` to `theta[n]`."""


class NormalSample(Target):
    """The `Gauss` example of the AVB authors: y_n ~ N(mu, exp(log_sigma)), both parameters ~ N(0, prior_scale).

    Source: `notebooks/Stan-example.ipynb` of https://github.com/LMescheder/AdversarialVariationalBayes.

    Args:
        y: the observations; without them the eight of `EightSchools`.
        prior_scale: standard deviation of both priors.

    Raises:
        ConfigurationError: not two different observations, or a scale that is not positive.
    """

    y: Tensor

    def __init__(self, y: Sequence[float] | None = None, prior_scale: float = 100.0) -> None:
        super().__init__()
        positive(prior_scale=prior_scale)
        values = EIGHT_SCHOOLS["y"] if y is None else list(y)
        if len(values) < 2 or len(set(values)) < 2:
            raise ConfigurationError(f"y: {values} has no two different observations")
        self.kinds, self.prior_scale = {"mu": "real", "log_sigma": "real"}, prior_scale
        self.register_buffer("y", torch.tensor(values, dtype=torch.get_default_dtype()))

    def log_density(self, *, mu: Tensor, log_sigma: Tensor) -> Tensor:  # type: ignore[override]
        prior = log_normal(mu, 0.0, self.prior_scale) + log_normal(log_sigma, 0.0, self.prior_scale)
        standardised = (self.y.to(mu) - mu.unsqueeze(-1)) * (-log_sigma).exp().unsqueeze(-1)
        return prior + log_normal(standardised, 0.0, 1.0).sum(-1) - len(self.y) * log_sigma

    def derived(self, *, log_sigma: Tensor, **others: Tensor) -> Parameters:  # type: ignore[override]
        return {"sigma": log_sigma.exp()}

    def reference(self, count: int, seed: int = 0) -> Parameters:
        """Exact draws: log_sigma by its marginal density on a fine grid, then mu, which is normal given that."""
        y = self.y.cpu().double()
        n, mean, spread = len(y), y.mean(), y.std(correction=0)
        grid = spread.log() + torch.linspace(-6, 12, 20001, dtype=torch.float64)
        variance = (2 * grid).exp()
        # The mean of y is N(0, sqrt(prior_scale^2 + variance / n)), and independent of what the others add.
        log_marginal = log_normal(mean, 0.0, (self.prior_scale**2 + variance / n).sqrt())
        log_marginal = log_marginal - (n - 1) * grid - 0.5 * n * spread.square() / variance
        log_marginal = log_marginal + log_normal(grid, 0.0, self.prior_scale)
        random = generator(seed)
        uniform = torch.rand(at_least(1, count=count), 1, generator=random, dtype=torch.float64)
        log_sigma = from_grid(grid, log_marginal.unsqueeze(0), uniform).squeeze(-1)
        precision = n / (2 * log_sigma).exp() + self.prior_scale**-2
        mu = mean * (1 - self.prior_scale**-2 / precision) + precision.rsqrt() * torch.randn(
            count, generator=random, dtype=torch.float64
        )
        theta = {"mu": mu.to(self.y.dtype), "log_sigma": log_sigma.to(self.y.dtype)}
        return {**theta, **self.derived(**theta)}


class EightSchools(Target):
    """The eight schools of the AVB paper (Mescheder et al. 2017, section 6.1), with two modes.

    mu, tau, eta_j ~ N(0, 1), theta_j = mu + tau eta_j, y_j ~ N(theta_j, sigma_j), j = 1..8, tau on the whole
    real line: the posterior does not change under (tau, eta) -> (-tau, -eta).
    """

    plane = ("tau", "eta[0]")
    y: Tensor
    sigma: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.kinds = {"mu": "real", "tau": "real", "eta": "real[8]"}
        for name, values in EIGHT_SCHOOLS.items():
            self.register_buffer(name, torch.tensor(values, dtype=torch.get_default_dtype()))

    def log_density(self, *, mu: Tensor, tau: Tensor, eta: Tensor) -> Tensor:  # type: ignore[override]
        prior = log_normal(mu, 0.0, 1.0) + log_normal(tau, 0.0, 1.0)
        schools = log_normal(self.y.to(mu), _effects(mu, tau, eta), self.sigma.to(mu))
        return prior + (schools + log_normal(eta, 0.0, 1.0)).sum(-1)

    def derived(self, *, mu: Tensor, tau: Tensor, eta: Tensor) -> Parameters:  # type: ignore[override]
        return {"theta": _effects(mu, tau, eta)}

    def reference(self, count: int, seed: int = 0) -> Parameters:
        """Exact draws: tau by its marginal density on a fine grid, then mu and eta, which are normal given that."""
        random, shape = generator(seed), (at_least(1, count=count), len(self.y))
        y, variance = self.y.cpu().double(), self.sigma.cpu().double().square()
        grid = torch.linspace(-9, 9, 20001, dtype=torch.float64)
        # Without eta, y_j ~ N(mu, sqrt(sigma_j^2 + tau^2)); in (mu, y) then mu has this precision and mean.
        spread = variance + grid.square().unsqueeze(-1)
        precision, pull = 1 + (1 / spread).sum(-1), (y / spread).sum(-1)
        log_marginal = log_normal(grid, 0.0, 1.0) + log_normal(y, 0.0, spread.sqrt()).sum(-1)
        log_marginal = log_marginal + 0.5 * pull.square() / precision - 0.5 * precision.log()
        uniform = torch.rand(count, 1, generator=random, dtype=torch.float64)
        tau = from_grid(grid, log_marginal.unsqueeze(0), uniform)
        spread = variance + tau.square()
        precision, pull = 1 + (1 / spread).sum(-1, keepdim=True), (y / spread).sum(-1, keepdim=True)
        eps = torch.randn(count, 1, generator=random, dtype=torch.float64)
        mu = pull / precision + precision.rsqrt() * eps
        eps = torch.randn(shape, generator=random, dtype=torch.float64)
        eta = tau * (y - mu) / spread + (variance / spread).sqrt() * eps
        theta = {"mu": mu.squeeze(-1), "tau": tau.squeeze(-1), "eta": eta}
        return {name: value.to(self.y.dtype) for name, value in {**theta, **self.derived(**theta)}.items()}


EIGHT_SCHOOLS: dict[str, list[float]] = {
    "y": [2.8, 0.8, -0.3, 0.7, -0.1, 0.1, 1.8, 1.2],
    "sigma": [0.8, 0.5, 0.8, 0.6, 0.5, 0.6, 0.5, 0.4],
}
"""Effects and their standard errors. The effects are a tenth of Rubin's (1981); the errors are not."""


def _effects(mu: Tensor, tau: Tensor, eta: Tensor) -> Tensor:
    return mu.unsqueeze(-1) + tau.unsqueeze(-1) * eta


class _Posteriordb(Target):
    """A model of posteriordb.

    Args:
        path: of its data.json.

    Raises:
        ConfigurationError: the file is missing, is no JSON, or lacks what the model needs.
    """

    needs: ClassVar[Mapping[str, int]]
    """Name in the data -> number of dimensions."""

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = Path(path)
        wanted = f"the data.json of a posterior in posteriordb with {' and '.join(self.needs)} was expected"
        try:
            content = json.loads(self.path.read_text())
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"path: {self.path} cannot be read ({_reason(error)}); {wanted}") from error
        for name, dimensions in self.needs.items():
            if not isinstance(content, dict) or name not in content:
                raise ConfigurationError(f"path: {self.path} has no {name}; {wanted}")
            self.register_buffer(name, _numbers(self.path, name, content[name], dimensions))
        if len({len(getattr(self, name)) for name, dimensions in self.needs.items() if dimensions}) > 1:
            raise ConfigurationError(f"path: {self.path} has lists of different lengths; {wanted}")

    def reference(self, count: int, seed: int = 0) -> Parameters | None:
        """So many of the reference draws, or all if there are fewer, with all that is derived from them.

        Raises:
            ConfigurationError: a count below 1.
        """
        at_least(1, count=count)
        file = self.path.with_name(REFERENCE_FILE)
        if not file.exists():
            return None
        with np.load(file) as content:
            draws, names = torch.from_numpy(content["draws"]).double(), [str(name) for name in content["names"]]
        draws = draws[torch.randperm(len(draws), generator=generator(seed))[:count]]
        columns: dict[str, list[Tensor]] = {}
        for name, column in zip(names, draws.unbind(-1), strict=True):
            columns.setdefault(re.sub(r"\[\d+\]$", "", name), []).append(column)
        vectors = {name for name, kind in self.kinds.items() if "[" in kind} | {n for n, c in columns.items() if c[1:]}
        theta = {n: torch.stack(c, -1) if n in vectors else c[0] for n, c in columns.items()}
        dtype = torch.get_default_dtype()
        return {name: value.to(dtype) for name, value in {**theta, **self._further(theta)}.items()}

    def _further(self, theta: Parameters) -> Parameters:
        """Our parameters that the reference draws lack, from what they have."""
        return {}


class EightSchoolsNoncentered(_Posteriordb):
    """posteriordb's `eight_schools_noncentered`, a funnel between tau and the effects theta.

    mu ~ N(0, 5), tau ~ half-Cauchy(0, 5), eta_j ~ N(0, 1), theta_j = mu + tau eta_j, y_j ~ N(theta_j, sigma_j).

    Args:
        path: of its data.json, with `y` and `sigma`.

    Raises:
        ConfigurationError: see `path`.
    """

    needs: ClassVar[Mapping[str, int]] = {"y": 1, "sigma": 1}
    y: Tensor
    sigma: Tensor

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self.kinds = {"mu": "real", "tau": "positive", "eta": f"real[{len(self.y)}]"}

    def log_density(self, *, mu: Tensor, tau: Tensor, eta: Tensor) -> Tensor:  # type: ignore[override]
        prior = log_normal(mu, 0.0, 5.0) + _log_half_cauchy(tau, 5.0)
        schools = log_normal(self.y.to(mu), _effects(mu, tau, eta), self.sigma.to(mu))
        return prior + (schools + log_normal(eta, 0.0, 1.0)).sum(-1)

    def derived(self, *, mu: Tensor, tau: Tensor, eta: Tensor) -> Parameters:  # type: ignore[override]
        return {"theta": _effects(mu, tau, eta)}

    def _further(self, theta: Parameters) -> Parameters:
        return {"eta": (theta["theta"] - theta["mu"].unsqueeze(-1)) / theta["tau"].unsqueeze(-1)}


class KidScore(_Posteriordb):
    """posteriordb's `kidscore_momhsiq`: a linear regression, with beta_1 and beta_3 strongly correlated.

    kid_score_n ~ N(beta_1 + beta_2 mom_hs_n + beta_3 mom_iq_n, sigma), beta flat, sigma ~ half-Cauchy(0, 2.5).

    Args:
        path: of its data.json, with `kid_score`, `mom_hs` and `mom_iq`.

    Raises:
        ConfigurationError: see `path`.
    """

    needs: ClassVar[Mapping[str, int]] = {"kid_score": 1, "mom_hs": 1, "mom_iq": 1}
    kid_score: Tensor
    mom_hs: Tensor
    mom_iq: Tensor

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self.kinds = {"beta": "real[3]", "sigma": "positive"}

    def log_density(self, *, beta: Tensor, sigma: Tensor) -> Tensor:  # type: ignore[override]
        inputs = torch.stack([torch.ones_like(self.mom_hs), self.mom_hs, self.mom_iq]).to(beta)
        scores = log_normal(self.kid_score.to(beta), beta @ inputs, sigma.unsqueeze(-1))
        return _log_half_cauchy(sigma, 2.5) + scores.sum(-1)


class Garch(_Posteriordb):
    """posteriordb's `garch11`: y_t ~ N(mu, s_t) with s_t^2 = alpha0 + alpha1 (y_{t-1} - mu)^2 + beta1 s_{t-1}^2.

    s_1 is given; mu, alpha0 > 0 and (alpha1, beta1) on the triangle alpha1, beta1 > 0, alpha1 + beta1 < 1 are flat.
    The parameter in place of beta1 is share = beta1 / (1 - alpha1), in the unit interval.

    Args:
        path: of its data.json, with `y` and `sigma1`.

    Raises:
        ConfigurationError: see `path`.
    """

    needs: ClassVar[Mapping[str, int]] = {"y": 1, "sigma1": 0}
    y: Tensor
    sigma1: Tensor

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self.kinds = {"mu": "real", "alpha0": "positive", "alpha1": "unit_interval", "share": "unit_interval"}

    def log_density(  # type: ignore[override]
        self, *, mu: Tensor, alpha0: Tensor, alpha1: Tensor, share: Tensor
    ) -> Tensor:
        rest = 1 - alpha1
        beta1 = (rest * share).unsqueeze(-1)
        square = (self.y.to(mu) - mu.unsqueeze(-1)).square()
        first = self.sigma1.to(mu).square().expand(*mu.shape, 1)
        variance = torch.cat([first, torch.addcmul(alpha0.unsqueeze(-1), alpha1.unsqueeze(-1), square[..., :-1])], -1)
        # s_t^2 is the sum of beta1^k times what came k steps before: each round doubles how far the sum reaches back.
        power, reach = beta1, 1
        while reach < len(self.y):
            further = torch.addcmul(variance[..., reach:], power, variance[..., :-reach])
            variance = torch.cat([variance[..., :reach], further], -1)
            power, reach = power.square(), 2 * reach
        log_likelihood = -0.5 * (square / variance + variance.log()).sum(-1) - 0.5 * len(self.y) * math.log(2 * math.pi)
        return log_likelihood + rest.log()

    def derived(self, *, alpha1: Tensor, share: Tensor, **others: Tensor) -> Parameters:  # type: ignore[override]
        return {"beta1": (1 - alpha1) * share}

    def _further(self, theta: Parameters) -> Parameters:
        return {"share": theta["beta1"] / (1 - theta["alpha1"])}


class LowDimGaussMix(_Posteriordb):
    """posteriordb's `low_dim_gauss_mix`: y_n ~ theta N(mu_1, sigma_1) + (1 - theta) N(mu_2, sigma_2), mu_1 < mu_2.

    mu_k ~ N(0, 2), sigma_k ~ half-N(0, 2), theta ~ Beta(5, 5).

    Args:
        path: of its data.json, with `y`.

    Raises:
        ConfigurationError: see `path`.
    """

    needs: ClassVar[Mapping[str, int]] = {"y": 1}
    y: Tensor

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self.kinds = {"mu": "ordered[2]", "sigma": "positive[2]", "theta": "unit_interval"}

    def log_density(self, *, mu: Tensor, sigma: Tensor, theta: Tensor) -> Tensor:  # type: ignore[override]
        # The order of mu, and each of the half-normals, leave half of a normal density.
        prior = (log_normal(mu, 0.0, 2.0) + log_normal(sigma, 0.0, 2.0)).sum(-1) + 3 * math.log(2)
        prior = prior + 4 * (theta.log() + torch.log1p(-theta)) + math.lgamma(10) - 2 * math.lgamma(5)
        y, log_scale = self.y.to(mu), sigma.log()
        first, second = (((y - mu[..., k, None]) / sigma[..., k, None]).square() for k in (0, 1))
        # log of the mixture = log of its first part + softplus(log of second / first), the cheapest way there.
        odds = torch.log1p(-theta) - theta.log() + log_scale[..., 0] - log_scale[..., 1]
        log_ratio = torch.add(odds.unsqueeze(-1), first - second, alpha=0.5)
        constant = theta.log() - log_scale[..., 0] - 0.5 * math.log(2 * math.pi)
        return prior + softplus(log_ratio).sum(-1) - 0.5 * first.sum(-1) + len(y) * constant


class LogisticRegression(Target):
    """Bayesian logistic regression: y_n ~ Bernoulli(sigmoid(x_n beta)), beta_k ~ N(0, sqrt(prior_variance)).

    There is no intercept but a column of ones.

    Args:
        path: a file of arrays (.npz).
        prior_variance: of every weight.
        inputs: name of the array x, `(rows, n)`.
        labels: name of the array y, `(rows,)`, each 0 or 1.

    Raises:
        ConfigurationError: the file is missing or lacks such arrays, or a variance that is not positive.
    """

    x: Tensor
    signs: Tensor

    def __init__(
        self, path: str | Path, prior_variance: float = 100.0, inputs: str = "x_train", labels: str = "y_train"
    ) -> None:
        super().__init__()
        positive(prior_variance=prior_variance)
        self.prior_scale = math.sqrt(prior_variance)
        wanted = f"an .npz file with {inputs} (rows, n) and {labels} (rows,) in 0 and 1 was expected"
        try:
            with np.load(path) as content:
                arrays = {name: content[name] for name in (inputs, labels) if name in content}
        except (OSError, ValueError, AttributeError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise ConfigurationError(f"path: {path} cannot be read ({_reason(error)}); {wanted}") from error
        for name in (inputs, labels):
            if name not in arrays:
                raise ConfigurationError(f"path: {path} has no {name}; {wanted}")
        x = _numbers(path, inputs, arrays[inputs], 2)
        y = _numbers(path, labels, arrays[labels], 1)
        if len(x) != len(y) or not ((y == 0) | (y == 1)).all():
            raise ConfigurationError(f"path: {path}: {labels} does not fit; {wanted}")
        self.kinds = {"beta": f"real[{x.shape[1]}]"}
        self.register_buffer("x", x)
        self.register_buffer("signs", 1 - 2 * y)

    def log_density(self, *, beta: Tensor) -> Tensor:  # type: ignore[override]
        logits = (beta @ self.x.to(beta).T) * self.signs.to(beta)
        return log_normal(beta, 0.0, self.prior_scale).sum(-1) - softplus(logits).sum(-1)


def _log_half_cauchy(value: Tensor, scale: float) -> Tensor:
    return math.log(2 / (math.pi * scale)) - torch.log1p((value / scale).square())


def _numbers(path: str | Path, name: str, values: Any, dimensions: int) -> Tensor:
    """Data as a tensor of torch's default dtype.

    Raises:
        ConfigurationError: they are no finite numbers, or of another number of dimensions.
    """
    try:
        numbers = torch.from_numpy(np.array(values, dtype=np.float64)).to(torch.get_default_dtype())
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"path: {path}: {name} is not made of numbers") from error
    if numbers.ndim != dimensions or not numbers.numel() or not numbers.isfinite().all():
        shape = tuple(numbers.shape)
        raise ConfigurationError(
            f"path: {path}: {name} should be finite numbers in {dimensions} dimensions, and has shape {shape}"
        )
    return numbers


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
