"""Adversarial variational Bayes, with and without adaptive contrast (Mescheder, Nowozin & Geiger 2017).

The posterior is a black box: noise pushed through a network, z = g(x, eps), whose density is unknown. The ELBO needs
this density in one place,

    ELBO(x) = E_q[ log p(x|z) ] - KL(q(z|x), p(z)),

and a second network, the critic, supplies it. The paper's critic T(x, z) is trained to tell (x, z), z ~ q(z|x), from
(x, z), z ~ r(z|x), by the logistic loss; its optimum is T* = log q(z|x) - log r(z|x) (equation 3.3, proposition 1),
whence

    KL(q(z|x), p(z)) = E_q[ T*(x, z) + log r(z|x) - log p(z) ].

r = p(z) is Algorithm 1, and r = the Gaussian with q's moments is adaptive contrast. T* depends on the encoder's weights
phi, but E_q[ grad_phi T* ] = 0 (proposition 2), so the gradient reaches phi only through z. It needs no more than the
slope of log q(z|x) along z, and where q is Gaussian given a part of its noise, a regression finds this slope without a
second class of draws: `score_matching`, the default.

There are two players, `model` (encoder, decoder, prior) and `critic`. One phase updates both, from the same weights and
draws:

    model:   -log p(x|z) + T(x, z) + log r(z|x) - log p(z),    the weights of the critic constant,
    critic:  -log sigmoid T(x, z) - log sigmoid -T(x, z_r),    z constant;

then `steps - 1` phases with new noise update the critic. Without critic steps (steps: 0) it is a fixed function that
the encoder exploits; with the prior as contrast nothing then keeps q from becoming deterministic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from ..batch import Batch, Shape
from ..capabilities import DensityBounds, can, read_shape
from ..conditionals import (
    BernoulliDecoder,
    DecoderRecipe,
    EncoderRecipe,
    PriorRecipe,
    SemiImplicitEncoder,
    StandardNormal,
)
from ..contrasts import ContrastRecipe, GaussianContrast
from ..density_ratio import CriticTerms, DensityRatio
from ..errors import ConfigurationError, at_least, check_weights
from ..networks import ScoreNetwork
from ..networks.critics import CriticRecipe
from ..players import Cosine, Phase, PhaseResult, Player, named_losses
from ..recipes import makes_default, recipe_class
from ..score_matching import DenoisingScoreMatching, ScoreTerms
from .latent import LatentVariableModel


@dataclass(frozen=True)
class AVBPlayers:
    """The players of AVB.

    Args:
        model: encoder, decoder and prior.
        critic: `steps` is the number of its steps per batch. It learns faster than the encoder that it has to follow.
    """

    model: Player = Player(partial(torch.optim.Adam, fused=True), Cosine)
    critic: Player = Player(partial(torch.optim.Adam, lr=2e-3, fused=True), Cosine)


class AVB(LatentVariableModel):
    """Adversarial variational Bayes.

    Args:
        latent_dim: dimensions of z.
        encoder: q(z|x); needs no density.
        decoder: p(x|z).
        critic: `ScoreNetwork`, fitted to the slope of log q(z|x) by `score_matching`, for an encoder that is Gaussian
            given its noise; or T(x, z) of the paper, `ResidualCritic` or `InnerProductCritic`, for any encoder.
        contrast: r(z|x) for the critic T: `PriorContrast` (Algorithm 1), `GaussianContrast` (adaptive contrast). A
            `ScoreNetwork` has none.
        prior: p(z).
        samples: draws of z per row.
        components: of a semi-implicit q, for the bounds of the ELBO in validation and test; see `SemiImplicit`.
        gradient_penalty: weight gamma of R1 (Mescheder, Geiger & Nowozin 2018): the critic's loss gets
            gamma/2 |grad_z T(x, z)|^2 at the draws of q, in the critic's coordinates. It makes T smoother, with a bias.
        conditional, kl_warmup, weight_prior: see `LatentVariableModel`.
        players: optimizer, schedule, clip norm and steps of `model` and `critic`.
        accumulate, compile: see `Game`.
        data_shape, classes: shape of a row of x and number of labels; needed without a DataModule.

    Raises:
        ConfigurationError: an argument out of range; the message names it.
    """

    def __init__(
        self,
        latent_dim: int,
        encoder: EncoderRecipe = SemiImplicitEncoder,
        decoder: DecoderRecipe = BernoulliDecoder,
        critic: CriticRecipe = ScoreNetwork,
        contrast: ContrastRecipe = GaussianContrast,
        prior: PriorRecipe = StandardNormal,
        samples: int = 1,
        components: int = 256,
        gradient_penalty: float = 0.0,
        conditional: bool = False,
        kl_warmup: int = 0,
        weight_prior: float | None = None,
        players: AVBPlayers = AVBPlayers(),
        accumulate: int = 1,
        compile: bool = False,
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
            compile=compile,
        )
        self.require_one_step(except_for="critic")
        check_weights(gradient_penalty=gradient_penalty)
        self.components, self.gradient_penalty = at_least(1, components=components), gradient_penalty
        self.build_if_known(data_shape=data_shape, classes=classes)

    def build(self, data_shape: Shape) -> None:
        super().build(data_shape)
        if issubclass(recipe_class(self.recipes["critic"]), ScoreNetwork):
            if not makes_default(self.recipes["contrast"], GaussianContrast) or self.gradient_penalty:
                raise ConfigurationError(
                    "critic: a ScoreNetwork goes without a contrast and without a gradient_penalty; take ResidualCritic"
                )
            critic = self.recipes["critic"](read_shape(self.encoder, data_shape), self.latent_dim, self.classes)
            self.score_matching = DenoisingScoreMatching(critic, self.classes)
            return
        contrast = self.recipes["contrast"](data_shape, self.latent_dim, self.classes)
        shape, context_dim = contrast.critic_shape(self.encoder, data_shape), contrast.context_dim + self.classes
        critic = self.recipes["critic"](shape, self.latent_dim, context_dim)
        self.density_ratio = DensityRatio(critic, contrast, self.gradient_penalty)

    @property
    def divergence(self) -> DensityRatio | DenoisingScoreMatching:
        """What stands in for the density of q: `density_ratio` or `score_matching`."""
        return self.density_ratio if hasattr(self, "density_ratio") else self.score_matching

    def player_modules(self) -> dict[str, Sequence[nn.Module]]:
        return {
            "model": [self.encoder, self.decoder, self.prior],
            "critic": [self.divergence.critic],
        }

    def phases(self) -> list[Phase]:
        steps = self.players["critic"].steps
        if steps == 0:
            return [Phase(("model",), self.learn_model)]
        return [Phase(("model", "critic"), self.learn), *[Phase(("critic",), self.learn_critic)] * (steps - 1)]

    def learn(self, batch: Batch) -> PhaseResult:
        """The losses of all players, from the same draws."""
        log_likelihood, terms = self.terms(batch, self.encoder(batch.x, batch.y))
        loss = self.kl_weight * terms.kl - log_likelihood + self.weight_penalty
        return PhaseResult({"model": loss, **terms.losses}, self._scores(log_likelihood, terms))

    def learn_model(self, batch: Batch) -> PhaseResult:
        """The model's loss alone; the critic is not trained."""
        losses, scores = self.learn(batch)
        return PhaseResult({"model": losses["model"]}, scores)

    def learn_critic(self, batch: Batch) -> PhaseResult:
        """The critic's loss, from new draws."""
        with torch.no_grad():
            p, q = self.prior(), self.encoder(batch.x, batch.y)
        return PhaseResult(self.divergence.critic_losses(p, q, self.samples, batch.x, batch.y), {})

    def terms(self, batch: Batch, q: Distribution) -> tuple[Tensor, CriticTerms | ScoreTerms]:
        """log p(x|z), `(samples, batch)`, for draws of q, and the critic's terms at these draws."""
        z, terms = self.divergence.draw(self.prior(), q, self.samples, batch.x, batch.y)
        return self.log_likelihood(batch, z), terms

    def bounds(self, batch: Batch, q: Distribution) -> dict[str, Tensor]:
        """A lower and an upper bound of the ELBO in expectation, `(samples, batch)`, where q is semi-implicit."""
        if not can(q, DensityBounds):
            return {}
        z, log_q_lower, log_q_upper = q.rsample_and_bounds(self.samples, self.components)  # type: ignore[attr-defined]
        log_joint = self.log_likelihood(batch, z) + self.prior().log_prob(z)
        lower = log_joint - log_q_upper
        return {"elbo_lower": lower, "elbo_upper": log_joint - log_q_lower, **self.bits_per_dim(lower)}

    def scores(self, batch: Batch) -> dict[str, Tensor]:
        q = self.encoder(batch.x, batch.y)
        log_likelihood, terms = self.terms(batch, q)
        return {**self.bounds(batch, q), **self._scores(log_likelihood, terms), **named_losses(terms.losses)}

    def _scores(self, log_likelihood: Tensor, terms: CriticTerms | ScoreTerms) -> dict[str, Tensor]:
        scores = {"reconstruction": -log_likelihood, **terms.scores(log_likelihood)}
        if "elbo_estimate" in scores:
            bits = self.bits_per_dim(scores["elbo_estimate"])
            scores |= {f"{name}_estimate": value for name, value in bits.items()}
        return scores
