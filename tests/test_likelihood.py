"""The table that `lightning-avb test` prints, and what it is made of."""

from __future__ import annotations

import json
import math
import re
import socket
from functools import partial
from types import SimpleNamespace

import numpy
import pytest
import torch
from closed_forms import LINEAR, LinearGaussian
from small_models import trainer
from test_cli import CONFIGS
from torch.distributions import Independent, Normal

from datamodules import Arrays
from lightning_avb import VAE, Batch, GaussianDecoder, GaussianEncoder
from lightning_avb.distributions import Implicit
from lightning_avb.errors import ConfigurationError
from lightning_avb.evaluation.metrics import MeanOverRows
from lightning_avb.reports import (
    AnnealedImportanceSampling,
    Figure,
    GridQuadrature,
    ImportanceWeighting,
    Likelihood,
    Run,
)
from lightning_avb.reports.base import table
from lightning_avb.reports.likelihood import HEADINGS

ROWS = 1001


def shares(processes):
    """(value, index) of every process, as a sampler deals them out: all of one length, some rows twice."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(ROWS, generator=generator) - 90
    padded = torch.arange(-(-ROWS // processes) * processes) % ROWS
    return values, [(values[padded[rank::processes]], padded[rank::processes]) for rank in range(processes)]


def _one_process(rank, processes, port, folder):
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=processes)
    metric = MeanOverRows()
    value, index = shares(processes)[1][rank]
    for part in torch.arange(len(index)).split(100):
        metric.update(value[part], index[part])
    torch.save(metric.compute(), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_a_row_counts_once_on_any_number_of_processes(tmp_path, processes):
    if processes == 1:
        metric = MeanOverRows()
        metric.update(*shares(1)[1][0])
        found = [metric.compute()]
    else:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        arguments = (processes, port, tmp_path)
        torch.multiprocessing.start_processes(_one_process, arguments, processes, start_method="fork")
        found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(processes)]
    values = shares(processes)[0].double()
    for result in found:
        assert len(result["values"]) == ROWS and (result["index"] == torch.arange(ROWS)).all()
        assert abs(result["mean"] - values.mean()) < 1e-9
        assert abs(result["standard_error"] - values.std() / math.sqrt(ROWS)) < 1e-9


QUIET = ("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false")
NO_GRIDS = ("--trainer.callbacks=null",)
"""Without the exact likelihood of every batch."""
SHORT = ("--likelihood.samples=500", "--likelihood.chains=4", "--likelihood.steps=60", "--likelihood.simulated=32")


@pytest.fixture(scope="module", params=["vae", "avb_ac"])
def finished(request, command, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        config = CONFIGS / "four_points" / f"{request.param}.yaml"
        command("fit", "--config", config, "--trainer.max_steps=100", *QUIET)
    return folder / "runs" / "four_points" / request.param / "version_0"


def estimates(command, finished, monkeypatch, capsys, *arguments, draws=40000):
    """What `test` writes beside the checkpoint, by name, and what it prints."""
    monkeypatch.setattr("lightning_avb.reports.estimators.bound_terms.DRAWS", draws)
    monkeypatch.chdir(finished)
    last = finished / "checkpoints" / "last.ckpt"
    command("test", "--config", finished / "config.yaml", "--ckpt_path", last, *QUIET, *SHORT, *arguments)
    newest = max((finished / "checkpoints").glob("last.likelihood*.json"), key=lambda path: path.stat().st_mtime_ns)
    return {line["name"]: line for line in json.loads(newest.read_text())}, capsys.readouterr().out


def test_all_estimates_agree_on_the_four_points(command, finished, monkeypatch, capsys):
    every = '--likelihood.estimators=["importance", "annealing", "bidirectional", "quadrature", "parzen"]'
    lines, printed = estimates(command, finished, monkeypatch, capsys, every, "--likelihood.rows=64")
    truth = lines["quadrature"]["value"]
    assert -4 < truth < -1.38
    for name in ("importance", "annealing"):
        assert lines[name]["rows"] == 64
        # Few chains and temperatures: a lower bound that lacks a few hundredths of a nat.
        assert -0.06 < lines[name]["value"] - truth < 0.02
        assert "below" in lines[name]["expected"]
    assert abs(lines["bidirectional, gap"]["value"]) < 0.1
    assert 0.4 < lines["annealing"]["diagnostics"]["acceptance"] < 0.95
    own = lines.get("elbo", lines.get("elbo_estimate"))
    if "elbo" in lines:
        assert own["value"] < truth
    gap = lines[f"quadrature - {own['name']}"]
    assert abs(gap["value"] - truth + own["value"]) < 1e-6 and gap["rows"] == 64
    assert printed.count("side of log p(x)") == 1 and f"{gap['value']:.3f}" in printed
    # What the bound is made of, over four equally likely points: KL(q, p) = I + KL(q(z), p(z))
    assert -0.01 < lines["I(x; z)"]["value"] < math.log(4) + 0.01
    assert lines["KL(q(z), p(z))"]["value"] > -0.01
    assert ("critic's error, its KL - the true one" in lines) == ("elbo_estimate" in lines)


def test_figures_depend_on_the_seed_and_not_on_the_batches(command, finished, monkeypatch, capsys):
    few = (*NO_GRIDS, '--likelihood.estimators=["importance"]', "--likelihood.rows=40")
    found = partial(estimates, command, finished, monkeypatch, capsys, *few, draws=1000)
    first, _ = found("--data.eval_batch_size=7")
    second, _ = found("--data.eval_batch_size=33", "--likelihood.chunk=300")
    other, _ = found("--likelihood.seed=1")
    assert first["importance"]["rows"] == second["importance"]["rows"] == 40
    assert abs(first["importance"]["value"] - second["importance"]["value"]) < 1e-5
    assert 1e-5 < abs(first["importance"]["value"] - other["importance"]["value"]) < 0.1


OWN_ESTIMATOR = """
from lightning_avb.reports import RowEstimator


