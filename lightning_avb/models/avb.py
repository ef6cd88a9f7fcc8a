"""Adversarial variational Bayes, with and without adaptive contrast (Mescheder, Nowozin & Geiger 2017).

The posterior is a black box: noise pushed through a network, z = g(x, eps), whose density nobody knows. The ELBO
needs that density in one place,

    ELBO(x) = E_q[ log p(x|z) ] - KL(q(z|x), p(z)),

and a second network T(x, z), the critic, supplies it. Trained to tell (x, z), z ~ q(z|x), from (x, z), z ~ r(z|x),
by the logistic loss, its optimum is T* = log q(z|x) - log r(z|x) (equation 3.3, proposition 1), whence

    KL(q(z|x), p(z)) = E_q[ T*(x, z) + log r(z|x) - log p(z) ].

r = p(z) is Algorithm 1; r = the Gaussian with q's moments is adaptive contrast; r = a flow fitted to q's draws is one
step further. T* depends on the encoder's weights
phi, but E_q[ grad_phi T* ] = 0 (proposition 2), so the gradient reaches phi through z alone.

Three players, `model` (encoder, decoder, prior), `critic` and, where r has parameters, `contrast`. One phase moves all,
from the same point:

    model:     -log p(x|z) + T(x, z) + log r(z|x) - log p(z),    the weights of critic and contrast constant,
    critic:    -log sigmoid T(x, z) - log sigmoid -T(x, z_r),    z constant,
    contrast:  -log r(z|x),                                      z constant;

then `steps - 1` phases with new noise move the critic, and the contrast with it. A critic that stands still (steps: 0)
is a fixed function for the encoder to exploit; with the prior as contrast nothing then keeps q from turning
deterministic.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from ..batch import Batch, Shape
from ..conditionals import (
    BernoulliDecoder,
    BoundedNoiseEncoder,
    DecoderRecipe,
    Encoder,
    EncoderRecipe,
    PriorRecipe,
    StandardNormal,
)
from ..contrasts import Contrast, ContrastRecipe, GaussianContrast
from ..errors import check_weights
from ..game import Cosine, Game, Losses, Phase, Play, Player
from ..networks import ResidualCritic, check_rows_apart
from ..networks.critics import CriticRecipe
from ..objectives import SharedPass, critic_accuracy, density_ratio_loss, full_precision_in_half
from .latent import LatentVariableModel

ADAM = partial(torch.optim.Adam, lr=1e-3, betas=(0.5, 0.999), fused=True)
"""A short memory of gradients that change as the opponent does."""


@dataclass(frozen=True)
class AVBPlayers:
    """The players of AVB.

    Args:
        model: encoder, decoder and prior.
        critic: T(x, z); its `steps` are critic steps a batch.
        contrast: r(z|x), if it has parameters; it steps whenever the critic does.
    """

    model: Player = Player(ADAM, Cosine)
    critic: Player = Player(ADAM, Cosine, steps=2)
    contrast: Player = Player(ADAM, Cosine)


class CriticGame(Game):
    """A model whose q(z|x) has no density, and a critic that supplies what follows from it.

    The first player of the model moves q and whatever else it likes; `critic` and, where r has parameters, `contrast`
    are its opponents.
    """

    recipes: dict[str, Any]
    encoder: Encoder
    contrast: Contrast
    critic: nn.Module
    samples: int
    gradient_penalty: float

    @abc.abstractmethod
    def sides(self, batch: Batch) -> tuple[Any, Any]:
        """p, of which `log_prob(z)` is asked, and q(z|x)."""

    @abc.abstractmethod
    def learn(self, batch: Batch) -> Play:
        """All players' losses."""

    def build_critic(self, data_shape: Shape, latent_dim: int, classes: int) -> None:
        """Makes contrast and critic, by the recipes of these names."""
        self.contrast = self.recipes["contrast"](data_shape, latent_dim, classes)
        self.critic = self.recipes["critic"](data_shape, latent_dim, self.contrast.context_dim + classes)
        check_rows_apart(critic=self.critic)

    def phases(self) -> list[Phase]:
        first, *opponents = self.players
        steps = self.players["critic"].steps if "critic" in self.players else 0
        if steps == 0:
            return [Phase((first,), self.learn_alone)]
        return [
            Phase((first, *opponents), self.learn),
            *[Phase(tuple(opponents), self.learn_critic)] * (steps - 1),
        ]

    def judge(self, batch: Batch, p: Distribution, q: Distribution, z: Tensor) -> Verdict:
        """The critic's opinion of z drawn from q, in one pass over the draws of q and of the reference."""
        reference, crossing = self.contrast(q, p, batch.x, batch.y), SharedPass()
        view, log_ratio = reference.view(z)
        seen = torch.cat([crossing.enter(view), reference.rsample(len(z))]).to(batch.x)
        told = [part for part in (reference.context, self.encoder.label(batch.y, batch.x)) if part is not None]
        context = torch.cat(told, -1).to(batch.x) if told else None
        with full_precision_in_half(z.device.type):
            t = self.critic(batch.x, seen, context).to(batch.x)
        for_model, for_critic = crossing.leave(t[: len(z)])
        critic_loss = density_ratio_loss(for_critic, t[len(z) :])
        if self.gradient_penalty and torch.is_grad_enabled():
            critic_loss = critic_loss + 0.5 * self.gradient_penalty * self._squared_slope(
                batch.x, seen[: len(z)], context
            )
        losses = {"critic": critic_loss, **({"contrast": reference.fit(z)} if reference.fit else {})}
        return Verdict(for_model + log_ratio, for_critic, t[len(z) :], losses)

    def _squared_slope(self, x: Tensor, seen: Tensor, context: Tensor | None) -> Tensor:
        """|grad_z T(x, z)|^2, `(samples, batch)`."""
        seen = seen.detach().requires_grad_()
        with full_precision_in_half(x.device.type):
            t = self.critic(x, seen, context)
        (slope,) = torch.autograd.grad(t.sum(), seen, create_graph=True)
        return slope.square().sum(-1)

    def learn_alone(self, batch: Batch) -> Play:
        """The first player's loss, beside a critic that stands still, or without one."""
        play, first = self.learn(batch), next(iter(self.players))
        return Play({first: play.losses[first]}, play.scores)

    def learn_critic(self, batch: Batch) -> Play:
        with torch.no_grad():
            p, q = self.sides(batch)
            z = q.rsample((self.samples,))
        return Play(self.judge(batch, p, q, z).losses, {})


