"""Epilogues: what is done with a tile of C once its products are summed, while it is still in the first-level cache.

    Plain           out = C
    Epilogue        out = residual + gate * activation(C)       float32 and bfloat16; every part optional
                    or residual + gate * activation(C1) * C2, if half of a panel's columns are of C1, the rest of C2
    Int8Epilogue    the same, of C = the sums of bytes times a factor per row and a scale per column, plus the bias
    DrawEpilogue    three sums per row and panel, for a draw (`draw_epilogue`); C is not kept

A row passes through registers once, and the result goes to `out` here and nowhere else. A bias costs nothing: the sums
of the products start from it. Each kind is a named tuple, which kernels tell apart by its class when they are compiled.
A row of the gate is for M / G rows of out; the residual may be out itself. An empty array stands for an absent part.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import float32, types
from numba.extending import overload

from fastsedd_kernels.activation.table import IDENTITY, activate
from fastsedd_kernels.gemm.draw_epilogue import DrawEpilogue, sum_tile
from fastsedd_kernels.gemm.operands import Rows, Tile
from fastsedd_kernels.runtime.jit import INLINED_OVERLOAD, OVERLOAD, jit
from fastsedd_kernels.runtime.kernel import kernel
from fastsedd_kernels.runtime.scalar import offset, pointer
from fastsedd_kernels.simd.narrow import as_float32, as_integers
from fastsedd_kernels.simd.vector import LANES, load_some, splat, store_some, store_vector

ROWS_PER_TASK = 16  # of `finish_rows`

_ZERO = float32(0.0)


class Plain(NamedTuple):
    """No epilogue: for elements of any type."""


class Epilogue(NamedTuple):
    """bias : float32 [N]; activation : its number; gate : float32 [G, N]; residual : float32 [M, N]
    paired : panels hold columns of C1 and of C2 side by side, N of each in all; bias : then [2 N], first that of C1"""

    bias: Any
    activation: Any
    gate: Any
    residual: Any
    paired: Any


class Int8Epilogue(NamedTuple):
    """An Epilogue, and what turns sums of bytes into C.

    scales : float32, of all columns of all panels; corrections : int32, as many, which the sums start from: they make
        up for the zero point of A's bytes
    """

    bias: Any
    activation: Any
    gate: Any
    residual: Any
    paired: Any
    scales: Any
    corrections: Any


def is_paired(epilogue: Any) -> bool:
    """True if panels hold columns of two products, a column of the result each."""
    raise NotImplementedError("for kernels only")


@overload(is_paired, **OVERLOAD)  # type: ignore[untyped-decorator]
def _is_paired(epilogue: Any) -> Any:
    if epilogue.instance_class in (Plain, DrawEpilogue):
        return lambda epilogue: False
    return lambda epilogue: epilogue.paired


def columns_of(epilogue: Any, nr: int, out: Any) -> int:
    """The number of C's columns; of pairs, those of whole panels."""
    raise NotImplementedError("for kernels only")


