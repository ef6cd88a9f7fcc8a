"""Posteriors of log-densities: the sampler, its bound, its coordinates, and what comes back."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from games import trainer
from monte_carlo import assert_mean

import lightning_avb as avb
from datamodules import NoData, Simulated
from lightning_avb import ConvNet, PooledMixtureEncoder, Posterior, checkpoints, cli, draws, noise, pictures, targets
from lightning_avb.callbacks import Pictures
from lightning_avb.contrasts import FlowContrast, FullGaussianContrast, GaussianContrast, PriorContrast
from lightning_avb.diagnosis import Diagnosis, compare, trust
from lightning_avb.distributions import DiagonalNormal, PooledMixture, TriangularNormal, pairwise_log_prob
from lightning_avb.errors import ConfigurationError, NonFiniteLossError
from lightning_avb.evaluation import calibration_ranks, resample_posterior, uniformity
from lightning_avb.models.posterior import PosteriorPlayers, SamplerAdam, nearest_normal
from lightning_avb.targets import Family, Function, Gaussian, Mixture, NormalMean, Parabola, Target

float64 = pytest.mark.usefixtures("float64")
SMALL = partial(PooledMixtureEncoder, width=32, blocks=1)
LOG_2PI = math.log(2 * math.pi)


def pooled(loc, scale):
    """Components at given places, whatever noise is drawn."""
    return PooledMixture(lambda samples: DiagonalNormal(loc, scale), loc.shape[1:2], loc.shape[2:])


def fitted(model, steps, folder, data=None):
    pl.seed_everything(0)
    trainer(folder, max_steps=steps, limit_val_batches=0, enable_checkpointing=False).fit(model, data or NoData())
    return model.eval()


# The sampler's bound.


@float64
def test_a_draw_is_weighed_by_all_components_of_its_row():
    loc, scale = torch.randn(5, 3, 2), 0.5 + torch.rand(5, 3, 2)
    z, log_q = pooled(loc, scale).rsample_and_log_prob((5,))
    for k in range(5):
        for row in range(3):
            parts = torch.stack(
                [torch.distributions.Normal(loc[j, row], scale[j, row]).log_prob(z[k, row]).sum() for j in range(5)]
            )
            torch.testing.assert_close(log_q[k, row], parts.logsumexp(0) - math.log(5))


def test_pairs_by_matrix_products_lose_few_digits():
    loc, scale = 3 * torch.randn(200, 1, 22) + 50, (torch.randn(200, 1, 22) - 1).exp()
    own = DiagonalNormal(loc, scale)
    z = own.rsample()
    exact = DiagonalNormal(loc.double(), scale.double()).log_prob(z.double().unsqueeze(1))
    error = (pairwise_log_prob(own, z).double() - exact).abs()
    reach = ((z - 50).abs().unsqueeze(1) + (loc - 50).abs()) / scale
    assert (error <= 1e-6 * reach.square().sum(-1) + 1e-4).all()


def test_rows_far_apart_are_paired_as_exactly_as_near_ones():
    """Of a family: one data set's posterior at 0, another's at 10,000. Autocast changes nothing."""
    loc = torch.randn(50, 2, 3) + torch.tensor([0.0, 1e4]).view(2, 1)
    own = DiagonalNormal(loc, torch.full_like(loc, 0.5))
    z = own.rsample()
    exact = DiagonalNormal(loc.double(), own.scale.double()).log_prob(z.double().unsqueeze(1))
    found = pairwise_log_prob(own, z)
    assert (found.double() - exact).abs().max() < 0.05
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(pairwise_log_prob(own, z), found)


@float64
@pytest.mark.parametrize("samples", [4, 64])
def test_the_weight_of_a_draw_bounds_its_log_density_from_above(samples):
    """z = e + eps / 2 with normal e: the marginal density is N(0, 1.25)."""
    torch.manual_seed(1)
    rows = 20000 // samples
    q = PooledMixture(lambda n: DiagonalNormal(torch.randn(n, rows, 1), torch.full((n, rows, 1), 0.5)), (rows,), (1,))
    z, log_q = q.rsample_and_log_prob((samples,))
    gap = (log_q - torch.distributions.Normal(0.0, math.sqrt(1.25)).log_prob(z.squeeze(-1))).mean(0)
    mean, error = gap.mean().item(), gap.std().item() / math.sqrt(rows)
    # The gap is the mutual information of one draw of the average with all e: below ln(1 + 4) / 2 / samples or so.
    assert 5 * error < mean < {4: 0.35, 64: 0.05}[samples]
    # Weights f / average are unbiased for the integral of f, here that of a normal density.
    log_f = torch.distributions.Normal(0.3, 0.7).log_prob(z.squeeze(-1))
    weights = (log_f - log_q).exp().mean(0)
    assert abs(weights.mean().item() - 1) < 5 * weights.std().item() / math.sqrt(rows)


@float64
def test_the_sampler_is_normal_at_first():
    encoder = PooledMixtureEncoder((1,), 2, start=2.0, narrow=0.5)
    z = encoder(torch.ones(1, 1)).rsample((40000,)).squeeze(1)
    variance = 4.0 * (1 + 0.25)
    assert (z.var(0) - variance).abs().max() < 5 * variance * math.sqrt(2 / 40000)
    assert (z.mean(0)).abs().max() < 5 * math.sqrt(variance / 40000)
    assert torch.corrcoef(z.T)[0, 1].abs() < 5 / math.sqrt(40000)
    for name in ("start", "narrow"):
        with pytest.raises(ConfigurationError, match=f"^{name}: 0"):
            PooledMixtureEncoder((1,), 2, **{name: 0.0})


# Coordinates.


@float64
@pytest.mark.parametrize("distance, width", [(0.0, 1.0), (30.0, 1.0), (3.0, 1e-3)])
def test_the_nearest_normal_of_a_normal_target_is_itself(distance, width):
    tril = width * torch.tensor([[1.0, 0.0, 0.0], [0.95, 0.3, 0.0], [-0.5, 2.0, 4.0]])
    target = TriangularNormal(torch.tensor([distance, -distance, distance]).unsqueeze(0), tril.unsqueeze(0))
    found = nearest_normal(lambda z: target.log_prob(z.unsqueeze(1)).squeeze(1), 3, torch.zeros(()))
    relative = torch.linalg.solve_triangular(tril, found.scale_tril, upper=False)
    assert (relative @ relative.T - torch.eye(3)).abs().max() < 0.05
    shift = torch.linalg.solve_triangular(tril, (found.loc - target.loc[0]).unsqueeze(1), upper=False)
    assert shift.abs().max() < 0.05
    assert (found.scale_tril.diagonal() > 0).all() and found.scale_tril.triu(1).abs().max() == 0


@pytest.mark.parametrize("target", [targets.Funnel, targets.Ring, targets.Torus, targets.EightSchools, Mixture])
def test_the_nearest_normal_of_other_targets_is_finite(target):
    target = target()
    for seed in range(2):
        torch.manual_seed(seed)
        found = nearest_normal(target.at, target.support.dim, torch.zeros(()))
        assert torch.isfinite(found.loc).all() and torch.isfinite(found.scale_tril).all()


@float64
def test_the_density_in_coordinates_counts_their_volume():
    model = Posterior(partial(Gaussian, covariance=[[1.0, 0.5], [0.5, 2.0]]))
    model.location.copy_(torch.tensor([1.0, -2.0]))
    model.scale_tril.copy_(torch.tensor([[2.0, 0.0], [-0.7, 0.1]]))
    u = torch.randn(4, 1, 2)
    z = model.location + (model.scale_tril @ u.unsqueeze(-1)).squeeze(-1)
    expected = model.target.at(z) + math.log(0.2)
    torch.testing.assert_close(model.log_density(u, torch.ones(1, 1)), expected)


@float64
def test_the_bridge_leads_from_the_start_to_the_target():
    """Half way of a warm-up it is the geometric mean of N(0, I) and p; afterwards, and in validation, p."""
    model = Posterior(partial(Gaussian, covariance=[[1.0, 0.5], [0.5, 2.0]]), warmup=2)
    model.location.copy_(torch.tensor([1.0, -2.0]))
    x, u = torch.ones(1, 1), torch.randn(4, 1, 2)
    start = torch.distributions.Normal(0.0, 1.0).log_prob(u).sum(-1)
    p, _ = model.sides(avb.Batch(x))
    assert model.beta == 0.5
    torch.testing.assert_close(p.log_prob(u), 0.5 * start + 0.5 * model.log_density(u, x))
    p, _ = model.eval().sides(avb.Batch(x))
    torch.testing.assert_close(p.log_prob(u), model.log_density(u, x))


@float64
@pytest.mark.parametrize(("steps", "bridged"), [(4, 2), (100, 3)])
def test_a_warm_up_is_at_most_half_of_the_run(tmp_path, steps, bridged):
    """Otherwise the sampler of a short run would follow the bridge."""
    model, seen = Posterior(Gaussian, SMALL, samples=8, warmup=3), []
    learn = model.learn
    model.learn = lambda batch: [seen.append(model.beta), learn(batch)][1]
    trainer(tmp_path, max_steps=steps, limit_val_batches=0, enable_checkpointing=False).fit(model, NoData())
    assert seen == [min(1.0, (step + 1) / bridged) for step in range(steps)]


@float64
def test_the_bound_is_that_of_the_target_during_the_warm_up_too():
    model = Posterior(partial(Gaussian, mean=[50.0, 50.0]), SMALL, samples=8, warmup=1000)
    torch.manual_seed(0)
    play = model.learn(avb.Batch(torch.ones(1, 1)))
    torch.manual_seed(0)
    u, log_q = model.encoder(torch.ones(1, 1)).rsample_and_log_prob((8,))
    torch.testing.assert_close(play.scores["elbo"], model.target.at(u) - log_q)
    assert (play.losses["sampler"] < 100).all() and (play.scores["elbo"] < -1000).all()


def test_autocast_leaves_the_target_alone():
    model = Posterior(partial(Gaussian, covariance=[[1.0, 0.99], [0.99, 1.0]]))
    u, x = 10 * torch.randn(30, 1, 2), torch.ones(1, 1)
    with torch.autocast("cpu", torch.bfloat16):
        found = model.log_density(u, x)
    assert torch.equal(found, model.log_density(u, x))


# Training.


def test_the_bound_reaches_the_evidence_of_a_normal_target(tmp_path):
    """Its constant is 1, so that the evidence is 0."""
    tril = torch.tensor([[3.0, 0.0], [2.7, 0.4]])
    model = fitted(
        Posterior(partial(Gaussian, covariance=(tril @ tril.T).tolist(), mean=[20.0, -5.0]), SMALL, samples=128),
        300,
        tmp_path,
    )
    with torch.no_grad():
        bound = torch.cat([model.learn(avb.Batch(torch.ones(1, 1))).scores["elbo"] for _ in range(40)])
    mean, error = bound.mean().item(), bound.std().item() / math.sqrt(bound.numel())
    assert -0.15 < mean < 5 * error
    z = model.draw(20000)["z"]
    white = torch.linalg.solve_triangular(tril, (z - torch.tensor([20.0, -5.0])).T, upper=False)
    assert (torch.cov(white) - torch.eye(2)).abs().max() < 0.15
    assert white.mean(1).abs().max() < 0.1


def test_two_modes_are_found_with_their_shares(tmp_path):
    """Six standard deviations apart: without the bridge the smaller is lost."""
    target = partial(Mixture, means=[[-3.0, 0.0], [3.0, 1.0]], scale=0.7, weights=[0.3, 0.7])
    z = fitted(Posterior(target, SMALL, samples=256, warmup=600), 900, tmp_path).draw(20000)["z"]
    assert abs((z[:, 0] < 0).float().mean().item() - 0.3) < 0.1
    right = z[z[:, 0] > 0]
    assert (right.mean(0) - torch.tensor([3.0, 1.0])).abs().max() < 0.15
    assert (right.std(0) / 0.7 - 1).abs().max() < 0.2


@pytest.mark.parametrize(
    "contrast", [GaussianContrast, FullGaussianContrast, partial(FlowContrast, features=4, flow_hidden=(8,))]
)
def test_a_black_box_plays_against_a_critic(tmp_path, contrast):
    sampler = partial(avb.BoundedNoiseEncoder, noise_hidden=(16,), extra_noise=2)
    critic = partial(avb.ResidualCritic, width=32, blocks=1)
    target = partial(Gaussian, covariance=[[2.0, 1.0], [1.0, 1.0]], mean=[4.0, 0.0])
    model = fitted(Posterior(target, sampler, critic, contrast, samples=256, warmup=50), 250, tmp_path)
    assert [phase.players[0] for phase in model.phases()] == ["sampler"]
    assert "critic" in model.players
    z = model.draw(20000)["z"]
    assert (z.mean(0) - torch.tensor([4.0, 0.0])).abs().max() < 0.4
    assert (torch.cov(z.T) - torch.tensor([[2.0, 1.0], [1.0, 1.0]])).abs().max() < 0.6


def test_a_sampler_with_a_density_plays_alone():
    for sampler in (PooledMixtureEncoder, avb.FlowEncoder, avb.FullGaussianEncoder):
        model = Posterior(Gaussian, sampler)
        assert list(model.players) == ["sampler"] and not model.adversarial


def test_a_family_is_calibrated(tmp_path):
    family = partial(NormalMean, observations=3)
    model = Posterior(family, SMALL, samples=32, warmup=200)
    fitted(model, 600, tmp_path, Simulated(family, batch_size=64, rows=5000))
    theta, x = model.target.simulate(600, seed=5)
    z = model.draw_z(19, x)
    assert z.shape == (19, 600, 1)
    ranks = calibration_ranks(model.support.unconstrain(theta), z)
    assert uniformity(ranks, 19).item() > 1e-3
    # The posterior's width is known: 1 / (1 + 3) of the variance.
    deviation = model.draw(400, x)["mu"].std(0)
    assert (deviation / 0.5 - 1).mean().abs() < 0.1
    with pytest.raises(ConfigurationError, match=r"^x: this sampler was trained for many data sets"):
        model.draw(3)


# What comes back.


class Scaled(Target):
    """A positive number and shares, with a derived one."""

    kinds = {"scale": "positive", "shares": "simplex[3]"}  # noqa: RUF012

    def log_density(self, *, scale, shares):
        return -scale + 2 * shares.log().sum(-1)

    def derived(self, *, scale, shares):
        return {"first": scale * shares[..., 0]}


def test_draws_come_by_name_in_the_users_space():
    model = Posterior(Scaled)
    assert model.latent_dim == 3
    drawn = model.draw(70000)
    assert {name: tuple(value.shape) for name, value in drawn.items()} == {
        "scale": (70000,),
        "shares": (70000, 3),
        "first": (70000,),
    }
    assert (drawn["scale"] > 0).all()
    torch.testing.assert_close(drawn["shares"].sum(-1), torch.ones(70000))
    torch.testing.assert_close(drawn["first"], drawn["scale"] * drawn["shares"][:, 0])
    with pytest.raises(ConfigurationError, match=r"^count: 0"):
        model.draw(0)


def test_a_checkpoint_brings_sampler_and_coordinates_back(tmp_path):
    options = {"samples": 16, "warmup": 2, "players": PosteriorPlayers(avb.Player(SamplerAdam))}
    pl.seed_everything(0)
    model = Posterior(Scaled, SMALL, **options)
    run = trainer(tmp_path, max_steps=5, limit_val_batches=0)
    run.fit(model, NoData())
    path = tmp_path / "some.ckpt"
    run.save_checkpoint(path)
    torch.load(path, weights_only=True)
    again = Posterior.load_from_checkpoint(path)
    assert again.placed and not torch.equal(again.scale_tril, torch.eye(3))
    pairs = []
    for one in (model, again):
        torch.manual_seed(3)
        pairs.append(one.draw(50))
    assert all(torch.equal(pairs[0][name], pairs[1][name]) for name in pairs[0])
    resumed = Posterior(Scaled, SMALL, **options)
    trainer(tmp_path, max_steps=8, limit_val_batches=0, enable_checkpointing=False).fit(
        resumed, NoData(), ckpt_path=path
    )
    pl.seed_everything(0)
    whole = Posterior(Scaled, SMALL, **options)
    trainer(tmp_path, max_steps=8, limit_val_batches=0, enable_checkpointing=False).fit(whole, NoData())
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_draws_are_written_as_arrays_tables_and_for_arviz(tmp_path):
    drawn = {"mu": torch.randn(101), "theta": torch.randn(101, 2)}
    draws.write(tmp_path / "a" / "draws.npz", drawn)
    with np.load(tmp_path / "a" / "draws.npz") as file:
        assert sorted(file.files) == ["mu", "theta"] and np.array_equal(file["theta"], drawn["theta"].numpy())
    draws.write(tmp_path / "draws.csv", drawn)
    table = np.genfromtxt(tmp_path / "draws.csv", delimiter=",", names=True, deletechars="")
    assert table.dtype.names == ("mu", "theta[0]", "theta[1]")
    np.testing.assert_allclose(table["theta[1]"], drawn["theta"][:, 1], rtol=1e-6)
    with pytest.raises(ConfigurationError, match=r"does not end in \.npz"):
        draws.write(tmp_path / "draws.txt", drawn)
    arviz = pytest.importorskip("arviz")
    draws.write(tmp_path / "draws.nc", drawn)
    posterior = arviz.from_netcdf(tmp_path / "draws.nc").posterior
    assert posterior["theta"].shape == (4, 25, 2)
    assert np.array_equal(posterior["mu"].values.ravel(), drawn["mu"][:100].numpy())
    assert "theta[1]" in arviz.summary(posterior).index


@pytest.mark.parametrize("target", [targets.Ring, targets.EightSchools, targets.NormalSample])
def test_every_posterior_has_a_picture(target):
    picture = pictures.posterior(Posterior(target), 200)
    assert picture.shape[0] == 3 and picture.std() > 0.05


def test_the_density_of_bounded_numbers_is_drawn():
    """On a grid that reaches beyond 0 the log-density of a gamma distribution is not a number there, and is nothing."""
    target = partial(Function, log_density=f"{__name__}.gamma", kinds={"a": "positive", "b": "positive"})
    value = target().density_at(torch.tensor([[1.0, 2.0], [-0.1, 2.0], [1.0, -0.1]]))
    assert value[0].item() == pytest.approx(math.log(2) - 3) and (value[1:] == -math.inf).all()
    seen = pictures.posterior(Posterior(target), 300)[..., 10:-10, 10:300]
    assert ((seen[0] < 0.5) & (seen[2] > 0.4)).float().mean() > 0.002  # some dark blue


def gamma(a, b):
    return a.log() + b.log() - a - b


def test_a_family_without_exact_posteriors_has_a_picture_without_them():
    class Blind(NormalMean):
        def posterior(self, x, count, seed=0):
            return Family.posterior(self, x, count, seed)

    model = Posterior(NormalMean)
    model.target = Blind()
    assert pictures.posterior(model, 200, torch.ones(1, 4)).std() > 0.05


def test_a_familys_picture_is_that_of_one_data_set():
    assert pictures.posterior(Posterior(Parabola), 200, torch.ones(1, 1)).std() > 0.05


# What a user can do wrong.


class Wrong(Target):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.kinds, self.how = {"z": "real[2]"}, how
        self.plane = ("z[0]", "tau") if how == "plane" else None

    def log_density(self, *, z):
        value = -z.square().sum(-1)
        return {
            "shape": lambda: value.sum(),
            "number": lambda: 1.0,
            "constant": value.detach,
            "minus infinity": lambda: value - math.inf,
            "nan": lambda: value * math.nan,
            "index": lambda: z[..., 5],
            "outside": lambda: value.where(z[..., 0] < 2, -math.inf),
            "slope": lambda: value + 0 * (z[..., 0] - z[..., 0].detach()).abs().sqrt(),
            "flat": lambda: 0 * value,
            "periodic": lambda: -z[..., 0].square() + 3 * z[..., 1].cos(),
            "heavy": lambda: -z[..., 0].square() - 0.5 * torch.log1p(z[..., 1].square()),
            "rising": lambda: -z[..., 0].square() + z[..., 1],
            "accident": lambda: -(z[..., 0] - torch.tensor([1.0, 2.0])).square() - z[..., 1].square(),
            "half flat": lambda: -z[..., 0].square(),
        }.get(self.how, lambda: value)()

    def derived(self, *, z):
        return {
            "derived, a tensor": lambda: z,
            "derived, a number": lambda: {"r": z.sum()},
            "derived, wrong": lambda: {"r": z}["nothing"],
            "derived twice": lambda: {"z": z},
            "derived index": lambda: {"index": z},
        }.get(self.how, dict)()

    def reference(self, count, seed=0):
        return torch.zeros(count) if self.how == "reference, a tensor" else None


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("shape", r"target: .* one number a point, \(64, 2\) for z \(64, 2, 2\); for \(64, 2\) points it gave \(\)"),
        ("number", "target: .* it gave float"),
        ("constant", "target: .* not differentiable"),
        ("minus infinity", "target: .* is -inf at all of 128 points"),
        ("nan", "target: .* is not a number at z = "),
        ("index", r"target: .* fails for z \(64, 2, 2\): IndexError: index 5 is out of bounds"),
        ("outside", r"target: .* is -inf at \d+ of 4096 points where .* for example at z = .* is the support right"),
        ("slope", r"target: the slope of the log-density of Wrong is nan at \d+ of 4096 points"),
        ("flat", r"target: the density of Wrong does not fall along z\[[01]\].*proper"),
        ("half flat", r"target: the density of Wrong does not fall along z\[1\].*proper"),
        ("periodic", r"target: the density of Wrong does not fall off along z\[1\]"),
        ("heavy", r"target: the density of Wrong does not fall off along z\[1\]"),
        ("rising", r"target: the density of Wrong still rises where z\[1\] is"),
        ("accident", r"target: .* one number a point, \(64, 2\) .*; for \(7, 1\) points it gave \(7, 2\)"),
        ("plane", r"target: the plane of Wrong names 'tau', none of z\[0\], z\[1\]"),
        ("reference, a tensor", r"target: reference\(16\) of Wrong is to be a dict of tensors \(...\); it gave Tensor"),
        ("derived twice", "target: Wrong names a quantity 'z', which is the name of something else"),
        ("derived index", "target: Wrong names a quantity 'index', which is the name of something else"),
        ("derived, a tensor", r"target: what Wrong derives is to be a dict of tensors \(64, 2, ...\)"),
        ("derived, a number", r"target: what Wrong derives .* it gave {'r': \(\)}"),
        ("derived, wrong", r"target: Wrong fails for z \(64, 2, 2\): KeyError: 'nothing'"),
    ],
)
def test_a_log_density_that_is_none_is_refused_before_training(tmp_path, how, message):
    with pytest.raises(ConfigurationError, match=f"^{message}"):
        trainer(tmp_path, max_steps=1).fit(Posterior(partial(Wrong, how=how)), NoData())
    assert not list(tmp_path.rglob("*.ckpt"))


class Nameless(Target):
    def log_density(self, **theta):
        return torch.zeros(())


class NoFamily(Gaussian):
    data_shape = (3,)


class Misshapen(NormalMean):
    def simulate(self, count, seed=0):
        theta, x = super().simulate(count, seed)
        return theta, x[:, :2]


class Broken(NormalMean):
    def simulate(self, count, seed=0):
        return {}["mu"]


def test_families_that_are_none_are_refused(tmp_path):
    with pytest.raises(ConfigurationError, match=r"^target: NoFamily has a data_shape, and so is to be .*Family"):
        Posterior(NoFamily)
    with pytest.raises(ConfigurationError, match=r"^target: simulate\(66\) of Broken fails: KeyError: 'mu'"):
        trainer(tmp_path, max_steps=1).fit(Posterior(Broken), Simulated(Broken, rows=64, eval_rows=1))
    with pytest.raises(ConfigurationError, match=r"^target: simulate\(2\) of Broken fails: KeyError: 'mu'"):
        trainer(tmp_path, max_steps=1).fit(Posterior(Broken), Simulated(NormalMean, rows=64, eval_rows=1))
    message = r"^target: simulate\(2\) of Misshapen is to be .* {'x': \(2, 4\)}; it gave {'x': \(2, 2\)}"
    with pytest.raises(ConfigurationError, match=message):
        trainer(tmp_path, max_steps=1).fit(Posterior(Misshapen), Simulated(NormalMean, rows=64, eval_rows=1))


class Doubled(Gaussian):
    """Data in float64, as NumPy has them."""

    def log_density(self, *, z):
        return super().log_density(z=z - torch.zeros(2, dtype=torch.float64))


def test_data_in_float64_is_no_hindrance(tmp_path):
    model = fitted(Posterior(Doubled, SMALL, samples=8), 3, tmp_path)
    assert model.draw(5)["z"].dtype == torch.float32


@pytest.mark.parametrize("how", ["flat", "half flat", "periodic"])
def test_improper_densities_are_refused_in_the_supports_coordinates_too(tmp_path, how):
    with pytest.raises(ConfigurationError, match=r"^target: the density of Wrong does not fall off along z"):
        trainer(tmp_path, max_steps=1).fit(Posterior(partial(Wrong, how=how), standardise=False), NoData())


class Late(Gaussian):
    """Its log-density is a number at the points that are looked at, and not in training."""

    def log_density(self, *, z):
        value = super().log_density(z=z)
        return value * math.nan if z.shape[:2] == (33, 1) else value


def test_a_loss_that_is_not_finite_speaks_of_the_support(tmp_path):
    with pytest.raises(
        NonFiniteLossError, match=r"the log-density of Late finite in all of the support, z real\[2\], and"
    ):
        trainer(tmp_path, max_steps=1).fit(Posterior(Late, SMALL, samples=33), NoData())


class Even(Target):
    """Constant, and proper, since its support has an end."""

    kinds = {"share": "unit_interval"}  # noqa: RUF012

    def log_density(self, *, share):
        return torch.zeros_like(share).detach()

    def derived(self, *, share):
        return {"odds": torch.from_numpy(share.numpy() / (1 - share.numpy()))}


def test_a_constant_density_and_a_derived_quantity_from_elsewhere_are_sound(tmp_path):
    share = fitted(Posterior(Even, SMALL, samples=64), 150, tmp_path).draw(4000)["share"]
    assert abs(share.mean().item() - 0.5) < 0.05 and abs(share.std().item() - 12**-0.5) < 0.05


class Far(Target):
    kinds = {"year": "real", "depth": "real"}  # noqa: RUF012

    def log_density(self, *, year, depth):
        return -0.5 * (year - 20000.0).square() - 0.5 * ((depth + 3e4) / 100).square()


def test_a_mode_far_away_is_reached(tmp_path):
    model = fitted(Posterior(Far, SMALL, samples=8), 1, tmp_path)
    torch.testing.assert_close(model.location, torch.tensor([20000.0, -30000.0]), rtol=0, atol=30)
    torch.testing.assert_close(model.scale_tril.diagonal(), torch.tensor([1.0, 100.0]), rtol=0.1, atol=0)


def test_double_precision_is_kept_and_half_refused(tmp_path):
    run = trainer(tmp_path, max_steps=2, precision="64-true", callbacks=[Pictures(0)], limit_val_batches=0)
    model = Posterior(partial(NormalMean, observations=3), SMALL, samples=8)
    run.fit(model, Simulated(partial(NormalMean, observations=3), rows=64, eval_rows=1))
    assert model.draw(5, np.ones((1, 3)))["mu"].dtype == torch.float64
    run = trainer(tmp_path, max_steps=2, precision="64-true", callbacks=[Pictures(0)], limit_val_batches=0)
    run.fit(Posterior(Gaussian, SMALL, samples=8), NoData())
    with pytest.raises(ConfigurationError, match=r"^trainer\.precision: a log-density needs single precision"):
        trainer(tmp_path, max_steps=2, precision="bf16-true").fit(Posterior(Gaussian, SMALL, samples=8), NoData())


def test_data_sets_may_be_arrays_and_lists():
    model = Posterior(partial(NormalMean, observations=3))
    for x in (np.ones((2, 3)), torch.ones(2, 3, dtype=int), [[1, 1, 1], [1, 1, 1]]):
        assert model.draw(4, x)["mu"].shape == (4, 2)


@pytest.mark.parametrize(
    ("target", "x", "message"),
    [
        (Gaussian, torch.ones(1, 2), "x: Gaussian is one posterior"),
        (NormalMean, torch.ones(1, 3), r"x: data sets are \(4,\), and this has the shape \(1, 3\)"),
        (NormalMean, torch.ones(4), r"x: data sets are \(4,\)"),
        (NormalMean, torch.full((1, 4), math.nan), "x: a data set is not finite"),
    ],
)
def test_data_sets_that_are_none_are_refused(target, x, message):
    with pytest.raises(ConfigurationError, match=f"^{message}"):
        Posterior(target).draw(3, x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": ConvNet}, "target: "),
        ({"target": Nameless}, "target: Nameless sets no `kinds`"),
        ({"samples": 1}, "samples: 1 is below 2"),
        ({"gradient_penalty": -1.0}, "gradient_penalty: "),
        ({"warmup": -1}, "warmup: -1 is below 0"),
        ({"sampler": avb.BoundedNoiseEncoder, "contrast": PriorContrast}, "contrast: PriorContrast draws from p"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        Posterior(**{"target": Gaussian, **options})


@pytest.mark.parametrize("family", [Parabola, NormalMean])
def test_a_family_asks_for_data_sets(tmp_path, family):
    with pytest.raises(ConfigurationError, match=rf"^data: {family.__name__} is a family, whose rows are data sets"):
        trainer(tmp_path, max_steps=1).fit(Posterior(family), NoData())


def of_module(mu, tau):
    return -mu.square() - tau


def test_a_function_is_a_target():
    recipe = Function.recipe(of_module, {"mu": "real", "tau": "positive"})
    model = Posterior(recipe)
    z = torch.randn(7, 1, 2)
    torch.testing.assert_close(model.target.at(z), -z[..., 0].square() - z[..., 1].exp() + z[..., 1])
    assert Posterior(**{k: v for k, v in model.hparams.items() if k != "_class_path"}).latent_dim == 2
    with pytest.raises(ConfigurationError, match=r"^log_density: .* is no function of a module"):
        Function.recipe(lambda mu: -mu, {"mu": "real"})
    with pytest.raises(ConfigurationError, match=r"'os\.system' is no Python function"):
        Function("os.system", {"command": "real"})
    with pytest.raises(ConfigurationError, match=r"^log_density: there is no 'os\.nothing'"):
        Function("os.nothing", {"mu": "real"})


def exact(count, seed):
    random = torch.Generator().manual_seed(seed)
    return {"mu": torch.randn(count, generator=random) / math.sqrt(2), "tau": torch.rand(count, generator=random)}


def test_reference_draws_of_ones_own_are_of_a_function_or_a_file(tmp_path):
    """The draws of the comparison in `test`; a checkpoint names where they come from."""
    kinds = {"mu": "real", "tau": "positive"}
    model = Posterior(Function.recipe(of_module, kinds, reference=exact))
    assert model.hparams["target"]["init_args"]["reference"] == f"{__name__}.exact"
    assert torch.equal(model.target.reference(50, 3)["mu"], exact(50, 3)["mu"])
    assert Function.recipe(of_module, kinds)().reference(5) is None
    path, drawn = tmp_path / "long.npz", exact(300, 1)
    draws.write(path, drawn)
    model = Posterior(Function.recipe(of_module, kinds, reference=path))
    found, again, other = (model.target.reference(100, seed) for seed in (0, 0, 1))
    assert all(torch.equal(found[name], again[name]) and not torch.equal(found[name], other[name]) for name in kinds)
    row = (drawn["mu"] == found["mu"][7]).nonzero().item()  # of one draw, and not of two
    assert found["tau"][7] == drawn["tau"][row] and found["mu"].shape == (100,)
    assert torch.equal(model.target.reference(1000)["mu"].sort().values, drawn["mu"].sort().values)
    with torch.inference_mode(False):
        assert {"C2ST", "worst mean"} <= {f.quantity for f in trust(model, Diagnosis(draws=300, folds=2))}


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (None, r"reference: .*long\.npz cannot be read as an \.npz file of numbers"),
        ({"mu": np.ones(20), "tau": np.ones(19)}, r"reference: .* in every row of every array; .*'tau': \(19,\)"),
        ({"mu": np.array([1.0, np.nan])}, r"reference: .* is to have a finite draw in every row"),
        ({"mu": np.array(["a"])}, r"reference: .* cannot be read as an \.npz file of numbers"),
        ({"mean": np.ones(20)}, r"target: the reference draws of Function are of mean, and it has mu, tau"),
        ({"mu": np.ones((20, 2))}, r"target: reference\(16\) of Function is to be .* {'mu': \(16,\)}; it gave"),
    ],
)
def test_reference_draws_that_are_none_are_refused_before_training(tmp_path, write, message):
    path = tmp_path / "long.npz"
    if write is not None:
        np.savez(path, **write)
    recipe = Function.recipe(of_module, {"mu": "real", "tau": "positive"}, reference=path)
    with pytest.raises(ConfigurationError, match=f"^{message}"):
        trainer(tmp_path, max_steps=1).fit(Posterior(recipe), NoData())


def test_a_function_for_reference_draws_must_be_one():
    with pytest.raises(ConfigurationError, match=r"^reference: there is no 'os\.nothing'"):
        Function(f"{__name__}.of_module", {"mu": "real", "tau": "positive"}, reference="os.nothing")
    with pytest.raises(ConfigurationError, match=r"^reference: .* is no function of a module"):
        Function.recipe(of_module, {"mu": "real"}, reference=lambda count, seed: {})


class Matrices(Target):
    """A correlation after LKJ, a covariance, and numbers with bounds; all independent."""

    kinds = {  # noqa: RUF012
        "tril": "correlation_cholesky[3]",
        "root": "covariance_cholesky[2]",
        "slope": "interval(-1, 3)",
        "ends": "positive_ordered[2]",
    }

    def log_density(self, *, tril, root, slope, ends):
        lkj = torch.distributions.LKJCholesky(3, 2.0, validate_args=False).log_prob(tril)
        diagonal = root.diagonal(dim1=-2, dim2=-1)
        return lkj + (4 * diagonal.log() - 2 * diagonal).sum(-1) - root[..., 1, 0].square() - ends.sum(-1)

    def derived(self, *, tril, root, slope, ends):
        return {"correlation": tril @ tril.mT}

    def reference(self, count, seed=0):
        torch.manual_seed(seed)
        tril = torch.distributions.LKJCholesky(3, 2.0).sample((count,))
        root = torch.distributions.Gamma(5.0, 2.0).sample((count, 2)).diag_embed()
        root[:, 1, 0] = torch.randn(count) / math.sqrt(2)
        ends = -torch.rand(count, 2).log()
        theta = {"tril": tril, "root": root, "slope": -1 + 4 * torch.rand(count), "ends": ends.sort(-1).values}
        return {**theta, **self.derived(**theta)}


def test_matrices_are_learned_compared_drawn_and_written(tmp_path):
    """From the bridge to every file; a short training, whose means are near those of exact draws."""
    model = fitted(Posterior(Matrices, SMALL, samples=96, warmup=100), 250, tmp_path)
    drawn, known = model.draw(20000), model.target.reference(20000)
    assert drawn["tril"].shape == (20000, 3, 3) and drawn["correlation"].shape == (20000, 3, 3)
    for name in drawn:
        off = (drawn[name].mean(0) - known[name].mean(0)).abs()
        assert (off <= 0.5 * known[name].std(0) + 1e-6).all(), name
    few = {name: value[:600] for name, value in drawn.items()}
    found = {f.quantity: f.value for f in compare(model.target, few, model.target.reference(600), folds=2)}
    assert all(math.isfinite(value) for value in found.values()) and found["C2ST"] < 0.65
    assert "KL(draws, reference)" in found
    assert pictures.posterior(model, 300).std() > 0.05
    table, names = draws.flat(few)
    assert table.shape == (600, len(names)) and "tril[2,1]" in names
    draws.write(tmp_path / "draws.npz", few)
    draws.write(tmp_path / "draws.csv", few)
    with np.load(tmp_path / "draws.npz") as file:
        assert np.array_equal(file["tril"], few["tril"].numpy())
    assert '"tril[2,1]"' in (tmp_path / "draws.csv").read_text().splitlines()[0]
    arviz = pytest.importorskip("arviz")
    draws.write(tmp_path / "draws.nc", few)
    assert "tril[2, 1]" in arviz.summary(arviz.from_netcdf(tmp_path / "draws.nc")).index


# The command line.


def test_from_a_users_module_to_named_draws(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("mine_of_the_test.py").write_text(
        "def log_density(mu, sigma):\n    return -(mu - 3) ** 2 / 2 - sigma\n\n\n"
        "def derived(mu, sigma):\n    return {'ratio': mu / sigma}\n"
    )
    Path("mine.yaml").write_text(
        "seed_everything: 0\ntrainer: {max_steps: 40, enable_progress_bar: false, enable_model_summary: false}\n"
        "model:\n  class_path: lightning_avb.Posterior\n  init_args:\n    samples: 32\n    warmup: 10\n    target:\n"
        "      class_path: lightning_avb.targets.Function\n      init_args:\n"
        "        log_density: mine_of_the_test.log_density\n        derived: mine_of_the_test.derived\n"
        "        kinds: {mu: real, sigma: positive}\ndata: datamodules.NoData\n"
    )

    def command(*args):
        monkeypatch.setattr(sys, "argv", ["lightning-avb", *map(str, args)])
        cli.main()

    command("fit", "--config", "mine.yaml")
    (last,) = tmp_path.rglob("last.ckpt")
    assert list(tmp_path.rglob("posterior_*.png"))
    command("sample", "--ckpt_path", last, "--n", 1000, "--output", "out/draws.npz")
    with np.load("out/draws.npz") as file:
        assert {name: file[name].shape for name in file.files} == dict.fromkeys(("mu", "sigma", "ratio"), (1000,))
        assert (file["sigma"] > 0).all() and abs(file["mu"].mean() - 3) < 0.3
    command("sample", "--ckpt_path", last, "--n", 500, "--output", "draws.png")
    command("predict", "--config", "mine.yaml", "--ckpt_path", last)
    capsys.readouterr()
    command("test", "--config", "mine.yaml", "--ckpt_path", last, "--diagnosis.draws", 400)
    assert "Pareto k" in capsys.readouterr().out
    assert list(last.parent.glob("*.diagnosis.json"))
    with pytest.raises(SystemExit) as stop:
        command("sample", "--ckpt_path", last, "--output", "draws.jpg")
    assert stop.value.code == 2
    assert "does not end in .png, .npz, .csv, .nc" in capsys.readouterr().err
    Path("typo.yaml").write_text(Path("mine.yaml").read_text().replace("sigma: positive", "sigma: positiv"))
    with pytest.raises(SystemExit):
        command("fit", "--config", "typo.yaml")
    assert "support.sigma: 'positiv' is none of real, positive" in capsys.readouterr().err


def test_a_script_that_is_run_names_itself_in_its_checkpoints(tmp_path, monkeypatch, capsys):
    """As in the recipe of the docs: `python mine.py`, and then `lightning-avb sample` beside it."""
    (tmp_path / "script_of_the_test.py").write_text(
        "import pytorch_lightning as pl\nfrom datamodules import NoData\nfrom lightning_avb import Posterior\n"
        "from lightning_avb.targets import Function\n\n\ndef log_density(mu):\n    return -(mu - 3) ** 2 / 2\n\n\n"
        "print('begin')\nmodel = Posterior(Function.recipe(log_density, {'mu': 'real'}), samples=16)\n"
        "run = pl.Trainer(accelerator='cpu', max_steps=3, enable_progress_bar=False, logger=False)\n"
        "run.fit(model, NoData())\nrun.save_checkpoint('some.ckpt')\n"
    )
    found = subprocess.run([sys.executable, "script_of_the_test.py"], cwd=tmp_path, capture_output=True, text=True)
    assert found.returncode == 0 and found.stdout.count("begin") == 1, found.stderr
    known = checkpoints.read_checkpoint(tmp_path / "some.ckpt")["hyper_parameters"]["target"]
    assert known["init_args"]["log_density"] == "script_of_the_test.log_density"
    Path(tmp_path, "script_of_the_test.py").write_text("def log_density(mu):\n    return -(mu**2)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    cli.main(["sample", "--ckpt_path", "some.ckpt", "--n", "5", "--output", "draws.npz"])
    assert np.load("draws.npz")["mu"].shape == (5,)
    with pytest.raises(SystemExit):
        cli.main(["sample", "--ckpt_path", "some.ckpt", "--output", "draws.npz", "--labels", "[1]"])
    with pytest.raises(SystemExit):
        cli.main(["sample", "--ckpt_path", "some.ckpt", "--output", "draws.npz", "--root", "."])
    errors = capsys.readouterr().err
    assert "labels: a posterior has none" in errors and "Function has no argument `path`" in errors


def test_draws_for_a_data_set_from_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = trainer(tmp_path, max_steps=2, limit_val_batches=0)
    family = partial(NormalMean, observations=3)
    run.fit(Posterior(family, SMALL, samples=8), Simulated(family, rows=64, eval_rows=1))
    run.save_checkpoint("some.ckpt")

    def sample(output, x=None, code=0, *options):
        arguments = ["sample", "--ckpt_path", "some.ckpt", "--n", "7", "--output", output]
        with nullcontext() if code == 0 else pytest.raises(SystemExit) as stop:
            cli.main([*arguments, *(["--x", x] if x else []), *options])
        assert code == 0 or stop.value.code == code
        return "".join(capsys.readouterr())

    np.save("one.npy", np.ones(3))
    np.save("two.npy", np.ones((2, 3)))
    np.save("narrow.npy", np.ones(2))
    Path("text.npy").write_text("no numbers")
    for suffix in ("npz", "csv", "png"):
        sample(f"a.{suffix}", "one.npy")
    assert np.load("a.npz")["mu"].shape == np.genfromtxt("a.csv", skip_header=1).shape == (7,)
    sample("b.npz", "two.npy")
    assert np.load("b.npz")["mu"].shape == (7, 2)
    for file, shape in (("one.npy", (7,)), ("two.npy", (7, 2))):
        assert re.search(
            r"resample: \d+% of the weighted proposals are effective", sample("r.npz", file, 0, "--resample")
        )
        assert np.load("r.npz")["mu"].shape == shape
    assert "output: a picture is of the sampler's own draws" in sample("r.png", "one.npy", 2, "--resample")
    assert "x: holds 2 data sets, and a .csv file is of one" in sample("b.csv", "two.npy", 2)
    assert "x: data sets are (3,), and this has the shape (2,)" in sample("c.npz", "narrow.npy", 2)
    assert "x: 'text.npy' is no .npy file of numbers" in sample("c.npz", "text.npy", 2)
    assert "x: 'none.npy' is no .npy file" in sample("c.npz", "none.npy", 2)
    for output in ("c.npz", "c.png"):
        assert "x: this sampler was trained for many data sets" in sample(output, code=2)


def test_a_target_whose_file_has_moved_is_sampled(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = np.random.default_rng(0)
    np.savez("old.npz", x_train=rows.normal(size=(20, 2)), y_train=np.arange(20) % 2)
    run = trainer(tmp_path, max_steps=2, limit_val_batches=0)
    run.fit(Posterior(partial(targets.LogisticRegression, path="old.npz"), SMALL, samples=8), NoData())
    run.save_checkpoint("some.ckpt")
    Path("old.npz").rename("new.npz")
    with pytest.raises(SystemExit):
        cli.main(["sample", "--ckpt_path", "some.ckpt", "--output", "a.npz"])
    assert "path: old.npz cannot be read" in capsys.readouterr().err
    cli.main(["sample", "--ckpt_path", "some.ckpt", "--output", "a.npz", "--root", "new.npz"])
    assert np.load("a.npz")["beta"].shape == (64, 2)


def test_the_divergence_from_reference_draws_is_of_the_parameters_alone():
    """A derived quantity is a function of them: counted as a dimension, it would give another number."""
    target, shift = targets.NormalSample(), 0.3
    known, other = target.reference(4000), target.reference(4000, seed=1)
    spread = other["mu"].std()
    moved = {**other, "mu": other["mu"] + shift * spread}
    found = {finding.quantity: finding.value for finding in compare(target, moved, known, folds=2)}
    plain = {name: value for name, value in moved.items() if name != "sigma"}
    alone = {finding.quantity: finding.value for finding in compare(target, plain, known, folds=2)}
    name = "KL(draws, reference)"
    assert found[name] == alone[name] and 0.02 < found[name] < 0.3
    assert name not in {f.quantity for f in compare(target, {"mu": moved["mu"]}, known, folds=2)}
    with pytest.raises(ConfigurationError, match=r"^target: NormalSample draws a, and its reference has mu, log_sigma"):
        compare(target, {"a": moved["mu"]}, known)


@pytest.mark.parametrize("target", [partial(Gaussian, [[1.0]]), partial(Gaussian, mean=[1e4, 1e4])])
def test_draws_of_single_precision_may_coincide(target):
    """Among twice 10,000 of them on a line some do."""
    target = target()
    found = {f.quantity: f.value for f in compare(target, target.reference(10000, seed=1), target.reference(10000), 2)}
    assert abs(found["KL(draws, reference)"]) < 0.1
    same = {name: value[:100].repeat_interleave(100, 0) for name, value in target.reference(10000).items()}
    assert "KL(draws, reference)" not in {f.quantity for f in compare(target, target.reference(10000, 1), same, 2)}


class FewReferences(Gaussian):
    def reference(self, count, seed=0):
        return super().reference(min(count, 30), seed)


def test_too_few_reference_draws_leave_the_rest_of_the_diagnosis():
    with torch.inference_mode(False):
        findings = trust(Posterior(FewReferences), Diagnosis(draws=400))
    assert findings[0].quantity == "objections" and "Pareto k" in {finding.quantity for finding in findings}
    assert findings[-1].quantity == "reference" and "30 rows are too few" in findings[-1].verdict


def test_draws_that_are_too_wide_are_not_called_good():
    """The weights of a flow that is far too wide are bounded: Pareto k has nothing to say against it."""
    model = Posterior(partial(Gaussian, covariance=[[1.0, 0.0], [0.0, 1.0]]))
    first, *_ = trust(model, Diagnosis(draws=2000))
    assert first.value == 0 and "agree" in first.verdict
    model.scale_tril.mul_(3)
    first, *rest = trust(model, Diagnosis(draws=2000))
    value = {finding.quantity: finding.value for finding in rest}
    assert value["Pareto k"] < 0.7 and "too wide in z[" in first.verdict and "above the draws' own" in first.verdict
    assert value["deviation of z[0]"] == pytest.approx(3, rel=0.1) and value["shortfall of the draws"] > 1


# Resampling.


def test_resampled_draws_are_those_of_the_target():
    """An untrained sampler, N(0, I) a fifth too narrow and shifted, for a Student's t with wider tails than its own."""
    model = Posterior(partial(targets.StudentT, dim=2, df=5))
    model.scale_tril.mul_(0.8)
    model.location.add_(0.4)
    found = resample_posterior(model, 4000)
    assert found.z.shape == (4000, 1, 2) and len(found.z.unique(dim=0)) > 3900
    # Without wider components 0.15 of the proposals would count, and k would be above 0.7.
    assert 0.5 < found.effective.item() < 1 and found.k.item() < 0.7
    z, exact = found.z.squeeze(1), model.target.reference(200_000)["z"]
    for p in (0.05, 0.5, 0.95, 0.995):
        limit = exact.norm(dim=1).quantile(p)
        # Weighted draws: their number as the effective share has it.
        error = math.sqrt(p * (1 - p) / (4000 * min(1.0, 10 * found.effective.item())))
        assert abs((z.norm(dim=1) < limit).double().mean().item() - p) < 5 * error
    assert_mean(z, 0.0, resolution=0.2)
    assert (model.draw_z(4000).squeeze(1).mean(0) > 0.3).all()
    again = resample_posterior(model, 4000)
    assert torch.equal(found.z, again.z) and not torch.equal(found.z, resample_posterior(model, 4000, seed=1).z)


