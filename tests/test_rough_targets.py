"""Log-densities that overflow, become nan or raise where nobody would look, in the style of posteriordb."""

from __future__ import annotations

import math
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from games import trainer

from datamodules import NoData
from lightning_avb import PooledMixtureEncoder, Posterior
from lightning_avb.draws import flat
from lightning_avb.models.posterior import nearest_normal
from lightning_avb.targets import Target


def log_normal(value, loc, scale):
    return -0.5 * ((value - loc) / scale) ** 2 - torch.log(torch.as_tensor(scale))


class Arma(Target):
    """ARMA(1, 1): the errors of the prediction are a recursion, which grows without end where |theta| > 1."""

    kinds = {"mu": "real", "phi": "real", "theta": "real", "sigma": "positive"}  # noqa: RUF012

    def __init__(self, steps: int = 200) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(0)
        y, before, error = [], 0.0, 0.0
        for eps in torch.randn(steps, generator=random).tolist():
            before, error = 0.2 + 0.7 * before + 0.3 * error + 0.5 * eps, 0.5 * eps
            y.append(before)
        self.register_buffer("y", torch.tensor(y))

    def log_density(self, *, mu, phi, theta, sigma):
        prior = log_normal(mu, 0.0, 10.0) + log_normal(phi, 0.0, 2.0) + log_normal(theta, 0.0, 2.0)
        prior = prior - torch.log1p((sigma / 2.5) ** 2)
        y = self.y.to(mu)
        errors = [y[0] - mu - phi * mu]
        for t in range(1, len(y)):
            errors.append(y[t] - mu - phi * y[t - 1] - theta * errors[-1])
        return prior + log_normal(torch.stack(errors, -1), 0.0, sigma[..., None]).sum(-1)


class HiddenMarkov(Target):
    """Two hidden states with normal emissions; the probabilities by the forward algorithm, on their own scale."""

    kinds = {"stay": "unit_interval[2]", "mu": "positive_ordered[2]"}  # noqa: RUF012

    def __init__(self, steps: int = 60) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(0)
        state, y = 0, []
        for uniform in torch.rand(steps, generator=random).tolist():
            state = state if uniform < (0.8, 0.6)[state] else 1 - state
            y.append((3.0, 9.0)[state] + torch.randn((), generator=random).item())
        self.register_buffer("y", torch.tensor(y))

    def log_density(self, *, stay, mu):
        prior = log_normal(mu[..., 0], 3.0, 1.0) + log_normal(mu[..., 1], 10.0, 1.0)
        emit = log_normal(self.y.to(mu), mu[..., None], 1.0).exp()
        move = torch.stack([stay[..., 0], 1 - stay[..., 0], 1 - stay[..., 1], stay[..., 1]], -1)
        move = move.unflatten(-1, (2, 2))
        forward, total = emit[..., 0] / 2, 0.0
        for t in range(1, len(self.y)):
            forward = (forward.unsqueeze(-2) @ move).squeeze(-2) * emit[..., t]
            scale = forward.sum(-1, keepdim=True)
            forward, total = forward / scale, total + scale.squeeze(-1).log()
        return prior + total


class GaussianProcess(Target):
    """Regression with a squared exponential covariance, by torch's own Cholesky factor, which raises."""

    kinds = {"rho": "positive", "alpha": "positive", "sigma": "positive"}  # noqa: RUF012

    def __init__(self, points: int = 11) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(0)
        self.register_buffer("x", torch.linspace(-10, 10, points))
        self.register_buffer("y", 2 * (self.x / 4).sin() + 0.3 * torch.randn(points, generator=random))

    def log_density(self, *, rho, alpha, sigma):
        prior = 24 * rho.log() - 4 * rho + log_normal(alpha, 0.0, 2.0) + log_normal(sigma, 0.0, 1.0)
        x, y = self.x.to(rho), self.y.to(rho)
        distance = (x[:, None] - x).square() / rho[..., None, None].square()
        covariance = alpha[..., None, None].square() * (-0.5 * distance).exp()
        noise = sigma[..., None, None].square() * torch.eye(len(x)).to(rho)
        tril = torch.linalg.cholesky(covariance + noise)
        white = torch.linalg.solve_triangular(tril, y[:, None].expand(*tril.shape[:-1], 1), upper=False)
        return prior - 0.5 * white.square().sum((-1, -2)) - tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)


SMALL = partial(PooledMixtureEncoder, width=32, blocks=1)


def fitted(target, folder, steps=1, **options):
    pl.seed_everything(0)
    model = Posterior(target, SMALL, samples=32, **options)
    run = trainer(folder, max_steps=steps, limit_val_batches=0)
    run.fit(model, NoData())
    return model.eval()


def half_plane(z):
    """N(0, I), and nan beyond 2.5 on one side."""
    return -0.5 * z.square().sum(-1) + torch.where(z[..., 0] > 2.5, math.nan, 0.0)


def cliff(z):
    """N(0, I), and so steep beyond 2.5 on one side that a sum of slopes overflows."""
    return -0.5 * z.square().sum(-1) - 3e38 * (z[..., 0] - 2.5).relu().tanh()


@pytest.mark.parametrize("log_density", [half_plane, cliff])
@pytest.mark.parametrize("seed", range(3))
def test_a_start_that_becomes_nan_is_no_hindrance(log_density, seed):
    torch.manual_seed(seed)
    found = nearest_normal(log_density, 2, torch.zeros(()), reach=6.0)
    assert found.arrived and found.loc.abs().max() < 0.4
    assert (found.scale_tril - torch.eye(2)).abs().max() < 0.4


@pytest.mark.usefixtures("float64")
def test_a_start_that_finds_nothing_does_not_win_by_that():
    """Where no draw has a density their mean is not 0, above the -500 of all others."""
    found = nearest_normal(lambda z: half_plane(z) - 500, 2, torch.zeros(()), reach=6.0)
    assert found.loc.abs().max() < 0.4 and (found.scale_tril - torch.eye(2)).abs().max() < 0.4


def test_a_density_without_any_start_has_no_nearest_normal():
    found = nearest_normal(lambda z: z.sum(-1) * math.nan, 2, torch.zeros(()))
    assert not torch.isfinite(found.loc).any()


@pytest.mark.parametrize(
    ("target", "centre"),
    [
        (partial(Arma, steps=40), {"mu": 0.2, "phi": 0.7, "theta": 0.3, "sigma": 0.5}),
        (partial(HiddenMarkov, steps=40), {"mu[0]": 3.0, "mu[1]": 9.0, "stay[0]": 0.8, "stay[1]": 0.6}),
    ],
)
def test_recursions_that_overflow_are_placed(tmp_path, target, centre):
    """Within 4 deviations of the parameters that made the data."""
    drawn, names = flat(fitted(target, tmp_path).draw(4000))
    truth = torch.tensor([centre[name] for name in names])
    assert ((drawn.mean(0) - truth).abs() < 4 * drawn.std(0)).all()
    assert (drawn.std(0) < 0.5).all()
