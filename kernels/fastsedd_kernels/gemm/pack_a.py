"""Rows of A as the micro-kernel reads them: copied where they cannot be read as they lie, rounded to narrow words.

    float32, float64   the same values
    bfloat16           rounded to nearest even; two to a word, or kept as float32 (`layout`)
    int8               a row's values times 127 / its largest magnitude, rounded, plus ZERO_POINT: four to a word. What
                       brings them back is kept beside them, a factor per row; a row with a NaN or an infinity becomes
                       NaN.

Words beyond the last element are zero in bfloat16, and meet zeros of B in int8.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import float32, int32, types, uint32
from numba.extending import overload

from fastsedd_kernels.gemm.dot_products import ZERO_POINT
from fastsedd_kernels.gemm.layout import elements_of_a, place_of_word
from fastsedd_kernels.runtime.jit import OVERLOAD
from fastsedd_kernels.runtime.scalar import offset, pointer
from fastsedd_kernels.simd.narrow import as_float32, round_to_bfloat16, store_bfloat16, store_bytes
from fastsedd_kernels.simd.vector import (
    LANES,
    absolute,
    fma,
    load_some,
    max_lanes,
    maximum,
    splat,
    store_vector,
    sum_lanes,
)

_ZERO = float32(0.0)
_MAX_BYTE = float32(127.0)
LEAST_MAGNITUDE = float32(1e-36)  # of rows or blocks: below it, 127 / it may overflow, and they count as 0
_TO_BYTE = float32(1.5 * 2**23 + ZERO_POINT)  # added, it leaves the rounded value in the lowest byte of the bits


def take_rows(x: Any, row: int, rows: int, copy: Any, factors: Any, blocked: bool) -> None:
    """copy[r, k] = x[row + r, k] for 0 <= r < rows, in the elements that the copy consists of.

    x : rows of adjacent elements, unless it is copied as it is
    copy : Rows; blocked : its words are in A's `layout`, else row by row
    factors : float32 [rows], written for int8 only
    """
    raise NotImplementedError("for kernels only")


@overload(take_rows, **OVERLOAD)  # type: ignore[untyped-decorator]
def _take_rows(x: Any, row: Any, rows: Any, copy: Any, factors: Any, blocked: Any) -> Any:
    return {uint32: _round_rows, int32: _quantise_rows}.get(copy.types[0].dtype, _copy_rows)


def _copy_rows(x: Any, row: int, rows: int, copy: Any, factors: Any, blocked: bool) -> None:
    """The same values; adjacent elements of x need not be adjacent in memory."""
    step = x.strides[1] // x.itemsize
    for r in range(rows):
        source, target = pointer(x[row + r], 0), offset(copy.pointer, r * copy.stride)
        if step == 1:
            for k in range(x.shape[1]):
                target[k] = source[k]
        else:
            for k in range(x.shape[1]):
                target[k] = source[k * step]


def _round_rows(x: Any, row: int, rows: int, copy: Any, factors: Any, blocked: bool) -> None:
    """float32 to bfloat16, rounded to nearest even, two to a word; zeros up to the row's stride.

    Or, blocked, to float32 of the same values, where a word is two elements of A.
    """
    depth, words = x.shape[1], copy.pointer
    if blocked and elements_of_a(words) == 2:
        for r in range(rows):
            source, target = pointer(x[row + r], 0), as_float32(offset(words, r * copy.stride))
            for k in range(0, depth, LANES):
                store_vector(offset(target, k), round_to_bfloat16(load_some(offset(source, k), depth - k, _ZERO)))
            for k in range(-(-depth // LANES) * LANES, copy.stride):
                target[k] = _ZERO
        return
    for r in range(rows):
        source = pointer(x[row + r], 0)
        for k in range(0, depth, LANES):
            value = load_some(offset(source, k), depth - k, _ZERO)
            store_bfloat16(value, offset(words, place_of_word(r, k // 2, copy.stride, blocked, words)))
        for word in range(-(-depth // LANES) * (LANES // 2), copy.stride):
            words[place_of_word(r, word, copy.stride, blocked, words)] = 0


def _quantise_rows(x: Any, row: int, rows: int, copy: Any, factors: Any, blocked: bool) -> None:
    """float32 to bytes in steps of factors[r], a 127th of the row's largest magnitude, plus ZERO_POINT."""
    depth, words = x.shape[1], copy.pointer
    for r in range(rows):
        source = pointer(x[row + r], 0)
        largest, unusual = splat(_ZERO), splat(_ZERO)
        for k in range(0, depth, LANES):
            value = load_some(offset(source, k), depth - k, _ZERO)
            largest, unusual = maximum(absolute(value), largest), fma(value, splat(_ZERO), unusual)
        magnitude = max_lanes(largest)
        factors[r] = magnitude / _MAX_BYTE + sum_lanes(unusual)
        scale = splat(_MAX_BYTE / magnitude if magnitude > LEAST_MAGNITUDE else _ZERO)
        for k in range(0, depth, LANES):
            value = fma(load_some(offset(source, k), depth - k, _ZERO), scale, splat(_TO_BYTE))
            store_bytes(value, offset(words, place_of_word(r, k // 4, copy.stride, blocked, words)))


def new_sums(b: Any, count: int) -> Any:
    """Scratch memory for `count` sums of products with what `b` points to."""
    raise NotImplementedError("for kernels only")


@overload(new_sums, **OVERLOAD)  # type: ignore[untyped-decorator]
def _new_sums(b: Any, count: Any) -> Any:
    if b.dtype == int32:
        return lambda b, count: np.empty(count, np.int32)
    if b.dtype == types.float64:
        return lambda b, count: np.empty(count, np.float64)
    return lambda b, count: np.empty(count, np.float32)


def is_read_in_place(x: Any, panels: Any) -> bool:
    """True if A's elements are those of the panels, so that its rows may be read where they lie: a constant."""
    raise NotImplementedError("for kernels only")


@overload(is_read_in_place, **OVERLOAD)  # type: ignore[untyped-decorator]
def _is_read_in_place(x: Any, panels: Any) -> Any:
    if x.dtype == panels.dtype:
        return lambda x, panels: True
    return lambda x, panels: False


def rows_in_place(x: Any, first: int, copy: Any) -> Any:
    """Pointer to A's elements from that one on, where they may be read in place, else to the copy."""
    raise NotImplementedError("for kernels only")


@overload(rows_in_place, **OVERLOAD)  # type: ignore[untyped-decorator]
def _rows_in_place(x: Any, first: Any, copy: Any) -> Any:
    if x.dtype == copy.dtype:
        return lambda x, first, copy: pointer(x, first)
    return lambda x, first, copy: pointer(copy, 0)
