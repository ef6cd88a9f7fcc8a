"""Checks of draws by short Hamiltonian chains: how these move the draws, and the mass that they find elsewhere.

After transitions that leave p invariant, draws of p are still draws of p. If the draws are correct, any share of them,
such as those below a point or beyond a radius, therefore stays the same in expectation, whether or not the chains mix.
If they are not, the chains move them towards p: outwards if the draws are too narrow, inwards if they are too wide. The
draws are independent and each is its own control, so the errors are small: if a draws entered a set and b left it,
(a - b) / (a + b)^(1/2) is standard normal for correct draws (McNemar 1947).

Chains do not cross between modes. But chains that descend from several distances may end in a mode without draws. Its
mass is at least

    exp( E[log p(z)] + H ),

for z with any distribution of entropy H in this mode, such as the final states of the chains.
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
"""z `(n, dim)` -> log p(z) up to a constant, `(n,)`; -inf where p is 0, or cannot be computed."""


STEP_OCTAVES = 5
"""Every transition draws a step size between the tuned one and 2^-5 of it, for wide and narrow regions."""

DISTANCES = (2.0, 5.0, 15.0, 50.0)
"""Distances from the draws' mean at which chains look for other modes, in standard deviations of the draws."""


class Share(NamedTuple):
    """The share of the draws in a set, before and after the chains.

    Attributes:
        before, after: of the draws.
        errors: (entered - left) / (entered + left)^(1/2): standard normal for correct draws.
        where: the name of the set's coordinate: of several, the one with the largest `errors`.
    """

    before: float
    after: float
    errors: float
    where: str = ""


class MovedDraws(NamedTuple):
    """Draws after the chains.

    Attributes:
        z: the final states, `(n, dim)`.
        acceptance: share of the accepted transitions.
        shares: of the draws in these sets; in the coordinate with the largest change,
            `below_median`: below the draws' median, 0.5 before;
            `outside_90`: outside their central 90 %, 0.1 before;
            `outside_99`: outside their central 99 %, 0.01 before;
            and in all coordinates together
            `outside_radius`: beyond the radius of all but 1 of 1000, around their mean and by their covariance;
            `high_density`: where the log-density is above its median over the draws;
            `lowest_tenth`, `lowest_hundredth`: where it is below its quantile of 0.1, or of 0.01.
        shift: of the median in the coordinate of `below_median`, in deviations.
    """

    z: Tensor
    acceptance: float
    shares: dict[str, Share]
    shift: float


class MissedMode(NamedTuple):
    """A mode without draws.

    Attributes:
        share: of the mass, a lower bound; 0 if none was found.
        chains: number of chains that ended there, of `starts`.
        where: the mean of their final states, `(dim,)`.
    """

    share: float
    chains: int
    starts: int
    where: Tensor


class _State(NamedTuple):
    """States of chains, with log p and its gradient."""

    z: Tensor
    log_p: Tensor
    gradient: Tensor


