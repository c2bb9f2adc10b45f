"""Fused attention: scores, softmax and the weighted sum of values, a block of queries at a time.

    out[q] = sum over j of softmax_j(scale * Q[q] . K[j]) V[j]

A task is a thread's part of all heads, or of their runs of queries. A head's keys and values are packed into panels for
the GEMM's micro-kernel; for each block of QUERY_BLOCK queries the keys pass by in blocks of KEY_BLOCK, and a running
maximum and sum keep the softmax exact (Milakov and Gimelshein 2018; Dao et al. 2022, FlashAttention): memory is linear
in the length.
    scores of a block   QUERY_BLOCK x KEY_BLOCK float32, in L2; a panel of keys D x NR, in L1
Each query's sums run over the keys in order: results do not depend on how queries are shared out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import float32, types

from fastsedd_kernels._jit import jit
from fastsedd_kernels._simd import LANES, load_vector, offset, pointer, splat, store_vector
from fastsedd_kernels.activation import exp_scalar
from fastsedd_kernels.gemm.microkernel import COLUMNS, ROWS, link_tile, multiply_tile
from fastsedd_kernels.norm.kernel import load_some, softmax_row, store_some
from fastsedd_kernels.parallel import kernel

QUERY_BLOCK = 6 * ROWS
_NR = COLUMNS[np.dtype(np.float32)]
KEY_BLOCK = 288 // _NR * _NR
_ZERO = float32(0.0)
_LOWEST = float32(np.finfo(np.float32).min)

_HEADS = types.Array(float32, 4, "A", readonly=True)


@jit
def _pack_keys(keys: Any, panels: Any) -> None:
    """panels[p, d, j] = keys[p * NR + j, d], zero beyond the last key."""
    length, dim = keys.shape
    for key in range(panels.shape[0] * _NR):
        target = pointer(panels, key // _NR * dim * _NR + key % _NR)
        if key < length:
            source = pointer(keys[key], 0)
            for d in range(dim):
                target[d * _NR] = source[d]
        else:
            for d in range(dim):
                target[d * _NR] = _ZERO


@jit
def _pack_values(values: Any, panels: Any) -> None:
    """panels[p, j, d] = values[j, p * NR + d], zero beyond the head's width."""
    length, dim = values.shape
    for p in range(panels.shape[0]):
        for j in range(length):
            source = pointer(values[j], 0)
            target = pointer(panels, (p * length + j) * _NR)
            for d in range(0, _NR, LANES):
                store_vector(offset(target, d), load_some(offset(source, p * _NR + d), dim - p * _NR - d, _ZERO))


