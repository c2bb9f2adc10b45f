"""`rotary` inside njit functions; see `runtime/inside_numba`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import types
from numba.core.errors import TypingError
from numba.extending import register_jitable

from fastsedd_kernels.rotary.api import rotary
from fastsedd_kernels.rotary.kernel import rotate_rows
from fastsedd_kernels.runtime.inside_numba import caller, implements, is_absent, or_empty, or_new, require

_rotate = caller(rotate_rows)


def _angles(table: Any) -> Any:
    """An njit function of (table, length, dim, base): cosines and sines."""
    if not is_absent(table):
        if not isinstance(table, types.BaseTuple) or len(table) != 2:
            raise TypingError(f"table is {table}, must be what rotary_table returns")
        for part in table:
            require("table", part, (2,))

        @register_jitable
        def given(table: Any, length: int, dim: int, base: float) -> Any:
            cosines, sines = np.ascontiguousarray(table[0]), np.ascontiguousarray(table[1])
            if cosines.shape != sines.shape or cosines.size == 0 or 2 * cosines.shape[1] > dim:
                raise ValueError("table must be [positions, width / 2], and the width no more than dim")
            return cosines, sines

        return given

    @register_jitable
    def made(table: Any, length: int, dim: int, base: float) -> Any:
        cosines, sines = np.empty((length, dim // 2), np.float32), np.empty((length, dim // 2), np.float32)
        for i in range(dim // 2):
            frequency = base ** (-2 * i / dim)
            for position in range(length):
                cosines[position, i] = math.cos(position * frequency)
                sines[position, i] = math.sin(position * frequency)
        return cosines, sines

    return made


def _places(positions: Any, table: Any) -> Any:
    """An njit function of (positions, batches, length): the rows of the table, [batches or 1, length]."""
    if is_absent(positions):
        return register_jitable(lambda positions, batches, length: np.arange(length).reshape((1, length)))
    if is_absent(table):
        raise TypingError("positions need a table, from rotary_table")
    if not isinstance(positions, types.Array) or positions.ndim > 2 or not isinstance(positions.dtype, types.Integer):
        raise TypingError(f"positions is {positions}, must be integers of 1 or 2 dimensions")
    one = positions.ndim == 1

    @register_jitable
    def given(positions: Any, batches: int, length: int) -> Any:
        count = 1 if one else positions.shape[0]
        if positions.shape[-1] != length or (count != 1 and count != batches):
            raise ValueError("positions must be [length] or [batch, length]")
        return positions.astype(np.intp).reshape((count, length))

    return given


@implements(rotary)
def _rotary(
    x: Any, base: Any = 10000.0, out: Any = None, table: Any = None, positions: Any = None, interleaved: Any = False,
    norm: Any = None, eps: Any = 1e-6, offset: Any = 0.0,
) -> Any:  # fmt: skip
    require("x", x, (4,))
    require("norm", norm, (1,), optional=True)
    require("out", out, (4,), optional=True)
    if not is_absent(out) and not out.mutable:
        raise TypingError(f"out is {out}, must be writable")
    angles, places, target, weight_of = (
        _angles(table),
        _places(positions, table),
        or_new(out, np.float32),
        or_empty(norm, 1),
    )

    def implementation(
        x: Any, base: Any = 10000.0, out: Any = None, table: Any = None, positions: Any = None,
        interleaved: Any = False, norm: Any = None, eps: Any = 1e-6, offset: Any = 0.0,
    ) -> Any:  # fmt: skip
        batches, heads, length, dim = x.shape
        result, weight = target(out, x.shape), weight_of(norm)
        if dim % 2 != 0 or x.strides[3] != x.itemsize or result.strides[3] != result.itemsize:
            raise ValueError("x and out must have an even number of elements in a row, adjacent to each other")
        if weight.size > 0 and weight.size != dim:
            raise ValueError("norm must be [dim]")
        cosines, sines = angles(table, length, dim, base)
        rows = places(positions, batches, length)
        for position in rows.flat:
            if position < 0 or position >= cosines.shape[0]:
                raise ValueError("positions must be 0 to the table's length - 1")
        if result.size > 0:
            every = np.broadcast_to(rows.reshape((rows.shape[0], 1, length, 1)), (batches, heads, length, 1))
            normed = (weight, np.float32(offset), np.float32(eps))
            _rotate(1, (x, every, (cosines, sines), normed, bool(interleaved), result, np.intp(1)))
        return result

    return implementation
