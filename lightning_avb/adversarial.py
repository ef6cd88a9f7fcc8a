"""The losses of an adversarial game: one for the discriminator, one for the players whose draws it classifies.

T is high on generated rows and low on real ones: for the logistic losses it is the logit of "this row is generated".
Each form is a pair, the discriminator's loss and the generator's:

| Form | Discriminator | Generator | Source |
|---|---|---|---|
| `non_saturating` | -log sigmoid T(g) - log sigmoid -T(r) | -log sigmoid -T(g) | Goodfellow et al. 2014, section 3 |
| `minimax` | the same | log sigmoid T(g) | their equation 1 |
| `kl` | the same | T(g) | KL(generated, real) at the optimal T |
| `least_squares` | (T(g) - 1)^2 / 2 + (T(r) + 1)^2 / 2 | (T(g) + 1)^2 / 2 | Mao et al. 2017, equation 2 |
| `hinge` | max(0, 1 - T(g)) + max(0, 1 + T(r)) | T(g) | Lim & Ye 2017 |
| `wasserstein` | T(r) - T(g) | T(g) | Arjovsky et al. 2017; needs a `one_centred` penalty |

In the papers T is high on real rows. Here all signs are reversed, so that T* = log generated - log real is what AVB's
critic estimates. Mao et al. have the targets 0 and 1 in place of -1 and 1: the same game with another scale of T.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from . import noise
from .errors import ConfigurationError, check_weights
from .objectives import critic_accuracy, density_ratio_loss, squared_slope
from .precision import full_precision_in_half
from .shared_pass import SharedPass

AdversarialForm = Literal["non_saturating", "minimax", "kl", "least_squares", "hinge", "wasserstein"]
Penalty = Literal["zero_centred", "one_centred"]

_GENERATOR: dict[str, Callable[[Tensor], Tensor]] = {
    "non_saturating": softplus,
    "minimax": lambda t: -softplus(-t),
    "kl": lambda t: t,
    "least_squares": lambda t: 0.5 * (t + 1).square(),
    "hinge": lambda t: t,
    "wasserstein": lambda t: t,
}

_DISCRIMINATOR: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "non_saturating": density_ratio_loss,
    "minimax": density_ratio_loss,
    "kl": density_ratio_loss,
    "least_squares": lambda generated, real: 0.5 * ((generated - 1).square() + (real + 1).square()),
    "hinge": lambda generated, real: (1 - generated).relu() + (1 + real).relu(),
    "wasserstein": lambda generated, real: real - generated,
}


@dataclass(frozen=True)
class AdversarialTerms:
    """The result of one pass through the discriminator, `(batch,)` each.

    Attributes:
        objective: the pair of losses.
        logits_for_players: T of generated and of real rows, `(2, batch)`, for the losses of the players that made them;
            the discriminator's weights are constants in it.
        discriminator: its loss; everything else is constant in it.
        accuracy: the share of right answers; 0.5 if it cannot tell the rows apart.
    """

    objective: AdversarialObjective
    logits_for_players: Tensor
    discriminator: Tensor
    accuracy: Tensor

    @property
    def generator(self) -> Tensor:
        """The loss of the player that made the generated rows."""
        return self.objective.generator_loss(self.logits_for_players[0])

    @property
    def generator_on_real(self) -> Tensor:
        """The loss of a player that made the rows in the place of real ones, and is trained to raise T on them."""
        return self.objective.generator_loss(-self.logits_for_players[1])


class AdversarialObjective:
    """A pair of losses with its gradient penalty.

    Args:
        form: one of the table above.
        gradient_penalty: weight gamma of the penalty in the discriminator's loss; 0: none.
        penalty: `zero_centred`: R1, gamma/2 |grad T|^2 at real rows (Mescheder, Geiger & Nowozin 2018);
            `one_centred`: gamma (|grad T| - 1)^2 at random points between a real and a generated row (Gulrajani et
            al. 2017).

    Raises:
        ConfigurationError: no such form or penalty, or a negative weight.
    """

    def __init__(self, form: AdversarialForm, gradient_penalty: float = 0.0, penalty: Penalty = "zero_centred") -> None:
        if form not in get_args(AdversarialForm):
            raise ConfigurationError(f"loss: {form!r} is none of {', '.join(map(repr, get_args(AdversarialForm)))}")
        if penalty not in get_args(Penalty):
            raise ConfigurationError(f"penalty: {penalty!r} is none of {', '.join(map(repr, get_args(Penalty)))}")
        check_weights(gradient_penalty=gradient_penalty)
        if form == "wasserstein" and not gradient_penalty:
            raise ConfigurationError("gradient_penalty: 0, and loss: 'wasserstein' needs one to keep T from growing")
        self.form, self.gradient_penalty, self.penalty = form, gradient_penalty, penalty

    def generator_loss(self, t: Tensor) -> Tensor:
        """The loss of a player at its draws, elementwise in T; it falls with T."""
        return _GENERATOR[self.form](t)

    def discriminator_loss(self, on_generated: Tensor, on_real: Tensor) -> Tensor:
        """The discriminator's loss of pairs of a generated and a real row, without its penalty."""
        return _DISCRIMINATOR[self.form](on_generated, on_real)

    def __call__(
        self,
        discriminator: nn.Module,
        generated: Sequence[Tensor],
        real: Sequence[Tensor],
        context: Tensor | None = None,
        penalise: Literal["generated", "real"] = "real",
    ) -> AdversarialTerms:
        """All losses, from one pass through the discriminator.

        Args:
            discriminator: maps its inputs, `(2, batch, ...)` each, and the context to T, `(2, batch)`.
            generated, real: its inputs, `(batch, ...)` each: rows, or rows and codes.
            context: `(batch, context_dim)`, a further input such as labels, or None.
            penalise: the side on which R1 is taken: the one whose rows come from the data.

        Raises:
            ConfigurationError: it does not give one number per row.
        """
        rows = [torch.stack([fake, true.to(fake)]) for fake, true in zip(generated, real, strict=True)]
        shared = SharedPass()
        with full_precision_in_half(rows[0].device.type):
            t = discriminator(*map(shared.critic_input, rows), context).to(rows[0])
        if t.shape != rows[0].shape[:2]:
            raise ConfigurationError(
                f"discriminator: gives an output of shape {tuple(t.shape[2:])} per row; expected one number"
            )
        logits_for_players, (on_generated, on_real) = shared.critic_output(t)
        loss = self.discriminator_loss(on_generated, on_real)
        if self.gradient_penalty and torch.is_grad_enabled():
            loss = loss + self._penalty(discriminator, rows, context, 0 if penalise == "generated" else 1)
        return AdversarialTerms(self, logits_for_players, loss, critic_accuracy(on_generated, on_real))

    def _penalty(self, discriminator: nn.Module, rows: list[Tensor], context: Tensor | None, side: int) -> Tensor:
        if self.penalty == "zero_centred":
            return 0.5 * self.gradient_penalty * squared_slope(discriminator, [part[side] for part in rows], context)
        share = noise.uniform(len(rows[0][0]), rows[0])
        between = [part[0].lerp(part[1], share.view(-1, *[1] * (part.ndim - 2))) for part in rows]
        slope = (squared_slope(discriminator, between, context) + 1e-12).sqrt()
        return self.gradient_penalty * (slope - 1).square()
