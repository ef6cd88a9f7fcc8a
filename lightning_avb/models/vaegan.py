"""VAE/GAN: autoencoding beyond pixels using a learned similarity metric (Larsen et al. 2016).

The decoder of a VAE is the generator of a GAN. Distances between rows are measured in the features f(x) from which the
discriminator T makes its decision, p(f(x)|z) = N(f(G(z)), I), and not in pixels. With z ~ q(z|x) and z_p ~ p(z),

    encoder:        KL(q(z|x), p(z)) + |f(x) - f(G(z))|^2 / 2,                    equation 8 of the paper,
    generator:      gamma |f(x) - f(G(z))|^2 / 2 + its adversarial loss at G(z) and at G(z_p),
    discriminator:  its loss with x as real, G(z) and G(z_p) as generated rows.

Each loss moves its own player alone: the encoder does not try to fool the discriminator, and the discriminator does not
bring f(x) and f(G(z)) together, which it could do by forgetting all. The encoder steps first, then the other two
together. f changes all the time: none of this is a bound of log p(x).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributions import kl_divergence
from torch.func import functional_call

from ..adversarial import AdversarialForm, AdversarialObjective
from ..batch import Batch, Shape
from ..conditionals import EncoderRecipe, GaussianEncoder, PriorRecipe, StandardNormal
from ..errors import at_least, check_weights
from ..networks import MLP, Network, check_rows_apart
from ..players import Phase, PhaseResult, Player, named_losses
from .gan import Generator, Output, check_output
from .latent import EncodingModel


class FeatureDiscriminator(nn.Module):
    """T(x) = w . silu(f(x)) + b, with features f(x) from any network."""

    def __init__(self, network: nn.Module, features: int) -> None:
        super().__init__()
        self.network, self.head = network, nn.Linear(features, 1)

    def forward(self, x: Tensor, context: Tensor | None = None, features: bool = False) -> Tensor:
        """T, `(...)`, or with `features` f(x), `(..., features)`, of x `(..., *data_shape)`."""
        f = self.network(x, context)
        return f if features else self.head(nn.functional.silu(f)).squeeze(-1)


@dataclass(frozen=True)
class VAEGANPlayers:
    """The players of a VAE/GAN: q(z|x) with a prior that learns, G(z) and T(x)."""

    encoder: Player = Player()
    generator: Player = Player()
    discriminator: Player = Player()


class VAEGAN(EncodingModel):
    """VAE/GAN.

    Args:
        latent_dim: dimensions of z.
        encoder: q(z|x), with a KL divergence from the prior in closed form.
        generator: a network from z to x.
        discriminator: a network from x to the features f(x).
        features: how many.
        gamma: weight of the distance of features in the generator's loss.
        prior, output, loss, gradient_penalty, conditional, players, accumulate, data_shape, classes: see `GAN`.

    Raises:
        ConfigurationError: a number or a name that makes no sense, with the argument's name.
    """

    def __init__(
        self,
        latent_dim: int,
        encoder: EncoderRecipe = GaussianEncoder,
        generator: Network = MLP,
        discriminator: Network = MLP,
        features: int = 64,
        gamma: float = 1.0,
        prior: PriorRecipe = StandardNormal,
        output: Output = "sigmoid",
        loss: AdversarialForm = "non_saturating",
        gradient_penalty: float = 1.0,
        conditional: bool = False,
        players: VAEGANPlayers = VAEGANPlayers(),
        accumulate: int = 1,
        data_shape: Sequence[int] | None = None,
        classes: int | None = None,
    ) -> None:
        recipes = {"encoder": encoder, "generator": generator, "discriminator": discriminator, "prior": prior}
        super().__init__(
            latent_dim=latent_dim, recipes=recipes, players=players, conditional=conditional, accumulate=accumulate
        )
        self.require_one_step()
        check_output(output)
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
        check_rows_apart(discriminator=self.discriminator)

    def check_batch(self, batch: Batch, batch_idx: int) -> None:
        super().check_batch(batch, batch_idx)
        if batch_idx == 0:
            self.generator.check(batch.x)

    def player_modules(self) -> dict[str, Sequence[nn.Module]]:
        first = [self.encoder, self.prior]
        return {"encoder": first, "generator": [self.generator], "discriminator": [self.discriminator]}

    def phases(self) -> list[Phase]:
        return [Phase(("encoder",), self.learn_encoder), Phase(("generator", "discriminator"), self.learn)]

    def feature_error(self, batch: Batch, generated: Tensor) -> Tensor:
        """|f(x) - f(generated)|^2 / 2, `(batch,)`; the discriminator's weights are constants."""
        rows, context = torch.stack([batch.x, generated]), self.generator.label(batch.y, batch.x)
        constant = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
        real, ours = functional_call(self.discriminator, constant, (rows, context), {"features": True}).to(rows)
        return 0.5 * (real - ours).square().sum(-1)

    def learn_encoder(self, batch: Batch) -> PhaseResult:
        q = self.encoder(batch.x, batch.y)
        error = self.feature_error(batch, self.generator(q.rsample((1,))[0], batch.y))
        kl = kl_divergence(q, self.prior())
        return PhaseResult({"encoder": kl + error}, {"kl": kl, "feature_error": error})

    def learn(self, batch: Batch) -> PhaseResult:
        with torch.no_grad():
            z = torch.stack([self.encode(batch.x, batch.y), self.prior().sample((1, len(batch.x)))[0]])
        y = None if batch.y is None else batch.y.expand(2, -1)
        generated = self.generator(z, y)
        context = self.generator.label(None if y is None else y.flatten(), batch.x)
        real = batch.x.expand(2, *batch.x.shape).flatten(0, 1)
        found = self.adversarial(self.discriminator, [generated.flatten(0, 1)], [real], context)
        loss = found.generator.view(2, -1) + self.gamma * self.feature_error(batch, generated[0])
        losses = {"generator": loss, "discriminator": found.discriminator}
        return PhaseResult(losses, {"discriminator_accuracy": found.accuracy})

    def scores(self, batch: Batch) -> dict[str, Tensor]:
        """Those of both phases, and `reconstruction_error`: |x - G(z)|^2, summed over the dimensions of x."""
        error = (batch.x - self.decode(self.encode(batch.x, batch.y), batch.y)).square().flatten(1).sum(1)
        results = self.learn_encoder(batch), self.learn(batch)
        scores = {
            name: value
            for result in results
            for name, value in {**named_losses(result.losses), **result.scores}.items()
        }
        return {"reconstruction_error": error, **scores}

    @torch.no_grad()
    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """G(z), `(..., *data_shape)`, for z `(..., latent_dim)` and labels `(...)`."""
        return self.generator(z, y)
