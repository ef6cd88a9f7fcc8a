"""Posteriors of Bayesian models on data of their own.

Each log-density is log p(data, theta): the prior is normalised wherever it is proper. The second argument of N is the
standard deviation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import softplus

from ..errors import ConfigurationError, at_least
from ..support import Parameters
from .base import Target
from .densities import check_positive, log_normal
from .exact import inverse_cdf_draws, seeded_generator
from .files import finite_tensor, read_npz

EIGHT_SCHOOLS: dict[str, list[float]] = {
    "y": [2.8, 0.8, -0.3, 0.7, -0.1, 0.1, 1.8, 1.2],
    "sigma": [0.8, 0.5, 0.8, 0.6, 0.5, 0.6, 0.5, 0.4],
}
"""Effects and their standard errors. The effects are a tenth of Rubin's (1981), the errors are not."""


class NormalSample(Target):
    """The `Gauss` example of the AVB authors: y_n ~ N(mu, exp(log_sigma)), both parameters ~ N(0, prior_scale).

    Source: `notebooks/Stan-example.ipynb` of https://github.com/LMescheder/AdversarialVariationalBayes.

    Args:
        y: the observations; None: the eight of `EightSchools`.
        prior_scale: standard deviation of both priors.

    Raises:
        ConfigurationError: no two different observations, or a scale that is not positive.
    """

    y: Tensor

    def __init__(self, y: Sequence[float] | None = None, prior_scale: float = 100.0) -> None:
        super().__init__()
        check_positive(prior_scale=prior_scale)
        values = EIGHT_SCHOOLS["y"] if y is None else list(y)
        if len(values) < 2 or len(set(values)) < 2:
            raise ConfigurationError(f"y: {values} has no two different observations")
        self.constraints, self.prior_scale = {"mu": "real", "log_sigma": "real"}, prior_scale
        self.register_buffer("y", torch.tensor(values, dtype=torch.get_default_dtype()))

    def log_density(self, *, mu: Tensor, log_sigma: Tensor) -> Tensor:  # type: ignore[override]
        prior = log_normal(mu, 0.0, self.prior_scale) + log_normal(log_sigma, 0.0, self.prior_scale)
        standardised = (self.y.to(mu) - mu.unsqueeze(-1)) * (-log_sigma).exp().unsqueeze(-1)
        return prior + log_normal(standardised, 0.0, 1.0).sum(-1) - len(self.y) * log_sigma

    def derived(self, *, log_sigma: Tensor, **others: Tensor) -> Parameters:  # type: ignore[override]
        return {"sigma": log_sigma.exp()}

    def reference(self, count: int, seed: int = 0) -> Parameters:
        """Exact draws: log_sigma from its marginal density on a fine grid, then mu, which is normal given log_sigma."""
        y = self.y.cpu().double()
        n, mean, spread = len(y), y.mean(), y.std(correction=0)
        grid = spread.log() + torch.linspace(-6, 12, 20001, dtype=torch.float64)
        variance = (2 * grid).exp()
        # The mean of y is N(0, sqrt(prior_scale^2 + variance / n)), independent of the deviations from it.
        log_marginal = log_normal(mean, 0.0, (self.prior_scale**2 + variance / n).sqrt())
        log_marginal = log_marginal - (n - 1) * grid - 0.5 * n * spread.square() / variance
        log_marginal = log_marginal + log_normal(grid, 0.0, self.prior_scale)
        random = seeded_generator(seed)
        uniform = torch.rand(at_least(1, count=count), 1, generator=random, dtype=torch.float64)
        log_sigma = inverse_cdf_draws(grid, log_marginal.unsqueeze(0), uniform).squeeze(-1)
        precision = n / (2 * log_sigma).exp() + self.prior_scale**-2
        mu = mean * (1 - self.prior_scale**-2 / precision) + precision.rsqrt() * torch.randn(
            count, generator=random, dtype=torch.float64
        )
        theta = {"mu": mu.to(self.y.dtype), "log_sigma": log_sigma.to(self.y.dtype)}
        return {**theta, **self.derived(**theta)}


