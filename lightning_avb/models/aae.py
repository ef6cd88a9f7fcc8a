"""Adversarial autoencoders (Makhzani et al. 2015).

An autoencoder x -> z -> x learns to reconstruct, while a discriminator T(z) makes the codes of the data look like draws
of a prior. Only draws of p(z) are needed, not its density. There are three players, and two phases per batch:

    autoencoder:    -log p(x|z),                                z ~ q(z|x),
    discriminator:  -log sigmoid T(z) - log sigmoid -T(z_p),    z ~ q(z|x), constant, and z_p ~ p(z),
    generator:      -log sigmoid -T(z),                         T's weights constant.

The generator is the encoder again, with a second optimizer. T does not depend on x. Its optimum is therefore
T* = log q(z) - log p(z) with the aggregated posterior q(z) = E_x q(z|x), and the encoder reduces a divergence of q(z)
from p(z). `lightning_avb.adversarial` has other pairs of losses. In the `kl` form this divergence is

    KL(q(z), p(z)) = E_x KL(q(z|x), p(z)) - I(x; z):

adversarial variational Bayes with a critic that does not get x. The mutual information is not limited, so q(z|x) does
not become the posterior and there is no bound of log p(x); but all codes together follow the prior.

Labels can be used in two ways. The discriminator gets the part of the prior to which a labelled code belongs (section
2.3), or the decoder gets the label, so that the code only has to hold the style (section 4). `CategoricalAAE` has codes
with a category (sections 5 to 7).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from ..adversarial import AdversarialForm, AdversarialObjective, AdversarialTerms, Penalty
from ..batch import Batch, Shape
from ..capabilities import HasParts, can
from ..conditionals import (
    DecoderRecipe,
    DeterministicEncoder,
    EncoderRecipe,
    GaussianDecoder,
    PriorRecipe,
    StandardNormal,
)
from ..errors import ConfigurationError
from ..lightning_private import epoch_was_whole
from ..networks import MLP, Network, check_no_batch_norm
from ..players import Cosine, Phase, PhaseResult, Player
from .latent import LatentVariableModel
from .made_priors import check_sampled_prior, make_prior

ADAM = partial(torch.optim.Adam, fused=True)
ADAM_AGAINST_OPPONENT = partial(ADAM, betas=(0.5, 0.999))
"""Low momentum, because the opponent changes the gradients."""
NETWORK = partial(MLP, activation="relu")
READER = partial(NETWORK, batch_norm=True)
DECODER = partial(GaussianDecoder, network=NETWORK, start=0.3, sigmoid=True)


@dataclass(frozen=True)
class AAEPlayers:
    """The players of an adversarial autoencoder.

    Args:
        autoencoder: encoder and decoder, for the reconstruction.
        generator: the encoder, against the discriminator.
        discriminator: T(z); `steps` is the number of its steps per batch.
    """

    autoencoder: Player = Player(partial(ADAM, lr=3e-4), Cosine)
    generator: Player = Player(partial(ADAM_AGAINST_OPPONENT, lr=1e-3), Cosine)
    discriminator: Player = Player(partial(ADAM_AGAINST_OPPONENT, lr=1e-3), Cosine)


class AAE(LatentVariableModel):
    """Adversarial autoencoder.

    Args:
        latent_dim: dimensions of z.
        encoder: q(z|x), of any kind: deterministic, Gaussian, or a network of x and noise.
        decoder: p(x|z); the default is for pictures in [0, 1].
        discriminator: T(z), a network from z to a number.
        prior: p(z), without trainable parameters; its density is not used.
        labels: how labels are used. `ignored`: not at all; `prior`: the discriminator gets the label of a code, or
            that it has none (-1), and labelled codes are compared with that part of the prior, which needs a prior with
            parts; `decoder`: the decoder gets the label, which every row must have.
        loss: the pair of losses, see `lightning_avb.adversarial`.
        gradient_penalty, penalty: the discriminator's, see `AdversarialObjective`; R1 is taken at draws of the prior.
        players: optimizer, schedule, clip norm and steps of `autoencoder`, `generator` and `discriminator`.
        weight_prior: see `LatentVariableModel`.
        accumulate, compile: see `Game`.
        data_shape, classes: shape of a row of x and number of labels; needed without a DataModule.

    Raises:
        ConfigurationError: an argument out of range; the message names it.
    """

    prior: Any
    label_argument = "labels"

    def __init__(
        self,
        latent_dim: int,
        encoder: EncoderRecipe = partial(DeterministicEncoder, network=READER),
        decoder: DecoderRecipe = DECODER,
        discriminator: Network = NETWORK,
        prior: PriorRecipe = StandardNormal,
        labels: Literal["ignored", "prior", "decoder"] = "ignored",
        loss: AdversarialForm = "non_saturating",
        gradient_penalty: float = 0.0,
        penalty: Penalty = "zero_centred",
        players: AAEPlayers = AAEPlayers(),
        weight_prior: float | None = None,
        accumulate: int = 1,
        compile: bool = False,
        data_shape: Sequence[int] | None = None,
        classes: int | None = None,
    ) -> None:
        super().__init__(
            latent_dim=latent_dim,
            recipes={"encoder": encoder, "decoder": decoder, "discriminator": discriminator, "prior": prior},
            players=players,
            conditional=labels == "decoder",
            weight_prior=weight_prior,
            accumulate=accumulate,
            compile=compile,
        )
        if labels not in ("ignored", "prior", "decoder"):
            raise ConfigurationError(f"labels: {labels!r} is none of 'ignored', 'prior', 'decoder'")
        self.labels, self.adversarial = labels, AdversarialObjective(loss, gradient_penalty, penalty)
        self._label_seen = False
        self.require_one_step(except_for="discriminator", minimum=1)
        self.build_if_known(data_shape=data_shape, classes=classes)

    def build(self, data_shape: Shape) -> None:
        if self.labels != "ignored" and not self.hparams.get("classes"):
            raise ConfigurationError(f"labels: {self.labels!r}, and the data has none")
        self.encoder = self.recipes["encoder"](data_shape, self.latent_dim, 0)
        self.decoder = self.recipes["decoder"](data_shape, self.latent_dim, self.classes)
        self.prior = make_prior(self.recipes["prior"], self.latent_dim)
        check_sampled_prior(self.prior, self.latent_dim)
        self.label_context_dim = self._label_context_dim()
        self.discriminator = self.recipes["discriminator"]((self.latent_dim,), (), self.label_context_dim)
        check_no_batch_norm(discriminator=self.discriminator)

    def _label_context_dim(self) -> int:
        """Length of the discriminator's one-hot input of the label; its last entry stands for no label."""
        if self.labels != "prior":
            return 0
        classes = self.hparams["classes"]
        parts = self.prior.parts if can(self.prior, HasParts) else 0
        if parts < classes:
            raise ConfigurationError(
                f"labels: 'prior' needs a prior with a part for each of {classes} labels, such as PetalPrior and "
                f"SwissRollPrior; {type(self.prior).__name__} has {parts or 'none, or no `given(y)`'}"
            )
        return classes + 1

    @property
    def labels_used(self) -> int:
        return 0 if self.labels == "ignored" else (self.hparams.get("classes") or 0)

    def configure_model(self) -> None:
        super().configure_model()
        labelled = self.data.labelled_rows
        if self.labels == "prior" and labelled == 0:
            raise ConfigurationError("labels: 'prior', and not one training row has a label")
        self._label_seen = bool(labelled)

    def on_train_start(self) -> None:
        super().on_train_start()
        self._label_seen |= self.global_step > 0

    def check_batch(self, batch: Batch, batch_idx: int) -> None:
        if self.labels == "decoder" and self.trainer.predicting:
            return  # the encoder reads no label
        super().check_batch(batch, batch_idx)
        if self.labels != "prior" or self.trainer.predicting:
            return
        self.check_labels(batch, minimum=-1)
        if self.trainer.training and not self._label_seen and batch.y is not None:
            self._label_seen = bool((batch.y >= 0).any())

    def on_train_epoch_end(self) -> None:
        if epoch_was_whole(self.trainer):
            self._expect_a_label()

    def on_train_end(self) -> None:
        self._expect_a_label()

    def _expect_a_label(self) -> None:
        """Raises ConfigurationError if no label was seen, for a datamodule that does not give `labelled_rows`."""
        if self.labels != "prior" or self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if not self.trainer.strategy.reduce_boolean_decision(self._label_seen, all=False):
            raise ConfigurationError("labels: 'prior', and not one training row so far had a label")

    def player_modules(self) -> dict[str, Sequence[nn.Module]]:
        return {
            "autoencoder": [self.encoder, self.decoder],
            "generator": [self.encoder],
            "discriminator": [self.discriminator],
        }

    def phases(self) -> list[Phase]:
        extra_steps = self.players["discriminator"].steps - 1
        return [
            Phase(("autoencoder",), self.autoencode),
            Phase(("generator", "discriminator"), self.regularise),
            *[Phase(("discriminator",), self.discriminate)] * extra_steps,
        ]

    def autoencode(self, batch: Batch) -> PhaseResult:
        log_likelihood = self.log_likelihood(batch, self.encoder(batch.x).rsample((1,)))
        loss = self.weight_penalty - log_likelihood
        return PhaseResult({"autoencoder": loss}, {"reconstruction": -log_likelihood})

    def terms(self, batch: Batch, z: Tensor) -> AdversarialTerms:
        """The losses at codes, `(1, batch, latent_dim)`, and at draws of the prior."""
        (real,), context = self.prior().sample((1, len(batch.x))), None
        if self.labels == "prior":
            y = batch.y if batch.y is not None else torch.full(batch.x.shape[:1], -1, device=batch.x.device)
            (part,) = self.prior.given(y.clamp_min(0)).sample((1,))
            real = torch.where((y < 0).unsqueeze(-1), real, part)
            context = one_hot(y.remainder(self.label_context_dim), self.label_context_dim).to(batch.x)
        return self.adversarial(self.discriminator, [z[0]], [real], context)

    def regularise(self, batch: Batch) -> PhaseResult:
        terms = self.terms(batch, self.encoder(batch.x).rsample((1,)))
        losses = {"generator": terms.generator, "discriminator": terms.discriminator}
        return PhaseResult(losses, {"discriminator_accuracy": terms.accuracy})

    def discriminate(self, batch: Batch) -> PhaseResult:
        with torch.no_grad():
            z = self.encoder(batch.x).rsample((1,))
        return PhaseResult({"discriminator": self.terms(batch, z).discriminator}, {})

    def scores(self, batch: Batch) -> dict[str, Tensor]:
        z = self.encoder(batch.x).rsample((1,))
        terms = self.terms(batch, z)
        return {
            "reconstruction": -self.log_likelihood(batch, z),
            "generator_loss": terms.generator,
            "discriminator_loss": terms.discriminator,
            "discriminator_accuracy": terms.accuracy,
        }
