"""Generative adversarial networks (Goodfellow et al. 2014).

A generator pushes draws of the prior through a network, x = G(z), z ~ p(z). The density p_G of what comes out is not
known and not asked for: a discriminator T, trained by the logistic loss to tell it from the data,

    discriminator:  -log sigmoid T(G(z)) - log sigmoid -T(x),    the generator's weights constant,

has its optimum at T* = log p_G - log p_data. T is the logit of "generated", high on what the generator made, as AVB's
critic is on what the encoder made. The generator, T's weights constant, minimises one of

    minimax:         log sigmoid T,       at T* the gradient of 2 JS(p_G, p_data),
    kl:              T,                   at T* the gradient of KL(p_G, p_data),
    non_saturating:  -log sigmoid -T,     at T* the gradient of KL(p_G, p_data) - 2 JS(p_G, p_data).

T* depends on the generator, but moving T away from its optimum changes the minimax value in second order only, and
E_{p_G}[ grad T* ] = 0. The last line is the second minus the first, at every T (Arjovsky & Bottou 2017, theorem 2.5).

Other pairs of losses, and the gradient penalties, are in `lightning_avb.adversarial`. R1 (Mescheder, Geiger & Nowozin
2018) adds gamma/2 |grad T|^2 at the data to the discriminator's loss: without it the game need not converge, even close
to its equilibrium.

Both players step at once, from the same point; then the discriminator takes `players.discriminator.steps` - 1 steps
with new draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ..adversarial import AdversarialForm, AdversarialObjective, AdversarialTerms, Penalty
from ..batch import Batch, Shape
from ..conditionals import Conditional, PriorRecipe, StandardNormal
from ..errors import ConfigurationError
from ..networks import MLP, Network, check_no_batch_norm
from ..players import Cosine, Phase, PhaseResult, Player, named_losses
from .latent import GenerativeModel
from .made_priors import check_sampled_prior

Output = Literal["sigmoid", "identity"]

ADAM = partial(torch.optim.Adam, lr=5e-4, betas=(0.0, 0.99), fused=True)
"""No momentum: the opponent has moved since the earlier gradients (Karras et al. 2018)."""
NETWORK = partial(MLP, hidden=(256, 256))


class Generator(Conditional):
    """x = G(z): z `(..., latent_dim)`, x `(..., *data_shape)`.

    Args:
        data_shape, latent_dim, classes: given by the model.
        network: from z to x before `output`.
        output: `sigmoid`, for pictures in [0, 1], or `identity`.

    Raises:
        ConfigurationError: no such output.
    """

    def __init__(self, data_shape: Shape, latent_dim: int, classes: int, network: Network, output: Output) -> None:
        super().__init__(classes)
        check_output(output)
        self.network, self.output = network((latent_dim,), tuple(data_shape), classes), output

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        x = self.network(z, self.label(y, z)).to(z.dtype)
        return x.sigmoid() if self.output == "sigmoid" else x

    def check(self, x: Tensor) -> None:
        """Raises ConfigurationError if no output of the generator can be equal to x."""
        if self.output == "sigmoid" and not ((x >= 0) & (x <= 1)).all():
            raise ConfigurationError("output: 'sigmoid' is for data in [0, 1], where this data is not; take 'identity'")


def check_output(output: Output) -> None:
    """Raises ConfigurationError if a generator has no such output."""
    if output not in get_args(Output):
        raise ConfigurationError(f"output: {output!r} is neither 'sigmoid' nor 'identity'")


class DecodesByGenerator:
    """What a model with a `generator` in the place of a decoder does; before `GenerativeModel` among its bases."""

    generator: Generator

    def check_values(self, x: Tensor) -> None:
        self.generator.check(x)

    @torch.no_grad()
    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """G(z), `(..., *data_shape)`, for z `(..., latent_dim)` and labels `(...)`."""
        return self.generator(z, y)


@dataclass(frozen=True)
class GANPlayers:
    """The players of a GAN.

    Args:
        generator: G(z).
        discriminator: T(x); `steps` is the number of its steps per batch.
    """

    generator: Player = Player(ADAM, Cosine)
    discriminator: Player = Player(ADAM, Cosine)


class GAN(DecodesByGenerator, GenerativeModel):
    """Generative adversarial network.

    Args:
        latent_dim: dimensions of z.
        generator: a network from z to x.
        discriminator: T(x), a network from x to a number.
        prior: p(z), without trainable parameters; its density is not used.
        output: of the generator: `sigmoid`, for pictures in [0, 1], or `identity`, for tables.
        loss: the pair of losses, see `lightning_avb.adversarial`.
        gradient_penalty, penalty: the discriminator's, see `AdversarialObjective`.
        conditional: see `GenerativeModel`; generated rows have the labels of the batch.
        players: optimizer, schedule, clip norm and steps of `generator` and `discriminator`.
        accumulate, compile: see `Game`.
        data_shape, classes: shape of a row of x and number of labels; needed without a DataModule.

    Raises:
        ConfigurationError: an argument out of range; the message names it.
    """

    def __init__(
        self,
        latent_dim: int,
        generator: Network = NETWORK,
        discriminator: Network = NETWORK,
        prior: PriorRecipe = StandardNormal,
        output: Output = "sigmoid",
        loss: AdversarialForm = "non_saturating",
        gradient_penalty: float = 1.0,
        penalty: Penalty = "zero_centred",
        conditional: bool = False,
        players: GANPlayers = GANPlayers(),
        accumulate: int = 1,
        compile: bool = False,
        data_shape: Sequence[int] | None = None,
        classes: int | None = None,
    ) -> None:
        super().__init__(
            latent_dim=latent_dim,
            recipes={"generator": generator, "discriminator": discriminator, "prior": prior},
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
        self.discriminator = self.recipes["discriminator"](data_shape, (), self.classes)
        check_no_batch_norm(discriminator=self.discriminator)

    def player_modules(self) -> dict[str, Sequence[nn.Module]]:
        return {"generator": [self.generator], "discriminator": [self.discriminator]}

    def phases(self) -> list[Phase]:
        extra_steps = self.players["discriminator"].steps - 1
        extra = Phase(("discriminator",), self.learn_discriminator)
        return [Phase(tuple(self.players), self.learn), *[extra] * extra_steps]

    def generate(self, batch: Batch) -> Tensor:
        """Generated rows, as many as in the batch, with the labels of the batch."""
        (z,) = self.prior().sample((1, len(batch.x)))
        return self.generator(z, batch.y)

    def terms(self, batch: Batch, generated: Tensor) -> AdversarialTerms:
        """The losses at generated rows and at the rows of the data."""
        context = self.generator.label(batch.y, batch.x)
        return self.adversarial(self.discriminator, [generated], [batch.x], context)

    def learn(self, batch: Batch) -> PhaseResult:
        terms = self.terms(batch, self.generate(batch))
        losses = {"generator": terms.generator, "discriminator": terms.discriminator}
        return PhaseResult(losses, {"discriminator_accuracy": terms.accuracy})

    def learn_discriminator(self, batch: Batch) -> PhaseResult:
        with torch.no_grad():
            generated = self.generate(batch)
        return PhaseResult({"discriminator": self.terms(batch, generated).discriminator}, {})

    def scores(self, batch: Batch) -> dict[str, Tensor]:
        losses, scores = self.learn(batch)
        return {**named_losses(losses), **scores}

    def predictions(self, batch: Batch) -> dict[str, Any]:
        raise ConfigurationError("predict: a GAN has no encoder; a BiGAN has one")
