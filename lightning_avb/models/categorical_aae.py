"""Adversarial autoencoders with categories: semi-supervised, or clustering (Makhzani et al. 2015, sections 5 to 7).

As in `aae`, but codes have two parts, a category y with q(y|x) = softmax and a style z, with a
discriminator each. Where labels are known a third phase moves the encoder by -log q(y|x), the `classifier`;
without it the categories become clusters.
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
from ..conditionals.categorical import head_distance_penalty
from ..errors import ConfigurationError, at_least, check_weights
from ..evaluation import ClusterCounts
from ..lightning_private import attached_datamodule, moved_batch
from ..networks import InputNoise, Network, check_rows_apart, keep_statistics
from ..objectives import local_distributional_smoothness, marginal_divergence
from ..players import Cosine, Phase, PhaseResult, Player
from .aae import ADAM, DECODER, NETWORK, OPPOSED, READER
from .latent import LatentVariableModel, check_draws, make_prior


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
        loss, gradient_penalty, penalty, weight_prior: see `AAE`.
        players: optimizer, schedule, clip norm and steps, see `CategoricalAAEPlayers`.
        data_shape, classes: shape of a row of x and number of labels, where no DataModule tells them.

    Raises:
        ConfigurationError: a number or a name that makes no sense, with the argument's name.
    """

    encoder: CategoricalEncoder
    cluster_counts: Any
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
        data_shape: Sequence[int] | None = None,
        classes: int | None = None,
    ) -> None:
        super().__init__(
            latent_dim=latent_dim,
            recipes={"encoder": encoder, "decoder": decoder, "discriminator": discriminator, "prior": prior},
            players=players,
            weight_prior=weight_prior,
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
            raise ConfigurationError("category, style: both are 0, which leaves the discriminators nothing to judge")
        self.judged = {part: weight for part, weight in weights.items() if weight}
        self.smoothness, self.balance, self.radius = smoothness, balance, radius
        self.clusters, self.code, self.head_distance = categories, code, head_distance
        self.labelled = 0
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
            raise ConfigurationError("categories: the data has no labels; say how many clusters there are to be")
        if self.clusters is None:
            at_least(2, classes=self.labels_used)
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
            {part: self.recipes["discriminator"]((dims[part],), (), 0) for part in self.judged}
        )
        check_rows_apart(discriminator=self.discriminators)
        self.cluster_counts = nn.ModuleDict(
            {stage: ClusterCounts(self.categories, classes or 1) for stage in ("val", "test")}
        )

    def configure_model(self) -> None:
        super().configure_model()
        labelled = self.data.labelled_per_batch
        self.labelled = at_least(0, **{"data.labelled_per_batch": labelled or 0})
        if self.labelled and self.clusters:
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

    def reconstruct(self, batch: Batch) -> PhaseResult:
        batch = self._unlabelled(batch)
        log_likelihood = self.log_likelihood(batch, self.encoder(batch.x).rsample((1,)))
        loss = self.weight_penalty + self._head_penalty - log_likelihood
        return PhaseResult({"autoencoder": loss}, {"reconstruction": -log_likelihood})

    @property
    def _head_penalty(self) -> Tensor | float:
        """By how much cluster heads are nearer to each other than `head_distance`, the sum over pairs."""
        if not self.head_distance:
            return 0.0
        assert self.encoder.cluster_heads is not None
        return head_distance_penalty(self.encoder.cluster_heads.weight.T, self.head_distance)

    def terms(self, logits: Tensor, z: Tensor) -> dict[str, AdversarialTerms]:
        """What the discriminators give for a batch, next to draws of their priors; those of weight 0 are left out.

        Args:
            logits, z: categories and styles, as the encoder's heads give them.
        """
        found = {}
        for part, discriminator in self.discriminators.items():
            if part == "category":
                generated, real = logits.softmax(-1), one_hot(self._draw_categories(z), self.categories)
            else:
                generated, (real,) = z, self.prior().sample((1, len(z)))
            found[part] = self.adversarial(discriminator, [generated], [real])
        return found

    def _draw_categories(self, x: Tensor) -> Tensor:
        """`(batch,)` from the uniform distribution."""
        return (noise.uniform(len(x), x) * self.categories).long().clamp_max(self.categories - 1)

    def regularise(self, batch: Batch) -> PhaseResult:
        x = self._unlabelled(batch).x
        logits, z = self.encoder.heads(x)
        found = self.terms(logits, z)
        generator = torch.stack([self.judged[part] * of.generator for part, of in found.items()]).sum(0)
        scores = _accuracies(found)
        if self.smoothness:
            with keep_statistics(self.encoder):
                change = local_distributional_smoothness(lambda x: self.encoder.heads(x)[0], x, logits, self.radius)
            generator, scores["smoothness"] = generator + self.smoothness * change, change
        if self.balance:
            generator = generator + self.balance * marginal_divergence(logits)
        return PhaseResult({"generator": generator, "discriminator": _discriminator_loss(found)}, scores)

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

    # Errors: of the labels, or of clusters that are called by the label of their most confident row.

    def check_batch(self, batch: Batch, batch_idx: int) -> None:
        super().check_batch(batch, batch_idx)
        if self.trainer.predicting:
            return
        self.check_labels(batch, minimum=-1)
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
        self._count("val", batch)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        super().test_step(batch, batch_idx)
        self._count("test", batch)

    def _count(self, stage: str, batch: Batch) -> None:
        batch = batch.counted
        if batch.y is not None and len(batch.x):
            self.cluster_counts[stage].update(self.encoder.heads(batch.x)[0], batch.y)

    def on_validation_epoch_start(self) -> None:
        self.cluster_counts["val"].reset()

    def on_validation_epoch_end(self) -> None:
        self._log_error("val")

    def on_test_epoch_start(self) -> None:
        """Clusters get their labels from the validation data."""
        self.cluster_counts["test"].reset()
        if not self.clusters:
            return
        data = attached_datamodule(self)
        if data is None:
            raise ConfigurationError("data: clusters are called by validation rows; test them with a datamodule")
        self.cluster_counts["val"].reset()
        data.setup("validate")
        for batch, _, loader in CombinedLoader(data.val_dataloader(), "sequential"):
            batch = moved_batch(self, batch, loader)
            self.check_labels(batch, minimum=-1)
            self._count("val", batch)

    def on_test_epoch_end(self) -> None:
        self._log_error("test")

    def _log_error(self, stage: str) -> None:
        if not self.cluster_counts[stage].update_called:
            return
        counts, _ = self.cluster_counts[stage].compute()
        known, label = (
            self.cluster_counts["val"].compute() if self.clusters else (counts, torch.arange(self.categories))
        )
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

    def predictions(self, batch: Batch) -> dict[str, Any]:
        """The code of a row, `z` `(batch, code_dim)`, its `category` and that one's `probability`, `y` and `index`."""
        probability, category = self.encoder.heads(batch.x)[0].softmax(-1).max(-1)
        return {**super().predictions(batch), "category": category, "probability": probability}


def _discriminator_loss(found: dict[str, AdversarialTerms]) -> Tensor:
    return torch.stack([of.discriminator for of in found.values()]).sum(0)


def _accuracies(found: dict[str, AdversarialTerms]) -> dict[str, Tensor]:
    return {f"{name}_accuracy": part.accuracy for name, part in found.items()}


def _check_noiseless(encoder: nn.Module) -> None:
    for part in encoder.modules():
        dropout = isinstance(part, nn.modules.dropout._DropoutNd) and part.p
        if dropout or (isinstance(part, InputNoise) and part.normal):
            raise ConfigurationError(
                "smoothness: noise in the encoder would drown the change it looks for; leave noise and dropout at 0"
            )
