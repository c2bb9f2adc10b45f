"""Row-wise normalisations, one pass of memory each: a row is read once and stays in the first-level cache.

Sums run in LANES partial sums, folded in a fixed order, so a row's bits depend on the row alone.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import float32, types

from fastsedd_kernels.activation.vectors import exp
from fastsedd_kernels.runtime.jit import jit
from fastsedd_kernels.runtime.kernel import kernel
from fastsedd_kernels.runtime.scalar import offset, pointer
from fastsedd_kernels.simd.vector import (
    LANES,
    fma,
    load_first,
    load_some,
    load_vector,
    max_lanes,
    maximum,
    splat,
    store_first,
    store_some,
    store_vector,
    sum_lanes,
)

_ZERO = float32(0.0)
_LOWEST = float32(np.finfo(np.float32).min)
ELEMENTS_PER_TASK = 8192

_MATRIX = types.Array(float32, 2, "C", readonly=True)
_VECTOR = types.Array(float32, 1, "C", readonly=True)


@jit
def _mean_and_rate(row: Any, width: int, eps: Any) -> Any:
    """Mean and 1 / sqrt(variance + eps) of a row, in two passes: the squares are taken of what is left of the mean.

    Two registers at a time: one chain of sums would wait for itself.
    """
    paired = width // (2 * LANES) * (2 * LANES)
    total, other = splat(_ZERO), splat(_ZERO)
    for j in range(0, paired, 2 * LANES):
        total = total + load_vector(offset(row, j))
        other = other + load_vector(offset(row, j + LANES))
    for j in range(paired, width, LANES):
        total = total + load_some(offset(row, j), width - j, _ZERO)
    mean = sum_lanes(total + other) / float32(width)
    squares, beside = splat(_ZERO), splat(_ZERO)
    for j in range(0, paired, 2 * LANES):
        first, second = load_vector(offset(row, j)) - mean, load_vector(offset(row, j + LANES)) - mean
        squares, beside = fma(first, first, squares), fma(second, second, beside)
    for j in range(paired, width, LANES):
        centred = load_some(offset(row, j), width - j, mean) - mean
        squares = fma(centred, centred, squares)
    variance = sum_lanes(squares + beside) / float32(width)
    return mean, float32(1.0) / float32(math.sqrt(variance + eps))


@jit
def _add(row: Any, other: Any, width: int, target: Any) -> None:
    """target = row + other; target may be either."""
    for j in range(0, width, LANES):
        count = width - j
        value = load_some(offset(row, j), count, _ZERO) + load_some(offset(other, j), count, _ZERO)
        store_some(offset(target, j), value, count)


@kernel(
    types.UniTuple(_MATRIX, 2), types.Tuple((_VECTOR, _VECTOR, float32)), types.UniTuple(_MATRIX, 2),
    types.float32[:, ::1], types.float32[:, ::1], types.intp,
)  # fmt: skip
def layer_norm_rows(task: int, terms: Any, affine: Any, modulation: Any, sums: Any, out: Any, tasks: int) -> None:
    """out = ((s - mean) * rate * weight + bias) * (1 + scale) + shift, s = x + residual, for the task's share of rows.

    terms : (x, residual), float32 [M, N]
    affine : (weight float32 [N], bias float32 [N], eps), eps added to the variance
    modulation : (shift, scale), float32 [G, N], a row of each for every M / G rows of x
    sums : float32 [M, N], takes s, may be x or residual; where it is empty, out does on the way
    out : float32 [M, N], may be x or residual; all contiguous, an empty array means absent; sums are float32
    """
    weight, bias, eps = affine
    (x, residual), (shift, scale) = terms, modulation
    rows, width = x.shape
    rows_per_group = rows // shift.shape[0] if shift.size > 0 else 1
    one = splat(float32(1.0))
    for i in range(rows * task // tasks, rows * (task + 1) // tasks):
        source, target = pointer(x, i * width), pointer(out, i * width)
        group = i // rows_per_group * width
        if residual.size > 0:
            kept = pointer(sums, i * width) if sums.size > 0 else target
            _add(source, pointer(residual, i * width), width, kept)
            source = kept
        mean, rate = _mean_and_rate(source, width, eps)
        for j in range(0, width, LANES):
            count = width - j
            y = (load_some(offset(source, j), count, _ZERO) - mean) * rate
            if weight.size > 0:
                y = y * load_some(pointer(weight, j), count, _ZERO)
            if bias.size > 0:
                y = y + load_some(pointer(bias, j), count, _ZERO)
            if shift.size > 0:
                factor = load_some(pointer(scale, group + j), count, _ZERO) + one
                y = fma(y, factor, load_some(pointer(shift, group + j), count, _ZERO))
            store_some(offset(target, j), y, count)


@jit
def highest(row: Any, width: int) -> Any:
    """The greatest value of a row. Two registers at a time, as in `_mean_and_rate`."""
    top, other = splat(_LOWEST), splat(_LOWEST)
    paired = width // (2 * LANES) * (2 * LANES)
    for j in range(0, paired, 2 * LANES):
        top = maximum(load_vector(offset(row, j)), top)
        other = maximum(load_vector(offset(row, j + LANES)), other)
    for j in range(paired, width, LANES):
        top = maximum(load_some(offset(row, j), width - j, _LOWEST), top)
    return max_lanes(maximum(top, other))


@jit
def _exponentials(row: Any, width: int, target: Any) -> Any:
    """target = exp(row - its maximum); their sum. Two registers at a time, as in `highest`."""
    paired = width // (2 * LANES) * (2 * LANES)
    top = splat(highest(row, width))
    total, other = splat(_ZERO), splat(_ZERO)
    for j in range(0, paired, 2 * LANES):
        value = exp(load_vector(offset(row, j)) - top)
        beside = exp(load_vector(offset(row, j + LANES)) - top)
        total = total + value
        other = other + beside
        store_vector(offset(target, j), value)
        store_vector(offset(target, j + LANES), beside)
    for j in range(paired, width, LANES):
        count = width - j
        value = exp(load_first(offset(row, j), count, _ZERO) - top)
        store_first(offset(target, j), value, count)
        total = total + load_first(offset(target, j), count, _ZERO)
    return sum_lanes(total + other)


@kernel(_MATRIX, types.float32[:, ::1], types.intp)
def softmax_rows(task: int, x: Any, out: Any, tasks: int) -> None:
    """out = softmax of each of the task's rows. x, out : float32 [M, N], contiguous; out may be x; sums are float32."""
    rows, width = x.shape
    for i in range(rows * task // tasks, rows * (task + 1) // tasks):
        target = pointer(out, i * width)
        total = _exponentials(pointer(x, i * width), width, target)
        for j in range(0, width, LANES):
            count = width - j
            store_some(offset(target, j), load_some(offset(target, j), count, _ZERO) / total, count)
