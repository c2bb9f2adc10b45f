"""Fused attention: scores, softmax and the weighted sum of values, a block of queries at a time.

    out[q] = sum over j of softmax_j(scale * Q[q] . K[j]) V[j]

A task is a thread's part of all heads, or of their runs of queries. A head's keys and values are packed into panels for
the GEMM's micro-kernel, in float32 or in bfloat16 words; for each block of queries the keys pass by in blocks of
`key_block`, and a running maximum and sum keep the softmax exact (Milakov and Gimelshein 2018; Dao et al. 2022,
FlashAttention): memory is linear in the length.
    scores of a block   rows of queries x keys float32, in L2; a panel of keys D x NR, in L1
Queries are multiplied by scale / ln 2 first, so that a weight is a power of two. Scores, weights and sums are float32;
in bfloat16, queries, keys, values and weights are rounded on the way into a product. Each query's sums run over the
keys in order: results do not depend on how queries are shared out.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import float32, types, uint32
from numba.extending import overload

from fastsedd_kernels.activation.vectors import exp2_of_negative, exp2_scalar
from fastsedd_kernels.gemm.dot_products import NUMPY, SHAPES
from fastsedd_kernels.gemm.layout import elements_per_word, place_of_word, row_stride, words_of
from fastsedd_kernels.gemm.microkernel import (
    close_tiles,
    link_tile,
    multiply_tile,
    open_tiles,
    tile_columns,
    tile_rows_of,
    widest_columns,
)
from fastsedd_kernels.gemm.operands import Rows, Start, no_prefetch
from fastsedd_kernels.gemm.pack_a import take_rows
from fastsedd_kernels.gemm.pack_b import pack_columns
from fastsedd_kernels.norm.kernel import highest
from fastsedd_kernels.runtime.jit import OVERLOAD, jit
from fastsedd_kernels.runtime.kernel import Kernel, kernel
from fastsedd_kernels.runtime.machines import CACHE_LINE
from fastsedd_kernels.runtime.scalar import offset, pointer
from fastsedd_kernels.simd.narrow import store_bfloat16, store_pairs
from fastsedd_kernels.simd.vector import (
    LANES,
    lanes_at,
    load_some,
    load_vector,
    splat,
    store_some,
    store_vector,
    sum_lanes,
)

_MAX_KEYS = 288
_LOG2_E = float32(1.4426950408889634)
_ZERO = float32(0.0)
_LOWEST = float32(np.finfo(np.float32).min)


class _Panels(NamedTuple):
    """Panels of B for a product: a pointer to the first, elements from panel to panel, and NR."""

    pointer: Any
    stride: Any
    nr: Any


class _Head(NamedTuple):
    """A head's keys and values, packed; length : of the keys; dim : of the head; causal : whether queries see no later
    keys"""

    key_panels: Any
    value_panels: Any
    length: Any
    dim: Any
    causal: Any


class _Queries(NamedTuple):
    """A block of queries, scaled and in the panels' elements. words : Rows; first : of them in the head"""

    words: Any
    first: Any
    rows: Any


class _Memory(NamedTuple):
    """Scratch for a block of queries: scores with a block of keys, weights as words (of bfloat16 only), sums of values,
    and state: maximum and sum of weights per query."""

    scores: Any
    weights: Any
    sums: Any
    state: Any


def key_block(columns: int) -> int:
    """Keys that pass by at a time: whole panels, and whole rows of tile registers."""
    return _MAX_KEYS // columns * columns


_key_block = jit(key_block)


