"""What is trained, resumed and evaluated on a GPU: beside a CPU, and in half precision beside single precision.

    pytest tests/test_cuda.py -n 8
    LIGHTNING_AVB_DEVICE=cpu pytest tests/test_cuda.py

The second runs the same tests with a CPU in the place of the GPU.
"""

from __future__ import annotations

import math
import os
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from signals import same
from small_models import ADAM, BLACK_BOX, LOCATED, MODELS, POSTERIORS, SMALL, aae, adversarial, trainer
from test_cli import DIGITS, QUICK, WIDTHS

import lightning_avb as avb
from datamodules import Digits, NoData
from lightning_avb import noise, pictures, walks
from lightning_avb.callbacks import ExactLikelihood
from lightning_avb.capabilities import DataDescription
from lightning_avb.evaluation.restoration import inpaint, visible
from lightning_avb.models.vae import VAEPlayers
from lightning_avb.reports import Diagnosis, Likelihood
from lightning_avb.reports.estimators import bound_terms

DEVICE = os.environ.get("LIGHTNING_AVB_DEVICE", "cuda")
pytestmark = pytest.mark.skipif(
    DEVICE == "cuda" and not torch.cuda.is_available(),
    reason="no CUDA device; LIGHTNING_AVB_DEVICE=cpu runs it on a CPU",
)

CONV = {"channels": (4, 8), "hidden": (8,)}


def conv_vae():
    encoder = partial(avb.GaussianEncoder, network=partial(avb.ConvNet, **CONV))
    decoder = partial(avb.BernoulliDecoder, network=partial(avb.DeconvNet, **CONV))
    return avb.VAE(2, encoder, decoder, players=VAEPlayers(avb.Player(partial(ADAM, fused=True), avb.Cosine)))


OTHERS = {
    "vae_conv": conv_vae,
    "vae_full": lambda: avb.VAE(
        2, partial(avb.FullGaussianEncoder, network=SMALL), partial(avb.BernoulliDecoder, network=SMALL)
    ),
    "vae_semi_implicit": lambda: avb.VAE(
        2, LOCATED, partial(avb.BernoulliDecoder, network=SMALL), estimator="monte_carlo", samples=2
    ),
    "vae_flow_prior": lambda: avb.VAE(
        2,
        partial(avb.GaussianEncoder, network=SMALL),
        partial(avb.BernoulliDecoder, network=SMALL),
        partial(avb.FlowPrior, flow_hidden=(8,)),
        estimator="monte_carlo",
    ),
    "avb_basis": partial(
        adversarial,
        avb.GaussianContrast,
        encoder=partial(avb.NoiseBasisEncoder, network=SMALL, basis=2, noise_dim=4, basis_hidden=(8,), start=0.0),
    ),
    "avb_full": partial(adversarial, partial(avb.FullGaussianContrast, draws=16), encoder=BLACK_BOX),
    "aae_roll": partial(aae, avb.DeterministicEncoder, prior=avb.SwissRollPrior, labels="prior"),
}
ALL = {**MODELS, **OTHERS, **POSTERIORS}
CHANGE = ("accuracy", "error")
"""Ends of the names of shares of rows, which change by whole rows where a number is rounded."""


def data_of(name, resident=None):
    if name in POSTERIORS:
        return NoData(20)
    streams = {"labels": 100, "labelled_per_batch": 20} if name == "aae_semi" else {}
    data = Digits(64, binarize="static", **streams)
    data.resident = resident
    return data


class Values(pl.Callback):
    """What was logged after every step."""

    def __init__(self):
        self.steps = []

    def on_train_batch_end(self, trainer, *_):
        self.steps.append({name: value.item() for name, value in trainer.callback_metrics.items()})


def fitted(name, folder, steps, device=DEVICE, ckpt=None, resident=None, **options):
    """A short training run: its trainer, the model and the data."""
    pl.seed_everything(3, verbose=False)
    model, data = ALL[name](), data_of(name, resident)
    quiet = {"num_sanity_val_steps": 0, "limit_val_batches": 0, "enable_checkpointing": False, "log_every_n_steps": 1}
    run = trainer(folder, **{"accelerator": device, "max_steps": steps, **quiet, **options})
    run.fit(model, data, ckpt_path=ckpt)
    return run, model, data


