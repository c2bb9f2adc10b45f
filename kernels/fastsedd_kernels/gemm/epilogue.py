"""What happens to a tile of C after its products are summed, while it is still in the first-level cache.

    out = residual + gate * activation(C)

Each part is optional. A row passes through registers once, and the result goes to `out` here and nowhere else. The bias
costs nothing: the sums of the products start from it. For a draw the tile itself is not kept, only what `panel_sums`
takes of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import float32, types
from numba.extending import overload

from fastsedd_kernels.activation.kernel import GELU, GELU_TANH, SILU, activate
from fastsedd_kernels.gemm.draw_epilogue import sum_tile
from fastsedd_kernels.runtime.jit import OVERLOAD, jit
from fastsedd_kernels.runtime.kernel import kernel
from fastsedd_kernels.runtime.scalar import offset, pointer
from fastsedd_kernels.simd.narrow import as_float32, load_integers
from fastsedd_kernels.simd.vector import LANES, load_some, load_vector, splat, store_some, store_vector

IDENTITY = 0
ROWS_A_TASK = 16  # of `finish_rows`

_ZERO = float32(0.0)

ACTIVATIONS = {None: IDENTITY, "gelu": GELU, "gelu_tanh": GELU_TANH, "silu": SILU}


# In kernels, `parts` is (bias [N], activation, gate [G, N], residual [M, N]) of float32, an empty array for what is
# absent; or the empty tuple, for elements of any type. A row of the gate is for M / G rows of out; the residual may be
# out itself. Of int8 it is (bias, activation, gate, residual, scales, corrections): the sums of bytes start from the
# corrections, int32 for all columns of all panels, and times a row's factor and a column's scale they are C.
# For a draw it is what `panel_sums` says, and out : [M, kinds of sums * panels].
_QUANTISED, _SUMMED = 6, 5


def columns_of(parts: Any, out: Any) -> int:
    """How many columns of C there are."""
    raise NotImplementedError("for kernels only")


@overload(columns_of, **OVERLOAD)  # type: ignore[untyped-decorator]
def _columns_of(parts: Any, out: Any) -> Any:
    if len(parts) == _SUMMED:
        return lambda parts, out: parts[1]
    return lambda parts, out: out.shape[1]


def result_at(parts: Any, row: int, column: int, nr: int, out: Any) -> Any:
    """Pointer to what is written of C from that row and that panel's first column on."""
    raise NotImplementedError("for kernels only")


