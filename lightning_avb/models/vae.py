"""The variational autoencoder (Kingma & Welling 2013), importance-weighted training included (Burda et al. 2016).

For any q(z|x) the evidence lower bound

    ELBO(x) = E_q[ log p(x|z) + log p(z) - log q(z|x) ] = log p(x) - KL(q(z|x), p(z|x))

is maximised in the decoder (maximum likelihood, if the bound is tight) and in the encoder (which makes it tight).
z = g(eps, x) is reparametrised, so that both gradients pass through the draws. There are three estimators:

* `monte_carlo` (equation 6 of the paper, SGVB A): the mean over draws of log p(x|z) + log p(z) - log q(z|x);
* `analytic` (equation 7, SGVB B): the mean of log p(x|z), minus KL(q(z|x), p(z)) in closed form. Its variance is
  usually smaller (not at the exact posterior, where every Monte Carlo draw gives log p(x) itself). It needs a q and a
  prior whose divergence is known;
* `importance_weighted`: the bound log 1/K sum_k p(x, z_k) / q(z_k|x) of the importance-weighted autoencoder, K =
  `samples`, which lies between the ELBO and log p(x).

With an encoder of which only a bound of the density is known (semi-implicit, auxiliary) all of this remains a lower
bound; it needs `monte_carlo` or `importance_weighted`.

One player, `model`: encoder, decoder and prior.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, kl_divergence

from ..batch import Batch
from ..capabilities import ScoredDraws, can
from ..conditionals import (
    BernoulliDecoder,
    DecoderRecipe,
    EncoderRecipe,
    GaussianEncoder,
    PriorRecipe,
    StandardNormal,
)
from ..errors import ConfigurationError
from ..objectives import log_mean_exp
from ..players import Cosine, Phase, PhaseResult, Player
from .latent import LatentVariableModel


@dataclass(frozen=True)
class VAEPlayers:
    """The players of a VAE.

    Args:
        model: encoder, decoder and prior.
    """

    model: Player = Player(partial(torch.optim.Adam, fused=True), Cosine)


class VAE(LatentVariableModel):
    """Variational autoencoder.

    Args:
        latent_dim: dimensions of z.
        encoder: q(z|x), with a density.
        decoder: p(x|z).
        prior: p(z).
        estimator: `analytic`, `monte_carlo` or `importance_weighted`, see the top of this file.
        samples: draws of z per row (the paper's L, or K of the importance-weighted bound).
        conditional, kl_warmup, weight_prior: see `LatentVariableModel`.
        players: optimizer, schedule and clip norm.
        accumulate, compile: see `Game`.
        data_shape, classes: shape of a row of x and number of labels; needed without a DataModule.

    Raises:
        ConfigurationError: an argument out of range; the message names it.
    """

    def __init__(
        self,
        latent_dim: int,
        encoder: EncoderRecipe = GaussianEncoder,
        decoder: DecoderRecipe = BernoulliDecoder,
        prior: PriorRecipe = StandardNormal,
        estimator: Literal["analytic", "monte_carlo", "importance_weighted"] = "analytic",
        samples: int = 1,
        conditional: bool = False,
        kl_warmup: int = 0,
        weight_prior: float | None = None,
        players: VAEPlayers = VAEPlayers(),
        accumulate: int = 1,
        compile: bool = False,
        data_shape: Sequence[int] | None = None,
        classes: int | None = None,
    ) -> None:
        super().__init__(
            latent_dim=latent_dim,
            recipes={"encoder": encoder, "decoder": decoder, "prior": prior},
            players=players,
            samples=samples,
            conditional=conditional,
            kl_warmup=kl_warmup,
            weight_prior=weight_prior,
            accumulate=accumulate,
            compile=compile,
        )
        if estimator not in ("analytic", "monte_carlo", "importance_weighted"):
            raise ConfigurationError(
                f"estimator: {estimator!r} is none of 'analytic', 'monte_carlo', 'importance_weighted'"
            )
        self.require_one_step()
        self.estimator = estimator
        self.build_if_known(data_shape=data_shape, classes=classes)

    def player_modules(self) -> dict[str, Sequence[nn.Module]]:
        return {"model": [self.encoder, self.decoder, self.prior]}

    def phases(self) -> list[Phase]:
        return [Phase(("model",), self.learn)]

    def terms(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """log p(x|z) `(samples, batch)`, and the KL term of the chosen estimator, `(batch,)` or `(samples, batch)`."""
        q, p = self.encoder(batch.x, batch.y), self.prior()
        if not can(q, ScoredDraws):
            raise ConfigurationError("encoder: a VAE needs q(z|x) with a density; AVB takes a black-box encoder")
        if self.estimator == "analytic":
            z, kl = q.rsample((self.samples,)), closed_form_kl(q, p, "; take estimator: monte_carlo")
        else:
            z, log_q = q.rsample_and_log_prob((self.samples,))
            kl = log_q - p.log_prob(z)
        return self.log_likelihood(batch, z), kl

    def learn(self, batch: Batch) -> PhaseResult:
        log_likelihood, kl = self.terms(batch)
        loss = self.kl_weight * kl - log_likelihood
        if self.estimator == "importance_weighted":
            loss = -log_mean_exp(-loss)
        return PhaseResult({"model": loss + self.weight_penalty}, self._scores(log_likelihood, kl))

    def scores(self, batch: Batch) -> dict[str, Tensor]:
        return self._scores(*self.terms(batch))

    def _scores(self, log_likelihood: Tensor, kl: Tensor) -> dict[str, Tensor]:
        elbo = bound = log_likelihood - kl
        scores = {"elbo": elbo, "reconstruction": -log_likelihood, "kl": kl}
        if self.estimator == "importance_weighted":
            scores["iw_bound"] = bound = log_mean_exp(elbo)
        return {**scores, **self.bits_per_dim(bound)}


def closed_form_kl(q: Distribution, p: Distribution, advice: str = "") -> Tensor:
    """KL(q, p), `(batch,)`.

    Raises:
        ConfigurationError: none is known for this pair; the message ends with the advice.
    """
    try:
        return kl_divergence(q, p)
    except NotImplementedError as error:
        raise ConfigurationError(
            f"encoder, prior: there is no KL divergence in closed form between {type(q).__name__} and "
            f"{type(p).__name__}{advice}"
        ) from error
