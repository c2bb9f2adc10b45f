"""`layer_norm` and `softmax` inside njit functions; see `runtime/inside_numba`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.core.errors import TypingError

from fastsedd_kernels.norm.api import layer_norm, softmax
from fastsedd_kernels.norm.kernel import layer_norm_rows, softmax_rows
from fastsedd_kernels.runtime.inside_numba import caller, implements, is_absent, or_empty, or_new, require, require_out

_normalise, _softmax = caller(layer_norm_rows), caller(softmax_rows)


@implements(layer_norm)
def _layer_norm(
    x: Any, weight: Any = None, bias: Any = None, shift: Any = None, scale: Any = None, eps: Any = 1e-5, out: Any = None
) -> Any:  # fmt: skip
    require("x", x, (1, 2, 3, 4))
    for name, each in (("weight", weight), ("bias", bias)):
        require(name, each, (1,), optional=True)
    for name, each in (("shift", shift), ("scale", scale)):
        require(name, each, (2,), optional=True)
    if is_absent(shift) != is_absent(scale):
        raise TypingError("shift and scale go together: one of them is missing")
    require_out(out, (x.ndim,))
    weight_of, bias_of, shift_of, scale_of = (
        or_empty(weight, 1), or_empty(bias, 1), or_empty(shift, 2), or_empty(scale, 2)
    )  # fmt: skip
    target = or_new(out, np.float32)

    def implementation(
        x: Any, weight: Any = None, bias: Any = None, shift: Any = None, scale: Any = None, eps: Any = 1e-5,
        out: Any = None,
    ) -> Any:  # fmt: skip
        width = x.shape[-1]
        result = target(out, x.shape)
        factors, offsets, shifts, scales = weight_of(weight), bias_of(bias), shift_of(shift), scale_of(scale)
        if (factors.size > 0 and factors.size != width) or (offsets.size > 0 and offsets.size != width):
            raise ValueError("weight and bias must be [N]")
        if result.size > 0:
            rows = result.size // width
            if shifts.shape != scales.shape or (
                shifts.size > 0 and (shifts.shape[1] != width or rows % shifts.shape[0] != 0)
            ):
                raise ValueError("shift and scale must be [groups, N] for equal groups of rows")
            flat = np.ascontiguousarray(x).reshape((rows, width))
            affine = (factors, offsets, np.float32(eps))
            _normalise(1, (flat, affine, shifts, scales, result.reshape((rows, width)), np.intp(1)))
        return result

    return implementation


@implements(softmax)
def _softmax_overload(x: Any, out: Any = None) -> Any:
    require("x", x, (1, 2, 3, 4))
    require_out(out, (x.ndim,))
    target = or_new(out, np.float32)

    def implementation(x: Any, out: Any = None) -> Any:
        result = target(out, x.shape)
        if result.size > 0:
            width = x.shape[-1]
            rows = result.size // width
            _softmax(1, (np.ascontiguousarray(x).reshape((rows, width)), result.reshape((rows, width)), np.intp(1)))
        return result

    return implementation
