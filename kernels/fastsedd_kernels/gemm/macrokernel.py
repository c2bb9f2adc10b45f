"""The blocked product: which tiles of C a task computes, and in what order, so that its operands stay in cache.

    for a block of rows              MC rows of C
        for a group of panels        NC columns; all of them, unless there are several slabs
            for a slab of depth      KC of K; MC x KC of A stay in L2 while the panels pass over them
                for a panel of B     KC x NR, read from L2 by every tile but the first
                    for a tile       MR x NR of C in registers: the micro-kernel
                        epilogue     on the finished tile, still in L1

Between slabs the sums of a group wait in MC x NC of scratch memory, in L2, or in C itself where no epilogue follows.
While a panel is multiplied, the next one is asked for, a share with each tile: it may lie in L3 or memory.
A task is a rectangle of C, so each element of C is summed by one thread in one order. The names are those of Goto and
van de Geijn (2008); A is read where it lies, B comes packed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import float32, float64, types

from fastsedd_kernels._jit import jit
from fastsedd_kernels._simd import CACHE_LINE, aligned, lanes_at, offset, pointer
from fastsedd_kernels.gemm.epilogue import bias_at, finish_tile, is_bare, residual_at
from fastsedd_kernels.gemm.microkernel import ROWS, UNROLL, link_tile, multiply_tile
from fastsedd_kernels.parallel import Kernel, kernel

# Rows of A this many bytes apart share so few sets of L1 that a tile's rows evict each other; such rows are copied.
CROWDED = 4096
LINE = CACHE_LINE // 4  # more elements than are used, of scratch memory that starts on a cache line's edge


@jit
def _part(count: int, parts: int, index: int) -> Any:
    """The index-th of `parts` nearly equal parts of range(count), as (first, last)."""
    return count * index // parts, count * (index + 1) // parts


@jit
def _tile(rows: int, tiles: int, index: int) -> Any:
    """The index-th of `tiles` tiles of range(rows), as (first, last): full ones, but the last two, which share.

    A tile of few rows leaves the FMA units waiting for their own results; two of half the height do not.
    """
    full = max(0, tiles - 2)
    if index < full:
        return index * ROWS, (index + 1) * ROWS
    first, last = _part(rows - full * ROWS, tiles - full, index - full)
    return full * ROWS + first, full * ROWS + last


@jit
def _copy_rows(x: Any, row: int, rows: int, stride: int, copy: Any) -> None:
    """copy[r * stride + k] = x[row + r, k]: rows with adjacent elements that do not share the same sets of L1."""
    step = x.strides[1] // x.itemsize
    for r in range(rows):
        source, target = pointer(x[row + r], 0), offset(copy, r * stride)
        if step == 1:
            for k in range(x.shape[1]):
                target[k] = source[k]
        else:
            for k in range(x.shape[1]):
                target[k] = source[k * step]


@jit
def _copy_tile(source: Any, ldc: int, rows: int, columns: int, target: Any, nr: int) -> None:
    """What is in out, into scratch memory as wide as whole registers; zeros beside it."""
    for r in range(rows):
        for j in range(nr):
            target[r * nr + j] = source[r * ldc + j] if j < columns else 0


@jit
def _multiply_panel(
    a: Any, lda: int, first_row: int, rows: int, panels: Any, panel: int, k: int, depth: int, ahead: Any,
    sums: Any, edge: Any, accumulate: bool, parts: Any, out: Any,
) -> None:  # fmt: skip
    """Add a[0:rows, 0:depth] . panel[k : k + depth] to the panel's columns of out, from row first_row on.

    sums : where it is kept between slabs, [rows, NR]; used for one tile at a time where there is one slab
    edge : [NR], for a bias that ends in mid-register
    ahead : the block of B that comes next
    """
    nr, ldc = panels.shape[2], out.strides[0] // out.itemsize
    column = panel * nr
    columns = min(nr, out.shape[1] - column)
    first, last = k == 0, k + depth == panels.shape[1]
    vectors = -(-columns // lanes_at(sums))
    in_place = is_bare(parts) and columns == vectors * lanes_at(sums)
    biased, bias = bias_at(parts, column, columns, edge)
    tiles = -(-rows // ROWS)
    lines = -(-UNROLL * nr // lanes_at(sums) // tiles)  # with each group of k: the tiles together ask for all of B
    for tile in range(tiles):
        top, bottom = _tile(rows, tiles, tile)
        result = pointer(out, (first_row + top) * ldc + column)
        if in_place:
            target, stride = result, ldc
        else:
            target, stride = offset(sums, 0 if first and last else top * nr), nr
        start, step = (bias, 0) if first and biased else (target, stride)
        if first and accumulate and not in_place:
            _copy_tile(result, ldc, bottom - top, columns, target, nr)
        multiply_tile(
            bottom - top, vectors, depth, offset(a, top * lda), lda,
            pointer(panels, (panel * panels.shape[1] + k) * nr), nr, target, stride,
            not first or biased or accumulate, start, step,
            offset(ahead, tile * lines * lanes_at(sums) * (depth // UNROLL)), lines,
            result, residual_at(parts, first_row + top, column, out), ldc,
        )  # fmt: skip
        if last and not in_place:
            finish_tile(target, nr, bottom - top, first_row + top, columns, column, parts, out)


def multiply_rectangle(
    task: int, x: Any, panels: Any, parts: Any, out: Any, accumulate: bool,
    grid_rows: int, grid_panels: int, mc: int, kc: int, group: int,
) -> None:  # fmt: skip
    """One rectangle of out = epilogue([out +] x . B).

    x : [M, K], any strides; panels : see `packing`; parts : see `epilogue`; out : [M, N], adjacent elements in a row
    """
    nr, depth = panels.shape[2], panels.shape[1]
    first_row, last_row = _part(out.shape[0], grid_rows, task // grid_panels)
    first_panel, last_panel = _part(panels.shape[0], grid_panels, task % grid_panels)
    slabs = -(-depth // kc)
    if slabs == 1:
        group = last_panel - first_panel
    sums = np.empty(mc * nr * (1 if slabs == 1 else group) + LINE, out.dtype)
    edge = np.empty(nr, out.dtype)
    adjacent = x.strides[1] == x.itemsize and x.strides[0] % x.itemsize == 0
    direct = adjacent and x.strides[0] % CROWDED != 0
    lda = x.strides[0] // x.itemsize if direct else depth + LINE
    copy = np.empty(0 if direct else mc * lda + LINE, out.dtype)
    tiles = -(-(last_row - first_row) // ROWS)
    blocks = -(-tiles * ROWS // mc)
    for block in range(blocks):
        first_tile, last_tile = _part(tiles, blocks, block)
        row = first_row + first_tile * ROWS
        rows = min(last_row, first_row + last_tile * ROWS) - row
        a = pointer(x, row * lda)
        if not direct:
            a = aligned(copy)
            _copy_rows(x, row, rows, lda, a)
        for group_first in range(first_panel, last_panel, group):
            group_last = min(last_panel, group_first + group)
            for slab in range(slabs):
                k, k_end = _part(depth, slabs, slab)
                for panel in range(group_first, group_last):
                    if panel + 1 == group_last and k_end < depth:
                        ahead = pointer(panels, (group_first * depth + k_end) * nr)
                    else:
                        ahead = pointer(panels, ((panel + 1) * depth + (k if panel + 1 < group_last else 0)) * nr)
                    _multiply_panel(
                        offset(a, k), lda, row, rows, panels, panel, k, k_end - k, ahead,
                        offset(aligned(sums), 0 if slabs == 1 else (panel - group_first) * mc * nr),
                        pointer(edge, 0), accumulate, parts, out,
                    )  # fmt: skip


def _kernel(element: Any, parts: Any) -> Kernel:
    x, panels = types.Array(element, 2, "A", readonly=True), types.Array(element, 3, "C", readonly=True)
    out = types.Array(element, 2, "A")
    signature = (x, panels, parts, out, types.boolean, *[types.intp] * 5)
    return kernel(*signature, link=lambda: link_tile(element))(multiply_rectangle)


_VECTOR = types.Array(float32, 1, "C", readonly=True)
_MATRIX = types.Array(float32, 2, "C", readonly=True)

MULTIPLY = {
    np.dtype(np.float32): _kernel(float32, types.Tuple((_VECTOR, types.intp, _MATRIX, _MATRIX))),
    np.dtype(np.float64): _kernel(float64, types.Tuple(())),
}