class Best(RowEstimator):
    name, side, precedence = "best of some", "below", 9

    def __init__(self, draws: int = 3) -> None:
        self.draws = self.draws_per_row = draws
        self.settings = f"{draws} draws"

    def estimate(self, run, rows):
        model = run.model
        z = model.encoder(rows.x).rsample((self.draws,))
        return (model.decoder(z).log_prob(rows.x).amax(0),)
"""


@pytest.mark.parametrize("finished", ["vae"], indirect=True)
@pytest.mark.parametrize("given", ["path", "init_args", "file"])
def test_an_estimator_of_the_user_s_own_is_one_class(command, finished, monkeypatch, capsys, given):
    """Beside a named one, or after the default ones; with settings of its own."""
    monkeypatch.syspath_prepend(finished)
    (finished / "own_parts.py").write_text(OWN_ESTIMATOR)
    arguments = ["--likelihood.estimators+=own_parts.Best"]
    if given == "init_args":
        arguments.append("--likelihood.estimators.init_args.draws=5")
    if given == "file":
        own = "{class_path: own_parts.Best, init_args: {draws: 5}}"
        (finished / "own.yaml").write_text(f"likelihood: {{estimators: [importance, {own}]}}")
        arguments = ["--config", finished / "own.yaml"]
    lines, printed = estimates(command, finished, monkeypatch, capsys, *arguments, *NO_GRIDS, "--likelihood.rows=6")
    line = lines["best of some"]
    assert line["rows"] == 6 and math.isfinite(line["value"]) and line["expected"] == "below"
    assert line["note"] == f"{3 if given == 'path' else 5} draws" and f"{line['value']:.3f}" in printed
    assert ("annealing" in lines) == (given != "file") and "importance" in lines
    assert any(name.startswith("best of some - elbo") for name in lines)


def test_the_estimator_of_the_documentation_works_and_says_what_it_needs(tmp_path, monkeypatch):
    """With the exact posterior as q every weight is p(x)."""
    text = (CONFIGS.parent / "docs" / "likelihood.md").read_text()
    (example,) = (part for part in re.findall(r"```python\n(.*?)```", text, re.S) if "RowEstimator" in part)
    exec(example, names := {"__name__": "example"})
    monkeypatch.chdir(tmp_path)
    world, model, data = linear_gaussian(60)
    likelihood = Likelihood([names["FromPosterior"](7)], rows=4)
    trainer(tmp_path, callbacks=[likelihood]).test(model, data, verbose=False)
    figures = {figure.name: figure for figure in likelihood.figures}
    x = torch.cat([batch[0] for batch in data.test_dataloader()])[:4]
    assert abs(figures["from q"].value - (world.log_marginal(x) + data.log_jacobian).mean()) < 1e-4
    assert figures["from q"].diagnostics == pytest.approx({"effective samples": 7}) and "from q - elbo" in figures
    monkeypatch.setattr(type(model), "classes", 3)
    with pytest.raises(ConfigurationError, match=r"^likelihood.estimators: 'from q' needs a model without labels$"):
        likelihood.on_test_start(SimpleNamespace(world_size=1), model)


def test_a_grid_in_three_dimensions_is_refused():
    model = SimpleNamespace(latent_dim=3)
    assert "the model has 3" in GridQuadrature().missing(Run(None, model, None, chunk=1, seed=0))


def test_a_row_that_is_none_of_the_data_counts_nowhere():
    """An index of -1 stands in where a process has no row."""
    batch = Batch(torch.rand(4, 2), index=torch.tensor([3, -1, 7, 0]))
    model = SimpleNamespace(device=torch.device("cpu"))
    run, every = (Run(None, model, rows, chunk=100, seed=0) for rows in (5, None))
    assert run.evaluated(batch).index.tolist() == [3, 0] and every.evaluated(batch).index.tolist() == [3, 7, 0]
    estimator = ImportanceWeighting(10)
    estimator.begin(run)
    estimator.update(run, batch.at(slice(1, 3)))
    assert estimator.metric.compute()["values"].shape == (0, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"estimators": ["import"]}, "likelihood.estimators: 'import'"),
        (
            {"estimators": ["no.Such"]},
            "likelihood.estimators: 'no.Such' is none of importance, .* not the path of a class",
        ),
        ({"chains": 0}, "likelihood.chains: 0"),
        ({"start": "middle"}, "likelihood.start: 'middle'"),
        ({"path": "straight"}, "likelihood.path: 'straight'"),
        ({"parzen_samples": 0}, "likelihood.parzen_samples: 0"),
        ({"simulated": 1}, "likelihood.simulated: 1"),
    ],
)
def test_what_cannot_be_is_refused(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        Likelihood(**arguments)


def test_the_table_stands_in_columns():
    figures = [Figure("a", -1.5, 0.1, 3, "", "below", "x", seconds=1.0), Figure("longer", -10.25, math.nan, 3)]
    header, *rows = table(figures, HEADINGS, ".3f").splitlines()
    assert [row.index(" 3 ") + 1 for row in rows] == [header.index("rows ")] * 2
    assert "-10.250" in rows[1] and "nan" not in rows[1]


def linear_gaussian(rows):
    """A linear-Gaussian model with its exact posterior, and a table of its draws in other units."""
    world = LinearGaussian.example()
    numpy.save("rows.npy", (world.sample(rows) * torch.tensor([10.0, 0.1, 3.0]) + 5).numpy())
    parts = [partial(part, network=LINEAR) for part in (GaussianEncoder, GaussianDecoder)]
    model = VAE(world.latent_dim, *parts, data_shape=world.data_shape)
    model.encoder.load_state_dict(world.encoder().state_dict())
    model.decoder.load_state_dict(world.decoder().state_dict())
    return world, model, Arrays("rows.npy", batch_size=50, eval_batch_size=11)


@pytest.mark.parametrize("start", ["proposal", "prior"])
def test_a_table_is_judged_in_its_own_units(tmp_path, monkeypatch, start):
    """A linear-Gaussian model of standardised columns, whose log p(x) is known."""
    monkeypatch.chdir(tmp_path)
    world, model, data = linear_gaussian(300)
    likelihood = Likelihood(["importance", "annealing"], rows=None, samples=400, chains=8, steps=100, start=start)
    trainer(tmp_path, callbacks=[likelihood]).test(model, data, verbose=False)
    x = torch.cat([batch[0] for batch in data.test_dataloader()])
    lines = {figure.name: figure for figure in likelihood.figures}
    values = world.log_marginal(x) + data.log_jacobian
    truth = values.mean().item()
    assert abs(data.log_jacobian) > 0.5
    for name in ("elbo", "importance", "annealing"):
        assert lines[name].rows == len(x)
        assert abs(lines[name].value - truth) < 0.03, name
    for name in ("log p(x), on a grid", "ELBO, on a grid"):
        assert abs(lines[name].value - values[: lines[name].rows].mean()) < 1e-3
        assert (lines[name].rows, lines[name].subset) == (16, "first")
    assert abs(lines["KL(q(z|x), p(z|x))"].value) < 1e-3
    assert 0 < lines["I(x; z)"].value < math.log(len(x))


@pytest.mark.parametrize(("rows", "several"), [(70, 3), (70, 4), (330, 2)])
def test_several_processes_print_what_one_does(tmp_path, monkeypatch, rows, several):
    """7 rows of test data, of which two are dealt out twice; 33, too many for the grid."""
    monkeypatch.chdir(tmp_path)
    tables = []
    for processes in (1, several):
        torch.manual_seed(1)
        _, model, data = linear_gaussian(rows)
        data.eval_batch_size = 3
        options = {"devices": processes, "strategy": "ddp_fork"} if processes > 1 else {}
        likelihood = Likelihood(["importance"], rows=5, samples=50)
        trainer(tmp_path, callbacks=[likelihood], **options).test(model, data, verbose=False)
        newest = max(tmp_path.glob("model.likelihood*.json"), key=lambda path: path.stat().st_mtime_ns)
        tables.append({line["name"]: line for line in json.loads(newest.read_text())})
    one, two = tables
    assert (
        one.keys() == two.keys() >= {"importance", "ELBO, on a grid", "KL(q(z|x), p(z|x))", "I(x; z)", "KL(q(z), p(z))"}
    )
    for name, line in one.items():
        assert (two[name]["rows"], two[name]["subset"]) == (line["rows"], line["subset"])
        assert two[name]["value"] == pytest.approx(line["value"], rel=1e-6, abs=1e-6), name
    assert one["I(x; z)"]["rows"] == rows // 10 and one["importance"]["rows"] == one["ELBO, on a grid"]["rows"] == 5


class Foreign(torch.nn.Module):
    """Gives torch's own distribution, which draws from torch's own generator."""

    def __init__(self, inside):
        super().__init__()
        self.inside = inside

    def forward(self, *arguments):
        p = self.inside(*arguments)
        return Independent(Normal(p.mean, p.stddev), 1)


def test_parts_of_torch_are_as_repeatable_as_the_library_s_own(tmp_path, monkeypatch):
    """A prior and an encoder of torch's, in batches of 3 and of 11, after other draws."""
    monkeypatch.chdir(tmp_path)
    found = []
    for size in (3, 11):
        torch.manual_seed(1)
        world, model, data = linear_gaussian(300)
        model.prior, model.encoder, data.eval_batch_size = Foreign(model.prior), Foreign(model.encoder), size
        monkeypatch.setattr(model, "scores", lambda batch: {"elbo": torch.randn(1, len(batch.x))})
        torch.manual_seed(size)
        names = ["importance", "annealing", "bidirectional"]
        likelihood = Likelihood(names, rows=12, samples=50, chains=1, steps=6, leapfrogs=1, simulated=4, draws=1)
        trainer(tmp_path, callbacks=[likelihood]).test(model, data, verbose=False)
        found.append({figure.name: figure for figure in likelihood.figures})
    assert found[0].keys() == found[1].keys() >= {"elbo", "importance", "bidirectional, gap", "ELBO, on a grid"}
    for name, line in found[0].items():
        assert found[1][name].value == pytest.approx(line.value, abs=1e-5), name
    lines = found[0]
    values = world.log_marginal(torch.cat([batch[0] for batch in data.test_dataloader()])) + data.log_jacobian
    assert abs(lines["importance"].value - values[:12].mean()) < 0.1
    assert abs(lines["ELBO, on a grid"].value - values[:12].mean()) < 1e-3


