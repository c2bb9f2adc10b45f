"""The blocked product: which tiles of C a task computes, and in what order, so that its operands stay in cache.

    for a block of rows              MC rows of C
        for a group of panels        NC columns; all of them, unless there are several slabs
            for a slab of depth      KC of K; MC x KC of A stay in L2 while the panels pass over them
                for a panel of B     KC x NR, read from L2 by every tile but the first
                    for a tile       MR x NR of C in registers: the micro-kernel
                        epilogue     on the finished tile, still in L1

Between slabs the sums of a group wait in MC x NC of scratch memory, in L2, or in C itself where no epilogue follows.
While a panel is multiplied, the next one, in L3 or memory, is prefetched, an equal share per tile. With one tile per
panel (small M) prefetch is off: the panel stream already saturates memory, and prefetching so far ahead would evict it.
A task is a rectangle of C, so each element of C is summed by one thread in one order. The names are those of Goto and
van de Geijn (2008); A is read where it lies, B comes packed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import float32, float64, int32, types, uint32

from fastsedd_kernels.gemm.draw_epilogue import DrawEpilogue
from fastsedd_kernels.gemm.epilogue import (
    EPILOGUE,
    INT8_EPILOGUE,
    VECTOR,
    Epilogue,
    Int8Epilogue,
    Plain,
    bias_at,
    columns_of,
    finish_tile,
    is_bare,
    place_of_sums,
    residual_at,
    result_at,
)
from fastsedd_kernels.gemm.layout import block_side, column_offset, row_stride, rows_written
from fastsedd_kernels.gemm.microkernel import close_tiles, link_tile, multiply_tile, open_tiles, tile_rows
from fastsedd_kernels.gemm.operands import Prefetch, Rows, Start, Tile, ahead_of, share_of
from fastsedd_kernels.gemm.pack_a import is_read_in_place, new_sums, rows_in_place, take_rows
from fastsedd_kernels.runtime.jit import inlined, jit
from fastsedd_kernels.runtime.kernel import Kernel, kernel
from fastsedd_kernels.runtime.machines import CACHE_LINE, CROWDED
from fastsedd_kernels.runtime.scalar import aligned, offset, pointer
from fastsedd_kernels.simd.vector import copy_padded, lanes_at


class Partition(NamedTuple):
    """The partition of C (`blocking.plan`): parts of its rows and panels, a task each; MC, KC, and panels per group."""

    row_parts: Any
    panel_parts: Any
    mc: Any
    kc: Any
    group: Any


class _Block(NamedTuple):
    """Rows of A in cache: which of C's they are, and, of int8, their factors. a : Rows"""

    a: Any
    first_row: Any
    rows: Any
    factors: Any


class _Slab(NamedTuple):
    """A run of K of one panel, from k to k_end, and a pointer to the block of B that comes next."""

    panel: Any
    k: Any
    k_end: Any
    ahead: Any


class _Memory(NamedTuple):
    """sums : where a panel's are kept between slabs, [rows, NR]; one tile's at a time where there is one slab
    edge : [NR], for a bias that ends in mid-register"""

    sums: Any
    edge: Any


@jit
def part(count: int, parts: int, index: int) -> Any:
    """The index-th of `parts` nearly equal parts of range(count), as (first, last)."""
    return count * index // parts, count * (index + 1) // parts


@jit
def _tile(rows: int, tiles: int, index: int, b: Any) -> Any:
    """The index-th of `tiles` tiles of range(rows), as (first, last): full ones, but the last two, which share.

    A tile of few rows leaves the FMA units waiting for their own results; two of half the height do not. (Blocks take
    as long for few rows as for many.)
    """
    height = tile_rows(b)
    full = max(0, tiles - 2)
    if index < full or block_side(b) > 1:
        return index * height, min(rows, (index + 1) * height)
    first, last = part(rows - full * height, tiles - full, index - full)
    return full * height + first, full * height + last


