"""Adversarial autoencoders with categories: clusters, labels, codes, and the names of clusters."""

from __future__ import annotations

import math

import pytest
import torch
from autoencoders import CLASSES, KINDS, SHARP, SMALL, WIDE, Given, aae, adam, blobs, categorical, one_hot
from closed_forms import perturbed
from monte_carlo import assert_mean
from small_models import trainer
from torch import nn

from lightning_avb import Batch, CategoricalAAE, Player
from lightning_avb.conditionals.categorical import CategoricalEncoder, head_distance_penalty
from lightning_avb.errors import ConfigurationError
from lightning_avb.models.categorical_aae import CategoricalAAEPlayers

# Categories: clusters, labels, rows, codes.


def of_blobs(categories=None, latent_dim=1, **options):
    fast, slow = adam(0.01), adam(0.01, 0.9)
    players = CategoricalAAEPlayers(slow, fast, fast, slow)
    return CategoricalAAE(latent_dim, categories, WIDE, SHARP, WIDE, players=players, **options)


@pytest.mark.parametrize("clusters", [4, 8])
def test_heaps_become_clusters_without_labels(tmp_path, clusters):
    val, test = blobs(400), blobs(400)
    data = Given([blobs(128, labelled=0) for _ in range(20)], val, test)
    model, run = of_blobs(clusters), trainer(tmp_path, max_steps=150)
    run.fit(model, data)
    assert run.callback_metrics["val/error"] < 0.05
    (found,) = run.test(model, data, verbose=False)
    assert found["test/error"] < 0.05
    # Clusters get their labels from validation rows: with other names in the test data nothing is right.
    (found,) = run.test(model, Given(data.train, val, test._replace(y=(test.y + 1) % KINDS)), verbose=False)
    assert found["test/error"] > 0.95


@pytest.mark.parametrize("code", ["pair", "sum"])
def test_two_labels_a_class_are_enough(tmp_path, code):
    known = blobs(2 * KINDS)
    rows = [Batch(*map(torch.cat, zip(known, blobs(128, labelled=0), strict=True))) for _ in range(20)]
    data = Given(rows, blobs(400), blobs(400), labelled_per_batch=len(known.x))
    model, run = of_blobs(code=code, latent_dim=2), trainer(tmp_path, max_steps=150)
    run.fit(model, data)
    assert model.labelled_per_batch == 8
    (found,) = run.test(model, data, verbose=False)
    assert found["test/error"] < 0.05 and run.callback_metrics.keys() >= {"test/reconstruction", "test/style_accuracy"}


@pytest.mark.parametrize(
    ("options", "data", "message"),
    [
        ({}, {"classes": None}, "categories: the data has no labels"),
        ({"categories": 3}, {}, "categories: 3 clusters are fewer than the 4 classes"),
        ({"categories": 5}, {"labelled_per_batch": 2}, r"data\.labelled_per_batch: clusters learn from no labels"),
        ({"categories": 5}, {"classes": None}, "classes: a row has the label 0; the model knows none, and"),
        ({}, {"classes": 3}, r"classes: a row has the label 3; the model knows 0\.\.2, and"),
        ({}, {"train": [blobs(8, labelled=7)]}, r"data\.labelled_per_batch: 0, and there are rows without a label"),
        ({}, {"train": [Batch(torch.randn(8, KINDS))]}, r"data\.labelled_per_batch: 0, and there are rows without"),
        ({}, {"train": [blobs(8, labelled=2)], "labelled_per_batch": 3}, r"data\.labelled_per_batch: 3, and there are"),
        ({}, {"train": [blobs(8)], "labelled_per_batch": 8}, r"data\.labelled_per_batch: 8 of a batch of 8 rows leave"),
    ],
)
def test_labels_and_categories_that_do_not_fit_are_refused_before_training(tmp_path, options, data, message):
    run = trainer(tmp_path, max_steps=1, num_sanity_val_steps=0)
    with pytest.raises(ConfigurationError, match=f"^{message}"):
        run.fit(categorical(**options), Given(**{"train": [blobs(8)], **data}))
    assert run.global_step == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"categories": 1}, "categories: 1"),
        ({"categories": 4.5}, r"categories: 4\.5 is not a whole number"),
        ({"category": 0.0, "style": 0.0}, "category, style: both are 0"),
        ({"smoothness": math.inf}, "smoothness: inf is not a weight"),
        ({"smoothness": 1.0, "radius": math.inf}, "radius: inf is not a distance"),
        ({"head_distance": math.inf, "code": "sum"}, "head_distance: inf is not a weight"),
        ({"code": "product"}, "code: 'product'"),
        ({"head_distance": 2.0}, r"head_distance: 2\.0"),
        ({"head_distance": -1.0, "code": "sum"}, r"head_distance: -1\.0"),
        ({"loss": "wassertsein"}, "loss: 'wassertsein'"),
        ({"smoothness": -1.0}, r"smoothness: -1\.0 is not a weight"),
        ({"balance": math.nan}, "balance: nan is not a weight"),
        ({"category": -0.1}, r"category: -0\.1 is not a weight"),
        ({"smoothness": 1.0, "radius": 0.0}, r"radius: 0\.0 is not a distance"),
        ({"players": CategoricalAAEPlayers(classifier=Player(steps=2))}, r"players\.classifier\.steps: 2"),
    ],
)
def test_what_makes_no_sense_with_categories_is_named(options, message):
    with pytest.raises(ConfigurationError, match=f"^{message}"):
        categorical(**options)


