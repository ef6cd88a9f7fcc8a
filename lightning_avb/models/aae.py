"""Adversarial autoencoders (Makhzani et al. 2015).

An autoencoder x -> z -> x learns to reconstruct while a discriminator T(z) makes the codes of the data look like draws
of a prior. Only draws of p(z) are needed, no density. Three players in two phases of a batch:

    autoencoder:    -log p(x|z),                                z ~ q(z|x),
    discriminator:  -log sigmoid T(z) - log sigmoid -T(z_p),    z ~ q(z|x), constant, and z_p ~ p(z),
    generator:      what an encoder loses that is found out, see `adversarial_loss`; T's weights constant.

The generator is the encoder once more, with an optimizer of its own. T sees no x, so that its optimum is
T* = log q(z) - log p(z) with the aggregated posterior q(z) = E_x q(z|x), and what the encoder can learn from it is a
divergence of q(z) from p(z). In its `kl` form that is

    KL(q(z), p(z)) = E_x KL(q(z|x), p(z)) - I(x; z):

adversarial variational Bayes with a critic that is blind to x. The mutual information is left to grow, so q(z|x) does
not become the posterior, and no bound of log p(x) comes out; the codes as a whole follow the prior.

Labels can enter in two places: the discriminator is told which part of the prior a labelled code belongs to (section
2.3), or the decoder is told the label, and the code keeps the style (section 4).

`CategoricalAAE` (sections 5 to 7) has codes of two parts, a category y with q(y|x) = softmax and a style z, with a
discriminator each. Where labels are known a third phase moves the encoder by -log q(y|x), the `classifier`;
without it the categories become clusters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
import torchmetrics
from pytorch_lightning.utilities import CombinedLoader
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from .. import noise
from ..batch import Batch, Shape
from ..conditionals import (
    CategoricalEncoder,
    DecoderRecipe,
    DeterministicEncoder,
    EncoderRecipe,
    GaussianDecoder,
    PriorRecipe,
    StandardNormal,
)
from ..conditionals.categorical import crowding
from ..errors import ConfigurationError, at_least, check_weights
from ..game import Cosine, Phase, Play, Player
from ..networks import MLP, InputNoise, Network, check_rows_apart, keep_statistics
from ..objectives import (
    AdversarialForm,
    adversarial_loss,
    critic_accuracy,
    density_ratio_loss,
    local_distributional_smoothness,
    marginal_divergence,
    opposed,
)
from .latent import LatentVariableModel, check_draws, make_prior

ADAM = partial(torch.optim.Adam, fused=True)
OPPOSED = partial(ADAM, betas=(0.5, 0.999))
"""A short memory of gradients that change as the opponent does."""
NETWORK = partial(MLP, activation="relu")
READER = partial(NETWORK, batch_norm=True)
DECODER = partial(GaussianDecoder, network=NETWORK, start=0.3, sigmoid=True)


@dataclass(frozen=True)
class AAEPlayers:
    """The players of an adversarial autoencoder.

    Args:
        autoencoder: encoder and decoder, for the reconstruction.
        generator: the encoder, against the discriminator.
        discriminator: T(z); its `steps` are steps a batch.
    """

    autoencoder: Player = Player(partial(ADAM, lr=3e-4), Cosine)
    generator: Player = Player(partial(OPPOSED, lr=1e-3), Cosine)
    discriminator: Player = Player(partial(OPPOSED, lr=1e-3), Cosine)


class AAE(LatentVariableModel):
    """Adversarial autoencoder.

    Args:
        latent_dim: dimensions of z.
        encoder: q(z|x), of any kind: deterministic, Gaussian, or a network of x and noise.
        decoder: p(x|z); the default is for pictures in [0, 1].
        discriminator: T(z), a network from z to a number.
        prior: p(z), without parameters to learn; a density is not needed.
        labels: what they do. `ignored`; `prior`: the discriminator is told which part of the prior a labelled code
            belongs to, and of a code without a label (-1) that it has none, which needs a prior with parts;
            `decoder`: the decoder is told, and every row must have one.
        loss: of the generator, see `adversarial_loss`.
        players: optimizer, schedule, clip norm and steps of `autoencoder`, `generator` and `discriminator`.
        weight_prior: see `LatentVariableModel`.
        accumulate: see `Game`.
        data_shape, classes: shape of a row of x and number of labels, where no DataModule tells them.

    Raises:
        ConfigurationError: a number or a name that makes no sense, with the argument's name.
    """

    prior: Any
    reads_labels = "labels"

    def __init__(
        self,
        latent_dim: int,
        encoder: EncoderRecipe = partial(DeterministicEncoder, network=READER),
        decoder: DecoderRecipe = DECODER,
        discriminator: Network = NETWORK,
        prior: PriorRecipe = StandardNormal,
        labels: Literal["ignored", "prior", "decoder"] = "ignored",
        loss: AdversarialForm = "non_saturating",
        players: AAEPlayers = AAEPlayers(),
        weight_prior: float | None = None,
        accumulate: int = 1,
        data_shape: Sequence[int] | None = None,
        classes: int | None = None,
    ) -> None:
        recipes = {"encoder": encoder, "decoder": decoder, "discriminator": discriminator, "prior": prior}
        super().__init__(latent_dim, recipes, labels == "decoder", 1, 0, weight_prior, players, accumulate)
        if labels not in ("ignored", "prior", "decoder"):
            raise ConfigurationError(f"labels: {labels!r} is none of 'ignored', 'prior', 'decoder'")
        adversarial_loss(torch.zeros(()), loss)
        self.labels, self.loss = labels, loss
        self._label_seen = False
        self._one_step_each(but="discriminator", least=1)
        self._build_for(data_shape=data_shape, classes=classes)

    def build(self, data_shape: Shape) -> None:
        if self.labels != "ignored" and not self.hparams.get("classes"):
            raise ConfigurationError(f"labels: {self.labels!r}, and the data has none")
        self.encoder = self.recipes["encoder"](data_shape, self.latent_dim, 0)
        self.decoder = self.recipes["decoder"](data_shape, self.latent_dim, self.classes)
        self.prior = make_prior(self.recipes["prior"], self.latent_dim)
        check_draws(self.prior, self.latent_dim)
        self.kinds = self._kinds()
        self.discriminator = self.recipes["discriminator"]((self.latent_dim,), (), self.kinds)
        check_rows_apart(discriminator=self.discriminator)

    def _kinds(self) -> int:
        """The length of what the discriminator is told of a row's label; the last stands for none."""
        if self.labels != "prior":
            return 0
        classes = self.hparams["classes"]
        if getattr(self.prior, "parts", 0) < classes:
            raise ConfigurationError(
                f"labels: 'prior' needs a prior with a part for each of {classes} labels, as PetalPrior and "
                f"SwissRollPrior have them; {type(self.prior).__name__} has {getattr(self.prior, 'parts', 'none')}"
            )
        return classes + 1

    @property
    def labels_read(self) -> int:
        return 0 if self.labels == "ignored" else (self.hparams.get("classes") or 0)

    def configure_model(self) -> None:
        super().configure_model()
        labelled = getattr(getattr(self._trainer, "datamodule", None), "labelled_rows", None)
        if self.labels == "prior" and labelled == 0:
            raise ConfigurationError("labels: 'prior', and not one training row has a label")
        self._label_seen = bool(labelled)

    def on_train_start(self) -> None:
        super().on_train_start()
        self._label_seen |= self.global_step > 0

    def _check(self, batch: Batch, batch_idx: int) -> None:
        if self.labels == "decoder" and self.trainer.predicting:
            return  # the encoder reads no label
        super()._check(batch, batch_idx)
        if self.labels != "prior" or self.trainer.predicting:
            return
        batch = Batch(*batch)
        self._check_labels(batch, least=-1)
        if self.trainer.training and not self._label_seen and batch.y is not None:
            self._label_seen = bool((batch.y >= 0).any())

    def on_train_epoch_end(self) -> None:
        whole = self.trainer.limit_train_batches == 1.0  # type: ignore[attr-defined]
        if whole and self.trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self._expect_a_label()

    def on_train_end(self) -> None:
        self._expect_a_label()

    def _expect_a_label(self) -> None:
        """Of a datamodule that does not tell how many rows have one."""
        if self.labels != "prior" or self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if not self.trainer.strategy.reduce_boolean_decision(self._label_seen, all=False):
            raise ConfigurationError("labels: 'prior', and not one training row so far had a label")

    def cast(self) -> dict[str, Sequence[nn.Module]]:
        return {
            "autoencoder": [self.encoder, self.decoder],
            "generator": [self.encoder],
            "discriminator": [self.discriminator],
        }

    def phases(self) -> list[Phase]:
        more = self.players["discriminator"].steps - 1
        return [
            Phase(("autoencoder",), self.reconstruct),
            Phase(("generator", "discriminator"), self.regularise),
            *[Phase(("discriminator",), self.discriminate)] * more,
        ]

    def reconstruct(self, batch: Batch) -> Play:
        log_likelihood = self.log_likelihood(batch, self.encoder(batch.x).rsample((1,)))
        loss = self.weight_penalty - log_likelihood
        return Play({"autoencoder": loss}, {"reconstruction": -log_likelihood})

    def contest(self, batch: Batch, z: Tensor) -> Contest:
        """The codes of a batch, `(1, batch, latent_dim)`, against draws of the prior."""
        (real,), context = self.prior().sample((1, len(batch.x))), None
        if self.labels == "prior":
            y = batch.y if batch.y is not None else torch.full(batch.x.shape[:1], -1, device=batch.x.device)
            (part,) = self.prior.given(y.clamp_min(0)).sample((1,))
            real = torch.where((y < 0).unsqueeze(-1), real, part)
            context = one_hot(y.remainder(self.kinds), self.kinds).to(batch.x)
        return contest(self.discriminator, z[0], real, context, self.loss)

    def regularise(self, batch: Batch) -> Play:
        found = self.contest(batch, self.encoder(batch.x).rsample((1,)))
        losses = {"generator": found.generator, "discriminator": found.discriminator}
        return Play(losses, {"discriminator_accuracy": found.accuracy})

    def discriminate(self, batch: Batch) -> Play:
        with torch.no_grad():
            z = self.encoder(batch.x).rsample((1,))
        return Play({"discriminator": self.contest(batch, z).discriminator}, {})

    def scores(self, batch: Batch) -> dict[str, Tensor]:
        z = self.encoder(batch.x).rsample((1,))
        found = self.contest(batch, z)
        return {
            "reconstruction": -self.log_likelihood(batch, z),
            "generator_loss": found.generator,
            "discriminator_loss": found.discriminator,
            "discriminator_accuracy": found.accuracy,
        }


