"""`embedding`: arguments checked and flattened, then one call down."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastsedd_kernels.embedding.kernel import gather_rows
from fastsedd_kernels.runtime.arrays import as_array, as_integers, check_apart, contiguous, output_like
from fastsedd_kernels.runtime.capture import run
from fastsedd_kernels.runtime.threads import get_num_threads

_ELEMENTS_PER_TASK = 16384
_NO_POSITIONS = np.empty((0, 0), np.float32)


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
    added = _NO_POSITIONS
    if positions is not None:
        added = contiguous(as_array("positions", positions))
        if added.ndim != 2 or added.shape[0] < length or added.shape[1] != rows.shape[1]:
            raise ValueError(f"positions has shape {added.shape}, must be [{length} or more, {rows.shape[1]}]")
    out = output_like("out", out, (*indices.shape, rows.shape[1]))
    if out.size == 0:
        return out
    check_apart(out, tokens=indices, table=rows, positions=added)
    run(_check_range, indices, len(rows))
    tasks = max(1, min(get_num_threads(), out.size // _ELEMENTS_PER_TASK))
    flat = contiguous(indices, np.intp).reshape(-1)
    gather_rows(tasks, flat, rows, added, length, out.reshape(flat.size, -1), tasks)
    return out


def _check_range(indices: NDArray[Any], rows: int) -> None:
    least, most = int(indices.min()), int(indices.max())
    if least < 0 or most >= rows:
        raise ValueError(f"tokens has {least if least < 0 else most}, allowed: 0 to {rows - 1}")
