"""A linear layer's weight, packed once: as panels, in the dtype that it is multiplied in."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import types
from numpy.typing import ArrayLike, NDArray

from fastsedd_kernels.gemm.dot_products import COLUMNS, SUMS_OF_PAIRS_FIT, ZERO_POINT
from fastsedd_kernels.gemm.group_scaled.microkernel import BUNDLE
from fastsedd_kernels.gemm.group_scaled.quantise import quantise
from fastsedd_kernels.gemm.group_scaled.storage import EIGHT_BITS, FOUR_BITS, Quantised, beside, packed, unpacked
from fastsedd_kernels.gemm.layout import whole_words
from fastsedd_kernels.gemm.operands import Rows
from fastsedd_kernels.gemm.pack_a import take_rows
from fastsedd_kernels.gemm.pack_b import pack_into, pack_transposed, panels_shape, read_only, side_by_side
from fastsedd_kernels.gemm.strassen.product import MAX_LEVELS, pack_sums
from fastsedd_kernels.runtime.arrays import aligned_empty, as_array
from fastsedd_kernels.runtime.kernel import kernel
from fastsedd_kernels.runtime.scalar import pointer

ROWS_PER_TASK = 64
_PANELS_AT_ONCE = 32

_MAX_BYTE = 127.0  # of a signed byte, with as much below zero
_MAX_INPUTS = (2**31 - 1) // (127 * 128)  # of int8, whose sums of products fit 32 bits


@dataclass(frozen=True)
class PackedWeight:
    """A linear layer's weight in panels, read-only: made by `pack`, taken by `linear`.

    panels : [ceil(outputs / NR), depth, NR], of words where several narrow numbers make one (`dot_products`); with
        Strassen's products, those of `strassen.pack_sums`; of a pair, NR / 2 columns of each side by side
    shape : (outputs, inputs) as the weight had it
    dtype : "float32", "float64", "bfloat16", "int8", or, in groups of 32 inputs, "int8g" or "int4"
    quantisation : of int8, the scales and corrections of `epilogue.Int8Epilogue`; in groups, the scales and minima of
        `group_scaled.storage`; else empty
    strassen : levels of Strassen's products that it is multiplied by; 0 for none
    paired : whether it is a pair of weights, whose outputs `linear` multiplies with each other
    """

    panels: NDArray[Any]
    shape: tuple[int, int]
    dtype: str
    quantisation: tuple[NDArray[Any], ...] = ()
    strassen: int = 0
    paired: bool = False

    def __post_init__(self) -> None:
        """Move panels of bfloat16 that begin a page, as those of a mapped file may: products may read two bytes before
        them (`dot_products`), where no memory need be."""
        if self.dtype == "bfloat16" and self.panels.ctypes.data % mmap.PAGESIZE == 0:
            panels = aligned_empty(self.panels.shape, self.panels.dtype)
            panels[...] = self.panels
            object.__setattr__(self, "panels", read_only(panels))

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.__post_init__()

    @property
    def nbytes(self) -> int:
        return self.panels.nbytes + sum(part.nbytes for part in self.quantisation)

    @property
    def rows_together(self) -> int:
        """Rows that are stored side by side: weights of whole multiples of them are joined panel by panel."""
        return int(self.panels.shape[2]) * (BUNDLE if self.dtype in GROUPED else 1)

    def rows(self, numbers: NDArray[Any]) -> NDArray[np.float32]:
        """Rows of the weight as they are stored: an embedding that is the head too need not be kept twice.

        numbers : integers [n], 0 to outputs - 1, which is not checked beyond NumPy's own refusals
        Returns float32 [n, inputs]. Raises ValueError where the weight is not one of float32 or bfloat16 alone.
        """
        if self.dtype not in ("float32", "bfloat16") or self.strassen or self.paired:
            raise ValueError(f"rows of a weight packed as {self.dtype}, in one piece, allowed: float32, bfloat16")
        panel, column = np.divmod(numbers, self.panels.shape[2])
        stored = self.panels[panel, :, column]  # [n, depth]
        if self.dtype == "float32":
            return np.ascontiguousarray(stored[:, : self.shape[1]])
        halves = np.ascontiguousarray(stored).astype("<u4", copy=False).view("<u2")[:, : self.shape[1]]
        return (halves.astype(np.uint32) << 16).view(np.float32)


def pack(
    weight: ArrayLike | Sequence[ArrayLike],
    dtype: str = "float32",
    strassen: int = 0,
    *,
    scale: ArrayLike | None = None,
    minimum: bool = False,
) -> PackedWeight:
    """Pack a linear layer's weight for `linear`: once per weight, then multiply by it many times.

    weight : float32 [outputs, inputs] as in torch.nn.Linear, any strides; float64 for that dtype. Or two of one shape,
        [gate, up], of any dtype but float64: with them `linear` gives activation(x @ gate.T) * (x @ up.T).
    dtype : how it is stored and multiplied. "bfloat16": rounded to nearest even. "int8": each output's weights in steps
        of a 127th of their largest magnitude; on a CPU that adds two products in 16 bits (`cpu_info().int8` is
        "pmaddubsw"), of the largest sum of two neighbours' positive or negative parts, 1.3 times it as a rule.
        "int8g", "int4": each group of 32 inputs in steps of its own, a float16; of 8 and of 4 bits
        (`group_scaled.quantise`). Inputs need not be a multiple of 32: zeros are added. Errors of products of normal
        numbers, of their norm: bfloat16 0.2 %, int8 1.1 % (1.4 % with sums of neighbours), int8g 0.8 %, int4 8.6 %.
    strassen : 0, 1 or 2 levels of Strassen's products, of float32 only. Each takes 7/4 of the memory, and its error is
        that of `strassen_matmul`. Worth it for thousands of rows and outputs, and 2,048 inputs or more: measure.
    scale : float32 [inputs], which the inputs' columns are multiplied by first: the weight of an `rms_norm` before the
        layer, which then needs none. Exact as float32 if both hold bfloat16's numbers, as checkpoints do (two of 8
        digits have a product of 16), else rounded once; in bfloat16 or int8 each product is rounded, where x was.
    minimum : of a weight in groups: each group has, beside its step, a float16 that all its values are relative to, so
        that the steps divide its range: half a bit more for each value, and an error of int4 of 7.9 %.
    Raises ValueError for another dtype, a weight that is not 2-D, one without elements, and, of int8 and in groups, one
    that is not finite; of int8, one of more than 132,104 inputs, whose sums would not fit 32 bits.
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
        raise ValueError("dtype is 'float64' for a pair of weights, allowed: any other")
    if scale is not None:
        parts = [_scaled(part, scale) for part in parts]
    if minimum and dtype not in GROUPED:
        raise ValueError(f"minimum is {minimum!r} for {dtype}, allowed: for {' or '.join(map(repr, GROUPED))} only")
    if dtype == "int8" and shape[1] > _MAX_INPUTS:
        raise ValueError(f"weight has {shape[1]} inputs, allowed for int8: at most {_MAX_INPUTS}; for int8g any number")
    if dtype in GROUPED:
        return from_groups([quantise(part, dtype, minimum) for part in parts])
    width = COLUMNS[np.dtype(_PANELS[dtype])]
    array = side_by_side(parts, width) if paired else parts[0]
    if strassen > 0:
        return PackedWeight(read_only(pack_sums(array, strassen)), shape, dtype, strassen=strassen)
    if dtype == "bfloat16":
        return PackedWeight(_in_parts(array, width, _rounded)[0], shape, dtype, paired=paired)
    if dtype == "int8":
        panels, quantisation = _in_parts(array, width, _quantised)
        return PackedWeight(panels, shape, dtype, quantisation, paired=paired)
    return PackedWeight(pack_transposed(array), shape, dtype, paired=paired)


