"""RMS norm of rows, whatever their strides: a row is read once and stays in the first-level cache."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import float32, types

from fastsedd_kernels.norm.rates import MAX_ROWS, NEAR, add_rows, factors_of, rates_of, rows_together
from fastsedd_kernels.runtime.jit import jit
from fastsedd_kernels.runtime.kernel import kernel
from fastsedd_kernels.runtime.machines import CACHE_LINE
from fastsedd_kernels.runtime.scalar import aligned, beyond, offset, pointer
from fastsedd_kernels.runtime.strided_rows import row_of, rows_after, rows_from, run_of_rows
from fastsedd_kernels.simd.vector import (
    LANES,
    load_first,
    load_vector,
    prefetch_l1,
    store_first,
    store_vector,
)

_ZERO = float32(0.0)
_LINE = CACHE_LINE // 4

_ROWS = types.Array(float32, 4, "A", readonly=True)
_OUT = types.Array(float32, 4, "A")
_VECTOR = types.Array(float32, 1, "C", readonly=True)


@jit
def _scale(rows: Any, rates: Any, count: int, width: int, ahead: int, targets: Any) -> None:
    """targets[i] = rows[i] * rates[i], `count` rows of each Run, which may be one.

    ahead : bytes from a row to one that is prefetched meanwhile
    """
    whole = width // LANES * LANES
    for i in range(count):
        row, target, rate = row_of(rows, i), row_of(targets, i), rates[i]
        following = beyond(row, ahead)
        for j in range(0, whole, LANES):
            prefetch_l1(offset(following, j))
            store_vector(offset(target, j), load_vector(offset(row, j)) * rate)
        if whole < width:
            left = width - whole
            store_first(offset(target, whole), load_first(offset(row, whole), left, _ZERO) * rate, left)


@jit
def _scale_and_weigh(rows: Any, rates: Any, count: int, width: int, factors: Any, ahead: int, targets: Any) -> None:
    """targets[i] = rows[i] * rates[i] * factors, as `_scale`. factors : pointer"""
    whole = width // LANES * LANES
    for i in range(count):
        row, target, rate = row_of(rows, i), row_of(targets, i), rates[i]
        following = beyond(row, ahead)
        for j in range(0, whole, LANES):
            prefetch_l1(offset(following, j))
            store_vector(offset(target, j), load_vector(offset(row, j)) * rate * load_vector(offset(factors, j)))
        if whole < width:
            left = width - whole
            value = load_first(offset(row, whole), left, _ZERO) * rate
            store_first(offset(target, whole), value * load_first(offset(factors, whole), left, _ZERO), left)


@kernel(types.UniTuple(_ROWS, 2), types.Tuple((_VECTOR, float32, float32)), _OUT, _OUT, types.intp)
def rms_norm_rows(task: int, terms: Any, gain: Any, sums: Any, out: Any, tasks: int) -> None:
    """out = s / sqrt(mean(s^2) + eps) * (weight + offset), s = x + residual, for the task's share of rows.

    terms : (x, residual), float32 [A, B, C, N]; gain : (weight float32 [N], offset, eps)
    sums : float32 [A, B, C, N], takes s, may be x or residual; where it is empty, out does on the way
    out : float32 [A, B, C, N], may be x or residual; elements of a row are adjacent, rows anywhere; an empty array
        means absent
    The mean square is summed in float32.
    """
    weight, added, eps = gain
    x, residual = terms
    width = x.shape[3]
    rows = x.shape[0] * x.shape[1] * x.shape[2]
    row, last = rows * task // tasks, rows * (task + 1) // tasks
    memory, kept = np.empty(weight.size + _LINE, np.float32), np.empty(MAX_ROWS, np.float32)
    factors, rates, together = aligned(memory), pointer(kept, 0), rows_together(width)
    factors_of(weight, added, factors)
    while row < last:
        a, b, c, count = run_of_rows(row, last, x.shape)
        sources, targets = rows_from(x, a, b, c), rows_from(out, a, b, c)
        others, totals = rows_from(residual, a, b, c), rows_from(sums, a, b, c)
        for first in range(0, count, together):
            some = min(together, count - first)
            read, written = rows_after(sources, first), rows_after(targets, first)
            if residual.size > 0:
                total = rows_after(totals, first) if sums.size > 0 else written
                add_rows(read, rows_after(others, first), some, width, total)
                read = total
            rates_of(read, some, width, eps, rates)
            follows = width <= NEAR and residual.size == 0 and first + some < count
            ahead = some * read.step if follows else 0
            if weight.size > 0:
                _scale_and_weigh(read, rates, some, width, factors, ahead, written)
            else:
                _scale(read, rates, some, width, ahead, written)
        row += count
