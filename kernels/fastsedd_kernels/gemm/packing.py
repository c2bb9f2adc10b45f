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
from fastsedd_kernels.gemm.arithmetic import COLUMNS
from fastsedd_kernels.gemm.rows import ZERO_POINT, take_rows, whole_words
from fastsedd_kernels.parallel import Kernel, kernel

# Neighbouring panels share pages of B, and a task is too short to be worth handing out with fewer.
PANELS_A_TASK = 8
ROWS_A_TASK = 64

_MOST = np.float32(127.0)  # of a signed byte, with as much below zero


@dataclass(frozen=True)
class PackedWeight:
    """A linear layer's weight in panels, read-only: made by `pack`, taken by `linear`.

    panels : [ceil(outputs / NR), depth, NR], of words where several short numbers make one (`arithmetic`)
    shape : (outputs, inputs) as the weight had it
    dtype : "float32", "float64", "bfloat16" or "int8"
    quantisation : of int8, what `epilogue` calls scales and corrections; else empty
    """

    panels: NDArray[Any]
    shape: tuple[int, int]
    dtype: str
    quantisation: tuple[NDArray[Any], ...] = ()

    @property
    def nbytes(self) -> int:
        return self.panels.nbytes + sum(part.nbytes for part in self.quantisation)


@jit
def _pack_elements(weight: Any, first: int, panel: Any, k: int, j: int) -> None:
    """The panel, but panel[:k, :j], one by one; zero beyond the last row of the weight."""
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
    """One panel of a B whose columns hold adjacent elements, by squares of registers."""
    width, depth = panel.shape[1], panel.shape[0]
    lanes = lanes_at(pointer(panel, 0))
    columns = min(width, weight.shape[0] - first)
    whole_depth, whole_columns = depth // lanes * lanes, columns // lanes * lanes
    step = weight.strides[0] // weight.itemsize
    for k in range(0, whole_depth, lanes):
        for j in range(0, whole_columns, lanes):
            transpose_square(pointer(weight[first + j, k:], 0), step, offset(pointer(panel, 0), k * width + j), width)
    _pack_elements(weight, first, panel, whole_depth, whole_columns)


def _make_pack(element: Any) -> Kernel:
    def pack_panels(task: int, weight: Any, panels: Any) -> None:
        """PANELS_A_TASK of the panels, from as many rows of the weight, each a column of a panel."""
        width, step = panels.shape[2], weight.itemsize
        first_panel = task * PANELS_A_TASK
        last_panel = min(panels.shape[0], first_panel + PANELS_A_TASK)
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
                _pack_elements(weight, panel * width, panels[panel], nothing, nothing)

    pack_panels.__name__ = f"pack_{element}"
    return kernel(types.Array(element, 2, "A", readonly=True), element[:, :, ::1])(pack_panels)


PACK = {np.dtype(np.float32): _make_pack(types.float32), np.dtype(np.float64): _make_pack(types.float64)}


def pack(weight: ArrayLike, dtype: str = "float32") -> PackedWeight:
    """Pack a linear layer's weight for `linear`: do it once a weight, then multiply by it many times.

    weight : float32 [outputs, inputs] as in torch.nn.Linear, any strides; float64 for that dtype
    dtype : how it is stored and multiplied. "bfloat16": rounded to nearest even. "int8": each output's weights in steps
        of a 127th of their largest magnitude.
    Raises ValueError for another dtype, a weight that is not 2-D, one without elements, and, of int8, one that is not
    finite.
    """
    if dtype not in _STORED:
        raise ValueError(f"dtype is {dtype!r}, allowed are {', '.join(map(repr, _STORED))}")
    array = as_array("weight", weight, np.float64 if dtype == "float64" else np.float32)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"weight has shape {array.shape}, must be [outputs, inputs] with elements")
    shape = (array.shape[0], array.shape[1])
    if dtype == "bfloat16":
        return PackedWeight(pack_transposed(_rounded(array)), shape, dtype)
    if dtype == "int8":
        words, scales, corrections = _quantised(array)
        panels = pack_transposed(words)
        padding = (0, len(panels) * panels.shape[2] - len(array))
        return PackedWeight(
            panels, shape, dtype, (_read_only(np.pad(scales, padding)), _read_only(np.pad(corrections, padding)))
        )
    return PackedWeight(pack_transposed(array), shape, dtype)


_STORED = ("float32", "float64", "bfloat16", "int8")


def pack_transposed(weight: NDArray[Any], memory: NDArray[Any] | None = None) -> NDArray[Any]:
    """The read-only panels of B = weight.T; weight [N, K], any strides, of floats or words, checked by the caller.

    memory : where to put them, at least as large, 1-D, overwritten; None allocates
    """
    outputs, inputs = weight.shape
    width = COLUMNS[weight.dtype]
    shape = (-(-outputs // width), inputs, width)
    panels = aligned_empty(shape, weight.dtype) if memory is None else memory[: math.prod(shape)].reshape(shape)
    moved = np.dtype(f"f{weight.itemsize}")  # words are moved as floats of their size, bit for bit
    PACK[moved](-(-len(panels) // PANELS_A_TASK), weight.view(moved), panels.view(moved))
    return _read_only(panels)


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    view = array.view()
    view.flags.writeable = False
    return view


@kernel(types.Array(types.float32, 2, "A", readonly=True), types.uint32[:, ::1])
def round_rows(task: int, x: Any, words: Any) -> None:
    """ROWS_A_TASK rows of adjacent elements, in bfloat16, two to a word."""
    first = task * ROWS_A_TASK
    rows = min(ROWS_A_TASK, x.shape[0] - first)
    take_rows(x, first, rows, words.shape[1], pointer(words, first * words.shape[1]), pointer(x, 0), False)


def _rounded(weight: NDArray[np.float32]) -> NDArray[np.uint32]:
    """[N, K] as bfloat16 words [N, ceil(K / 2)]."""
    rows = weight if weight.strides[1] == weight.itemsize else np.ascontiguousarray(weight)
    words = np.empty((len(rows), whole_words(rows.shape[1], types.uint32)), np.uint32)
    round_rows(-(-len(rows) // ROWS_A_TASK), rows, words)
    return words


def _quantised(weight: NDArray[np.float32]) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int32]]:
    """[N, K] as words [N, ceil(K / 4)] of signed bytes; each row's step; what corrects A's bytes for having no sign."""
    largest = np.abs(weight).max(axis=1)
    if not np.isfinite(largest).all():
        raise ValueError("weight holds a NaN or an infinity, which int8 cannot")
    scale = np.divide(_MOST, largest, out=np.zeros_like(largest), where=largest > 0)
    whole = np.zeros((len(weight), 4 * whole_words(weight.shape[1], types.int32)), np.int8)
    whole[:, : weight.shape[1]] = np.rint(weight * scale[:, None].astype(np.float64))
    return whole.view(np.int32), largest / _MOST, -ZERO_POINT * whole.sum(axis=1, dtype=np.int32)