@jit
def _multiply_block(rows: int, depth: int, a: Any, lda: int, b: Any, b_stride: int, columns: int, c: Any, ldc: int,
                    accumulate: bool) -> None:  # fmt: skip
    """c[0:rows] (+)= a[0:rows, 0:depth] . b, over the panels of b's `columns`, which lie b_stride elements apart."""
    for panel in range(-(-columns // _NR)):
        vectors = -(-min(_NR, columns - panel * _NR) // LANES)
        for top in range(0, rows, ROWS):
            target = offset(c, top * ldc + panel * _NR)
            multiply_tile(
                min(ROWS, rows - top), vectors, depth, offset(a, top * lda), lda, offset(b, panel * b_stride), _NR,
                target, ldc, accumulate, target, ldc, b, 0, c, c, 0,
            )  # fmt: skip


@jit
def _fold_scores(scores: Any, keys: int, scale: Any, state: Any, sums: Any, width: int) -> None:
    """Turn a row of scores into weights under the running maximum, and rescale what was summed under the old one.

    state : [maximum, sum of weights] of the row so far; sums : the row's weighted sum of values so far, `width` long
    """
    total, highest = softmax_row(scores, keys, scale, scores)
    if state[1] == _ZERO:  # the first block
        state[0], state[1] = highest, total
        return
    maximum = max(state[0], highest)
    if highest < maximum:  # this block's weights are relative to its own, lower maximum
        factor = exp_scalar(highest - maximum)
        for j in range(0, keys, LANES):
            store_some(offset(scores, j), load_some(offset(scores, j), keys - j, _ZERO) * factor, keys - j)
        total *= factor
    if state[0] < maximum:
        factor = exp_scalar(state[0] - maximum)
        for j in range(0, width, LANES):
            store_vector(offset(sums, j), load_vector(offset(sums, j)) * factor)
        state[1] *= factor
    state[0] = maximum
    state[1] += total


@kernel(
    _HEADS, _HEADS, _HEADS, float32, types.boolean, types.Array(float32, 4, "A"), types.intp, types.intp,
    link=lambda: link_tile(float32),
)  # fmt: skip
def attend(task: int, q: Any, k: Any, v: Any, scale: Any, causal: bool, out: Any, shares: int, tasks: int) -> None:
    """The task's part of all runs of queries, `shares` to a head, with one set of scratch memory for all of them.

    q : [B, H, L, D], k and v : [B, H, S, D], rows contiguous
    """
    batch, heads, queries, dim = q.shape
    length = k.shape[2]
    key_panels = np.empty((-(-length // _NR), dim, _NR), np.float32)
    value_panels = np.empty((-(-dim // _NR), length, _NR), np.float32)
    scores = np.empty(
        (QUERY_BLOCK, KEY_BLOCK + LANES), np.float32
    )  # not a power of two apart: rows would share cache sets
    sums = np.empty((QUERY_BLOCK, value_panels.shape[0] * _NR), np.float32)
    state = np.empty((QUERY_BLOCK, 2), np.float32)
    runs = batch * heads * shares
    packed = -1
    for run in range(runs * task // tasks, runs * (task + 1) // tasks):
        head, share = run // shares, run % shares
        b, h = head // heads, head % heads
        if head != packed:
            _pack_keys(k[b, h], key_panels)
            _pack_values(v[b, h], value_panels)
            packed = head
        last = queries * (share + 1) // shares
        for begin in range(queries * share // shares, last, QUERY_BLOCK):
            rows = min(QUERY_BLOCK, last - begin)
            _attend_block(q[b, h], begin, rows, length, key_panels, value_panels, scale, causal, scores, sums, state)
            for r in range(rows):
                target = pointer(out[b, h, begin + r], 0)
                share_of = splat(float32(1.0) / state[r, 1])
                for d in range(0, dim, LANES):
                    store_some(offset(target, d), load_vector(pointer(sums, r * sums.shape[1] + d)) * share_of, dim - d)


@jit
def _attend_block(
    q: Any, begin: int, rows: int, length: int, key_panels: Any, value_panels: Any, scale: Any, causal: bool,
    scores: Any, sums: Any, state: Any,
) -> None:  # fmt: skip
    """sums[0:rows] and state[0:rows] for the queries from `begin` on, over all keys that they see."""
    dim = q.shape[1]
    lda, lds, ldc = q.strides[0] // q.itemsize, scores.shape[1], sums.shape[1]
    state[:, 0] = _LOWEST
    state[:, 1] = _ZERO
    visible = min(length, begin + rows) if causal else length
    for key in range(0, visible, KEY_BLOCK):
        keys = min(KEY_BLOCK, visible - key)
        _multiply_block(
            rows, dim, pointer(q[begin], 0), lda, pointer(key_panels, key * dim), dim * _NR,
            keys, pointer(scores, 0), lds, False,
        )  # fmt: skip
        for r in range(rows):
            seen = max(0, min(keys, begin + r + 1 - key)) if causal else keys
            if seen > 0:
                _fold_scores(pointer(scores, r * lds), seen, scale, state[r], pointer(sums, r * ldc), ldc)
            scores[r, seen:keys] = _ZERO
        _multiply_block(
            rows, keys, pointer(scores, 0), lds, pointer(value_panels, key * _NR), length * _NR,
            dim, pointer(sums, 0), ldc, key > 0,
        )  # fmt: skip
