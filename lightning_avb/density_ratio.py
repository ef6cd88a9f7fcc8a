"""log q(z|x) - log p(z) for a q without a density: a critic, and the contrast against which it is trained.

For the optimal critic T*(x, z) = log q(z|x) - log r(z|x) and any reference density r,

    KL(q(z|x), p(z)) = E_q[ T*(x, z) + log r(z|x) - log p(z) ]

(Mescheder, Nowozin & Geiger 2017, sections 2 and 3.1). `AVB` and `Posterior` have a `DensityRatio` each.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from .contrasts import Contrast
from .errors import check_weights
from .networks.critics import check_ratio_critic
from .objectives import critic_accuracy, density_ratio_loss, squared_slope
from .players import Losses
from .precision import full_precision_in_half
from .shared_pass import SharedPass


class CriticTerms(NamedTuple):
    """What the critic gives for draws z of q, `(samples, batch)` each.

    Attributes:
        kl: T(x, z) + log r(z|x) - log p(z), whose mean estimates KL(q(z|x), p(z)). Its gradient reaches z, and a
            learned p; the weights of the critic are constants in it.
        on_posterior, on_reference: T on draws of q and of r.
        losses: of the player `critic`. z is a constant in it.
    """

    kl: Tensor
    on_posterior: Tensor
    on_reference: Tensor
    losses: Losses

    @property
    def accuracy(self) -> Tensor:
        """The share of right answers of the critic; 0.5 if it cannot tell q from r."""
        return critic_accuracy(self.on_posterior, self.on_reference)

    def scores(self, log_likelihood: Tensor) -> dict[str, Tensor]:
        """What is logged, given log p(x|z) at the same draws, `(samples, batch)`."""
        estimate = log_likelihood - self.kl
        return {"elbo_estimate": estimate, "kl_estimate": self.kl, "critic_accuracy": self.accuracy}


class DensityRatio(nn.Module):
    """`density_ratio(p, q, z, x, y)` estimates log q(z|x) - log p(z) at draws z of q, and gives its training losses.

    Args:
        critic: T(x, z), see `networks.Critic`, for rows of the shape that `Contrast.critic_shape` says; its context is
            that of the contrast, followed by the label as one-hot.
        contrast: r(z|x), see `contrasts.Contrast`.
        gradient_penalty: weight gamma of R1 (Mescheder, Geiger & Nowozin 2018): the critic's loss gets
            gamma/2 |grad_z T(x, z)|^2 at the draws of q, in the critic's coordinates.

    Raises:
        ConfigurationError: a negative weight, a critic with batch normalisation, or a `ScoreNetwork`, which gives no T.
    """

    def __init__(self, critic: nn.Module, contrast: Contrast, gradient_penalty: float = 0.0) -> None:
        super().__init__()
        check_weights(gradient_penalty=gradient_penalty)
        check_ratio_critic(critic=critic)
        self.contrast, self.critic, self.gradient_penalty = contrast, critic, gradient_penalty

    def draw(
        self, p: Any, q: Distribution, samples: int, x: Tensor, y: Tensor | None = None
    ) -> tuple[Tensor, CriticTerms]:
        """Draws of q, `(samples, batch, latent_dim)`, and what the critic gives for them."""
        z = q.rsample((samples,))
        return z, self(p, q, z, x, y)

    def critic_losses(self, p: Any, q: Distribution, samples: int, x: Tensor, y: Tensor | None = None) -> Losses:
        """The critic's loss at new draws of q, which carry no gradient."""
        with torch.no_grad():
            z = q.rsample((samples,))
        return self(p, q, z, x, y).losses

    def forward(self, p: Any, q: Distribution, z: Tensor, x: Tensor, y: Tensor | None = None) -> CriticTerms:
        """One pass through the critic, over the draws of q and equally many draws of the reference.

        Args:
            p: has `log_prob(z)`, and `sample` for `PriorContrast`.
            q: q(z|x).
            z: `(samples, batch, latent_dim)`, draws of q.
            x: `(batch, *data_shape)`.
            y: `(batch,)` labels; None where labels are ignored.
        """
        reference, shared = self.contrast(q, p, x, y), SharedPass()
        z_critic, log_ratio = reference.to_critic(z)
        z_critic = torch.cat([shared.critic_input(z_critic), reference.rsample(len(z))]).to(x)
        context_parts = [part for part in (reference.context, self.contrast.label(y, x)) if part is not None]
        context = torch.cat(context_parts, -1).to(x) if context_parts else None
        given = x if reference.features is None else reference.features
        with full_precision_in_half(z.device.type):
            t = self.critic(given, z_critic, context).to(x)
        for_model, for_critic = shared.critic_output(t[: len(z)])
        loss = density_ratio_loss(for_critic, t[len(z) :])
        if self.gradient_penalty and torch.is_grad_enabled():

            def critic(z: Tensor, context: Tensor | None) -> Tensor:
                return self.critic(given, z, context)

            loss = loss + 0.5 * self.gradient_penalty * squared_slope(critic, [z_critic[: len(z)]], context)
        return CriticTerms(for_model + log_ratio, for_critic, t[len(z) :], {"critic": loss})
