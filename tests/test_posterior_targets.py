"""Posteriors of log-densities: what targets may be, and what is refused."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from posteriors import SMALL, fitted
from small_models import trainer

import lightning_avb as avb
from datamodules import NoData, Simulated
from lightning_avb import ConvNet, Posterior, draws
from lightning_avb.contrasts import PriorContrast
from lightning_avb.errors import ConfigurationError, NonFiniteLossError
from lightning_avb.reports import Diagnosis
from lightning_avb.targets import Function, Gaussian, NormalMean, Parabola, Target


class Wrong(Target):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.constraints, self.how = {"z": "real[2]"}, how
        self.plot_columns = ("z[0]", "tau") if how == "plane" else None

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
        (
            "shape",
            r"target: .* one number per point, \(64, 2\) for z \(64, 2, 2\); for \(64, 2\) points it returned \(\)",
        ),
        ("number", "target: .* it returned float"),
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
        ("accident", r"target: .* one number per point, \(64, 2\) .*; for \(7, 1\) points it returned \(7, 2\)"),
        ("plane", r"target: plot_columns of Wrong has 'tau', none of z\[0\], z\[1\]"),
        (
            "reference, a tensor",
            r"target: reference\(16\) of Wrong should return a dict of tensors \(...\); it returned Tensor",
        ),
        ("derived twice", "target: Wrong names a quantity 'z', which is the name of something else"),
        ("derived index", "target: Wrong names a quantity 'index', which is the name of something else"),
        ("derived, a tensor", r"target: `derived` of Wrong should return a dict of tensors \(64, 2, ...\)"),
        ("derived, a number", r"target: `derived` of Wrong .* it returned {'r': \(\)}"),
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
    with pytest.raises(ConfigurationError, match=r"^target: NoFamily has a data_shape, and so must be .*Family"):
        Posterior(NoFamily)
    with pytest.raises(ConfigurationError, match=r"^target: simulate\(66\) of Broken fails: KeyError: 'mu'"):
        trainer(tmp_path, max_steps=1).fit(Posterior(Broken), Simulated(Broken, rows=64, eval_rows=1))
    with pytest.raises(ConfigurationError, match=r"^target: simulate\(2\) of Broken fails: KeyError: 'mu'"):
        trainer(tmp_path, max_steps=1).fit(Posterior(Broken), Simulated(NormalMean, rows=64, eval_rows=1))
    message = r"^target: simulate\(2\) of Misshapen should return .* {'x': \(2, 4\)}; it returned {'x': \(2, 2\)}"
    with pytest.raises(ConfigurationError, match=message):
        trainer(tmp_path, max_steps=1).fit(Posterior(Misshapen), Simulated(NormalMean, rows=64, eval_rows=1))


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

    constraints = {"share": "unit_interval"}  # noqa: RUF012

    def log_density(self, *, share):
        return torch.zeros_like(share).detach()

    def derived(self, *, share):
        return {"odds": torch.from_numpy(share.numpy() / (1 - share.numpy()))}


def test_a_constant_density_and_a_derived_quantity_from_elsewhere_are_sound(tmp_path):
    share = fitted(Posterior(Even, SMALL, samples=64), 150, tmp_path).draw(4000)["share"]
    assert abs(share.mean().item() - 0.5) < 0.05 and abs(share.std().item() - 12**-0.5) < 0.05


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
        ({"target": Nameless}, "target: Nameless sets no `constraints`"),
        ({"samples": 1}, "samples: 1 is below 2"),
        ({"gradient_penalty": -1.0}, "gradient_penalty: "),
        ({"warmup": -1}, "warmup: -1 is below 0"),
        ({"sampler": avb.NoiseInjectionEncoder, "contrast": PriorContrast}, "contrast: PriorContrast needs draws of p"),
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
    torch.testing.assert_close(model.target.log_prob(z), -z[..., 0].square() - z[..., 1].exp() + z[..., 1])
    assert Posterior(**{k: v for k, v in model.hparams.items() if k != "_class_path"}).latent_dim == 2
    with pytest.raises(ConfigurationError, match=r"^log_density: .* cannot be imported by its name"):
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
    constraints = {"mu": "real", "tau": "positive"}
    model = Posterior(Function.recipe(of_module, constraints, reference=exact))
    assert model.hparams["target"]["init_args"]["reference"] == f"{__name__}.exact"
    assert torch.equal(model.target.reference(50, 3)["mu"], exact(50, 3)["mu"])
    assert Function.recipe(of_module, constraints)().reference(5) is None
    path, drawn = tmp_path / "long.npz", exact(300, 1)
    draws.write(path, drawn)
    model = Posterior(Function.recipe(of_module, constraints, reference=path))
    found, again, other = (model.target.reference(100, seed) for seed in (0, 0, 1))
    assert all(torch.equal(found[name], again[name]) and not torch.equal(found[name], other[name]) for name in found)
    row = (drawn["mu"] == found["mu"][7]).nonzero().item()  # of one draw, and not of two
    assert found["tau"][7] == drawn["tau"][row] and found["mu"].shape == (100,)
    assert torch.equal(model.target.reference(1000)["mu"].sort().values, drawn["mu"].sort().values)
    with torch.inference_mode(False):
        assert {"C2ST", "worst mean"} <= {f.name for f in Diagnosis(draws=300, folds=2).of(model)}


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (None, r"reference: .*long\.npz cannot be read as an \.npz file of numbers"),
        (
            {"mu": np.ones(20), "tau": np.ones(19)},
            r"reference: .* 'tau': \(19,\).*; arrays of finite numbers with the same number of rows were expected",
        ),
        ({"mu": np.array([1.0, np.nan])}, r"reference: .* has .*; arrays of finite numbers"),
        ({"mu": np.array(["a"])}, r"reference: .* cannot be read as an \.npz file of numbers"),
        ({"mean": np.ones(20)}, r"target: the reference draws of Function are of mean, and it has mu, tau"),
        (
            {"mu": np.ones((20, 2))},
            r"target: reference\(16\) of Function should return .* {'mu': \(16,\)}; it returned",
        ),
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
    with pytest.raises(ConfigurationError, match=r"^reference: .* cannot be imported by its name"):
        Function.recipe(of_module, {"mu": "real"}, reference=lambda count, seed: {})


def test_constraints_are_a_mapping():
    for constraints in ("mu", ["mu"]):
        with pytest.raises(ConfigurationError, match=r"^support: .* does not map names to constraints"):
            assert Function(f"{__name__}.of_module", constraints).support
