"""Rows of a table by index, with a second table's rows added by position."""

from __future__ import annotations

from typing import Any

from numba import float32, types

from fastsedd_kernels.runtime.kernel import kernel
from fastsedd_kernels.runtime.scalar import offset, pointer
from fastsedd_kernels.simd.vector import LANES, load_some, store_some

_ZERO = float32(0.0)
_TABLE = types.Array(float32, 2, "C", readonly=True)


@kernel(types.Array(types.intp, 1, "C", readonly=True), _TABLE, _TABLE, types.intp, types.float32[:, ::1], types.intp)
def gather_rows(task: int, tokens: Any, table: Any, positions: Any, length: int, out: Any, tasks: int) -> None:
    """out[i] = table[tokens[i]] (+ positions[i % length], if that table has rows) for the task's share of i.

    tokens : intp [M], 0 to V - 1, checked by the caller; table : float32 [V, N]; positions : float32 [P, N], or empty
    out : float32 [M, N], apart from all; all contiguous
    """
    rows, width = tokens.size, table.shape[1]
    for i in range(rows * task // tasks, rows * (task + 1) // tasks):
        source, target = pointer(table, tokens[i] * width), pointer(out, i * width)
        added = pointer(positions, i % length * width)
        for j in range(0, width, LANES):
            value = load_some(offset(source, j), width - j, _ZERO)
            if positions.size > 0:
                value = value + load_some(offset(added, j), width - j, _ZERO)
            store_some(offset(target, j), value, width - j)
