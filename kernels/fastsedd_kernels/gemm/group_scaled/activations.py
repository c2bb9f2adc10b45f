"""Rows of x as the micro-kernel reads them: bytes with a sign, in blocks that share a scale.

    bytes[k] = round(x[k] * 127 / largest)       largest : of |x| in the block of 128 inputs
    a record of a group, 11 words :  32 bytes | start | sum | scale        a row : its groups, one after the other
    start = - zero * sum of bytes, int32         sum : of bytes, float32        scale = largest / 127, float32

`zero` is what B's codes have too much (`storage`). Inputs beyond the last are 0. A block that holds a NaN or an
infinity has NaN for a scale, and the row's results are NaN throughout. On a CPU
without FMA a product is rounded before it is rounded to a whole number: what is nearly a tie may fall the other way.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import float32

from fastsedd_kernels.gemm.group_scaled.microkernel import GROUP, GROUPS_PER_BLOCK, SCALE, START, STEP, SUM
from fastsedd_kernels.gemm.pack_a import LEAST_MAGNITUDE
from fastsedd_kernels.runtime.jit import jit
from fastsedd_kernels.runtime.scalar import offset, pointer
from fastsedd_kernels.simd.narrow import as_float32, store_bytes
from fastsedd_kernels.simd.vector import (
    LANES,
    absolute,
    copy_padded,
    fma,
    load_vector,
    max_lanes,
    maximum,
    splat,
    sum_lanes,
)

_BLOCK = GROUPS_PER_BLOCK * GROUP
_ZERO = float32(0.0)
_MAX_BYTE = float32(127.0)
_TO_BYTE = float32(1.5 * 2**23)  # added, it leaves the rounded value in the lowest byte of the bits


@jit
def quantise_rows(x: Any, row: int, rows: int, groups: int, zero: int, records: Any) -> None:
    """Write the records of x[row : row + rows], of so many groups, from the int32 pointer `records` on.

    x : float32, rows of adjacent elements
    """
    memory = np.empty(_BLOCK, np.float32)
    whole = x.shape[1] // _BLOCK * GROUPS_PER_BLOCK
    for r in range(rows):
        edge = pointer(memory, 0)
        source, target = pointer(x[row + r], 0), offset(records, r * groups * STEP)
        for first in range(0, whole, GROUPS_PER_BLOCK):
            _quantise_block(offset(source, first * GROUP), GROUPS_PER_BLOCK, zero, offset(target, first * STEP))
        if whole < groups:
            copy_padded(offset(source, whole * GROUP), 0, 1, x.shape[1] - whole * GROUP, edge, _BLOCK)
            _quantise_block(edge, groups - whole, zero, offset(target, whole * STEP))


@jit
def _quantise_block(values: Any, groups: int, zero: int, records: Any) -> None:
    """The records of a block, of which so many groups exist; all of its values do."""
    largest, unusual = splat(_ZERO), splat(_ZERO)
    for k in range(0, _BLOCK, LANES):
        value = load_vector(offset(values, k))
        largest, unusual = maximum(absolute(value), largest), fma(value, splat(_ZERO), unusual)
    magnitude = max_lanes(largest)
    scale = splat(_MAX_BYTE / magnitude if magnitude > LEAST_MAGNITUDE else _ZERO)
    step = magnitude / _MAX_BYTE + sum_lanes(unusual)
    for g in range(groups):
        record, total = offset(records, g * STEP), splat(_ZERO)
        for k in range(0, GROUP, LANES):
            shifted = fma(load_vector(offset(values, g * GROUP + k)), scale, splat(_TO_BYTE))
            store_bytes(shifted, offset(record, k // 4))
            total = total + (shifted - splat(_TO_BYTE))
        floats = as_float32(record)
        floats[SUM] = sum_lanes(total)
        floats[SCALE] = step
        record[START] = -zero * np.int32(floats[SUM])
