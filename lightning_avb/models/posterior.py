"""AVB as black-box inference: draws of any posterior whose log-density is known up to a constant.

No data set and no decoder, only log p(z) + constant (Mescheder, Nowozin & Geiger 2017, section 6.1). A sampler pushes
noise through a network, z ~ q, and is trained on

    E_q[ log q(z) - log p(z) ] = KL(q, p) - log of the constant,

which needs the density that a black box lacks. A critic supplies it, as in `avb`, with p in the place of prior times
likelihood: for the contrast r and the optimal critic T* = log q - log r

    sampler:   T(z) + log r(z) - log p(z),                 the weights of critic and contrast constant,
    critic:    -log sigmoid T(z) - log sigmoid -T(z_r),    z constant,
    contrast:  -log r(z),                                  z constant.

The sampler that is the default needs no critic. Given a part e of its noise it is normal (`PooledMixtureEncoder`), and
the average of these normals over K draws of e, z's own among them, is a contrast

    r(z) = 1/K sum_k q(z|e_k),      E[ log r(z) - log p(z) ] >= E_q[ log q(z) - log p(z) ],

with which T* = 0: a critic cannot tell draws of the average from draws of q. The inequality is the semi-implicit bound
(Yin & Zhou 2018), which K = hundreds of draws close to some thousandths of a nat. So is a flow its own contrast
(`FlowEncoder`). A sampler whose draws come without such a density (`BoundedNoiseEncoder`) plays against the critic.

For a family log p(x, z), with a data set x in every row of the data, the same gives q(z|x) for all x at once.

**Coordinates.** Named parameters become z in R^d by bijections, see `lightning_avb.support`. The sampler lives in
u = L^-1 (z - m), where N(m, L L^T) is the normal distribution nearest to p, found before training: one learning rate
then suits targets of all scales, and the sampler begins at this approximation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from .. import noise
from ..batch import Batch, Shape
from ..conditionals import EncoderRecipe, PooledMixtureEncoder
from ..contrasts import ContrastRecipe, FullGaussianContrast, PriorContrast
from ..errors import ConfigurationError, at_least
from ..game import Cosine, Play, Player
from ..networks import ResidualCritic
from ..networks.critics import CriticRecipe
from ..recipes import recipe
from ..support import Parameters
from ..targets import Target
from .avb import CriticGame

TargetRecipe = Callable[[], Target]
"""() -> the log-density."""

_ADAM = partial(torch.optim.Adam, lr=5e-3, betas=(0.9, 0.99))


@dataclass(frozen=True)
class PosteriorPlayers:
    """The players of a posterior.

    Args:
        sampler: q(z|x).
        critic: T(x, z), of a sampler without a density; its `steps` are critic steps a batch.
        contrast: r(z|x), if it has parameters; it steps whenever the critic does.
    """

    sampler: Player = Player(_ADAM, Cosine, clip_norm=10.0)
    critic: Player = Player(_ADAM, Cosine)
    contrast: Player = Player(_ADAM, Cosine)


class Posterior(CriticGame):
    """Posterior of a log-density, learned by a sampler.

    Args:
        target: the log-density with its parameters and their supports.
        sampler: q(z|x), in the coordinates u of the module's docstring. One whose draws come with a density, or with a
            bound of it, plays alone; another one against the critic.
        critic: T(x, z).
        contrast: r(z|x), see `AVB`; not the prior.
        samples: draws of a row in a training step.
        standardise: the sampler's coordinates are those in which the normal distribution nearest to p is N(0, I);
            otherwise those of the support.
        gradient_penalty: see `AVB`.
        players: optimizer, schedule, clip norm and steps of `sampler`, `critic` and `contrast`.
        accumulate: see `Game`.

    Raises:
        ConfigurationError: a number that makes no sense, or a target that is none, with the argument's name. When
            fitting starts: a log-density that cannot be called, gives another shape than it should, is not
            differentiable, or is -inf wherever the sampler begins.
    """

    facts: ClassVar[tuple[str, ...]] = ("data_shape",)
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
        gradient_penalty: float = 0.0,
        players: PosteriorPlayers = PosteriorPlayers(),
        accumulate: int = 1,
    ) -> None:
        super().__init__(players, accumulate)
        if gradient_penalty < 0:
            raise ConfigurationError(f"gradient_penalty: {gradient_penalty} is below 0")
        self.samples, self.gradient_penalty = at_least(2, samples=samples), gradient_penalty
        self.standardise = standardise
        given = {"target": target, "sampler": sampler, "critic": critic, "contrast": contrast}
        self.recipes = {name: recipe(value) for name, value in given.items()}
        self._one_step_each(but="critic", least=1)
        target = self.recipes["target"]()
        if not isinstance(target, Target):
            raise ConfigurationError(f"target: {type(target).__name__} is no lightning_avb.targets.Target")
        self.target = target.requires_grad_(False)
        self.support = target.support
        self._build_for(data_shape=target.data_shape or (1,))

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
        self.adversarial = not hasattr(q, "rsample_and_log_prob")
        if self.adversarial:
            self.build_critic(data_shape, self.latent_dim, 0)
            if isinstance(self.contrast, PriorContrast):
                raise ConfigurationError("contrast: PriorContrast draws from p, and here only a density of p is known")

    def cast(self) -> dict[str, Sequence[nn.Module]]:
        critic, contrast = ([self.critic], [self.contrast]) if self.adversarial else ([], [])
        return {"sampler": [self.encoder], "critic": critic, "contrast": contrast}

    # Training.

    def sides(self, batch: Batch) -> tuple[Any, Any]:
        return _InCoordinates(self, batch.x), self.encoder(batch.x)

    def terms(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """log q - log p or its estimate, `(samples, batch)`; the losses of the others; what there is to log."""
        p, q = self.sides(batch)
        if not self.adversarial:
            u, log_q = q.rsample_and_log_prob((self.samples,))
            divergence = log_q - p.log_prob(u)
            return divergence, {}, {"elbo": -divergence}
        verdict = self.judge(batch, p, q, q.rsample((self.samples,)))
        scores = {"elbo_estimate": -verdict.kl, "critic_accuracy": verdict.accuracy}
        return verdict.kl, verdict.losses, scores

    def learn(self, batch: Batch) -> Play:
        divergence, losses, scores = self.terms(batch)
        return Play({"sampler": divergence, **losses}, scores)

    def scores(self, batch: Batch) -> dict[str, Tensor]:
        _, losses, scores = self.terms(batch)
        return {**scores, **{f"{name}_loss": loss for name, loss in losses.items()}}

    # Coordinates.

    def log_density(self, u: Tensor, x: Tensor) -> Tensor:
        """log p in the sampler's coordinates, `(samples, batch)`, of u `(samples, batch, latent_dim)`."""
        data = {"x": x} if self.amortised else {}
        return self.target.at(self.to_z(u), **data) + self.scale_tril.diagonal().log().sum()

    def to_z(self, u: Tensor) -> Tensor:
        """z = m + L u, `(..., latent_dim)`."""
        return self.location + u @ self.scale_tril.T

    def on_fit_start(self) -> None:
        """Looks at the target before anything is trained on it, and places the coordinates, once in a model's life."""
        if self.placed:
            return
        with noise.use(noise.seeded(noise.run_seed(), "coordinates")):
            self._check_target()
            if self.standardise:
                placed = (
                    self._normal_of_simulated()
                    if self.amortised
                    else nearest_normal(self.target.at, self.latent_dim, self.location)
                )
                if not (torch.isfinite(placed.loc).all() and torch.isfinite(placed.scale_tril).all()):
                    raise ConfigurationError(
                        f"target: no normal distribution is nearest to the density of {type(self.target).__name__}; "
                        "is it proper? With standardise: false training begins around 0 in its support's coordinates"
                    )
                self.location.copy_(placed.loc)
                self.scale_tril.copy_(placed.scale_tril)
        self.placed.fill_(True)

    def _normal_of_simulated(self) -> Normal:
        """By the moments of the family's parameters, whatever the data."""
        theta, _ = self.target.simulate(4096)  # type: ignore[operator]
        z = self.support.unconstrain(theta).to(self.location)
        return Normal(z.mean(0), torch.linalg.cholesky(torch.cov(z.T).reshape(self.latent_dim, self.latent_dim)))

    def _check_target(self) -> None:
        """Raises ConfigurationError if the log-density is none that a sampler can learn from."""
        name = type(self.target).__name__
        x = torch.zeros(2, *self.data_shape or (), device=self.device)
        z = noise.normal((64, 2, self.latent_dim), self.location).requires_grad_()
        theta, _ = self.support.constrain(z)
        shapes = ", ".join(f"{key} {tuple(value.shape)}" for key, value in theta.items())
        try:
            with torch.enable_grad():
                value = self.target.at(z, **({"x": x} if self.amortised else {}))
        except ConfigurationError:
            raise
        except Exception as error:
            raise ConfigurationError(f"target: the log-density of {name} fails for {shapes}: {error}") from error
        if not isinstance(value, Tensor) or value.shape != z.shape[:-1]:
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ConfigurationError(
                f"target: the log-density of {name} is to give one number a point, (64, 2) for {shapes}; it gave {got}"
            )
        if not value.requires_grad:
            raise ConfigurationError(f"target: the log-density of {name} is not differentiable in its parameters")
        if torch.isnan(value).any():
            raise ConfigurationError(f"target: the log-density of {name} is not a number at {_first(theta, value)}")
        if not torch.isfinite(value).any():
            raise ConfigurationError(
                f"target: the log-density of {name} is {value.flatten()[0].item()} at all of 128 points around 0 in "
                f"the unconstrained coordinates, for example at {_first(theta, value)}; shift or scale its parameters"
            )

    # What a posterior is for.

    @torch.no_grad()
    def draw_z(self, count: int, x: Tensor | None = None, chunk: int = 1 << 16) -> Tensor:
        """`(count, batch, latent_dim)`: draws of q(z|x) in the unconstrained coordinates; one row if there is no x."""
        at_least(1, count=count)
        if self.amortised and x is None:
            raise ConfigurationError("x: this sampler was trained for many data sets; say which one")
        x = torch.ones(1, *self.data_shape or (), device=self.device) if x is None else x
        q, size = self.encoder(x), max(1, chunk // len(x))
        parts = [q.rsample((min(size, count - done),)) for done in range(0, count, size)]
        return self.to_z(torch.cat(parts))

    def draw(self, count: int, x: Tensor | None = None) -> Parameters:
        """Draws by the target's names, derived quantities among them.

        Args:
            count: how many.
            x: `(batch, *data_shape)`, the data sets; None where the target has no family.

        Returns:
            name -> `(count, ...)`, with data sets `(count, batch, ...)`.

        Raises:
            ConfigurationError: a count below 1, or a family without x.
        """
        z = self.draw_z(count, x)
        return self.target.named(z if self.amortised else z.squeeze(1))

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """One draw a row by the target's names, with the rows' `index`."""
        batch = Batch(*batch)
        with self._noise_of_rows("predict", batch):
            z = self.to_z(self.encoder(batch.x).rsample((1,)))[0]
        return {**self.target.named(z), "index": batch.index}


def _first(theta: Parameters, value: Tensor) -> str:
    """The first point whose log-density is not finite, in words."""
    where = tuple((~torch.isfinite(value)).nonzero()[0].tolist())
    return ", ".join(
        f"{name} = {[round(v, 3) for v in part[where].flatten().tolist()]}" for name, part in theta.items()
    )


class _InCoordinates:
    """The target as a distribution of u, for the rows x: a log-density and no draws."""

    def __init__(self, model: Posterior, x: Tensor) -> None:
        self.model, self.x = model, x

    def log_prob(self, u: Tensor) -> Tensor:
        return self.model.log_density(u, self.x)


class Normal(NamedTuple):
    """N(loc, scale_tril scale_tril^T); `(dim,)` and `(dim, dim)`."""

    loc: Tensor
    scale_tril: Tensor


def nearest_normal(
    log_density: Callable[[Tensor], Tensor], dim: int, like: Tensor, steps: int = 400, draws: int = 256
) -> Normal:
    """The normal distribution N with the least KL(N, p), to within the noise of the draws.

    With w = L^T grad log p at z = m + L eps, it has E[w] = 0 and E[w eps^T] = -I (Opper & Archambeau 2009). The natural
    gradient moves m by rho L E[w], and L by rho/2 L (I + E[w eps^T]): Newton's step where p is normal and L right.
    Lengths are in standard deviations of N, and long steps are cut, which needs no learning rate in the units of z:
    from N(0, I) it finds a normal target a thousand units away, or a thousandth as wide.

    Args:
        log_density: z `(draws, dim)` -> `(draws,)`, differentiable.
        dim: of z.
        like: gives dtype and device.
        steps: of the iteration; the second half with a shrinking rho.
        draws: for every step, in pairs eps and -eps.
    """
    loc, tril = like.new_zeros(dim), torch.eye(dim, dtype=like.dtype, device=like.device)
    identity = tril.clone()
    for step in range(steps):
        rho = 0.3 * min(1.0, 2 * (1 - step / steps))
        eps = noise.normal((draws // 2, dim), like)
        eps = torch.cat([eps, -eps])
        with torch.enable_grad():
            z = (loc + eps @ tril.T).requires_grad_()
            value = log_density(z)
            usable = torch.isfinite(value)
            (slope,) = torch.autograd.grad(value.where(usable, value.new_zeros(())).sum(), z)
        usable &= torch.isfinite(slope).all(-1)
        if not usable.any():
            tril = 0.5 * tril
            continue
        w, eps = (slope @ tril)[usable], eps[usable]
        shift, bend = w.mean(0), identity + (eps.T @ w) / len(w)
        loc = loc + rho * tril @ (shift * (10 / shift.norm()).clamp_max(1))
        bend = 0.5 * (bend + bend.T)
        bend = bend * (1 / torch.linalg.matrix_norm(bend, 2)).clamp_max(1)
        # L (I + rho/2 B) is a square root of the new covariance; its triangle is another.
        root = tril @ (identity + 0.5 * rho * bend)
        tril = _triangle(root)
    return Normal(loc, tril)


def _triangle(root: Tensor) -> Tensor:
    """The lower triangle with a positive diagonal of the same covariance."""
    upper = torch.linalg.qr(root.T).R
    return upper.T * upper.diagonal().sign()
