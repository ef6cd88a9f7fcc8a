"""Posteriors of log-densities: the sampler's bound, its training, and what comes back."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from posteriors import SMALL, fitted
from small_models import trainer

import lightning_avb as avb
from datamodules import NoData, Simulated
from lightning_avb import PooledMixtureEncoder, Posterior, draws, noise, pictures, targets
from lightning_avb.callbacks import Pictures
from lightning_avb.contrasts import FullGaussianContrast, GaussianContrast
from lightning_avb.distributions import DiagonalNormal, SemiImplicit, pairwise_log_prob
from lightning_avb.errors import ConfigurationError
from lightning_avb.evaluation import calibration_ranks, uniformity
from lightning_avb.models.posterior import PosteriorPlayers, SamplerAdam
from lightning_avb.reports.checks import compare
from lightning_avb.targets import Family, Function, Gaussian, Mixture, NormalMean, Parabola, Target

LOG_2PI = math.log(2 * math.pi)


def pooled(loc, scale):
    """Components at given places, whatever noise is drawn."""
    return SemiImplicit(lambda samples: DiagonalNormal(loc, scale), loc.shape[1:2], loc.shape[2:])


# The sampler's bound.


@pytest.mark.usefixtures("float64")
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


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("samples", [4, 64])
def test_the_weight_of_a_draw_bounds_its_log_density_from_above(samples):
    """z = e + eps / 2 with normal e: the marginal density is N(0, 1.25)."""
    torch.manual_seed(1)
    rows = 20000 // samples
    q = SemiImplicit(lambda n: DiagonalNormal(torch.randn(n, rows, 1), torch.full((n, rows, 1), 0.5)), (rows,), (1,))
    z, log_q = q.rsample_and_log_prob((samples,))
    gap = (log_q - torch.distributions.Normal(0.0, math.sqrt(1.25)).log_prob(z.squeeze(-1))).mean(0)
    mean, error = gap.mean().item(), gap.std().item() / math.sqrt(rows)
    # The gap is the mutual information of one draw of the average with all e: below ln(1 + 4) / 2 / samples or so.
    assert 5 * error < mean < {4: 0.35, 64: 0.05}[samples]
    # Weights f / average are unbiased for the integral of f, here that of a normal density.
    log_f = torch.distributions.Normal(0.3, 0.7).log_prob(z.squeeze(-1))
    weights = (log_f - log_q).exp().mean(0)
    assert abs(weights.mean().item() - 1) < 5 * weights.std().item() / math.sqrt(rows)


@pytest.mark.usefixtures("float64")
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
    "contrast",
    [GaussianContrast, pytest.param(FullGaussianContrast, marks=pytest.mark.slow)],
    ids=["gaussian", "full gaussian"],
)
def test_a_black_box_plays_against_a_critic(tmp_path, contrast):
    sampler = partial(avb.NoiseInjectionEncoder, hidden=(16,), noise_dim=4)
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

    constraints = {"scale": "positive", "shares": "simplex[3]"}  # noqa: RUF012

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


def test_the_picture_reaches_over_draws_and_reference(monkeypatch):
    """A mode that the draws miss is what one has to see."""
    from matplotlib.figure import Figure

    panels = [*Figure().subplots(1, 6)]
    monkeypatch.setattr(pictures, "figure", lambda draw, size, count: draw(panels[:count]))
    model = Posterior(targets.EightSchools)
    monkeypatch.setattr(
        model, "draw", lambda count, x: {k: 40 + 0.01 * v for k, v in model.target.reference(9).items()}
    )
    pictures.posterior(model)
    assert all(panel.get_xlim()[0] < 10 and panel.get_xlim()[1] > 40 for panel in panels)


def test_the_density_of_bounded_numbers_is_drawn():
    """On a grid that reaches beyond 0 the log-density of a gamma distribution is not a number there, and is nothing."""
    target = partial(Function, log_density=f"{__name__}.gamma", constraints={"a": "positive", "b": "positive"})
    value = target().constrained_log_density(torch.tensor([[1.0, 2.0], [-0.1, 2.0], [1.0, -0.1]]))
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


# Double precision and matrices.


class Doubled(Gaussian):
    """Data in float64, as NumPy has them."""

    def log_density(self, *, z):
        return super().log_density(z=z - torch.zeros(2, dtype=torch.float64))


def test_data_in_float64_is_no_hindrance(tmp_path):
    model = fitted(Posterior(Doubled, SMALL, samples=8), 3, tmp_path)
    assert model.draw(5)["z"].dtype == torch.float32


def test_double_precision_is_kept_and_half_refused(tmp_path):
    run = trainer(tmp_path, max_steps=2, precision="64-true", callbacks=[Pictures(0)], limit_val_batches=0)
    model = Posterior(partial(NormalMean, observations=3), SMALL, samples=8)
    run.fit(model, Simulated(partial(NormalMean, observations=3), rows=64, eval_rows=1))
    assert model.draw(5, np.ones((1, 3)))["mu"].dtype == torch.float64
    run = trainer(tmp_path, max_steps=2, precision="64-true", callbacks=[Pictures(0)], limit_val_batches=0)
    run.fit(Posterior(Gaussian, SMALL, samples=8), NoData())
    with pytest.raises(ConfigurationError, match=r"^trainer\.precision: a log-density needs single precision"):
        trainer(tmp_path, max_steps=2, precision="bf16-true").fit(Posterior(Gaussian, SMALL, samples=8), NoData())


class Matrices(Target):
    """A correlation after LKJ, a covariance, and numbers with bounds; all independent."""

    constraints = {  # noqa: RUF012
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
    found = {f.name: f.value for f in compare(model.target, few, model.target.reference(600), folds=2)}
    assert all(math.isfinite(value) for value in found.values()) and found["C2ST"] < 0.65
    assert "KL(draws, reference)" in found
    assert pictures.posterior(model, 300).std() > 0.05
    table, names = draws.to_table(few)
    assert table.shape == (600, len(names)) and "tril[2,1]" in names
    draws.write(tmp_path / "draws.npz", few)
    draws.write(tmp_path / "draws.csv", few)
    with np.load(tmp_path / "draws.npz") as file:
        assert np.array_equal(file["tril"], few["tril"].numpy())
    assert '"tril[2,1]"' in (tmp_path / "draws.csv").read_text().splitlines()[0]
    arviz = pytest.importorskip("arviz")
    draws.write(tmp_path / "draws.nc", few)
    assert "tril[2, 1]" in arviz.summary(arviz.from_netcdf(tmp_path / "draws.nc")).index


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
