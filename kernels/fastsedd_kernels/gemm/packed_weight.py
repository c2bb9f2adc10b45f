"""A linear layer's weight, packed once: as panels, in the dtype that it is multiplied in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import types
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastsedd_kernels.gemm.dot_products import COLUMNS
from fastsedd_kernels.gemm.layout import whole_words
from fastsedd_kernels.gemm.operands import Rows
from fastsedd_kernels.gemm.pack_a import ZERO_POINT, take_rows
from fastsedd_kernels.gemm.pack_b import pack_transposed, read_only
from fastsedd_kernels.gemm.strassen.product import MAX_LEVELS, pack_sums
from fastsedd_kernels.runtime.arrays import as_array
from fastsedd_kernels.runtime.kernel import kernel
from fastsedd_kernels.runtime.scalar import pointer

ROWS_PER_TASK = 64

_MAX_BYTE = np.float32(127.0)  # of a signed byte, with as much below zero


@dataclass(frozen=True)
class PackedWeight:
    """A linear layer's weight in panels, read-only: made by `pack`, taken by `linear`.

    panels : [ceil(outputs / NR), depth, NR], of words where several narrow numbers make one (`dot_products`); with
        Strassen's products, those of `strassen.pack_sums`; of a pair, NR / 2 columns of each side by side
    shape : (outputs, inputs) as the weight had it
    dtype : "float32", "float64", "bfloat16" or "int8"
    quantisation : of int8, the scales and corrections of `epilogue.Int8Epilogue`; else empty
    strassen : levels of Strassen's products that it is multiplied by; 0 for none
    paired : whether it is a pair of weights, whose outputs `linear` multiplies with each other
    """

    panels: NDArray[Any]
    shape: tuple[int, int]
    dtype: str
    quantisation: tuple[NDArray[Any], ...] = ()
    strassen: int = 0
    paired: bool = False

    @property
    def nbytes(self) -> int:
        return self.panels.nbytes + sum(part.nbytes for part in self.quantisation)


def pack(
    weight: ArrayLike | Sequence[ArrayLike],
    dtype: str = "float32",
    strassen: int = 0,
    *,
    scale: ArrayLike | None = None,
) -> PackedWeight:
    """Pack a linear layer's weight for `linear`: once per weight, then multiply by it many times.

    weight : float32 [outputs, inputs] as in torch.nn.Linear, any strides; float64 for that dtype. Or two of one shape,
        [gate, up], of float32, bfloat16 or int8: with them `linear` gives activation(x @ gate.T) * (x @ up.T).
    dtype : how it is stored and multiplied. "bfloat16": rounded to nearest even. "int8": each output's weights in steps
        of a 127th of their largest magnitude.
    strassen : 0, 1 or 2 levels of Strassen's products, of float32 only. Each takes 7/4 of the memory, and its error is
        that of `strassen_matmul`. Worth it for thousands of rows and outputs, and 2,048 inputs or more: measure.
    scale : float32 [inputs], which the inputs' columns are multiplied by first: the weight of an `rms_norm` before the
        layer, which then needs none. Exact as float32 if both hold bfloat16's numbers, as checkpoints do (two of 8
        digits have a product of 16), else rounded once; in bfloat16 or int8 each product is rounded, where x was.
    Raises ValueError for another dtype, a weight that is not 2-D, one without elements, and, of int8, one that is not
    finite.
    """
    if dtype not in _STORED:
        raise ValueError(f"dtype is {dtype!r}, allowed: {', '.join(map(repr, _STORED))}")
    parts = [_matrix(part, dtype) for part in _parts(weight)]
    paired, shape = len(parts) == 2, (parts[0].shape[0], parts[0].shape[1])
    if parts[-1].shape != shape:
        raise ValueError(f"weight is a pair of shapes {shape} and {parts[1].shape}, which must be equal")
    if strassen not in range(MAX_LEVELS + 1) or (strassen > 0 and (dtype != "float32" or paired)):
        raise ValueError(f"strassen is {strassen!r} for {dtype}, allowed: 0 to {MAX_LEVELS} for float32, else 0")
    if paired and dtype == "float64":
        raise ValueError("dtype is 'float64' for a pair of weights, allowed: 'float32', 'bfloat16', 'int8'")
    if scale is not None:
        parts = [_scaled(part, scale) for part in parts]
    array = side_by_side(parts, _PANELS[dtype]) if paired else parts[0]
    if strassen > 0:
        return PackedWeight(read_only(pack_sums(array, strassen)), shape, dtype, strassen=strassen)
    if dtype == "bfloat16":
        return PackedWeight(pack_transposed(_rounded(array)), shape, dtype, paired=paired)
    if dtype == "int8":
        words, scales, corrections = _quantised(array)
        panels = pack_transposed(words)
        padding = (0, len(panels) * panels.shape[2] - len(array))
        quantisation = read_only(np.pad(scales, padding)), read_only(np.pad(corrections, padding))
        return PackedWeight(panels, shape, dtype, quantisation, paired=paired)
    return PackedWeight(pack_transposed(array), shape, dtype, paired=paired)


_PANELS = {"float32": np.float32, "float64": np.float64, "bfloat16": np.uint32, "int8": np.int32}
_STORED = tuple(_PANELS)


def _parts(weight: Any) -> tuple[Any, ...]:
    """The two matrices of a pair, or the one that it is, as an array or by its rows."""
    if isinstance(weight, (list, tuple)) and len(weight) == 2 and all(getattr(part, "ndim", 0) == 2 for part in weight):
        return tuple(weight)
    return (weight,)


def _matrix(weight: ArrayLike, dtype: str) -> NDArray[Any]:
    array = as_array("weight", weight, np.float64 if dtype == "float64" else np.float32)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"weight has shape {array.shape}, must be [outputs, inputs] with elements")
    return array


def _scaled(weight: NDArray[Any], scale: ArrayLike) -> NDArray[Any]:
    factors = as_array("scale", scale, weight.dtype)
    if factors.shape != weight.shape[1:]:
        raise ValueError(f"scale has shape {factors.shape}, must be {weight.shape[1:]}")
    return np.asarray(weight * factors)


def side_by_side(pair: list[NDArray[Any]], dtype: DTypeLike) -> NDArray[Any]:
    """Two weights [N, K] as one, [panels * NR, K]: NR / 2 rows of the first, as many of the second, and so on.

    Zeros fill the last panel. dtype : of the panels
    """
    half = COLUMNS[np.dtype(dtype)] // 2
    outputs, inputs = pair[0].shape
    both = np.zeros((-(-outputs // half), 2, half, inputs), np.float32)
    whole = outputs // half
    for side, part in enumerate(pair):
        both[:whole, side] = part[: whole * half].reshape(whole, half, inputs)
        both[whole:, side, : outputs - whole * half] = part[whole * half :]
    return both.reshape(-1, inputs)


@kernel(types.Array(types.float32, 2, "A", readonly=True), types.uint32[:, ::1])
def round_rows(task: int, x: Any, words: Any) -> None:
    """ROWS_PER_TASK rows of adjacent elements, in bfloat16, two to a word."""
    first = task * ROWS_PER_TASK
    rows = min(ROWS_PER_TASK, x.shape[0] - first)
    copy = Rows(pointer(words, first * words.shape[1]), words.shape[1])
    take_rows(x, first, rows, copy, pointer(x, 0), False)


def _rounded(weight: NDArray[np.float32]) -> NDArray[np.uint32]:
    """[N, K] as bfloat16 words [N, ceil(K / 2)]."""
    rows = weight if weight.strides[1] == weight.itemsize else np.ascontiguousarray(weight)
    words = np.empty((len(rows), whole_words(rows.shape[1], types.uint32)), np.uint32)
    round_rows(-(-len(rows) // ROWS_PER_TASK), rows, words)
    return words


def _quantised(weight: NDArray[np.float32]) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int32]]:
    """[N, K] as words [N, ceil(K / 4)] of signed bytes; each row's step; corrections for A's bytes having no sign."""
    largest = np.abs(weight).max(axis=1)
    if not np.isfinite(largest).all():
        raise ValueError("weight holds a NaN or an infinity, which int8 cannot")
    scale = np.divide(_MAX_BYTE, largest, out=np.zeros_like(largest), where=largest > 0)
    whole = np.zeros((len(weight), 4 * whole_words(weight.shape[1], types.int32)), np.int8)
    whole[:, : weight.shape[1]] = np.rint(weight * scale[:, None].astype(np.float64))
    return whole.view(np.int32), largest / _MAX_BYTE, -ZERO_POINT * whole.sum(axis=1, dtype=np.int32)
