"""AVB as black-box inference: draws of any posterior whose log-density is known up to a constant.

There is no data set and no decoder, only log p(z) + constant (Mescheder, Nowozin & Geiger 2017, section 6.1). A sampler
pushes noise through a network, z ~ q, and is trained on

    E_q[ log q(z) - log p(z) ] = KL(q, p) - log of the constant,

which needs the density of q. A critic supplies it, as in `avb`, with p in the place of prior times likelihood: for the
contrast r and the optimal critic T* = log q - log r

    sampler:   T(z) + log r(z) - log p(z),                 the weights of the critic constant,
    critic:    -log sigmoid T(z) - log sigmoid -T(z_r),    z constant.

The default sampler needs no critic. Given a part e of its noise it is normal (`PooledMixtureEncoder`), and the average
of these normals over K draws of e, including the one that made z, is a contrast

    r(z) = 1/K sum_k q(z|e_k),      E[ log r(z) - log p(z) ] >= E_q[ log q(z) - log p(z) ],

with which T* = 0: a critic cannot tell draws of the average from draws of q. The inequality is the semi-implicit bound
(Yin & Zhou 2018); with hundreds of draws the gap is some thousandths of a nat. A flow is its own contrast in the same
way (`FlowEncoder`). A sampler whose draws come without such a density (`NoiseInjectionEncoder`) is trained with
the critic.

For a family log p(x, z), with one data set x per row of the data, the same gives q(z|x) for all x at once.

**Coordinates.** Named parameters become z in R^d by bijections, see `lightning_avb.support`. The sampler works in
u = L^-1 (z - m), where N(m, L L^T) is a normal distribution near p, found before training from several starts. One
learning rate then suits targets of all scales, and the sampler begins at this approximation. During the warm-up it is
trained on N(0, I)^(1 - beta) p^beta with beta from 0 to 1, the path of annealed importance sampling: modes separate
gradually, and none that the approximation covers is lost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .. import noise
from ..batch import Batch, Shape
from ..capabilities import ScoredDraws, can
from ..conditionals import EncoderRecipe, PooledMixtureEncoder
from ..contrasts import ContrastRecipe, FullGaussianContrast, PriorContrast
from ..density_ratio import DensityRatio
from ..distributions import DiagonalNormal
from ..errors import ConfigurationError, at_least, check_weights
from ..game import Game
from ..lightning_private import forget_hyperparameter
from ..networks import ResidualCritic
from ..networks.critics import CriticRecipe
from ..players import Cosine, Phase, PhaseResult, Player, named_losses
from ..recipes import part_recipe
from ..support import Parameters
from ..targets import Family, Target
from ..targets.calls import checked_log_prob
from .coordinates import place_coordinates

TargetRecipe = Callable[[], Target]
"""() -> the log-density."""


class SamplerAdam(torch.optim.Adam):
    """Adam with defaults for standardised coordinates: a larger step, and a short memory as gradients shrink fast.

    Args:
        params: given by the engine.
        lr, betas: see `torch.optim.Adam`.
    """

    def __init__(self, params: Any, lr: float = 5e-3, betas: tuple[float, float] = (0.9, 0.99)) -> None:
        super().__init__(params, lr=lr, betas=betas)


@dataclass(frozen=True)
class PosteriorPlayers:
    """The players of a posterior.

    Args:
        sampler: q(z|x).
        critic: T(x, z), for a sampler without a density; `steps` is the number of its steps per batch.
    """

    sampler: Player = Player(SamplerAdam, Cosine, clip_norm=10.0)
    critic: Player = Player(SamplerAdam, Cosine)


class Posterior(Game):
    """Posterior of a log-density, learned by a sampler.

    Args:
        target: the log-density with its parameters and their supports.
        sampler: q(z|x), in the coordinates u, see the top of this file. If its draws come with a density, or with a
            bound of it, it is trained without a critic.
        critic: T(x, z).
        contrast: r(z|x), see `AVB`; not `PriorContrast`.
        samples: draws per row in a training step.
        standardise: the sampler's coordinates are those in which the normal distribution nearest to p is N(0, I);
            otherwise those of the support.
        warmup: steps over which the target changes from N(0, I) to p, see the top of this file, and at most half of the
            run; 0: none.
        gradient_penalty: see `AVB`.
        players: optimizer, schedule, clip norm and steps of `sampler` and `critic`.
        accumulate, compile: see `Game`.

    Raises:
        ConfigurationError: an argument out of range, or an invalid target; the message names it. When fitting starts: a
            log-density that cannot be called, gives a wrong shape, is not differentiable, does not fall off along every
            coordinate, or is not finite where the sampler begins; or invalid derived quantities, reference draws or
            simulated data.
        DensityError: the log-density raised an exception in training.
    """

    target: Target
    location: Tensor
    scale_tril: Tensor
    placed: Tensor

    def __init__(
        self,
        target: TargetRecipe,
        sampler: EncoderRecipe = PooledMixtureEncoder,
        critic: CriticRecipe = ResidualCritic,
        contrast: ContrastRecipe = FullGaussianContrast,
        samples: int = 512,
        standardise: bool = True,
        warmup: int = 1000,
        gradient_penalty: float = 0.0,
        players: PosteriorPlayers = PosteriorPlayers(),
        accumulate: int = 1,
        compile: bool = False,
    ) -> None:
        super().__init__(players=players, accumulate=accumulate, compile=compile)
        check_weights(gradient_penalty=gradient_penalty)
        self.samples, self.gradient_penalty = at_least(2, samples=samples), gradient_penalty
        self.standardise, self.warmup = standardise, at_least(0, warmup=warmup)
        self._warmup_steps = warmup
        given = {"target": target, "sampler": sampler, "critic": critic, "contrast": contrast}
        self.recipes = {name: part_recipe(value, name) for name, value in given.items()}
        self.require_one_step(except_for="critic", minimum=1)
        try:
            target = self.recipes["target"]()
        except ConfigurationError:
            raise
        except Exception as error:
            raise ConfigurationError(f"target: {error}") from error
        if not isinstance(target, Target):
            raise ConfigurationError(f"target: {type(target).__name__} is no lightning_avb.targets.Target")
        if not getattr(target, "constraints", None):
            raise ConfigurationError(f"target: {type(target).__name__} sets no `constraints`, its parameters by name")
        if target.data_shape is not None and not isinstance(target.data_shape, (tuple, list)):
            raise ConfigurationError(f"target: data_shape {target.data_shape!r} must be a tuple, such as (4,)")
        if target.data_shape is not None and not isinstance(target, Family):
            raise ConfigurationError(
                f"target: {type(target).__name__} has a data_shape, and so must be a lightning_avb.targets.Family"
            )
        self.target = target.requires_grad_(False)
        self.support = target.support
        self.finite.advice = (
            f"Is the log-density of {type(target).__name__} finite in all of the "
            f"support, {', '.join(map(' '.join, target.constraints.items()))}, and the support the right "
            "one? A smaller learning rate or clip_norm for that player often helps too."
        )
        self.build_if_known(data_shape=target.data_shape or (1,))
        forget_hyperparameter(self, "data_shape")  # it follows from the target

    @property
    def latent_dim(self) -> int:
        """Dimensions of z."""
        return self.support.dim

    @property
    def amortised(self) -> bool:
        """Whether there is one posterior for every data set."""
        return self.target.data_shape is not None

    def build(self, data_shape: Shape) -> None:
        self.encoder = self.recipes["sampler"](data_shape, self.latent_dim, 0)
        self.register_buffer("location", torch.zeros(self.latent_dim))
        self.register_buffer("scale_tril", torch.eye(self.latent_dim))
        self.register_buffer("placed", torch.tensor(False))
        with torch.no_grad():
            q = self.encoder(torch.zeros(1, *data_shape))
        self.adversarial = not can(q, ScoredDraws)
        if self.adversarial:
            contrast = self.recipes["contrast"](data_shape, self.latent_dim, 0)
            if isinstance(contrast, PriorContrast):
                raise ConfigurationError("contrast: PriorContrast needs draws of p, and here only its density is known")
            shape = contrast.critic_shape(self.encoder, data_shape)
            critic = self.recipes["critic"](shape, self.latent_dim, contrast.context_dim)
            self.density_ratio = DensityRatio(critic, contrast, self.gradient_penalty)

    def player_modules(self) -> dict[str, Sequence[nn.Module]]:
        return {
            "sampler": [self.encoder],
            "critic": [self.density_ratio.critic] if self.adversarial else [],
        }

    def phases(self) -> list[Phase]:
        if not self.adversarial:
            return [Phase(("sampler",), self.learn)]
        extra_steps = self.players["critic"].steps - 1
        return [Phase(("sampler", "critic"), self.learn), *[Phase(("critic",), self.learn_critic)] * extra_steps]

    # Training.

    @property
    def beta(self) -> float:
        """The power of p in the training target: 1 after the warm-up, and in validation."""
        return min(1.0, (self.global_step + 1) / self._warmup_steps) if self._warmup_steps and self.training else 1.0

    def tempered_target(self, x: Tensor) -> _Tempered:
        """N(0, I)^(1 - beta) p^beta as a distribution of u, for the rows x."""
        return _Tempered(self, x, self.beta)

    def terms(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """log q - log p or its estimate, `(samples, batch)`; the loss of the critic; scores to log.

        During the warm-up p is tempered. `elbo` is still the bound of log Z, `elbo_estimate` is not.
        """
        p, q = self.tempered_target(batch.x), self.encoder(batch.x)
        if not self.adversarial:
            u, log_q = q.rsample_and_log_prob((self.samples,))
            log_p = self.log_density(u, batch.x)
            return log_q - p.tempered(log_p, u), {}, {"elbo": log_p - log_q}
        critic = self.density_ratio(p, q, q.rsample((self.samples,)), batch.x)
        return critic.kl, critic.losses, {"elbo_estimate": -critic.kl, "critic_accuracy": critic.accuracy}

    def learn(self, batch: Batch) -> PhaseResult:
        """The losses of all players, from the same draws."""
        divergence, losses, scores = self.terms(batch)
        return PhaseResult({"sampler": divergence, **losses}, scores)

    def learn_critic(self, batch: Batch) -> PhaseResult:
        """The critic's loss, from new draws."""
        with torch.no_grad():
            p, q = self.tempered_target(batch.x), self.encoder(batch.x)
            z = q.rsample((self.samples,))
        return PhaseResult(self.density_ratio(p, q, z, batch.x).losses, {})

    def scores(self, batch: Batch) -> dict[str, Tensor]:
        _, losses, scores = self.terms(batch)
        return {**scores, **named_losses(losses)}

    # Coordinates.

    def log_density(self, u: Tensor, x: Tensor) -> Tensor:
        """log p in the sampler's coordinates, `(samples, batch)`, of u `(samples, batch, latent_dim)`."""
        with torch.autocast(u.device.type, enabled=False):
            value = checked_log_prob(self.target, self.to_z(u), x if self.amortised else None)
            return value + self.scale_tril.diagonal().log().sum()

    def to_z(self, u: Tensor) -> Tensor:
        """z = m + L u, `(..., latent_dim)`."""
        return self.location + u @ self.scale_tril.T

    def configure_model(self) -> None:
        if self.amortised and self.data.no_data:
            raise ConfigurationError(
                f"data: {type(self.target).__name__} is a family, whose rows are data sets; see "
                "lightning_avb.datamodules.Simulated"
            )
        super().configure_model()

    def on_fit_start(self) -> None:
        """Checks the target and places the coordinates, before the first training of the model."""
        if self.location.dtype in (torch.float16, torch.bfloat16):
            raise ConfigurationError("trainer.precision: a log-density needs single precision; take a mixed one")
        steps = self.trainer.estimated_stepping_batches
        self._warmup_steps = self.warmup if math.isinf(steps) else min(self.warmup, int(steps) // 2)
        if self.placed:
            return
        with noise.use(noise.seeded(noise.run_seed(), "coordinates")):
            place_coordinates(self)
        self.placed.fill_(True)

    # Draws.

    @torch.no_grad()
    def draw_z(self, count: int, x: Tensor | None = None, chunk: int = 1 << 16) -> Tensor:
        """`(count, batch, latent_dim)`: draws of q(z|x) in the unconstrained coordinates; one row without x."""
        at_least(1, count=count)
        x = self.checked_data_sets(x)
        q, size = self.encoder(x), max(1, chunk // len(x))
        parts = [q.rsample((min(size, count - done),)) for done in range(0, count, size)]
        return self.to_z(torch.cat(parts))

    def checked_data_sets(self, x: Tensor | None) -> Tensor:
        """Data sets as the sampler takes them, `(batch, *data_shape)`; one row of ones if the target is no family.

        Raises:
            ConfigurationError: x is missing or not allowed, has a wrong shape, or is not finite.
        """
        if self.amortised and x is None:
            raise ConfigurationError("x: this sampler was trained for many data sets; say which one")
        if not self.amortised and x is not None:
            raise ConfigurationError(f"x: {type(self.target).__name__} is one posterior, and not a family with an x")
        x = (torch.ones(1, 1) if x is None else torch.as_tensor(x)).to(self.location)
        if tuple(x.shape[1:]) != self.data_shape or not len(x):
            raise ConfigurationError(f"x: data sets are {self.data_shape}, and this has the shape {tuple(x.shape)}")
        if not torch.isfinite(x).all():
            raise ConfigurationError("x: a data set is not finite")
        return x

    def draw(self, count: int, x: Tensor | None = None) -> Parameters:
        """Draws by the target's names, including derived quantities.

        Args:
            count: number of draws.
            x: `(batch, *data_shape)`, the data sets; None if the target is no family.

        Returns:
            name -> `(count, ...)`, with data sets `(count, batch, ...)`.

        Raises:
            ConfigurationError: a count below 1, or a family without x.
        """
        z = self.draw_z(count, x)
        return self.target.by_name(z if self.amortised else z.squeeze(1))

    def predictions(self, batch: Batch) -> dict[str, Any]:
        """One draw per row by the target's names, with the rows' `index`."""
        z = self.to_z(self.encoder(batch.x).rsample((1,)))[0]
        return {**self.target.by_name(z), "index": batch.index}


class _Tempered:
    """N(0, I)^(1 - beta) p^beta as a distribution of u, for the rows x; it has a log-density only."""

    def __init__(self, model: Posterior, x: Tensor, beta: float) -> None:
        self.model, self.x, self.beta = model, x, beta

    def log_prob(self, u: Tensor) -> Tensor:
        return self.tempered(self.model.log_density(u, self.x), u)

    def tempered(self, log_p: Tensor, u: Tensor) -> Tensor:
        """The tempered log-density at u, given log p there."""
        if self.beta == 1:
            return log_p
        start = DiagonalNormal(torch.zeros_like(u[0]), torch.ones_like(u[0])).log_prob(u)
        return torch.lerp(start, log_p, self.beta)