class AVB(CriticGame, LatentVariableModel):
    """Adversarial variational Bayes.

    Args:
        latent_dim: dimensions of z.
        encoder: q(z|x); needs no density.
        decoder: p(x|z).
        critic: T(x, z).
        contrast: r(z|x): `PriorContrast` (Algorithm 1), `GaussianContrast` (adaptive contrast) or `FlowContrast`.
        prior: p(z).
        samples: noise samples a row.
        gradient_penalty: weight gamma of R1 (Mescheder, Geiger & Nowozin 2018): the critic's loss gets
            gamma/2 |grad_z T(x, z)|^2 at the draws of q, in the critic's coordinates. It smooths T, and biases it.
        conditional, kl_warmup, weight_prior: see `LatentVariableModel`.
        players: optimizer, schedule, clip norm and steps of `model`, `critic` and `contrast`.
        accumulate: see `Game`.
        data_shape, classes: shape of a row of x and number of labels, where no DataModule tells them.

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
        gradient_penalty: float = 0.0,
        conditional: bool = False,
        kl_warmup: int = 0,
        weight_prior: float | None = None,
        players: AVBPlayers = AVBPlayers(),
        accumulate: int = 1,
        data_shape: Sequence[int] | None = None,
        classes: int | None = None,
    ) -> None:
        recipes = {"encoder": encoder, "decoder": decoder, "critic": critic, "contrast": contrast, "prior": prior}
        super().__init__(latent_dim, recipes, conditional, samples, kl_warmup, weight_prior, players, accumulate)
        self._one_step_each(but="critic")
        check_weights(gradient_penalty=gradient_penalty)
        self.gradient_penalty = gradient_penalty
        self._build_for(data_shape=data_shape, classes=classes)

    def build(self, data_shape: Shape) -> None:
        super().build(data_shape)
        self.build_critic(data_shape, self.latent_dim, self.classes)

    def cast(self) -> dict[str, Sequence[nn.Module]]:
        return {
            "model": [self.encoder, self.decoder, self.prior],
            "critic": [self.critic],
            "contrast": [self.contrast],
        }

    def sides(self, batch: Batch) -> tuple[Distribution, Distribution]:
        return self.prior(), self.encoder(batch.x, batch.y)

    def learn(self, batch: Batch) -> Play:
        log_likelihood, verdict = self.terms(batch)
        loss = self.kl_weight * verdict.kl - log_likelihood + self.weight_penalty
        return Play({"model": loss, **verdict.losses}, self._scores(log_likelihood, verdict))

    def terms(self, batch: Batch) -> tuple[Tensor, Verdict]:
        """log p(x|z), `(samples, batch)`, for draws of q, and what the critic says of these."""
        p, q = self.sides(batch)
        z = q.rsample((self.samples,))
        verdict = self.judge(batch, p, q, z)
        return self.log_likelihood(batch, z), verdict

    def scores(self, batch: Batch) -> dict[str, Tensor]:
        log_likelihood, verdict = self.terms(batch)
        losses = {f"{name}_loss": loss for name, loss in verdict.losses.items()}
        return {**self._scores(log_likelihood, verdict), **losses}

    def _scores(self, log_likelihood: Tensor, verdict: Verdict) -> dict[str, Tensor]:
        estimate = log_likelihood - verdict.kl
        bits = {f"{name}_estimate": value for name, value in self.bits_per_dim(estimate).items()}
        return {
            "elbo_estimate": estimate,
            "reconstruction": -log_likelihood,
            "kl_estimate": verdict.kl,
            "critic_accuracy": verdict.accuracy,
            **bits,
        }


class Verdict(NamedTuple):
    """What the critic says of draws z of q, each `(samples, batch)`.

    Attributes:
        kl: T(x, z) + log r(z|x) - log p(z), whose mean estimates KL(q(z|x), p(z)); moves the encoder.
        on_posterior, on_reference: T on draws of q and of r.
        losses: of the players `critic` and `contrast`.
    """

    kl: Tensor
    on_posterior: Tensor
    on_reference: Tensor
    losses: Losses

    @property
    def accuracy(self) -> Tensor:
        """How often the critic is right: 0.5 where it cannot tell q from r."""
        return critic_accuracy(self.on_posterior, self.on_reference)
