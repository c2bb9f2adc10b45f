"""B, rearranged once into the order in which the micro-kernel reads it.

    panels[p, k, j] = B[k, p * NR + j]          panels : [ceil(N / NR), K, NR], zero beyond column N

A panel is one long sequential read; its zero columns let every micro-kernel run at full width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import types
from numpy.typing import ArrayLike, NDArray

from fastsedd_kernels._arrays import aligned_empty, as_array
from fastsedd_kernels._jit import jit
from fastsedd_kernels._simd import lanes_at, load_vector, offset, pointer, store_vector, transpose_square
from fastsedd_kernels.gemm.microkernel import COLUMNS
from fastsedd_kernels.parallel import Kernel, kernel

# Neighbouring panels share pages of B, and a task is too short to be worth handing out with fewer.
PANELS_A_TASK = 8


@dataclass(frozen=True)
class PackedWeight:
    """A linear layer's weight in panels, read-only: made by `pack`, taken by `linear`.

    panels : [ceil(outputs / NR), inputs, NR]; shape : (outputs, inputs) as the weight had it
    """

    panels: NDArray[Any]
    shape: tuple[int, int]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.panels.dtype

    @property
    def nbytes(self) -> int:
        return self.panels.nbytes


@jit
def _pack_elements(weight: Any, first: int, panel: Any, k: int, k_end: int, j: int, j_end: int) -> None:
    """panel[k : k_end, j : j_end], one by one; zero beyond the last row of the weight."""
    for i in range(k, k_end):
        for column in range(j, j_end):
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
def _pack_columns(weight: Any, first: int, panel: Any) -> None:
    """One panel of a B whose columns hold adjacent elements, by squares of registers."""
    width, depth = panel.shape[1], panel.shape[0]
    lanes = lanes_at(pointer(panel, 0))
    columns = min(width, weight.shape[0] - first)
    whole_depth, whole_columns = depth // lanes * lanes, columns // lanes * lanes
    step = weight.strides[0] // weight.itemsize
    for k in range(0, whole_depth, lanes):
        for j in range(0, whole_columns, lanes):
            transpose_square(pointer(weight[first + j, k:], 0), step, offset(pointer(panel, 0), k * width + j), width)
    _pack_elements(weight, first, panel, 0, whole_depth, whole_columns, width)
    _pack_elements(weight, first, panel, whole_depth, depth, 0, width)


def _make_pack(element: Any) -> Kernel:
    def pack_panels(task: int, weight: Any, panels: Any) -> None:
        """PANELS_A_TASK of the panels, from as many rows of the weight, each a column of a panel."""
        width, step = panels.shape[2], weight.itemsize
        first_panel = task * PANELS_A_TASK
        last_panel = min(panels.shape[0], first_panel + PANELS_A_TASK)
        by_rows = weight.strides[0] == step
        by_columns = weight.strides[1] == step and weight.strides[0] % step == 0
        whole = min(last_panel, weight.shape[0] // width) - first_panel if by_rows else 0
        if whole > 0:
            _pack_rows(weight, first_panel * width, panels, first_panel, whole)
        for panel in range(first_panel + max(0, whole), last_panel):
            if by_columns:
                _pack_columns(weight, panel * width, panels[panel])
            else:
                _pack_elements(weight, panel * width, panels[panel], 0, panels.shape[1], 0, width)

    pack_panels.__name__ = f"pack_{element}"
    return kernel(types.Array(element, 2, "A", readonly=True), element[:, :, ::1])(pack_panels)


_PACK = {np.dtype(np.float32): _make_pack(types.float32), np.dtype(np.float64): _make_pack(types.float64)}


def pack(weight: ArrayLike, dtype: str = "float32") -> PackedWeight:
    """Pack a linear layer's weight for `linear`: do it once a weight, then multiply by it many times.

    weight : [outputs, inputs] as in torch.nn.Linear, any strides, of that dtype
    dtype : "float32" or "float64", how the panels are stored and multiplied
    Raises ValueError for another dtype, a weight that is not 2-D, or one without elements.
    """
    if dtype not in ("float32", "float64"):
        raise ValueError(f"dtype is {dtype!r}, allowed are 'float32' and 'float64'")
    array = as_array("weight", weight, dtype)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"weight has shape {array.shape}, must be [outputs, inputs] with elements")
    return PackedWeight(pack_transposed(array), (array.shape[0], array.shape[1]))


def pack_transposed(weight: NDArray[Any], memory: NDArray[Any] | None = None) -> NDArray[Any]:
    """The read-only panels of B = weight.T; weight [N, K], any strides, checked by the caller.

    memory : where to put them, at least as large, 1-D, overwritten; None allocates
    """
    outputs, inputs = weight.shape
    width = COLUMNS[weight.dtype]
    shape = (-(-outputs // width), inputs, width)
    panels = aligned_empty(shape, weight.dtype) if memory is None else memory[: math.prod(shape)].reshape(shape)
    _PACK[weight.dtype](-(-len(panels) // PANELS_A_TASK), weight, panels)
    read_only = panels.view()
    read_only.flags.writeable = False
    return read_only
