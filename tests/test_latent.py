"""What all models with an encoder, a decoder and a prior do alike: labels, units, the prior on weights, drawing."""

from __future__ import annotations

import math
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from closed_forms import perturbed
from small_models import MODELS as ALL_MODELS
from small_models import trainer
from torch.distributions import Categorical, Distribution, Independent

from datamodules import Split, TensorDataModule
from lightning_avb import (
    AVB,
    MLP,
    VAE,
    Batch,
    DiscretizedLogisticDecoder,
    FlowEncoder,
    FlowPrior,
    GaussianContrast,
    GaussianDecoder,
    GaussianEncoder,
    MixturePrior,
    NoiseInjectionEncoder,
    PriorContrast,
    ResidualCritic,
    ScoreNetwork,
    SemiImplicitEncoder,
    noise,
)
from lightning_avb.capabilities import HasPrior, can
from lightning_avb.conditionals import Decoder
from lightning_avb.errors import ConfigurationError

SMALL = partial(MLP, hidden=(8,))
DECODER = partial(GaussianDecoder, network=SMALL)
CLASSES = 4


def vae(encoder=GaussianEncoder, **options):
    return VAE(2, partial(encoder, network=SMALL), **{"decoder": DECODER, "samples": 3, **options})


BLACK_BOX = partial(NoiseInjectionEncoder, hidden=(8,))
LOCATED = partial(SemiImplicitEncoder, network=SMALL, noise_hidden=(8,))


def avb(encoder, contrast=GaussianContrast, critic=ResidualCritic, **options):
    critic = partial(critic, width=8, network=SMALL)
    return AVB(2, encoder, critic=critic, contrast=contrast, **{"decoder": DECODER, "samples": 3, **options})


MODELS = {
    "vae": vae,
    "vae, sgvb a": partial(vae, estimator="monte_carlo", prior=MixturePrior),
    "iwae": partial(vae, FlowEncoder, estimator="importance_weighted", prior=partial(FlowPrior, flow_hidden=(8,))),
    "avb": partial(avb, BLACK_BOX, PriorContrast),
    "avb, adaptive contrast": partial(avb, BLACK_BOX),
    "avb, located": partial(avb, LOCATED, prior=MixturePrior),
    "avb, score": partial(avb, LOCATED, critic=ScoreNetwork, prior=MixturePrior),
}
every_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


def learned(model, batch):
    torch.manual_seed(1)
    return model.learn(batch)


def scored(model, batch):
    torch.manual_seed(1)
    return model.scores(batch)


