"""Adversarial autoencoders with labels that name a part of the prior, or go to the decoder."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from autoencoders import CLASSES, KINDS, SHARP, WIDE, Given, aae, adam, blobs, categorical, played
from closed_forms import perturbed
from small_models import trainer
from torch import nn
from torch.distributions import Normal

from datamodules import Digits, Split, TensorDataModule
from lightning_avb import AAE, Batch, DeterministicEncoder, MixturePrior, PetalPrior, Player, StandardNormal
from lightning_avb.distributions import DiagonalNormal
from lightning_avb.errors import ConfigurationError
from lightning_avb.models.aae import AAEPlayers


def test_labelled_codes_end_in_their_part_and_the_others_follow():
    """A label that does not reach the discriminator leaves the parts to chance: one of 24 orders is the right one."""
    model = AAE(
        2,
        partial(DeterministicEncoder, network=WIDE),
        SHARP,
        WIDE,
        partial(PetalPrior, components=KINDS),
        labels="prior",
        players=AAEPlayers(adam(0.003, 0.9), adam(0.01), adam(0.01)),
        data_shape=(KINDS,),
        classes=KINDS,
    )
    played(model, lambda: blobs(128, labelled=32), steps=300)
    batch = blobs(1000)
    z = model.encode(batch.x, draws=1)[0]
    part = torch.stack([model.prior.given(torch.full((1000,), k)).log_prob(z) for k in range(KINDS)]).argmax(0)
    assert (part == batch.y).float().mean() > 0.97


class Flat(nn.Module):
    """Its draws lack their last dimension."""

    def __init__(self, latent_dim):
        super().__init__()

    def forward(self):
        return Normal(0.0, 1.0)


class Apart(StandardNormal):
    """The whole is N(0, I), its parts lie elsewhere: a label that is not there would name the last."""

    parts = 3

    def given(self, y):
        return DiagonalNormal(10.0 * torch.tensor([[1.0] * 2, [2.0] * 2, [3.0] * 2])[y], torch.ones(len(y), 2))


class NoModule:
    def __init__(self, latent_dim):
        pass


class Few(StandardNormal):
    """Has fewer parts than it says."""

    parts = 10

    def given(self, y):
        return DiagonalNormal(torch.zeros(4, 2)[y], torch.ones(len(y), 2))


class Unnamed(StandardNormal):
    """Speaks of parts, and cannot draw them."""

    parts = 4


@pytest.mark.parametrize(
    ("options", "batch", "message"),
    [
        ({"labels": "prior"}, {}, "'prior' needs a prior with a part for each of 4 labels.*StandardNormal has none"),
        ({"labels": "prior", "prior": partial(PetalPrior, components=3)}, {}, "a part for each of 4 labels.* has 3"),
        ({"labels": "prior", "prior": PetalPrior}, {"classes": None}, "'prior', and the data has none"),
        (
            {"labels": "prior", "prior": PetalPrior},
            {"classes": 3},
            r"a row has the label 3; the model knows 0\.\.2, and",
        ),
        (
            {"labels": "prior", "prior": PetalPrior},
            {"train": [blobs(8)._replace(y=torch.tensor([-2] * 8))]},
            "label -2",
        ),
        ({"labels": "prior", "prior": PetalPrior}, {"train": [blobs(8)._replace(y=torch.ones(8))]}, "must be int64"),
        ({"labels": "decoder"}, {"train": [blobs(8)._replace(y=torch.zeros(8, 1, dtype=int))]}, r"of shape \(8, 1\)"),
        ({"labels": "decoder", "data_shape": (KINDS,), "classes": 9}, {}, "the model knows 9 labels, the data has 4"),
        ({"labels": "prior", "prior": PetalPrior, "data_shape": (KINDS,), "classes": 9}, {}, "knows 9 labels"),
        ({"prior": NoModule}, {}, r"NoModule is no torch\.nn\.Module"),
        ({"prior": partial(StandardNormal, latent_dim=3)}, {}, "multiple values"),
        ({"prior": Few}, {}, "Few.given.* cannot be drawn from: index 9 is out of bounds"),
        ({"labels": "decoder"}, {"classes": None}, "'decoder', and the data has none"),
        ({"prior": MixturePrior}, {}, "MixturePrior learns, and here the prior cannot"),
        ({"prior": Flat}, {}, r"sample\(\(2, 3\)\) of Flat has shape \(2, 3\), expected \(2, 3, 2\)"),
        ({"prior": Unnamed, "labels": "prior"}, {}, r"Unnamed has none, or no `given\(y\)`"),
        ({"prior": nn.Identity}, {}, "Identity cannot be drawn from"),
    ],
)
def test_labels_and_priors_that_do_not_fit_are_refused_before_training(tmp_path, options, batch, message):
    run = trainer(tmp_path, max_steps=1, num_sanity_val_steps=0)
    with pytest.raises(ConfigurationError, match=f"^(labels|prior): .*{message}"):
        run.fit(aae(**options), Given(**{"train": [blobs(8)], **batch}))
    assert run.global_step == 0


@pytest.mark.parametrize("make", [partial(aae, labels="prior", prior=PetalPrior), partial(aae, labels="decoder")])
@pytest.mark.parametrize("wrong", [-2, KINDS])
def test_a_wrong_label_is_found_in_whatever_batch_it_is(tmp_path, make, wrong):
    batches = [blobs(8), blobs(8), blobs(8)._replace(y=torch.tensor([0, 1, wrong] + [0] * 5)), blobs(8)]
    run = trainer(tmp_path, max_steps=4, num_sanity_val_steps=0)
    with pytest.raises(ConfigurationError, match=f"^labels: a row has the label {wrong}; the model knows"):
        run.fit(make(), Given(batches))
    assert run.global_step == 2


def test_a_labelled_prior_needs_a_label_now_and_then(tmp_path):
    """Not in every batch, nor in every epoch that is cut short. But an epoch or a run without any is an error."""
    none, few, model = blobs(8, labelled=0), blobs(8, labelled=1), partial(aae, labels="prior", prior=PetalPrior)

    def fit(batches, **options):
        trainer(tmp_path, **{"max_epochs": 1, **options}).fit(model(), Given(batches, val=blobs(8)))

    fit([none, few, none._replace(y=None)])
    fit([none], fast_dev_run=True)
    for batches, options in (
        ([none, none], {"max_epochs": 9}),
        ([none._replace(y=None)], {}),
        ([none, few], {"max_steps": 1}),
    ):
        with pytest.raises(ConfigurationError, match=r"^labels: 'prior', and not one training row so far had a label"):
            fit(batches, **options)
    trainer(tmp_path, max_steps=3, limit_train_batches=1).fit(model(), Digits(batch_size=4, labels=10))
    run = trainer(tmp_path, max_steps=1)
    with pytest.raises(ConfigurationError, match=r"^labels: 'prior', and not one training row has a label"):
        run.fit(model(), Unlabelled(4))
    assert run.global_step == 0


def test_a_resumed_run_has_seen_its_label_before(tmp_path):
    """One step is enough: it would not have been taken, or the run would have ended, without a label."""
    first = trainer(tmp_path, max_steps=1)
    first.fit(aae(labels="prior", prior=PetalPrior), Given([blobs(8, labelled=1)], val=blobs(8)))
    first.save_checkpoint(tmp_path / "one.ckpt")
    again = trainer(tmp_path, max_epochs=2, limit_val_batches=0)
    data = Given([blobs(8, labelled=0)], val=blobs(8))
    again.fit(aae(labels="prior", prior=PetalPrior), data, ckpt_path=tmp_path / "one.ckpt")
    assert again.global_step == 2


class Unlabelled(TensorDataModule):
    classes = 10

    def load(self):
        return dict.fromkeys(("train", "val", "test"), Split(torch.rand(8, 2), torch.full((8,), -1)))


@pytest.mark.usefixtures("float64")
def test_rows_without_a_label_are_compared_with_the_whole_prior():
    """Whatever a prior of one's own makes of the label -1: `given` is not asked."""
    model = aae(labels="prior", prior=Apart, data_shape=(3,), classes=CLASSES)
    seen = []
    model.discriminator.register_forward_pre_hook(lambda module, given: seen.append(given[0][1]))
    model.regularise(Batch(torch.randn(3000, 3), torch.arange(3000) % 4 - 1))
    labels = torch.arange(3000) % 4 - 1
    assert seen[0][labels < 0].abs().max() < 9
    for label in range(CLASSES):
        assert (seen[0][labels == label] - 10.0 * (label + 1)).abs().max() < 9