@pytest.fixture
def both_devices(monkeypatch):
    """The CPU, then the device. Generators of different devices give different draws, here also where both are CPUs."""

    def devices():
        original = noise.seed_torch
        for number, device in enumerate(("cpu", DEVICE)):
            monkeypatch.setattr(noise, "seed_torch", lambda bits, number=number: original(bits // 2 + number))
            torch.manual_seed(number)
            yield device
        monkeypatch.setattr(noise, "seed_torch", original)

    return devices()


@pytest.mark.parametrize("precision", ["64-true", "32-true"])
@pytest.mark.parametrize("name", ALL)
def test_the_losses_of_a_cpu(name, precision, both_devices, tmp_path):
    """And in double precision the weights: in single precision Adam makes steps of rounding errors."""
    double = precision == "64-true"
    found = []
    for device in both_devices:
        values = Values()
        with noise.use(noise.seeded("the same on all devices")):
            _, model, _ = fitted(name, tmp_path, 6, device, callbacks=[values], precision=precision)
        found.append((values.steps, model.state_dict()))
    (expected, weights), (ours, our_weights) = found
    assert len(ours) == 6 and any(value.endswith("loss") for value in ours[0])
    for theirs, own in zip(expected, ours, strict=True):
        named = {name for name in theirs if double or not name.endswith(CHANGE)}
        torch.testing.assert_close(
            {name: own[name] for name in named},
            {name: theirs[name] for name in named},
            rtol=1e-6 if double else 1e-4,
            atol=1e-6 if double else 1e-4,
        )
    if double:
        torch.testing.assert_close(our_weights, weights, rtol=1e-6, atol=1e-8)


HALVED = ["vae", "vae_conv", "vae_semi_implicit", "vae_flow_prior", "iaf", "avb", "avb_ac", "avb_score", "avb_full"]
HALVED += ["gan", "bigan", "vaegan", "aae", "aae_roll", "aae_semi", "posterior", "posterior_critic"]
FIGURES = ("elbo", "elbo_lower", "elbo_estimate", "reconstruction", "reconstruction_error", "generator_loss")


@pytest.mark.parametrize("name", HALVED)
def test_half_precision_ends_where_single_precision_does(name, tmp_path):
    found = {}
    for precision in ("32-true", "16-mixed", "bf16-mixed"):
        run, model, data = fitted(name, tmp_path, 40, precision=precision, limit_val_batches=1.0)
        assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
        (values,) = run.validate(model, data, verbose=False)
        found[precision] = next(values[f"val/{figure}"] for figure in FIGURES if f"val/{figure}" in values)
    for value in found.values():
        assert math.isfinite(value) and abs(value - found["32-true"]) < 1e-2 * max(1, abs(found["32-true"])), found


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        *((name, "32-true") for name in ALL if name != "vae_conv"),  # its kernels need not be deterministic
        *((name, "16-mixed") for name in ("vae", "avb_ac", "avb_score", "gan")),
    ],
)
def test_a_resumed_run_has_the_bits_of_one_that_was_not_stopped(name, precision, tmp_path):
    save = pl.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=7, save_on_train_epoch_end=False)
    kept = {"precision": precision, "enable_checkpointing": True}
    run, whole, _ = fitted(name, tmp_path, 10, callbacks=[save], **kept)
    (middle,) = tmp_path.glob("*.ckpt")
    again, resumed, _ = fitted(name, tmp_path / "again", 10, ckpt=middle, **kept)
    assert same(whole.state_dict(), resumed.state_dict())
    ends = [[optimizer.state_dict() for optimizer in trainer.optimizers] for trainer in (run, again)]
    assert same(*ends) and ends[0][0]["state"]


def test_rows_that_are_read_batch_by_batch_are_the_resident_ones(tmp_path):
    resident, read = (fitted("aae_semi", tmp_path, 25, resident=where)[1].state_dict() for where in (True, False))
    assert same(resident, read)