def test_shares_of_modes_are_resampled():
    """A sampler with halves for shares of 0.3 and 0.7."""
    means = [[-3.0, -3.0], [3.0, 3.0]]
    model = Posterior(partial(Mixture, means=means, scale=1.0, weights=[0.3, 0.7]), HalfAndHalf)
    z = resample_posterior(model, 4000).z.squeeze(1)
    assert (z.sum(1) < 0).double().mean().item() == pytest.approx(0.3, abs=5 * math.sqrt(0.21 / 4000))


def test_resampling_refuses_what_it_cannot_mend():
    model = Posterior(partial(Gaussian, mean=[8.0, -8.0]))
    with pytest.raises(ConfigurationError, match=r"^resample: .*% of the proposals are effective, and 1% is the least"):
        resample_posterior(model, 100)
    with pytest.raises(
        ConfigurationError, match=r"^resample: needs the density of a PooledMixtureEncoder, and .* FlowE"
    ):
        resample_posterior(Posterior(Gaussian, avb.FlowEncoder), 100)


class HalfAndHalf(PooledMixtureEncoder):
    def forward(self, x, y=None):
        def components(samples):
            side = noise.normal((samples, len(x), 1), x).sign()
            loc = 3 * side.expand(-1, -1, 2)
            return DiagonalNormal(loc, torch.ones_like(loc))

        return PooledMixture(components, x.shape[:1], torch.Size([2]))


def test_names_of_kinds_are_a_mapping():
    for kinds in ("mu", ["mu"]):
        with pytest.raises(ConfigurationError, match=r"^support: .* does not map names to kinds"):
            assert Function(f"{__name__}.of_module", kinds).support


def test_the_samplers_optimizer_has_its_own_defaults():
    options = SamplerAdam([torch.nn.Parameter(torch.zeros(1))]).defaults
    assert (options["lr"], options["betas"]) == (5e-3, (0.9, 0.99))


def test_noise_of_the_sampler_comes_from_the_librarys_source():
    model, drawn = Posterior(Gaussian), []
    for seed in (1, 1, 2):
        with noise.use(noise.seeded(seed)):
            drawn.append(model.draw_z(4))
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert drawn[0].shape == (4, 1, 2)
