"""Attention where heads share keys, and queries see some of them: by position, lengths and masks, against float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fastsedd_kernels as fk
import numpy as np
import pytest
from fastsedd_kernels.attention import reference
from fastsedd_kernels.attention.kernel import query_block
from fastsedd_kernels.attention.panels import key_block
from fastsedd_kernels.gemm.dot_products import COLUMNS
from kernel_arrays import LAYOUTS, normal, poisoned

QUERY_BLOCK = query_block(np.dtype(np.float32))
KEY_BLOCK = key_block(COLUMNS[np.dtype(np.float32)])
PANEL = COLUMNS[np.dtype(np.float32)]

ERRORS = {"float32": 2e-5, "bfloat16": 0.06}


def operands(queries: int, keys: int, dim: int = 16, group: int = 1, heads: int = 2) -> tuple[np.ndarray, ...]:
    """q [2, group * heads, queries, dim], and k and v of 2 x `heads` heads."""
    shapes = (2, group * heads, queries, dim), (2, heads, keys, dim), (2, heads, keys, dim)
    return tuple(normal(seed, *shape) for seed, shape in enumerate(shapes))


def assert_attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, **rule: Any) -> None:
    expected = reference.attention(q, k, v, **rule)
    for dtype, atol in ERRORS.items():
        result = fk.attention(q, k, v, out=poisoned(*q.shape), dtype=dtype, **rule)
        np.testing.assert_allclose(result, expected, atol=atol)


@pytest.mark.parametrize("keys", [1, PANEL + 1, KEY_BLOCK + 1])
@pytest.mark.parametrize("queries", [1, 5, QUERY_BLOCK // 2 + 1, QUERY_BLOCK + 1])
@pytest.mark.parametrize("group", [2, 3, 8])
def test_grouped_queries(group: int, queries: int, keys: int) -> None:
    q, k, v = operands(queries, keys, 24, group)
    assert_attention(q, k, v)
    assert_attention(q, k, v, causal=True, start=None)


def test_grouped_queries_have_the_bits_of_repeated_keys() -> None:
    q, k, v = operands(70, KEY_BLOCK + 40, 64, group=4)
    grouped = fk.attention(q, k, v, causal=True)
    repeated = (np.repeat(part, 4, axis=1) for part in (k, v))
    np.testing.assert_array_equal(grouped, fk.attention(q, *repeated, causal=True))
    apart = (part[:, :, None] for part in (k, v))
    np.testing.assert_array_equal(
        fk.attention(q.reshape(2, 2, 4, 70, 64), *apart, causal=True).reshape(q.shape), grouped
    )


RULES: dict[str, Callable[[int, int], dict[str, Any]]] = {
    "causal": lambda queries, keys: {"causal": True},
    "causal to the last key": lambda queries, keys: {"causal": True, "start": None},
    "causal from a place": lambda queries, keys: {"causal": True, "start": keys // 2},
    "causal before the keys": lambda queries, keys: {"causal": True, "start": -(queries // 2)},
    "blocks of 4": lambda queries, keys: {"block": 4},
    "blocks of 32": lambda queries, keys: {"block": 32, "start": None},
    "a block of all": lambda queries, keys: {"block": keys, "start": keys - 1},
    "a window": lambda queries, keys: {"window": 7},
    "a causal window": lambda queries, keys: {"window": PANEL + 3, "causal": True, "start": None},
    "a window of 1": lambda queries, keys: {"window": 1, "causal": True},
    "a window of blocks": lambda queries, keys: {"window": 20, "block": 8, "start": None},
    "lengths": lambda queries, keys: {"lengths": [keys, keys // 2]},
    "no keys of one text": lambda queries, keys: {"lengths": [0, keys]},
    "causal to the last of lengths": lambda _, keys: {"lengths": [keys, 1 + keys // 3], "causal": True, "start": None},
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("keys", [1, PANEL - 1, 2 * PANEL + 1, KEY_BLOCK, 2 * KEY_BLOCK + 5])
@pytest.mark.parametrize("queries", [1, QUERY_BLOCK - 1, QUERY_BLOCK + 1, KEY_BLOCK + 3])
def test_limits_by_position(queries: int, keys: int, rule: str) -> None:
    assert_attention(*operands(queries, keys, group=2 if keys % 2 else 1), **RULES[rule](queries, keys))


def random_mask(kind: str, *shape: int, kept: float = 0.5) -> np.ndarray:
    random = np.random.default_rng(5)
    seen = random.random(shape) < kept
    return seen if kind == "bool" else np.where(seen, random.standard_normal(shape), -np.inf).astype(np.float32)


@pytest.mark.parametrize("kind", ["bool", "float32"])
@pytest.mark.parametrize(
    "shape", [(2, 4, 50, 301), (50, 301), (2, 1, 1, 301), (4, 1, 301), (2, 1, 50, 1), (1,), ()], ids=str
)
def test_masks_broadcast(shape: tuple[int, ...], kind: str) -> None:
    assert_attention(*operands(50, 301, 24, group=2), mask=random_mask(kind, *shape))


@pytest.mark.parametrize("kind", ["bool", "float32"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_masks_of_any_layout(layout: str, kind: str) -> None:
    assert_attention(*operands(50, 301), mask=LAYOUTS[layout](random_mask(kind, 50, 301, kept=0.1)))


@pytest.mark.parametrize("dim", [1, 48, 63, 65, 80, 128])
@pytest.mark.parametrize("kind", ["bool", "float32"])
def test_masks_of_heads_of_any_width(kind: str, dim: int) -> None:
    q, k, v = operands(49, KEY_BLOCK + 20, dim)
    mask = random_mask(kind, *q.shape[:3], k.shape[2], kept=0.02)
    assert_attention(q, k, v, mask=mask, causal=True, start=None, window=300, lengths=[KEY_BLOCK + 20, 70])


def test_queries_that_see_no_key_become_0() -> None:
    q, k, v = operands(60, 400)
    seen = np.ones((60, 400), bool)
    seen[[0, 3, 59]] = False
    added = np.where(seen, 0, -np.inf).astype(np.float32)
    for rule in ({"mask": seen}, {"mask": added}, {"mask": added, "window": 500}):
        result = fk.attention(q, k, v, out=poisoned(*q.shape), **rule)
        assert (result[:, :, [0, 3, 59]] == 0).all() and (result[:, :, [1, 2, 4, 58]] != 0).all()
    assert (fk.attention(q, k, v, causal=True, start=-60, out=poisoned(*q.shape)) == 0).all()


def test_a_mask_of_lowest_numbers_leaves_equal_weights() -> None:
    """Only minus infinity hides a key, as in torch."""
    q, k, v = operands(5, 400)
    mask = np.full((5, 400), np.finfo(np.float32).min, np.float32)
    mask[1, 7] = 0
    result = fk.attention(q, k, v, mask=mask)
    np.testing.assert_allclose(result[:, :, 0], v.mean(2), atol=1e-5)
    np.testing.assert_allclose(result[:, :, 1], v[:, :, 7], atol=1e-6)


def test_hidden_keys_have_no_weight_at_all() -> None:
    q, k, v = operands(20, 90)
    seen = random_mask("bool", 20, 90)
    k[:, :, ::2] = v[:, :, ::2] = 0
    v[:, :, 1::2] = 1e30
    seen[:, 1::2] = False
    assert (fk.attention(q, k, v, mask=seen) == 0).all()


@pytest.mark.parametrize("dtype", ERRORS)
def test_tiles_and_padding_that_nobody_sees_are_not_made(dtype: str) -> None:
    """NaN in them would reach a result: a weight of 0 times NaN is NaN."""
    q, k, v = operands(32, 3 * KEY_BLOCK, 64)
    hidden = np.zeros(3 * KEY_BLOCK, bool)
    hidden[KEY_BLOCK : 2 * KEY_BLOCK] = True
    for rule, unseen in (
        ({"block": 32, "start": 64}, np.s_[96:]),
        ({"window": 32, "start": KEY_BLOCK + 200}, np.s_[:KEY_BLOCK]),
        ({"causal": True, "window": 32, "start": None}, np.s_[: 3 * KEY_BLOCK - 200]),
        ({"lengths": [41, 41]}, np.s_[41:]),
        ({"mask": ~hidden}, hidden),
        ({"mask": np.where(hidden, -np.inf, 0).astype(np.float32)}, hidden),
    ):
        poisoned_k, poisoned_v = k.copy(), v.copy()
        poisoned_k[:, :, unseen] = poisoned_v[:, :, unseen] = np.nan
        result = fk.attention(q, poisoned_k, poisoned_v, dtype=dtype, **rule)
        np.testing.assert_array_equal(result, fk.attention(q, k, v, dtype=dtype, **rule))


@pytest.mark.parametrize("dtype", ERRORS)
def test_bits_depend_on_neither_threads_nor_neighbours(dtype: str) -> None:
    """A query's own row, alone, has the bits that it has among others, whatever tiles those see."""
    q, k, v = operands(130, 2 * KEY_BLOCK + 30, 48, group=3, heads=1)
    rule: dict[str, Any] = {"window": 200, "causal": True, "dtype": dtype}
    mask = random_mask("float32", 130, k.shape[2], kept=0.3)
    whole = fk.attention(q, k, v, start=400, mask=mask, **rule)
    for i in (0, 1, 77, 129):
        alone = fk.attention(q[:, :, i : i + 1], k, v, start=400 + i, mask=mask[i : i + 1], **rule)
        np.testing.assert_array_equal(alone, whole[:, :, i : i + 1])
    threads = fk.get_num_threads()
    fk.set_num_threads(1)
    try:
        np.testing.assert_array_equal(fk.attention(q, k, v, start=400, mask=mask, **rule), whole)
    finally:
        fk.set_num_threads(threads)


