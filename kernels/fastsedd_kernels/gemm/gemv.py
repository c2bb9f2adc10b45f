"""GEMV and skinny GEMM (M <= 8), memory-bound: B is streamed once, unpacked.

    out = few . B        few : [m, K], m <= FEW_ROWS; B : [K, N] as it lies

Row-major B: AXPY form, some rows of B at a time into accumulators held in L2. Column-major B: dot form, four columns at
a time. Where that pays, the next rows or columns are prefetched in software: hardware prefetchers lose a stream at its
end. A task is a range of columns.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import float32, float64, types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic
from numpy.typing import NDArray

from fastsedd_kernels.gemm.operands import Rows
from fastsedd_kernels.runtime import scalar
from fastsedd_kernels.runtime.arrays import contiguous
from fastsedd_kernels.runtime.cpu import isa
from fastsedd_kernels.runtime.jit import jit
from fastsedd_kernels.runtime.kernel import Kernel, kernel
from fastsedd_kernels.runtime.scalar import offset, pointer
from fastsedd_kernels.runtime.threads import get_num_threads
from fastsedd_kernels.simd import emit
from fastsedd_kernels.simd.vector import copy_padded, lanes_at, load_vector, sum_lanes

_GEMV = isa().gemv
FEW_ROWS = _GEMV.few_rows

_HEIGHTS = (1, 2, 4, FEW_ROWS)  # rows multiplied at once: fewer rows count as more, of zeros
_DEEP, _SPAN, _CHUNK, _TALL, _AHEAD = _GEMV.deep, _GEMV.span, _GEMV.chunk, _GEMV.tall, _GEMV.ahead
_MIN_ELEMENTS = 1 << 15  # of B in a task


class _Few(NamedTuple):
    """Factors of some rows of `few` and as many columns as rows of B are read: a pointer to [rows, deep]."""

    rows: Any
    deep: Any
    factors: Any


def is_streamable(b: NDArray[Any]) -> bool:
    """True if B [K, N] can be read by registers as it lies."""
    adjacent, other = sorted(map(abs, b.strides))
    return adjacent == b.itemsize and other % b.itemsize == 0 and b.itemsize in b.strides


def multiply_few_rows(few: NDArray[Any], b: NDArray[Any], out: NDArray[Any]) -> None:
    """out [m, N] = few [m, K] . B [K, N], which is streamable; float32 or float64, out of any strides."""
    few = contiguous(few)
    tasks = max(1, min(get_num_threads(), b.size // _MIN_ELEMENTS, b.shape[1]))
    by_rows = b.strides[1] == b.itemsize
    (_ADD_ROWS if by_rows else _DOT_COLUMNS)[few.dtype](tasks, few, b if by_rows else b.T, out, tasks)


def _emit_row_sums(builder: Any, vector: Any, rows: int, deep: int, operands: list[Any]) -> None:
    """sums += few . B, register by register, for that many rows of `few` and of B: see `_add_products`."""
    few, b, ldb, ahead, registers, sums, stride = operands
    below = [builder.mul(ldb, scalar.index(k)) for k in range(deep)]
    beside = [builder.mul(stride, scalar.index(r)) for r in range(rows)]

    def products(_: Any, moving: list[Any]) -> list[Any]:
        places = [builder.gep(moving[1], [row]) for row in beside]
        totals = [emit.load(builder, place, vector) for place in places]
        for k, row in enumerate(below):
            source = builder.gep(moving[0], [row])
            if _GEMV.rows_ahead:
                emit.prefetch(builder, builder.gep(source, [ahead]))
            loaded = emit.load(builder, source, vector)
            for r in range(rows):
                factor = builder.load(builder.gep(few, [scalar.index(r * deep + k)]))
                factor = emit.broadcast(builder, factor, vector)
                totals[r] = emit.multiply_add(builder, factor, loaded, totals[r], vector)
        for total, place in zip(totals, places, strict=True):
            emit.store(builder, total, place, vector)
        return [builder.gep(pointer, [scalar.index(vector.count)]) for pointer in moving]

    scalar.repeat(builder, registers, [b, sums], products)


@intrinsic  # type: ignore[untyped-decorator]
def _add_products(typing_context: Any, few: Any, b: Any, ahead: Any, registers: Any, sums: Any) -> Any:
    """sums[r] += few[r, k] * B[k] for a few rows of `few` (1, 2, 4 or 8) and of B (_DEEP or 1).

    few : _Few; b, sums : Rows
    ahead : elements from what is read of B to what is prefetched meanwhile; registers : how many to take of each row
    """
    element = few.types[2].dtype

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        (held, taken, factors), (source, ldb), (target, stride) = (
            cgutils.unpack_tuple(builder, values[i]) for i in (0, 1, 4)
        )
        operands = [factors, source, ldb, values[2], values[3], target, stride]
        vector = emit.vector_type(element, emit.lanes_of(element))
        done = builder.append_basic_block("added")
        switch = builder.switch(builder.add(builder.mul(held, scalar.index(_DEEP + 1)), taken), done)
        for height, depth in itertools.product(_HEIGHTS, (1, _DEEP)):
            block = builder.append_basic_block(f"add_{height}x{depth}")
            switch.add_case(scalar.index(height * (_DEEP + 1) + depth), block)
            builder.position_at_end(block)
            _emit_row_sums(builder, vector, height, depth, operands)
            builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    rows = types.NamedTuple((types.CPointer(element), types.intp), Rows)
    some = types.NamedTuple((types.intp, types.intp, types.CPointer(element)), _Few)
    if (few, b, sums) != (some, rows, rows):
        raise TypingError(f"few, b and sums are {few}, {b} and {sums}")
    return types.void(few, b, types.intp, types.intp, sums), codegen


def add_rows(task: int, few: Any, b: Any, out: Any, tasks: int) -> None:
    """The task's columns of out = few . b, summed in b's dtype in the order of K.

    few : [m, K], contiguous, m <= FEW_ROWS; b : [K, N], adjacent elements in a row; out : [m, N], any strides, apart
    """
    rows, depth = few.shape
    columns, lanes = b.shape[1], lanes_at(pointer(out, 0))
    begin, last = columns * task // tasks, columns * (task + 1) // tasks
    held = FEW_ROWS
    for height in _HEIGHTS:
        if rows <= height < held:
            held = height
    span = min(_SPAN, -(-(last - begin) // lanes) * lanes)
    stride = span + 2 * lanes  # a power of two apart, rows would share cache sets
    memory = np.empty(held * (stride + _DEEP) + _DEEP * lanes, out.dtype)
    sums, factors, edge = pointer(memory, 0), pointer(memory, held * stride), pointer(memory, held * (stride + _DEEP))
    for first in range(begin, last, span):
        count = min(span, last - first)
        memory[: held * stride] = 0
        k = 0
        while k < depth:
            deep = _DEEP if k + _DEEP <= depth else 1
            for r in range(held):
                for i in range(deep):
                    factors[r * deep + i] = few[r, k + i] if r < rows else 0
            _add_along(_Few(held, deep, factors), b, k, first, count, Rows(sums, stride), edge)
            k += deep
        for r in range(rows):
            for j in range(count):
                out[r, first + j] = sums[r * stride + j]


@jit
def _add_along(few: Any, b: Any, k: int, first: int, count: int, sums: Any, edge: Any) -> None:
    """sums += few . b[k : k + deep, first : first + count]; few : _Few; edge : memory for [deep, lanes]"""
    lanes, ldb = lanes_at(edge), b.strides[0] // b.itemsize
    whole = count // lanes * lanes
    for j, registers in ((0, whole // lanes), (whole, 1)):  # a loop, so that the products are compiled once
        source, step = pointer(b[k], first + j), ldb
        if j == count:
            break
        if j == whole:  # the columns that do not fill a register
            copy_padded(source, ldb, few.deep, count - whole, edge, lanes)
            source, step = edge, lanes
        _add_products(few, Rows(source, step), few.deep * step, registers, Rows(offset(sums.pointer, j), sums.stride))


def _dot_function(rows: int) -> Any:
    """A function of kernels: sums += the products, register by register, of that many rows and four columns.

    a : Rows; columns : four pointers; sums : pointer to [rows, 4, lanes]
    ahead : elements from what is read of a column to what is prefetched meanwhile
    registers : how many to take of each row and column
    """

    def add_dots(typing_context: Any, a: Any, columns: Any, ahead: Any, registers: Any, sums: Any) -> Any:
        vector = emit.vector_type(sums.dtype, emit.lanes_of(sums.dtype))

        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            (first, step), of_columns = (cgutils.unpack_tuple(builder, value) for value in values[:2])
            beyond, count, target = values[2:]
            starts = [builder.gep(first, [builder.mul(step, scalar.index(r))]) for r in range(rows)]
            places = [builder.gep(target, [scalar.index(i * vector.count)]) for i in range(4 * rows)]
            totals = [emit.load(builder, place, vector) for place in places]

            def products(_: Any, moving: list[Any]) -> list[Any]:
                pointers, so_far = moving[: rows + 4], moving[rows + 4 :]
                for column in pointers[rows:]:
                    emit.prefetch(builder, builder.gep(column, [beyond]))
                loaded = [emit.load(builder, pointer, vector) for pointer in pointers]
                pairs = itertools.product(loaded[:rows], loaded[rows:])
                added = [emit.multiply_add(builder, x, y, z, vector) for (x, y), z in zip(pairs, so_far, strict=True)]
                return [*(builder.gep(pointer, [scalar.index(vector.count)]) for pointer in pointers), *added]

            ended = scalar.repeat(builder, count, [*starts, *of_columns, *totals], products)
            for total, place in zip(ended[rows + 4 :], places, strict=True):
                emit.store(builder, total, place, vector)
            return context.get_dummy_value()

        return types.void(a, columns, types.intp, types.intp, sums), codegen

    return intrinsic(add_dots)


_TOGETHER = _GEMV.dot_rows
_add_some_dots, _add_dots = _dot_function(_TOGETHER), _dot_function(1)


def dot_columns(task: int, few: Any, columns: Any, out: Any, tasks: int) -> None:
    """The task's columns of out = few . columns.T, in `lanes` partial sums per element, folded in a fixed order.

    few : [m, K], contiguous; columns : [N, K], those of B, adjacent elements in each; out : [m, N], any strides, apart
    """
    rows, depth = few.shape
    lanes = lanes_at(pointer(out, 0))
    memory = np.empty((2 * rows + 1) * 4 * lanes, out.dtype)
    sums = pointer(memory, 0)
    few_edge, edge = offset(sums, rows * 4 * lanes), offset(sums, rows * 8 * lanes)
    whole = depth // lanes * lanes
    copy_padded(pointer(few, whole), depth, rows, depth - whole, few_edge, lanes)
    last = columns.shape[0] * (task + 1) // tasks
    for first in range(columns.shape[0] * task // tasks, last, 4):
        count = min(4, last - first)
        memory[: rows * 4 * lanes] = 0
        for k in range(0, whole, _CHUNK):
            registers = min(_CHUNK, whole - k) // lanes
            _add_all_dots(Rows(pointer(few, k), depth), rows, columns, first, count, k, registers, sums)
        if whole < depth:
            step = columns.strides[0] // columns.itemsize
            copy_padded(pointer(columns[first], whole), step, count, depth - whole, edge, lanes)
            padded = (edge, offset(edge, lanes), offset(edge, 2 * lanes), offset(edge, 3 * lanes))
            for r in range(rows):
                a = Rows(offset(few_edge, r * lanes), np.intp(0))
                _add_dots(a, padded, 0, 1, offset(sums, r * 4 * lanes))
        for r in range(rows):
            for i in range(count):
                out[r, first + i] = sum_lanes(load_vector(offset(sums, (r * 4 + i) * lanes)))


@jit
def _add_all_dots(a: Any, rows: int, columns: Any, first: int, count: int, k: int, registers: int, sums: Any) -> None:
    """sums[r] += a[r] * columns[first : first + 4] for registers from k on; of fewer columns the last stands in."""
    lanes = lanes_at(sums)
    four = (
        pointer(columns[first], k),
        pointer(columns[first + min(1, count - 1)], k),
        pointer(columns[first + min(2, count - 1)], k),
        pointer(columns[first + count - 1], k),
    )
    ahead = 4 * columns.strides[0] // columns.itemsize if columns.shape[1] <= _TALL else _AHEAD
    together = rows // _TOGETHER * _TOGETHER
    for r in range(0, together, _TOGETHER):
        of_a = Rows(offset(a.pointer, r * a.stride), a.stride)
        _add_some_dots(of_a, four, ahead, registers, offset(sums, r * 4 * lanes))
    for r in range(together, rows):
        of_a = Rows(offset(a.pointer, r * a.stride), a.stride)
        _add_dots(of_a, four, ahead, registers, offset(sums, r * 4 * lanes))


def _for_both(body: Callable[..., None]) -> dict[np.dtype[Any], Kernel]:
    """The body compiled for float32 and for float64."""

    def made(element: Any) -> Kernel:
        few, matrix = types.Array(element, 2, "C", readonly=True), types.Array(element, 2, "A", readonly=True)
        out = types.Array(element, 2, "A")
        return kernel(few, matrix, out, types.intp)(body)

    return {np.dtype(np.float32): made(float32), np.dtype(np.float64): made(float64)}


_ADD_ROWS, _DOT_COLUMNS = _for_both(add_rows), _for_both(dot_columns)
