"""Bidirectional GAN (Donahue et al. 2017), or adversarially learned inference (Dumoulin et al. 2017).

A GAN (see `gan`) with an encoder q(z|x) and a discriminator of pairs. It has two joint distributions: the encoder's,
q(x, z) = p_data(x) q(z|x), and the generator's, p(x, z), of the pairs (G(z), z) with z ~ p(z):

    discriminator:  -log sigmoid T(x, z_q) - log sigmoid -T(x_p, z_p),    optimum T* = log q(x, z) - log p(x, z),
    encoder:        the generator's loss of `adversarial` at T(x, z_q),     x from the data, z_q ~ q(z|x),
    generator:      the same loss at -T(x_p, z_p),                          x_p = G(z_p), z_p ~ p(z).

T is high on the encoder's pairs, as in AVB. Encoder and generator are both trained to have their pairs taken for the
other's. In the minimax form their losses sum to minus the discriminator's, at T* to 2 JS(q, p) - 2 log 2; in the `kl`
form the encoder follows KL(q, p), and the generator KL(p, q). All have their minimum where the joint distributions are
equal. Then q(z|x) is the posterior of the generator, and an encoder without noise inverts it. But no term compares x
with G(z_q); `reconstruction_error` reports this distance.

All players step at once, from the same weights; then the discriminator takes `players.discriminator.steps` - 1 further
steps with new draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ..adversarial import AdversarialForm, AdversarialObjective, AdversarialTerms, Penalty
from ..batch import Batch, Shape
from ..conditionals import EncoderRecipe, GaussianEncoder, PriorRecipe, StandardNormal
from ..networks import MLP, Network, ResidualCritic
from ..networks.critics import CriticRecipe, check_ratio_critic
from ..players import Cosine, Phase, PhaseResult, Player, named_losses
from .gan import ADAM, NETWORK, DecodesByGenerator, Generator, Output, check_output
from .latent import EncodingModel
from .made_priors import check_sampled_prior


@dataclass(frozen=True)
class BiGANPlayers:
    """The players of a bidirectional GAN.

    Args:
        generator: G(z).
        encoder: q(z|x).
        discriminator: T(x, z); `steps` is the number of its steps per batch.
    """

    generator: Player = Player(ADAM, Cosine)
    encoder: Player = Player(ADAM, Cosine)
    discriminator: Player = Player(ADAM, Cosine)


class BiGAN(DecodesByGenerator, EncodingModel):
    """Bidirectional GAN, or adversarially learned inference.

    Args:
        latent_dim: dimensions of z.
        encoder: q(z|x), of any kind: deterministic, Gaussian, or a network of x and noise.
        generator: a network from z to x.
        discriminator: T(x, z).
        prior, output, conditional, players, accumulate, compile, data_shape, classes: see `GAN`.
        loss: the form of the losses, see `lightning_avb.adversarial`; the encoder's pairs are its generated rows.
        gradient_penalty, penalty: the discriminator's, see `AdversarialObjective`; |grad T| is by x and by z, and R1 is
            taken at the pairs (x, z_q).

    Raises:
        ConfigurationError: an argument out of range; the message names it.
    """

    def __init__(
        self,
        latent_dim: int,
        encoder: EncoderRecipe = partial(GaussianEncoder, network=NETWORK),
        generator: Network = NETWORK,
        discriminator: CriticRecipe = partial(ResidualCritic, width=256, blocks=1, network=partial(MLP, hidden=(256,))),
        prior: PriorRecipe = StandardNormal,
        output: Output = "sigmoid",
        loss: AdversarialForm = "non_saturating",
        gradient_penalty: float = 1.0,
        penalty: Penalty = "zero_centred",
        conditional: bool = False,
        players: BiGANPlayers = BiGANPlayers(),
        accumulate: int = 1,
        compile: bool = False,
        data_shape: Sequence[int] | None = None,
        classes: int | None = None,
    ) -> None:
        super().__init__(
            latent_dim=latent_dim,
            recipes={"encoder": encoder, "generator": generator, "discriminator": discriminator, "prior": prior},
            players=players,
            conditional=conditional,
            accumulate=accumulate,
            compile=compile,
        )
        self.require_one_step(except_for="discriminator", minimum=1)
        check_output(output)
        self.output, self.adversarial = output, AdversarialObjective(loss, gradient_penalty, penalty)
        self.build_if_known(data_shape=data_shape, classes=classes)

    def build(self, data_shape: Shape) -> None:
        super().build(data_shape)
        check_sampled_prior(self.prior, self.latent_dim)
        self.generator = Generator(data_shape, self.latent_dim, self.classes, self.recipes["generator"], self.output)
        self.encoder = self.recipes["encoder"](data_shape, self.latent_dim, self.classes)
        self.discriminator = self.recipes["discriminator"](data_shape, self.latent_dim, self.classes)
        check_ratio_critic(discriminator=self.discriminator)

    def player_modules(self) -> dict[str, Sequence[nn.Module]]:
        return {
            "generator": [self.generator],
            "encoder": [self.encoder],
            "discriminator": [self.discriminator],
        }

    def phases(self) -> list[Phase]:
        extra_steps = self.players["discriminator"].steps - 1
        extra = Phase(("discriminator",), self.learn_discriminator)
        return [Phase(tuple(self.players), self.learn), *[extra] * extra_steps]

    def pairs(self, batch: Batch) -> tuple[list[Tensor], list[Tensor]]:
        """[x, z_q], from the data and the encoder, and [x_p, z_p], from the generator."""
        (z_q,) = self.encoder(batch.x, batch.y).rsample((1,))
        (z_p,) = self.prior().sample((1, len(batch.x)))
        return [batch.x, z_q], [self.generator(z_p, batch.y), z_p]

    def terms(self, batch: Batch, pairs: tuple[list[Tensor], list[Tensor]]) -> AdversarialTerms:
        """The losses at the encoder's pairs and at the generator's."""
        context = self.generator.label(batch.y, batch.x)
        return self.adversarial(self.discriminator, *pairs, context, penalise="generated")

    def learn(self, batch: Batch) -> PhaseResult:
        terms = self.terms(batch, self.pairs(batch))
        losses = {
            "encoder": terms.generator,
            "generator": terms.generator_on_real,
            "discriminator": terms.discriminator,
        }
        return PhaseResult(losses, {"discriminator_accuracy": terms.accuracy})

    def learn_discriminator(self, batch: Batch) -> PhaseResult:
        with torch.no_grad():
            pairs = self.pairs(batch)
        return PhaseResult({"discriminator": self.terms(batch, pairs).discriminator}, {})

    def scores(self, batch: Batch) -> dict[str, Tensor]:
        """Those of `learn`, and `reconstruction_error`: |x - G(z_q)|^2, summed over the dimensions of x."""
        error = self.reconstruction_error(batch)
        losses, scores = self.learn(batch)
        return {"reconstruction_error": error, **named_losses(losses), **scores}
