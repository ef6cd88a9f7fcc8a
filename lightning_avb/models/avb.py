"""Adversarial variational Bayes, with and without adaptive contrast (Mescheder, Nowozin & Geiger 2017).

The posterior is a black box: noise pushed through a network, z = g(x, eps), whose density nobody knows. The ELBO
needs that density in one place,

    ELBO(x) = E_q[ log p(x|z) ] - KL(q(z|x), p(z)),

and a second network T(x, z), the critic, supplies it. Trained to tell (x, z), z ~ q(z|x), from (x, z), z ~ r(z|x),
by the logistic loss, its optimum is T* = log q(z|x) - log r(z|x) (equation 3.3, proposition 1), whence

    KL(q(z|x), p(z)) = E_q[ T*(x, z) + log r(z|x) - log p(z) ].

r = p(z) is Algorithm 1; r = the Gaussian with q's moments is adaptive contrast. T* depends on the encoder's weights
phi, but E_q[ grad_phi T* ] = 0 (proposition 2), so the gradient reaches phi through z alone.

Two players, `model` (encoder, decoder, prior) and `critic`. One phase moves both, from the same point:

    model:   -log p(x|z) + T(x, z) + log r(z|x) - log p(z),      the critic's weights constant,
    critic:  -log sigmoid T(x, z) - log sigmoid -T(x, z_r),      z constant;

then `steps - 1` phases with new noise move the critic alone. A critic that stands still (steps: 0) is a fixed function
for the encoder to exploit; with the prior as contrast nothing then keeps q from turning deterministic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from ..batch import Batch, Shape
from ..conditionals import (
    BernoulliDecoder,
    BoundedNoiseEncoder,
    DecoderRecipe,
    EncoderRecipe,
    PriorRecipe,
    StandardNormal,
)
from ..contrasts import ContrastRecipe, GaussianContrast
from ..errors import ConfigurationError
from ..game import Phase, Play, Player
from ..networks import ResidualCritic
from ..networks.critics import CriticRecipe
from ..objectives import SharedPass, density_ratio_loss, full_precision_in_half
from .latent import LatentVariableModel


@dataclass(frozen=True)
class AVBPlayers:
    """The players of AVB.

    Args:
        model: encoder, decoder and prior.
        critic: T(x, z); its `steps` are critic steps a batch.
    """

    model: Player = Player()
    critic: Player = Player()


class AVB(LatentVariableModel):
    """Adversarial variational Bayes.

    Args:
        latent_dim: dimensions of z.
        encoder: q(z|x); needs no density.
        decoder: p(x|z).
        critic: T(x, z).
        contrast: r(z|x): `PriorContrast` (Algorithm 1) or `GaussianContrast` (adaptive contrast).
        prior: p(z).
        samples: noise samples a row.
        kl_warmup: steps over which the weight of the KL term rises from 0 to 1; 0: the bound from the first step.
        players: optimizer, schedule, clip norm and steps of `model` and `critic`.
        accumulate, data_shape: see `Game`.

    Raises:
        ConfigurationError: a number that makes no sense, with the argument's name.
    """

    def __init__(
        self,
        latent_dim: int,
        encoder: EncoderRecipe = BoundedNoiseEncoder,
        decoder: DecoderRecipe = BernoulliDecoder,
        critic: CriticRecipe = ResidualCritic,
        contrast: ContrastRecipe = GaussianContrast,
        prior: PriorRecipe = StandardNormal,
        samples: int = 1,
        kl_warmup: int = 0,
        players: AVBPlayers = AVBPlayers(),
        accumulate: int = 1,
        data_shape: Sequence[int] | None = None,
    ) -> None:
        recipes = {"encoder": encoder, "decoder": decoder, "critic": critic, "contrast": contrast, "prior": prior}
        super().__init__(latent_dim, recipes, samples, kl_warmup, players, accumulate)
        if self.players["model"].steps != 1:
            raise ConfigurationError("players.model.steps: the model takes one step a batch; the critic may take more")
        self._build_for(data_shape)

    def build(self, data_shape: Shape) -> None:
        super().build(data_shape)
        self.contrast = self.recipes["contrast"](self.latent_dim)
        self.critic = self.recipes["critic"](data_shape, self.latent_dim, self.contrast.context_dim)

    def cast(self) -> dict[str, Sequence[nn.Module]]:
        return {"model": [self.encoder, self.decoder, self.prior], "critic": [self.critic]}

    def phases(self) -> list[Phase]:
        steps = self.players["critic"].steps
        if steps == 0:
            return [Phase(("model",), self.learn_model)]
        return [Phase(("model", "critic"), self.learn), *[Phase(("critic",), self.learn_critic)] * (steps - 1)]

    def judge(self, batch: Batch, p: Distribution, q: Distribution, z: Tensor) -> Verdict:
        """The critic's opinion of z drawn from q, in one pass over the draws of q and of the reference."""
        reference, crossing = self.contrast(q, p), SharedPass()
        seen = torch.cat([reference.standardise(crossing.enter(z)), reference.rsample(len(z))])
        context = reference.context.to(batch.x) if reference.context is not None else None
        with full_precision_in_half(z.device.type):
            t = self.critic(batch.x, seen.to(batch.x), context).to(batch.x)
        for_model, for_critic = crossing.leave(t[: len(z)])
        return Verdict(for_model + reference.log_ratio(z), for_critic, t[len(z) :])

    def learn(self, batch: Batch) -> Play:
        p, q = self.prior(), self.encoder(batch.x, batch.y)
        z = q.rsample((self.samples,))
        verdict = self.judge(batch, p, q, z)
        log_likelihood = self.decoder(z, batch.y).log_prob(batch.x)
        losses = {"model": self.kl_weight * verdict.kl - log_likelihood, "critic": verdict.critic_loss}
        return Play(losses, _scores(log_likelihood, verdict))

    def learn_model(self, batch: Batch) -> Play:
        """Beside a critic that stands still."""
        play = self.learn(batch)
        return Play({"model": play.losses["model"]}, play.scores)

    def learn_critic(self, batch: Batch) -> Play:
        with torch.no_grad():
            p, q = self.prior(), self.encoder(batch.x, batch.y)
            z = q.rsample((self.samples,))
        return Play({"critic": self.judge(batch, p, q, z).critic_loss}, {})

    def scores(self, batch: Batch) -> dict[str, Tensor]:
        play = self.learn(batch)
        return {**play.scores, "critic_loss": play.losses["critic"]}


class Verdict(NamedTuple):
    """What the critic says of draws z of q, each `(samples, batch)`.

    Attributes:
        kl: T(x, z) + log r(z|x) - log p(z), whose mean estimates KL(q(z|x), p(z)); moves the encoder.
        on_posterior, on_reference: T on draws of q and of r; move the critic.
    """

    kl: Tensor
    on_posterior: Tensor
    on_reference: Tensor

    @property
    def critic_loss(self) -> Tensor:
        return density_ratio_loss(self.on_posterior, self.on_reference)

    @property
    def accuracy(self) -> Tensor:
        """How often the critic is right: 0.5 where it cannot tell q from r."""
        return 0.5 * ((self.on_posterior > 0).float() + (self.on_reference <= 0).float())


def _scores(log_likelihood: Tensor, verdict: Verdict) -> dict[str, Tensor]:
    return {
        "elbo_estimate": log_likelihood - verdict.kl,
        "reconstruction": -log_likelihood,
        "kl_estimate": verdict.kl,
        "critic_accuracy": verdict.accuracy,
    }
