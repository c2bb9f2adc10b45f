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

import functools
from typing import Any

import numpy as np
from numba import float32, float64, types

from fastsedd_kernels._jit import jit
from fastsedd_kernels._simd import CACHE_LINE, aligned, lanes_at, offset, pointer
from fastsedd_kernels.cpu import cpu_info
from fastsedd_kernels.gemm.epilogue import bias_at, finish_tile, is_bare, residual_at
from fastsedd_kernels.gemm.microkernel import COLUMNS, ROWS, link_tile, multiply_tile
from fastsedd_kernels.parallel import Kernel, kernel

MOST_TILES = 32  # of a block of rows: the more, the fewer times B is read
MOST_DEPTH = 1024  # of a slab: the deeper, the rarer a tile is loaded and stored

# Rows of A this many bytes apart share so few sets of L1 that a tile's rows evict each other; such rows are copied.
CROWDED = 4096
LINE = CACHE_LINE // 4  # more elements than are used, of scratch memory that starts on a cache line's edge

ENOUGH_ROWS = 12 * ROWS  # of a task
_UNEVEN = 0.03  # by how much the largest task may exceed the least that is possible

# Below this many multiply-adds a second thread costs more to start than it saves.
_SERIAL_WORK = 1 << 19


@functools.lru_cache(1024)
def plan(threads: int, rows: int, depth: int, panels: int, itemsize: int) -> tuple[int, int, int, int, int]:
    """What the kernels' last five arguments are for C of that many rows and panels: the task grid and the blocking."""
    return *task_grid(threads, rows, depth, panels, itemsize), *blocking(depth, itemsize)


def task_grid(threads: int, rows: int, depth: int, panels: int, itemsize: int = 4) -> tuple[int, int]:
    """How many parts the rows and the panels of C are cut into: one rectangle a thread, nearly as equal as they come.

    Where several grids are, rows are cut first: a core then finds in its own cache the rows that it wrote in the layer
    before. But each task keeps ENOUGH_ROWS, if it can: so many that reading B is hidden behind the products.
    """
    nr = COLUMNS[np.dtype(f"f{itemsize}")]
    if threads == 1 or rows * panels * nr * depth < _SERIAL_WORK:
        return 1, 1
    divisors = [r for r in range(1, threads + 1) if threads % r == 0]
    grids = [(r, threads // r) for r in divisors if r <= rows and threads // r <= panels]
    if not grids:
        return min(rows, threads), 1

    def rectangle(grid: tuple[int, int]) -> int:
        return -(-rows // grid[0]) * -(-panels // grid[1])

    def preference(grid: tuple[int, int]) -> tuple[int, int]:
        tall = -(-rows // grid[0])
        return max(0, ENOUGH_ROWS - tall), tall

    equal = min(map(rectangle, grids)) * (1 + _UNEVEN)
    return min((grid for grid in grids if rectangle(grid) <= equal), key=preference)


def blocking(depth: int, itemsize: int = 4) -> tuple[int, int, int]:
    """(MC, KC, NC / NR): rows of A and depth of a slab for a quarter of a core's L2, panels of C for an eighth."""
    slabs = -(-depth // MOST_DEPTH)
    slab = -(-depth // slabs)
    l2 = cpu_info().l2 // itemsize
    rows = max(1, min(MOST_TILES, l2 // 4 // slab // ROWS)) * ROWS
    return rows, slab, max(1, l2 // 8 // rows // COLUMNS[np.dtype(f"f{itemsize}")])


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
    share = -(-nr // tiles)  # of a row of B to ask for with each k, so that the tiles together ask for all of it
    for tile in range(tiles):
        top, bottom = _tile(rows, tiles, tile)
        result = pointer(out, (first_row + top) * ldc + column)
        if in_place:
            target, stride = result, ldc
        else:
            target, stride = offset(sums, 0 if first and last else top * nr), nr
        from_bias = first and biased
        multiply_tile(
            bottom - top, vectors, depth, offset(a, top * lda), lda,
            pointer(panels, (panel * panels.shape[1] + k) * nr), nr, target, stride,
            not first or biased or (in_place and accumulate), bias if from_bias else target, 0 if from_bias else stride,
            offset(ahead, tile * share * depth), share, result, residual_at(parts, first_row + top, column, out), ldc,
        )  # fmt: skip
        if last and not in_place:
            finish_tile(target, nr, bottom - top, first_row + top, columns, column, accumulate, parts, out)


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
