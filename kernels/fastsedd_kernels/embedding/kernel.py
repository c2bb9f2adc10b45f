"""Rows of a table by index, with a second table's rows added by position."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import float32, types
from numpy.typing import ArrayLike, NDArray

from fastsedd_kernels.runtime.arrays import as_array, as_integers, check_apart, contiguous, output_like
from fastsedd_kernels.runtime.capture import run
from fastsedd_kernels.runtime.kernel import get_num_threads, kernel

_TABLE = types.Array(float32, 2, "C", readonly=True)
_ELEMENTS_A_TASK = 16384


@kernel(types.Array(types.intp, 1, "C", readonly=True), _TABLE, _TABLE, types.intp, types.float32[:, ::1], types.intp)
def gather_rows(task: int, tokens: Any, table: Any, positions: Any, length: int, out: Any, tasks: int) -> None:
    """out[i] = table[tokens[i]] (+ positions[i % length], if that table has rows) for the task's share of i."""
    rows = tokens.size
    for i in range(rows * task // tasks, rows * (task + 1) // tasks):
        out[i] = table[tokens[i]]
        if positions.size > 0:
            out[i] += positions[i % length]


def embedding(
    tokens: ArrayLike,
    table: ArrayLike,
    positions: ArrayLike | None = None,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """table[tokens], plus positions[0:L] where given.

    tokens : integers [..., L], 0 to V - 1; table : float32 [V, N]; positions : float32 [P, N], P >= L
    out : float32 [..., L, N], C-contiguous, overlapping none of them
    Raises ValueError for a token out of range, a wrong dtype or shape.
    """
    indices = as_integers("tokens", tokens)
    if indices.ndim == 0:
        raise ValueError(f"tokens is {indices.dtype} {indices.shape}, must be integers [..., L]")
    rows = contiguous(as_array("table", table))
    if rows.ndim != 2 or len(rows) == 0:
        raise ValueError(f"table has shape {rows.shape}, must be [V, N] with V at least 1")
    length = indices.shape[-1]
    added = np.empty((0, 0), np.float32)
    if positions is not None:
        added = contiguous(as_array("positions", positions))
        if added.ndim != 2 or added.shape[0] < length or added.shape[1] != rows.shape[1]:
            raise ValueError(f"positions has shape {added.shape}, must be [{length} or more, {rows.shape[1]}]")
    out = output_like("out", out, (*indices.shape, rows.shape[1]))
    if out.size == 0:
        return out
    check_apart(out, tokens=indices, table=rows, positions=added)
    run(_check_range, indices, len(rows))
    tasks = max(1, min(get_num_threads(), out.size // _ELEMENTS_A_TASK))
    flat = contiguous(indices, np.intp).reshape(-1)
    gather_rows(tasks, flat, rows, added, length, out.reshape(flat.size, -1), tasks)
    return out


def _check_range(indices: NDArray[Any], rows: int) -> None:
    least, most = int(indices.min()), int(indices.max())
    if least < 0 or most >= rows:
        raise ValueError(f"tokens has {least if least < 0 else most}, allowed are 0 to {rows - 1}")
