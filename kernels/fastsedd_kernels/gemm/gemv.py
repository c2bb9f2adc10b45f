"""Products of a few rows with a matrix that is read once, at the speed of memory: nothing is packed.

    out = few . B        few : [m, K], m <= FEW_ROWS; B : [K, N] as it lies

Where B's rows hold adjacent elements, four of them at a time are added to sums in L1; where its columns do, dot
products run along four of them. A task is a range of columns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import float32, float64, types
from numpy.typing import NDArray

from fastsedd_kernels._jit import jit
from fastsedd_kernels._simd import fma, lanes_at, load_vector, offset, pointer, splat, store_vector, sum_lanes
from fastsedd_kernels.parallel import Kernel, get_num_threads, kernel

FEW_ROWS = 8  # more reuse B so often that packing it pays

_SUMS = 4096  # elements of sums that a task keeps in L1
_CHUNK = 1024  # elements of a column between two visits to the sums: with those of `few`, L1 holds them
_LEAST_ELEMENTS = 1 << 15  # of B in a task


def is_streamable(b: NDArray[Any]) -> bool:
    """Whether B [K, N] can be read by registers as it lies."""
    adjacent, other = sorted(map(abs, b.strides))
    return adjacent == b.itemsize and other % b.itemsize == 0 and b.itemsize in b.strides


def multiply_few_rows(few: NDArray[Any], b: NDArray[Any], out: NDArray[Any]) -> None:
    """out [m, N] = few [m, K] . B [K, N], which is streamable; float32 or float64, out of any strides."""
    few = np.ascontiguousarray(few)
    tasks = max(1, min(get_num_threads(), b.size // _LEAST_ELEMENTS, b.shape[1]))
    by_rows = b.strides[1] == b.itemsize
    (_ADD_ROWS if by_rows else _DOT_COLUMNS)[few.dtype](tasks, few, b if by_rows else b.T, out, tasks)


@jit
def _add_four_rows(few: Any, b: Any, k: int, first: int, count: int, sums: Any, stride: int) -> None:
    """sums[r] += few[r, k : k + 4] . b[k : k + 4, first : first + count], count in whole registers."""
    source, step = pointer(b[k], first), b.strides[0] // b.itemsize
    for j in range(0, count, lanes_at(sums)):
        b0, b1 = load_vector(offset(source, j)), load_vector(offset(source, step + j))
        b2, b3 = load_vector(offset(source, 2 * step + j)), load_vector(offset(source, 3 * step + j))
        for r in range(few.shape[0]):
            a, total = pointer(few, r * few.shape[1] + k), offset(sums, r * stride + j)
            half = fma(splat(a[1]), b1, fma(splat(a[0]), b0, load_vector(total)))
            store_vector(total, fma(splat(a[3]), b3, fma(splat(a[2]), b2, half)))


def add_rows(task: int, few: Any, b: Any, out: Any, tasks: int) -> None:
    """The task's columns of out; b : [K, N] with adjacent elements in a row."""
    rows, depth = few.shape
    columns = b.shape[1]
    stride = _SUMS // rows // 64 * 64
    memory = np.empty(rows * stride, out.dtype)
    sums = pointer(memory, 0)
    lanes = lanes_at(sums)
    last = columns * (task + 1) // tasks
    for first in range(columns * task // tasks, last, stride):
        count = min(stride, last - first)
        vectors, fours = count // lanes * lanes, depth // 4 * 4
        memory[:] = 0
        for k in range(0, fours, 4):
            _add_four_rows(few, b, k, first, vectors, sums, stride)
        for r in range(rows):
            for k in range(fours, depth):
                for j in range(vectors):
                    sums[r * stride + j] += few[r, k] * b[k, first + j]
            for k in range(depth):
                for j in range(vectors, count):
                    sums[r * stride + j] += few[r, k] * b[k, first + j]
            for j in range(count):
                out[r, first + j] = sums[r * stride + j]


def dot_columns(task: int, few: Any, columns: Any, out: Any, tasks: int) -> None:
    """The task's columns of out; columns : [N, K], those of B, with adjacent elements in each."""
    rows, depth = few.shape
    memory = np.empty((rows, 4), out.dtype)
    last = columns.shape[0] * (task + 1) // tasks
    for first in range(columns.shape[0] * task // tasks, last, 4):
        memory[:] = 0
        for k in range(0, depth, _CHUNK):
            for r in range(rows):
                _dot_four(few, r, columns, first, last - 1, k, min(depth, k + _CHUNK), memory)
        for r in range(rows):
            for i in range(min(4, last - first)):
                out[r, first + i] = memory[r, i]


@jit
def _dot_four(few: Any, r: int, columns: Any, first: int, most: int, k: int, k_end: int, sums: Any) -> None:
    """sums[r] += few[r, k : k_end] . columns[first : first + 4, k : k_end], the last column again for those beyond."""
    a = pointer(few, r * few.shape[1])
    c0, c1 = pointer(columns[first], 0), pointer(columns[min(first + 1, most)], 0)
    c2, c3 = pointer(columns[min(first + 2, most)], 0), pointer(columns[min(first + 3, most)], 0)
    lanes = lanes_at(a)
    s0 = s1 = s2 = s3 = splat(few.dtype.type(0))
    whole = k + (k_end - k) // lanes * lanes
    for i in range(k, whole, lanes):
        x = load_vector(offset(a, i))
        s0, s1 = fma(x, load_vector(offset(c0, i)), s0), fma(x, load_vector(offset(c1, i)), s1)
        s2, s3 = fma(x, load_vector(offset(c2, i)), s2), fma(x, load_vector(offset(c3, i)), s3)
    t0, t1, t2, t3 = sum_lanes(s0), sum_lanes(s1), sum_lanes(s2), sum_lanes(s3)
    for i in range(whole, k_end):
        t0, t1, t2, t3 = t0 + a[i] * c0[i], t1 + a[i] * c1[i], t2 + a[i] * c2[i], t3 + a[i] * c3[i]
    sums[r, 0] += t0
    sums[r, 1] += t1
    sums[r, 2] += t2
    sums[r, 3] += t3


def _for_both(body: Callable[..., None]) -> dict[np.dtype[Any], Kernel]:
    """The body compiled for float32 and for float64."""

    def made(element: Any) -> Kernel:
        few, matrix = types.Array(element, 2, "C", readonly=True), types.Array(element, 2, "A", readonly=True)
        return kernel(few, matrix, types.Array(element, 2, "A"), types.intp)(body)

    return {np.dtype(np.float32): made(float32), np.dtype(np.float64): made(float64)}


_ADD_ROWS, _DOT_COLUMNS = _for_both(add_rows), _for_both(dot_columns)
