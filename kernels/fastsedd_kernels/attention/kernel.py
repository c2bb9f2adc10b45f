"""Fused attention: scores, softmax and the weighted sum of values, a block of queries at a time.

    out[q] = sum over j of softmax_j(scale * Q[q] . K[j]) V[j]        j : the keys that query q sees (`visible`)

A task is a thread's part of all heads of keys, or of their runs of queries. H / H_kv heads of queries share one of
keys: their queries are the rows of its products, those at one position side by side, so that each tile of keys and
values is read once for all of them. A head's keys and values are packed into `panels`, here or once for all; for each
block of queries the keys pass by in blocks of `key_block`, of which only the tiles that some query sees are made, and a
running maximum and sum keep the softmax exact (Milakov and Gimelshein 2018; Dao et al. 2022, FlashAttention): memory is
linear in the length.
    scores of a block   rows of queries x keys float32, in L2; a panel of keys D x NR, in L1
Queries are multiplied by scale / ln 2 first, so that a weight is a power of two. Scores, weights and sums are float32;
in bfloat16, queries, keys, values and weights are rounded on the way into a product. Each query's sums run over the
keys in order: results do not depend on how queries are shared out. A query that sees no key becomes 0, as torch has it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import float32, types

from fastsedd_kernels.attention.panels import (
    ELEMENTS,
    Panels,
    empty,
    granule_of,
    key_block_of,
    multiply_block,
    pack_keys,
    pack_values,
    panel_columns,
    words_of_keys,
)
from fastsedd_kernels.attention.visible import RULE, Place, has_mask, hide, hides, narrowed, range_of, visible_of
from fastsedd_kernels.attention.weights import rescale, weigh, weights_at
from fastsedd_kernels.gemm.dot_products import NUMPY, SHAPES
from fastsedd_kernels.gemm.layout import elements_per_word, row_stride, words_of
from fastsedd_kernels.gemm.microkernel import close_tiles, link_tile, open_tiles
from fastsedd_kernels.gemm.operands import Rows
from fastsedd_kernels.gemm.pack_a import take_rows
from fastsedd_kernels.norm.kernel import highest
from fastsedd_kernels.runtime.jit import inlined, jit
from fastsedd_kernels.runtime.kernel import Kernel, kernel
from fastsedd_kernels.runtime.scalar import beyond, offset, pointer
from fastsedd_kernels.simd.vector import LANES, load_some, load_vector, splat, store_some

_LOG2_E = float32(1.4426950408889634)
_ZERO = float32(0.0)
_LOWEST = float32(np.finfo(np.float32).min)
_MINUS_INFINITY = float32(-np.inf)
_LEAST = float32(-126.0)  # log2 of the least weight above 0


class _Call(NamedTuple):
    """Queries and results of a call, float32 [B, H, L, D]; factor : of the queries; group : heads that share keys"""

    q: Any
    out: Any
    factor: Any
    group: Any


class _Head(NamedTuple):
    """A head's keys and values, packed; batch, number : which it is"""

    key_panels: Any
    value_panels: Any
    batch: Any
    number: Any


class _Queries(NamedTuple):
    """A block of queries of one text, scaled and in the panels' elements. words : Rows"""

    words: Any
    rows: Any
    batch: Any


class _Memory(NamedTuple):
    """Scratch for a block of queries: scaled, and in the panels' elements; scores with a block of keys, weights as
    words (of bfloat16 only), sums of values; per query, state: maximum and sum of weights; places: its head and number;
    ranges: the keys that it may see; parts: those of them in a block."""

    turned: Any
    query_words: Any
    scores: Any
    weights: Any
    sums: Any
    state: Any
    places: Any
    ranges: Any
    parts: Any


