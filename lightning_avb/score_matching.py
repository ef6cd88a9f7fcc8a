"""The gradient of log q(z|x) for a q that is Gaussian given its noise: a regression in place of a game.

q(z|x) = E_e[ N(z; m(x, e), s(x, e)^2) ] has the score (Fisher's identity, or Tweedie's formula)

    grad_z log q(z|x) = -E[ (z - m(x, e)) / s(x, e)^2 | z, x ],

so that a network fitted by least squares to (z - m) / s^2 at draws of (z, e) estimates it: denoising score matching
(Vincent 2011), used for semi-implicit posteriors by Yu & Zhang (2023); Lim et al. (2020) do the like for any implicit
q, by adding noise. There is no second class of samples, and nothing saturates. But log q itself stays unknown.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, kl_divergence

from .capabilities import Located, can
from .conditionals import Conditional
from .distributions import SemiImplicit
from .errors import ConfigurationError
from .networks import check_no_batch_norm
from .players import Losses
from .precision import full_precision_in_half


class ScoreTerms(NamedTuple):
    """What the score gives for draws of q, `(samples, batch)` each.

    Attributes:
        kl: KL(q(z|e, x), p(z)) for the noise e that made z, in closed form where there is one, else its one term for
            z. Its mean is at least KL(q(z|x), p(z)), and its gradient is that of KL(q(z|x), p(z)), as far as the score
            is right.
        losses: of the player `critic`.
    """

    kl: Tensor
    losses: Losses

    def scores(self, log_likelihood: Tensor) -> dict[str, Tensor]:
        """What is logged, given log p(x|z) at the same draws, `(samples, batch)`."""
        return {"kl_bound": self.kl}


class DenoisingScoreMatching(Conditional):
    """Gives the gradient of KL(q(z|x), p(z)) for a semi-implicit q, and the loss of the score network.

    Args:
        critic: see `networks.ScoreNetwork`. Of u = (z - location) / scale and the features if q is `Located`, else of
            z and x. Its context is the label as one-hot.
        classes: number of labels that the network gets; 0: none.

    Raises:
        ConfigurationError: a network with batch normalisation, or, when it is called, a q that is not Gaussian given
            its noise.
    """

    def __init__(self, critic: nn.Module, classes: int = 0) -> None:
        super().__init__(classes)
        check_no_batch_norm(critic=critic)
        self.critic = critic

    def critic_losses(self, p: Any, q: Distribution, samples: int, x: Tensor, y: Tensor | None = None) -> Losses:
        """The loss of the score network at new draws of q, which carry no gradient."""
        return self.draw(p, q, samples, x, y)[1].losses

    def draw(
        self, p: Any, q: Distribution, samples: int, x: Tensor, y: Tensor | None = None
    ) -> tuple[Tensor, ScoreTerms]:
        """Draws of q, `(samples, batch, latent_dim)`, and the terms for them.

        Args:
            p: has `log_prob(z)` and `expand`.
            q: q(z|x), a `SemiImplicit`.
            samples: draws per row.
            x: `(batch, *data_shape)`.
            y: `(batch,)` labels; None where labels are ignored.
        """
        if not isinstance(q, SemiImplicit):
            raise ConfigurationError(
                "critic: a ScoreNetwork needs q(z|x) to be Gaussian given its noise, as SemiImplicitEncoder makes it; "
                "for other encoders take a ResidualCritic"
            )
        components = q.components(samples)
        z, log_component = components.rsample_and_log_prob()
        location, scale, given = torch.zeros_like(z[0]), torch.ones_like(z[0]), x
        if can(q, Located):
            located: Located = q  # type: ignore[assignment]
            location, scale, given = located.location, located.scale, located.features.detach()
        u = (z - location) / scale
        # Minus the score, in the coordinates u, of the component that made z; given u its mean is that of q.
        component = (scale * (z - components.loc) / components.scale.square()).detach()
        with full_precision_in_half(z.device.type):
            found = self.critic(given, u.detach(), self.label(y, x)).to(x)
        # The gradient of log q(z|e) along u is -component, on average; that of log q(z) is -found.
        correction = ((component - found.detach()) * u).sum(-1)
        try:
            kl = kl_divergence(components, p.expand(components.batch_shape))
        except NotImplementedError:  # a learned prior
            kl = log_component - p.log_prob(z)
        return z, ScoreTerms(kl + (correction - correction.detach()), {"critic": (found - component).square().sum(-1)})
