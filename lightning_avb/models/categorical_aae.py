"""Adversarial autoencoders with categories: semi-supervised, or clustering (Makhzani et al. 2015, sections 5 to 7).

As in `aae`, but a code has two parts, a category y with q(y|x) = softmax and a style z, with one discriminator each.
With labels, a third phase trains the encoder on -log q(y|x), as player `classifier`; without labels the categories
become clusters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from pytorch_lightning.utilities import CombinedLoader
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from .. import noise
from ..adversarial import AdversarialForm, AdversarialObjective, AdversarialTerms, Penalty
from ..batch import Batch, Shape
from ..conditionals import CategoricalEncoder, DecoderRecipe, PriorRecipe, StandardNormal
from ..errors import ConfigurationError, at_least, check_weights
from ..evaluation import CategoryErrors
from ..lightning_private import attached_datamodule, moved_batch
from ..networks import InputNoise, Network, check_no_batch_norm, check_noiseless, keep_statistics
from ..objectives import local_distributional_smoothness, marginal_divergence
from ..players import Cosine, Phase, PhaseResult, Player
from .aae import ADAM, ADAM_AGAINST_OPPONENT, DECODER, NETWORK, READER
from .latent import LatentVariableModel
from .made_priors import check_sampled_prior, make_prior


@dataclass(frozen=True)
class CategoricalAAEPlayers:
    """The players of an adversarial autoencoder with categories.

    Args:
        autoencoder: encoder and decoder, for the reconstruction.
        generator: the encoder, against both discriminators.
        discriminator: T(y) and T(z).
        classifier: the encoder, on the labels; not used for clusters.
    """

    autoencoder: Player = Player(partial(ADAM, lr=3e-3), Cosine)
    generator: Player = Player(partial(ADAM_AGAINST_OPPONENT, lr=6e-4), Cosine)
    discriminator: Player = Player(partial(ADAM_AGAINST_OPPONENT, lr=6e-4), Cosine)
    classifier: Player = Player(partial(ADAM, lr=1e-3), Cosine)


class CategoricalAAE(LatentVariableModel):
    """Adversarial autoencoder whose codes are a category y and a style z: semi-supervised, or clustering.

    The first `labelled_per_batch` rows of a batch, as the DataModule says, are labelled and train the classifier only;
    the others train everything else. If it is 0, all rows train everything.

    Args:
        latent_dim: dimensions of the style z.
        categories: None: one category per label of the data, which the classifier learns. A number: the number of
            clusters; labels are then only used to count errors in validation and test.
        encoder: a network from x to the logits of q(y|x) and to z; the default has noise and dropout, for few labels.
        decoder: p(x|y, z); the default is for pictures in [0, 1].
        discriminator: a network from y, or from z, to a number, for both discriminators.
        prior: p(z), without trainable parameters; p(y) is uniform.
        code: the decoder's input. `pair`: y and z, concatenated. `sum`: z + W y with one cluster head, a column of W,
            per category, which represents the data in `latent_dim` dimensions (section 7).
        head_distance: minimal distance of the cluster heads. They are initialised with it, and a smaller distance is
            added to the autoencoder's loss; 0: no minimum.
        category, style: weights of the two adversarial losses in the generator's loss; 0: without this loss and its
            discriminator.
        smoothness: weight, in the generator's loss, of the change of q(y|x) within `radius` of a row in the worst
            direction, see `local_distributional_smoothness`; 0: none. It is not in the papers on adversarial
            autoencoders.
        radius: of that change, in the units of x.
        balance: weight, in the generator's loss, of KL(q(y), p(y)), where q(y) is the mean over a process's batch; 0:
            none. The discriminator T(y) gets rows one by one, so an empty category gets no gradient from it.
        loss, gradient_penalty, penalty, weight_prior, compile: see `AAE`.
        players: optimizer, schedule, clip norm and steps, see `CategoricalAAEPlayers`.
        data_shape, classes: shape of a row of x and number of labels; needed without a DataModule.

    Raises:
        ConfigurationError: an argument out of range; the message names it.
    """

    encoder: CategoricalEncoder
    label_argument = "classes"

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
        gradient_penalty: float = 0.0,
        penalty: Penalty = "zero_centred",
        players: CategoricalAAEPlayers = CategoricalAAEPlayers(),
        weight_prior: float | None = None,
        compile: bool = False,
        data_shape: Sequence[int] | None = None,
        classes: int | None = None,
    ) -> None:
        recipes = {"encoder": encoder, "decoder": decoder, "discriminator": discriminator, "prior": prior}
        super().__init__(
            latent_dim=latent_dim, recipes=recipes, players=players, weight_prior=weight_prior, compile=compile
        )
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
        self.adversarial = AdversarialObjective(loss, gradient_penalty, penalty)
        if not category and not style:
            raise ConfigurationError("category, style: both are 0; one of them must be positive")
        self.adversarial_weights = {part: weight for part, weight in weights.items() if weight}
        self.smoothness, self.balance, self.radius = smoothness, balance, radius
        self.clusters, self.code, self.head_distance = categories, code, head_distance
        self.labelled_per_batch = 0
        self.require_one_step(except_for="discriminator", minimum=1)
        self.build_if_known(data_shape=data_shape, classes=classes)

    @property
    def labels_used(self) -> int:
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
            raise ConfigurationError("categories: the data has no labels; set it to the number of clusters")
        if self.clusters is None:
            at_least(2, classes=self.labels_used)
        if self.clusters is not None and classes and self.clusters < classes:
            raise ConfigurationError(f"categories: {self.clusters} clusters are fewer than the {classes} classes")
        self.encoder = CategoricalEncoder(
            data_shape, self.latent_dim, self.categories, self.recipes["encoder"], self.code == "sum"
        )
        if self.smoothness:
            check_noiseless(smoothness=self.encoder)
        if self.head_distance:
            # The loss alone would not separate them if the autoencoder learns slowly.
            self.encoder.place_heads(self.head_distance)
        self.decoder = self.recipes["decoder"](data_shape, self.code_dim, 0)
        self.prior = make_prior(self.recipes["prior"], self.latent_dim)
        check_sampled_prior(self.prior, self.latent_dim)
        dims = {"category": self.categories, "style": self.latent_dim}
        made = {part: self.recipes["discriminator"]((dims[part],), (), 0) for part in self.adversarial_weights}
        self.discriminators = nn.ModuleDict(made)
        check_no_batch_norm(discriminator=self.discriminators)
        self.errors = CategoryErrors(self.categories, classes or 1, clusters=self.clusters is not None)

    def configure_model(self) -> None:
        super().configure_model()
        labelled = self.data.labelled_per_batch
        self.labelled_per_batch = at_least(0, **{"data.labelled_per_batch": labelled or 0})
        if self.labelled_per_batch and self.clusters:
            raise ConfigurationError("data.labelled_per_batch: clusters learn from no labels; leave it at 0")

    def player_modules(self) -> dict[str, Sequence[nn.Module]]:
        encoder = self.encoder.network
        return {
            "autoencoder": [self.encoder, self.decoder],
            "generator": [encoder],
            "discriminator": [self.discriminators],
            "classifier": [] if self.clusters else [encoder],
        }

    def phases(self) -> list[Phase]:
        extra_steps = self.players["discriminator"].steps - 1
        return [
            Phase(("autoencoder",), self.autoencode),
            Phase(("generator", "discriminator"), self.regularise),
            *[Phase(("discriminator",), self.discriminate)] * extra_steps,
            *([] if self.clusters else [Phase(("classifier",), self.classify)]),
        ]

    def _labelled(self, batch: Batch) -> Batch:
        return batch.first(self.labelled_per_batch) if self.labelled_per_batch else batch

    def _unlabelled(self, batch: Batch) -> Batch:
        return batch.at(slice(self.labelled_per_batch, None))

    def autoencode(self, batch: Batch) -> PhaseResult:
        batch = self._unlabelled(batch)
        log_likelihood = self.log_likelihood(batch, self.encoder(batch.x).rsample((1,)))
        heads = self.encoder.head_penalty(self.head_distance) if self.head_distance else 0.0
        loss = self.weight_penalty + heads - log_likelihood
        return PhaseResult({"autoencoder": loss}, {"reconstruction": -log_likelihood})

    def terms(self, logits: Tensor, z: Tensor) -> dict[str, AdversarialTerms]:
        """The losses at a batch of codes and at draws of the priors, for each part with a positive weight.

        Args:
            logits: of q(y|x), `(batch, categories)`.
            z: the styles, `(batch, latent_dim)`.
        """
        terms = {}
        for part, discriminator in self.discriminators.items():
            if part == "category":
                generated, real = logits.softmax(-1), one_hot(self._draw_categories(z), self.categories)
            else:
                generated, (real,) = z, self.prior().sample((1, len(z)))
            terms[part] = self.adversarial(discriminator, [generated], [real])
        return terms

    def _draw_categories(self, x: Tensor) -> Tensor:
        """`(batch,)` from the uniform distribution."""
        return (noise.uniform(len(x), x) * self.categories).long().clamp_max(self.categories - 1)

    def regularise(self, batch: Batch) -> PhaseResult:
        x = self._unlabelled(batch).x
        logits, z = self.encoder.heads(x)
        terms = self.terms(logits, z)
        weighted = [self.adversarial_weights[part] * term.generator for part, term in terms.items()]
        generator, scores = torch.stack(weighted).sum(0), _accuracies(terms)
        if self.smoothness:
            with keep_statistics(self.encoder):
                change = local_distributional_smoothness(lambda x: self.encoder.heads(x)[0], x, logits, self.radius)
            generator, scores["smoothness"] = generator + self.smoothness * change, change
        if self.balance:
            generator = generator + self.balance * marginal_divergence(logits)
        return PhaseResult({"generator": generator, "discriminator": _discriminator_loss(terms)}, scores)

    def discriminate(self, batch: Batch) -> PhaseResult:
        with torch.no_grad():
            heads = self.encoder.heads(self._unlabelled(batch).x)
        return PhaseResult({"discriminator": _discriminator_loss(self.terms(*heads))}, {})

    def classify(self, batch: Batch) -> PhaseResult:
        labelled = self._labelled(batch)
        logits, _ = self.encoder.heads(labelled.x)
        assert labelled.y is not None
        error = (logits.argmax(-1) != labelled.y).float()
        return PhaseResult({"classifier": cross_entropy(logits, labelled.y, reduction="none")}, {"error": error})

    def scores(self, batch: Batch) -> dict[str, Tensor]:
        logits, z = self.encoder.heads(batch.x)
        reconstruction = -self.log_likelihood(batch, self.encoder.join(logits.softmax(-1), z))
        return {"reconstruction": reconstruction, **_accuracies(self.terms(logits, z))}

    # The error: the share of rows whose category is not their label.

    def check_batch(self, batch: Batch, batch_idx: int) -> None:
        super().check_batch(batch, batch_idx)
        if self.trainer.predicting:
            return
        self.check_labels(batch, minimum=-1)
        if self.trainer.training and len(batch.x) <= self.labelled_per_batch:
            raise ConfigurationError(
                f"data.labelled_per_batch: {self.labelled_per_batch} of a batch of {len(batch.x)} rows leave none "
                "without a label"
            )
        y = self._labelled(batch).y
        if self.trainer.training and not self.clusters and (y is None or not (y >= 0).all()):
            raise ConfigurationError(
                f"data.labelled_per_batch: {self.labelled_per_batch}, and there are rows without a label; let the "
                "datamodule say how many rows of a batch are labelled ones, or the model how many categories there are "
                "without labels"
            )

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        super().validation_step(batch, batch_idx)
        self._count("val", batch)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        super().test_step(batch, batch_idx)
        self._count("test", batch)

    def _count(self, stage: str, batch: Batch) -> None:
        batch = batch.real_rows
        if batch.y is not None and len(batch.x):
            self.errors.update(stage, self.encoder.heads(batch.x)[0], batch.y)

    def on_validation_epoch_start(self) -> None:
        self.errors.reset("val")

    def on_validation_epoch_end(self) -> None:
        self._log_error("val")

    def on_test_epoch_start(self) -> None:
        """Clusters get their labels from the validation data."""
        self.errors.reset("test")
        if not self.clusters:
            return
        data = attached_datamodule(self)
        if data is None:
            raise ConfigurationError("data: clusters get their labels from validation rows; test with a datamodule")
        self.errors.reset("val")
        data.setup("validate")
        for batch, _, loader in CombinedLoader(data.val_dataloader(), "sequential"):
            batch = moved_batch(self, batch, loader)
            self.check_labels(batch, minimum=-1)
            self._count("val", batch)

    def on_test_epoch_end(self) -> None:
        self._log_error("test")

    def _log_error(self, stage: str) -> None:
        error = self.errors.compute(stage)
        if error is not None:
            self.log(f"{stage}/error", error, prog_bar=True, sync_dist=True)

    # Codes.

    @property
    def label_choices(self) -> int:
        return self.categories

    def make_code(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """`(count, code_dim)` codes of styles z `(count, latent_dim)` and categories y `(count,)`; None: random."""
        y = self._draw_categories(z) if y is None else y
        return self.encoder.join(one_hot(y, self.categories).to(z), z)

    def predictions(self, batch: Batch) -> dict[str, Any]:
        """The code `z` `(batch, code_dim)`, the likeliest `category`, its `probability`, `y` and `index`."""
        probability, category = self.encoder.heads(batch.x)[0].softmax(-1).max(-1)
        return {**super().predictions(batch), "category": category, "probability": probability}


def _discriminator_loss(terms: dict[str, AdversarialTerms]) -> Tensor:
    return torch.stack([term.discriminator for term in terms.values()]).sum(0)


def _accuracies(terms: dict[str, AdversarialTerms]) -> dict[str, Tensor]:
    return {f"{part}_accuracy": term.accuracy for part, term in terms.items()}