def query_block(dtype: np.dtype[Any]) -> int:
    """Queries whose scores with a block of keys stay in L2: whole tiles."""
    rows = SHAPES[NUMPY[dtype]].rows
    return max(1, 48 // rows) * rows


@jit
def _new_memory(block: int, dim: int, nr: int, dtype: Any, some: Any) -> Any:
    keys, depth = key_block_of(nr), words_of(dim, some)
    lda = row_stride(depth, LANES, some)  # rows a power of two apart would share cache sets
    return _Memory(
        np.empty((block, dim), np.float32),
        empty((block, lda), dtype),
        empty((block, keys + LANES), np.float32),
        empty((block, words_of(keys, some)), dtype),
        empty((block, -(-dim // nr) * nr), np.float32),
        np.empty((block, 2), np.float32),
        np.empty((2, block), np.intp),
        np.empty((2, block), np.intp),
        np.empty((2, block), np.intp),
    )


@jit
def _share_of(rows: int, share: int, shares: int, block: int) -> Any:
    """(first, last, block): a share of the rows, of whole blocks: which rows are one does not depend on the shares."""
    blocks = -(-rows // block)
    return block * (blocks * share // shares), min(rows, block * (blocks * (share + 1) // shares)), block


def attend(task: int, q: Any, k: Any, v: Any, out: Any, rule: Any, division: Any, like: Any) -> None:
    """The task's part of all runs of queries, with one set of scratch memory for all of them.

    q : float32 [B, H, L, D], k and v : [B, H_kv, S, D], H a multiple of H_kv, rows contiguous; out : as q, and apart
    rule : `visible.RULE`
    division : (runs of queries per head of keys, tasks, queries per block)
    like : an array whose dtype is that of the panels: float32, or uint32 for words of bfloat16
    """
    shares, tasks, block = division
    batch, count, length, dim = k.shape
    some = pointer(like, 0)
    nr, depth, rounded = panel_columns(dim, some), words_of(dim, some), elements_per_word(some) > 1
    key_words = empty((length if rounded else 0, depth), like.dtype)
    key_panels = empty((-(-length // nr), depth, nr), like.dtype)
    value_panels = empty((-(-dim // nr), words_of_keys(length, nr, some), nr), like.dtype)
    memory = _new_memory(block, dim, nr, like.dtype, some)
    call = _Call(q, out, rule[0] * _LOG2_E, q.shape[1] // count)
    runs = batch * count * shares
    packed = -1
    open_tiles(some)
    for run in range(runs * task // tasks, runs * (task + 1) // tasks):
        head, share = run // shares, run % shares
        b, h = head // count, head % count
        visible = visible_of(rule, b, q.shape[2], length)
        if head != packed and visible.length > 0:
            pack_keys(k[b, h, : visible.length], key_words, key_panels)
            pack_values(v[b, h, : visible.length], value_panels)
            packed = head
        rows = q.shape[2] * call.group
        part = _share_of(rows, share, shares, block)
        _attend_head(part, call, _Head(key_panels, value_panels, b, h), visible, memory)
    close_tiles(some)


def attend_panels(
    task: int, q: Any, key_panels: Any, value_panels: Any, held: Any, out: Any, rule: Any, division: Any
) -> None:
    """`attend` with keys and values that are packed already.

    key_panels : [B, H_kv, panels, words of D, NR]; value_panels : [B, H_kv, panels, words of keys, NR]
    held : intp [2], the number of keys first
    """
    shares, tasks, block = division
    batch, count = key_panels.shape[:2]
    some = pointer(key_panels, 0)
    memory = _new_memory(block, q.shape[3], key_panels.shape[4], key_panels.dtype, some)
    call = _Call(q, out, rule[0] * _LOG2_E, q.shape[1] // count)
    runs = batch * count * shares
    open_tiles(some)
    for run in range(runs * task // tasks, runs * (task + 1) // tasks):
        head, share = run // shares, run % shares
        b, h = head // count, head % count
        visible = visible_of(rule, b, q.shape[2], held[0])
        rows = q.shape[2] * call.group
        part = _share_of(rows, share, shares, block)
        _attend_head(part, call, _Head(key_panels[b, h], value_panels[b, h], b, h), visible, memory)
    close_tiles(some)


@inlined
def _attend_head(part: Any, call: Any, head: Any, visible: Any, memory: Any) -> None:
    """Results of the queries from part[0] to part[1] of those that share the head's keys, part[2] at a time."""
    begun, last, block = part
    dim, sums, places = call.q.shape[3], memory.sums, memory.places
    words = Rows(pointer(memory.query_words, 0), memory.query_words.shape[1])
    unused = pointer(memory.state, 0)  # factors, of int8 only
    for first in range(begun, last, block):
        queries = _Queries(words, min(block, last - first), head.batch)
        _set_places(first, queries, head, call.group, places)
        _scale_rows(call, queries, places, memory.turned)
        take_rows(memory.turned, 0, queries.rows, words, unused, True)
        _attend_block(queries, head, visible, memory)
        for r in range(queries.rows):
            target = _row_of(call.out, head.batch, places[0, r], places[1, r])
            total = memory.state[r, 1]
            share_of = splat(_ZERO if total == _ZERO else float32(1.0) / total)
            for d in range(0, dim, LANES):
                value = load_vector(pointer(sums, r * sums.shape[1] + d)) * share_of
                store_some(offset(target, d), value, dim - d)


@inlined
def _set_places(first: int, queries: Any, head: Any, group: int, places: Any) -> None:
    """Set places to head and number of each query: those of a group at one position lie side by side."""
    if group == 1:
        for r in range(queries.rows):
            places[0, r], places[1, r] = head.number, first + r
        return
    query, member = first // group, first % group
    for r in range(queries.rows):
        places[0, r], places[1, r] = head.number * group + member, query
        member += 1
        if member == group:
            query, member = query + 1, 0


@inlined
def _row_of(x: Any, batch: int, head: int, query: int) -> Any:
    """Pointer to a row of x [B, H, L, D]."""
    return beyond(pointer(x, 0), batch * x.strides[0] + head * x.strides[1] + query * x.strides[2])


@inlined
def _scale_rows(call: Any, queries: Any, places: Any, target: Any) -> None:
    dim = call.q.shape[3]
    for r in range(queries.rows):
        source = _row_of(call.q, queries.batch, places[0, r], places[1, r])
        for d in range(0, dim, LANES):
            store_some(pointer(target[r], d), load_some(offset(source, d), dim - d, _ZERO) * call.factor, dim - d)


@inlined
def _attend_block(queries: Any, head: Any, visible: Any, memory: Any) -> None:
    """sums and state of a block of queries, over all keys that they see."""
    some = pointer(head.key_panels, 0)
    sums = memory.sums
    depth, nr, ldc = head.key_panels.shape[1], head.key_panels.shape[2], sums.shape[1]
    together, granule = key_block_of(nr), granule_of(nr)
    memory.state[:, 0] = _LOWEST
    memory.state[:, 1] = _ZERO
    begin, end = _set_ranges(queries, visible, memory)
    begun = False
    for key in range(begin // together * together, end, together):
        low, high = _set_parts(queries, visible, memory, key, key + together)
        if low >= high:
            continue
        base = key + (low - key) // granule * granule
        of_keys = Panels(pointer(head.key_panels, base * depth), depth * nr, nr)
        scores = Rows(pointer(memory.scores, 0), memory.scores.shape[1])
        multiply_block(queries.rows, depth, queries.words, of_keys, high - base, scores, False)
        weights = Rows(pointer(memory.weights, 0), words_of(high - base, some))
        _weigh_rows(queries, visible, memory, base, weights.stride * elements_per_word(some), weights)
        a = weights_at(memory.scores, weights)
        of_values = Panels(pointer(head.value_panels, words_of(base, some) * nr), head.value_panels.shape[1] * nr, nr)
        columns = memory.turned.shape[1]
        multiply_block(queries.rows, weights.stride, a, of_values, columns, Rows(pointer(sums, 0), ldc), begun)
        begun = True
    if not begun:
        sums[:] = _ZERO


@inlined
def _set_ranges(queries: Any, visible: Any, memory: Any) -> Any:
    """Set ranges to the keys that each query may see by its position; the range of all."""
    begin, end = visible.length, 0
    for r in range(queries.rows):
        low, high = range_of(visible, memory.places[1, r])
        memory.ranges[0, r], memory.ranges[1, r] = low, high
        begin, end = min(begin, low), max(end, high if low < high else 0)
    return begin, end


@inlined
def _set_parts(queries: Any, visible: Any, memory: Any, key: int, after: int) -> Any:
    """Set parts to the keys from `key` on that each query sees, and to none as (0, 0); the range of all."""
    begin, end = after, key
    if has_mask(visible):
        for r in range(queries.rows):
            low, high = max(key, memory.ranges[0, r]), min(after, memory.ranges[1, r])
            if low < high:
                low, high = narrowed(visible, _place(queries, memory, r), low, high)
            begin, end = _set_part(memory.parts, r, low, high, begin, end)
    else:
        for r in range(queries.rows):
            low, high = max(key, memory.ranges[0, r]), min(after, memory.ranges[1, r])
            begin, end = _set_part(memory.parts, r, low, high, begin, end)
    return begin, end


@inlined
def _set_part(parts: Any, r: int, low: int, high: int, begin: int, end: int) -> Any:
    seen = low < high
    parts[0, r], parts[1, r] = low if seen else 0, high if seen else 0
    return min(begin, low) if seen else begin, max(end, high) if seen else end


@jit
def _place(queries: Any, memory: Any, row: int) -> Any:
    return Place(queries.batch, memory.places[0, row], memory.places[1, row])


@inlined
def _weigh_rows(queries: Any, visible: Any, memory: Any, base: int, depth: int, weights: Any) -> None:
    """Turn scores of the keys from `base` on into `depth` weights, and bring in line what was summed before."""
    scores, sums, state, hidden = memory.scores, memory.sums, memory.state, hides(visible)
    for r in range(queries.rows):
        row, summed = pointer(scores, r * scores.shape[1]), pointer(sums, r * sums.shape[1])
        low, high = memory.parts[0, r], memory.parts[1, r]
        seen = max(0, high - base)
        if hidden:
            if seen > 0:
                hide(visible, _place(queries, memory, r), row, base, low, high)
            top = max(state[r, 0], highest(row, seen))
            rescale(top, state[r], summed, sums.shape[1], _LEAST)
            state[r, 1] += weigh(row, seen, top, depth, r, weights, _LEAST)
        else:
            top = max(state[r, 0], highest(row, seen))
            rescale(top, state[r], summed, sums.shape[1], _MINUS_INFINITY)
            state[r, 1] += weigh(row, seen, top, depth, r, weights, None)


_HEADS = types.Array(float32, 4, "A", readonly=True)
_OUT = types.Array(float32, 4, "A")
_DIVISION = types.UniTuple(types.intp, 3)


def _kernel(element: Any) -> Kernel:
    like = types.Array(element, 1, "C", readonly=True)
    signature = (_HEADS, _HEADS, _HEADS, _OUT, RULE, _DIVISION, like)
    return kernel(*signature, link=lambda: link_tile(element))(attend)


def _kernel_of_panels(element: Any) -> Kernel:
    panels, held = types.Array(element, 5, "C", readonly=True), types.Array(types.intp, 1, "C", readonly=True)
    signature = (_HEADS, panels, panels, held, _OUT, RULE, _DIVISION)
    return kernel(*signature, link=lambda: link_tile(element))(attend_panels)


# By the dtype of the panels.
ATTEND = {np.dtype(element.name): _kernel(element) for element in ELEMENTS}
ATTEND_PANELS = {np.dtype(element.name): _kernel_of_panels(element) for element in ELEMENTS}
