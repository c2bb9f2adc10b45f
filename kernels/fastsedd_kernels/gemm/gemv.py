"""Products of a few rows with a matrix that is read once, at the speed of memory: nothing is packed.

    out = few . B        few : [m, K], m <= FEW_ROWS; B : [K, N] as it lies

Where B's rows hold adjacent elements, some of them are added to the sums of a task's columns at a time, and the sums
wait in L2; where its columns do, dot products run along four of them. Meanwhile the rows or columns that come next are
asked for: a CPU's own prefetchers lose the trail where each of so many streams ends. A task is a range of columns.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import float32, float64, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from fastsedd_kernels.gemm.microkernel import ROWS, VECTORS
from fastsedd_kernels.runtime import scalar
from fastsedd_kernels.runtime.arrays import contiguous
from fastsedd_kernels.runtime.jit import jit
from fastsedd_kernels.runtime.kernel import Kernel, kernel
from fastsedd_kernels.runtime.scalar import offset, pointer
from fastsedd_kernels.runtime.threads import get_num_threads
from fastsedd_kernels.simd import emit
from fastsedd_kernels.simd.vector import copy_padded, lanes_at, load_vector, sum_lanes

FEW_ROWS = 8  # more reuse B so often that packing it pays

_HEIGHTS = (1, 2, 4, FEW_ROWS)  # of what is multiplied at once: fewer rows count as more, of zeros
_DEEP = 8  # rows of B that are read side by side
_SPAN = 4096  # columns whose sums, and the rows of B that come next, wait in L2
_CHUNK = 512  # elements of four columns that pass while they and those of `few` are in L1
_TALL = 16384  # elements of a column: L2 holds no more of the four that come next
_AHEAD = 1024  # elements of a column that is taller, until they are read
_LEAST_ELEMENTS = 1 << 15  # of B in a task


def is_streamable(b: NDArray[Any]) -> bool:
    """Whether B [K, N] can be read by registers as it lies."""
    adjacent, other = sorted(map(abs, b.strides))
    return adjacent == b.itemsize and other % b.itemsize == 0 and b.itemsize in b.strides


def multiply_few_rows(few: NDArray[Any], b: NDArray[Any], out: NDArray[Any]) -> None:
    """out [m, N] = few [m, K] . B [K, N], which is streamable; float32 or float64, out of any strides."""
    few = contiguous(few)
    tasks = max(1, min(get_num_threads(), b.size // _LEAST_ELEMENTS, b.shape[1]))
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
def _add_products(
    typing_context: Any, rows: Any, deep: Any, few: Any, b: Any, ldb: Any, ahead: Any, registers: Any, sums: Any,
    stride: Any,
) -> Any:  # fmt: skip
    """sums[r] += few[r, k] * B[k] for so many rows of `few` (1, 2, 4 or 8) and of B (_DEEP or 1).

    few : pointer to [rows, deep]; b, sums : to rows that are ldb and `stride` elements apart
    ahead : elements from what is read of B to what is asked for meanwhile; registers : how many to take of each row
    """

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        held, taken, *operands = values
        vector = emit.vector_type(few.dtype, emit.lanes_of(few.dtype))
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

    count = types.intp
    return types.void(count, count, few, few, count, count, count, few, count), codegen


def add_rows(task: int, few: Any, b: Any, out: Any, tasks: int) -> None:
    """The task's columns of out; b : [K, N] with adjacent elements in a row."""
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
            _add_along(held, deep, factors, b, k, first, count, sums, stride, edge)
            k += deep
        for r in range(rows):
            for j in range(count):
                out[r, first + j] = sums[r * stride + j]


