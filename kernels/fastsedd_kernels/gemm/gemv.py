"""Products of a few rows with a matrix that is read once, at the speed of memory: nothing is packed.

    out = few . B        few : [m, K], m <= FEW_ROWS; B : [K, N] as it lies

Where B's rows hold adjacent elements, the micro-kernel takes some rows of B at a time along all columns of a task, and
the sums wait in L1; where its columns do, dot products run along four of them. A task is a range of columns.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import float32, float64, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from fastsedd_kernels import _simd
from fastsedd_kernels._arrays import contiguous
from fastsedd_kernels._jit import jit
from fastsedd_kernels._simd import ask_for, lanes_at, load_vector, offset, pointer, sum_lanes
from fastsedd_kernels.gemm.microkernel import ROWS, VECTORS, link_tile, multiply_tile
from fastsedd_kernels.parallel import Kernel, get_num_threads, kernel

FEW_ROWS = 8  # more reuse B so often that packing it pays

_SUMS = 16384  # elements of sums that a task keeps in L1 and L2
_AHEAD = 512  # elements of a row, until they are read
_STREAMS = 16  # rows of B that are read side by side: as many streams as prefetchers follow
_CHUNK = 512  # elements of four columns that pass while they and those of `few` are in L1
_DEEP = 16384  # elements of a column: L2 holds no more of the four that come next
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


def add_rows(task: int, few: Any, b: Any, out: Any, tasks: int) -> None:
    """The task's columns of out; b : [K, N] with adjacent elements in a row."""
    rows, depth = few.shape
    columns, ldb = b.shape[1], b.strides[0] // b.itemsize
    nr = lanes_at(pointer(out, 0)) * VECTORS
    span = _SUMS // rows // nr * nr
    stride = span + nr  # a power of two apart, rows would share cache sets
    memory = np.empty(rows * stride + _STREAMS * nr, out.dtype)
    sums, edge = pointer(memory, 0), pointer(memory, rows * stride)
    last = columns * (task + 1) // tasks
    for first in range(columns * task // tasks, last, span):
        count = min(span, last - first)
        for k in range(0, depth, _STREAMS):
            deep = min(_STREAMS, depth - k)
            a = pointer(few, k)
            for j in range(0, count, nr):
                source, step = pointer(b[k], first + j), ldb
                _ask_ahead(source, ldb, depth - k, j, count, nr)
                if count - j < nr:
                    _copy_edge(source, ldb, deep, count - j, edge, nr)
                    source, step = edge, nr
                multiply_tile(
                    rows, VECTORS, deep, a, depth, source, step, offset(sums, j), stride, k > 0,
                    offset(sums, j), stride, source, 0, offset(sums, j), offset(sums, j), 0,
                )  # fmt: skip
        for r in range(rows):
            for j in range(count):
                out[r, first + j] = sums[r * stride + j]


@jit
def _ask_ahead(source: Any, ldb: int, rows_left: int, j: int, count: int, nr: int) -> None:
    """Ask for what is read _AHEAD elements later: of the rows at `source`, or else at the start of those below."""
    lanes = lanes_at(source)
    there = offset(source, _AHEAD)
    if j + _AHEAD >= count:
        there = offset(source, _STREAMS * ldb + _AHEAD - count)
        rows_left -= _STREAMS
    for k in range(min(_STREAMS, rows_left)):
        for i in range(0, nr, lanes):
            ask_for(offset(there, k * ldb + i))


@jit
def _copy_edge(source: Any, ldb: int, depth: int, columns: int, edge: Any, nr: int) -> None:
    """The last columns of B, which do not fill a tile, as rows of nr elements; beside them zeros."""
    for k in range(depth):
        for j in range(nr):
            edge[k * nr + j] = source[k * ldb + j] if j < columns else 0


def _dot_function(rows: int) -> Any:
    """A function of kernels: sums += the products, register by register, of that many rows and four columns.

    a, c0 to c3, sums : pointers, the last to [rows, 4, lanes]; lda : elements between the rows at `a`
    ahead : elements from what is read of a column to what is asked for meanwhile
    registers : how many to take of each row and column
    """

    def add_dots(
        typing_context: Any, a: Any, lda: Any, c0: Any, c1: Any, c2: Any, c3: Any, ahead: Any, registers: Any, sums: Any
    ) -> Any:  # fmt: skip
        vector = _simd.vector_type(a.dtype, _simd.lanes_of(a.dtype))

        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            first, step, *columns, beyond, count, target = values
            starts = [builder.gep(first, [builder.mul(step, _simd.index(r))]) for r in range(rows)]
            places = [builder.gep(target, [_simd.index(i * vector.count)]) for i in range(4 * rows)]
            totals = [_simd.load(builder, place, vector) for place in places]

            def products(_: Any, moving: list[Any]) -> list[Any]:
                pointers, so_far = moving[: rows + 4], moving[rows + 4 :]
                for pointer in pointers[rows:]:
                    _simd.prefetch(builder, builder.gep(pointer, [beyond]))
                loaded = [_simd.load(builder, pointer, vector) for pointer in pointers]
                pairs = itertools.product(loaded[:rows], loaded[rows:])
                added = [_simd.multiply_add(builder, x, y, z, vector) for (x, y), z in zip(pairs, so_far, strict=True)]
                return [*(builder.gep(pointer, [_simd.index(vector.count)]) for pointer in pointers), *added]

            ended = _simd.repeat(builder, count, [*starts, *columns, *totals], products)
            for total, place in zip(ended[rows + 4 :], places, strict=True):
                _simd.store(builder, total, place, vector)
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
    _copy_rest(few, 0, rows, whole, few_edge, lanes)
    last = columns.shape[0] * (task + 1) // tasks
    for first in range(columns.shape[0] * task // tasks, last, 4):
        count = min(4, last - first)
        memory[: rows * 4 * lanes] = 0
        for k in range(0, whole, _CHUNK):
            _add_all_dots(pointer(few, k), depth, rows, columns, first, count, k, min(_CHUNK, whole - k) // lanes, sums)
        if whole < depth:
            _copy_rest(columns, first, count, whole, edge, lanes)
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
    ahead = 4 * columns.strides[0] // columns.itemsize if columns.shape[1] <= _DEEP else _AHEAD
    together = rows // _TOGETHER * _TOGETHER
    for r in range(0, together, _TOGETHER):
        _add_some_dots(offset(a, r * lda), lda, c0, c1, c2, c3, ahead, registers, offset(sums, r * 4 * lanes))
    for r in range(together, rows):
        _add_dots(offset(a, r * lda), lda, c0, c1, c2, c3, ahead, registers, offset(sums, r * 4 * lanes))


@jit
def _copy_rest(matrix: Any, first: int, count: int, k: int, edge: Any, lanes: int) -> None:
    """What follows element k of some rows, which does not fill a register, with zeros behind it."""
    for r in range(count):
        for i in range(lanes):
            edge[r * lanes + i] = matrix[first + r, k + i] if k + i < matrix.shape[1] else 0


def _for_both(body: Callable[..., None]) -> dict[np.dtype[Any], Kernel]:
    """The body compiled for float32 and for float64."""

    def made(element: Any) -> Kernel:
        few, matrix = types.Array(element, 2, "C", readonly=True), types.Array(element, 2, "A", readonly=True)
        out = types.Array(element, 2, "A")
        return kernel(few, matrix, out, types.intp, link=lambda: link_tile(element))(body)

    return {np.dtype(np.float32): made(float32), np.dtype(np.float64): made(float64)}


_ADD_ROWS, _DOT_COLUMNS = _for_both(add_rows), _for_both(dot_columns)