def gradients(play, model):
    """Of the summed losses by every parameter, by name."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    loss = sum(loss.mean() for loss in play.losses.values())
    return dict(zip(names, torch.autograd.grad(loss, parameters, materialize_grads=True), strict=True))


class Table(TensorDataModule):
    """24 rows of three numbers with a label; some labels may be unknown, and the columns may have had other units."""

    data_shape = (3,)

    def __init__(self, classes: int | None = CLASSES, unlabelled: str = "", volume: float = 0.0) -> None:
        super().__init__(batch_size=8, eval_batch_size=8)
        self.classes, self.unlabelled, self.volume = classes, unlabelled, volume

    @property
    def log_jacobian(self) -> float:
        return self.volume

    def load(self) -> dict[str, Split]:
        x = torch.randn(24, 3, generator=torch.Generator().manual_seed(0))
        y = torch.arange(24) % CLASSES
        unknown = torch.full_like(y, -1)
        return {stage: Split(x, unknown if stage == self.unlabelled else y) for stage in ("train", "val", "test")}


# The prior on the decoder's weights.


@pytest.mark.usefixtures("float64")
@every_model
def test_map_adds_the_weights_over_the_rows(make):
    """Loss |theta|^2 / (2 sigma^2 N) and gradient theta / (sigma^2 N), of the decoder and of nothing else."""
    sigma, rows, batch = 0.7, 50, Batch(torch.randn(5, 3))
    model = perturbed(make(weight_prior=sigma, data_shape=(3,)))
    model.train_rows = rows
    play = learned(model, batch)
    model.weight_prior = None
    without = learned(model, batch)
    squares = sum(parameter.square().sum() for parameter in model.decoder.parameters())
    penalty = squares / (2 * sigma**2 * rows)
    torch.testing.assert_close(play.losses["model"], without.losses["model"] + penalty)
    for name in set(play.losses) - {"model"}:
        assert torch.equal(play.losses[name], without.losses[name])
    for name, score in play.scores.items():
        assert torch.equal(score, without.scores[name]), name
    ours, theirs = gradients(play, model), gradients(without, model)
    for name, parameter in model.named_parameters():
        extra = parameter.detach() / (sigma**2 * rows) if name.startswith("decoder.") else 0
        torch.testing.assert_close(ours[name], theirs[name] + extra, rtol=1e-9, atol=1e-12)


@every_model
def test_map_learns_the_number_of_rows_from_the_data(tmp_path, make):
    model = make(weight_prior=1.0)
    trainer(tmp_path, max_steps=1).fit(model, Table())
    assert model.train_rows == 24


@every_model
def test_map_without_the_number_of_rows_evaluates_and_refuses_to_learn(make):
    model, batch = make(weight_prior=1.0, data_shape=(3,)), Batch(torch.randn(5, 3))
    with pytest.raises(ConfigurationError, match=r"^weight_prior: needs a datamodule that gives"):
        model.learn(batch)
    with torch.no_grad():
        assert model.scores(batch)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_a_prior_on_weights_without_width_is_refused(value):
    with pytest.raises(ConfigurationError, match=f"^weight_prior: {value}"):
        vae(weight_prior=value)


# Units.


@pytest.mark.usefixtures("float64")
@every_model
def test_log_jacobian_moves_the_bounds_and_no_gradient(make):
    model, batch = perturbed(make(data_shape=(3,))), Batch(torch.randn(5, 3))
    before, evaluated = learned(model, batch), scored(model, batch)
    model.log_jacobian.fill_(1.7)
    after, evaluated_after = learned(model, batch), scored(model, batch)
    for scores, shifted in ((before.scores, after.scores), (evaluated, evaluated_after)):
        for name, score in shifted.items():
            bound = name.startswith("elbo") or name == "iw_bound"
            shift = 1.7 if bound else -1.7 if name == "reconstruction" else 0.0
            torch.testing.assert_close(score, scores[name] + shift)
    assert {"elbo", "elbo_estimate", "elbo_lower"} & set(evaluated_after)
    for one, other in zip(*(gradients(play, model).values() for play in (before, after)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_log_jacobian_comes_from_the_data_and_stays_with_the_weights(tmp_path):
    model = vae()
    run = trainer(tmp_path, max_steps=1)
    run.fit(model, Table(volume=-2.5))
    assert model.log_jacobian == -2.5
    run.save_checkpoint(tmp_path / "x.ckpt")
    assert VAE.load_from_checkpoint(tmp_path / "x.ckpt").log_jacobian == -2.5


class UniformDecoder(Decoder):
    """All 256 grey values are alike, whatever z."""

    levels = 256

    def __init__(self, data_shape, latent_dim, classes=0):
        super().__init__(classes)
        self.data_shape = data_shape

    def forward(self, z, y=None) -> Distribution:
        probabilities = torch.ones(*z.shape[:-1], *self.data_shape, 256)
        grey = Independent(Categorical(probabilities, validate_args=False), len(self.data_shape), validate_args=False)
        log_prob = grey.log_prob
        grey.log_prob = lambda x: log_prob((255 * x).round().long())
        return grey


@pytest.mark.parametrize("shape", [(3,), (1, 4, 5)])
@pytest.mark.parametrize("estimator", ["analytic", "importance_weighted"])
def test_a_model_without_a_clue_needs_eight_bits(shape, estimator):
    """As many as storing the bytes; what q tells of x comes on top."""
    model, x = vae(decoder=UniformDecoder, estimator=estimator, data_shape=shape), torch.randint(256, (5, *shape)) / 255
    last = model.encoder.network.layers[-1]
    torch.nn.init.zeros_(last.weight), torch.nn.init.zeros_(last.bias)
    bits = model.scores(Batch(x))["bits_per_dim"]
    torch.testing.assert_close(bits, torch.full_like(bits, 8.0))
    torch.nn.init.constant_(last.bias, 1.0)
    scores = model.scores(Batch(x))
    if estimator == "analytic":
        kl_in_bits = scores["kl"] / math.log(2)
        torch.testing.assert_close(scores["bits_per_dim"], (8 + kl_in_bits / math.prod(shape)).expand(3, 5))


@pytest.mark.usefixtures("float64")
@every_model
def test_bits_are_those_of_the_bound_and_only_for_levels(make):
    batch = Batch(torch.randint(256, (5, 3)) / 255)
    scores = perturbed(make(decoder=partial(DiscretizedLogisticDecoder, network=SMALL), data_shape=(3,))).scores(batch)
    pairs = {"elbo": "bits_per_dim", "elbo_lower": "bits_per_dim", "elbo_estimate": "bits_per_dim_estimate"}
    found = [name for name in pairs if name in scores]
    for name in found:
        bound = scores.get("iw_bound", scores[name])
        torch.testing.assert_close(scores[pairs[name]], -bound / (3 * math.log(2)))
    assert {name for name in scores if "bits" in name} == {pairs[name] for name in found} != set()
    assert not [name for name in make(data_shape=(3,)).scores(batch) if "bits" in name]


# Labels.


def labelled(make, **options):
    return perturbed(make(conditional=True, classes=CLASSES, data_shape=(3,), **options))


def with_labels(rows=5, shift=0):
    return Batch(torch.randn(rows, 3), (torch.arange(rows) + shift) % CLASSES, torch.arange(rows))


@pytest.mark.usefixtures("float64")
@every_model
def test_the_label_changes_q_and_p_and_t(make):
    model, batch = labelled(make), with_labels()
    other = batch._replace(y=(batch.y + 1) % CLASSES)
    z, kept = [], torch.randn(3, 5, 2)
    for of in (batch, other):
        with noise.use(noise.RowNoise(index=of.index)):
            z.append(model.encode(of.x, of.y, draws=1)[0])
    assert (z[0] != z[1]).all()
    assert (model.log_likelihood(batch, kept) != model.log_likelihood(other, kept)).all()
    assert (model.decode(kept, batch.y) != model.decode(kept, other.y)).all()
    if isinstance(model, AVB):
        p, q = model.prior(), model.encoder(batch.x, batch.y)  # the same posterior, judged under two labels
        terms = []
        for of in (batch, other):
            torch.manual_seed(1)
            terms.append(model.divergence.draw(p, q, 3, of.x, of.y)[1])
        assert (terms[0].losses["critic"] != terms[1].losses["critic"]).all()
        if model.divergence.critic.head.out_features == 1:
            assert (terms[0].on_posterior != terms[1].on_posterior).all()
            assert (terms[0].on_reference != terms[1].on_reference).all()


@every_model
def test_every_part_is_told_the_labels_of_its_rows(make):
    model, batch, told = labelled(make), with_labels(), []
    parts = {"encoder": model.encoder, "decoder": model.decoder}
    if hasattr(model, "density_ratio"):
        parts["contrast"] = model.density_ratio.contrast
    for name, part in parts.items():
        part.register_forward_pre_hook(lambda part, given, name=name: told.append((name, given[-1])))
    for play in (model.learn, model.scores, *([model.learn_critic] if isinstance(model, AVB) else [])):
        told.clear()
        play(batch)
        without = {"decoder"} if play.__name__ == "learn_critic" else set()
        assert {name for name, _ in told} == parts.keys() - without
        assert all(y is batch.y for _, y in told)


@pytest.mark.usefixtures("float64")
@every_model
def test_every_parameter_moves_in_a_conditional_model(make):
    model = labelled(make)
    without = make(data_shape=(3,))
    missed = [name for name, gradient in gradients(learned(model, with_labels()), model).items() if not gradient.any()]
    assert not missed
    assert sum(p.numel() for p in model.parameters()) > sum(p.numel() for p in without.parameters())


@pytest.mark.usefixtures("float64")
@every_model
def test_a_model_that_is_not_conditional_ignores_labels(make):
    model, batch = perturbed(make(data_shape=(3,), classes=CLASSES)), with_labels()
    assert model.classes == 0
    for one, other in zip(*(learned(model, of).losses.values() for of in (batch, batch._replace(y=None))), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("make", [MODELS["vae"], MODELS["avb, score"]], ids=["vae", "avb"])
@pytest.mark.parametrize("stage", ["train", "val", "test", "predict"])
def test_rows_without_a_label_are_refused(tmp_path, make, stage):
    run = trainer(tmp_path, max_steps=1, num_sanity_val_steps=0)
    data = Table(unlabelled="test" if stage == "predict" else stage)
    play = {"train": run.fit, "val": run.validate, "test": run.test, "predict": run.predict}[stage]
    with pytest.raises(ConfigurationError, match=r"^conditional: \d+ rows? ha(s|ve) no label \(row"):
        play(make(conditional=True), datamodule=data)


def test_labels_that_the_model_does_not_know_are_refused(tmp_path):
    run = trainer(tmp_path, max_steps=1)
    with pytest.raises(ConfigurationError, match=r"^conditional: the model knows 3 labels, the data has 4"):
        run.fit(vae(conditional=True, classes=3, data_shape=(3,)), Table())
    with pytest.raises(ConfigurationError, match=r"^classes: the configuration says 3, the data has 4"):
        trainer(tmp_path, max_steps=1).fit(vae(conditional=True, classes=3), Table())
    with pytest.raises(ConfigurationError, match=r"^data: row 3 \(train\) has the label 3; labels are 0 to 2"):
        trainer(tmp_path, max_steps=1).fit(vae(conditional=True), Table(classes=3))


def test_a_conditional_model_needs_labels(tmp_path):
    with pytest.raises(ConfigurationError, match=r"^conditional: the data has no labels"):
        vae(conditional=True, data_shape=(3,))
    with pytest.raises(ConfigurationError, match=r"^conditional: the data has no labels"):
        trainer(tmp_path, max_steps=1).fit(vae(conditional=True), Table(classes=None))


class Foreign(pl.LightningDataModule):
    """Somebody's own, which says nothing of itself."""

    def train_dataloader(self):
        return torch.utils.data.DataLoader([with_labels()], batch_size=None)