@jit
def _slab(depth: int, slabs: int, index: int, b: Any) -> Any:
    """The index-th slab of the depth: whole blocks of A."""
    side = block_side(b)
    first, last = part(depth // side, slabs, index)
    return first * side, last * side


@inlined
def _multiply_panel(block: Any, panels: Any, slab: Any, memory: Any, accumulate: bool, epilogue: Any, out: Any) -> None:
    """Add the block's rows times a slab to the panel's columns of out, and finish them after the last slab."""
    nr, ldc, depth = panels.shape[2], out.strides[0] // out.itemsize, slab.k_end - slab.k
    column = slab.panel * nr
    columns = min(nr, columns_of(epilogue, nr, out) - column)
    first, last = slab.k == 0, slab.k_end == panels.shape[1]
    b = pointer(panels, (slab.panel * panels.shape[1] + slab.k) * nr)
    lanes = lanes_at(memory.sums)
    vectors = -(-columns // lanes)
    whole = is_bare(epilogue) and columns == vectors * lanes
    biased, bias = bias_at(epilogue, column, columns, memory.edge)
    tiles = -(-block.rows // tile_rows(b))
    ahead = ahead_of(slab.ahead, depth * nr, depth, tiles if tiles > 1 or block_side(b) > 1 else 0)
    for tile in range(tiles):
        top, bottom = _tile(block.rows, tiles, tile, b)
        rows, row = bottom - top, block.first_row + top
        result = Rows(result_at(epilogue, row, column, nr, out), ldc)
        in_place = whole and rows_written(rows, b) == rows
        target = place_of_sums(in_place, result, Rows(offset(memory.sums, 0 if first and last else top * nr), nr))
        if first and accumulate and not in_place:
            copy_padded(result.pointer, ldc, rows, columns, target.pointer, nr)
        given = not first or biased or accumulate
        start, stride = (bias, 0) if first and biased else (target.pointer, target.stride)
        block_ahead, lines = share_of(ahead, tile)
        multiply_tile(
            rows,
            vectors,
            depth,
            Rows(offset(block.a.pointer, top * block.a.stride), block.a.stride),
            Rows(b, nr),
            target,
            Start(given, start, stride),
            Prefetch(
                block_ahead,
                lines,
                result.pointer,
                residual_at(epilogue, row, column, nr, out),
                ldc,
            ),
        )
        if last and not in_place:
            finish_tile(
                Tile(Rows(target.pointer, nr), rows, columns, row, column, offset(block.factors, top)), epilogue, out
            )


@jit
def _next_block(panels: Any, panel: int, k: int, k_end: int, group_first: int, group_last: int) -> Any:
    """Pointer to the block of B after panel[k:k_end]: the next panel's, or the group's first of the next slab."""
    depth, nr = panels.shape[1], panels.shape[2]
    if panel + 1 == group_last and k_end < depth:
        return pointer(panels, (group_first * depth + k_end) * nr)
    return pointer(panels, ((panel + 1) * depth + (k if panel + 1 < group_last else 0)) * nr)


@jit
def _multiply_rectangle(
    task: int, x: Any, panels: Any, epilogue: Any, out: Any, accumulate: bool, partition: Any
) -> None:
    """One rectangle of out = epilogue([out +] x . B).

    x : [M, K], any strides where the panels have its dtype, else adjacent elements in a row
    panels : [ceil(N / NR), K, NR], see `pack_b`; epilogue : see `epilogue`; partition : Partition
    out : [M, N], adjacent elements in a row, or [M, sums] of a draw
    """
    nr, depth, some = panels.shape[2], panels.shape[1], pointer(panels, 0)
    height, mc = tile_rows(some), partition.mc
    first_row, last_row = part(out.shape[0], partition.row_parts, task // partition.panel_parts)
    first_panel, last_panel = part(panels.shape[0], partition.panel_parts, task % partition.panel_parts)
    slabs = -(-depth // partition.kc)
    group = last_panel - first_panel if slabs == 1 else partition.group
    line = CACHE_LINE // panels.itemsize  # more elements than are used, of memory that starts on a cache line's edge
    sums = new_sums(some, mc * nr * (1 if slabs == 1 else group) + line)
    edge, factors = np.empty(nr, out.dtype), np.empty(mc, np.float32)
    adjacent = x.strides[1] == x.itemsize and x.strides[0] % x.itemsize == 0
    # Crowded rows are copied: those of a tile would evict each other.
    direct = is_read_in_place(x, panels) and adjacent and x.strides[0] % CROWDED != 0
    lda = x.strides[0] // x.itemsize if direct else row_stride(depth, line, some)
    copy = np.empty(0 if direct else mc * lda + line, panels.dtype)
    tiles = -(-(last_row - first_row) // height)
    blocks = -(-tiles * height // mc)
    open_tiles(some)
    for index in range(blocks):
        first_tile, last_tile = part(tiles, blocks, index)
        row = first_row + first_tile * height
        rows = min(last_row, first_row + last_tile * height) - row
        a = rows_in_place(x, row * lda, copy)
        if not direct:
            a = aligned(copy)
            take_rows(x, row, rows, Rows(a, lda), pointer(factors, 0), True)
        for group_first in range(first_panel, last_panel, group):
            group_last = min(last_panel, group_first + group)
            for slab in range(slabs):
                k, k_end = _slab(depth, slabs, slab, some)
                block = _Block(Rows(offset(a, column_offset(k, some)), lda), row, rows, pointer(factors, 0))
                for panel in range(group_first, group_last):
                    kept = offset(aligned(sums), 0 if slabs == 1 else (panel - group_first) * mc * nr)
                    ahead = _next_block(panels, panel, k, k_end, group_first, group_last)
                    _multiply_panel(
                        block,
                        panels,
                        _Slab(panel, k, k_end, ahead),
                        _Memory(kept, pointer(edge, 0)),
                        accumulate,
                        epilogue,
                        out,
                    )
    close_tiles(some)


# The bodies of the kernels: what comes from Python as plain tuples is named here (`epilogue` says why).


def _plain(task: int, x: Any, panels: Any, out: Any, accumulate: bool, partition: Any) -> None:
    _multiply_rectangle(task, x, panels, Plain(), out, accumulate, Partition(*partition))


def _with_epilogue(task: int, x: Any, panels: Any, parts: Any, out: Any, accumulate: bool, partition: Any) -> None:
    _multiply_rectangle(task, x, panels, Epilogue(*parts), out, accumulate, Partition(*partition))


def _of_int8(task: int, x: Any, panels: Any, parts: Any, out: Any, accumulate: bool, partition: Any) -> None:
    _multiply_rectangle(task, x, panels, Int8Epilogue(*parts), out, accumulate, Partition(*partition))


def _for_draw(task: int, x: Any, panels: Any, parts: Any, out: Any, accumulate: bool, partition: Any) -> None:
    _multiply_rectangle(task, x, panels, DrawEpilogue(*parts), out, accumulate, Partition(*partition))


def _kernel(element: Any, body: Any, *fields: Any) -> Kernel:
    """A kernel of (x, panels[, the epilogue's fields], out, accumulate, the partition's fields)."""
    real = float64 if element == float64 else float32
    x, panels = types.Array(real, 2, "A", readonly=True), types.Array(element, 3, "C", readonly=True)
    partition = types.UniTuple(types.intp, len(Partition._fields))
    parts = [types.Tuple(fields)] if fields else []
    signature = (x, panels, *parts, types.Array(real, 2, "A"), types.boolean, partition)
    return kernel(*signature, link=lambda: link_tile(element), name="multiply_rectangle")(body)


_DRAW_EPILOGUE = (
    VECTOR,
    types.intp,
    types.Array(int32, 1, "C", readonly=True),
    types.Array(float64, 1, "C", readonly=True),
    types.boolean,
)

# Products by the dtype of the panels: without an epilogue, for `matmul`; with one, for `linear`; for a draw.
MULTIPLY_PLAIN = {
    np.dtype(np.float32): _kernel(float32, _plain),
    np.dtype(np.float64): _kernel(float64, _plain),
}
MULTIPLY = {
    np.dtype(np.float32): _kernel(float32, _with_epilogue, *EPILOGUE),
    np.dtype(np.uint32): _kernel(uint32, _with_epilogue, *EPILOGUE),
    np.dtype(np.int32): _kernel(int32, _of_int8, *INT8_EPILOGUE),
}
SUM_PANELS = {
    np.dtype(np.float32): _kernel(float32, _for_draw, *_DRAW_EPILOGUE),
    np.dtype(np.uint32): _kernel(uint32, _for_draw, *_DRAW_EPILOGUE),
}
