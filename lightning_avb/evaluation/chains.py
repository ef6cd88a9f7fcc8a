"""What short Hamiltonian chains say of draws: where they move them, and what mass they find where no draw is.

A transition that leaves p invariant leaves draws of p draws of p. So after some transitions from every draw any share
of the draws, of those below a point or beyond a radius, is in expectation what it was before if the draws are right,
whether or not the chains mix. If they are not, the chains move them towards p: outwards where the draws are too narrow,
inwards where they are too wide. The draws are independent and each is its own control, so that the errors are small:
of a draws that entered a set and b that left it, (a - b) / (a + b)^(1/2) is standard normal if they are right (McNemar
1947).

Chains do not cross between modes. Those that start far away, on their way downhill from several distances, may end
in one that no draw has found. Its mass is not below

    exp( E[log p(z)] + H ),

for z with any distribution of entropy H that lives there, and so for where the chains ended.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .. import noise
from ..errors import ConfigurationError, at_least
from .neighbours import log_distance, neighbour_entropy

LogDensity = Callable[[Tensor], Tensor]
"""z `(n, dim)` -> log p(z) up to a constant, `(n,)`; -inf where p is 0, and where it cannot be worked out."""


OCTAVES = 5
"""Step sizes are drawn anew at every transition, down to 2^-5 of the tuned one: for narrow places as for wide ones."""

DISTANCES = (2.0, 5.0, 15.0, 50.0)
"""How far from the draws' mean chains start that look for other modes, in the draws' own deviations."""


class Share(NamedTuple):
    """The share of the draws in a set, before and after the chains.

    Attributes:
        before, after: of the draws.
        errors: (entered - left) / (entered + left)^(1/2): standard normal for right draws.
        where: the name of the coordinate that the set belongs to, of several the one with the most errors.
    """

    before: float
    after: float
    errors: float
    where: str = ""


class MovedDraws(NamedTuple):
    """What chains did with draws.

    Attributes:
        z: where they ended, `(n, dim)`.
        acceptance: share of the accepted transitions.
        shares: of the draws that lie, in the coordinate in which most has changed,
            `middle`: below the draws' median, 0.5 before;
            `outside`: out of their central 90 %, 0.1 before;
            `far`: out of their central 99 %, 0.01 before;
            and in all coordinates together
            `beyond`: beyond the radius of all but 1 of 1000, around their mean and by their covariance;
            `dense`, `thin`, `thinnest`: where the log-density is above their median, below that of all but 1 of 10 and
            of all but 1 of 100.
        shift: of the median in the coordinate of `middle`, in deviations.
    """

    z: Tensor
    acceptance: float
    shares: dict[str, Share]
    shift: float


class MissedMode(NamedTuple):
    """What chains found where no draw is.

    Attributes:
        share: of the mass, as the lower bound has it; 0 where they found nothing.
        chains: how many ended there, of `starts`.
        where: the mean of their ends, `(dim,)`.
    """

    share: float
    chains: int
    starts: int
    where: Tensor


class _State(NamedTuple):
    """Where chains stand, with log p and its gradient there."""

    z: Tensor
    log_p: Tensor
    gradient: Tensor


class Chains:
    """Hamiltonian Monte Carlo in the coordinates of a normal distribution with the width of the draws."""

    def __init__(self, log_density: LogDensity, draws: Tensor, leapfrogs: int) -> None:
        self.log_density, self.leapfrogs = log_density, leapfrogs
        # A covariance without the farthest draws, which would make all steps wide where tails are heavy.
        low, high = _quantiles(draws, (0.02, 0.98))
        near = torch.minimum(torch.maximum(draws, low), high)
        self.loc, self.scale_tril = near.mean(0), _root(near)
        self.log_step = math.log(0.5)

    def white(self, z: Tensor) -> Tensor:
        return torch.linalg.solve_triangular(self.scale_tril, (z - self.loc).T, upper=False).T

    def at(self, z: Tensor) -> _State:
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            value = self.log_density(z)
            usable = torch.isfinite(value)
            (gradient,) = torch.autograd.grad(value.where(usable, value.new_zeros(())).sum(), z)
        value = value.detach().nan_to_num(nan=-math.inf, posinf=-math.inf)
        return _State(z.detach(), value, gradient.nan_to_num(0.0, 0.0, 0.0))

    def transition(self, state: _State) -> tuple[_State, Tensor]:
        """A transition and its probability to be accepted, `(n,)`."""
        n, dim = state.z.shape
        velocity, test, length = noise.normal((n, dim + 2), state.z).split((dim, 1, 1), -1)
        # Reversible: the length of the step knows nothing of where the chain stands.
        step = math.exp(self.log_step) * torch.exp2(-OCTAVES * torch.special.ndtr(length))
        energy = state.log_p - 0.5 * velocity.square().sum(-1)
        end, velocity = state, velocity + 0.5 * step * (state.gradient @ self.scale_tril)
        for i in range(self.leapfrogs):
            end = self.at(end.z + step * (velocity @ self.scale_tril.T))
            velocity = velocity + (0.5 if i == self.leapfrogs - 1 else 1.0) * step * (end.gradient @ self.scale_tril)
        log_ratio = (end.log_p - 0.5 * velocity.square().sum(-1) - energy).nan_to_num(
            nan=-math.inf, posinf=math.inf, neginf=-math.inf
        )
        accepted = torch.special.log_ndtr(test.squeeze(-1)) < log_ratio
        every = accepted.unsqueeze(-1)
        moved = _State(
            torch.where(every, end.z, state.z),
            torch.where(accepted, end.log_p, state.log_p),
            torch.where(every, end.gradient, state.gradient),
        )
        return moved, log_ratio.exp().clamp_max(1)

    def tune(self, z: Tensor, transitions: int = 20, acceptance: float = 0.65) -> None:
        """Chooses the step size (Robbins & Monro 1951) on chains that are then forgotten."""
        state, visited = self.at(z), []
        for i in range(transitions):
            state, rate = self.transition(state)
            self.log_step += 2 / math.sqrt(1 + i) * (rate.mean().item() - acceptance)
            visited.append(self.log_step)
        self.log_step = sum(visited[transitions // 2 :]) / len(visited[transitions // 2 :])

    def run(self, z: Tensor, transitions: int) -> tuple[_State, _State, float]:
        """From the first state to the last, and the share of accepted transitions."""
        first = state = self.at(z)
        rates = 0.0
        for _ in range(transitions):
            state, rate = self.transition(state)
            rates += rate.mean().item()
        return first, state, rates / transitions


@torch.no_grad()
def move_draws(
    draws: Tensor,
    log_density: LogDensity,
    coordinates: Sequence[str] | None = None,
    transitions: int = 40,
    leapfrogs: int = 16,
    seed: int = 0,
) -> MovedDraws:
    """Moves every draw by Hamiltonian transitions that leave p invariant, and says what that changed.

    Costs transitions times leapfrogs gradients of log p for every draw.

    Args:
        draws: `(n, dim)`, independent, at least 100.
        log_density: differentiable.
        coordinates: their names.
        transitions, leapfrogs: of every chain. Along thin and long shapes it is the leapfrogs that carry it far.
        seed: of the chains.

    Raises:
        ConfigurationError: an argument out of range, or draws that are not finite or lie in a plane.
    """
    _check(draws)
    at_least(1, transitions=transitions)
    at_least(1, leapfrogs=leapfrogs)
    with noise.use(noise.seeded(seed, "move_draws")):
        chains = Chains(log_density, draws, leapfrogs)
        chains.tune(draws[:1000])
        first, last, acceptance = chains.run(draws, transitions)
    names = list(coordinates or [f"z[{i}]" for i in range(draws.shape[1])])
    q = _quantiles(draws, (0.005, 0.05, 0.5, 0.95, 0.995))
    mean, root = draws.mean(0), _root(draws)
    moved = {}
    sets: dict[str, Callable[[Tensor], Tensor]] = {
        "middle": lambda z: z < q[2],
        "outside": lambda z: (z < q[1]) | (z > q[3]),
        "far": lambda z: (z < q[0]) | (z > q[4]),
    }
    for name, inside in sets.items():
        moved[name] = _worst(inside(first.z), inside(last.z), names)
    radii = [torch.linalg.solve_triangular(root, (z - mean).T, upper=False).norm(dim=0) for z in (first.z, last.z)]
    limit, log_p = _quantiles(radii[0], (0.999,)), _quantiles(first.log_p, (0.5, 0.1, 0.01))
    moved["beyond"] = _worst(radii[0] > limit, radii[1] > limit)
    moved["dense"] = _worst(first.log_p > log_p[0], last.log_p > log_p[0])
    moved["thin"] = _worst(first.log_p < log_p[1], last.log_p < log_p[1])
    moved["thinnest"] = _worst(first.log_p < log_p[2], last.log_p < log_p[2])
    i = names.index(moved["middle"].where)
    shift = (_quantiles(last.z[:, i], (0.5,))[0] - q[2, i]) / ((q[3, i] - q[1, i]) / 3.29)
    return MovedDraws(last.z, acceptance, moved, shift.item())


@torch.no_grad()
def find_missed_mode(
    draws: Tensor,
    log_density: LogDensity,
    starts: int = 128,
    descent: int = 150,
    transitions: int = 20,
    leapfrogs: int = 8,
    seed: int = 0,
) -> MissedMode:
    """Looks for a mode that no draw has found: descents from far away, and chains from where they end.

    A mode is found if a descent that starts at one of `DISTANCES` leads into it. It is seen for certain neither in many
    dimensions nor if it is much smaller than its distance. What is found is no false alarm: its share is a bound from
    below, but for the error of the entropies, which come from nearest neighbours.

    Args:
        draws: `(n, dim)`, of which at most 4000 are looked at.
        log_density: differentiable.
        starts: for every distance.
        descent: steps of it.
        transitions, leapfrogs: of the chains.
        seed: of starts and chains.

    Raises:
        ConfigurationError: see `move_draws`.
    """
    _check(draws)
    draws = draws[:4000]
    wide = draws.new_tensor(DISTANCES).repeat_interleave(at_least(1, starts=starts)).unsqueeze(1)
    with noise.use(noise.seeded(seed, "look_elsewhere")):
        chains = Chains(log_density, draws, leapfrogs)
        chains.tune(draws[:1000])
        z = _descend(chains, wide * noise.normal((len(wide), draws.shape[1]), draws), wide, descent)
        z = chains.run(z, transitions)[1].z
        z = z[_apart(chains.white(z), chains.white(draws))]
        if len(z) < max(10, 2 * draws.shape[1]):
            return MissedMode(0.0, len(z), len(wide), draws.new_full(draws.shape[1:], math.nan))
        there = Chains(log_density, z, leapfrogs)
        there.tune(z)
        end = there.run(z, transitions)[1]
    share = torch.sigmoid(_log_mass(end.z, end.log_p) - _log_mass(draws, chains.at(draws).log_p)).item()
    return MissedMode(share, len(z), len(wide), end.z.mean(0))


def _descend(chains: Chains, white: Tensor, stride: Tensor, steps: int) -> Tensor:
    """Where descents end that begin at `white`, in the coordinates of the chains: Adam, from long strides to short."""
    first, second = torch.zeros_like(white), torch.zeros_like(white)
    for step in range(steps):
        gradient = chains.at(chains.loc + white @ chains.scale_tril.T).gradient @ chains.scale_tril
        # Far out gradients differ by powers of ten from one point to the next.
        gradient = gradient / gradient.norm(dim=1, keepdim=True).clamp_min(1)
        first, second = torch.lerp(first, gradient, 0.2), torch.lerp(second, gradient.square(), 0.1)
        rate = 0.2 * stride * (0.01 / 0.2 / stride) ** (step / steps)
        scale = (second / (1 - 0.9 ** (step + 1))).sqrt() + 1e-8
        white = white + rate * first / (1 - 0.8 ** (step + 1)) / scale
    return chains.loc + white @ chains.scale_tril.T


def _apart(points: Tensor, draws: Tensor) -> Tensor:
    """Which points are twice as far from the nearest draw as nearly all draws are from each other."""
    points, draws = points.double().cpu(), draws.double().cpu()
    limit = log_distance(draws, draws, 2).quantile(0.999) + math.log(2)
    return log_distance(points, draws, 1) > limit


def _log_mass(z: Tensor, log_p: Tensor) -> Tensor:
    """E[log p] + H, by nearest neighbours where the covariance is the identity; H at most that of a Gaussian."""
    z = z.double()
    root, log_two_pi_e = _root(z), math.log(2 * math.pi) + 1
    white = torch.linalg.solve_triangular(root, (z - z.mean(0)).T, upper=False).T
    entropy = neighbour_entropy(white.unsqueeze(1))[0].clamp_max(0.5 * z.shape[1] * log_two_pi_e)
    return entropy + root.diagonal().log().sum() + log_p.double().mean()


def _worst(before: Tensor, after: Tensor, names: Sequence[str] = ("",)) -> Share:
    """Of sets, `(n, sets)` or `(n,)`, the one that most has changed."""
    before, after = before.view(len(before), -1), after.view(len(after), -1)
    entered, left = (after & ~before).sum(0), (before & ~after).sum(0)
    errors = (entered - left) / (entered + left).clamp_min(1).sqrt()
    i = int(errors.abs().argmax())
    return Share(before[:, i].double().mean().item(), after[:, i].double().mean().item(), errors[i].item(), names[i])


def _quantiles(values: Tensor, levels: Sequence[float]) -> Tensor:
    """`(levels, ...)` of values `(n, ...)`; torch's own refuses more than 2^24 of them."""
    ordered = values.sort(0).values
    return torch.stack([ordered[min(len(values) - 1, int(level * len(values)))] for level in levels])


def _root(draws: Tensor) -> Tensor:
    """The Cholesky factor of the covariance."""
    tril, failed = torch.linalg.cholesky_ex(draws.double().T.cov().view(draws.shape[1], -1))
    if failed or not torch.isfinite(tril).all():
        raise ConfigurationError("draws: some dimension is constant, or a linear function of the others")
    return tril.to(draws)


def _check(draws: Tensor) -> None:
    if draws.ndim != 2 or not draws.shape[1]:
        raise ConfigurationError(f"draws: a sample of shape {tuple(draws.shape)} is not (rows, dim)")
    at_least(max(100, 2 * draws.shape[1]), draws=len(draws))
    if not torch.isfinite(draws).all():
        raise ConfigurationError("draws: not all of them are finite")
