"""Noise in validation and test is a function of (key, row); everything that is drawn is what it says it is."""

from __future__ import annotations

import pytest
import torch

from lightning_avb import noise

LIKE = torch.zeros((), dtype=torch.float64)
ROWS = torch.arange(20000)


def draw(index, samples=2, dim=3, key=("val", 7), calls=1, like=LIKE):
    """What the last of several calls gives."""
    source = noise.RowNoise(*key, index=index)
    return [source((samples, len(index), dim), like) for _ in range(calls)][-1]


def correlation(columns):
    """The largest correlation between two columns of `(rows, columns)`."""
    return (columns.T.corrcoef() - torch.eye(columns.shape[1])).abs().max()


def test_a_row_gets_its_noise_in_every_batch():
    index = torch.tensor([5, 0, 123456789, 42, 17])
    whole = draw(index)
    pieces = torch.cat([draw(index[:1]), draw(index[1:3]), draw(index[3:])], 1)
    backwards = draw(index.flip(0)).flip(1)
    assert torch.equal(whole, pieces) and torch.equal(whole, backwards)
    assert torch.equal(draw(index, calls=3), torch.cat([draw(row, calls=3) for row in index.split(2)], 1))


def test_rows_calls_and_keys_get_different_noise():
    index = torch.arange(4)
    others = [{"calls": 2}, {"key": ("test", 7)}, {"key": ("val", 8)}]
    draws = [draw(index), draw(index + 4), *(draw(index, **other) for other in others)]
    values = torch.cat([values.flatten() for values in draws])
    assert len(values.unique()) == len(values)


def test_normal():
    draws = draw(ROWS, samples=2, dim=5).flatten().sort().values
    count = len(draws)
    assert draws.mean().abs() < 5 * count**-0.5
    assert (draws.var() - 1).abs() < 5 * (2 / count) ** 0.5
    # Kolmogorov-Smirnov: sqrt(n) D exceeds 1.95 with probability 0.001
    steps = torch.arange(count + 1, dtype=torch.float64) / count
    below = torch.special.ndtr(draws)
    distance = torch.maximum((below - steps[:-1]).max(), (steps[1:] - below).max())
    assert distance * count**0.5 < 1.95


@pytest.mark.parametrize("power", [1, 2])
def test_uncorrelated(power):
    """Between samples, dimensions, calls and keys of a row, and between a row and the next ones."""
    draws = [draw(ROWS, dim=2, calls=calls, key=("val", stage)) for calls in (1, 2) for stage in (7, 8)]
    columns = torch.cat(draws).transpose(0, 1).flatten(1)
    neighbours = torch.cat([columns[:-2, :1], columns[1:-1, :1], columns[2:, :1]], 1)
    for table in (columns, neighbours):
        assert correlation(table.double() ** power) < 5 * len(table) ** -0.5


def test_shared_noise_is_the_same_for_all_batches():
    first = noise.RowNoise("val", index=torch.tensor([3, 4]))((4, 3), LIKE)
    second = noise.RowNoise("val", index=torch.tensor([8]))((4, 3), LIKE)
    assert first.shape == (4, 3) and torch.equal(first, second)
    assert len(first.unique()) == 12


def test_dtype_follows():
    assert draw(torch.arange(3), like=torch.zeros(())).dtype == torch.float32


def test_wrong_number_of_rows():
    with pytest.raises(ValueError, match="5 rows was asked for in a batch of 3"):
        noise.RowNoise("val", index=torch.arange(3))((1, 5, 2), LIKE)


def test_use_restores_the_source_before():
    def constant(value):
        return lambda shape, like: torch.full(shape, value)

    def value():
        return noise.normal((1, 1), LIKE).item()

    with noise.use(constant(1.0)):
        with pytest.raises(RuntimeError, match="inside"), noise.use(constant(2.0)):
            assert value() == 2
            raise RuntimeError("inside")
        assert value() == 1
    torch.manual_seed(0)
    expected = torch.randn(1, 1, dtype=torch.float64).item()
    torch.manual_seed(0)
    assert value() == expected


def test_mixed_seeds_differ():
    seeds = {
        noise.mixed_seed(seed, stage, step, rank)
        for seed in range(4)
        for stage in ("train", "val")
        for step in range(100)
        for rank in range(4)
    }
    assert len(seeds) == 4 * 2 * 100 * 4
    assert all(0 <= seed < 2**63 for seed in seeds)
    # unrelated: every one of the 63 bits is set in half of them
    bits = torch.tensor([[seed >> i & 1 for i in range(63)] for seed in seeds], dtype=torch.float64)
    assert (bits.mean(0) - 0.5).abs().max() < 5 * 0.5 * len(seeds) ** -0.5


def test_a_step_draws_the_same_again():
    def of(*where):
        noise.seed_step(*where)
        return noise.normal((1, 2, 3), LIKE)

    first = of(0, 5, 1)
    torch.randn(3)
    assert torch.equal(first, of(0, 5, 1))
    assert not any(torch.equal(first, of(*other)) for other in [(1, 5, 1), (0, 6, 1), (0, 5, 0)])


def test_uniform():
    uniform = noise.row_uniform(("val",), ROWS, 10).flatten()
    assert uniform.dtype == torch.float64
    counts = torch.histc(uniform, 20, 0, 1)
    expected = len(uniform) / 20
    # chi-square with 19 degrees of freedom exceeds 43.8 with probability 0.001
    assert ((counts - expected).square() / expected).sum() < 43.8


def unmix(bits):
    """The inverse of SplitMix64's finaliser."""
    mask = (1 << 64) - 1
    bits ^= bits >> 31 ^ bits >> 62
    bits = bits * pow(0x94D049BB133111EB, -1, 1 << 64) & mask
    bits ^= bits >> 27 ^ bits >> 54
    bits = bits * pow(0xBF58476D1CE4E5B9, -1, 1 << 64) & mask
    return bits ^ bits >> 30 ^ bits >> 60


@pytest.mark.parametrize("bits", [0, (1 << 64) - 1], ids=["zeros", "ones"])
def test_uniform_is_inside_the_open_interval(bits):
    """Also for the row whose hash is the smallest or the largest there is: ndtri of 0 or 1 is infinite."""
    golden, modulus = 0x9E3779B97F4A7C15, 1 << 64
    row = (unmix((unmix(bits) - golden) % modulus) - golden) % modulus ^ noise.mixed_seed("val")
    index = torch.tensor([row - modulus if row >> 63 else row])
    uniform = noise.row_uniform(("val",), index, 1).item()
    assert abs(uniform - (bits >> 63)) < 1e-15, "the row was not found"
    assert 0 < uniform < 1