@overload(result_at, **OVERLOAD)  # type: ignore[untyped-decorator]
def _result_at(parts: Any, row: Any, column: Any, nr: Any, out: Any) -> Any:
    if len(parts) == _SUMMED:
        return lambda parts, row, column, nr, out: pointer(out, row * (out.strides[0] // out.itemsize) + column // nr)
    return lambda parts, row, column, nr, out: pointer(out, row * (out.strides[0] // out.itemsize) + column)


def is_bare(parts: Any) -> bool:
    """Whether a tile's sums, which may have started from a bias, are its result."""
    raise NotImplementedError("for kernels only")


@overload(is_bare, **OVERLOAD)  # type: ignore[untyped-decorator]
def _is_bare(parts: Any) -> Any:
    if len(parts) == 0:
        return lambda parts: True
    if len(parts) in (_QUANTISED, _SUMMED):
        return lambda parts: False
    return lambda parts: parts[1] == IDENTITY and parts[2].size == 0 and parts[3].size == 0


def bias_at(parts: Any, column: int, columns: int, edge: Any) -> Any:
    """(whether there is a bias, pointer to it from a column on); what ends in mid-register is copied to `edge`."""
    raise NotImplementedError("for kernels only")


@overload(bias_at, **OVERLOAD)  # type: ignore[untyped-decorator]
def _bias_at(parts: Any, column: Any, columns: Any, edge: Any) -> Any:
    if len(parts) == 0:
        return lambda parts, column, columns, edge: (False, edge)
    if len(parts) == _QUANTISED:
        return lambda parts, column, columns, edge: (True, pointer(parts[5], column))
    return _bias


def _bias(parts: Any, column: int, columns: int, edge: Any) -> Any:
    bias = parts[0]
    source = pointer(bias, column)
    if bias.size > 0 and columns % LANES > 0:
        for j in range(columns):
            edge[j] = source[j]
        return True, edge
    return bias.size > 0, source


def residual_at(parts: Any, row: int, column: int, nr: int, out: Any) -> Any:
    """Pointer to the residual of an element of out, or to what is written there where there is none."""
    raise NotImplementedError("for kernels only")


@overload(residual_at, **OVERLOAD)  # type: ignore[untyped-decorator]
def _residual_at(parts: Any, row: Any, column: Any, nr: Any, out: Any) -> Any:
    if len(parts) in (0, _SUMMED):
        return lambda parts, row, column, nr, out: result_at(parts, row, column, nr, out)
    return _residual


def _residual(parts: Any, row: int, column: int, nr: int, out: Any) -> Any:
    residual = parts[3]
    if residual.size > 0:
        return pointer(residual, row * out.shape[1] + column)
    return result_at(parts, row, column, nr, out)


def place_of_sums(in_place: bool, result: Any, ldc: int, scratch: Any, nr: int) -> Any:
    """Where a tile's sums go, and its rows apart: to out, or to scratch memory, the only place that may hold int32."""
    raise NotImplementedError("for kernels only")


@overload(place_of_sums, **OVERLOAD)  # type: ignore[untyped-decorator]
def _place_of_sums(in_place: Any, result: Any, ldc: Any, scratch: Any, nr: Any) -> Any:
    if result == scratch:
        return lambda in_place, result, ldc, scratch, nr: (result, ldc) if in_place else (scratch, nr)
    return lambda in_place, result, ldc, scratch, nr: (scratch, nr)


def total(place: Any, row: int, column: int, count: int, factors: Any, parts: Any) -> Any:
    """C's values, a register of them from that column on, of the sums at a place in that row of a tile."""
    raise NotImplementedError("for kernels only")


@overload(total, **OVERLOAD)  # type: ignore[untyped-decorator]
def _total(place: Any, row: Any, column: Any, count: Any, factors: Any, parts: Any) -> Any:
    if len(parts) == _QUANTISED:
        return _scaled
    return lambda place, row, column, count, factors, parts: load_vector(place)


def _scaled(place: Any, row: int, column: int, count: int, factors: Any, parts: Any) -> Any:
    bias, scales = parts[0], parts[4]
    value = load_integers(as_float32(place)) * (splat(factors[row]) * load_vector(pointer(scales, column)))
    return value + load_some(pointer(bias, column), count, _ZERO) if bias.size > 0 else value


def _apply(
    tile: Any, stride: int, rows: int, first_row: int, columns: int, first_column: int, factors: Any, parts: Any,
    out: Any,
) -> None:  # fmt: skip
    activation, gate, residual = parts[1], parts[2], parts[3]
    width, ldc = out.shape[1], out.strides[0] // out.itemsize
    rows_a_gate = out.shape[0] // gate.shape[0] if gate.size > 0 else out.shape[0]
    group = first_row // rows_a_gate  # a division takes as long as the rest of a row: one a tile
    for r in range(rows):
        i = first_row + r
        if i == (group + 1) * rows_a_gate:
            group += 1
        row = offset(tile, r * stride)
        target = pointer(out, i * ldc + first_column)
        gate_row = pointer(gate, group * width + first_column)
        residual_row = pointer(residual, i * width + first_column)
        for j in range(0, columns, LANES):
            # The tile is as wide as whole registers; what is beside it is not, and may end in mid-register.
            count = columns - j
            value = activate(total(offset(row, j), r, first_column + j, count, factors, parts), activation)
            if gate.size > 0:
                value = value * load_some(offset(gate_row, j), count, _ZERO)
            if residual.size > 0:
                value = value + load_some(offset(residual_row, j), count, _ZERO)
            store_some(offset(target, j), value, count)


_apply_in_kernel = jit(_apply)


def _copy(
    tile: Any, stride: int, rows: int, first_row: int, columns: int, first_column: int, factors: Any, parts: Any,
    out: Any,
) -> None:  # fmt: skip
    for r in range(rows):
        for j in range(columns):
            out[first_row + r, first_column + j] = tile[r * stride + j]


def finish_tile(
    tile: Any, stride: int, rows: int, first_row: int, columns: int, first_column: int, factors: Any, parts: Any,
    out: Any,
) -> None:  # fmt: skip
    """Finish tile[0:rows, 0:columns], which is out[first_row..., first_column...].

    stride : elements from row to row of the tile; factors : of its rows, of int8 only
    """
    raise NotImplementedError("for kernels only")


@overload(finish_tile, **OVERLOAD)  # type: ignore[untyped-decorator]
def _finish_tile(
    tile: Any, stride: Any, rows: Any, first_row: Any, columns: Any, first_column: Any, factors: Any, parts: Any,
    out: Any,
) -> Any:  # fmt: skip
    return {0: _copy, _SUMMED: sum_tile}.get(len(parts), _apply)


VECTOR = types.Array(float32, 1, "C", readonly=True)
MATRIX = types.Array(float32, 2, "C", readonly=True)
PARTS = (VECTOR, types.intp, MATRIX, MATRIX)


@kernel(types.Tuple(PARTS), types.Array(float32, 2, "A"))
def finish_rows(task: int, parts: Any, out: Any) -> None:
    """Finish ROWS_A_TASK rows of sums that lie in out already, in one pass; the bias is added here."""
    bias, width = parts[0], out.shape[1]
    row = np.empty(width + LANES, np.float32)
    for i in range(task * ROWS_A_TASK, min(out.shape[0], (task + 1) * ROWS_A_TASK)):
        source = pointer(out[i], 0)
        for j in range(0, width, LANES):
            value = load_some(offset(source, j), width - j, _ZERO)
            if bias.size > 0:
                value = value + load_some(pointer(bias, j), width - j, _ZERO)
            store_vector(pointer(row, j), value)
        _apply_in_kernel(pointer(row, 0), width, 1, i, width, 0, source, parts, out)
