"""`layer_norm`, `rms_norm` and `softmax`: arguments checked and brought into rows, then one call down."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastsedd_kernels.norm.kernel import ELEMENTS_PER_TASK, layer_norm_rows, softmax_rows
from fastsedd_kernels.norm.rms_kernel import rms_norm_rows
from fastsedd_kernels.runtime.arrays import (
    as_array,
    as_finite,
    as_number,
    check_apart,
    contiguous,
    groups_of_rows,
    output_like,
    with_adjacent_elements,
)
from fastsedd_kernels.runtime.strided_rows import NO_ROWS, output_with_adjacent_elements, views_by_row
from fastsedd_kernels.runtime.threads import get_num_threads

_NO_VECTOR = np.empty(0, np.float32)
_NO_MATRIX = np.empty((0, 0), np.float32)


def layer_norm(
    x: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    shift: ArrayLike | None = None,
    scale: ArrayLike | None = None,
    eps: float = 1e-5,
    out: NDArray[np.float32] | None = None,
    residual: ArrayLike | None = None,
    residual_out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Layer norm over the last dimension, then adaLN's modulation: norm(x + residual) * (1 + scale) + shift.

    x : float32 [..., N]; weight, bias : float32 [N]
    shift, scale : float32, both or neither, broadcast to x; fastest where they are constant over runs of rows ([N],
        [batch, 1, N])
    eps : added to the variance, 0 or above; out : float32 of x's shape, C-contiguous, may be x or residual
    residual : float32 of x's shape; residual_out : as out, and apart from it: takes x + residual, and may be either
    Accumulates in float32, in two passes. Raises ValueError for a wrong dtype or shape, naming the argument.
    Source: Ba et al. 2016; modulation as in Peebles and Xie 2023 (DiT), section 3.2.
    """
    x = contiguous(as_array("x", x))
    if x.ndim == 0 or x.shape[-1] == 0:
        raise ValueError(f"x has shape {x.shape}, must be [..., N] with N at least 1")
    if (shift is None) != (scale is None):
        raise ValueError("shift and scale go together: one of them is missing")
    variance = np.float32(as_number("eps", eps, or_zero=True))
    out = output_like("out", out, x.shape)
    other, sums = _NO_MATRIX, _NO_MATRIX
    if residual is not None:
        other = contiguous(_residual(residual, x.shape))
    if residual_out is not None:
        _require_residual(residual)
        sums = output_like("residual_out", residual_out, x.shape)
    if out.size == 0:
        return out
    width = x.shape[-1]
    modulation = _modulation(shift, scale, x.shape)
    gain, added = _row("weight", weight, width), _row("bias", bias, width)
    for name, each in _outputs(out, sums):
        check_apart(each, in_place=True, called=name, x=x, residual=other)
        check_apart(each, called=name, weight=gain, bias=added, shift=modulation[0], scale=modulation[1])
    tasks = _tasks(x.size)
    rows = (-1, width)
    layer_norm_rows(
        tasks, (x.reshape(rows), other.reshape(rows)), (gain, added, variance), modulation,
        sums.reshape(rows), out.reshape(rows), tasks,
    )  # fmt: skip
    return out


