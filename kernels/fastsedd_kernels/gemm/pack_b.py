"""B in panels: rearranged into the order in which the micro-kernel reads it.

    panels[p, k, j] = B[k, p * NR + j]          panels : [ceil(N / NR), K, NR], zero beyond column N

A panel is one long sequential read; its zero columns let every micro-kernel run at full width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from fastsedd_kernels.gemm.dot_products import COLUMNS
from fastsedd_kernels.runtime.arrays import aligned_empty
from fastsedd_kernels.runtime.jit import jit
from fastsedd_kernels.runtime.kernel import Kernel, kernel
from fastsedd_kernels.runtime.machines import CACHE_LINE
from fastsedd_kernels.runtime.program import KernelCall
from fastsedd_kernels.runtime.scalar import offset, pointer
from fastsedd_kernels.runtime.threads import get_num_threads
from fastsedd_kernels.simd.vector import lanes_at, load_vector, store_vector, transpose_square

PANELS_PER_TASK = 8  # at most: neighbours share pages of B


@jit
def pack_elements(weight: Any, first: int, panel: Any, k: int, j: int) -> None:
    """Fill the panel, except panel[:k, :j], element by element; zero beyond the last row of the weight.

    0 <= k <= K, 0 <= j <= NR.
    """
    for i in range(panel.shape[0]):
        for column in range(j if i < k else 0, panel.shape[1]):
            panel[i, column] = weight[first + column, i] if first + column < weight.shape[0] else 0


@jit
def _pack_rows(weight: Any, first: int, panels: Any, panel: int, count: int) -> None:
    """Whole panels of a B whose rows hold adjacent elements: row by row, all panels at once."""
    width = panels.shape[2]
    lanes = lanes_at(pointer(panels, 0))
    for k in range(panels.shape[1]):
        source = pointer(weight[first:, k], 0)
        for p in range(count):
            target = pointer(panels, ((panel + p) * panels.shape[1] + k) * width)
            for j in range(0, width, lanes):
                store_vector(offset(target, j), load_vector(offset(source, p * width + j)))


@jit
def pack_columns(weight: Any, first: int, panel: Any) -> None:
    """One panel of a B whose columns hold adjacent elements, by squares of registers, those of a cache line together:
    other columns, some KiB apart, may share its set of L1."""
    width, depth = panel.shape[1], panel.shape[0]
    lanes = lanes_at(pointer(panel, 0))
    columns = max(0, min(width, weight.shape[0] - first))  # a panel of padding begins beyond the last row
    whole_depth, whole_columns = depth // lanes * lanes, columns // lanes * lanes
    step = weight.strides[0] // weight.itemsize
    line = max(lanes, CACHE_LINE // weight.itemsize)
    for edge in range(0, whole_depth, line):
        for j in range(0, whole_columns, lanes):
            for k in range(edge, min(edge + line, whole_depth), lanes):
                target = offset(pointer(panel, 0), k * width + j)
                transpose_square(pointer(weight[first + j, k:], 0), step, target, width)
    pack_elements(weight, first, panel, whole_depth, whole_columns)


def pack_panels(task: int, weight: Any, panels: Any, together: int) -> None:
    """`together` of the panels, from as many rows of the weight, each a column of a panel.

    weight : [N, K] = B.T, any strides; panels : [ceil(N / NR), K, NR], apart from it; both float32 or float64
    """
    width, step = panels.shape[2], weight.itemsize
    first_panel = task * together
    last_panel = min(panels.shape[0], first_panel + together)
    by_rows = weight.strides[0] == step
    by_columns = weight.strides[1] == step and weight.strides[0] % step == 0
    nothing = np.intp(0)  # not a literal, which would compile the function once more
    whole = min(last_panel, weight.shape[0] // width) - first_panel if by_rows else 0
    if whole > 0:
        _pack_rows(weight, first_panel * width, panels, first_panel, whole)
    for panel in range(first_panel + max(0, whole), last_panel):
        if by_columns:
            pack_columns(weight, panel * width, panels[panel])
        else:
            pack_elements(weight, panel * width, panels[panel], nothing, nothing)


def _kernel(element: Any) -> Kernel:
    return kernel(types.Array(element, 2, "A", readonly=True), element[:, :, ::1], types.intp)(pack_panels)


PACK = {np.dtype(np.float32): _kernel(types.float32), np.dtype(np.float64): _kernel(types.float64)}


def pack_transposed(weight: NDArray[Any]) -> NDArray[Any]:
    """The read-only panels of B = weight.T; weight [N, K], any strides, of floats or words, checked by the caller."""
    panels = aligned_empty(panels_shape(weight.shape[0], weight.shape[1], weight.dtype), weight.dtype)
    pack_into(weight, panels)
    return read_only(panels)


def pack_into(weight: NDArray[Any], panels: NDArray[Any]) -> None:
    """Fill panels, of any width, with B = weight.T."""
    moved = np.dtype(f"f{weight.itemsize}")  # words are moved as floats of their size, bit for bit
    kernel, tasks, arguments = packing(weight.view(moved), panels.view(moved), get_num_threads())
    kernel(tasks, *arguments)


def panels_shape(outputs: int, inputs: int, dtype: np.dtype[Any]) -> tuple[int, int, int]:
    """Shape of the panels of a B [inputs, outputs]: [ceil(outputs / NR), inputs, NR]."""
    width = COLUMNS[dtype]
    return -(-outputs // width), inputs, width


def packing(weight: NDArray[Any], panels: NDArray[Any], threads: int) -> KernelCall:
    """The call that fills panels with B = weight.T, of floats, on `threads` threads."""
    tasks = max(1, threads * -(-len(panels) // (threads * PANELS_PER_TASK)))  # as many for each thread
    together = max(1, -(-len(panels) // tasks))
    return PACK[weight.dtype], -(-len(panels) // together), (weight, panels, together)


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    """A view of the array that cannot be written."""
    view = array.view()
    view.flags.writeable = False
    return view


def side_by_side(pair: Sequence[NDArray[Any]], nr: int) -> NDArray[Any]:
    """Two arrays [N, ...] as one, [panels * NR, ...]: NR / 2 rows of the first, as many of the second, and so on.

    Zeros fill the last panel.
    """
    half = nr // 2
    outputs, rest = len(pair[0]), pair[0].shape[1:]
    both = np.zeros((-(-outputs // half), 2, half, *rest), pair[0].dtype)
    whole = outputs // half
    for side, part in enumerate(pair):
        both[:whole, side] = part[: whole * half].reshape(whole, half, *rest)
        both[whole:, side, : outputs - whole * half] = part[whole * half :]
    return both.reshape(len(both) * nr, *rest)