@pytest.mark.parametrize(("samples", "trusted"), [(8, False), (2000, True)])
def test_a_line_says_itself_that_it_is_not_to_be_trusted(tmp_path, monkeypatch, capsys, samples, trusted):
    monkeypatch.chdir(tmp_path)
    _, model, data = linear_gaussian(100)
    likelihood = Likelihood(["importance"], rows=5, samples=samples)
    trainer(tmp_path, callbacks=[likelihood]).test(model, data, verbose=False)
    lines = {line.split("  ")[0]: line for line in capsys.readouterr().out.splitlines()}
    for name in ("importance", "importance - elbo"):
        assert ("NOT TO BE TRUSTED" in lines[name]) == (not trusted)
    assert "NOT TO BE TRUSTED" not in lines["elbo"]
    (written,) = (
        line for line in json.loads(next(tmp_path.glob("*.json")).read_text()) if line["name"] == "importance"
    )
    assert bool(written["objection"]) != trusted and written["diagnostics"]["effective samples"] <= samples


def test_a_gap_speaks_against_the_annealing_with_its_options_alone(tmp_path, monkeypatch):
    """Four temperatures from the prior leave a gap; chains with other options are not concerned."""
    monkeypatch.chdir(tmp_path)
    _, model, data = linear_gaussian(100)
    options = {"chains": 2, "steps": 4, "leapfrogs": 1, "start": "prior"}
    other = AnnealedImportanceSampling(**{**options, "steps": 8})
    likelihood = Likelihood(["annealing", other, "bidirectional"], rows=5, simulated=8, **options)
    trainer(tmp_path, callbacks=[likelihood]).test(model, data, verbose=False)
    gap = next(figure.value for figure in likelihood.figures if figure.name == "bidirectional, gap")
    annealing = {figure.note: figure.objection for figure in likelihood.figures if figure.name == "annealing"}
    found = {"4 steps" in note: f"a gap of {gap:.2f} nats" in objection for note, objection in annealing.items()}
    assert gap > 0.25 and found == {True: True, False: False}