class Chains:
    """Hamiltonian Monte Carlo in the coordinates of a normal distribution with the width of the draws."""

    def __init__(self, log_density: LogDensity, draws: Tensor, leapfrogs: int) -> None:
        self.log_density, self.leapfrogs = log_density, leapfrogs
        # Without the farthest draws, which would make all steps too wide for heavy tails.
        low, high = _quantiles(draws, (0.02, 0.98))
        near = torch.minimum(torch.maximum(draws, low), high)
        self.loc, self.scale_tril = near.mean(0), _cholesky(near)
        self.log_step = math.log(0.5)

    def whiten(self, z: Tensor) -> Tensor:
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
        """The states after one transition, and its acceptance probabilities, `(n,)`."""
        n, dim = state.z.shape
        velocity, test, length = noise.normal((n, dim + 2), state.z).split((dim, 1, 1), -1)
        # Reversible: the step size does not depend on the state.
        step = math.exp(self.log_step) * torch.exp2(-STEP_OCTAVES * torch.special.ndtr(length))
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
        """Tunes the step size (Robbins & Monro 1951) on chains that are then discarded."""
        state, visited = self.at(z), []
        for i in range(transitions):
            state, rate = self.transition(state)
            self.log_step += 2 / math.sqrt(1 + i) * (rate.mean().item() - acceptance)
            visited.append(self.log_step)
        self.log_step = sum(visited[transitions // 2 :]) / len(visited[transitions // 2 :])

    def run(self, z: Tensor, transitions: int) -> tuple[_State, _State, float]:
        """The first and the last states of chains from z, and the share of accepted transitions."""
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
    """Moves every draw by Hamiltonian transitions that leave p invariant, and reports the changes.

    It costs transitions times leapfrogs gradients of log p per draw.

    Args:
        draws: `(n, dim)`, independent, at least 100.
        log_density: differentiable.
        coordinates: their names.
        transitions, leapfrogs: per chain. Long and thin shapes need many leapfrogs.
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
    mean, root = draws.mean(0), _cholesky(draws)
    moved = {}
    sets: dict[str, Callable[[Tensor], Tensor]] = {
        "below_median": lambda z: z < q[2],
        "outside_90": lambda z: (z < q[1]) | (z > q[3]),
        "outside_99": lambda z: (z < q[0]) | (z > q[4]),
    }
    for name, inside in sets.items():
        moved[name] = _most_changed(inside(first.z), inside(last.z), names)
    radii = [torch.linalg.solve_triangular(root, (z - mean).T, upper=False).norm(dim=0) for z in (first.z, last.z)]
    limit, log_p = _quantiles(radii[0], (0.999,)), _quantiles(first.log_p, (0.5, 0.1, 0.01))
    moved["outside_radius"] = _most_changed(radii[0] > limit, radii[1] > limit)
    moved["high_density"] = _most_changed(first.log_p > log_p[0], last.log_p > log_p[0])
    moved["lowest_tenth"] = _most_changed(first.log_p < log_p[1], last.log_p < log_p[1])
    moved["lowest_hundredth"] = _most_changed(first.log_p < log_p[2], last.log_p < log_p[2])
    i = names.index(moved["below_median"].where)
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
    """Looks for a mode without draws: descents from far away, and chains from their ends.

    A mode is found if a descent from one of `DISTANCES` leads into it. It may be missed in many dimensions, or if it is
    much smaller than its distance. A found mode is no false alarm: its share is a lower bound, up to the error of the
    entropies, which are estimated from nearest neighbours.

    Args:
        draws: `(n, dim)`, of which at most 4000 are used.
        log_density: differentiable.
        starts: per distance.
        descent: number of steps.
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
        z = z[_far_from(chains.whiten(z), chains.whiten(draws))]
        if len(z) < max(10, 2 * draws.shape[1]):
            return MissedMode(0.0, len(z), len(wide), draws.new_full(draws.shape[1:], math.nan))
        there = Chains(log_density, z, leapfrogs)
        there.tune(z)
        end = there.run(z, transitions)[1]
    share = torch.sigmoid(_log_mass(end.z, end.log_p) - _log_mass(draws, chains.at(draws).log_p)).item()
    return MissedMode(share, len(z), len(wide), end.z.mean(0))


def _descend(chains: Chains, white: Tensor, stride: Tensor, steps: int) -> Tensor:
    """Ends of descents that begin at `white`, in the chains' coordinates, by Adam with decreasing steps."""
    first, second = torch.zeros_like(white), torch.zeros_like(white)
    for step in range(steps):
        gradient = chains.at(chains.loc + white @ chains.scale_tril.T).gradient @ chains.scale_tril
        # Far out, gradients differ by powers of ten between points.
        gradient = gradient / gradient.norm(dim=1, keepdim=True).clamp_min(1)
        first, second = torch.lerp(first, gradient, 0.2), torch.lerp(second, gradient.square(), 0.1)
        rate = 0.2 * stride * (0.01 / 0.2 / stride) ** (step / steps)
        scale = (second / (1 - 0.9 ** (step + 1))).sqrt() + 1e-8
        white = white + rate * first / (1 - 0.8 ** (step + 1)) / scale
    return chains.loc + white @ chains.scale_tril.T


def _far_from(points: Tensor, draws: Tensor) -> Tensor:
    """Which points are more than twice as far from the nearest draw as 99.9 % of the draws are from theirs."""
    points, draws = points.double().cpu(), draws.double().cpu()
    limit = log_distance(draws, draws, 2).quantile(0.999) + math.log(2)
    return log_distance(points, draws, 1) > limit


def _log_mass(z: Tensor, log_p: Tensor) -> Tensor:
    """E[log p] + H; the entropy H from nearest neighbours of whitened draws, and at most that of a Gaussian."""
    z = z.double()
    root, log_two_pi_e = _cholesky(z), math.log(2 * math.pi) + 1
    white = torch.linalg.solve_triangular(root, (z - z.mean(0)).T, upper=False).T
    entropy = neighbour_entropy(white.unsqueeze(1))[0].clamp_max(0.5 * z.shape[1] * log_two_pi_e)
    return entropy + root.diagonal().log().sum() + log_p.double().mean()


def _most_changed(before: Tensor, after: Tensor, names: Sequence[str] = ("",)) -> Share:
    """The share of the set with the largest change, of sets `(n, sets)` or one set `(n,)`."""
    before, after = before.view(len(before), -1), after.view(len(after), -1)
    entered, left = (after & ~before).sum(0), (before & ~after).sum(0)
    errors = (entered - left) / (entered + left).clamp_min(1).sqrt()
    i = int(errors.abs().argmax())
    return Share(before[:, i].double().mean().item(), after[:, i].double().mean().item(), errors[i].item(), names[i])


def _quantiles(values: Tensor, levels: Sequence[float]) -> Tensor:
    """`(levels, ...)` of values `(n, ...)`; torch's own refuses more than 2^24 of them."""
    ordered = values.sort(0).values
    return torch.stack([ordered[min(len(values) - 1, int(level * len(values)))] for level in levels])


def _cholesky(draws: Tensor) -> Tensor:
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
