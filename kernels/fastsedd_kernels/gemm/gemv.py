"""Products of a few rows with a matrix that is read once, at the speed of memory: nothing is packed.

    out = few . B        few : [m, K], m <= FEW_ROWS; B : [K, N] as it lies

Where B's rows hold adjacent elements, the micro-kernel takes some rows of B at a time along all columns of a task, and
the sums wait in L1; where its columns do, dot products run along four of them. A task is a range of columns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import float32, float64, types
from numpy.typing import NDArray

from fastsedd_kernels._arrays import contiguous
from fastsedd_kernels._jit import jit
from fastsedd_kernels._simd import fma, lanes_at, load_first, load_vector, offset, pointer, store_vector, sum_lanes
from fastsedd_kernels.gemm.microkernel import VECTORS, link_tile, multiply_tile
from fastsedd_kernels.parallel import Kernel, get_num_threads, kernel

FEW_ROWS = 8  # more reuse B so often that packing it pays

_SUMS = 4096  # elements of sums that a task keeps in L1
_STREAMS = 16  # rows of B that are read side by side: as many streams as prefetchers follow
_CHUNK = 512  # elements of four columns that pass while they and those of `few` are in L1
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
    stride = _SUMS // rows // nr * nr
    memory = np.empty(_SUMS + _STREAMS * nr, out.dtype)
    sums, edge = pointer(memory, 0), pointer(memory, _SUMS)
    last = columns * (task + 1) // tasks
    for first in range(columns * task // tasks, last, stride):
        count = min(stride, last - first)
        for k in range(0, depth, _STREAMS):
            deep = min(_STREAMS, depth - k)
            a = pointer(few, k)
            for j in range(0, count, nr):
                source, step = pointer(b[k], first + j), ldb
                if count - j < nr:
                    _copy_edge(source, ldb, deep, count - j, edge, nr)
                    source, step = edge, nr
                multiply_tile(
                    rows, VECTORS, deep, a, depth, source, step, offset(sums, j), stride, k > 0,
                    offset(sums, j), stride, offset(source, nr), step, offset(sums, j), offset(sums, j), 0,
                )  # fmt: skip
        for r in range(rows):
            for j in range(count):
                out[r, first + j] = sums[r * stride + j]


@jit
def _copy_edge(source: Any, ldb: int, depth: int, columns: int, edge: Any, nr: int) -> None:
    """The last columns of B, which do not fill a tile, as rows of nr elements; beside them zeros."""
    for k in range(depth):
        for j in range(nr):
            edge[k * nr + j] = source[k * ldb + j] if j < columns else 0


def dot_columns(task: int, few: Any, columns: Any, out: Any, tasks: int) -> None:
    """The task's columns of out; columns : [N, K], those of B, with adjacent elements in each."""
    rows, depth = few.shape
    lanes = lanes_at(pointer(out, 0))
    memory = np.empty(rows * 4 * lanes, out.dtype)
    sums = pointer(memory, 0)
    last = columns.shape[0] * (task + 1) // tasks
    for first in range(columns.shape[0] * task // tasks, last, 4):
        memory[:] = 0
        for k in range(0, depth, _CHUNK):
            for r in range(rows):
                _dot_four(
                    pointer(few, r * depth), columns, first, last - 1, k, min(depth, k + _CHUNK),
                    out.dtype.type(0), offset(sums, r * 4 * lanes),
                )  # fmt: skip
        for r in range(rows):
            for i in range(min(4, last - first)):
                out[r, first + i] = sum_lanes(load_vector(offset(sums, (r * 4 + i) * lanes)))


@jit
def _dot_four(a: Any, columns: Any, first: int, most: int, k: int, k_end: int, zero: Any, sums: Any) -> None:
    """Four registers of sums += a[k : k_end] * columns[first : first + 4, k : k_end]; beyond `most`, that one again."""
    c0, c1 = pointer(columns[first], 0), pointer(columns[min(first + 1, most)], 0)
    c2, c3 = pointer(columns[min(first + 2, most)], 0), pointer(columns[min(first + 3, most)], 0)
    lanes = lanes_at(a)
    s0, s1 = load_vector(sums), load_vector(offset(sums, lanes))
    s2, s3 = load_vector(offset(sums, 2 * lanes)), load_vector(offset(sums, 3 * lanes))
    whole = k + (k_end - k) // lanes * lanes
    for i in range(k, whole, lanes):
        x = load_vector(offset(a, i))
        s0, s1 = fma(x, load_vector(offset(c0, i)), s0), fma(x, load_vector(offset(c1, i)), s1)
        s2, s3 = fma(x, load_vector(offset(c2, i)), s2), fma(x, load_vector(offset(c3, i)), s3)
    if whole < k_end:
        rest = k_end - whole
        x = load_first(offset(a, whole), rest, zero)
        s0 = fma(x, load_first(offset(c0, whole), rest, zero), s0)
        s1 = fma(x, load_first(offset(c1, whole), rest, zero), s1)
        s2 = fma(x, load_first(offset(c2, whole), rest, zero), s2)
        s3 = fma(x, load_first(offset(c3, whole), rest, zero), s3)
    store_vector(sums, s0)
    store_vector(offset(sums, lanes), s1)
    store_vector(offset(sums, 2 * lanes), s2)
    store_vector(offset(sums, 3 * lanes), s3)


def _for_both(body: Callable[..., None]) -> dict[np.dtype[Any], Kernel]:
    """The body compiled for float32 and for float64."""

    def made(element: Any) -> Kernel:
        few, matrix = types.Array(element, 2, "C", readonly=True), types.Array(element, 2, "A", readonly=True)
        out = types.Array(element, 2, "A")
        return kernel(few, matrix, out, types.intp, link=lambda: link_tile(element))(body)

    return {np.dtype(np.float32): made(float32), np.dtype(np.float64): made(float64)}


_ADD_ROWS, _DOT_COLUMNS = _for_both(add_rows), _for_both(dot_columns)