class Contest(NamedTuple):
    """How generated draws fared against real ones, each `(batch,)`.

    Attributes:
        generator: the loss of who generates.
        discriminator: the discriminator's loss.
        accuracy: how often it is right: 0.5 where it cannot tell them apart.
    """

    generator: Tensor
    discriminator: Tensor
    accuracy: Tensor


def contest(
    discriminator: nn.Module, generated: Tensor, real: Tensor, context: Tensor | None, form: AdversarialForm
) -> Contest:
    """A discriminator T, high on what is generated, between two players; both losses from one pass through it.

    Args:
        discriminator: maps `(2, batch, dim)` and the context of the rows to `(2, batch)`.
        generated, real: `(batch, dim)`.
        context: `(batch, context_dim)`, what the discriminator knows besides, or None.
        form: of the generator's loss.
    """
    drawn = torch.stack([generated, real.to(generated)])
    for_generator, for_discriminator = opposed(discriminator, (drawn,), context)
    return Contest(
        adversarial_loss(for_generator[0], form),
        density_ratio_loss(*for_discriminator),
        critic_accuracy(*for_discriminator),
    )


@dataclass(frozen=True)
class CategoricalAAEPlayers:
    """The players of an adversarial autoencoder with categories.

    Args:
        autoencoder: encoder and decoder, for the reconstruction.
        generator: the encoder, against both discriminators.
        discriminator: T(y) and T(z).
        classifier: the encoder, for the labels; clusters have none.
    """

    autoencoder: Player = Player(partial(ADAM, lr=3e-3), Cosine)
    generator: Player = Player(partial(OPPOSED, lr=6e-4), Cosine)
    discriminator: Player = Player(partial(OPPOSED, lr=6e-4), Cosine)
    classifier: Player = Player(partial(ADAM, lr=1e-3), Cosine)


