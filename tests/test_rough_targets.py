"""Log-densities that overflow, become nan or raise where nobody would look, in the style of posteriordb."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from small_models import trainer

from datamodules import NoData
from lightning_avb import PooledMixtureEncoder, Posterior, checkpoints
from lightning_avb.draws import to_table
from lightning_avb.errors import ConfigurationError, DensityError
from lightning_avb.evaluation import find_missed_mode
from lightning_avb.models.nearest_normal import nearest_normal
from lightning_avb.reports import Diagnosis, PosteriorDraws
from lightning_avb.reports.posterior import examine
from lightning_avb.targets import Function, Target
from lightning_avb.targets.calls import TolerantDensity


def log_normal(value, loc, scale):
    return -0.5 * ((value - loc) / scale) ** 2 - torch.log(torch.as_tensor(scale))


class Arma(Target):
    """ARMA(1, 1): the errors of the prediction are a recursion, which grows without end where |theta| > 1."""

    constraints = {"mu": "real", "phi": "real", "theta": "real", "sigma": "positive"}  # noqa: RUF012

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

    constraints = {"stay": "unit_interval[2]", "mu": "positive_ordered[2]"}  # noqa: RUF012

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

    constraints = {"rho": "positive", "alpha": "positive", "sigma": "positive"}  # noqa: RUF012

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
    torch.manual_seed(2)
    found = nearest_normal(lambda z: half_plane(z) - 500, 2, torch.zeros(()), reach=6.0)
    assert found.loc.abs().max() < 0.4 and (found.scale_tril - torch.eye(2)).abs().max() < 0.4


def test_a_density_without_any_start_has_no_nearest_normal():
    found = nearest_normal(lambda z: z.sum(-1) * math.nan, 2, torch.zeros(()))
    assert not torch.isfinite(found.loc).any()


@pytest.mark.parametrize(
    ("target", "centre"),
    [
        (partial(Arma, steps=40), {"mu": 0.2, "phi": 0.7, "theta": 0.3, "sigma": 0.5}),
        (partial(HiddenMarkov, steps=16), {"mu[0]": 3.0, "mu[1]": 9.0, "stay[0]": 0.8, "stay[1]": 0.6}),
    ],
)
def test_recursions_that_overflow_are_placed(tmp_path, target, centre):
    """Within 4 deviations of the parameters that made the data."""
    drawn, names = to_table(fitted(target, tmp_path).draw(4000))
    truth = torch.tensor([centre[name] for name in names])
    assert ((drawn.mean(0) - truth).abs() < 4 * drawn.std(0)).all()
    assert (drawn.std(0) < 0.8).all()


# A log-density that raises.


class Raising(Target):
    """N(0, I) that raises where any point is far out, as validation and decompositions do."""

    constraints = {"z": "real[2]"}  # noqa: RUF012

    def __init__(self, beyond: float = 100.0, flat: bool = False, after: int = 0) -> None:
        super().__init__()
        self.beyond, self.flat, self.after, self.armed = beyond, flat, after, not after

    def log_density(self, *, z):
        self.armed = self.armed or z.shape[:2] == (self.after, 1)
        if self.armed and (z[..., 0] > self.beyond).any():
            raise ValueError("the point is too far out")
        return -0.5 * z[..., 0].square() - (0 if self.flat else 0.5) * z[..., 1].square()

    def derived(self, *, z):
        if len(z) == 13:
            raise KeyError("sums")
        return {}


def test_a_decomposition_that_fails_far_out_is_named_in_one_warning(tmp_path):
    with pytest.warns(UserWarning, match="log-density of GaussianProcess fails at") as seen:
        model = fitted(GaussianProcess, tmp_path, standardise=False)
    (message,) = (str(one.message) for one in seen if "GaussianProcess" in str(one.message))
    assert "rho = " in message and "_LinAlgError: linalg.cholesky" in message and "\n" not in message
    assert model.placed


def test_what_raises_is_found_by_halves():
    target = Raising(beyond=1.0)
    look = TolerantDensity(target)
    z = torch.tensor([[0.0, 1.0], [2.0, 0.0], [0.5, 0.0], [3.0, 0.0], [1.5, 2.0], [-4.0, 0.0]])
    z.requires_grad_()
    value = look(z)
    assert torch.isfinite(value).tolist() == [True, False, True, False, False, True]
    assert look.count == 3 and look.first == "at z = [3.0, 0.0]: ValueError: the point is too far out"
    (slope,) = torch.autograd.grad(value.where(torch.isfinite(value), 0).sum(), z)
    assert torch.equal(slope, torch.where(z.detach()[:, :1] > 1, 0.0, -z.detach()))
    assert torch.equal(look(z.detach()[:1]), target.log_prob(z.detach()[:1])) and look.count == 3
    few = TolerantDensity(target)
    assert not torch.isfinite(few(z.detach(), most=1)).any() and few.count == 6


def test_a_point_that_raises_does_not_hide_a_flat_side(tmp_path):
    with pytest.raises(ConfigurationError, match=r"^target: the density of Raising does not fall off along z\[1\]"):
        fitted(partial(Raising, flat=True), tmp_path, standardise=False)


def test_what_raises_around_0_is_refused_with_the_point(tmp_path):
    with pytest.raises(ConfigurationError, match=r"^target: Raising fails at z = \[2\.\d+, .*ValueError: the point"):
        fitted(partial(Raising, beyond=2.0), tmp_path)


def test_what_raises_where_the_sampler_begins_is_refused_with_the_point(tmp_path):
    """It is not among the 128 points that are looked at first."""
    message = r"^target: the log-density of Raising fails at z = \[2\.\d+, .*The sampler begins there"
    with pytest.raises(ConfigurationError, match=message):
        fitted(partial(Raising, beyond=2.0, after=4096), tmp_path)


def test_what_raises_in_training_is_named_with_the_point(tmp_path):
    message = r"^target: the log-density of Raising fails at z = .*: ValueError: the point"
    with pytest.raises(DensityError, match=message):
        fitted(partial(Raising, beyond=-1.0, after=32), tmp_path, standardise=False)


def test_what_a_derived_quantity_raises_is_named(tmp_path):
    with pytest.raises(DensityError, match=r"^target: `derived` of Raising raises KeyError: 'sums'"):
        Posterior(Raising).draw(13)


def test_what_raises_among_the_draws_of_the_diagnosis_counts_as_nothing():
    model = Posterior(partial(Raising, beyond=4.0))
    draws = PosteriorDraws(model.target, model.draw_z(500).squeeze(1), model=model, transitions=5, leapfrogs=4)
    with pytest.warns(UserWarning, match=r"log-density of Raising fails at \d+ points"):
        figures = examine(draws, Diagnosis(checks=["chains", "weights"]).checks)
    few = {"starts": 16, "descent": 20, "transitions": 2, "leapfrogs": 4}
    assert find_missed_mode(draws.z, draws.log_density, **few).share == 0
    found = {figure.name: figure.value for figure in figures}
    assert abs(found["log evidence"] - math.log(2 * math.pi)) < 0.1


CALLS = []


def remembered(sigma):
    CALLS.append(sigma)
    return -sigma


def test_the_density_is_not_asked_off_its_support():
    CALLS.clear()
    target = Function(f"{__name__}.remembered", {"sigma": "interval(-2, 3)"})
    value = target.constrained_log_density(torch.tensor([[1.0], [-2.5], [0.5], [math.nan]]))
    torch.testing.assert_close(value, torch.tensor([-1.0, -math.inf, -0.5, -math.inf]))
    assert all(((sigma > -2) & (sigma < 3)).all() for sigma in CALLS)


def fragile(mu, sigma):
    CALLS.append(mu.shape)
    if CALLS.count((32, 1)) > 3:
        raise ValueError("no more")
    return -0.5 * mu.square() - sigma


def test_the_command_prints_a_line_and_keeps_the_checkpoint(refusal, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    CALLS.clear()
    Path("mine.yaml").write_text(
        "seed_everything: 0\ntrainer: {max_steps: 9, limit_val_batches: 0, enable_progress_bar: false, "
        "enable_model_summary: false}\ncheckpoint: {every_n_train_steps: 1}\ndata: datamodules.NoData\n"
        "model:\n  class_path: lightning_avb.Posterior\n  init_args:\n    samples: 32\n    target:\n"
        "      class_path: lightning_avb.targets.Function\n      init_args:\n"
        f'        log_density: {__name__}.fragile\n        constraints: {{mu: real, sigma: "interval(0, 9)"}}\n'
    )
    message = refusal("fit", "--config", "mine.yaml", code=1)
    assert message.startswith("error: target: the log-density of Function fails at mu = ") and "no more" in message
    (last,) = tmp_path.rglob("last.ckpt")
    assert checkpoints.read_checkpoint(last)["global_step"] == 3
