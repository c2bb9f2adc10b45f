"""The epilogue of a draw: sums of a tile of logits, taken while it is in the first-level cache; the tile is not kept.

    highest = max_j l_j        mass = sum_j e^(l_j - highest)        sharpened = sum_j e^(k (l_j - highest))

They are taken per row and panel (NR columns), over the columns j but the row's own. They are enough to choose a panel,
and a chosen panel's logits are a dot product each to compute again (`sampling.fused_head`).
    out : float32 [M, 2 P] or [M, 3 P]; of a row, first `highest` of all P panels, then `mass`, then `sharpened`
The sums are float32, of NR terms in a fixed order: a row's bits depend on the row alone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import float32

from fastsedd_kernels.activation.vectors import exp
from fastsedd_kernels.norm.kernel import highest
from fastsedd_kernels.runtime.jit import jit
from fastsedd_kernels.runtime.scalar import offset
from fastsedd_kernels.simd.vector import LANES, load_some, splat, sum_lanes

_ZERO = float32(0.0)
_LOWEST = float32(-np.inf)
_LEAST = float32(np.finfo(np.float32).tiny)  # sharpness, so that it leaves minus infinity what it is


class DrawEpilogue(NamedTuple):
    """bias : float32 [N] or empty; columns : of C; current : int32 [M], a row's own column, or one that is not C's;
    sharpness : float64 [1], k, read when the kernel runs; sharpen : whether `sharpened` is wanted"""

    bias: Any
    columns: Any
    current: Any
    sharpness: Any
    sharpen: Any


@jit
def _sum_exponentials(row: Any, columns: int, top: Any, sharpness: Any) -> Any:
    total = splat(_ZERO)
    for j in range(0, columns, LANES):
        value = exp((load_some(offset(row, j), columns - j, _LOWEST) - top) * sharpness)
        total = total + value
    return sum_lanes(total)


def sum_tile(tile: Any, epilogue: Any, out: Any) -> None:
    """`finish_tile` of a draw: the tile's sums, written to out; the tile loses its rows' own columns."""
    sharpness = max(float32(epilogue.sharpness[0]), _LEAST)
    panels, panel = out.shape[1] // (3 if epilogue.sharpen else 2), tile.first_column // tile.sums.stride
    for r in range(tile.rows):
        i = tile.first_row + r
        row = offset(tile.sums.pointer, r * tile.sums.stride)
        own = epilogue.current[i] - tile.first_column
        if 0 <= own < tile.columns:
            row[own] = _LOWEST
        top = highest(row, tile.columns)
        out[i, panel] = top
        out[i, panels + panel] = _sum_exponentials(row, tile.columns, top, float32(1.0))
        if epilogue.sharpen:
            out[i, 2 * panels + panel] = _sum_exponentials(row, tile.columns, top, sharpness)
