"""Generative adversarial networks (Goodfellow et al. 2014), and with an encoder (BiGAN / ALI, 2017).

A generator pushes draws of the prior through a network, x = G(z), z ~ p(z). The density p_G of what comes out is not
known and not asked for: a discriminator T, trained by the logistic loss to tell it from the data,

    discriminator:  -log sigmoid T(G(z)) - log sigmoid -T(x),    the generator's weights constant,

has its optimum at T* = log p_G - log p_data. T is the logit of "generated", high on what the generator made, as AVB's
critic is on what the encoder made. The generator, T's weights constant, loses what `adversarial_loss` makes of T(G(z)):

    minimax:         log sigmoid T,       at T* the gradient of 2 JS(p_G, p_data),
    kl:              T,                   at T* the gradient of KL(p_G, p_data),
    non_saturating:  -log sigmoid -T,     at T* the gradient of KL(p_G, p_data) - 2 JS(p_G, p_data).

T* depends on the generator, but moving T away from its optimum changes the minimax value in second order only, and
E_{p_G}[ grad T* ] = 0. The last line is the second minus the first, at every T (Arjovsky & Bottou 2017, theorem 2.5).

A bidirectional GAN (Donahue et al. 2017; adversarially learned inference, Dumoulin et al. 2017) has an encoder
q(z|x) besides and a discriminator of pairs. There are two joint distributions, the encoder's,
q(x, z) = p_data(x) q(z|x), and the generator's, p(x, z), that of (G(z), z) with z ~ p(z):

    discriminator:  -log sigmoid T(x, z_q) - log sigmoid -T(x_p, z_p),    optimum T* = log q(x, z) - log p(x, z),
    encoder:        `adversarial_loss` of T(x, z_q),      x from the data, z_q ~ q(z|x),
    generator:      `adversarial_loss` of -T(x_p, z_p),   x_p = G(z_p), z_p ~ p(z).

T is high on the encoder's pairs, as in AVB. Each of the two wants its pairs taken for the other's. In the minimax form
their losses sum to minus the discriminator's, at T* to 2 JS(q, p) - 2 log 2; in the `kl` form the encoder follows
KL(q, p), the generator KL(p, q). All are least where the joints are equal. Then q(z|x) is the posterior of the
generator, and an encoder without noise inverts it; but no term compares x with G(z_q), and how near they are is what
`reconstruction_error` tells.

All players step at once, from the same point; then the discriminator takes `players.discriminator.steps` - 1 steps with
new draws. R1 (Mescheder, Geiger & Nowozin 2018) adds gamma/2 |grad T|^2 at the data to the discriminator's loss:
without it the game need not converge, even close to its equilibrium.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from ..batch import Batch, Shape
from ..conditionals import Conditional, EncoderRecipe, GaussianEncoder, PriorRecipe, StandardNormal
from ..errors import ConfigurationError, check_weights
from ..game import Cosine, Losses, Phase, Play, Player
from ..networks import MLP, Network, ResidualCritic, check_rows_apart
from ..networks.critics import CriticRecipe
from ..objectives import (
    AdversarialForm,
    adversarial_loss,
    critic_accuracy,
    density_ratio_loss,
    full_precision_in_half,
    opposed,
)
from .latent import EncodingModel, GenerativeModel, check_draws, in_turn

Output = Literal["sigmoid", "identity"]

ADAM = partial(torch.optim.Adam, lr=5e-4, betas=(0.0, 0.99), fused=True)
"""No memory of the gradients before, which an opponent that has moved since makes worthless (Karras et al. 2018)."""
NETWORK = partial(MLP, hidden=(256, 256))


class Generator(Conditional):
    """x = G(z): z `(..., latent_dim)`, x `(..., *data_shape)`.

    Args:
        data_shape, latent_dim, classes: given by the model.
        network: from z to x before `output`.
        output: `sigmoid`, for pictures in [0, 1], or `identity`.
    """

    def __init__(self, data_shape: Shape, latent_dim: int, classes: int, network: Network, output: Output) -> None:
        super().__init__(classes)
        self.network, self.output = network((latent_dim,), tuple(data_shape), classes), output

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        x = self.network(z, self.label(y, z)).to(z.dtype)
        return x.sigmoid() if self.output == "sigmoid" else x


class AdversarialModel(GenerativeModel, abc.ABC):
    """What `GAN` and `BiGAN` share: a `generator` and a `discriminator` of two kinds of rows.

    Args:
        latent_dim, recipes, conditional, players, accumulate: see `GenerativeModel`.
        output, loss, gradient_penalty: see `GAN`.
    """

    generator: Generator
    discriminator: nn.Module
    real: ClassVar[int]
    """Which of the two kinds, 0 or 1, has its x from the data."""

    def __init__(
        self,
        latent_dim: int,
        recipes: dict[str, Any],
        output: Output,
        loss: AdversarialForm,
        gradient_penalty: float,
        conditional: bool,
        players: Any,
        accumulate: int,
    ) -> None:
        super().__init__(latent_dim, recipes, conditional, players, accumulate)
        if output not in get_args(Output):
            raise ConfigurationError(f"output: {output!r} is neither 'sigmoid' nor 'identity'")
        adversarial_loss(torch.zeros(()), loss)
        check_weights(gradient_penalty=gradient_penalty)
        self._one_step_each(but="discriminator", least=1)
        self.output, self.loss, self.gradient_penalty = output, loss, gradient_penalty

    def build(self, data_shape: Shape) -> None:
        super().build(data_shape)
        check_draws(self.prior, self.latent_dim)
        self.generator = Generator(data_shape, self.latent_dim, self.classes, self.recipes["generator"], self.output)

    def phases(self) -> list[Phase]:
        more = self.players["discriminator"].steps - 1
        return [Phase(tuple(self.players), self.learn), *[Phase(("discriminator",), self.learn_discriminator)] * more]

    @abc.abstractmethod
    def draw(self, batch: Batch) -> tuple[Tensor, ...]:
        """What the discriminator reads, `(2, batch, ...)` each: first the kind that T is to be high on."""

    @abc.abstractmethod
    def opponents(self, first: Tensor, second: Tensor) -> Losses:
        """The losses of the other players, given T of the two kinds, `(batch,)` each."""

    def judge(self, batch: Batch, drawn: tuple[Tensor, ...]) -> Play:
        """The losses of all players, in one pass through the discriminator."""
        context = self.generator.label(batch.y, batch.x)
        for_opponents, for_discriminator = opposed(self.discriminator, drawn, context)
        loss = density_ratio_loss(*for_discriminator)
        if self.gradient_penalty and torch.is_grad_enabled():
            loss = loss + 0.5 * self.gradient_penalty * self._squared_slope(drawn, context)
        losses = {**self.opponents(*for_opponents), "discriminator": loss}
        return Play(losses, {"discriminator_accuracy": critic_accuracy(*for_discriminator)})

    def _squared_slope(self, drawn: tuple[Tensor, ...], context: Tensor | None) -> Tensor:
        """|grad T|^2 at the data, `(batch,)`, by all that the discriminator reads."""
        seen = [part[self.real].detach().requires_grad_() for part in drawn]
        with full_precision_in_half(seen[0].device.type):
            t = self.discriminator(*seen, context)
        slopes = torch.autograd.grad(t.sum(), seen, create_graph=True)
        return torch.stack([slope.flatten(1).square().sum(1) for slope in slopes]).sum(0)

    def learn(self, batch: Batch) -> Play:
        return self.judge(batch, self.draw(batch))

    def learn_discriminator(self, batch: Batch) -> Play:
        with torch.no_grad():
            drawn = self.draw(batch)
        return Play({"discriminator": self.judge(batch, drawn).losses["discriminator"]}, {})

    def scores(self, batch: Batch) -> dict[str, Tensor]:
        losses, scores = self.learn(batch)
        return {**{f"{name}_loss": loss for name, loss in losses.items()}, **scores}

    def _check(self, batch: Batch, batch_idx: int) -> None:
        super()._check(batch, batch_idx)
        x = Batch(*batch).x
        if batch_idx == 0 and self.output == "sigmoid" and not ((x >= 0) & (x <= 1)).all():
            raise ConfigurationError("output: 'sigmoid' is for data in [0, 1], where this data is not; take 'identity'")

    @torch.no_grad()
    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """G(z), `(..., *data_shape)`, for z `(..., latent_dim)` and labels `(...)`."""
        return self.generator(z, y)

    def sample(self, count: int, labels: Sequence[int] | None = None, mean: bool = True) -> Tensor:
        """`(count, *data_shape)`: G(z) for z drawn from the prior.

        Args:
            count: how many.
            labels: for a class-conditional model, used in turn; None: all of them.
            mean: makes no difference, since given z there is one x.

        Raises:
            ConfigurationError: labels that the model does not know.
        """
        y = in_turn(count, labels, self.choices, self.device)
        return self.decode(self.codes(count, y), y)


@dataclass(frozen=True)
class GANPlayers:
    """The players of a GAN.

    Args:
        generator: G(z).
        discriminator: T(x); its `steps` are steps a batch.
    """

    generator: Player = Player(ADAM, Cosine)
    discriminator: Player = Player(ADAM, Cosine)


class GAN(AdversarialModel):
    """Generative adversarial network.

    Args:
        latent_dim: dimensions of z.
        generator: a network from z to x.
        discriminator: T(x), a network from x to a number.
        prior: p(z), without parameters to learn; a density is not needed.
        output: of the generator: `sigmoid`, for pictures in [0, 1], or `identity`, for tables.
        loss: of the generator, see `adversarial_loss`.
        gradient_penalty: weight gamma of R1, gamma/2 |grad T|^2 at the data, in the discriminator's loss.
        conditional: see `GenerativeModel`; a generated row gets the label of the real one beside it.
        players: optimizer, schedule, clip norm and steps of `generator` and `discriminator`.
        accumulate: see `Game`.
        data_shape, classes: shape of a row of x and number of labels, where no DataModule tells them.

    Raises:
        ConfigurationError: a number or a name that makes no sense, with the argument's name.
    """

    real = 1

    def __init__(
        self,
        latent_dim: int,
        generator: Network = NETWORK,
        discriminator: Network = NETWORK,
        prior: PriorRecipe = StandardNormal,
        output: Output = "sigmoid",
        loss: AdversarialForm = "non_saturating",
        gradient_penalty: float = 1.0,
        conditional: bool = False,
        players: GANPlayers = GANPlayers(),
        accumulate: int = 1,
        data_shape: Sequence[int] | None = None,
        classes: int | None = None,
    ) -> None:
        recipes = {"generator": generator, "discriminator": discriminator, "prior": prior}
        super().__init__(latent_dim, recipes, output, loss, gradient_penalty, conditional, players, accumulate)
        self._build_for(data_shape=data_shape, classes=classes)

    def build(self, data_shape: Shape) -> None:
        super().build(data_shape)
        self.discriminator = self.recipes["discriminator"](data_shape, (), self.classes)
        check_rows_apart(discriminator=self.discriminator)

    def cast(self) -> dict[str, Sequence[nn.Module]]:
        return {"generator": [self.generator], "discriminator": [self.discriminator]}

    def draw(self, batch: Batch) -> tuple[Tensor, ...]:
        (z,) = self.prior().sample((1, len(batch.x)))
        return (torch.stack([self.generator(z, batch.y), batch.x]),)

    def opponents(self, first: Tensor, second: Tensor) -> Losses:
        return {"generator": adversarial_loss(first, self.loss)}

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        raise ConfigurationError("predict: a GAN has no encoder; a BiGAN has one")


@dataclass(frozen=True)
class BiGANPlayers:
    """The players of a bidirectional GAN.

    Args:
        generator: G(z).
        encoder: q(z|x).
        discriminator: T(x, z); its `steps` are steps a batch.
    """

    generator: Player = Player(ADAM, Cosine)
    encoder: Player = Player(ADAM, Cosine)
    discriminator: Player = Player(ADAM, Cosine)


class BiGAN(EncodingModel, AdversarialModel):
    """Bidirectional GAN, or adversarially learned inference.

    Args:
        latent_dim: dimensions of z.
        encoder: q(z|x), of any kind: deterministic, Gaussian, or a network of x and noise.
        generator: a network from z to x.
        discriminator: T(x, z).
        prior, output, conditional, players, accumulate, data_shape, classes: see `GAN`.
        loss: of generator and encoder, see `adversarial_loss`.
        gradient_penalty: weight gamma of R1, gamma/2 |grad T|^2 by x and by z, at the pairs (x, z_q).

    Raises:
        ConfigurationError: a number or a name that makes no sense, with the argument's name.
    """

    real = 0

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
        conditional: bool = False,
        players: BiGANPlayers = BiGANPlayers(),
        accumulate: int = 1,
        data_shape: Sequence[int] | None = None,
        classes: int | None = None,
    ) -> None:
        recipes = {"encoder": encoder, "generator": generator, "discriminator": discriminator, "prior": prior}
        super().__init__(latent_dim, recipes, output, loss, gradient_penalty, conditional, players, accumulate)
        self._build_for(data_shape=data_shape, classes=classes)

    def build(self, data_shape: Shape) -> None:
        super().build(data_shape)
        self.encoder = self.recipes["encoder"](data_shape, self.latent_dim, self.classes)
        self.discriminator = self.recipes["discriminator"](data_shape, self.latent_dim, self.classes)
        check_rows_apart(discriminator=self.discriminator)

    def cast(self) -> dict[str, Sequence[nn.Module]]:
        return {
            "generator": [self.generator],
            "encoder": [self.encoder],
            "discriminator": [self.discriminator],
        }

    def draw(self, batch: Batch) -> tuple[Tensor, ...]:
        (z_q,) = self.encoder(batch.x, batch.y).rsample((1,))
        (z_p,) = self.prior().sample((1, len(batch.x)))
        return torch.stack([batch.x, self.generator(z_p, batch.y)]), torch.stack([z_q, z_p])

    def opponents(self, first: Tensor, second: Tensor) -> Losses:
        return {"encoder": adversarial_loss(first, self.loss), "generator": adversarial_loss(-second, self.loss)}

    def scores(self, batch: Batch) -> dict[str, Tensor]:
        """Those of `learn`, and `reconstruction_error`: |x - G(z_q)|^2, summed over the dimensions of x."""
        again = self.decode(self.encode(batch.x, batch.y), batch.y)
        error = (batch.x - again).square().flatten(1).sum(1)
        return {"reconstruction_error": error, **super().scores(batch)}
