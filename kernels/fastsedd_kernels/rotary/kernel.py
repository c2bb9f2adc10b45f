"""Rotation of rows by a table of angles, and, in the same pass, their RMS norm before it.

Registers of both members of as many pairs are loaded before either is stored, so a row may be rotated in place.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import float32, types

from fastsedd_kernels.norm.rates import MAX_ROWS, ROOM, factors_of, rates_of, rows_together
from fastsedd_kernels.runtime.jit import jit
from fastsedd_kernels.runtime.kernel import kernel
from fastsedd_kernels.runtime.machines import CACHE_LINE
from fastsedd_kernels.runtime.scalar import aligned, offset, pointer
from fastsedd_kernels.runtime.strided_rows import place_after, place_of, row_of, rows_from
from fastsedd_kernels.simd.vector import (
    LANES,
    even_lanes,
    interleaved_above,
    interleaved_below,
    load_first,
    load_vector,
    odd_lanes,
    store_first,
    store_vector,
)

_ZERO = float32(0.0)

_ROWS = types.Array(float32, 4, "A", readonly=True)
_POSITIONS = types.Array(types.intp, 4, "A", readonly=True)
_TABLE = types.Array(float32, 2, "C", readonly=True)
_VECTOR = types.Array(float32, 1, "C", readonly=True)


_LINE = CACHE_LINE // 4


class _Angles(NamedTuple):
    """The table's rows that `half` pairs of each row are turned by.

    positions : Run of one element each; cosines, sines : pointers to the table's first row
    """

    positions: Any
    cosines: Any
    sines: Any
    half: Any


class _Gain(NamedTuple):
    """Factors of rows that are normed first. rates : one for each row; factors : one for each element; pointers"""

    normed: Any
    rates: Any
    factors: Any


@jit
def _load(row: Any, j: int, gain: Any, rate: Any) -> Any:
    """A register of a row from j on, times rate * factors if it is to be normed."""
    value = load_vector(offset(row, j))
    return value * rate * load_vector(offset(gain.factors, j)) if gain.normed else value


@jit
def _load_first(row: Any, j: int, count: int, gain: Any, rate: Any) -> Any:
    """`_load` of which only `count` values exist."""
    value = load_first(offset(row, j), count, _ZERO)
    return value * rate * load_first(offset(gain.factors, j), count, _ZERO) if gain.normed else value


@jit
def _rotate_halves(rows: Any, count: int, angles: Any, gain: Any, targets: Any) -> None:
    """Pairs (i, half + i) of `count` rows of each Run, which may be one."""
    half = angles.half
    whole = half // LANES * LANES
    for r in range(count):
        row, target, rate = row_of(rows, r), row_of(targets, r), gain.rates[r]
        place = row_of(angles.positions, r)[0] * half
        cosines, sines = offset(angles.cosines, place), offset(angles.sines, place)
        for i in range(0, whole, LANES):
            first, second = _load(row, i, gain, rate), _load(row, half + i, gain, rate)
            cosine, sine = load_vector(offset(cosines, i)), load_vector(offset(sines, i))
            store_vector(offset(target, i), first * cosine - second * sine)
            store_vector(offset(target, half + i), second * cosine + first * sine)
        if whole < half:
            left = half - whole
            first = _load_first(row, whole, left, gain, rate)
            second = _load_first(row, half + whole, left, gain, rate)
            cosine = load_first(offset(cosines, whole), left, _ZERO)
            sine = load_first(offset(sines, whole), left, _ZERO)
            store_first(offset(target, whole), first * cosine - second * sine, left)
            store_first(offset(target, half + whole), second * cosine + first * sine, left)


@jit
def _rotate_neighbours(rows: Any, count: int, angles: Any, gain: Any, targets: Any) -> None:
    """Pairs (2 i, 2 i + 1) of `count` rows of each Run, which may be one."""
    half = angles.half
    whole = half // LANES * LANES
    for r in range(count):
        row, target, rate = row_of(rows, r), row_of(targets, r), gain.rates[r]
        place = row_of(angles.positions, r)[0] * half
        cosines, sines = offset(angles.cosines, place), offset(angles.sines, place)
        for i in range(0, whole, LANES):
            below = _load(row, 2 * i, gain, rate)
            above = _load(row, 2 * i + LANES, gain, rate)
            first, second = even_lanes(below, above), odd_lanes(below, above)
            cosine, sine = load_vector(offset(cosines, i)), load_vector(offset(sines, i))
            turned, beside = first * cosine - second * sine, second * cosine + first * sine
            store_vector(offset(target, 2 * i), interleaved_below(turned, beside))
            store_vector(offset(target, 2 * i + LANES), interleaved_above(turned, beside))
        if whole < half:
            low, high, left = 2 * whole, 2 * whole + LANES, half - whole
            below = _load_first(row, low, 2 * left, gain, rate)
            above = _load_first(row, high, 2 * left - LANES, gain, rate)
            first, second = even_lanes(below, above), odd_lanes(below, above)
            cosine = load_first(offset(cosines, whole), left, _ZERO)
            sine = load_first(offset(sines, whole), left, _ZERO)
            turned, beside = first * cosine - second * sine, second * cosine + first * sine
            store_first(offset(target, low), interleaved_below(turned, beside), 2 * left)
            store_first(offset(target, high), interleaved_above(turned, beside), 2 * left - LANES)


@jit
def _pass_on(rows: Any, count: int, first: int, width: int, gain: Any, targets: Any) -> None:
    """Elements from `first` on, which are not rotated, of `count` rows."""
    for r in range(count):
        row, target, rate = row_of(rows, r), row_of(targets, r), gain.rates[r]
        for j in range(first, width, LANES):
            if width - j >= LANES:
                store_vector(offset(target, j), _load(row, j, gain, rate))
            else:
                value = _load_first(row, j, width - j, gain, rate)
                store_first(offset(target, j), value, width - j)


@kernel(
    _ROWS, _POSITIONS, types.UniTuple(_TABLE, 2), types.Tuple((_VECTOR, float32, float32)), types.boolean,
    types.Array(float32, 4, "A"), types.intp,
)  # fmt: skip
def rotate_rows(
    task: int, x: Any, positions: Any, table: Any, norm: Any, interleaved: bool, out: Any, tasks: int
) -> None:
    """The first R elements of rows in pairs (a, b): out = (a cos - b sin, b cos + a sin), for the task's share of rows.

    x : float32 [A, B, C, N], elements of a row adjacent, rows anywhere; normed first where norm has a weight:
        x / sqrt(mean(x^2) + eps) * (weight + offset)
    positions : intp [A, B, C, 1], rows of the table, checked by the caller
    table : (cosines, sines), float32 [P, R / 2]; elements from R on are not rotated, R <= N
    norm : (weight float32 [N] or empty, offset, eps)
    interleaved : pairs are neighbours, (2 i, 2 i + 1); else (i, R / 2 + i)
    out : as x, may be x; the mean square is summed in float32
    """
    weight, added, eps = norm
    cosines, sines = table
    width, half, normed = x.shape[3], cosines.shape[1], weight.size > 0
    rows, together = x.shape[0] * x.shape[1] * x.shape[2], rows_together(x.shape[3])
    row, last = rows * task // tasks, rows * (task + 1) // tasks
    memory, rates = np.empty(ROOM + weight.size + _LINE, np.float32), np.empty(MAX_ROWS, np.float32)
    factors_of(weight, added, weight.size, offset(aligned(memory), ROOM))
    place = place_of(row, x.shape)
    while row < last:
        count = min(together, x.shape[2] - place[2], last - row)
        sources, targets, places = rows_from(x, place), rows_from(out, place), rows_from(positions, place)
        # In the loop, which keeps the memory alive.
        gain = _Gain(normed, pointer(rates, 0), offset(aligned(memory), ROOM))
        if normed:
            rates_of(sources, count, width, eps, aligned(memory), gain.rates)
        angles = _Angles(places, pointer(cosines, 0), pointer(sines, 0), half)
        if interleaved:
            _rotate_neighbours(sources, count, angles, gain, targets)
        else:
            _rotate_halves(sources, count, angles, gain, targets)
        if 2 * half < width:
            _pass_on(sources, count, 2 * half, width, gain, targets)
        row, place = row + count, place_after(place, count, x.shape)
