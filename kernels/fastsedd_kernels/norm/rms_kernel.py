"""RMS norm of rows, whatever their strides, in one pass: while a row is scaled, the squares of the next are summed.

Memory is then read and written side by side, as in a copy. The sums are those of `rates_of`: a row's bits depend on the
row alone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import float32, types

from fastsedd_kernels.norm.rates import (
    GROUP,
    add_square,
    add_squares,
    factors_of,
    load_group,
    no_squares,
    rate_of,
    store_group,
)
from fastsedd_kernels.runtime.jit import jit
from fastsedd_kernels.runtime.kernel import kernel
from fastsedd_kernels.runtime.machines import CACHE_LINE
from fastsedd_kernels.runtime.scalar import aligned, offset
from fastsedd_kernels.runtime.strided_rows import place_after, place_of, row_of, rows_from
from fastsedd_kernels.simd.vector import LANES, load_some, store_some

_ZERO = float32(0.0)
_LINE = CACHE_LINE // 4

_ROWS = types.Array(float32, 4, "A", readonly=True)
_OUT = types.Array(float32, 4, "A")
_VECTOR = types.Array(float32, 1, "C", readonly=True)


class _Terms(NamedTuple):
    """Rows that are added up, and where their sums are written: Runs."""

    rows: Any
    others: Any
    sums: Any


class _Scaling(NamedTuple):
    """target = row * rate * factors: pointers, and the rate."""

    row: Any
    rate: Any
    factors: Any
    target: Any


@jit
def _advance(scaling: Any, terms: Any, i: int, adds: Any, width: int, eps: Any) -> Any:
    """Do the scaling; meanwhile sum up the i-th row of the terms. The rate of that row.

    scaling, terms : either may be None: what is not to be done; adds : None where sums of the terms are their rows
    """
    sums, whole = no_squares(), width // GROUP * GROUP
    if scaling is not None:
        done, rate, factors, target = scaling
    if terms is not None:
        row, other, total = row_of(terms.rows, i), row_of(terms.others, i), row_of(terms.sums, i)
    for j in range(0, whole, GROUP):
        if terms is not None:
            a, b, c, d = load_group(offset(row, j))
            if adds is not None:
                e, f, g, h = load_group(offset(other, j))
                a, b, c, d = a + e, b + f, c + g, d + h
                store_group((a, b, c, d), offset(total, j))
            sums = add_squares((a, b, c, d), sums)
        if scaling is not None:
            a, b, c, d = load_group(offset(done, j))
            e, f, g, h = load_group(offset(factors, j))
            store_group((a * rate * e, b * rate * f, c * rate * g, d * rate * h), offset(target, j))
    for j in range(whole, width, LANES):
        count = width - j
        if terms is not None:
            value = load_some(offset(row, j), count, _ZERO)
            if adds is not None:
                value = value + load_some(offset(other, j), count, _ZERO)
                store_some(offset(total, j), value, count)
            sums = add_square(value, sums)
        if scaling is not None:
            value = load_some(offset(done, j), count, _ZERO) * rate * load_some(offset(factors, j), count, _ZERO)
            store_some(offset(target, j), value, count)
    return rate_of(sums, width, eps)


@jit
def _norm_run(terms: Any, adds: Any, targets: Any, count: int, factors: Any, width: int, eps: Any) -> None:
    """targets = the norms of the terms' sums, `count` rows of each Run; adds : as for `_advance`"""
    rate = _advance(None, terms, 0, adds, width, eps)
    for i in range(count - 1):
        scaling = _Scaling(row_of(terms.sums, i), rate, factors, row_of(targets, i))
        rate = _advance(scaling, terms, i + 1, adds, width, eps)
    last = count - 1
    _advance(_Scaling(row_of(terms.sums, last), rate, factors, row_of(targets, last)), None, last, adds, width, eps)


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
    memory = np.empty(width + _LINE, np.float32)
    factors_of(weight, added, width, aligned(memory))
    place = place_of(row, x.shape)
    while row < last:
        factors = aligned(memory)  # in the loop, which keeps the memory alive
        count = min(x.shape[2] - place[2], last - row)
        sources, targets = rows_from(x, place), rows_from(out, place)
        if residual.size > 0:
            totals = rows_from(sums, place) if sums.size > 0 else targets
            terms_of_run = _Terms(sources, rows_from(residual, place), totals)
            _norm_run(terms_of_run, True, targets, count, factors, width, eps)
        else:
            _norm_run(_Terms(sources, sources, sources), None, targets, count, factors, width, eps)
        row, place = row + count, place_after(place, count, x.shape)
