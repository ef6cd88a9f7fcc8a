"""Critics: the paper's T(x, z), one real number per pair.

A critic computes its x-branch once for all samples of z, of the posterior and of the reference. It treats the pairs
independently of each other (no batch normalisation), which `SharedPass` needs.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn

from ..batch import Shape
from ..errors import ConfigurationError
from .mlp import MLP, Network, Residual, activation_function, check_no_batch_norm, check_widths


class Critic(nn.Module, abc.ABC):
    """`critic(x, z, context)` is T, `(samples, batch)`.

    `x` is `(batch, *data_shape)`, `z` is `(samples, batch, latent_dim)`; `context`, `(batch, context_dim)` or None,
    has further inputs: of the reference density (the moments of adaptive contrast), and the label in a
    class-conditional model. For a BiGAN x and z have the same leading dimensions, `(2, batch)` or `(batch,)`: a critic
    that serves there too takes `(..., *data_shape)` and `(..., latent_dim)`, with leading dimensions that broadcast.
    """

    @abc.abstractmethod
    def forward(self, x: Tensor, z: Tensor, context: Tensor | None = None) -> Tensor: ...


CriticRecipe = Callable[[Shape, int, int], Critic]
"""(shape of a row of x, latent_dim, context_dim) -> critic."""


class ResidualCritic(Critic):
    """A residual MLP on (x, z).

    Args:
        data_shape, latent_dim, context_dim: given by the model.
        width: of every layer.
        blocks: number of residual blocks.
        network: of x and the context, before they are combined with z; linear if it is an MLP without hidden layers.
        activation: see `MLP`.
    """

    def __init__(
        self,
        data_shape: Shape,
        latent_dim: int,
        context_dim: int = 0,
        width: int = 128,
        blocks: int = 2,
        network: Network = partial(MLP, hidden=(128,)),
        activation: str = "silu",
    ) -> None:
        super().__init__()
        check_widths(width=[width])
        self.x_branch = network(data_shape, (width,), context_dim)
        self.z_branch = nn.Linear(latent_dim, width, bias=False)
        self.trunk = nn.Sequential(
            *(Residual(width, activation) for _ in range(blocks)), activation_function(activation)
        )
        self.head = self.make_head(width, latent_dim)

    def make_head(self, width: int, latent_dim: int) -> nn.Linear:
        """The last layer."""
        return nn.Linear(width, 1)

    def output(self, x: Tensor, z: Tensor, context: Tensor | None) -> Tensor:
        """What the last layer gives, `(samples, batch, outputs)`."""
        return self.head(self.trunk(self.x_branch(x, context) + self.z_branch(z)))

    def forward(self, x: Tensor, z: Tensor, context: Tensor | None = None) -> Tensor:
        return self.output(x, z, context).squeeze(-1)


class ScoreNetwork(ResidualCritic):
    """An estimate of -grad_u log q(u), `(samples, batch, latent_dim)`, for `score_matching.DenoisingScoreMatching`.

    It is u plus a residual MLP, which is 0 at the start: right for u ~ N(0, I).

    Args:
        data_shape, latent_dim, context_dim, width, blocks, network, activation: see `ResidualCritic`.
    """

    def make_head(self, width: int, latent_dim: int) -> nn.Linear:
        head = nn.Linear(width, latent_dim)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        return head

    def forward(self, x: Tensor, z: Tensor, context: Tensor | None = None) -> Tensor:
        return z + self.output(x, z, context)


def check_ratio_critic(**critics: nn.Module) -> None:
    """Raises ConfigurationError if a critic cannot give T(x, z) of every pair; the message names the argument."""
    check_no_batch_norm(**critics)
    for name, critic in critics.items():
        if isinstance(critic, ScoreNetwork):
            raise ConfigurationError(f"{name}: a ScoreNetwork estimates a slope and not T(x, z); take ResidualCritic")


class InnerProductCritic(Critic):
    """The paper's form for images: T(x, z) = <f(x), g(z)> / sqrt(width) + s(x) + t(z).

    Pairs cost one inner product each once f and g are known.

    Args:
        data_shape, latent_dim, context_dim: given by the model.
        width: length of f and g.
        network: f, of x and the context.
        hidden: widths of the hidden layers of g.
        activation: of g, see `MLP`.
    """

    def __init__(
        self,
        data_shape: Shape,
        latent_dim: int,
        context_dim: int = 0,
        width: int = 128,
        network: Network = MLP,
        hidden: Sequence[int] = (256, 256),
        activation: str = "silu",
    ) -> None:
        super().__init__()
        check_widths(width=[width])
        self.x_branch = network(data_shape, (width + 1,), context_dim)
        self.z_branch = MLP((latent_dim,), (width + 1,), hidden=hidden, activation=activation)

    def forward(self, x: Tensor, z: Tensor, context: Tensor | None = None) -> Tensor:
        f, g = self.x_branch(x, context), self.z_branch(z)
        product = (f[..., :-1] * g[..., :-1]).sum(-1) * (f.shape[-1] - 1) ** -0.5
        return product + f[..., -1] + g[..., -1]