def test_a_datamodule_need_not_tell_what_the_model_knows(tmp_path):
    model = vae(conditional=True, classes=CLASSES, data_shape=(3,))
    run = trainer(tmp_path, max_steps=1)
    run.fit(model, Foreign())
    assert run.global_step == 1


@every_model
def test_a_conditional_model_comes_back_from_its_checkpoint(tmp_path, make):
    """It learned the number of labels from the data, and knows it without."""
    model = make(conditional=True)
    run = trainer(tmp_path, max_steps=2)
    run.fit(model, Table())
    assert model.classes == model.encoder.classes == model.decoder.classes == CLASSES
    run.save_checkpoint(tmp_path / "x.ckpt")
    torch.load(tmp_path / "x.ckpt", weights_only=True)
    again = type(model).load_from_checkpoint(tmp_path / "x.ckpt")
    assert again.classes == CLASSES and dict(again.hparams) == dict(model.hparams)
    assert again.state_dict().keys() == model.state_dict().keys()
    batch, encoded = with_labels(), []
    for of in (model, again):
        with noise.use(noise.RowNoise(index=batch.index)):
            encoded.append(torch.cat([of.encode(batch.x, batch.y, draws=1)[0], of.sample(5, labels=[3, 1])], -1))
    assert torch.equal(*encoded)
    longer = trainer(tmp_path, max_steps=4)
    longer.fit(make(conditional=True), Table(), ckpt_path=tmp_path / "x.ckpt")
    assert longer.global_step == 4


