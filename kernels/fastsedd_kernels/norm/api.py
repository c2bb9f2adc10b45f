"""`layer_norm` and `softmax`: arguments checked and brought into rows, then one call down."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastsedd_kernels.norm.kernel import ELEMENTS_PER_TASK, layer_norm_rows, softmax_rows
from fastsedd_kernels.runtime.arrays import as_array, as_number, check_apart, contiguous, groups_of_rows, output_like
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
) -> NDArray[np.float32]:
    """Layer norm over the last dimension, then adaLN's modulation: norm(x) * (1 + scale) + shift.

    x : float32 [..., N]; weight, bias : float32 [N]
    shift, scale : float32, both or neither, broadcast to x; fastest where they are constant over runs of rows ([N],
        [batch, 1, N])
    eps : added to the variance, 0 or above; out : float32 of x's shape, C-contiguous, may be x itself
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
    if out.size == 0:
        return out
    width = x.shape[-1]
    shift_rows, scale_rows = _NO_MATRIX, _NO_MATRIX
    if shift is not None and scale is not None:
        shift_rows, scale_rows = groups_of_rows("shift", shift, x.shape), groups_of_rows("scale", scale, x.shape)
        if len(shift_rows) != len(scale_rows):
            raise ValueError(f"shift and scale vary along different dimensions: {np.shape(shift)}, {np.shape(scale)}")
    gain, added = _row("weight", weight, width), _row("bias", bias, width)
    check_apart(out, in_place=True, x=x)
    check_apart(out, weight=gain, bias=added, shift=shift_rows, scale=scale_rows)
    tasks = _tasks(x.size)
    layer_norm_rows(
        tasks, x.reshape(-1, width), (gain, added, variance), shift_rows, scale_rows, out.reshape(-1, width), tasks
    )
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


def _row(name: str, value: ArrayLike | None, width: int) -> NDArray[np.float32]:
    if value is None:
        return _NO_VECTOR
    array = as_array(name, value)
    if array.shape != (width,):
        raise ValueError(f"{name} has shape {array.shape}, must be ({width},)")
    return contiguous(array)
