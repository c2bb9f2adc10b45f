"""Counter-based draws: the published Philox vectors, the reference, the distribution, the independence of order."""

from __future__ import annotations

import fastsedd_kernels as fk
import numba
import numpy as np
import pytest
from fastsedd_kernels.sampling import reference, rng


@numba.njit
def philox(seed, stream, block):
    return rng.philox(seed, stream, block)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0), 0, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((2**64 - 1, 2**64 - 1), 2**64 - 1, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ((0x85A308D3243F6A88, 0x0370734413198A2E), 0x299F31D0A4093822, "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_known_answers(counter: tuple[int, int], key: int, expected: str) -> None:
    """Random123's kat_vectors; a counter is (block, stream)."""
    words = [int(word, 16) for word in expected.split()]
    assert list(philox(np.uint64(key), np.uint64(counter[1]), np.uint64(counter[0]))) == words
    assert list(reference.philox(key, counter[1], counter[0])) == words


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 66])
def test_draws_equal_the_reference(width: int) -> None:
    p = np.random.default_rng(width).random((40, width), dtype=np.float32)
    np.testing.assert_array_equal(
        fk.sample_categorical(p, 2**40 + 7, 2**33), reference.sample_categorical(p, 2**40 + 7, 2**33)
    )


@pytest.mark.parametrize("method", ["exact", "official"])
def test_distribution(method: str) -> None:
    p = np.array([0.05, 0.0, 0.5, 0.25, 0.2], np.float32)
    n = 200_000
    drawn = fk.sample_categorical(np.broadcast_to(p, (n, 5)), seed=3, method=method)
    counts = np.bincount(drawn, minlength=5)
    assert counts[1] == 0
    expected = n * p[p > 0].astype(np.float64)
    statistic = ((counts[p > 0] - expected) ** 2 / expected).sum()
    assert statistic < 16.27  # chi-square, 3 degrees of freedom, 99.9%


def test_a_draw_depends_on_its_stream_alone() -> None:
    p = np.random.default_rng(0).random((64, 9), dtype=np.float32)
    whole = fk.sample_categorical(p, 5)
    np.testing.assert_array_equal(fk.sample_categorical(p[10:20], 5, 10), whole[10:20])
    order = np.random.default_rng(1).permutation(64)
    np.testing.assert_array_equal(fk.sample_categorical(p[order], 5, order), whole[order])
    threads = fk.get_num_threads()
    fk.set_num_threads(1)
    try:
        np.testing.assert_array_equal(fk.sample_categorical(p, 5), whole)
    finally:
        fk.set_num_threads(threads)
    assert (fk.sample_categorical(p, 6) != whole).any()
    seeds = np.arange(64, dtype=np.uint64)
    each = [fk.sample_categorical(p[row : row + 1], row, row)[0] for row in range(64)]
    np.testing.assert_array_equal(fk.sample_categorical(p.reshape(8, 8, 9), seeds.reshape(8, 8)).ravel(), each)


def test_weights_need_not_be_normalised() -> None:
    p = np.random.default_rng(0).random((64, 9), dtype=np.float32)
    np.testing.assert_array_equal(fk.sample_categorical(p * np.float32(8), 5), fk.sample_categorical(p, 5))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"probabilities": np.zeros((3, 4), np.float32)}, "no positive weight in row 0"),
        ({"probabilities": np.full((1, 4), np.nan, np.float32)}, "no positive weight"),
        ({"probabilities": np.ones((3, 0), np.float32)}, "probabilities has shape"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**64}, "seed is"),
        ({"seed": np.zeros(2, np.uint64)}, "seed is uint64"),
        ({"offset": -1}, "offset is -1"),
        ({"offset": np.arange(4)}, "offset is"),
        ({"method": "gumbel"}, "method is 'gumbel'"),
    ],
)
def test_refusals(arguments: dict, words: str) -> None:
    good = {"probabilities": np.ones((3, 4), np.float32), "seed": 0}
    with pytest.raises(ValueError, match=words):
        fk.sample_categorical(**{**good, **arguments})
