"""What a draw needs to know of a tile of logits, taken while it is in the first-level cache; the tile is not kept.

    highest = max_j l_j        mass = sum_j e^(l_j - highest)        sharpened = sum_j e^(k (l_j - highest))

Of each row and each panel (NR columns), over the columns j but the row's own. Two numbers a panel are enough to choose
one, and a chosen panel's logits are a dot product each to compute again (`sampling.head`).
    out : float32 [M, 2 P] or [M, 3 P]; of a row, first `highest` of all P panels, then `mass`, then `sharpened`
The sums are float32, of NR terms in a fixed order: a row's bits depend on the row alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import float32

from fastsedd_kernels.activation.kernel import exp
from fastsedd_kernels.norm.kernel import highest
from fastsedd_kernels.runtime.jit import jit
from fastsedd_kernels.runtime.scalar import offset
from fastsedd_kernels.simd.vector import LANES, load_some, splat, sum_lanes

_ZERO = float32(0.0)
_NOTHING = float32(-np.inf)
SHARPNESS = 4  # its place in the law of a draw (`sampling.api.Law`)


@jit
def _sum_exponentials(row: Any, columns: int, top: Any, sharpness: Any) -> Any:
    total = splat(_ZERO)
    for j in range(0, columns, LANES):
        value = exp((load_some(offset(row, j), columns - j, _NOTHING) - top) * sharpness)
        total = total + value
    return sum_lanes(total)


# `parts` is (bias [N] or empty, columns of C, current [M], law, whether `sharpened` is wanted); current : int32, a
# row's own column, or one that is none of C's.
def sum_tile(
    tile: Any, stride: int, rows: int, first_row: int, columns: int, first_column: int, factors: Any, parts: Any,
    out: Any,
) -> None:  # fmt: skip
    """`finish_tile` of a draw."""
    current, sharpen = parts[2], parts[4]
    sharpness = float32(parts[3][SHARPNESS])
    panels, panel = out.shape[1] // (3 if sharpen else 2), first_column // stride
    for r in range(rows):
        row = offset(tile, r * stride)
        own = current[first_row + r] - first_column
        if 0 <= own < columns:
            row[own] = _NOTHING
        top = highest(row, columns)
        out[first_row + r, panel] = top
        out[first_row + r, panels + panel] = _sum_exponentials(row, columns, top, float32(1.0))
        if sharpen:
            out[first_row + r, 2 * panels + panel] = _sum_exponentials(row, columns, top, sharpness)
