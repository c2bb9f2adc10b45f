"""The blocked product: which tiles of C a task computes, and in what order, so that its operands stay in cache.

    for a block of rows          rows x K of A stay in L2 while all panels pass over it
        for a panel of B         NR columns; the next is asked for ahead of time, in parts
            for a block of k     DEPTH_BLOCK x NR of the panel stays in L1 and L2 while the tiles pass over it
                for a tile       MR x NR of C in registers: the micro-kernel
            epilogue             on the strip rows x NR of C, still in L1 and L2

While a block of a panel is multiplied, the next one is asked for, a share with each tile: it may lie in L3 or memory.
A task is a rectangle of C, so each element of C is summed by one thread in one order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import float32, float64, types

from fastsedd_kernels._jit import jit
from fastsedd_kernels._simd import LANES, load_vector, offset, pointer, store_vector
from fastsedd_kernels.cpu import cpu_info
from fastsedd_kernels.gemm.epilogue import IDENTITY, finish_strip
from fastsedd_kernels.gemm.microkernel import COLUMNS, ROWS, multiply_tile_float32, multiply_tile_float64
from fastsedd_kernels.parallel import get_num_threads, kernel

MOST_TILES = 20  # of a block of rows: the more, the fewer times B is read
DEPTH_BLOCK = 512  # the deeper, the rarer a tile is loaded and stored

# Rows of A this many bytes apart share so few sets of L1 that a tile's rows evict each other; such rows are copied.
CROWDED = 2048
_NR32 = COLUMNS[np.dtype(np.float32)]
_NR64 = COLUMNS[np.dtype(np.float64)]

# Below this many multiply-adds a second thread costs more to start than it saves.
_SERIAL_WORK = 1 << 19

_X32 = types.Array(float32, 2, "A", readonly=True)
_VECTOR32 = types.Array(float32, 1, "C", readonly=True)
_MATRIX32 = types.Array(float32, 2, "C", readonly=True)
_PANELS32 = types.Array(float32, 3, "C", readonly=True)


def task_grid(rows: int, panels: int, depth: int, width: int) -> tuple[int, int]:
    """How many parts the rows and the panels of C are cut into: one rectangle a thread, as equal as they come.

    Among the grids of as many tasks as threads, the one whose largest rectangle is smallest; where several are, the
    one that reads the fewest bytes of A and B.
    """
    threads = get_num_threads()
    if threads == 1 or rows * panels * width * depth < _SERIAL_WORK:
        return 1, 1

    def cost(grid: tuple[int, int]) -> tuple[int, int]:
        tall, wide = -(-rows // grid[0]), -(-panels // grid[1]) * width
        return tall * wide, tall + wide

    grids = [(r, threads // r) for r in range(1, threads + 1) if threads % r == 0]
    return min(((r, c) for r, c in grids if r <= rows and c <= panels), key=cost, default=(min(rows, threads), 1))


def rows_a_block(depth: int) -> int:
    """Rows of A of that depth for half of a core's L2; at least a tile's, at most MOST_TILES'."""
    in_half = cpu_info().l2 // 2 // (4 * depth)
    return max(1, min(MOST_TILES, in_half // ROWS)) * ROWS


@jit
def _part(count: int, parts: int, index: int) -> Any:
    """The index-th of `parts` nearly equal parts of range(count), as (first, last)."""
    return count * index // parts, count * (index + 1) // parts


@jit
def _spread_rows(x: Any, row: int, rows: int, spread: Any) -> None:
    """Copy rows of x to where they do not compete for the same sets of L1."""
    depth = x.shape[1]
    for r in range(rows):
        source, target = pointer(x[row + r], 0), pointer(spread, r * spread.shape[1])
        whole = depth // LANES * LANES
        for k in range(0, whole, LANES):
            store_vector(offset(target, k), load_vector(offset(source, k)))
        for k in range(whole, depth):
            target[k] = source[k]


@jit
def _multiply_panel(
    a: Any, lda: int, rows: int, panels: Any, panel: int, target: Any, stride: int
) -> None:  # fmt: skip
    """target[0:rows, 0:NR] = a[0:rows] . the panel; lda and `stride` elements from row to row of a and target."""
    depth = panels.shape[1]
    tiles = -(-rows // ROWS)
    depth_blocks = -(-depth // DEPTH_BLOCK)
    share = -(-_NR32 // tiles)  # of a row of B to ask for with each k, so that the tiles together ask for all of it
    for depth_block in range(depth_blocks):
        k, k_end = _part(depth, depth_blocks, depth_block)
        block = panel * depth * _NR32
        for tile in range(tiles):
            top, bottom = _part(rows, tiles, tile)
            ahead = block + k_end * _NR32 + tile * share * (k_end - k)
            multiply_tile_float32(
                bottom - top, k_end - k, offset(a, top * lda + k), lda, pointer(panels, block + k * _NR32),
                offset(target, top * stride), stride, k > 0, pointer(panels, ahead), share,
            )  # fmt: skip


@kernel(
    _X32, _PANELS32, _VECTOR32, types.intp, _MATRIX32, _MATRIX32, float32[:, ::1], types.intp, types.intp, types.intp
)
def multiply_float32(
    task: int, x: Any, panels: Any, bias: Any, activation: int, gate: Any, residual: Any, out: Any,
    grid_rows: int, grid_panels: int, rows_a_block: int,
) -> None:  # fmt: skip
    """One rectangle of out = epilogue(x . B); x : [M, K] with adjacent elements in a row, panels : see packing."""
    width = out.shape[1]
    crowded = x.strides[0] % CROWDED == 0
    bare = activation == IDENTITY and bias.size == 0 and gate.size == 0 and residual.size == 0
    strip = np.empty((rows_a_block, _NR32), np.float32)
    spread = np.empty((rows_a_block if crowded else 0, x.shape[1] + LANES), np.float32)
    first_row, last_row = _part(out.shape[0], grid_rows, task // grid_panels)
    first_panel, last_panel = _part(panels.shape[0], grid_panels, task % grid_panels)
    blocks = -(-(last_row - first_row) // rows_a_block)
    for block in range(blocks):
        begin, end = _part(last_row - first_row, blocks, block)
        row, rows = first_row + begin, end - begin
        a, lda = pointer(x, row * (x.strides[0] // x.itemsize)), x.strides[0] // x.itemsize
        if crowded:
            _spread_rows(x, row, rows, spread)
            a, lda = pointer(spread, 0), spread.shape[1]
        for panel in range(first_panel, last_panel):
            column = panel * _NR32
            columns = min(_NR32, width - column)
            if bare and columns == _NR32:
                _multiply_panel(a, lda, rows, panels, panel, pointer(out, row * width + column), width)
            else:
                _multiply_panel(a, lda, rows, panels, panel, pointer(strip, 0), _NR32)
                finish_strip(strip, rows, row, columns, column, bias, activation, gate, residual, out)


@kernel(
    types.Array(float64, 2, "A", readonly=True), types.Array(float64, 3, "C", readonly=True), float64[:, ::1],
    types.intp, types.intp,
)  # fmt: skip
def multiply_float64(task: int, x: Any, panels: Any, out: Any, grid_rows: int, grid_panels: int) -> None:
    """One rectangle of out = x . B in float64, without an epilogue."""
    depth = x.shape[1]
    stride = x.strides[0] // x.itemsize
    strip = np.empty((ROWS, _NR64), np.float64)
    first_row, last_row = _part(out.shape[0], grid_rows, task // grid_panels)
    first_panel, last_panel = _part(panels.shape[0], grid_panels, task % grid_panels)
    tiles = -(-(last_row - first_row) // ROWS)
    for panel in range(first_panel, last_panel):
        column = panel * _NR64
        columns = min(_NR64, out.shape[1] - column)
        b = pointer(panels, panel * depth * _NR64)
        for tile in range(tiles):
            top, bottom = _part(last_row - first_row, tiles, tile)
            row = first_row + top
            multiply_tile_float64(
                bottom - top, depth, pointer(x, row * stride), stride, b, pointer(strip, 0), _NR64, False, b, 0
            )
            for r in range(bottom - top):
                for j in range(columns):
                    out[row + r, column + j] = strip[r, j]