# Drawing.


class LabelDecoder(GaussianDecoder):
    """Its mean is the label in every place."""

    def forward(self, z, y=None):
        p = super().forward(z, y)
        p.base_dist.loc = torch.zeros_like(p.mean) + y.unsqueeze(-1)
        p.base_dist.scale = torch.full_like(p.mean, 0.01)
        return p


def test_labels_are_drawn_in_turn():
    model = vae(decoder=partial(LabelDecoder, network=SMALL), conditional=True, classes=CLASSES, data_shape=(3,))
    assert model.sample(6).tolist() == [[float(label)] * 3 for label in (0, 1, 2, 3, 0, 1)]
    assert model.sample(5, labels=[2, 0])[:, 0].tolist() == [2.0, 0.0, 2.0, 0.0, 2.0]
    drawn = model.sample(4, labels=[3], mean=False)
    assert (drawn != 3).all() and (drawn - 3).abs().max() < 0.1


@pytest.mark.parametrize("labels", [[], [0, 4], [-1]])
def test_labels_that_do_not_exist_are_refused(labels):
    model = vae(conditional=True, classes=CLASSES, data_shape=(3,))
    with pytest.raises(ConfigurationError, match=r"^labels: "):
        model.sample(2, labels=labels)


def test_labels_of_a_model_without_any_are_refused():
    with pytest.raises(ConfigurationError, match=r"^labels: the model is not class-conditional"):
        vae(data_shape=(3,)).sample(2, labels=[0])


