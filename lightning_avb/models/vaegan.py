"""VAE/GAN: autoencoding beyond pixels using a learned similarity metric (Larsen et al. 2016).

The decoder of a VAE is the generator of a GAN. Distances between rows are measured in the features f(x) from which the
discriminator T decides, p(f(x)|z) = N(f(G(z)), I), and not in pixels. With z ~ q(z|x) and z_p ~ p(z),

    encoder:        KL(q(z|x), p(z)) + |f(x) - f(G(z))|^2 / 2,                    equations 5 and 7 of the paper,
    generator:      gamma |f(x) - f(G(z))|^2 / 2 + the mean of its adversarial losses at G(z) and at G(z_p),
    discriminator:  its loss, with x as real rows and G(z) and G(z_p) as generated ones.

Each loss moves its own player alone, the encoder first. As f changes, nothing here is a bound of log p(x).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import layer_norm, silu

from ..adversarial import AdversarialForm, AdversarialObjective
from ..batch import Batch, Shape
from ..conditionals import EncoderRecipe, GaussianEncoder, PriorRecipe, StandardNormal
from ..errors import at_least, check_weights
from ..networks import Network, check_no_batch_norm
from ..players import Cosine, Phase, PhaseResult, Player, named_losses
from ..precision import full_precision_in_half
from .gan import ADAM, NETWORK, DecodesByGenerator, Generator, Output
from .latent import EncodingModel
from .vae import closed_form_kl


class FeatureDiscriminator(nn.Module):
    """T(x) = w . silu(f(x)) + b, `(...)`, or with `features` f(x), normalised in every row, `(..., features)`."""

    def __init__(self, network: nn.Module, features: int) -> None:
        super().__init__()
        self.network, self.head = network, nn.Linear(features, 1)

    def forward(self, x: Tensor, context: Tensor | None = None, features: bool = False) -> Tensor:
        f = layer_norm(self.network(x, context), self.head.weight.shape[1:])
        return f if features else self.head(silu(f)).squeeze(-1)


@dataclass(frozen=True)
class VAEGANPlayers:
    """The players of a VAE/GAN: q(z|x) with a prior that learns, G(z) and T(x)."""

    encoder: Player = Player(ADAM, Cosine)
    generator: Player = Player(ADAM, Cosine)
    discriminator: Player = Player(ADAM, Cosine)


class VAEGAN(DecodesByGenerator, EncodingModel):
    """VAE/GAN.

    Args:
        latent_dim: dimensions of z.
        encoder: q(z|x), with a KL divergence from the prior in closed form.
        generator: a network from z to x.
        discriminator: a network from x to f(x), of which there are as many as `features`.
        gamma: weight of the distance in features in the generator's loss.
        prior, output, loss, gradient_penalty, conditional, players: see `GAN`.
        accumulate, compile, data_shape, classes: see `GAN`.

    Raises:
        ConfigurationError: a number or a name that makes no sense, with the argument's name.
    """

    def __init__(
        self,
        latent_dim: int,
        encoder: EncoderRecipe = partial(GaussianEncoder, network=NETWORK),
        generator: Network = NETWORK,
        discriminator: Network = NETWORK,
        features: int = 64,
        gamma: float = 0.01,
        prior: PriorRecipe = StandardNormal,
        output: Output = "sigmoid",
        loss: AdversarialForm = "non_saturating",
        gradient_penalty: float = 1.0,
        conditional: bool = False,
        players: VAEGANPlayers = VAEGANPlayers(),
        accumulate: int = 1,
        compile: bool = False,
        data_shape: Sequence[int] | None = None,
        classes: int | None = None,
    ) -> None:
        recipes = {"encoder": encoder, "generator": generator, "discriminator": discriminator, "prior": prior}
        super().__init__(
            latent_dim=latent_dim,
            recipes=recipes,
            players=players,
            conditional=conditional,
            accumulate=accumulate,
            compile=compile,
        )
        self.require_one_step()
        check_weights(gamma=gamma)
        self.features, self.gamma, self.output = at_least(1, features=features), gamma, output
        self.adversarial = AdversarialObjective(loss, gradient_penalty)
        self.build_if_known(data_shape=data_shape, classes=classes)

    def build(self, data_shape: Shape) -> None:
        super().build(data_shape)
        self.encoder = self.recipes["encoder"](data_shape, self.latent_dim, self.classes)
        self.generator = Generator(data_shape, self.latent_dim, self.classes, self.recipes["generator"], self.output)
        network = self.recipes["discriminator"](data_shape, (self.features,), self.classes)
        self.discriminator = FeatureDiscriminator(network, self.features)
        check_no_batch_norm(discriminator=self.discriminator)

    def player_modules(self) -> dict[str, Sequence[nn.Module]]:
        first = [self.encoder, self.prior]
        return {"encoder": first, "generator": [self.generator], "discriminator": [self.discriminator]}

    def phases(self) -> list[Phase]:
        return [Phase(("encoder",), self.learn_encoder), Phase(("generator", "discriminator"), self.learn)]

    def feature_error(self, batch: Batch, generated: Tensor) -> Tensor:
        """|f(x) - f(generated)|^2 / 2, `(batch,)`; the discriminator's weights are constants."""
        rows, context = torch.stack([batch.x, generated]), self.generator.label(batch.y, batch.x)
        constant = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
        with full_precision_in_half(rows.device.type):
            real, ours = functional_call(self.discriminator, constant, (rows, context), {"features": True}).to(rows)
        return 0.5 * (real - ours).square().sum(-1)

    def learn_encoder(self, batch: Batch) -> PhaseResult:
        q = self.encoder(batch.x, batch.y)
        error = self.feature_error(batch, self.generator(q.rsample((1,))[0], batch.y))
        kl = closed_form_kl(q, self.prior())
        return PhaseResult({"encoder": kl + error}, {"kl": kl, "feature_error": error})

    def learn(self, batch: Batch) -> PhaseResult:
        with torch.no_grad():
            z = torch.stack([self.code_of(batch, draws=1)[0], self.prior().sample((1, len(batch.x)))[0]])
        generated, context = self.generator(z, batch.y), self.generator.label(batch.y, batch.x)
        real, context = torch.cat([batch.x] * 2), None if context is None else torch.cat([context] * 2)
        found = self.adversarial(self.discriminator, [generated.flatten(0, 1)], [real], context)
        loss = found.generator.view(2, -1) + self.gamma * self.feature_error(batch, generated[0])
        scores = {"discriminator_accuracy": found.accuracy}
        return PhaseResult({"generator": loss, "discriminator": found.discriminator}, scores)

    def scores(self, batch: Batch) -> dict[str, Tensor]:
        error = self.reconstruction_error(batch)
        (one, scores), (other, more) = self.learn_encoder(batch), self.learn(batch)
        return {"reconstruction_error": error, **named_losses({**one, **other}), **scores, **more}
