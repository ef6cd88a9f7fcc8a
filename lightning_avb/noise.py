"""The source of all random numbers of the library, so that a run can be repeated, resumed and compared.

* A training step seeds torch once from (seed, step, rank): resuming needs no saved generator.
* Noise in validation and test is a function of (seed, stage, row of the data set): figures depend neither on the
  batch size nor on the number of processes.
* Tests inject noise with `use`.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

Source = Callable[[tuple[int, ...], Tensor], Tensor]
"""Gives standard normal noise of the asked shape, in the dtype and on the device of the tensor."""

_MASK = (1 << 64) - 1
_GOLDEN, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def run_seed() -> int:
    """The seed of this run, from `seed_everything`; 0 without it."""
    return int(os.environ.get("PL_GLOBAL_SEED", 0))


def _generator_noise(shape: tuple[int, ...], like: Tensor) -> Tensor:
    return torch.randn(shape, dtype=like.dtype, device=like.device)


_source: Source = _generator_noise


def normal(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Standard normal noise.

    Args:
        shape: `(samples, batch, dim)` for separate noise of every row, `(samples, dim)` for noise that all rows share.
        like: gives dtype and device.
    """
    return _source(shape, like)


def spread(count: int, dim: int, like: Tensor) -> Tensor:
    """Points with the moments of N(0, I) up to the third, exactly, to average functions of noise with little error.

    They are the axes of random rotations, in both directions, each rotation with a radius drawn as that of a normal:
    a cubature rule of degree 3.

    Args:
        count: the least number of points; it is rounded up to a multiple of 2 dim.
        dim: their dimensions.
        like: gives dtype and device.

    Returns:
        `(count, dim)`.
    """
    rotations = -(-count // (2 * dim))
    gaussian = normal((rotations * dim, dim), like).view(rotations, dim, dim)
    precise = torch.promote_types(like.dtype, torch.float32)
    axes, triangle = torch.linalg.qr(gaussian.to(precise))
    square = triangle[:, :1, :1].square()  # of the length of the first column, independent of the axes
    points = (axes * (dim * square / square.mean()).sqrt()).flatten(0, 1).to(like.dtype)
    return torch.cat([points, -points])


@contextmanager
def use(source: Source) -> Iterator[None]:
    """Within the block all noise comes from `source`."""
    global _source
    previous, _source = _source, source
    try:
        yield
    finally:
        _source = previous


def uniform(count: int, like: Tensor) -> Tensor:
    """`(count,)` numbers between 0 and 1, in single precision, on the device of `like`."""
    return torch.special.ndtr(normal((1, count, 1), like.new_zeros((), dtype=torch.float32)))[0, :, 0]


@contextmanager
def scaled(factor: float) -> Iterator[None]:
    """Within the block all noise is multiplied by `factor`."""
    source = _source
    with use(lambda shape, like: factor * source(shape, like)):
        yield


def _signed(bits: int) -> int:
    """64 bits as torch's int64 holds them."""
    bits &= _MASK
    return bits - (1 << 64) if bits >> 63 else bits


def _mix(bits: Tensor) -> Tensor:
    """The finaliser of SplitMix64 (Steele, Lea & Flood 2014): 64 well-mixed bits from 64 bits, elementwise."""
    bits = (bits ^ ((bits >> 30) & (_MASK >> 30))) * _signed(_FIRST)
    bits = (bits ^ ((bits >> 27) & (_MASK >> 27))) * _signed(_SECOND)
    return bits ^ ((bits >> 31) & (_MASK >> 31))


def mixed_seed(*parts: int | str) -> int:
    """One 63-bit seed from several numbers and names; nearby inputs give unrelated seeds."""
    state = 0
    for part in parts:
        part = zlib.crc32(part.encode()) if isinstance(part, str) else part
        state = ((state ^ part) + _GOLDEN) & _MASK
        state = ((state ^ (state >> 30)) * _FIRST) & _MASK
        state = ((state ^ (state >> 27)) * _SECOND) & _MASK
        state ^= state >> 31
    return state >> 1


def seed_step(seed: int, step: int, rank: int) -> None:
    """Makes every draw that follows, on every device, a function of (seed, step, rank)."""
    seed_torch(mixed_seed(seed, "train", step, rank))


def seed_torch(bits: int) -> None:
    """Seeds torch's generators, including those of devices in use."""
    # torch.manual_seed also looks for unused devices, which takes a millisecond on some builds.
    torch.default_generator.manual_seed(bits)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(bits)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(bits)


def torch_state() -> list[Tensor]:
    """The states of torch's generators; equal before and after if nothing was drawn."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    mps = [torch.mps.get_rng_state()] if torch.backends.mps.is_available() else []
    return [torch.default_generator.get_state(), *cuda, *mps]


@contextmanager
def keep_torch_state() -> Iterator[None]:
    """Restores the states of torch's generators after the block."""
    cpu, *devices = torch_state()
    try:
        yield
    finally:
        torch.default_generator.set_state(cpu)
        if torch.backends.mps.is_available():
            torch.mps.set_rng_state(devices.pop())
        if devices:
            torch.cuda.set_rng_state_all(devices)


@contextmanager
def torch_seeded(*key: int | str) -> Iterator[None]:
    """Within the block draws of torch's generators are a function of the key; their states are restored after it."""
    with keep_torch_state():
        seed_torch(mixed_seed(*key))
        yield


def row_uniform(key: tuple[int | str, ...], index: Tensor, count: int) -> Tensor:
    """Uniform numbers in (0, 1) that are a function of (key, row) alone.

    Args:
        key: numbers and names that identify this use.
        index: `(batch,)` int64, the rows.
        count: numbers per row.

    Returns:
        `(batch, count)` float64.
    """
    rows = _mix((index ^ mixed_seed(*key)) + _signed(_GOLDEN)).unsqueeze(-1)
    bits = _mix((rows ^ torch.arange(count, device=index.device)) + _signed(_GOLDEN))
    return (((bits >> 12) & (_MASK >> 12)).double() + 0.5) * 2.0**-52


def seeded(*key: int | str) -> Source:
    """A source, for `use`, whose draws are a function of the key and of what was drawn before, on any device."""
    generator = torch.Generator().manual_seed(mixed_seed(*key))

    def source(shape: tuple[int, ...], like: Tensor) -> Tensor:
        return torch.randn(shape, generator=generator).to(like)

    return source


class RowNoise:
    """Noise that is a function of (key, row, how many draws came before): pass it to `use`."""

    def __init__(self, *key: int | str, index: Tensor) -> None:
        self.key, self.index, self.calls = key, index, 0

    def __call__(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        self.calls += 1
        samples, dim = shape[0], shape[-1]
        rows = self.index if len(shape) == 3 else self.index.new_full((1,), -1)
        if len(shape) == 3 and shape[1] != len(rows):
            raise ValueError(f"noise for {shape[1]} rows was asked for in a batch of {len(rows)} rows")
        uniform = row_uniform((*self.key, self.calls), rows, samples * dim)
        draws = torch.special.ndtri(uniform).to(like)
        draws = draws.view(len(rows), samples, dim).transpose(0, 1)
        return draws.reshape(shape)