def query_block(dtype: np.dtype[Any]) -> int:
    """Queries whose scores with a block of keys stay in L2: whole tiles."""
    rows = SHAPES[NUMPY[dtype]].rows
    return max(1, 48 // rows) * rows


@jit
def _pack_keys(keys: Any, words: Any, panels: Any) -> None:
    """panels[p, d, j] = keys[p * NR + j, d], zero beyond the last key; words : [S, depth] of them, or unused."""
    floats = panels.view(np.float32)
    for p in range(panels.shape[0]):
        pack_columns(_as_words(keys, words), p * panels.shape[2], floats[p])


def _as_words(keys: Any, words: Any) -> Any:
    """The keys as floats to be packed: themselves, or the bits of their words."""
    raise NotImplementedError("for kernels only")


@overload(_as_words, **OVERLOAD)  # type: ignore[untyped-decorator]
def _typed_as_words(keys: Any, words: Any) -> Any:
    if words.dtype == uint32:
        return lambda keys, words: words.view(np.float32)
    return lambda keys, words: keys


def _pack_values(values: Any, panels: Any) -> None:
    """panels[p, j, d] = values[j, p * NR + d], or words of two neighbours in j; zero beyond the head's width."""
    raise NotImplementedError("for kernels only")


@overload(_pack_values, **OVERLOAD)  # type: ignore[untyped-decorator]
def _typed_pack_values(values: Any, panels: Any) -> Any:
    return _pack_pairs if panels.dtype == uint32 else _pack_floats


def _pack_floats(values: Any, panels: Any) -> None:
    length, dim = values.shape
    nr = panels.shape[2]
    for p in range(panels.shape[0]):
        for j in range(length):
            source = pointer(values[j], p * nr)
            for d in range(0, nr, LANES):
                store_vector(pointer(panels[p, j], d), load_some(offset(source, d), dim - p * nr - d, _ZERO))


def _pack_pairs(values: Any, panels: Any) -> None:
    length, dim = values.shape
    nr = panels.shape[2]
    for p in range(panels.shape[0]):
        for j in range(panels.shape[1]):
            first, second = (
                pointer(values[min(2 * j, length - 1)], p * nr),
                pointer(values[min(2 * j + 1, length - 1)], p * nr),
            )
            some, more = dim - p * nr if 2 * j < length else 0, dim - p * nr if 2 * j + 1 < length else 0
            for d in range(0, nr, LANES):
                x, y = load_some(offset(first, d), some - d, _ZERO), load_some(offset(second, d), more - d, _ZERO)
                store_pairs(x, y, pointer(panels[p, j], d))


@jit
def _multiply_block(rows: int, depth: int, a: Any, panels: Any, columns: int, c: Any, accumulate: bool) -> None:
    """c[0:rows] (+)= a[0:rows, 0:depth] . b, over the panels of b's `columns`. a, c : Rows; panels : _Panels"""
    for panel in range(-(-columns // panels.nr)):
        b = Rows(offset(panels.pointer, panel * panels.stride), panels.nr)
        vectors = -(-min(panels.nr, columns - panel * panels.nr) // lanes_at(b.pointer))
        height = tile_rows_of(b.pointer, vectors)
        for top in range(0, rows, height):
            target = Rows(offset(c.pointer, top * c.stride + panel * panels.nr), c.stride)
            multiply_tile(
                min(height, rows - top),
                vectors,
                depth,
                Rows(offset(a.pointer, top * a.stride), a.stride),
                b,
                target,
                Start(accumulate, target.pointer, target.stride),
                no_prefetch(b, c),
            )


def _store_weights(scores: Any, j: int, count: int, value: Any, row: int, weights: Any) -> None:
    """Put weights j to j + `count`, at most a register of them, where the product with the values reads them.

    scores : pointer to the row's, which floats are stored over; weights : Rows of words otherwise
    """
    raise NotImplementedError("for kernels only")


@overload(_store_weights, **OVERLOAD)  # type: ignore[untyped-decorator]
def _typed_store_weights(scores: Any, j: Any, count: Any, value: Any, row: Any, weights: Any) -> Any:
    if weights.types[0].dtype == uint32:
        return lambda scores, j, count, value, row, weights: store_bfloat16(
            value,
            offset(weights.pointer, place_of_word(row, j // 2, weights.stride, True, weights.pointer)),
        )
    return lambda scores, j, count, value, row, weights: store_some(offset(scores, j), value, count)


@jit
def _weigh(scores: Any, keys: int, top: Any, depth: int, row: int, weights: Any) -> Any:
    """Turn a row of scores into weights 2^(score - top), zero from `keys` to `depth`; their sum."""
    total, other = splat(_ZERO), splat(_ZERO)
    shift = splat(top)
    paired = keys // (2 * LANES) * (2 * LANES)
    for j in range(0, paired, 2 * LANES):
        value = exp2_of_negative(load_vector(offset(scores, j)) - shift)
        beside = exp2_of_negative(load_vector(offset(scores, j + LANES)) - shift)
        total = total + value
        other = other + beside
        _store_weights(scores, j, LANES, value, row, weights)
        _store_weights(scores, j + LANES, LANES, beside, row, weights)
    for j in range(paired, depth, LANES):
        value = splat(_ZERO)
        if j < keys:
            value = exp2_of_negative(load_some(offset(scores, j), keys - j, _LOWEST) - shift)
            store_some(offset(scores, j), value, LANES)
            value = load_some(offset(scores, j), keys - j, _ZERO)
        total = total + value
        _store_weights(scores, j, depth - j, value, row, weights)
    return sum_lanes(total + other)


def _weights_at(scores: Any, weights: Any) -> Any:
    """Rows that the product with the values reads the weights from: the scores, or the words."""
    raise NotImplementedError("for kernels only")


@overload(_weights_at, **OVERLOAD)  # type: ignore[untyped-decorator]
def _typed_weights_at(scores: Any, weights: Any) -> Any:
    if weights.types[0].dtype == uint32:
        return lambda scores, weights: weights
    return lambda scores, weights: Rows(pointer(scores, 0), scores.shape[1])


@jit
def _rescale(top: Any, state: Any, sums: Any, width: int) -> None:
    """Make what was summed so far relative to a new maximum; state : [maximum, sum of weights] of the row."""
    if state[1] > _ZERO and state[0] < top:
        factor = exp2_scalar(state[0] - top)
        for d in range(0, width, LANES):
            store_vector(offset(sums, d), load_vector(offset(sums, d)) * factor)
        state[1] *= factor
    state[0] = top


@jit
def _panel_columns(dim: int, some: Any) -> Any:
    """NR of keys and of values: the widest tile's where a head is as wide, so that no narrow, slow tile is left."""
    widest = widest_columns(some)
    return widest if widest - lanes_at(some) < dim <= widest else tile_columns(some)


@jit
def _empty(shape: Any, dtype: Any) -> Any:
    """numpy.empty from a cache line's edge on: a register that lies across two lines costs two accesses."""
    count = 1
    for size in shape:
        count *= size
    memory = np.empty(count + CACHE_LINE // 4, dtype)
    start = -memory.ctypes.data % CACHE_LINE // 4
    return memory[start : start + count].reshape(shape)


def attend(task: int, q: Any, k: Any, v: Any, out: Any, rule: Any, division: Any, like: Any) -> None:
    """The task's part of all runs of queries, with one set of scratch memory for all of them.

    q : float32 [B, H, L, D], k and v : [B, H, S, D], rows contiguous; out : as q, apart from all
    rule : (scale float32, causal)
    division : (runs of queries per head, tasks, queries per block)
    like : an array whose dtype is that of the panels: float32, or uint32 for words of bfloat16
    """
    (scale, causal), (shares, tasks, block) = rule, division
    batch, count, queries, dim = q.shape
    length = k.shape[2]
    some = pointer(like, 0)
    nr, rounded = _panel_columns(dim, some), elements_per_word(some) > 1
    depth = words_of(dim, some)
    lda = row_stride(depth, LANES, some)  # rows a power of two apart would share cache sets
    key_words = _empty((length if rounded else 0, depth), like.dtype)
    key_panels = _empty((-(-length // nr), depth, nr), like.dtype)
    keys = _key_block(nr)
    value_panels = _empty((-(-dim // nr), words_of(-(-length // keys) * keys, some), nr), like.dtype)
    turned = np.empty((block, dim), np.float32)
    query_words = _empty((block, lda), like.dtype)
    scores = _empty((block, keys + LANES), np.float32)
    weights = _empty((block, words_of(keys, some)), like.dtype)
    sums = _empty((block, value_panels.shape[0] * nr), np.float32)
    memory = _Memory(scores, weights, sums, np.empty((block, 2), np.float32))
    unused = pointer(memory.state, 0)  # factors, of int8 only
    runs = batch * count * shares
    packed = -1
    open_tiles(some)
    for run in range(runs * task // tasks, runs * (task + 1) // tasks):
        head, share = run // shares, run % shares
        b, h = head // count, head % count
        if head != packed:
            if rounded:
                take_rows(k[b, h], 0, length, Rows(pointer(key_words, 0), depth), unused, False)
            _pack_keys(k[b, h], key_words, key_panels)
            _pack_values(v[b, h], value_panels)
            packed = head
        last = queries * (share + 1) // shares
        for begin in range(queries * share // shares, last, block):
            rows = min(block, last - begin)
            words = Rows(pointer(query_words, 0), lda)
            _scale_rows(q[b, h], begin, rows, scale * _LOG2_E, turned)
            take_rows(turned, 0, rows, words, unused, True)
            _attend_block(_Queries(words, begin, rows), _Head(key_panels, value_panels, length, dim, causal), memory)
            for r in range(rows):
                target = pointer(out[b, h, begin + r], 0)
                share_of = splat(float32(1.0) / memory.state[r, 1])
                for d in range(0, dim, LANES):
                    value = load_vector(pointer(sums, r * sums.shape[1] + d)) * share_of
                    store_some(offset(target, d), value, dim - d)
    close_tiles(some)


@jit
def _scale_rows(q: Any, begin: int, rows: int, factor: Any, target: Any) -> None:
    dim = q.shape[1]
    for r in range(rows):
        source = pointer(q[begin + r], 0)
        for d in range(0, dim, LANES):
            store_some(pointer(target[r], d), load_some(offset(source, d), dim - d, _ZERO) * factor, dim - d)


@jit
def _attend_block(queries: Any, head: Any, memory: Any) -> None:
    """sums and state of a block of queries, over all keys that they see."""
    some = pointer(head.key_panels, 0)
    scores, sums, state = memory.scores, memory.sums, memory.state
    depth, nr, lds, ldc = head.key_panels.shape[1], head.key_panels.shape[2], scores.shape[1], sums.shape[1]
    state[:, 0] = _LOWEST
    state[:, 1] = _ZERO
    visible = min(head.length, queries.first + queries.rows) if head.causal else head.length
    together = _key_block(nr)
    for key in range(0, visible, together):
        keys = min(together, visible - key)
        weights = Rows(pointer(memory.weights, 0), words_of(keys, some))
        of_keys = _Panels(pointer(head.key_panels, key * depth), depth * nr, nr)
        _multiply_block(queries.rows, depth, queries.words, of_keys, keys, Rows(pointer(scores, 0), lds), False)
        for r in range(queries.rows):
            row = pointer(scores, r * lds)
            seen = max(0, min(keys, queries.first + r + 1 - key)) if head.causal else keys
            top = max(state[r, 0], highest(row, seen))
            _rescale(top, state[r], pointer(sums, r * ldc), ldc)
            state[r, 1] += _weigh(row, seen, top, weights.stride * elements_per_word(some), r, weights)
        a = _weights_at(scores, weights)
        of_values = _Panels(pointer(head.value_panels, words_of(key, some) * nr), head.value_panels.shape[1] * nr, nr)
        c = Rows(pointer(sums, 0), ldc)
        _multiply_block(queries.rows, weights.stride, a, of_values, head.dim, c, key > 0)


_HEADS = types.Array(float32, 4, "A", readonly=True)


def _kernel(element: Any) -> Kernel:
    rule, division = types.Tuple((float32, types.boolean)), types.UniTuple(types.intp, 3)
    like = types.Array(element, 1, "C", readonly=True)
    signature = (_HEADS, _HEADS, _HEADS, types.Array(float32, 4, "A"), rule, division, like)
    return kernel(*signature, link=lambda: link_tile(element))(attend)


# By the dtype of the panels.
ATTEND = {np.dtype(np.float32): _kernel(float32), np.dtype(np.uint32): _kernel(uint32)}