class EightSchools(Target):
    """The eight schools of the AVB paper (Mescheder et al. 2017, section 6.1), with two modes.

    mu, tau, eta_j ~ N(0, 1), theta_j = mu + tau eta_j, y_j ~ N(theta_j, sigma_j), j = 1..8, tau on the whole
    real line. The posterior does not change under (tau, eta) -> (-tau, -eta).
    """

    plot_columns = ("tau", "eta[0]")
    y: Tensor
    sigma: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.constraints = {"mu": "real", "tau": "real", "eta": "real[8]"}
        for name, values in EIGHT_SCHOOLS.items():
            self.register_buffer(name, torch.tensor(values, dtype=torch.get_default_dtype()))

    def log_density(self, *, mu: Tensor, tau: Tensor, eta: Tensor) -> Tensor:  # type: ignore[override]
        prior = log_normal(mu, 0.0, 1.0) + log_normal(tau, 0.0, 1.0)
        schools = log_normal(self.y.to(mu), school_effects(mu, tau, eta), self.sigma.to(mu))
        return prior + (schools + log_normal(eta, 0.0, 1.0)).sum(-1)

    def derived(self, *, mu: Tensor, tau: Tensor, eta: Tensor) -> Parameters:  # type: ignore[override]
        return {"theta": school_effects(mu, tau, eta)}

    def reference(self, count: int, seed: int = 0) -> Parameters:
        """Exact draws: tau from its marginal density on a fine grid, then mu and eta, which are normal given tau."""
        random, shape = seeded_generator(seed), (at_least(1, count=count), len(self.y))
        y, variance = self.y.cpu().double(), self.sigma.cpu().double().square()
        grid = torch.linspace(-9, 9, 20001, dtype=torch.float64)
        # Without eta, y_j ~ N(mu, sqrt(sigma_j^2 + tau^2)); in (mu, y) then mu has this precision and mean.
        spread = variance + grid.square().unsqueeze(-1)
        precision, weighted = 1 + (1 / spread).sum(-1), (y / spread).sum(-1)
        log_marginal = log_normal(grid, 0.0, 1.0) + log_normal(y, 0.0, spread.sqrt()).sum(-1)
        log_marginal = log_marginal + 0.5 * weighted.square() / precision - 0.5 * precision.log()
        uniform = torch.rand(count, 1, generator=random, dtype=torch.float64)
        tau = inverse_cdf_draws(grid, log_marginal.unsqueeze(0), uniform)
        spread = variance + tau.square()
        precision, weighted = 1 + (1 / spread).sum(-1, keepdim=True), (y / spread).sum(-1, keepdim=True)
        eps = torch.randn(count, 1, generator=random, dtype=torch.float64)
        mu = weighted / precision + precision.rsqrt() * eps
        eps = torch.randn(shape, generator=random, dtype=torch.float64)
        eta = tau * (y - mu) / spread + (variance / spread).sqrt() * eps
        theta = {"mu": mu.squeeze(-1), "tau": tau.squeeze(-1), "eta": eta}
        return {name: value.to(self.y.dtype) for name, value in {**theta, **self.derived(**theta)}.items()}


class LogisticRegression(Target):
    """Bayesian logistic regression: y_n ~ Bernoulli(sigmoid(x_n beta)), beta_k ~ N(0, sqrt(prior_variance)).

    There is no intercept, unless x has a column of ones.

    Args:
        path: a file of arrays (.npz).
        prior_variance: prior variance of every weight.
        inputs: name of the array x, `(rows, n)`.
        labels: name of the array y, `(rows,)`, each 0 or 1.

    Raises:
        ConfigurationError: the file is missing or lacks these arrays, or the variance is not positive.
    """

    x: Tensor
    signs: Tensor

    def __init__(
        self, path: str | Path, prior_variance: float = 100.0, inputs: str = "x_train", labels: str = "y_train"
    ) -> None:
        super().__init__()
        check_positive(prior_variance=prior_variance)
        self.prior_scale = math.sqrt(prior_variance)
        expected = f"an .npz file with {inputs} (rows, n) and {labels} (rows,) in 0 and 1 was expected"
        arrays = read_npz(path, (inputs, labels), expected)
        x = finite_tensor(path, inputs, arrays[inputs], 2)
        y = finite_tensor(path, labels, arrays[labels], 1)
        if len(x) != len(y) or not ((y == 0) | (y == 1)).all():
            raise ConfigurationError(f"path: {path}: {labels} does not fit; {expected}")
        self.constraints = {"beta": f"real[{x.shape[1]}]"}
        self.register_buffer("x", x)
        self.register_buffer("signs", 1 - 2 * y)

    def log_density(self, *, beta: Tensor) -> Tensor:  # type: ignore[override]
        logits = (beta @ self.x.to(beta).T) * self.signs.to(beta)
        return log_normal(beta, 0.0, self.prior_scale).sum(-1) - softplus(logits).sum(-1)


def school_effects(mu: Tensor, tau: Tensor, eta: Tensor) -> Tensor:
    """mu + tau eta, `(..., schools)`."""
    return mu.unsqueeze(-1) + tau.unsqueeze(-1) * eta