def test_rows_without_a_label_are_no_rows_for_a_decoder_that_reads_them(tmp_path):
    with pytest.raises(ConfigurationError, match=r"^labels: a row has no label; the model knows 0\.\.3"):
        trainer(tmp_path, max_steps=1).fit(aae(labels="decoder"), Given([blobs(8, labelled=4)]))


def test_hidden_labels_are_nothing_for_a_model_that_reads_them_all(tmp_path):
    with pytest.raises(ConfigurationError, match=r"^data\.labels: 1200, and the model reads the label of every row"):
        trainer(tmp_path, max_steps=1).fit(aae(labels="decoder"), Digits(batch_size=4, labels=1200))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": "encoder"}, "labels: 'encoder'"),
        ({"loss": "wassertsein"}, "loss: 'wassertsein'"),
        ({"players": AAEPlayers(generator=Player(steps=2))}, r"players\.generator\.steps: 2"),
        ({"players": AAEPlayers(discriminator=Player(steps=0))}, r"players\.discriminator\.steps: 0"),
    ],
)
def test_what_makes_no_sense_is_named(options, message):
    with pytest.raises(ConfigurationError, match=f"^{message}"):
        aae(**options)


def test_the_decoder_reads_the_label_and_the_code_does_not():
    model = perturbed(aae(labels="decoder", data_shape=(3,), classes=CLASSES))
    x, y = torch.randn(6, 3), torch.arange(6) % CLASSES
    z = model.encode(x, draws=1)[0]
    assert (model.decode(z, y) != model.decode(z, (y + 1) % CLASSES)).all()
    torch.manual_seed(1)
    codes = model.sample_codes(6, y)
    torch.manual_seed(1)
    assert codes.shape == (6, 2) and torch.equal(codes, model.prior().sample((6,)))
    torch.manual_seed(1)
    assert torch.equal(model.sample(6, [2, 0]), model.decode(codes, torch.tensor([2, 0] * 3)))


@pytest.mark.parametrize("stage", ["val", "test"])
@pytest.mark.parametrize("make", [partial(aae, labels="prior", prior=PetalPrior), categorical])
def test_labels_of_evaluation_are_checked_too(tmp_path, make, stage):
    data = Given([blobs(8)], **{stage: blobs(8)._replace(y=torch.full((8,), KINDS))})
    run, model = trainer(tmp_path), make(data_shape=(KINDS,), classes=KINDS)
    with pytest.raises(ConfigurationError, match=f"a row has the label {KINDS}; the model knows"):
        (run.validate if stage == "val" else run.test)(model, data)


def test_new_data_without_labels_is_encoded_where_the_decoder_alone_reads_them(tmp_path):
    model = aae(labels="decoder", data_shape=(KINDS,), classes=KINDS)
    (found,) = trainer(tmp_path).predict(model, Given([blobs(8)._replace(y=None)]))
    assert found["z"].shape == (8, 2)