def test_every_test_tunes_anew(tmp_path, monkeypatch):
    """One callback, two models: the second has the figures that it has on its own."""
    monkeypatch.chdir(tmp_path)
    means = []
    for likelihood in [Likelihood(["annealing"], rows=5, chains=2, steps=8, leapfrogs=1)] * 2 + [
        Likelihood(["annealing"], rows=5, chains=2, steps=8, leapfrogs=1)
    ]:
        torch.manual_seed(1)
        _, model, data = linear_gaussian(60)
        if means:
            with torch.no_grad():
                model.decoder.log_scale.sub_(2)
        trainer(tmp_path, callbacks=[likelihood]).test(model, data, verbose=False)
        means.append({figure.name: figure.value for figure in likelihood.figures}["annealing"])
    assert means[1] == means[2] != means[0]


def test_figures_beside_each_other_are_of_the_same_rows(tmp_path, monkeypatch, capsys):
    """Forty rows evaluated, a grid filled for sixteen: each block of the table is of one set of rows."""
    monkeypatch.chdir(tmp_path)
    world, model, data = linear_gaussian(700)
    with torch.no_grad():
        model.encoder.network.layers[0].bias.add_(0.3)  # a q that is off, so that there is a gap
    likelihood = Likelihood(["importance", "annealing", "bidirectional"], rows=40, steps=30, simulated=8)
    trainer(tmp_path, callbacks=[likelihood]).test(model, data, verbose=False)
    printed = capsys.readouterr().out.split("estimate  ")[1]
    blocks = [block.splitlines() for block in printed.split("likelihoods:")[0].strip().split("\n\n")]
    lines = {figure.name: figure for figure in likelihood.figures}
    sets = [
        {
            (lines[row.split("  ")[0]].rows, lines[row.split("  ")[0]].subset)
            for row in block
            if row.split("  ")[0] in lines
        }
        for block in blocks
    ]
    assert sets == [{(40, "")}, {(8, "simulated")}, {(16, "first")}, {(70, "first")}]
    x = torch.cat([batch[0] for batch in data.test_dataloader()])
    with torch.no_grad():
        gap = torch.distributions.kl_divergence(model.encoder(x), world.encoder()(x))
    assert abs(lines["KL(q(z|x), p(z|x))"].value - gap[:16].mean()) < 1e-3
    difference = lines["annealing - elbo"]
    assert (
        abs(difference.value - gap[:40].mean()) < 0.1 and difference.standard_error < 0.3 * lines["elbo"].standard_error
    )
    assert lines["ELBO, on a grid"].value < lines["log p(x), on a grid"].value


