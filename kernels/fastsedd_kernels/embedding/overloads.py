"""`embedding` inside njit functions; see `runtime/inside_numba`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.core.errors import TypingError

from fastsedd_kernels.embedding.api import embedding
from fastsedd_kernels.embedding.kernel import gather_rows
from fastsedd_kernels.runtime.inside_numba import caller, implements, or_empty, or_new, require, require_out

_gather = caller(gather_rows)


@implements(embedding)
def _embedding(tokens: Any, table: Any, positions: Any = None, out: Any = None) -> Any:
    if not isinstance(tokens, types.Array) or tokens.ndim != 1 or not isinstance(tokens.dtype, types.Integer):
        raise TypingError(f"tokens is {tokens}, must be integers of 1 dimension")
    require("table", table, (2,))
    require("positions", positions, (2,), optional=True)
    require_out(out, (2,))
    positions_of, target = or_empty(positions, 2), or_new(out, np.float32)

    def implementation(tokens: Any, table: Any, positions: Any = None, out: Any = None) -> Any:
        length, width = tokens.size, table.shape[1]
        result = target(out, (length, width))
        added = positions_of(positions)
        if added.size > 0 and (added.shape[0] < length or added.shape[1] != width):
            raise ValueError("positions must be [L or more, N]")
        for token in tokens:
            if token < 0 or token >= table.shape[0]:
                raise ValueError("tokens must be 0 to V - 1")
        if length > 0:
            one = np.intp(1)
            _gather(
                1, (tokens.astype(np.intp), np.ascontiguousarray(table), added, np.intp(length), result, one)
            )  # fmt: skip
        return result

    return implementation
