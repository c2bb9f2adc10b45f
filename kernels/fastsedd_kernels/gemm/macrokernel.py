"""The blocked product: which tiles of C a task computes, and in what order, so that its operands stay in cache.

    for a block of rows              MC rows of C
        for a group of panels        NC columns; all of them, unless there are several slabs
            for a slab of depth      KC of K; MC x KC of A stay in L2 while the panels pass over them
                for a panel of B     KC x NR, read from L2 by every tile but the first
                    for a tile       MR x NR of C in registers: the micro-kernel
                        epilogue     on the finished tile, still in L1

Between slabs the sums of a group wait in MC x NC of scratch memory, in L2, or in C itself where no epilogue follows.
While a panel is multiplied, the next one is asked for, a share with each tile: it may lie in L3 or memory. A single
tile of vector registers asks for none: it reads panels as fast as memory gives them, and one so far ahead would be in
the way. A task is a rectangle of C, so each element of C is summed by one thread in one order. The names are those of
Goto and van de Geijn (2008); A is read where it lies, B comes packed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import float32, float64, int32, types, uint32

from fastsedd_kernels.gemm.dot_products import UNROLL
from fastsedd_kernels.gemm.epilogue import (
    PARTS,
    VECTOR,
    bias_at,
    columns_of,
    finish_tile,
    is_bare,
    place_of_sums,
    residual_at,
    result_at,
)
from fastsedd_kernels.gemm.microkernel import (
    close_tiles,
    has_tiles,
    link_tile,
    multiply_tile,
    open_tiles,
    tile_rows,
)
from fastsedd_kernels.gemm.pack_a import SIDE, is_read_in_place, new_sums, rows_in_place, take_rows
from fastsedd_kernels.runtime.cpu import CACHE_LINE, CROWDED
from fastsedd_kernels.runtime.jit import jit
from fastsedd_kernels.runtime.kernel import Kernel, kernel
from fastsedd_kernels.runtime.scalar import aligned, offset, pointer
from fastsedd_kernels.simd.vector import copy_padded, lanes_at


@jit
def _part(count: int, parts: int, index: int) -> Any:
    """The index-th of `parts` nearly equal parts of range(count), as (first, last)."""
    return count * index // parts, count * (index + 1) // parts


@jit
def _tile(rows: int, tiles: int, index: int, b: Any) -> Any:
    """The index-th of `tiles` tiles of range(rows), as (first, last): full ones, but the last two, which share.

    A tile of few rows leaves the FMA units waiting for their own results; two of half the height do not. (Tile
    registers take as long for few rows as for many.)
    """
    height = tile_rows(b)
    full = max(0, tiles - 2)
    if index < full or has_tiles(b):
        return index * height, min(rows, (index + 1) * height)
    first, last = _part(rows - full * height, tiles - full, index - full)
    return full * height + first, full * height + last


@jit
def _slab(depth: int, slabs: int, index: int, b: Any) -> Any:
    """The index-th slab of the depth, which for tile registers is a whole number of theirs."""
    if has_tiles(b):
        first, last = _part(depth // SIDE, slabs, index)
        return first * SIDE, last * SIDE
    return _part(depth, slabs, index)


@jit
def _multiply_panel(
    a: Any, lda: int, first_row: int, rows: int, panels: Any, panel: int, k: int, depth: int, ahead: Any,
    sums: Any, edge: Any, factors: Any, accumulate: bool, parts: Any, out: Any,
) -> None:  # fmt: skip
    """Add a[0:rows, 0:depth] . panel[k : k + depth] to the panel's columns of out, from row first_row on.

    sums : where it is kept between slabs, [rows, NR]; used for one tile at a time where there is one slab
    edge : [NR], for a bias that ends in mid-register
    ahead : the block of B that comes next
    """
    nr, ldc = panels.shape[2], out.strides[0] // out.itemsize
    column = panel * nr
    columns = min(nr, columns_of(parts, out) - column)
    first, last = k == 0, k + depth == panels.shape[1]
    b = pointer(panels, (panel * panels.shape[1] + k) * nr)
    lanes = lanes_at(sums)
    vectors = -(-columns // lanes)
    whole = is_bare(parts) and columns == vectors * lanes
    biased, bias = bias_at(parts, column, columns, edge)
    tiles = -(-rows // tile_rows(b))
    # With each group of k: the tiles together ask for all of B.
    lines = -(-UNROLL * nr // lanes_at(b) // tiles) if tiles > 1 or has_tiles(b) else 0
    for tile in range(tiles):
        top, bottom = _tile(rows, tiles, tile, b)
        result = result_at(parts, first_row + top, column, nr, out)
        in_place = whole and not (has_tiles(b) and (bottom - top) % SIDE > 0)
        scratch = offset(sums, 0 if first and last else top * nr)
        target, stride = place_of_sums(in_place, result, ldc, scratch, nr)
        start, step = (bias, 0) if first and biased else (target, stride)
        if first and accumulate and not in_place:
            copy_padded(result, ldc, bottom - top, columns, target, nr)
        multiply_tile(
            bottom - top, vectors, depth, offset(a, top * lda), lda, b, nr, target, stride,
            not first or biased or accumulate, start, step,
            offset(ahead, tile * lines * lanes_at(b) * (depth // UNROLL)), lines,
            result, residual_at(parts, first_row + top, column, nr, out), ldc,
        )  # fmt: skip
        if last and not in_place:
            finish_tile(
                target, nr, bottom - top, first_row + top, columns, column, offset(factors, top), parts, out
            )  # fmt: skip


def multiply_rectangle(
    task: int, x: Any, panels: Any, parts: Any, out: Any, accumulate: bool,
    grid_rows: int, grid_panels: int, mc: int, kc: int, group: int,
) -> None:  # fmt: skip
    """One rectangle of out = epilogue([out +] x . B).

    x : [M, K], any strides where the panels have its dtype, else adjacent elements in a row; panels : see `packing`;
    parts : see `epilogue`; out : [M, N], adjacent elements in a row, or [M, sums]
    """
    nr, depth = panels.shape[2], panels.shape[1]
    height = tile_rows(pointer(panels, 0))
    first_row, last_row = _part(out.shape[0], grid_rows, task // grid_panels)
    first_panel, last_panel = _part(panels.shape[0], grid_panels, task % grid_panels)
    slabs = -(-depth // kc)
    if slabs == 1:
        group = last_panel - first_panel
    line = CACHE_LINE // panels.itemsize  # more elements than are used, of memory that starts on a cache line's edge
    sums = new_sums(pointer(panels, 0), mc * nr * (1 if slabs == 1 else group) + line)
    edge, factors = np.empty(nr, out.dtype), np.empty(mc, np.float32)
    adjacent = x.strides[1] == x.itemsize and x.strides[0] % x.itemsize == 0
    # Crowded rows are copied: those of a tile would evict each other.
    direct = is_read_in_place(x, panels) and adjacent and x.strides[0] % CROWDED != 0
    tiled = has_tiles(pointer(panels, 0))
    lda = x.strides[0] // x.itemsize if direct else (depth if tiled else depth + line)
    copy = np.empty(0 if direct else mc * lda + line, panels.dtype)
    tiles = -(-(last_row - first_row) // height)
    blocks = -(-tiles * height // mc)
    open_tiles(pointer(panels, 0))
    for block in range(blocks):
        first_tile, last_tile = _part(tiles, blocks, block)
        row = first_row + first_tile * height
        rows = min(last_row, first_row + last_tile * height) - row
        a = rows_in_place(x, row * lda, copy)
        if not direct:
            a = aligned(copy)
            take_rows(x, row, rows, lda, a, pointer(factors, 0), tiled)
        for group_first in range(first_panel, last_panel, group):
            group_last = min(last_panel, group_first + group)
            for slab in range(slabs):
                k, k_end = _slab(depth, slabs, slab, pointer(panels, 0))
                for panel in range(group_first, group_last):
                    if panel + 1 == group_last and k_end < depth:
                        ahead = pointer(panels, (group_first * depth + k_end) * nr)
                    else:
                        ahead = pointer(panels, ((panel + 1) * depth + (k if panel + 1 < group_last else 0)) * nr)
                    _multiply_panel(
                        offset(a, k * SIDE if tiled else k), lda, row, rows, panels, panel, k, k_end - k, ahead,
                        offset(aligned(sums), 0 if slabs == 1 else (panel - group_first) * mc * nr),
                        pointer(edge, 0), pointer(factors, 0), accumulate, parts, out,
                    )  # fmt: skip
    close_tiles(pointer(panels, 0))


def _kernel(element: Any, parts: Any) -> Kernel:
    real = float64 if element == float64 else float32
    x, panels = types.Array(real, 2, "A", readonly=True), types.Array(element, 3, "C", readonly=True)
    signature = (x, panels, parts, types.Array(real, 2, "A"), types.boolean, *[types.intp] * 5)
    return kernel(*signature, link=lambda: link_tile(element))(multiply_rectangle)


_SUMMED = types.Tuple(
    (VECTOR, types.intp, types.Array(int32, 1, "C", readonly=True), types.Array(float64, 1, "C", readonly=True),
     types.boolean)
)  # fmt: skip

# By the dtype of the panels.
MULTIPLY = {
    np.dtype(np.float32): _kernel(float32, types.Tuple(PARTS)),
    np.dtype(np.float64): _kernel(float64, types.Tuple(())),
    np.dtype(np.uint32): _kernel(uint32, types.Tuple(PARTS)),
    np.dtype(np.int32): _kernel(int32, types.Tuple((*PARTS, VECTOR, types.Array(int32, 1, "C", readonly=True)))),
}

# The same products, of which `panel_sums` keeps what a draw needs.
SUM_PANELS = {np.dtype(np.float32): _kernel(float32, _SUMMED), np.dtype(np.uint32): _kernel(uint32, _SUMMED)}