_PANELS = {"float32": np.float32, "float64": np.float64, "bfloat16": np.uint32, "int8": np.int32}
GROUPED = (EIGHT_BITS, FOUR_BITS)
_STORED = (*_PANELS, *GROUPED)


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


def from_groups(parts: list[Quantised]) -> PackedWeight:
    """A weight that has its codes and scales already, or a pair of them."""
    first = parts[0]
    panels, quantisation = packed(first if len(parts) == 1 else beside(*parts))
    dtype = FOUR_BITS if first.codes.dtype == np.uint8 else EIGHT_BITS
    return PackedWeight(panels, (len(first.codes), first.inputs), dtype, quantisation, paired=len(parts) == 2)


def unpack(weight: PackedWeight) -> NDArray[Any]:
    """The weight that `linear` multiplies by, as it was rounded when it was packed.

    float32, or float64, [outputs, inputs]; of a pair [2, outputs, inputs]
    Raises ValueError for one that is packed for Strassen's products, whose sums are not the weight.
    """
    outputs, inputs = weight.shape
    if weight.strassen > 0:
        raise ValueError(f"weight is packed with strassen={weight.strassen}, allowed: 0")
    panels, _, nr = weight.panels.shape
    if weight.dtype in GROUPED:
        rows = unpacked((weight.panels, weight.quantisation), inputs).values()
    else:
        rows = _unpacked_rows(weight)[:, :inputs]
    if weight.paired:
        return rows.reshape(panels, 2, nr // 2, inputs).swapaxes(0, 1).reshape(2, -1, inputs)[:, :outputs]
    return rows[:outputs]


def _unpacked_rows(weight: PackedWeight) -> NDArray[Any]:
    """The rows of a weight that is not in groups, with those and those columns that are padding."""
    rows = np.ascontiguousarray(weight.panels.transpose(0, 2, 1)).reshape(-1, weight.panels.shape[1])
    if weight.dtype == "bfloat16":
        return (rows.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    if weight.dtype == "int8":
        return np.asarray(rows.view(np.int8) * weight.quantisation[0][:, None])
    return rows


@kernel(types.Array(types.float32, 2, "A", readonly=True), types.uint32[:, ::1])
def round_rows(task: int, x: Any, words: Any) -> None:
    """ROWS_PER_TASK rows of adjacent elements, in bfloat16, two to a word."""
    first = task * ROWS_PER_TASK
    rows = min(ROWS_PER_TASK, x.shape[0] - first)
    copy = Rows(pointer(words, first * words.shape[1]), words.shape[1])
    take_rows(x, first, rows, copy, pointer(x, 0), False)


def _in_parts(
    array: NDArray[Any], width: int, convert: Callable[[NDArray[Any]], tuple[NDArray[Any], ...]]
) -> tuple[NDArray[Any], tuple[NDArray[Any], ...]]:
    """The panels of an array's rows as words, and what is told of each row, with zeros behind the last.

    width : columns of a panel
    convert : called with some rows at a time, since all at once take several times the memory of the result; it returns
        their words, then arrays with a number for each of them
    """
    at_once = _PANELS_AT_ONCE * width
    panels: NDArray[Any] | None = None
    told = []
    for first in range(0, len(array), at_once):
        words, *numbers = convert(array[first : first + at_once])
        if panels is None:
            panels = aligned_empty(panels_shape(len(array), words.shape[1], words.dtype), words.dtype)
        pack_into(words, panels[first // width : (first + at_once) // width])
        told.append(numbers)
    assert panels is not None
    padding = (0, len(panels) * width - len(array))
    return read_only(panels), tuple(
        read_only(np.pad(np.concatenate(each), padding)) for each in zip(*told, strict=True)
    )


def _rounded(weight: NDArray[np.float32]) -> tuple[NDArray[np.uint32]]:
    """[N, K] as bfloat16 words [N, ceil(K / 2)]."""
    rows = weight if weight.strides[1] == weight.itemsize else np.ascontiguousarray(weight)
    words = np.empty((len(rows), whole_words(rows.shape[1], types.uint32)), np.uint32)
    round_rows(-(-len(rows) // ROWS_PER_TASK), rows, words)
    return (words,)


def _quantised(weight: NDArray[np.float32]) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int32]]:
    """[N, K] as words [N, ceil(K / 4)] of signed bytes; each row's step; corrections for A's ZERO_POINT."""
    largest = np.abs(weight).max(axis=1)
    if not np.isfinite(largest).all():
        raise ValueError("weight holds a NaN or an infinity, which int8 cannot")
    magnitude = _largest_sums_of_pairs(weight) if SUMS_OF_PAIRS_FIT else largest.astype(np.float64)
    exact = np.divide(_MAX_BYTE, magnitude, out=np.zeros_like(magnitude), where=magnitude > 0)
    with np.errstate(over="ignore"):
        rounded = exact.astype(np.float32).astype(np.float64)
    scale = np.where(np.isfinite(rounded), rounded, exact)  # of rows of less than 1e-36, too
    whole = np.zeros((len(weight), 4 * whole_words(weight.shape[1], types.int32)), np.int8)
    whole[:, : weight.shape[1]] = np.rint(weight * scale[:, None])
    step = (magnitude / _MAX_BYTE).astype(np.float32)
    return whole.view(np.int32), step, -ZERO_POINT * whole.sum(axis=1, dtype=np.int32)


def _largest_sums_of_pairs(weight: NDArray[np.float32]) -> NDArray[np.float64]:
    """Largest sum of the positive parts of two neighbours in each row, or of their negative parts, by magnitude.

    A step of a 127th of it leaves at most 128 of such sums, of rounded numbers. Times 255, the most of A's bytes, that
    is in the range of 16 bits.
    """
    pairs = np.pad(weight, ((0, 0), (0, weight.shape[1] % 2))).reshape(len(weight), -1, 2)
    zero = np.float32(0.0)
    above, below = (bound(pairs, zero).sum(axis=2, dtype=np.float64) for bound in (np.maximum, np.minimum))
    return np.asarray(np.maximum(above.max(axis=1), -below.min(axis=1)))
