"""The library of targets: log-densities against torch.distributions, and exact draws against log-densities."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from closed_forms import bounded_moments
from monte_carlo import assert_mean
from torch.distributions import (
    Bernoulli,
    Beta,
    Categorical,
    HalfCauchy,
    HalfNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)

from lightning_avb import targets
from lightning_avb.errors import ConfigurationError
from lightning_avb.evaluation import Quadrature
from lightning_avb.targets.exact import inverse_cdf_draws

pytestmark = pytest.mark.usefixtures("float64")

SHARED = Path(__file__).parents[2] / "shared" / "data"

COVARIANCE = [[2.0, -0.6, 0.3], [-0.6, 0.5, 0.1], [0.3, 0.1, 1.2]]
MEANS = [[-1.0, 0.0], [1.0, 0.5], [0.0, 2.0]]

DENSITIES = {
    "gaussian": targets.Gaussian,
    "gaussian in three": partial(targets.Gaussian, COVARIANCE, [1.0, 0.0, -2.0]),
    "rosenbrock": targets.Rosenbrock,
    "rosenbrock in three": partial(targets.Rosenbrock, 3, 0.3, 0.8, 0.7, 0.4),
    "ring": targets.Ring,
    "wide ring": partial(targets.Ring, 0.5, 0.6),
    "torus": targets.Torus,
    "thick torus": partial(targets.Torus, 1.2, 0.9, 0.5),
    "funnel": partial(targets.Funnel, 4, 1.5),
    "student": partial(targets.StudentT, 3, 4),
    "mixture": targets.Mixture,
    "uneven mixture": partial(targets.Mixture, MEANS, 0.4, [1.0, 2.0, 3.0]),
    "normal sample": targets.NormalSample,
    "normal sample with a prior": partial(targets.NormalSample, [0.5, 2.0, 1.0], 0.7),
    "eight schools": targets.EightSchools,
}

DATA = {
    "EightSchoolsNoncentered": {"J": 3, "y": [28.0, 8.0, -3.0], "sigma": [15.0, 10.0, 16.0]},
    "KidScore": {"kid_score": [0.5, 1.0, -0.3, 2.0], "mom_hs": [1, 0, 1, 1], "mom_iq": [0.3, -1.0, 0.4, 1.0]},
    "Garch": {"T": 5, "y": [4.9, 4.7, 5.5, 6.1, 3.0], "sigma1": 0.5},
    "LowDimGaussMix": {"N": 4, "y": [-2.0, 1.0, 0.3, 2.5]},
}
POSTERIORDB = {
    "EightSchoolsNoncentered": "eight_schools_noncentered",
    "KidScore": "kidscore_momhsiq",
    "Garch": "garch11",
    "LowDimGaussMix": "low_dim_gauss_mix",
}
X, Y = [[1.0, 0.5], [1.0, -1.0], [1.0, 2.0]], [0, 1, 1]


@pytest.fixture(params=[*DENSITIES, *DATA, "LogisticRegression"])
def target(request, tmp_path):
    """Every target, on small data."""
    return made(request.param, tmp_path)


def made(name, folder):
    if name in DENSITIES:
        return DENSITIES[name]()
    if name == "LogisticRegression":
        np.savez(folder / "data.npz", x_train=X, y_train=Y)
        return targets.LogisticRegression(folder / "data.npz", prior_variance=4.0)
    (folder / "data.json").write_text(json.dumps(DATA[name]))
    return getattr(targets, name)(folder / "data.json")


def assert_stein(target, z, resolution, **data):
    """E[div f + f . grad log p] = 0 for every bounded field f where z are draws of p (Stein's identity).

    Here f is each unit vector, alone and times tanh of each coordinate, all in units of its standard deviation.
    """
    z = z.detach().requires_grad_()
    (slope,) = torch.autograd.grad(target.log_prob(z, **data).sum(), z)
    z = z.detach()
    middle, scale = z.median(0).values, z.quantile(0.84, 0) - z.median(0).values
    bounded, slope = ((z - middle) / scale).tanh(), slope * scale
    fields = bounded.unsqueeze(-2) * slope.unsqueeze(-1) + (1 - bounded.square()).diag_embed()
    assert_mean(torch.cat([slope, fields.flatten(-2)], -1), 0.0, resolution)


class TestEveryTarget:
    def test_shapes_follow_z(self, target):
        z = 0.5 * torch.randn(3, 4, target.support.dim)
        value = target.log_prob(z)
        assert value.shape == (3, 4) and value.isfinite().all()
        torch.testing.assert_close(value[1, 2], target.log_prob(z[1, 2]))
        assert all(part.shape[:2] == (3, 4) for part in target.by_name(z).values())

    def test_precision_follows_z(self, target):
        z = 0.5 * torch.randn(4, target.support.dim)
        value = target.log_prob(z.float())
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), target.log_prob(z), rtol=1e-3, atol=1e-3)

    def test_gradients_are_those_of_differences(self, target):
        z = (0.5 + 0.3 * torch.randn(3, target.support.dim)).requires_grad_()
        assert torch.autograd.gradcheck(target.log_prob, (z,))


class TestExactDraws:
    @pytest.mark.parametrize("name", DENSITIES)
    def test_draws_are_those_of_the_density(self, name):
        target = DENSITIES[name]()
        z = target.support.unconstrain(target.reference(60000))
        assert_stein(target, z, resolution=0.4)

    @torch.no_grad()
    @pytest.mark.parametrize("name", ["gaussian", "rosenbrock", "ring", "wide ring", "mixture", "uneven mixture"])
    def test_moments_are_those_of_a_grid(self, name):
        target = DENSITIES[name]()
        points, log_weight = Quadrature.grid(2, 12.0, 600)
        log_density = target.log_prob(points)
        if "ring" not in name:
            assert abs((log_density + log_weight).exp().sum() - 1) < 2e-3
        truth = log_density.softmax(0) @ bounded_moments(points)
        assert_mean(bounded_moments(target.reference(60000)["z"]), truth, resolution=0.02)

    @pytest.mark.parametrize("name", DENSITIES)
    def test_draws_are_a_function_of_the_seed(self, name):
        target, state = DENSITIES[name](), torch.get_rng_state()
        first, again, other = target.reference(50, 1), target.reference(50, 1), target.reference(50, 2)
        assert all(torch.equal(first[key], again[key]) and not torch.equal(first[key], other[key]) for key in first)
        assert torch.equal(state, torch.get_rng_state())
        assert set(first) == set(target.by_name(torch.zeros(target.support.dim)))
        assert all(len(value) == 50 for value in first.values())
        with pytest.raises(ConfigurationError, match="count: 0"):
            target.reference(0)

    def test_share_of_the_torus_further_out(self):
        # Around the tube the density is 1 + t cos(angle) / radius: E cos = E[t^2] / (2 radius E[t]), here by a grid.
        target = targets.Torus(2.0, 0.8, 0.15)
        z = target.reference(60000)["z"]
        out = z[:, :2].norm(dim=-1) - 2.0
        t = torch.linspace(0.1, 1.5, 2001)
        weight = (-0.5 * ((t - 0.8) / 0.15).square()).exp()
        truth = (weight * t.square()).sum() / (2 * 2.0 * (weight * t).sum())
        assert_mean(out / torch.hypot(out, z[:, 2]), truth, resolution=0.02)

    def test_eight_schools_have_two_modes(self):
        # p(tau) on a grid of (tau, mu), eta integrated out
        tau, mu = torch.linspace(-6, 6, 601)[:, None, None], torch.linspace(-4, 5, 451)[:, None]
        target = targets.EightSchools()
        likelihood = Normal(mu, (target.sigma.square() + tau.square()).sqrt()).log_prob(target.y).sum(-1)
        prior = Normal(0.0, 1.0).log_prob(tau).squeeze(-1) + Normal(0.0, 1.0).log_prob(mu).squeeze(-1)
        weight = (likelihood + prior).exp().sum(-1)
        weight, tau = weight / weight.sum(), tau.flatten()
        draws = target.reference(60000)
        assert_mean((draws["tau"] > 0).double(), 0.5, resolution=0.02)
        for edge in (0.29, 0.59, 0.89, 1.49):  # between points of the grid
            assert_mean((draws["tau"].abs() < edge).double(), weight[tau.abs() < edge].sum(), resolution=0.02)
        assert (draws["tau"] * draws["eta"][:, 0] > 0).double().mean() > 0.85

    def test_normal_sample_draws_are_those_of_a_grid(self):
        target = DENSITIES["normal sample with a prior"]()
        points, log_weight = Quadrature.grid(2, 5.0, 1000)
        mass = target.log_prob(points)
        truth = (mass + log_weight).softmax(0) @ bounded_moments(points)
        draws = target.reference(60000)
        z = torch.stack([draws["mu"], draws["log_sigma"]], -1)
        assert_mean(bounded_moments(z), truth, resolution=0.02)
        torch.testing.assert_close(draws["sigma"], draws["log_sigma"].exp())


def test_inverse_of_a_histogram():
    grid = torch.tensor([0.0, 1.0, 3.0])
    densities = torch.tensor([[0.5, 0.5, 0.5], [2.0, 2.0, 0.0]])  # masses 1/3 and 2/3, and 1/2 and 1/2
    uniform = torch.tensor([[1 / 6, 0.25], [0.5, 0.5], [0.75, 0.75]])
    truth = torch.tensor([[0.5, 0.5], [1.5, 1.0], [2.25, 2.0]])
    torch.testing.assert_close(inverse_cdf_draws(grid, densities.log() + 1000.0, uniform), truth)


class TestDensities:
    def test_gaussian(self):
        z = torch.randn(7, 3)
        truth = MultivariateNormal(torch.tensor([1.0, 0.0, -2.0]), torch.tensor(COVARIANCE)).log_prob(z)
        torch.testing.assert_close(DENSITIES["gaussian in three"]().log_prob(z), truth)

    def test_rosenbrock(self):
        z = torch.randn(7, 2)
        # Rosenbrock's own function with Goodman and Weare's temperature
        truth = -(100 * (z[:, 1] - z[:, 0].square()).square() + (1 - z[:, 0]).square()) / 20
        value = targets.Rosenbrock(2, 1.0, math.sqrt(10), 1.0, math.sqrt(0.1)).log_prob(z)
        torch.testing.assert_close(value - value[0], truth - truth[0])
        z = torch.randn(7, 3)
        truth = Normal(0.3, 0.8).log_prob(z[:, 0]) + sum(
            Normal(0.7 * z[:, k - 1].square(), 0.4).log_prob(z[:, k]) for k in (1, 2)
        )
        torch.testing.assert_close(DENSITIES["rosenbrock in three"]().log_prob(z), truth)

    def test_ring(self):
        ring = targets.Ring(2.0, 0.2)
        z = torch.tensor([[1.2, 1.6], [0.0, -2.2], [1.6, 0.0], [0.0, 0.0]])
        torch.testing.assert_close(ring.log_prob(z), torch.tensor([0.0, -0.5, -2.0, -50.0]))

    def test_torus(self):
        torus = targets.Torus(2.0, 0.8, 0.1)
        z = torch.tensor([[0.0, 2.8, 0.0], [1.2, 1.6, 0.8], [-1.2, 0.0, 0.0], [0.0, 2.0, 1.0], [2.0, 0.0, 0.0]])
        torch.testing.assert_close(torus.log_prob(z), torch.tensor([0.0, 0.0, 0.0, -2.0, -32.0]))

    def test_funnel(self):
        z = torch.randn(7, 4)
        truth = Normal(0.0, 1.5).log_prob(z[:, 0]) + Normal(0.0, (0.5 * z[:, :1]).exp()).log_prob(z[:, 1:]).sum(-1)
        torch.testing.assert_close(DENSITIES["funnel"]().log_prob(z), truth)

    def test_mixture(self):
        z = torch.randn(7, 2)
        parts = MultivariateNormal(torch.tensor(MEANS), 0.16 * torch.eye(2))
        truth = MixtureSameFamily(Categorical(torch.tensor([1.0, 2.0, 3.0])), parts).log_prob(z)
        torch.testing.assert_close(DENSITIES["uneven mixture"]().log_prob(z), truth)
        assert targets.Mixture().means.norm(dim=-1).allclose(torch.tensor(3.0)) and len(targets.Mixture().means) == 8

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (partial(targets.Gaussian, []), "covariance: 0 rows"),
            (partial(targets.Gaussian, [[1.0, 0.0]]), "covariance: 1 rows need 1 numbers each"),
            (partial(targets.Gaussian, [[1.0, 2.0], [2.0, 1.0]]), "covariance: is not symmetric and positive definite"),
            (partial(targets.Gaussian, [[1.0, 0.5], [0.4, 1.0]]), "covariance: is not symmetric and positive definite"),
            (partial(targets.Gaussian, [[1.0]], [0.0, 1.0]), "mean: has 2 numbers, and covariance 1 rows"),
            (partial(targets.Rosenbrock, 1), "dim: 1 is below 2"),
            (partial(targets.Rosenbrock, scale=0.0), "scale: 0.0 is not a positive number"),
            (partial(targets.Rosenbrock, width=-1.0), "width: -1.0 is not a positive number"),
            (partial(targets.Ring, radius=math.nan), "radius: nan is not a positive number"),
            (partial(targets.Ring, width=math.inf), "width: inf is not a positive number"),
            (partial(targets.Torus, 1.0, 1.5), "tube: 1.5 is not below the radius, 1.0"),
            (partial(targets.Torus, width=0.0), "width: 0.0"),
            (partial(targets.Funnel, 1), "dim: 1 is below 2"),
            (partial(targets.Funnel, scale=0.0), "scale: 0.0"),
            (partial(targets.Mixture, []), "means: a list of points"),
            (partial(targets.Mixture, [[0.0], [1.0, 2.0]]), "means: a list of points of the same length"),
            (partial(targets.Mixture, weights=[1.0]), "weights: 1 of them for 8 means"),
            (partial(targets.Mixture, [[0.0], [1.0]], weights=[1.0, 0.0]), "weights: 0.0 is not a positive number"),
            (partial(targets.Mixture, scale=0.0), "scale: 0.0"),
            (partial(targets.NormalSample, [1.0]), "y: .* no two different observations"),
            (partial(targets.NormalSample, prior_scale=0.0), "prior_scale: 0.0"),
            (partial(targets.NormalMean, 0), "observations: 0 is below 1"),
            (partial(targets.NormalMean, scale=0.0), "scale: 0.0"),
            (partial(targets.Parabola, 0.0), "scale: 0.0"),
        ],
    )
    def test_what_cannot_be_is_named(self, make, message):
        with pytest.raises(ConfigurationError, match=message):
            make()


class TestBayesianModels:
    """Each log-density is log p(data, theta), written once more by torch.distributions and plain loops."""

    def test_normal_sample(self):
        mu, log_sigma = torch.randn(5), torch.randn(5)
        prior = Normal(0.0, 0.7).log_prob(torch.stack([mu, log_sigma])).sum(0)
        y = torch.tensor([0.5, 2.0, 1.0])
        truth = prior + Normal(mu.unsqueeze(-1), log_sigma.exp().unsqueeze(-1)).log_prob(y).sum(-1)
        target = DENSITIES["normal sample with a prior"]()
        torch.testing.assert_close(target.log_density(mu=mu, log_sigma=log_sigma), truth)

    def test_eight_schools(self):
        target, z = targets.EightSchools(), torch.randn(5, 10)
        theta = z[:, :1] + z[:, 1:2] * z[:, 2:]
        y = torch.tensor([2.8, 0.8, -0.3, 0.7, -0.1, 0.1, 1.8, 1.2])
        sigma = torch.tensor([0.8, 0.5, 0.8, 0.6, 0.5, 0.6, 0.5, 0.4])
        truth = Normal(0.0, 1.0).log_prob(z).sum(-1) + Normal(theta, sigma).log_prob(y).sum(-1)
        torch.testing.assert_close(target.log_prob(z), truth)
        torch.testing.assert_close(target.by_name(z)["theta"], theta)
        turned = torch.cat([z[:, :1], -z[:, 1:]], -1)
        torch.testing.assert_close(target.log_prob(turned), truth)

    def test_eight_schools_noncentered(self, tmp_path):
        mu, tau, eta = 5 * torch.randn(5), 5 * torch.rand(5), torch.randn(5, 3)
        theta = mu.unsqueeze(-1) + tau.unsqueeze(-1) * eta
        truth = Normal(0.0, 5.0).log_prob(mu) + HalfCauchy(5.0).log_prob(tau) + Normal(0.0, 1.0).log_prob(eta).sum(-1)
        data = DATA["EightSchoolsNoncentered"]
        truth = truth + Normal(theta, torch.tensor(data["sigma"])).log_prob(torch.tensor(data["y"])).sum(-1)
        target = made("EightSchoolsNoncentered", tmp_path)
        torch.testing.assert_close(target.log_density(mu=mu, tau=tau, eta=eta), truth)
        torch.testing.assert_close(target.derived(mu=mu, tau=tau, eta=eta)["theta"], theta)

    def test_kid_score(self, tmp_path):
        beta, sigma, truth = torch.randn(5, 3), 1 + torch.rand(5), []
        for b, s in zip(beta, sigma, strict=True):
            value = HalfCauchy(2.5).log_prob(s)
            for score, hs, iq in zip(*DATA["KidScore"].values(), strict=True):
                value = value + Normal(b[0] + b[1] * hs + b[2] * iq, s).log_prob(torch.tensor(score))
            truth.append(value)
        torch.testing.assert_close(made("KidScore", tmp_path).log_density(beta=beta, sigma=sigma), torch.stack(truth))

    @pytest.mark.parametrize("length", [1, 2, 5, 8, 33])
    def test_garch(self, tmp_path, length):
        y = (5 + torch.randn(length)).tolist()
        (tmp_path / "data.json").write_text(json.dumps({"y": y, "sigma1": 0.5}))
        target = targets.Garch(tmp_path / "data.json")
        z = torch.randn(6, 4)
        for theta in ({name: value[i] for name, value in target.by_name(z).items()} for i in range(6)):
            deviation, truth = torch.tensor(0.5), torch.tensor(0.0)
            for t in range(length):
                if t:
                    past = (y[t - 1] - theta["mu"]).square()
                    deviation = (theta["alpha0"] + theta["alpha1"] * past + theta["beta1"] * deviation.square()).sqrt()
                truth = truth + Normal(theta["mu"], deviation).log_prob(torch.tensor(y[t]))
            beta1 = theta.pop("beta1")
            torch.testing.assert_close(beta1 / (1 - theta["alpha1"]), theta["share"])
            # flat in (alpha1, beta1): the density of (alpha1, share) has d beta1 / d share in it
            torch.testing.assert_close(target.log_density(**theta), truth + (1 - theta["alpha1"]).log())

    def test_low_dim_gauss_mix(self, tmp_path):
        target = made("LowDimGaussMix", tmp_path)
        theta = target.by_name(torch.randn(5, 5))
        mu, sigma, share = theta["mu"], theta["sigma"], theta["theta"]
        prior = Normal(0.0, 2.0).log_prob(mu).sum(-1) + math.log(2)
        prior = prior + HalfNormal(2.0).log_prob(sigma).sum(-1) + Beta(5.0, 5.0).log_prob(share)
        weights = Categorical(torch.stack([share, 1 - share], -1))
        y = torch.tensor(DATA["LowDimGaussMix"]["y"]).unsqueeze(-1)
        truth = prior + MixtureSameFamily(weights, Normal(mu, sigma)).log_prob(y).sum(0)
        torch.testing.assert_close(target.log_density(**theta), truth)

    def test_logistic_regression(self, tmp_path):
        beta = torch.randn(5, 2)
        likelihood = Bernoulli(logits=beta @ torch.tensor(X).T).log_prob(torch.tensor(Y).double())
        truth = Normal(0.0, 2.0).log_prob(beta).sum(-1) + likelihood.sum(-1)
        torch.testing.assert_close(made("LogisticRegression", tmp_path).log_density(beta=beta), truth)

    @pytest.mark.parametrize("name", POSTERIORDB)
    def test_published_draws_are_those_of_the_density(self, name):
        path = SHARED / "posteriordb" / POSTERIORDB[name] / "data.json"
        if not path.exists():
            pytest.skip(f"{path} is absent")
        target = getattr(targets, name)(path)
        draws = target.reference(2000 if name == "LowDimGaussMix" else 10000)
        z = target.support.unconstrain(draws)
        assert target.log_prob(z).isfinite().all()
        assert_stein(target, z, resolution=0.4)
        assert set(draws) == set(target.by_name(z))
        for key, value in target.by_name(z).items():
            torch.testing.assert_close(value, draws[key], rtol=1e-6, atol=1e-6)

    def test_waveform(self):
        path = SHARED / "waveform" / "waveform.npz"
        if not path.exists():
            pytest.skip(f"{path} is absent")
        target = targets.LogisticRegression(path)
        assert target.support.dim == 22 and target.reference(10) is None
        # The published draws are approximate: their scores are within a tenth of a standard error of the truth.
        with np.load(path) as content:
            z = torch.from_numpy(content["reference_draws_mala"]).double().requires_grad_()
        (slope,) = torch.autograd.grad(target.log_prob(z).sum(), z)
        assert ((slope.detach().mean(0) * z.detach().std(0)).abs() < 0.3).all()


class TestFiles:
    def test_reference_draws_are_read_by_base_name(self, tmp_path):
        target = made("KidScore", tmp_path)
        assert target.reference(3) is None
        draws = torch.arange(40.0).view(10, 4).numpy()
        names = np.array(["beta[1]", "beta[2]", "beta[3]", "sigma"])
        np.savez(tmp_path / "reference_draws.npz", draws=draws, names=names)
        few = target.reference(6, seed=1)
        assert few["beta"].shape == (6, 3) and few["sigma"].shape == (6,)
        # rows stay together, and none comes twice
        rows = torch.cat([few["beta"], few["sigma"].unsqueeze(-1)], -1)
        torch.testing.assert_close(rows - rows[:, :1], torch.arange(4.0).expand(6, 4))
        assert len(rows[:, 0].unique()) == 6
        assert torch.equal(few["beta"], target.reference(6, seed=1)["beta"])
        assert not torch.equal(few["beta"], target.reference(6, seed=2)["beta"])
        assert len(target.reference(11)["sigma"]) == 10
        with pytest.raises(ConfigurationError, match=r"^count: 0"):
            target.reference(0)

    @pytest.mark.parametrize("name", DATA)
    def test_files_that_will_not_do_are_named(self, tmp_path, name):
        make, path = getattr(targets, name), tmp_path / "data.json"
        expected = f"data.json of a posterior in posteriordb with {' and '.join(make.required_data)} was expected"
        with pytest.raises(ConfigurationError, match=f"path: .*data.json cannot be read .No such file.*{expected}"):
            make(path)
        with pytest.raises(ConfigurationError, match=f"path: .* cannot be read .*{expected}"):
            make(tmp_path)
        for text, message in (("{", "cannot be read"), ("[1]", "has no"), (json.dumps({"T": 3}), "has no")):
            path.write_text(text)
            with pytest.raises(ConfigurationError, match=f"path: .*{message}.*{expected}"):
                make(path)
        for key in make.required_data:
            for wrong in ("many", [[1.0]], [], [1.0, math.nan]):
                path.write_text(json.dumps({**DATA[name], key: wrong}))
                with pytest.raises(ConfigurationError, match=f"path: .*: {key} "):
                    make(path)
        if sum(make.required_data.values()) > 1:
            key = next(iter(make.required_data))
            path.write_text(json.dumps({**DATA[name], key: DATA[name][key][:-1]}))
            with pytest.raises(ConfigurationError, match=f"different lengths; .*{expected}"):
                make(path)

    def test_arrays_that_will_not_do_are_named(self, tmp_path):
        path = tmp_path / "data.npz"
        make = partial(targets.LogisticRegression, path, inputs="x", labels="y")
        expected = "an .npz file with x .rows, n. and y .rows,. in 0 and 1 was expected"
        with pytest.raises(ConfigurationError, match=f"path: .* cannot be read .No such file.*{expected}"):
            make()
        for content in (b"no arrays", b"PK\x03\x04 broken", b""):
            path.write_bytes(content)
            with pytest.raises(ConfigurationError, match=f"path: .* cannot be read .*{expected}"):
                make()
        for arrays, message in (
            ({"x": X}, f"has no y; {expected}"),
            ({"x_train": X, "y": Y}, f"has no x; {expected}"),
            ({"x": X, "y": [0, 1]}, f"y does not fit; {expected}"),
            ({"x": X, "y": [1, 2, 2]}, f"y does not fit; {expected}"),
            ({"x": [1.0, 2.0, 3.0], "y": Y}, "x has shape .*; finite numbers in 2 dimensions were expected"),
            ({"x": [["a"]], "y": Y}, "x does not consist of numbers"),
        ):
            np.savez(path, **arrays)
            with pytest.raises(ConfigurationError, match=f"path: .*{message}"):
                make()
        np.savez(path, x=X, y=Y)
        assert make().support.dim == 2
        with pytest.raises(ConfigurationError, match="prior_variance: 0"):
            make(prior_variance=0.0)


FAMILIES = {"normal": partial(targets.NormalMean, 3, 1.5, 0.8), "parabola": targets.Parabola}


@pytest.mark.parametrize("name", FAMILIES)
class TestFamilies:
    def test_shapes(self, name):
        target = FAMILIES[name]()
        theta, x = target.simulate(6)
        assert x.shape == (6, *target.data_shape)
        assert target.log_density(x=x, **theta).shape == (6,)
        draws = target.posterior(x, 5)
        z = target.support.unconstrain(draws)
        assert z.shape == (5, 6, target.support.dim)
        value = target.log_prob(z, x=x)
        assert value.shape == (5, 6)
        torch.testing.assert_close(value[2, 3], target.log_prob(z[2, 3:4], x=x[3:4])[0])
        assert torch.autograd.gradcheck(partial(target.log_prob, x=x), (z.requires_grad_(),))

    def test_draws_are_a_function_of_the_seed(self, name):
        target, state = FAMILIES[name](), torch.get_rng_state()
        (_, x), (_, again), (_, other) = (target.simulate(6, seed) for seed in (1, 1, 2))
        assert torch.equal(x, again) and not torch.equal(x, other)
        draws, same, different = (target.posterior(x, 5, seed) for seed in (1, 1, 2))
        assert all(torch.equal(draws[key], same[key]) for key in draws)
        assert not any(torch.equal(draws[key], different[key]) for key in draws)
        assert torch.equal(state, torch.get_rng_state())
        for call in (partial(target.simulate, 0), partial(target.posterior, x, 0)):
            with pytest.raises(ConfigurationError, match="count: 0"):
                call()

    def test_posterior_draws_are_those_of_the_density(self, name):
        target = FAMILIES[name]()
        x = torch.tensor([-1.0, 0.8, 4.0]).unsqueeze(-1).expand(3, *target.data_shape)
        draws = target.support.unconstrain(target.posterior(x, 60000))
        for i in range(3):
            assert_stein(target, draws[:, i], resolution=0.4, x=x[i : i + 1])

    def test_simulated_pairs_have_the_noise_of_the_density(self, name):
        # log p(x, theta) is its peak, at zero, less half the squares of as many standard normal numbers as were drawn
        target = FAMILIES[name]()
        theta, x = target.simulate(20000)
        peak = target.log_prob(torch.zeros(1, target.support.dim), x=torch.zeros(1, *target.data_shape))
        squares = 2 * (peak - target.log_density(x=x, **theta))
        assert_mean(squares, target.support.dim + target.data_shape[0], resolution=0.2)

    def test_simulated_parameters_are_posterior_draws(self, name):
        # The rank of theta among posterior draws of its own x is uniform (Talts et al. 2018).
        target = FAMILIES[name]()
        theta, x = target.simulate(1000, seed=3)
        truth = target.support.unconstrain(theta)
        draws = target.support.unconstrain(target.posterior(x, 99, seed=4))
        ranks = (draws < truth).sum(0).double() / 99
        moments = torch.cat([ranks, ranks.square(), (ranks > 0.9).double()], -1)
        dim = target.support.dim
        uniform = torch.arange(100) / 99
        expected = [uniform.mean(), uniform.square().mean(), (uniform > 0.9).double().mean()]
        assert_mean(moments, torch.stack(expected).repeat_interleave(dim), resolution=0.06)


def test_normal_mean_posterior_in_closed_form():
    x = torch.tensor([[1.0, 2.0, 0.5], [-1.0, 0.0, 0.3]])
    draws = FAMILIES["normal"]().posterior(x, 60000)["mu"]
    variance = 1 / (1 / 1.5**2 + 3 / 0.8**2)
    assert_mean(draws, variance * x.sum(-1) / 0.8**2, resolution=0.02)
    assert_mean((draws - draws.mean(0)).square(), variance, resolution=0.02)


def test_normal_mean_density():
    theta, x = FAMILIES["normal"]().simulate(6)
    truth = Normal(0.0, 1.5).log_prob(theta["mu"]) + Normal(theta["mu"].unsqueeze(-1), 0.8).log_prob(x).sum(-1)
    torch.testing.assert_close(FAMILIES["normal"]().log_density(x=x, **theta), truth)


def test_parabola_density_and_modes():
    target = targets.Parabola(0.3)
    theta, x = target.simulate(6)
    z = theta["z"]
    truth = Normal(0.0, 1.0).log_prob(z).sum(-1) + Normal(z[:, 0].square() + z[:, 1], 0.3).log_prob(x[:, 0])
    torch.testing.assert_close(target.log_density(x=x, z=z), truth)
    far = target.posterior(torch.tensor([[5.0]]), 20000)["z"][:, 0, 0]
    assert (far.abs() < 1).double().mean() < 0.005
    assert_mean((far > 0).double(), 0.5, resolution=0.02)