def rms_norm(
    x: ArrayLike,
    weight: ArrayLike | None = None,
    eps: float = 1e-6,
    residual: ArrayLike | None = None,
    out: NDArray[np.float32] | None = None,
    residual_out: NDArray[np.float32] | None = None,
    offset: float = 0.0,
) -> NDArray[np.float32]:
    """RMS norm over the last dimension: s / sqrt(mean(s^2) + eps) * (offset + weight), where s = x + residual.

    x : float32 [..., N], such as [..., heads, dim]; rows may lie anywhere, their elements adjacent, else copied
    weight : float32 [N]; without one, nothing is multiplied, and the offset does not count
    eps : added to the mean square, 0 or above
    residual : float32 of x's shape; residual_out : as out, and apart from it: takes x + residual, and may be either
    out : float32 of x's shape, rows anywhere, their elements adjacent; may be x or residual
    offset : added to the weight: 1.0 is Gemma's form
    The mean square is taken in float32; a row with a NaN or an infinity becomes NaN or 0 as the formula has it.
    Raises ValueError for a wrong dtype or shape, naming the argument. Source: Zhang and Sennrich 2019.
    """
    x = as_array("x", x)
    if x.ndim == 0:
        raise ValueError(f"x has shape {x.shape}, must be [..., N]")
    gain = (_row("weight", weight, x.shape[-1]), np.float32(as_finite("offset", offset)))
    added = np.float32(as_number("eps", eps, or_zero=True))
    out = output_with_adjacent_elements("out", out, x.shape)
    other, sums = NO_ROWS, NO_ROWS
    if residual is not None:
        other = _residual(residual, x.shape)
    if residual_out is not None:
        _require_residual(residual)
        sums = output_with_adjacent_elements("residual_out", residual_out, x.shape)
    if out.size == 0:
        return out
    x, other = with_adjacent_elements(x), other if other is NO_ROWS else with_adjacent_elements(other)
    for name, each in _outputs(out, sums):
        check_apart(each, in_place=True, called=name, x=x, residual=other)
        check_apart(each, called=name, weight=gain[0])
    for source, term, kept, target in views_by_row(x, other, sums, out):
        tasks = _tasks(source.size)
        rms_norm_rows(tasks, (source, term), (*gain, added), kept, target, tasks)
    return out


def softmax(x: ArrayLike, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """Softmax over the last dimension. x : float32 [..., N]; out : float32 of x's shape, may be x itself.

    Error of an element, relative to it: below (max x - x + N / 8 + 20) 2^-24; one smaller than 2^-124 may be 0.
    A row with a NaN, an infinity or nothing but minus infinities becomes NaN, as in PyTorch; other minus infinities, 0.
    Accumulates in float32. Raises ValueError for a wrong dtype or shape. Source: the maximum is subtracted first, as
    in Blanchard, Higham and Higham 2021.
    """
    x = contiguous(as_array("x", x))
    if x.ndim == 0 or x.shape[-1] == 0:
        raise ValueError(f"x has shape {x.shape}, must be [..., N] with N at least 1")
    out = output_like("out", out, x.shape)
    check_apart(out, in_place=True, x=x)
    if out.size:
        tasks = _tasks(x.size)
        softmax_rows(tasks, x.reshape(-1, x.shape[-1]), out.reshape(-1, x.shape[-1]), tasks)
    return out


def _tasks(elements: int) -> int:
    return max(1, min(get_num_threads(), elements // ELEMENTS_PER_TASK))


def _modulation(
    shift: ArrayLike | None, scale: ArrayLike | None, shape: tuple[int, ...]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Shift and scale as a row of each for equal runs of the shape's rows; empty where there are none."""
    if shift is None or scale is None:
        return _NO_MATRIX, _NO_MATRIX
    rows = groups_of_rows("shift", shift, shape), groups_of_rows("scale", scale, shape)
    if len(rows[0]) != len(rows[1]):
        raise ValueError(f"shift and scale vary along different dimensions: {np.shape(shift)}, {np.shape(scale)}")
    return rows


def _residual(residual: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float32]:
    array = as_array("residual", residual)
    if array.shape != shape:
        raise ValueError(f"residual has shape {array.shape}, must be x's, {shape}")
    return array


def _outputs(out: NDArray[np.float32], sums: NDArray[np.float32]) -> list[tuple[str, NDArray[np.float32]]]:
    """The outputs that there are, by name; ValueError where they overlap each other."""
    if sums.size == 0:
        return [("out", out)]
    check_apart(out, residual_out=sums)
    return [("out", out), ("residual_out", sums)]


def _require_residual(residual: ArrayLike | None) -> None:
    if residual is None:
        raise ValueError("residual_out takes x + residual: there is no residual")


def _row(name: str, value: ArrayLike | None, width: int) -> NDArray[np.float32]:
    if value is None:
        return _NO_VECTOR
    array = as_array(name, value)
    if array.shape != (width,):
        raise ValueError(f"{name} has shape {array.shape}, must be ({width},)")
    return contiguous(array)