@overload(columns_of, **OVERLOAD)  # type: ignore[untyped-decorator]
def _columns_of(epilogue: Any, nr: Any, out: Any) -> Any:
    if epilogue.instance_class is DrawEpilogue:
        return lambda epilogue, nr, out: epilogue.columns
    return lambda epilogue, nr, out: -(-out.shape[1] // (nr // 2)) * nr if is_paired(epilogue) else out.shape[1]


@jit
def _result_column(epilogue: Any, column: int) -> Any:
    """The place in out of a panel's first column of C."""
    return column // 2 if is_paired(epilogue) else column


def result_at(epilogue: Any, row: int, column: int, nr: int, out: Any) -> Any:
    """Pointer to what is written of C from that row and that panel's first column on."""
    raise NotImplementedError("for kernels only")


@overload(result_at, **OVERLOAD)  # type: ignore[untyped-decorator]
def _result_at(epilogue: Any, row: Any, column: Any, nr: Any, out: Any) -> Any:
    if epilogue.instance_class is DrawEpilogue:
        return lambda epilogue, row, column, nr, out: pointer(
            out, row * (out.strides[0] // out.itemsize) + column // nr
        )
    return lambda epilogue, row, column, nr, out: pointer(
        out, row * (out.strides[0] // out.itemsize) + _result_column(epilogue, column)
    )


def is_bare(epilogue: Any) -> bool:
    """True if a tile's sums, which may have started from a bias, are its result."""
    raise NotImplementedError("for kernels only")


@overload(is_bare, **OVERLOAD)  # type: ignore[untyped-decorator]
def _is_bare(epilogue: Any) -> Any:
    if epilogue.instance_class is Plain:
        return lambda epilogue: True
    if epilogue.instance_class is Epilogue:
        return lambda epilogue: (
            epilogue.activation == IDENTITY
            and epilogue.gate.size == 0
            and epilogue.residual.size == 0
            and not is_paired(epilogue)
        )
    return lambda epilogue: False


def bias_at(epilogue: Any, column: int, columns: int, edge: Any) -> Any:
    """(whether there is a bias, pointer to it from a column on); one that ends in mid-register is copied to `edge`."""
    raise NotImplementedError("for kernels only")


@overload(bias_at, **OVERLOAD)  # type: ignore[untyped-decorator]
def _bias_at(epilogue: Any, column: Any, columns: Any, edge: Any) -> Any:
    if epilogue.instance_class is Plain:
        return lambda epilogue, column, columns, edge: (False, edge)
    if epilogue.instance_class is Int8Epilogue:
        return lambda epilogue, column, columns, edge: (True, pointer(epilogue.corrections, column))
    return _bias


def _bias(epilogue: Any, column: int, columns: int, edge: Any) -> Any:
    bias = epilogue.bias
    given, source = bias.size > 0 and not is_paired(epilogue), pointer(bias, column)
    if given and columns % LANES > 0:
        for j in range(columns):
            edge[j] = source[j]
        return True, edge
    return given, source


def residual_at(epilogue: Any, row: int, column: int, nr: int, out: Any) -> Any:
    """Pointer to the residual of an element of out, or to what is written there where there is none."""
    raise NotImplementedError("for kernels only")


@overload(residual_at, **OVERLOAD)  # type: ignore[untyped-decorator]
def _residual_at(epilogue: Any, row: Any, column: Any, nr: Any, out: Any) -> Any:
    if epilogue.instance_class in (Plain, DrawEpilogue):
        return lambda epilogue, row, column, nr, out: result_at(epilogue, row, column, nr, out)
    return _residual


def _residual(epilogue: Any, row: int, column: int, nr: int, out: Any) -> Any:
    if epilogue.residual.size > 0:
        return pointer(epilogue.residual, row * out.shape[1] + _result_column(epilogue, column))
    return result_at(epilogue, row, column, nr, out)


def place_of_sums(in_place: bool, result: Any, scratch: Any) -> Any:
    """Rows that a tile's sums go to: the result's, or scratch memory, the only place that may hold int32."""
    raise NotImplementedError("for kernels only")


@overload(place_of_sums, **OVERLOAD)  # type: ignore[untyped-decorator]
def _place_of_sums(in_place: Any, result: Any, scratch: Any) -> Any:
    if result.types[0] == scratch.types[0]:
        return lambda in_place, result, scratch: result if in_place else scratch
    return lambda in_place, result, scratch: scratch


def scaled(sums: Any, row: int, column: int, count: int, factors: Any, epilogue: Any) -> Any:
    """C's values without the bias that follows a scale, a register of `count` columns from that one on.

    sums : pointer to theirs in that row of a tile; factors : float32, of the tile's rows
    """
    raise NotImplementedError("for kernels only")


@overload(scaled, **OVERLOAD)  # type: ignore[untyped-decorator]
def _scaled(sums: Any, row: Any, column: Any, count: Any, factors: Any, epilogue: Any) -> Any:
    if epilogue.instance_class is Int8Epilogue:
        return lambda sums, row, column, count, factors, epilogue: (
            as_integers(load_some(as_float32(sums), count, _ZERO))
            * (splat(factors[row]) * load_some(pointer(epilogue.scales, column), count, _ZERO))
        )
    return lambda sums, row, column, count, factors, epilogue: load_some(sums, count, _ZERO)


def biased(value: Any, column: int, count: int, epilogue: Any) -> Any:
    """A register of C's values from that column on, plus the bias, where the sums did not start from it."""
    raise NotImplementedError("for kernels only")


@overload(biased, **OVERLOAD)  # type: ignore[untyped-decorator]
def _biased(value: Any, column: Any, count: Any, epilogue: Any) -> Any:
    return _plus_bias if epilogue.instance_class is Int8Epilogue else lambda value, column, count, epilogue: value


def _plus_bias(value: Any, column: int, count: int, epilogue: Any) -> Any:
    bias = epilogue.bias
    return value + load_some(pointer(bias, column), count, _ZERO) if bias.size > 0 else value


_plus_bias_in_kernel = jit(_plus_bias)


@jit
def _single(sums: Any, row: int, column: int, tile: Any, epilogue: Any) -> Any:
    """activation(C), a register from a column of the tile on."""
    # The tile is as wide as whole registers; what is beside it is not, and may end in mid-register.
    value = scaled(sums, row, tile.first_column + column, LANES, tile.factors, epilogue)
    value = biased(value, tile.first_column + column, tile.columns - column, epilogue)
    return activate(value, epilogue.activation)


@jit
def _pair(sums: Any, row: int, column: int, tile: Any, epilogue: Any, width: int) -> Any:
    """activation(C1) * C2, a register from a column on of either half of the tile."""
    half, first = tile.columns // 2, tile.first_column // 2 + column
    count, wanted = half - column, min(half, width - tile.first_column // 2) - column
    place = tile.first_column + column
    gate = scaled(sums, row, place, count, tile.factors, epilogue)
    gate = activate(_plus_bias_in_kernel(gate, first, wanted, epilogue), epilogue.activation)
    up = scaled(offset(sums, half), row, place + half, count, tile.factors, epilogue)
    return gate * _plus_bias_in_kernel(up, width + first, wanted, epilogue)


def _apply(tile: Any, epilogue: Any, out: Any) -> None:
    """residual + gate * activation(C) of a tile of float32 or int32 sums; of pairs, with activation(C1) * C2."""
    gate, residual, paired = epilogue.gate, epilogue.residual, epilogue.paired
    width, ldc = out.shape[1], out.strides[0] // out.itemsize
    first, columns = tile.first_column, tile.columns
    if paired:
        first, columns = first // 2, min(columns // 2, width - first // 2)
    rows_per_gate = out.shape[0] // gate.shape[0] if gate.size > 0 else out.shape[0]
    group = tile.first_row // rows_per_gate  # a division takes as long as the rest of a row: one per tile
    for r in range(tile.rows):
        i = tile.first_row + r
        if i == (group + 1) * rows_per_gate:
            group += 1
        row = offset(tile.sums.pointer, r * tile.sums.stride)
        target = pointer(out, i * ldc + first)
        gate_row = pointer(gate, group * width + first)
        residual_row = pointer(residual, i * width + first)
        for j in range(0, columns, LANES):
            count, sums = columns - j, offset(row, j)
            value = _pair(sums, r, j, tile, epilogue, width) if paired else _single(sums, r, j, tile, epilogue)
            if gate.size > 0:
                value = value * load_some(offset(gate_row, j), count, _ZERO)
            if residual.size > 0:
                value = value + load_some(offset(residual_row, j), count, _ZERO)
            store_some(offset(target, j), value, count)


_apply_in_kernel = jit(_apply)


def _copy(tile: Any, epilogue: Any, out: Any) -> None:
    """A tile of any element type to its place in out."""
    for r in range(tile.rows):
        for j in range(tile.columns):
            out[tile.first_row + r, tile.first_column + j] = tile.sums.pointer[r * tile.sums.stride + j]


def finish_tile(tile: Any, epilogue: Any, out: Any) -> None:
    """Finish a Tile of sums and write it to out.

    out : [M, N], adjacent elements in a row; of a draw, see `DrawEpilogue`
    """
    raise NotImplementedError("for kernels only")


@overload(finish_tile, **INLINED_OVERLOAD)  # type: ignore[untyped-decorator]
def _finish_tile(tile: Any, epilogue: Any, out: Any) -> Any:
    return {Plain: _copy, DrawEpilogue: sum_tile}.get(epilogue.instance_class, _apply)


VECTOR = types.Array(float32, 1, "C", readonly=True)
MATRIX = types.Array(float32, 2, "C", readonly=True)

# Numba types of the epilogues' fields. They cross from Python as plain tuples: Numba takes 0.6 µs longer to unbox a
# named one, and matches its fields' types exactly.
EPILOGUE = (VECTOR, types.intp, MATRIX, MATRIX, types.boolean)
INT8_EPILOGUE = (*EPILOGUE, VECTOR, types.Array(types.int32, 1, "C", readonly=True))


@kernel(types.Tuple(EPILOGUE), types.Array(float32, 2, "A"))
def finish_rows(task: int, parts: Any, out: Any) -> None:
    """ROWS_PER_TASK rows of sums that lie in out already, finished in one pass; the bias is added here.

    parts : an Epilogue's fields; out : float32 [M, N], adjacent elements in a row
    """
    epilogue, width = Epilogue(*parts), out.shape[1]
    bias = epilogue.bias
    row = np.empty(width + LANES, np.float32)
    for i in range(task * ROWS_PER_TASK, min(out.shape[0], (task + 1) * ROWS_PER_TASK)):
        source = pointer(out[i], 0)
        for j in range(0, width, LANES):
            value = load_some(offset(source, j), width - j, _ZERO)
            if bias.size > 0:
                value = value + load_some(pointer(bias, j), width - j, _ZERO)
            store_vector(pointer(row, j), value)
        _apply_in_kernel(Tile(Rows(pointer(row, 0), width), 1, width, i, 0, source), epilogue, out)