class CategoricalAAE(LatentVariableModel):
    """Adversarial autoencoder whose codes are a category y and a style z: semi-supervised, or clustering.

    A batch begins with the `labelled_per_batch` labelled rows that its DataModule speaks of, for the classifier; the
    rest is for everything else. Where that is 0, all rows are for everything.

    Args:
        latent_dim: dimensions of the style z.
        categories: None: as many as the data has labels, which the classifier learns. A number: so many clusters;
            labels then serve to count errors in validation and test, and for nothing else.
        encoder: a network from x to the logits of q(y|x) and to z; the default has noise and dropout, for few labels.
        decoder: p(x|y, z); the default is for pictures in [0, 1].
        discriminator: a network from y, or from z, to a number; both discriminators are of this kind.
        prior: p(z), without parameters to learn; p(y) is uniform.
        code: what the decoder gets. `pair`: y and z side by side. `sum`: z + W y with a cluster head, a column of W,
            for every category: the data in `latent_dim` dimensions (section 7).
        head_distance: cluster heads begin at least so far apart, and cost the distance that is missing where they are
            nearer; 0: neither.
        category, style: weights of the two contests in the generator's loss; 0: without that contest and its
            discriminator.
        smoothness: weight, in the generator's loss, of the change of q(y|x) within `radius` of a row in the worst
            direction, see `local_distributional_smoothness`; 0: none. The papers on adversarial autoencoders have no
            such term.
        radius: of that change, in the units of x.
        balance: weight, in the generator's loss, of KL(q(y), p(y)) with q(y) the mean over a process's batch; 0: none.
            The discriminator T(y) judges rows one by one, and gives a category that died no gradient to come back.
        loss, players, weight_prior: see `AAE`.
        data_shape, classes: shape of a row of x and number of labels, where no DataModule tells them.

    Raises:
        ConfigurationError: a number or a name that makes no sense, with the argument's name.
    """

    encoder: CategoricalEncoder
    members: Any
    reads_labels = "classes"

    def __init__(
        self,
        latent_dim: int,
        categories: int | None = None,
        encoder: Network = partial(InputNoise, network=partial(READER, dropout=0.2), normal=0.1),
        decoder: DecoderRecipe = DECODER,
        discriminator: Network = NETWORK,
        prior: PriorRecipe = StandardNormal,
        code: Literal["pair", "sum"] = "pair",
        head_distance: float = 0.0,
        category: float = 1.0,
        style: float = 1.0,
        smoothness: float = 0.0,
        radius: float = 1.5,
        balance: float = 0.0,
        loss: AdversarialForm = "non_saturating",
        players: CategoricalAAEPlayers = CategoricalAAEPlayers(),
        weight_prior: float | None = None,
        data_shape: Sequence[int] | None = None,
        classes: int | None = None,
    ) -> None:
        recipes = {"encoder": encoder, "decoder": decoder, "discriminator": discriminator, "prior": prior}
        super().__init__(latent_dim, recipes, False, 1, 0, weight_prior, players, 1)
        if categories is not None:
            at_least(2, categories=categories)
        if code not in ("pair", "sum"):
            raise ConfigurationError(f"code: {code!r} is neither 'pair' nor 'sum'")
        if head_distance and code == "pair":
            raise ConfigurationError(f"head_distance: {head_distance}; a distance with code: sum, 0 without")
        weights = {"category": category, "style": style}
        check_weights(**weights, smoothness=smoothness, balance=balance, head_distance=head_distance)
        if not 0 < radius < math.inf:
            raise ConfigurationError(f"radius: {radius} is not a distance")
        adversarial_loss(torch.zeros(()), loss)
        if not category and not style:
            raise ConfigurationError("category, style: both are 0, which leaves the discriminators nothing to judge")
        self.contested = {part: weight for part, weight in weights.items() if weight}
        self.smoothness, self.balance, self.radius = smoothness, balance, radius
        self.clusters, self.code, self.head_distance, self.loss = categories, code, head_distance, loss
        self.labelled = 0
        self._one_step_each(but="discriminator", least=1)
        self._build_for(data_shape=data_shape, classes=classes)

    @property
    def labels_read(self) -> int:
        return self.hparams.get("classes") or 0

    @property
    def categories(self) -> int:
        """The number of categories, labels or clusters."""
        return self.clusters or self.hparams["classes"]

    @property
    def code_dim(self) -> int:
        return self.latent_dim + (self.categories if self.code == "pair" else 0)

    def build(self, data_shape: Shape) -> None:
        classes = self.hparams.get("classes")
        if self.clusters is None and not classes:
            raise ConfigurationError("categories: the data has no labels; say how many clusters there are to be")
        if self.clusters is None:
            at_least(2, classes=self.labels_read)
        if self.clusters is not None and classes and self.clusters < classes:
            raise ConfigurationError(f"categories: {self.clusters} clusters are fewer than the {classes} classes")
        self.encoder = CategoricalEncoder(
            data_shape, self.latent_dim, self.categories, self.recipes["encoder"], self.code == "sum"
        )
        if self.smoothness:
            _check_noiseless(self.encoder)
        if self.head_distance:
            # An autoencoder that learns slowly would not get them apart.
            self.encoder.place_heads(self.head_distance)
        self.decoder = self.recipes["decoder"](data_shape, self.code_dim, 0)
        self.prior = make_prior(self.recipes["prior"], self.latent_dim)
        check_draws(self.prior, self.latent_dim)
        dims = {"category": self.categories, "style": self.latent_dim}
        self.discriminators = nn.ModuleDict(
            {part: self.recipes["discriminator"]((dims[part],), (), 0) for part in self.contested}
        )
        check_rows_apart(discriminator=self.discriminators)
        self.members = nn.ModuleDict({stage: Members(self.categories, classes or 1) for stage in ("val", "test")})

    def configure_model(self) -> None:
        super().configure_model()
        labelled = getattr(getattr(self._trainer, "datamodule", None), "labelled_per_batch", None)
        self.labelled = at_least(0, **{"data.labelled_per_batch": labelled or 0})
        if self.labelled and self.clusters:
            raise ConfigurationError("data.labelled_per_batch: clusters learn from no labels; leave it at 0")

    def cast(self) -> dict[str, Sequence[nn.Module]]:
        encoder = self.encoder.network
        return {
            "autoencoder": [self.encoder, self.decoder],
            "generator": [encoder],
            "discriminator": [self.discriminators],
            "classifier": [] if self.clusters else [encoder],
        }

    def phases(self) -> list[Phase]:
        more = self.players["discriminator"].steps - 1
        return [
            Phase(("autoencoder",), self.reconstruct),
            Phase(("generator", "discriminator"), self.regularise),
            *[Phase(("discriminator",), self.discriminate)] * more,
            *([] if self.clusters else [Phase(("classifier",), self.classify)]),
        ]

    def _labelled(self, batch: Batch) -> Batch:
        return batch.first(self.labelled) if self.labelled else batch

    def _unlabelled(self, batch: Batch) -> Batch:
        return batch.at(slice(self.labelled, None))

    def reconstruct(self, batch: Batch) -> Play:
        batch = self._unlabelled(batch)
        log_likelihood = self.log_likelihood(batch, self.encoder(batch.x).rsample((1,)))
        loss = self.weight_penalty + self._crowding - log_likelihood
        return Play({"autoencoder": loss}, {"reconstruction": -log_likelihood})

    @property
    def _crowding(self) -> Tensor | float:
        """By how much cluster heads are nearer to each other than `head_distance`, the sum over pairs."""
        if not self.head_distance:
            return 0.0
        assert self.encoder.cluster_heads is not None
        return crowding(self.encoder.cluster_heads.weight.T, self.head_distance)

    def contests(self, logits: Tensor, z: Tensor) -> dict[str, Contest]:
        """Categories and styles of a batch, as the encoder's heads give them, each against draws of its prior.

        Those that weigh nothing are left out.
        """
        found = {}
        for part, discriminator in self.discriminators.items():
            if part == "category":
                generated, real = logits.softmax(-1), one_hot(self._draw_categories(z), self.categories)
            else:
                generated, (real,) = z, self.prior().sample((1, len(z)))
            found[part] = contest(discriminator, generated, real, None, self.loss)
        return found

    def _draw_categories(self, x: Tensor) -> Tensor:
        """`(batch,)` from the uniform distribution."""
        uniform = torch.special.ndtr(noise.normal((1, len(x), 1), x.new_zeros((), dtype=torch.float32)))[0, :, 0]
        return (uniform * self.categories).long().clamp_max(self.categories - 1)

    def regularise(self, batch: Batch) -> Play:
        x = self._unlabelled(batch).x
        logits, z = self.encoder.heads(x)
        found = self.contests(logits, z)
        generator = torch.stack([self.contested[part] * of.generator for part, of in found.items()]).sum(0)
        scores = _accuracies(found)
        if self.smoothness:
            with keep_statistics(self.encoder):
                change = local_distributional_smoothness(lambda x: self.encoder.heads(x)[0], x, logits, self.radius)
            generator, scores["smoothness"] = generator + self.smoothness * change, change
        if self.balance:
            generator = generator + self.balance * marginal_divergence(logits)
        return Play({"generator": generator, "discriminator": _discriminating(found)}, scores)

    def discriminate(self, batch: Batch) -> Play:
        with torch.no_grad():
            heads = self.encoder.heads(self._unlabelled(batch).x)
        return Play({"discriminator": _discriminating(self.contests(*heads))}, {})

    def classify(self, batch: Batch) -> Play:
        labelled = self._labelled(batch)
        logits, _ = self.encoder.heads(labelled.x)
        assert labelled.y is not None
        error = (logits.argmax(-1) != labelled.y).float()
        return Play({"classifier": cross_entropy(logits, labelled.y, reduction="none")}, {"error": error})

    def scores(self, batch: Batch) -> dict[str, Tensor]:
        logits, z = self.encoder.heads(batch.x)
        reconstruction = -self.log_likelihood(batch, self.encoder.join(logits.softmax(-1), z))
        return {"reconstruction": reconstruction, **_accuracies(self.contests(logits, z))}

    # Errors: of the labels, or of clusters that are called by the label of their surest member.

    def _check(self, batch: Batch, batch_idx: int) -> None:
        super()._check(batch, batch_idx)
        if self.trainer.predicting:
            return
        batch = Batch(*batch)
        self._check_labels(batch, least=-1)
        if self.trainer.training and len(batch.x) <= self.labelled:
            raise ConfigurationError(
                f"data.labelled_per_batch: {self.labelled} of a batch of {len(batch.x)} rows leave none without a label"
            )
        y = self._labelled(batch).y
        if self.trainer.training and not self.clusters and (y is None or not (y >= 0).all()):
            raise ConfigurationError(
                f"data.labelled_per_batch: {self.labelled}, and there are rows without a label; let the datamodule say "
                "how many rows of a batch are labelled ones, or the model how many categories there are without labels"
            )

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        super().validation_step(batch, batch_idx)
        self._count("val", Batch(*batch))

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        super().test_step(batch, batch_idx)
        self._count("test", Batch(*batch))

    def _count(self, stage: str, batch: Batch) -> None:
        batch = batch.counted
        if batch.y is not None and len(batch.x):
            self.members[stage].update(self.encoder.heads(batch.x)[0], batch.y)

    def on_validation_epoch_start(self) -> None:
        self.members["val"].reset()

    def on_validation_epoch_end(self) -> None:
        self._log_error("val")

    def on_test_epoch_start(self) -> None:
        """Clusters get their labels from the validation data."""
        self.members["test"].reset()
        if not self.clusters:
            return
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if data is None:
            raise ConfigurationError("data: clusters are called by validation rows; test them with a datamodule")
        self.members["val"].reset()
        data.setup("validate")
        for batch, _, loader in CombinedLoader(data.val_dataloader(), "sequential"):
            batch = self._on_before_batch_transfer(self.trainer.precision_plugin.convert_input(batch), loader)
            batch = Batch(*self.trainer.strategy.batch_to_device(batch, dataloader_idx=loader))
            self._check_labels(batch, least=-1)
            self._count("val", batch)

    def on_test_epoch_end(self) -> None:
        self._log_error("test")

    def _log_error(self, stage: str) -> None:
        if not self.members[stage].update_called:
            return
        counts, _ = self.members[stage].compute()
        known, label = self.members["val"].compute() if self.clusters else (counts, torch.arange(self.categories))
        if known.any() and counts.any():
            right = counts[torch.arange(self.categories), label].sum()
            self.log(f"{stage}/error", 1 - right / counts.sum(), prog_bar=True, sync_dist=True)

    # Codes.

    @property
    def choices(self) -> int:
        return self.categories

    def code_of(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """`(count, code_dim)` codes of styles z `(count, latent_dim)` and categories y `(count,)`; None: drawn ones."""
        y = self._draw_categories(z) if y is None else y
        return self.encoder.join(one_hot(y, self.categories).to(z), z)

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """The code of a row, `z` `(batch, code_dim)`, its `category` and that one's `probability`, `y` and `index`."""
        batch = Batch(*batch)
        probability, category = self.encoder.heads(batch.x)[0].softmax(-1).max(-1)
        return {**super().predict_step(batch, batch_idx), "category": category, "probability": probability}


def _discriminating(found: dict[str, Contest]) -> Tensor:
    return torch.stack([of.discriminator for of in found.values()]).sum(0)


def _accuracies(found: dict[str, Contest]) -> dict[str, Tensor]:
    return {f"{name}_accuracy": part.accuracy for name, part in found.items()}


def _check_noiseless(encoder: nn.Module) -> None:
    for part in encoder.modules():
        dropout = isinstance(part, nn.modules.dropout._DropoutNd) and part.p
        if dropout or (isinstance(part, InputNoise) and part.normal):
            raise ConfigurationError(
                "smoothness: noise in the encoder would drown the change it looks for; leave noise and dropout at 0"
            )


class Members(torchmetrics.Metric):
    """How many rows of each label every category holds, and the label of its surest row.

    Args:
        categories, classes: how many.
    """

    full_state_update = False

    def __init__(self, categories: int, classes: int) -> None:
        super().__init__()
        self.categories, self.classes = categories, classes
        self.counts: Tensor
        self.surest: Tensor
        self.add_state("counts", torch.zeros(categories, classes, dtype=torch.int64), dist_reduce_fx="sum")
        empty = torch.tensor([-torch.inf, 0.0], dtype=torch.float64).repeat(categories, 1)
        self.add_state("surest", empty, dist_reduce_fx=_surest)

    def update(self, logits: Tensor, y: Tensor) -> None:
        """Rows with q(y|x) by its logits, `(batch, categories)`, and their labels; -1: not counted."""
        logits, y = logits[y >= 0].double(), y[y >= 0]
        cell = logits.argmax(-1) * self.classes + y
        self.counts += cell.bincount(minlength=self.counts.numel()).view_as(self.counts)
        if len(y):
            # Probabilities are 1 to the last digit for many rows; their odds still differ.
            others = torch.eye(self.categories, dtype=torch.bool, device=y.device)
            odds = logits - logits.unsqueeze(-2).masked_fill(others, -torch.inf).logsumexp(-1)
            best, row = odds.max(0)
            self.surest = _surest(torch.stack([self.surest, torch.stack([best, y[row].double()], -1)]))

    def compute(self) -> tuple[Tensor, Tensor]:
        """Counts `(categories, classes)`, and the label of each category's surest row, `(categories,)`."""
        return self.counts, self.surest[:, 1].long()


def _surest(found: Tensor) -> Tensor:
    """Of `(processes, categories, 2)` odds and labels, the surest of every category."""
    best = found[..., 0].argmax(0)
    return found[best, torch.arange(found.shape[1], device=found.device)]
