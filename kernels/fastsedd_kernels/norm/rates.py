"""Rates of rows, 1 / sqrt(mean square + eps), for several rows at a time: their sums, roots and quotients overlap.

A mean square is taken in partial sums of registers, folded in a fixed order: a row's bits depend on the row alone.
"""

from __future__ import annotations

import math
from typing import Any

from numba import float32

from fastsedd_kernels.runtime.jit import jit
from fastsedd_kernels.runtime.scalar import offset, pointer
from fastsedd_kernels.runtime.strided_rows import row_of
from fastsedd_kernels.simd.vector import (
    LANES,
    fma,
    load_first,
    load_vector,
    splat,
    store_first,
    store_vector,
    sum_lanes,
)

MAX_ROWS = 16  # whose rates are taken at a time

_ZERO = float32(0.0)
_GROUP = 4 * LANES  # elements at a time: one chain of sums would wait for itself
NEAR = 2048  # elements of rows that are taken together: they, and what becomes of them, stay in the first-level cache


@jit
def rows_together(width: int) -> Any:
    """The number of rows of that width whose rates are taken at a time."""
    return max(1, min(MAX_ROWS, NEAR // width))


@jit
def factors_of(weight: Any, added: Any, memory: Any) -> None:
    """memory = weight + added, from a pointer on, a cache line's edge: so it is loaded at full speed for every row."""
    whole = weight.size // LANES * LANES
    for j in range(0, whole, LANES):
        store_vector(offset(memory, j), load_vector(pointer(weight, j)) + added)
    if whole < weight.size:
        count = weight.size - whole
        store_first(offset(memory, whole), load_first(pointer(weight, whole), count, _ZERO) + added, count)


@jit
def rates_of(rows: Any, count: int, width: int, eps: Any, rates: Any) -> None:
    """rates[i] = 1 / sqrt(mean square of the i-th row + eps), for `count` rows of a Run."""
    share = float32(1.0) / float32(width)
    whole, single = width // _GROUP * _GROUP, width // LANES * LANES
    for i in range(count):
        row = row_of(rows, i)
        first, second, third, fourth = splat(_ZERO), splat(_ZERO), splat(_ZERO), splat(_ZERO)
        for j in range(0, whole, _GROUP):
            a, b = load_vector(offset(row, j)), load_vector(offset(row, j + LANES))
            c, d = load_vector(offset(row, j + 2 * LANES)), load_vector(offset(row, j + 3 * LANES))
            first, second, third, fourth = fma(a, a, first), fma(b, b, second), fma(c, c, third), fma(d, d, fourth)
        for j in range(whole, single, LANES):
            value = load_vector(offset(row, j))
            first = fma(value, value, first)
        if single < width:
            value = load_first(offset(row, single), width - single, _ZERO)
            second = fma(value, value, second)
        mean = sum_lanes((first + second) + (third + fourth)) * share
        rates[i] = float32(1.0) / float32(math.sqrt(mean + eps))


@jit
def add_rows(rows: Any, others: Any, count: int, width: int, targets: Any) -> None:
    """targets = rows + others, `count` rows of each Run; targets may be either."""
    whole = width // LANES * LANES
    for i in range(count):
        row, other, target = row_of(rows, i), row_of(others, i), row_of(targets, i)
        for j in range(0, whole, LANES):
            store_vector(offset(target, j), load_vector(offset(row, j)) + load_vector(offset(other, j)))
        if whole < width:
            left = width - whole
            value = load_first(offset(row, whole), left, _ZERO) + load_first(offset(other, whole), left, _ZERO)
            store_first(offset(target, whole), value, left)