def test_the_codes_of_categories():
    """y and z side by side, or z + W y; the encoder's y are probabilities, and those asked for are sure."""
    x, z, y = torch.randn(6, 3), torch.randn(6, 2), torch.tensor([0, 1, 2] * 2)
    for code in ("pair", "sum"):
        model = perturbed(categorical(code=code, data_shape=(3,), classes=CLASSES))
        logits, style = model.encoder.network(x).split([CLASSES, 2], -1)
        parts = [
            (logits.softmax(-1), style, model.encode(x, draws=1)[0]),
            (one_hot(y, CLASSES), z, model.make_code(z, y)),
        ]
        for share, style, found in parts:
            if code == "pair":
                expected = torch.cat([share, style], -1)
            else:
                expected = style + share @ model.encoder.cluster_heads.weight.T
            torch.testing.assert_close(found, expected)
            assert found.shape == (6, model.code_dim) and model.code_dim == (5 if code == "pair" else 2)
        assert torch.equal(model.decode(found), model.decoder.network(found))


def test_categories_are_drawn_uniformly_and_in_turn():
    model = perturbed(categorical(categories=5, data_shape=(3,)))
    assert model.label_choices == 5
    drawn = model.sample_codes(5000)[:, :5]
    assert_mean(drawn, 0.2, resolution=0.03)
    assert torch.equal(drawn.sum(-1), torch.ones(5000)) and torch.equal(drawn.amax(-1), torch.ones(5000))
    torch.manual_seed(1)
    z = model.prior().sample((4,))
    torch.manual_seed(1)
    assert torch.equal(model.sample(4, [3, 1]), model.decode(model.make_code(z, torch.tensor([3, 1, 3, 1]))))
    with pytest.raises(ConfigurationError, match=r"^labels: \[5\] are not in 0\.\.4"):
        model.sample(4, [5])


@pytest.mark.usefixtures("float64")
def test_heads_that_are_too_near_pay_what_is_missing():
    """Distances 5 and about 45 and 50 with 7 asked for: 2 in all, and both of the near ones are pushed apart."""
    model = categorical(code="sum", head_distance=7.0, data_shape=(3,), classes=CLASSES)
    heads = model.encoder.cluster_heads.weight
    with torch.no_grad():
        heads.copy_(torch.tensor([[0.0, 3.0, 30.0], [0.0, 4.0, 40.0]]))
    batch, losses = Batch(torch.randn(5, 3), torch.arange(5) % CLASSES), []
    for model.head_distance in (7.0, 0.0):
        losses.append(model.autoencode(batch).losses["autoencoder"])
    torch.testing.assert_close(losses[0], losses[1] + 2)
    gradient = torch.autograd.grad(losses[0].mean() - losses[1].mean(), heads)[0]
    torch.testing.assert_close(gradient, torch.tensor([[0.6, -0.6, 0.0], [0.8, -0.8, 0.0]]))


def test_predictions_are_codes_and_categories(tmp_path):
    batch, model = blobs(6), categorical(categories=4, data_shape=(KINDS,))
    (found,) = trainer(tmp_path).predict(model, Given([batch]))
    share = model.encoder.network(batch.x)[:, :4].softmax(-1)
    assert found.keys() == {"z", "category", "probability", "y", "index"}
    assert torch.equal(found["category"], share.argmax(-1)) and torch.equal(
        found["z"], model.encode(batch.x, draws=1)[0]
    )
    torch.testing.assert_close(found["probability"], share.amax(-1))
    assert torch.equal(found["y"], batch.y) and torch.equal(found["index"], batch.index)


# Errors of clusters.


def test_errors_are_counted_where_labels_are_known(tmp_path):
    """Two of the four categories' names are exchanged in the test data, and every other row has no label."""
    model, batch = categorical(data_shape=(KINDS,), classes=KINDS), blobs(8)
    model.encoder.network.layers = nn.Sequential(nn.Linear(KINDS, KINDS + 2, bias=False))
    with torch.no_grad():
        model.encoder.network.layers[0].weight.copy_(torch.eye(KINDS + 2, KINDS))
    y = torch.tensor([1, 0, 2, 3, -1, -1, -1, -1])
    run = trainer(tmp_path)
    (found,) = run.test(model, Given([batch], test=batch._replace(y=y)), verbose=False)
    assert found["test/error"] == 0.5
    (found,) = run.test(model, Given([batch], test=batch._replace(y=torch.full((8,), -1))), verbose=False)
    assert "test/error" not in found and "test/reconstruction" in found


