"""Adversarial variational Bayes, with and without adaptive contrast (Mescheder, Nowozin & Geiger 2017).

The posterior is a black box: noise pushed through a network, z = g(x, eps), whose density is unknown. The ELBO needs
this density in one place,

    ELBO(x) = E_q[ log p(x|z) ] - KL(q(z|x), p(z)),

and a second network T(x, z), the critic, supplies it. Trained to tell (x, z), z ~ q(z|x), from (x, z), z ~ r(z|x),
by the logistic loss, its optimum is T* = log q(z|x) - log r(z|x) (equation 3.3, proposition 1), whence

    KL(q(z|x), p(z)) = E_q[ T*(x, z) + log r(z|x) - log p(z) ].

r = p(z) is Algorithm 1, and r = the Gaussian with q's moments is adaptive contrast; r can also be a flow fitted to q's
draws. T* depends on the encoder's weights phi, but E_q[ grad_phi T* ] = 0 (proposition 2), so the gradient reaches phi
only through z.

There are three players, `model` (encoder, decoder, prior), `critic` and, if r has parameters, `contrast`. One phase
updates all of them, from the same weights and draws:

    model:     -log p(x|z) + T(x, z) + log r(z|x) - log p(z),    the weights of critic and contrast constant,
    critic:    -log sigmoid T(x, z) - log sigmoid -T(x, z_r),    z constant,
    contrast:  -log r(z|x),                                      z constant;

then `steps - 1` phases with new noise update critic and contrast. Without critic steps (steps: 0) the critic is a fixed
function that the encoder exploits; with the prior as contrast nothing then keeps q from becoming deterministic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

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
from ..density_ratio import CriticTerms, DensityRatio
from ..errors import check_weights
from ..networks import ResidualCritic
from ..networks.critics import CriticRecipe
from ..players import Cosine, Phase, PhaseResult, Player, named_losses
from .latent import LatentVariableModel

ADAM = partial(torch.optim.Adam, lr=1e-3, betas=(0.5, 0.999), fused=True)
"""A short memory of gradients that change as the opponent does."""


@dataclass(frozen=True)
class AVBPlayers:
    """The players of AVB.

    Args:
        model: encoder, decoder and prior.
        critic: T(x, z); `steps` is the number of its steps per batch.
        contrast: r(z|x), if it has parameters; it steps with the critic.
    """

    model: Player = Player(ADAM, Cosine)
    critic: Player = Player(ADAM, Cosine, steps=2)
    contrast: Player = Player(ADAM, Cosine)


class AVB(LatentVariableModel):
    """Adversarial variational Bayes.

    Args:
        latent_dim: dimensions of z.
        encoder: q(z|x); needs no density.
        decoder: p(x|z).
        critic: T(x, z).
        contrast: r(z|x): `PriorContrast` (Algorithm 1), `GaussianContrast` (adaptive contrast) or `FlowContrast`.
        prior: p(z).
        samples: draws of z per row.
        gradient_penalty: weight gamma of R1 (Mescheder, Geiger & Nowozin 2018): the critic's loss gets
            gamma/2 |grad_z T(x, z)|^2 at the draws of q, in the critic's coordinates. It makes T smoother, with a bias.
        conditional, kl_warmup, weight_prior: see `LatentVariableModel`.
        players: optimizer, schedule, clip norm and steps of `model`, `critic` and `contrast`.
        accumulate: see `Game`.
        data_shape, classes: shape of a row of x and number of labels; needed without a DataModule.

    Raises:
        ConfigurationError: an argument out of range; the message names it.
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
        super().__init__(
            latent_dim=latent_dim,
            recipes=recipes,
            players=players,
            samples=samples,
            conditional=conditional,
            kl_warmup=kl_warmup,
            weight_prior=weight_prior,
            accumulate=accumulate,
        )
        self.require_one_step(except_for="critic")
        check_weights(gradient_penalty=gradient_penalty)
        self.gradient_penalty = gradient_penalty
        self.build_if_known(data_shape=data_shape, classes=classes)

    def build(self, data_shape: Shape) -> None:
        super().build(data_shape)
        contrast = self.recipes["contrast"](data_shape, self.latent_dim, self.classes)
        critic = self.recipes["critic"](data_shape, self.latent_dim, contrast.context_dim + self.classes)
        self.density_ratio = DensityRatio(critic, contrast, self.gradient_penalty)

    def player_modules(self) -> dict[str, Sequence[nn.Module]]:
        return {
            "model": [self.encoder, self.decoder, self.prior],
            "critic": [self.density_ratio.critic],
            "contrast": [self.density_ratio.contrast],
        }

    def phases(self) -> list[Phase]:
        opponents = tuple(name for name in self.players if name != "model")
        steps = self.players["critic"].steps if "critic" in self.players else 0
        if steps == 0:
            return [Phase(("model",), self.learn_model)]
        return [Phase(("model", *opponents), self.learn), *[Phase(opponents, self.learn_critic)] * (steps - 1)]

    def learn(self, batch: Batch) -> PhaseResult:
        """The losses of all players, from the same draws."""
        log_likelihood, critic = self.terms(batch)
        loss = self.kl_weight * critic.kl - log_likelihood + self.weight_penalty
        return PhaseResult({"model": loss, **critic.losses}, self._scores(log_likelihood, critic))

    def learn_model(self, batch: Batch) -> PhaseResult:
        """The model's loss beside a critic that is not trained."""
        losses, scores = self.learn(batch)
        return PhaseResult({"model": losses["model"]}, scores)

    def learn_critic(self, batch: Batch) -> PhaseResult:
        """The losses of critic and contrast, from new draws."""
        with torch.no_grad():
            p, q = self.prior(), self.encoder(batch.x, batch.y)
            z = q.rsample((self.samples,))
        return PhaseResult(self.density_ratio(p, q, z, batch.x, batch.y).losses, {})

    def terms(self, batch: Batch) -> tuple[Tensor, CriticTerms]:
        """log p(x|z), `(samples, batch)`, for draws of q, and the critic's terms at these draws."""
        p, q = self.prior(), self.encoder(batch.x, batch.y)
        z = q.rsample((self.samples,))
        critic = self.density_ratio(p, q, z, batch.x, batch.y)
        return self.log_likelihood(batch, z), critic

    def scores(self, batch: Batch) -> dict[str, Tensor]:
        log_likelihood, critic = self.terms(batch)
        return {**self._scores(log_likelihood, critic), **named_losses(critic.losses)}

    def _scores(self, log_likelihood: Tensor, critic: CriticTerms) -> dict[str, Tensor]:
        estimate = log_likelihood - critic.kl
        bits = {f"{name}_estimate": value for name, value in self.bits_per_dim(estimate).items()}
        return {
            "elbo_estimate": estimate,
            "reconstruction": -log_likelihood,
            "kl_estimate": critic.kl,
            "critic_accuracy": critic.accuracy,
            **bits,
        }
