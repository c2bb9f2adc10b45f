"""RMS norm of rows, whatever their strides: a row is read once and stays in the first-level cache.

The mean square is taken in partial sums of registers, folded in a fixed order: a row's bits depend on the row alone.
"""

from __future__ import annotations

import math
from typing import Any

from numba import float32, types

from fastsedd_kernels.runtime.jit import jit
from fastsedd_kernels.runtime.kernel import kernel
from fastsedd_kernels.runtime.scalar import beyond, offset, pointer
from fastsedd_kernels.runtime.strided_rows import row_at, run_of_rows
from fastsedd_kernels.simd.vector import (
    LANES,
    fma,
    load_first,
    load_some,
    load_vector,
    splat,
    store_first,
    store_some,
    store_vector,
    sum_lanes,
)

_ZERO = float32(0.0)
_TOGETHER = 4 * LANES  # registers at a time: one chain of sums would wait for itself

_ROWS = types.Array(float32, 4, "A", readonly=True)
_OUT = types.Array(float32, 4, "A")
_VECTOR = types.Array(float32, 1, "C", readonly=True)


@jit
def rate_of(row: Any, width: int, eps: Any) -> Any:
    """1 / sqrt(mean square of a row + eps)"""
    whole = width // _TOGETHER * _TOGETHER
    first, second, third, fourth = splat(_ZERO), splat(_ZERO), splat(_ZERO), splat(_ZERO)
    for j in range(0, whole, _TOGETHER):
        a, b = load_vector(offset(row, j)), load_vector(offset(row, j + LANES))
        c, d = load_vector(offset(row, j + 2 * LANES)), load_vector(offset(row, j + 3 * LANES))
        first, second, third, fourth = fma(a, a, first), fma(b, b, second), fma(c, c, third), fma(d, d, fourth)
    for j in range(whole, width, LANES):
        value = load_some(offset(row, j), width - j, _ZERO)
        first = fma(value, value, first)
    mean = sum_lanes((first + second) + (third + fourth)) / float32(width)
    return float32(1.0) / float32(math.sqrt(mean + eps))


@jit
def _add_at(row: Any, other: Any, j: int, target: Any) -> Any:
    """A register of row + other from j on, which is also written to the target."""
    value = load_vector(offset(row, j)) + load_vector(offset(other, j))
    store_vector(offset(target, j), value)
    return value


@jit
def _rate_of_sum(row: Any, other: Any, width: int, eps: Any, target: Any) -> Any:
    """target = row + other, which may be either; `rate_of` it, to the last bit."""
    whole = width // _TOGETHER * _TOGETHER
    first, second, third, fourth = splat(_ZERO), splat(_ZERO), splat(_ZERO), splat(_ZERO)
    for j in range(0, whole, _TOGETHER):
        a, b = _add_at(row, other, j, target), _add_at(row, other, j + LANES, target)
        c, d = _add_at(row, other, j + 2 * LANES, target), _add_at(row, other, j + 3 * LANES, target)
        first, second, third, fourth = fma(a, a, first), fma(b, b, second), fma(c, c, third), fma(d, d, fourth)
    for j in range(whole, width, LANES):
        count = width - j
        value = load_some(offset(row, j), count, _ZERO) + load_some(offset(other, j), count, _ZERO)
        store_some(offset(target, j), value, count)
        first = fma(value, value, first)
    mean = sum_lanes((first + second) + (third + fourth)) / float32(width)
    return float32(1.0) / float32(math.sqrt(mean + eps))


@jit
def _scale(row: Any, width: int, rate: Any, weight: Any, weighted: bool, added: Any, target: Any) -> None:
    """target = row * rate * (weight + added), the factor in brackets only if `weighted`; target may be row."""
    whole = width // LANES * LANES
    if weighted:
        for j in range(0, whole, LANES):
            factor = load_vector(offset(weight, j)) + added
            store_vector(offset(target, j), load_vector(offset(row, j)) * rate * factor)
        if whole < width:
            count = width - whole
            factor = load_first(offset(weight, whole), count, _ZERO) + added
            store_first(offset(target, whole), load_first(offset(row, whole), count, _ZERO) * rate * factor, count)
    else:
        for j in range(0, width, LANES):
            store_some(offset(target, j), load_some(offset(row, j), width - j, _ZERO) * rate, width - j)


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
    width, weighted = x.shape[3], weight.size > 0
    rows = x.shape[0] * x.shape[1] * x.shape[2]
    row, last = rows * task // tasks, rows * (task + 1) // tasks
    while row < last:
        a, b, c, count = run_of_rows(row, last, x.shape)
        source, target = row_at(x, a, b, c), row_at(out, a, b, c)
        other, kept = row_at(residual, a, b, c), target
        step = out.strides[2]
        if sums.size > 0:
            kept, step = row_at(sums, a, b, c), sums.strides[2]
        for i in range(count):
            here, there = beyond(source, i * x.strides[2]), beyond(target, i * out.strides[2])
            if residual.size > 0:
                total = beyond(kept, i * step)
                rate = _rate_of_sum(here, beyond(other, i * residual.strides[2]), width, eps, total)
                here = total
            else:
                rate = rate_of(here, width, eps)
            _scale(here, width, rate, pointer(weight, 0), weighted, added, there)
        row += count
