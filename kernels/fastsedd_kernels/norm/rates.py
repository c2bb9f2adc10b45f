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
from fastsedd_kernels.simd.folding import sums_of_registers
from fastsedd_kernels.simd.vector import (
    LANES,
    fma,
    load_some,
    load_vector,
    splat,
    square_root,
    store_some,
    store_vector,
    sum_lanes,
)

MAX_ROWS = 16  # whose rates are taken at a time

_ZERO, _ONE = float32(0.0), float32(1.0)
GROUP = 4 * LANES  # elements at a time
_NEAR = 2048  # elements of rows that are taken together: they, and what becomes of them, stay in the first-level cache
ROOM = MAX_ROWS * LANES  # elements of memory that `rates_of` needs


@jit
def rows_together(width: int) -> Any:
    """The number of rows of that width whose rates are taken at a time."""
    return max(1, min(MAX_ROWS, _NEAR // width))


@jit
def factors_of(weight: Any, added: Any, width: int, memory: Any) -> None:
    """memory = weight + added, or ones without a weight, from a pointer on, a cache line's edge: so these factors are
    loaded at full speed for every row."""
    for j in range(0, width, LANES):
        count = width - j
        value = splat(_ONE)
        if weight.size > 0:
            value = load_some(pointer(weight, j), count, _ZERO) + added
        store_some(offset(memory, j), value, count)


@jit
def no_squares() -> Any:
    """Sums of squares to begin with: one chain would wait for itself."""
    return splat(_ZERO), splat(_ZERO), splat(_ZERO), splat(_ZERO)


@jit
def add_squares(values: Any, sums: Any) -> Any:
    """The sums with the squares of four registers."""
    a, b, c, d = values
    first, second, third, fourth = sums
    return fma(a, a, first), fma(b, b, second), fma(c, c, third), fma(d, d, fourth)


@jit
def add_square(value: Any, sums: Any) -> Any:
    """The sums with the squares of one register: of a row's last elements, which fill no GROUP."""
    first, second, third, fourth = sums
    return fma(value, value, first), second, third, fourth


@jit
def load_group(place: Any) -> Any:
    """Four registers from a pointer on."""
    return (
        load_vector(place),
        load_vector(offset(place, LANES)),
        load_vector(offset(place, 2 * LANES)),
        load_vector(offset(place, 3 * LANES)),
    )


@jit
def store_group(values: Any, place: Any) -> None:
    """Four registers, to a pointer on."""
    a, b, c, d = values
    store_vector(place, a)
    store_vector(offset(place, LANES), b)
    store_vector(offset(place, 2 * LANES), c)
    store_vector(offset(place, 3 * LANES), d)


@jit
def _total(sums: Any) -> Any:
    first, second, third, fourth = sums
    return (first + second) + (third + fourth)


@jit
def rate_of(sums: Any, width: int, eps: Any) -> Any:
    """1 / sqrt(mean square + eps) from a row's sums of squares."""
    mean = sum_lanes(_total(sums)) * (_ONE / float32(width))
    return _ONE / float32(math.sqrt(mean + eps))


@jit
def rates_of(rows: Any, count: int, width: int, eps: Any, memory: Any, rates: Any) -> None:
    """rates[i] = 1 / sqrt(mean square of the i-th row + eps), as by `rate_of`, for `count` rows of a Run.

    memory : of ROOM elements; rates : of MAX_ROWS, those after `count` become anything; pointers
    """
    whole = width // GROUP * GROUP
    for i in range(count):
        row, sums = row_of(rows, i), no_squares()
        for j in range(0, whole, GROUP):
            sums = add_squares(load_group(offset(row, j)), sums)
        for j in range(whole, width, LANES):
            sums = add_square(load_some(offset(row, j), width - j, _ZERO), sums)
        store_vector(offset(memory, i * LANES), _total(sums))
    for i in range(0, count, LANES):
        means = sums_of_registers(offset(memory, i * LANES)) * (_ONE / float32(width))
        store_vector(offset(rates, i), _ONE / square_root(means + eps))
