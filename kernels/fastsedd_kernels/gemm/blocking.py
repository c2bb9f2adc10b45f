"""Partition of a product: into rectangles of C, one per thread, and into the blocks that each cache is to hold.

dtype is that of B's panels, and depth counts their elements. The sizes of the caches give the blocks, within limits.
None of this changes a result: every element of C is one chain of products in the order of k.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from fastsedd_kernels.gemm.dot_products import COLUMNS, NUMPY, SHAPES
from fastsedd_kernels.gemm.tuned_blocks import Limits, limits
from fastsedd_kernels.runtime.cpu import cpu_info, isa

MAX_COLUMNS = 4096  # of a packed slab of B: with KC rows, 16 MiB of float32
ENOUGH_ROWS = 96  # of a task
_SHARE_OF_A, _SHARE_OF_C = isa().blocks.share_of_a, isa().blocks.share_of_c  # of L2
_MAX_PIECES = 8  # of a thread's rectangle
_UNEVEN = 0.03  # by how much the largest task may exceed the least that is possible

# Below this many multiply-adds a second thread costs more to start than it saves.
_SERIAL_WORK = 1 << 19

# And below these numbers of multiply-adds and of elements of B, where B is yet to be packed: panels that one core has
# just written take another one longer to fetch than it saves (measured: the two meet at 200 x 200 x 200).
_SERIAL_WORK_WITH_PACKING, _SERIAL_ELEMENTS = 1 << 23, 1 << 17


def threads_to_pack_and_multiply(threads: int, rows: int, elements: int) -> int:
    """The number of threads that should share the work on these rows of C and elements of a B that is not packed."""
    small = rows * elements < _SERIAL_WORK_WITH_PACKING and elements < _SERIAL_ELEMENTS
    return 1 if small else threads


def plan(threads: int, rows: int, depth: int, panels: int, dtype: np.dtype[Any]) -> tuple[int, int, int, int, int]:
    """The kernels' partition (`macrokernel.Partition`) for a C of these rows and panels: task grid and blocking."""
    within = limits()
    return _plan(within.tiles, within.depth, threads, rows, depth, panels, dtype)


@functools.lru_cache(1024)
def _plan(
    most_tiles: int, most_depth: int, threads: int, rows: int, depth: int, panels: int, dtype: np.dtype[Any]
) -> tuple[int, int, int, int, int]:
    tiles, max_depth, *sizes = block_limits(Limits(most_tiles, most_depth), dtype)
    if rows <= isa().tile.rows:  # A, one tile high, needs no slabs, and B is then read in one sweep
        max_depth = depth
    return *task_grid(threads, rows, depth, panels, COLUMNS[dtype]), *blocks(depth, tiles, max_depth, *sizes)


def task_grid(threads: int, rows: int, depth: int, panels: int, nr: int) -> tuple[int, int]:
    """The number of parts that the rows and the panels of C are cut into: a rectangle per thread, nearly equal.

    Where several grids are, rows are cut first: a core then finds in its own cache the rows that it wrote in the layer
    before. But each task keeps ENOUGH_ROWS, if it can: enough that reading B is hidden behind the products. A tall
    rectangle is several tasks, one below the other: another library's threads may still be awake on one of the cores
    (OpenBLAS's are for 25 ms), and the others then take over what its thread has not begun.
    """
    if threads == 1 or rows * panels * nr * depth < _SERIAL_WORK:
        return 1, 1
    divisors = [r for r in range(1, threads + 1) if threads % r == 0]
    grids = [(r, threads // r) for r in divisors if r <= rows and threads // r <= panels]
    if not grids:
        return (min(rows, threads), 1) if rows >= panels else (1, min(panels, threads))

    def rectangle(grid: tuple[int, int]) -> int:
        return -(-rows // grid[0]) * -(-panels // grid[1])

    def preference(grid: tuple[int, int]) -> tuple[int, int]:
        tall = -(-rows // grid[0])
        return max(0, ENOUGH_ROWS - tall), tall

    equal = min(map(rectangle, grids)) * (1 + _UNEVEN)
    grid_rows, grid_panels = min((grid for grid in grids if rectangle(grid) <= equal), key=preference)
    return grid_rows * max(1, min(_MAX_PIECES, rows // grid_rows // ENOUGH_ROWS)), grid_panels


@functools.lru_cache(1024)
def blocking(within: Limits, depth: int, dtype: np.dtype[Any]) -> tuple[int, int, int]:
    """(MC, KC, NC / NR): rows of A and depth of a slab for a quarter of a core's L2, panels of C for an eighth."""
    return blocks(depth, *block_limits(within, dtype))


def block_limits(within: Limits, dtype: np.dtype[Any]) -> tuple[int, int, int, int, int]:
    """The arguments of `blocks` after the depth."""
    return within.tiles, within.depth, cpu_info().l2 // dtype.itemsize, SHAPES[NUMPY[dtype]].rows, COLUMNS[dtype]


def blocks(depth: int, max_tiles: int, max_depth: int, l2: int, mr: int, nr: int) -> tuple[int, int, int]:
    """The arithmetic of `blocking`, which kernels compile too; l2 : elements in a core's L2."""
    slabs = -(-depth // max_depth)
    slab = -(-depth // slabs)
    rows = max(1, min(max_tiles, l2 // _SHARE_OF_A // slab // mr)) * mr
    return rows, slab, max(1, l2 // _SHARE_OF_C // rows // nr)
