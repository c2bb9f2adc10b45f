"""B, rearranged once into the order in which the micro-kernel reads it.

    panels[p, k, j] = B[k, p * NR + j]          panels : [ceil(N / NR), K, NR], zero beyond column N

A panel is one long sequential read; its zero columns let every micro-kernel run at full width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import types
from numpy.typing import ArrayLike, NDArray

from fastsedd_kernels._arrays import aligned_empty, as_array
from fastsedd_kernels.gemm.microkernel import COLUMNS
from fastsedd_kernels.parallel import Kernel, kernel


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


def _make_pack(element: Any) -> Kernel:
    def pack_panels(task: int, weight: Any, panels: Any) -> None:
        """panels[task] from the weight's rows task * NR and on, one row of the weight a column of the panel."""
        width = panels.shape[2]
        first = task * width
        columns = min(width, weight.shape[0] - first)
        for k in range(panels.shape[1]):
            for j in range(columns):
                panels[task, k, j] = weight[first + j, k]
            for j in range(columns, width):
                panels[task, k, j] = 0.0

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


def pack_transposed(weight: NDArray[Any]) -> NDArray[Any]:
    """The read-only panels of B = weight.T; weight [N, K], any strides, checked by the caller."""
    outputs, inputs = weight.shape
    width = COLUMNS[weight.dtype]
    panels = aligned_empty((-(-outputs // width), inputs, width), weight.dtype)
    _PACK[weight.dtype](len(panels), weight, panels)
    panels.flags.writeable = False
    return panels
