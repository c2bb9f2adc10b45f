"""Rows of a table by index, with a second table's rows added by position."""

from __future__ import annotations

from typing import Any

from numba import float32, types

from fastsedd_kernels.runtime.kernel import kernel

_TABLE = types.Array(float32, 2, "C", readonly=True)


@kernel(types.Array(types.intp, 1, "C", readonly=True), _TABLE, _TABLE, types.intp, types.float32[:, ::1], types.intp)
def gather_rows(task: int, tokens: Any, table: Any, positions: Any, length: int, out: Any, tasks: int) -> None:
    """out[i] = table[tokens[i]] (+ positions[i % length], if that table has rows) for the task's share of i.

    tokens : intp [M], 0 to V - 1, checked by the caller; table : float32 [V, N]; positions : float32 [P, N], or empty
    out : float32 [M, N], apart from all; all contiguous
    """
    rows = tokens.size
    for i in range(rows * task // tasks, rows * (task + 1) // tasks):
        out[i] = table[tokens[i]]
        if positions.size > 0:
            out[i] += positions[i % length]