class Point(torch.nn.Module):
    """A deterministic encoder."""

    def forward(self, x, y=None):
        z = x[:, :2]
        return Implicit(lambda samples: z.expand(samples, *z.shape), z.shape[:1], z.shape[1:])


@pytest.mark.parametrize("point", [False, True])
def test_an_autoencoder_has_no_bound_of_its_own(tmp_path, monkeypatch, point):
    """Its log p(x) is estimated all the same; where its codes are points, nothing is said of I(x; z)."""
    monkeypatch.chdir(tmp_path)
    _, model, data = linear_gaussian(100)
    if point:
        model.encoder = Point()
    monkeypatch.setattr(model, "scores", lambda batch: {"reconstruction": torch.zeros(len(batch.x))})
    likelihood = Likelihood(["importance"], rows=5, samples=50)
    trainer(tmp_path, callbacks=[likelihood]).test(model, data, verbose=False)
    names = [figure.name for figure in likelihood.figures]
    assert "importance" in names and "elbo" not in names and ("I(x; z)" in names) != point
    assert not any(" - " in name for name in names)


class Drawn(torch.nn.Module):
    """A prior that can be drawn from and no more."""

    def forward(self):
        return Implicit(lambda samples: torch.randn(samples, 2), torch.Size(), torch.Size([2]))


@pytest.mark.parametrize(("name", "value"), [("prior", Drawn()), ("label_choices", 10)])
def test_where_there_is_no_density_the_test_goes_on(tmp_path, monkeypatch, name, value):
    monkeypatch.chdir(tmp_path)
    _, model, data = linear_gaussian(100)
    test, likelihood = trainer(tmp_path), Likelihood(["importance"], rows=5)
    test.callbacks.append(likelihood)
    monkeypatch.setattr(type(model) if name == "label_choices" else model, name, value)
    monkeypatch.setattr(model, "scores", lambda batch: {"reconstruction": torch.zeros(len(batch.x))})
    (logged,) = test.test(model, data, verbose=False)
    assert likelihood.skipped and logged == {"test/reconstruction": 0.0}
    assert not list(tmp_path.glob("*.json"))
