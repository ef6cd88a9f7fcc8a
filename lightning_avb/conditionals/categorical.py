"""An encoder whose codes are a category and a style (Makhzani et al. 2015, sections 5 to 7)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..batch import Shape
from ..distributions import Implicit
from ..networks import MLP, Network
from .base import Encoder


class CategoricalEncoder(Encoder):
    """q(y|x), a softmax, and a style z(x), joined to one code that is a function of x.

    Args:
        data_shape, latent_dim, categories: given by the model.
        network: from x to the logits of q(y|x) and to z.
        summed: the code is z + W y with one learned cluster head, a column of W, per category; otherwise y and z are
            concatenated.
    """

    def __init__(
        self, data_shape: Shape, latent_dim: int, categories: int, network: Network = MLP, summed: bool = False
    ) -> None:
        super().__init__()
        self.categories = categories
        self.network = network(data_shape, (categories + latent_dim,), 0)
        self.cluster_heads = nn.Linear(categories, latent_dim, bias=False) if summed else None

    def place_heads(self, distance: float) -> None:
        """Initialises the cluster heads at least `distance` apart, by gradient steps on `head_distance_penalty`.

        The loop ends, since every step also scales all heads up.
        """
        assert self.cluster_heads is not None
        heads = torch.randn_like(self.cluster_heads.weight.T) * distance
        while (missing := head_distance_penalty(heads.requires_grad_(), distance)) > 0:
            (slope,) = torch.autograd.grad(missing, heads)
            heads = (1.001 * heads - 0.1 * distance * slope).detach()
        with torch.no_grad():
            self.cluster_heads.weight.copy_(heads.T - heads.T.mean(1, keepdim=True))

    def head_penalty(self, distance: float) -> Tensor:
        """By how much the cluster heads are nearer to each other than `distance`, the sum over pairs."""
        assert self.cluster_heads is not None
        return head_distance_penalty(self.cluster_heads.weight.T, distance)

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The logits of q(y|x), `(batch, categories)`, and the style z, `(batch, latent_dim)`."""
        logits, z = self.network(x).to(x.dtype).tensor_split([self.categories], -1)
        return logits, z

    def join(self, y: Tensor, z: Tensor) -> Tensor:
        """Codes `(..., code_dim)` of probabilities or one-hot categories `(..., categories)` and styles z."""
        return torch.cat([y, z], -1) if self.cluster_heads is None else z + self.cluster_heads(y).to(z)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Implicit:
        logits, z = self.heads(x)
        code = self.join(logits.softmax(-1), z)
        return Implicit(lambda samples: code.expand(samples, *code.shape), code.shape[:1], code.shape[1:])


def head_distance_penalty(heads: Tensor, distance: float) -> Tensor:
    """By how much heads `(categories, dim)` are nearer to each other than `distance`, the sum over pairs."""
    return (distance - torch.pdist(heads)).relu().sum()