def test_replays_read_masks_and_lengths_anew() -> None:
    q, k, v = operands(40, 100)
    mask, lengths, out = random_mask("bool", 40, 100), np.array([100, 50]), np.empty_like(q)
    recording = fk.record(lambda: fk.attention(q, k, v, mask=mask, lengths=lengths, out=out))
    mask[...] = ~mask
    lengths[...] = 70, 3
    recording.replay()
    np.testing.assert_array_equal(out, fk.attention(q, k, v, mask=mask, lengths=lengths))


def test_refusals() -> None:
    q, k, v = operands(4, 6, group=3)
    for rule, words in (
        ({"causal": True, "block": 4}, "causal and block are both given"),
        ({"block": 0}, "block is 0, allowed: None, or 1 or more"),
        ({"window": 0}, "window is 0, allowed: None, or 1 or more"),
        ({"start": 1.5}, "start is 1.5, allowed: None, or the position"),
        ({"lengths": [6]}, "lengths has shape .1,., must be .2,."),
        ({"lengths": [6, 7]}, "lengths are from 6 to 7, allowed: 0 to 6"),
        ({"lengths": [6.0, 6.0]}, "lengths is float64 .*must be integers"),
        ({"mask": np.ones((4, 5), bool)}, "mask has shape .4, 5., must broadcast to .2, 6, 4, 6."),
        ({"mask": np.ones((4, 6))}, "mask has dtype float64, allowed: float32, bool"),
    ):
        with pytest.raises(ValueError, match=words):
            fk.attention(q, k, v, **rule)
    with pytest.raises(ValueError, match="do not fit together"):
        fk.attention(q[:, :5], k, v)
    mask = np.zeros((*q.shape[:3], 6), np.float32)
    with pytest.raises(ValueError, match="out overlaps mask"):
        fk.attention(q[..., :6], k[..., :6], v[..., :6], mask=mask, out=mask)
