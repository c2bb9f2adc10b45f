"""Attention and rotary embedding against float64: lengths around every block, causal or not, strided or not."""

from __future__ import annotations

import fastsedd_kernels as fk
import numpy as np
import pytest
from fastsedd_kernels.attention import reference
from fastsedd_kernels.attention.kernel import query_block
from fastsedd_kernels.attention.panels import key_block
from fastsedd_kernels.gemm.dot_products import COLUMNS
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_arrays import normal

QUERY_BLOCK = query_block(np.dtype(np.float32))
KEY_BLOCK = key_block(COLUMNS[np.dtype(np.float32)])


def assert_attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, atol: float = 2e-5, **options: object) -> None:
    out = np.full(q.shape, np.nan, np.float32)
    assert fk.attention(q, k, v, out=out, **options) is out
    np.testing.assert_allclose(out, reference.attention(q, k, v, **options), atol=atol)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    "length", [1, 2, QUERY_BLOCK - 1, QUERY_BLOCK + 1, KEY_BLOCK, KEY_BLOCK + 1, 2 * KEY_BLOCK + 5]
)
@pytest.mark.parametrize("dim", [16, 64])
def test_lengths(dim: int, length: int, causal: bool) -> None:
    assert_attention(*(2 * normal(i, 1, 2, length, dim) for i in range(3)), causal=causal)


@pytest.mark.parametrize("dim", [48, 49, 63, 64, 65, 80, 96, 128])
def test_heads_of_any_width(dim: int) -> None:
    assert_attention(*(normal(i, 1, 2, 77, dim) for i in range(3)))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 40), st.integers(1, 40), st.integers(1, 70), st.booleans())
def test_any_shape(batch: int, heads: int, queries: int, keys: int, dim: int, causal: bool) -> None:
    q = normal(0, batch, heads, queries, dim)
    k, v = normal(1, batch, heads, keys, dim), normal(2, batch, heads, keys, dim)
    assert_attention(q, k, v, causal=causal)


def test_large_scores_stay_exact_across_key_blocks() -> None:
    q, k, v = (normal(i, 1, 1, 2 * KEY_BLOCK + 9, 8) for i in range(3))
    k[0, 0, KEY_BLOCK + 3] *= 40  # the maximum moves from block to block
    # A score's rounding error is a relative error of its weight: the scores of order 100 that matter here, of 1e-5.
    assert_attention(10 * q, k, v, scale=1.0, atol=1e-4)


def test_views_of_one_projection() -> None:
    qkv = normal(0, 2, 70, 3, 4, 24)
    q, k, v = qkv.transpose(2, 0, 3, 1, 4)
    out = np.full((2, 70, 4, 24), np.nan, np.float32)
    fk.attention(q, k, v, out=out.transpose(0, 2, 1, 3))
    np.testing.assert_allclose(out.transpose(0, 2, 1, 3), reference.attention(q, k, v), atol=1e-5)


def test_leading_dimensions() -> None:
    for lead in ((3,), (2, 3), (2, 2, 3)):
        assert_attention(*(normal(i, *lead, 11, 8) for i in range(3)))


def test_bits_depend_on_neither_threads_nor_batch() -> None:
    q, k, v = (normal(i, 3, 1, 200, 16) for i in range(3))
    whole = fk.attention(q, k, v)
    for b in range(3):
        np.testing.assert_array_equal(fk.attention(q[b], k[b], v[b]), whole[b])
    threads = fk.get_num_threads()
    fk.set_num_threads(1)
    try:
        np.testing.assert_array_equal(fk.attention(q, k, v), whole)
    finally:
        fk.set_num_threads(threads)


def test_refusals() -> None:
    x = np.ones((1, 2, 4, 8), np.float32)
    for arguments, words in (
        ((x, x, x[:, :, :3]), "do not fit"),
        ((x, x[..., :4], x[..., :4]), "do not fit"),
        ((x.astype(np.float64), x, x), "q has dtype float64"),
        ((x[0, 0], x[0, 0], x[0, 0]), "q has shape"),
    ):
        with pytest.raises(ValueError, match=words):
            fk.attention(*arguments)
    with pytest.raises(ValueError, match="out overlaps"):
        fk.attention(x, x, x, out=x)
    with pytest.raises(ValueError, match="scale is -1"):
        fk.attention(x, x, x, scale=-1)


@pytest.mark.parametrize("bits", [0x7FC00000, 0xFFC00000, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FC00101, 0x7F800001])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_nan_of_any_bits_stays_one(dtype: str, bits: int) -> None:
    """In a query, its row; in a key, every row; in a value, its column."""
    where = {"q": np.s_[:, :, 2], "k": np.s_[...], "v": np.s_[..., 3]}
    for name, place in where.items():
        random = np.random.default_rng(0)
        parts = {each: random.standard_normal((1, 1, 5, 8), np.float32) for each in "qkv"}
        parts[name].view(np.uint32)[0, 0, 2, 3] = bits
        expected = np.zeros((1, 1, 5, 8), bool)
        expected[place] = True
        np.testing.assert_array_equal(np.isnan(fk.attention(**parts, dtype=dtype)), expected)


def test_a_nan_reaches_the_same_queries_on_any_number_of_threads(one_thread) -> None:
    """Queries that are computed at a time do not depend on how many threads share them."""
    shape = (1, 1, 2 * query_block(np.dtype(np.float32)) + 4, 16)
    q, k, v = normal(0, 3, *shape)
    v[0, 0, 60] = np.nan
    several = fk.attention(q, k, v, causal=True)
    with one_thread():
        np.testing.assert_array_equal(fk.attention(q, k, v, causal=True), several)
    assert np.isnan(several[0, 0, 60:]).all() and np.isfinite(several[0, 0, : query_block(np.dtype(np.float32))]).all()