def test_clusters_are_named_by_rows_as_a_datamodule_hands_them_over(tmp_path):
    """One that shifts x before and after its way to the device, has two loaders, and makes them late."""
    model, seen = categorical(categories=4, data_shape=(KINDS,), classes=KINDS), []

    class Shifted(Given):
        def setup(self, stage):
            if stage == "validate":
                self.loaders = {"a": self._loader([self.val]), "b": self._loader([self.val])}

        def on_before_batch_transfer(self, batch, dataloader_idx):
            return batch._replace(x=batch.x + 100)

        def on_after_batch_transfer(self, batch, dataloader_idx):
            return batch._replace(x=batch.x + 1000)

        def val_dataloader(self):
            return self.loaders

    model.encoder.network.register_forward_pre_hook(lambda network, given: seen.append(given[0]))
    trainer(tmp_path, precision="64-true").test(model, Shifted([blobs(8)]), verbose=False)
    assert len(seen) >= 3 and all(x.mean() > 1050 and x.dtype == torch.float64 for x in seen)
    with pytest.raises(ConfigurationError, match=r"^classes: a row has the label 7; the model knows 0\.\.3"):
        trainer(tmp_path).test(model.float(), Given([blobs(8)], val=blobs(8)._replace(y=torch.full((8,), 7))))


def test_clusters_are_named_anew_in_every_test(tmp_path):
    model, run, batch = categorical(categories=4, data_shape=(KINDS,), classes=KINDS), trainer(tmp_path), blobs(8)
    with torch.no_grad():
        model.encoder.network.layers = nn.Sequential(nn.Linear(KINDS, KINDS + 2, bias=False))
        model.encoder.network.layers[0].weight.copy_(torch.eye(KINDS + 2, KINDS))
    (found,) = run.test(model, Given([batch]), verbose=False)
    assert found["test/error"] == 0
    surer = batch._replace(x=0.9 * batch.x, y=(batch.y + 1) % KINDS)
    (found,) = run.test(model, Given([batch], val=surer), verbose=False)
    assert found["test/error"] == 1


@pytest.mark.parametrize(("labelled", "message"), [(-1, "-1 is below 0"), (2.0, "2.0 is not a whole number")])
def test_a_datamodules_own_mistakes_are_named(tmp_path, labelled, message):
    with pytest.raises(ConfigurationError, match=rf"^data\.labelled_per_batch: {message}"):
        trainer(tmp_path, max_steps=1).fit(categorical(), Given([blobs(8)], labelled_per_batch=labelled))
    with pytest.raises(ConfigurationError, match=r"^classes: \['a', 'b'\] is not a whole number"):
        trainer(tmp_path, max_steps=1).fit(categorical(), Given([blobs(8)], classes=["a", "b"]))
    data = Given([blobs(8)])
    data.labels = ["nought", "one", "two", "three"]  # the names of the classes, and not ours to read
    trainer(tmp_path, max_steps=1).fit(aae(labels="decoder"), data)


def test_clusters_without_a_datamodule_have_no_names(tmp_path):
    model = categorical(categories=4, data_shape=(KINDS,), classes=KINDS)
    with pytest.raises(ConfigurationError, match=r"^data: clusters get their labels from validation rows"):
        trainer(tmp_path).test(model, Given([blobs(8)]).test_dataloader(), verbose=False)
    (found,) = trainer(tmp_path).test(model, Given([blobs(8)], val=blobs(8, labelled=0)), verbose=False)
    assert "test/error" not in found


@pytest.mark.parametrize("code", ["pair", "sum"])
def test_the_reconstruction_of_validation_is_minus_log_p_at_the_code(code):
    model = perturbed(categorical(categories=4, code=code, data_shape=(KINDS,), classes=KINDS))
    x = torch.randn(6, KINDS)
    logits, z = model.encoder.heads(x)
    p = model.decoder(model.encoder.join(logits.softmax(-1), z))
    torch.testing.assert_close(model.scores(Batch(x))["reconstruction"], -p.log_prob(x))


@pytest.mark.parametrize(("categories", "dim"), [(10, 2), (30, 2), (4, 1), (16, 5)])
def test_cluster_heads_begin_apart_and_around_the_origin(categories, dim):
    for seed in range(5):
        torch.manual_seed(seed)
        encoder = CategoricalEncoder((3,), dim, categories, SMALL, summed=True)
        encoder.place_heads(4.0)
        heads = encoder.cluster_heads.weight.detach().T
        assert torch.pdist(heads).min() > 3.999
        assert heads.mean(0).abs().max() < 1e-4
        assert head_distance_penalty(heads, 4.0) < 1e-3 and head_distance_penalty(heads[:2], 1e4) == pytest.approx(
            1e4 - (heads[0] - heads[1]).norm().item(), rel=1e-5
        )
