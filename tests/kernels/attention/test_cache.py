"""`KVCache`: attention to what was appended, piece by piece, has the bits of attention to all of it at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fastsedd_kernels as fk
import numpy as np
import pytest
from fastsedd_kernels.attention import reference
from fastsedd_kernels.attention.panels import key_block
from fastsedd_kernels.gemm.dot_products import COLUMNS
from fastsedd_kernels.simd.vector import LANES
from kernel_arrays import LAYOUTS, normal, poisoned

PANEL = COLUMNS[np.dtype(np.float32)]
KEY_BLOCK = key_block(PANEL)

DTYPES = ("float32", "bfloat16")


def operands(keys: int, dim: int = 24, queries: int = 9, group: int = 2) -> tuple[np.ndarray, ...]:
    """q [2, 3 * group, queries, dim], and k and v of 2 x 3 heads."""
    shapes = (2, 3 * group, queries, dim), (2, 3, keys, dim), (2, 3, keys, dim)
    return tuple(normal(seed, *shape) for seed, shape in enumerate(shapes))


def filled(k: np.ndarray, v: np.ndarray, dtype: str, *pieces: int, capacity: int | None = None) -> fk.KVCache:
    """A cache with k and v, appended in pieces of those sizes over and over."""
    length = k.shape[2]
    cache = fk.KVCache(2, 3, k.shape[3], capacity or length, dtype)
    for memory in (cache._keys, cache._values):  # behind the keys, as truncated ones leave it
        memory.view(np.float32).fill(np.nan)
    begun = turn = 0
    while begun < length:
        end = min(length, begun + pieces[turn % len(pieces)])
        cache.append(k[:, :, begun:end], v[:, :, begun:end])
        assert len(cache) == end
        begun, turn = end, turn + 1
    return cache


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "pieces", [(1,), (3, 1, 2), (LANES, LANES + 1), (PANEL - 1,), (KEY_BLOCK + 1, 2), (1000,)], ids=str
)
@pytest.mark.parametrize("keys", [1, LANES + 1, PANEL + 5, KEY_BLOCK + 1, 2 * KEY_BLOCK + 7])
def test_pieces(keys: int, pieces: tuple[int, ...], dtype: str) -> None:
    q, k, v = operands(keys)
    cache = filled(k, v, dtype, *pieces, capacity=keys + 70)
    result = cache.attend(q, out=poisoned(*q.shape))
    np.testing.assert_array_equal(result, fk.attention(q, k, v, dtype=dtype))
    np.testing.assert_allclose(result, reference.attention(q, k, v), atol=2e-5 if dtype == "float32" else 0.06)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [1, 15, 17, 48, 63, 64, 65, 80, 128])
def test_heads_of_any_width(dim: int, dtype: str) -> None:
    q, k, v = operands(PANEL + 13, dim)
    cache = filled(k, v, dtype, 20, 5)
    np.testing.assert_array_equal(cache.attend(q, out=poisoned(*q.shape)), fk.attention(q, k, v, dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_rule_is_as_without_a_cache(dtype: str) -> None:
    q, k, v = operands(KEY_BLOCK + 30, queries=70)
    cache = filled(k, v, dtype, 100)
    mask = np.random.default_rng(3).random((70, len(cache))) < 0.3
    rules: tuple[dict[str, Any], ...] = (
        {"causal": True}, {"block": 32}, {"window": 50}, {"causal": True, "window": 5, "start": 40}, {"mask": mask},
        {"mask": mask.astype(np.float32), "scale": 0.5}, {"lengths": [5, 200], "causal": True}, {"lengths": [0, 3]},
    )  # fmt: skip
    for rule in rules:
        expected = fk.attention(q, k, v, dtype=dtype, **{"start": None, **rule})
        np.testing.assert_array_equal(cache.attend(q, out=poisoned(*q.shape), **rule), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kept", [0, 1, 2, LANES - 1, LANES, PANEL + 1, 100])
def test_truncated_keys_leave_nothing(kept: int, dtype: str) -> None:
    """Even where they were NaN."""
    q, k, v = operands(100)
    k[:, :, kept:] = v[:, :, kept:] = np.nan
    cache = filled(k, v, dtype, 7, capacity=150)
    cache.truncate(kept)
    assert len(cache) == kept
    if kept:
        expected = fk.attention(q, k[:, :, :kept], v[:, :, :kept], dtype=dtype)
        np.testing.assert_array_equal(cache.attend(q), expected)
    more_k, more_v = normal(7, 2, 3, 41, 24), normal(8, 2, 3, 41, 24)
    cache.append(more_k, more_v)
    whole = (np.concatenate([old[:, :, :kept], new], axis=2) for old, new in ((k, more_k), (v, more_v)))
    np.testing.assert_array_equal(cache.attend(q), fk.attention(q, *whole, dtype=dtype))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_keys_and_values_of_any_layout(layout: str) -> None:
    q, k, v = operands(50)
    cache = fk.KVCache(2, 3, 24, 50)
    laid_out = (LAYOUTS[layout](part.reshape(6 * 50, 24)).reshape(2, 3, 50, 24) for part in (k, v))
    cache.append(*laid_out)
    np.testing.assert_array_equal(cache.attend(q), fk.attention(q, k, v))


@pytest.mark.parametrize("dtype", DTYPES)
def test_replays_append_where_the_cache_ends(dtype: str) -> None:
    q, k, v = operands(90, queries=30)
    cache, out = fk.KVCache(2, 3, 24, 90, dtype), np.empty_like(q)
    step_k, step_v = k[:, :, :30].copy(), v[:, :, :30].copy()

    def step() -> None:
        cache.append(step_k, step_v)
        cache.attend(q, causal=True, out=out)

    recording = fk.record(step)
    for first in (30, 60):
        step_k[...], step_v[...] = (part[:, :, first : first + 30] for part in (k, v))
        recording.replay()
        expected = fk.attention(q, k[:, :, : first + 30], v[:, :, : first + 30], causal=True, start=None, dtype=dtype)
        np.testing.assert_array_equal(out, expected)
    with pytest.raises(ValueError, match="30 positions beside 90 are more than the cache's capacity, which is 90"):
        recording.replay()
    assert len(cache) == 90


def test_threads_read_one_cache() -> None:
    q, k, v = operands(300)
    cache = filled(k, v, "float32", 300)
    expected = fk.attention(q, k, v)
    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(lambda _: cache.attend(q), range(20)):
            np.testing.assert_array_equal(result, expected)


def test_refusals() -> None:
    q, k, v = operands(8)
    cache = fk.KVCache(2, 3, 24, 10)
    with pytest.raises(ValueError, match="the cache is empty"):
        cache.attend(q)
    cache.append(k, v)
    for call, words in (
        (lambda: cache.append(k, v), "8 positions beside 8 are more than the cache's capacity, which is 10"),
        (lambda: cache.append(k[:, :2], v), r"k has shape .2, 2, 8, 24., must be .2, 3, N, 24."),
        (lambda: cache.append(k, v[:, :, :3]), r"v has shape .2, 3, 3, 24., must be"),
        (lambda: cache.append(k[:, :, :0], v[:, :, :0]), "N equal and 1 or more"),
        (lambda: cache.append(k.astype(np.float64), v), "k has dtype float64"),
        (lambda: cache.truncate(9), "length is 9, allowed: 0 to 8"),
        (lambda: cache.attend(q[:, :5]), r"q has shape .2, 5, 9, 24., must be .2, a multiple of 3, L, 24."),
        (lambda: cache.attend(q, mask=np.ones((9, 7), bool)), "mask has shape .9, 7., must broadcast to .2, 6, 9, 8."),
        (lambda: fk.KVCache(2, 3, 24, 0), "capacity is 0, allowed: 1 or more"),
        (lambda: fk.KVCache(2, 3, 24, 1, "int8"), "dtype is 'int8', allowed: 'float32', 'bfloat16'"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    assert len(cache) == 8 and cache.nbytes > 0
    np.testing.assert_array_equal(cache.attend(q), fk.attention(q, k, v))