@every_model
def test_samples_come_from_the_prior(make):
    model, seen = perturbed(make(data_shape=(3,))), []
    model.decoder.register_forward_pre_hook(lambda decoder, given: seen.append(given[0]))
    torch.manual_seed(1)
    assert model.sample(7).shape == (7, 3)
    torch.manual_seed(1)
    assert torch.equal(seen[0], model.prior().sample((7,)))


@pytest.mark.parametrize("name", ALL_MODELS)
def test_before_the_shape_is_known_a_model_says_what_it_waits_for(name):
    model = ALL_MODELS[name]()
    does = [task for task in ("encode", "decode", "sample") if hasattr(model, task)]
    assert not can(model, HasPrior) and does[-2:] == ["decode", "sample"]
    for task in does:
        with pytest.raises(AttributeError, match=r"when it knows the shape of the data: .*data_shape=\(\.\.\.\)"):
            getattr(model, task)(3 if task == "sample" else torch.zeros(3, 2))
    with pytest.raises(AttributeError, match="no attribute 'deocder'"):
        model.deocder  # noqa: B018
    with pytest.raises(ConfigurationError, match=f"{type(model).__name__} has {', '.join(does)}$"):
        model(torch.zeros(3, 2))


@pytest.mark.parametrize("name", ALL_MODELS)
@pytest.mark.parametrize(
    ("x", "found"),
    [
        (torch.zeros(3, 5), r"torch\.float32 \(3, 5\)"),
        (torch.zeros(4), r"torch\.float32 \(4,\)"),
        (torch.zeros(()), r"torch\.float32 \(\)"),
        (torch.zeros(3, 4, dtype=torch.uint8), r"torch\.uint8 \(3, 4\)"),
        ([[0.0] * 4], "list"),
    ],
)
def test_x_of_a_wrong_shape_or_type_is_named(name, x, found):
    model = ALL_MODELS[name](data_shape=(4,), classes=2)
    if hasattr(model, "encode"):
        with pytest.raises(ConfigurationError, match=rf"^x: {found}; a floating-point tensor \(batch, 4\) was ex"):
            model.encode(x)


def test_rows_of_a_wrong_shape_are_named_before_training(tmp_path):
    rows = torch.utils.data.DataLoader(torch.rand(16, 5), 8)
    with pytest.raises(ConfigurationError, match=r"x: torch\.float32 \(8, 5\); .* \(batch, 4\) was expected"):
        trainer(tmp_path, max_steps=1).fit(ALL_MODELS["gan"](data_shape=(4,)), rows)