@jit
def _add_along(
    rows: int, deep: int, factors: Any, b: Any, k: int, first: int, count: int, sums: Any, stride: int, edge: Any
) -> None:  # fmt: skip
    """sums += factors [rows, deep] . b[k : k + deep, first : first + count]; edge : memory for [deep, lanes]"""
    lanes, ldb = lanes_at(sums), b.strides[0] // b.itemsize
    whole = count // lanes * lanes
    for j, registers in ((0, whole // lanes), (whole, 1)):  # a loop, so that the products are compiled once
        source, step = pointer(b[k], first + j), ldb
        if j == count:
            break
        if j == whole:  # what does not fill a register
            copy_padded(source, ldb, deep, count - whole, edge, lanes)
            source, step = edge, lanes
        _add_products(rows, deep, factors, source, step, deep * step, registers, offset(sums, j), stride)


def _dot_function(rows: int) -> Any:
    """A function of kernels: sums += the products, register by register, of that many rows and four columns.

    a, c0 to c3, sums : pointers, the last to [rows, 4, lanes]; lda : elements between the rows at `a`
    ahead : elements from what is read of a column to what is asked for meanwhile
    registers : how many to take of each row and column
    """

    def add_dots(
        typing_context: Any, a: Any, lda: Any, c0: Any, c1: Any, c2: Any, c3: Any, ahead: Any, registers: Any, sums: Any
    ) -> Any:  # fmt: skip
        vector = emit.vector_type(a.dtype, emit.lanes_of(a.dtype))

        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            first, step, *columns, beyond, count, target = values
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

            ended = scalar.repeat(builder, count, [*starts, *columns, *totals], products)
            for total, place in zip(ended[rows + 4 :], places, strict=True):
                emit.store(builder, total, place, vector)
            return context.get_dummy_value()

        return types.void(a, types.intp, a, a, a, a, types.intp, types.intp, a), codegen

    return intrinsic(add_dots)


_TOGETHER = 4 if ROWS * VECTORS > 16 else 2  # rows whose sums with four columns fit the registers
_add_some_dots, _add_dots = _dot_function(_TOGETHER), _dot_function(1)


def dot_columns(task: int, few: Any, columns: Any, out: Any, tasks: int) -> None:
    """The task's columns of out; columns : [N, K], those of B, with adjacent elements in each."""
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
            _add_all_dots(pointer(few, k), depth, rows, columns, first, count, k, min(_CHUNK, whole - k) // lanes, sums)
        if whole < depth:
            step = columns.strides[0] // columns.itemsize
            copy_padded(pointer(columns[first], whole), step, count, depth - whole, edge, lanes)
            for r in range(rows):
                _add_dots(
                    offset(few_edge, r * lanes), 0, edge, offset(edge, lanes), offset(edge, 2 * lanes),
                    offset(edge, 3 * lanes), 0, 1, offset(sums, r * 4 * lanes),
                )  # fmt: skip
        for r in range(rows):
            for i in range(count):
                out[r, first + i] = sum_lanes(load_vector(offset(sums, (r * 4 + i) * lanes)))


@jit
def _add_all_dots(
    a: Any, lda: int, rows: int, columns: Any, first: int, count: int, k: int, registers: int, sums: Any
) -> None:  # fmt: skip
    """sums[r] += a[r] * columns[first : first + 4] for registers from k on; of fewer columns the last stands in."""
    lanes = lanes_at(a)
    c0, c1 = pointer(columns[first], k), pointer(columns[first + min(1, count - 1)], k)
    c2, c3 = pointer(columns[first + min(2, count - 1)], k), pointer(columns[first + count - 1], k)
    ahead = 4 * columns.strides[0] // columns.itemsize if columns.shape[1] <= _TALL else _AHEAD
    together = rows // _TOGETHER * _TOGETHER
    for r in range(0, together, _TOGETHER):
        _add_some_dots(offset(a, r * lda), lda, c0, c1, c2, c3, ahead, registers, offset(sums, r * 4 * lanes))
    for r in range(together, rows):
        _add_dots(offset(a, r * lda), lda, c0, c1, c2, c3, ahead, registers, offset(sums, r * 4 * lanes))


def _for_both(body: Callable[..., None]) -> dict[np.dtype[Any], Kernel]:
    """The body compiled for float32 and for float64."""

    def made(element: Any) -> Kernel:
        few, matrix = types.Array(element, 2, "C", readonly=True), types.Array(element, 2, "A", readonly=True)
        out = types.Array(element, 2, "A")
        return kernel(few, matrix, out, types.intp)(body)

    return {np.dtype(np.float32): made(float32), np.dtype(np.float64): made(float64)}


_ADD_ROWS, _DOT_COLUMNS = _for_both(add_rows), _for_both(dot_columns)