@pytest.mark.parametrize("name", ["vae", "iaf", "vae_full", "vae_semi_implicit", "avb", "avb_ac", "avb_score", "aae"])
def test_the_figures_of_a_cpu_from_the_same_checkpoint(name, both_devices, tmp_path, monkeypatch):
    monkeypatch.setattr(bound_terms, "DRAWS", 8000)
    monkeypatch.chdir(tmp_path)
    run, _, _ = fitted(name, tmp_path, 30)
    run.save_checkpoint("some.ckpt")
    estimators = ["importance", "annealing", "bidirectional", "quadrature", *([] if name == "iaf" else ["parzen"])]
    options = {"rows": 20, "samples": 200, "steps": 50, "simulated": 16, "parzen_samples": 500}
    found = []
    for device in both_devices:
        report, model = Likelihood(estimators, **options), avb.load("some.ckpt")
        run = trainer(tmp_path, accelerator=device, callbacks=[report, ExactLikelihood(cells=40)])
        (values,) = run.test(model, data_of(name), verbose=False)
        (validated,) = run.validate(model, data_of(name), verbose=False)
        found.append({**values, **validated, **{figure.name: figure.value for figure in report.figures}})
    expected, ours = found
    assert expected.keys() == ours.keys() and "test/log_likelihood" in ours and "importance" in ours
    for figure, value in expected.items():
        if "annealing" in figure or figure == "bidirectional, gap":
            # The simulated rows, and with them the step sizes, come from the generator of the device.
            assert abs(ours[figure] - value) < 0.2, figure
        elif "bidirectional" not in figure and not figure.endswith(CHANGE):
            assert ours[figure] == pytest.approx(value, rel=1e-4, abs=1e-3), figure
    assert abs(ours["annealing"] - ours["quadrature"]) < 0.2


@pytest.mark.parametrize("name", POSTERIORS)
def test_the_draws_of_a_posterior_and_their_diagnosis(name, both_devices, tmp_path):
    _, model, _ = fitted(name, tmp_path, 60)
    model.eval()
    found = []
    for device in both_devices:
        with noise.use(noise.seeded("draws")):
            draws = model.to(device).draw(200)
            diagnosis = Diagnosis(400, checks=["chains", "weights"])
            figures = {figure.name: figure.value for figure in diagnosis.of(model)}
        assert pictures.posterior(model, 200).shape[0] == 3
        found.append(({key: value.cpu() for key, value in draws.items()}, figures))
    (expected, theirs), (ours, own) = found
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    assert len(own) == len(theirs) > 10  # the coordinate in a name is the worst one
    assert own["log evidence"] == pytest.approx(theirs["log evidence"], abs=0.2)


@pytest.mark.parametrize("name", ["iaf", "avb_score", "gan", "bigan", "vaegan", "aae_clusters"])
def test_what_a_trained_model_gives(name, tmp_path):
    """It lies on the model's device, and is drawn from there."""
    run, model, data = fitted(name, tmp_path, 4)
    outputs = [] if name == "gan" else run.predict(model, data)
    assert all(len(output["z"]) == len(output["index"]) for output in outputs)
    run.validate(model, data, verbose=False)
    run.test(model, data, verbose=False)
    model = model.to(DEVICE).eval()
    batch = avb.Batch(*(column[:16].to(DEVICE) for column in next(iter(data.test_dataloader()))))
    assert model.sample(6).device.type == DEVICE
    made = [pictures.samples(model, 16)]
    if name != "gan":
        made += [pictures.reconstructions(model, batch), walks.interpolations(model, DataDescription(None), batch)]
    if model.label_choices:
        made.append(pictures.styles(model, 3))
    if name in ("iaf", "avb_score"):
        made.append(pictures.latent_plane(model, batch))
        shown = inpaint(model, batch.first(2), visible("left", (1, 8, 8)), draws=2, chains=4, steps=5)
        assert shown.shape == (2, 2, 1, 8, 8) and shown.device.type == DEVICE
    assert all(picture.isfinite().all() for picture in made)


def test_the_commands(command, tmp_path, monkeypatch, without_curves, capsys):
    monkeypatch.chdir(tmp_path)
    on_device = (f"--trainer.accelerator={DEVICE}", *QUICK, *WIDTHS)
    command("fit", "--config", DIGITS, *on_device, "--trainer.precision=bf16-mixed")
    (last,) = tmp_path.rglob("last.ckpt")
    command("fit", "--config", DIGITS, *on_device, "--ckpt_path", last, "--trainer.max_steps=30")
    few = ("--likelihood.rows=8", "--likelihood.samples=100", "--likelihood.steps=20", "--likelihood.simulated=8")
    for stage, options in {"validate": (), "test": few, "predict": ()}.items():
        command(stage, "--config", DIGITS, *on_device, "--ckpt_path", last, *options)
    assert "annealing" in capsys.readouterr().out
    assert {"last.likelihood.json", "last.predictions.pt", "last.test.json", "last.validate.json"} <= {
        path.name for path in last.parent.iterdir()
    }
    for name in ("sample", "reconstruct"):
        command(name, "--ckpt_path", last, "--output", f"{name}.png")
    assert {"sample.png", "reconstruct.png"} <= {path.name for path in tmp_path.glob("*.png")}
