"""The variational autoencoder (Kingma & Welling 2013).

For any q(z|x) the evidence lower bound

    ELBO(x) = E_q[ log p(x|z) + log p(z) - log q(z|x) ] = log p(x) - KL(q(z|x), p(z|x))

is maximised in the decoder (maximum likelihood, when the bound is tight) and in the encoder (the bound gets tight).
z = g(eps, x) is reparametrised, so that both gradients pass through the draws. Two estimators of it:

* `monte_carlo` (equation 6 of the paper, SGVB A): the mean over draws of log p(x|z) + log p(z) - log q(z|x);
* `analytic` (equation 7, SGVB B): the mean of log p(x|z), minus KL(q(z|x), p(z)) in closed form. It has
  the smaller variance as a rule (not at the exact posterior, where every Monte Carlo draw gives log p(x) itself), and
  needs a q and a prior whose divergence torch knows.

One player, `model`: encoder, decoder and prior.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.distributions import kl_divergence

from ..batch import Batch
from ..conditionals import (
    BernoulliDecoder,
    DecoderRecipe,
    EncoderRecipe,
    GaussianEncoder,
    PriorRecipe,
    StandardNormal,
)
from ..distributions import Implicit
from ..errors import ConfigurationError
from ..game import Phase, Play, Player
from .latent import LatentVariableModel


@dataclass(frozen=True)
class VAEPlayers:
    """The players of a VAE.

    Args:
        model: encoder, decoder and prior.
    """

    model: Player = Player()


class VAE(LatentVariableModel):
    """Variational autoencoder.

    Args:
        latent_dim: dimensions of z.
        encoder: q(z|x), with a density.
        decoder: p(x|z).
        prior: p(z).
        estimator: `analytic` or `monte_carlo`, see the module.
        samples: noise samples a row (the paper's L).
        kl_warmup: steps over which the weight of the KL term rises from 0 to 1; 0: the bound from the first step.
        players: optimizer, schedule and clip norm.
        accumulate, data_shape: see `Game`.

    Raises:
        ConfigurationError: a number or a name that makes no sense, with the argument's name.
    """

    def __init__(
        self,
        latent_dim: int,
        encoder: EncoderRecipe = GaussianEncoder,
        decoder: DecoderRecipe = BernoulliDecoder,
        prior: PriorRecipe = StandardNormal,
        estimator: Literal["analytic", "monte_carlo"] = "analytic",
        samples: int = 1,
        kl_warmup: int = 0,
        players: VAEPlayers = VAEPlayers(),
        accumulate: int = 1,
        data_shape: Sequence[int] | None = None,
    ) -> None:
        recipes = {"encoder": encoder, "decoder": decoder, "prior": prior}
        super().__init__(latent_dim, recipes, samples, kl_warmup, players, accumulate)
        if estimator not in ("analytic", "monte_carlo"):
            raise ConfigurationError(f"estimator: {estimator!r} is neither 'analytic' nor 'monte_carlo'")
        if self.players["model"].steps != 1:
            raise ConfigurationError("players.model.steps: a VAE has one player, which takes one step a batch")
        self.estimator = estimator
        self._build_for(data_shape)

    def cast(self) -> dict[str, Sequence[nn.Module]]:
        return {"model": [self.encoder, self.decoder, self.prior]}

    def phases(self) -> list[Phase]:
        return [Phase(("model",), self.learn)]

    def bound(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """log p(x|z) `(samples, batch)`, and the KL term of the chosen estimator, `(batch,)` or `(samples, batch)`."""
        q, p = self.encoder(batch.x, batch.y), self.prior()
        if isinstance(q, Implicit):
            raise ConfigurationError("encoder: a VAE needs q(z|x) with a density; AVB takes a black-box encoder")
        if self.estimator == "analytic":
            z, kl = q.rsample((self.samples,)), kl_divergence(q, p)
        else:
            z, log_q = q.rsample_and_log_prob((self.samples,))
            kl = log_q - p.log_prob(z)
        return self.decoder(z, batch.y).log_prob(batch.x), kl

    def learn(self, batch: Batch) -> Play:
        log_likelihood, kl = self.bound(batch)
        return Play({"model": self.kl_weight * kl - log_likelihood}, _scores(log_likelihood, kl))

    def scores(self, batch: Batch) -> dict[str, Tensor]:
        return _scores(*self.bound(batch))


def _scores(log_likelihood: Tensor, kl: Tensor) -> dict[str, Tensor]:
    return {"elbo": log_likelihood - kl, "reconstruction": -log_likelihood, "kl": kl}
