"""Rows of A as the micro-kernel reads them, copied where they cannot be read as they lie: apart, or as short words.

    float32, float64   the same values
    bfloat16           rounded to nearest even; two to a word
    int8               a row's values times 127 / its largest magnitude, rounded, plus 128: four to a word. What brings
                       them back is kept beside them, a factor a row; a row with a NaN or an infinity becomes NaN.

Words beyond the last element are zero in bfloat16, and meet zeros of B in int8.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import float32, int32, types, uint32
from numba.extending import overload

from fastsedd_kernels.gemm.dot_products import unit_of
from fastsedd_kernels.runtime.cpu import Unit
from fastsedd_kernels.runtime.jit import OVERLOAD, jit
from fastsedd_kernels.runtime.scalar import offset, pointer
from fastsedd_kernels.simd.narrow import store_bfloat16, store_bytes
from fastsedd_kernels.simd.vector import LANES, absolute, fma, load_some, max_lanes, maximum, splat, sum_lanes

SIDE = 16  # rows of a tile register, and words in a row
_ZERO = float32(0.0)
_MOST = float32(127.0)
ZERO_POINT = 128  # what stands for 0 among the unsigned bytes of A
_TO_BYTE = float32(1.5 * 2**23 + ZERO_POINT)  # added, it leaves the rounded value in the lowest byte of the bits


def whole_words(elements: int, element: Any) -> int:
    """How many words (or floats) of that kind a row of so many elements takes: whole registers of elements, and whole
    rows of tile registers where those multiply."""
    count, whole = _granularity(element)
    return -(-elements // whole) * whole // count


def _granularity(element: Any) -> tuple[int, int]:
    """(elements in a word, elements that a row is a multiple of)"""
    count = {uint32: 2, int32: 4}.get(element, 1)
    if count == 1:
        return 1, 1
    return count, count * SIDE if unit_of(element) is Unit.AMX else LANES


def words_of(elements: int, b: Any) -> int:
    """`whole_words` in a kernel, of the kind that `b` points to."""
    raise NotImplementedError("for kernels only")


@overload(words_of, **OVERLOAD)  # type: ignore[untyped-decorator]
def _words_of(elements: Any, b: Any) -> Any:
    count, whole = _granularity(b.dtype)
    return lambda elements, b: -(-elements // whole) * whole // count


def elements_a_word(b: Any) -> int:
    """How many numbers are in an element of what `b` points to: a constant."""
    raise NotImplementedError("for kernels only")


@overload(elements_a_word, **OVERLOAD)  # type: ignore[untyped-decorator]
def _elements_a_word(b: Any) -> Any:
    count, _ = _granularity(b.dtype)
    return lambda b: count


def take_rows(x: Any, row: int, rows: int, stride: int, copy: Any, factors: Any, tiled: bool) -> None:
    """copy[r * stride + k] = x[row + r, k] for 0 <= r < rows, in the elements that `copy` points to.

    x : rows of adjacent elements, unless it is copied as it is; factors : float32 [rows], of int8 only
    tiled : words are in the order of tile registers instead (`place_of_word`)
    """
    raise NotImplementedError("for kernels only")


@overload(take_rows, **OVERLOAD)  # type: ignore[untyped-decorator]
def _take_rows(x: Any, row: Any, rows: Any, stride: Any, copy: Any, factors: Any, tiled: Any) -> Any:
    return {uint32: _round_rows, int32: _quantise_rows}.get(copy.dtype, _copy_rows)


def _copy_rows(x: Any, row: int, rows: int, stride: int, copy: Any, factors: Any, tiled: bool) -> None:
    step = x.strides[1] // x.itemsize
    for r in range(rows):
        source, target = pointer(x[row + r], 0), offset(copy, r * stride)
        if step == 1:
            for k in range(x.shape[1]):
                target[k] = source[k]
        else:
            for k in range(x.shape[1]):
                target[k] = source[k * step]


@jit
def place_of_word(r: int, word: int, stride: int, tiled: bool) -> Any:
    """Where row r has its words from that one on; tiled : one tile of SIDE rows and words after the other, along k."""
    if tiled:
        return r // SIDE * SIDE * stride + word // SIDE * SIDE * SIDE + r % SIDE * SIDE + word % SIDE
    return r * stride + word


def _round_rows(x: Any, row: int, rows: int, stride: int, copy: Any, factors: Any, tiled: bool) -> None:
    depth = x.shape[1]
    for r in range(rows):
        source = pointer(x[row + r], 0)
        for k in range(0, depth, LANES):
            value = load_some(offset(source, k), depth - k, _ZERO)
            store_bfloat16(value, offset(copy, place_of_word(r, k // 2, stride, tiled)))
        for word in range(-(-depth // LANES) * (LANES // 2), stride):
            copy[place_of_word(r, word, stride, tiled)] = 0


def _quantise_rows(x: Any, row: int, rows: int, stride: int, copy: Any, factors: Any, tiled: bool) -> None:
    depth = x.shape[1]
    for r in range(rows):
        source = pointer(x[row + r], 0)
        largest, unusual = splat(_ZERO), splat(_ZERO)
        for k in range(0, depth, LANES):
            value = load_some(offset(source, k), depth - k, _ZERO)
            largest, unusual = maximum(absolute(value), largest), fma(value, splat(_ZERO), unusual)
        magnitude = max_lanes(largest)
        factors[r] = magnitude / _MOST + sum_lanes(unusual)
        scale = splat(_MOST / magnitude if magnitude > _ZERO else _ZERO)
        for k in range(0, depth, LANES):
            value = fma(load_some(offset(source, k), depth - k, _ZERO), scale, splat(_TO_BYTE))
            store_bytes(value, offset(copy, place_of_word(r, k // 4, stride, tiled)))


def new_sums(b: Any, count: int) -> Any:
    """Scratch memory for that many sums of products with what `b` points to."""
    raise NotImplementedError("for kernels only")


@overload(new_sums, **OVERLOAD)  # type: ignore[untyped-decorator]
def _new_sums(b: Any, count: Any) -> Any:
    if b.dtype == int32:
        return lambda b, count: np.empty(count, np.int32)
    if b.dtype == types.float64:
        return lambda b, count: np.empty(count, np.float64)
    return lambda b, count: np.empty(count, np.float32)


def is_read_in_place(x: Any, panels: Any) -> bool:
    """Whether A's elements are those of the panels, so that its rows may be read where they lie: a constant."""
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
