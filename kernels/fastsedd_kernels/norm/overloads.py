"""`layer_norm`, `rms_norm` and `softmax` inside njit functions; see `runtime/inside_numba`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.core.errors import TypingError
from numba.extending import register_jitable

from fastsedd_kernels.norm.api import layer_norm, rms_norm, softmax
from fastsedd_kernels.norm.kernel import layer_norm_rows, softmax_rows
from fastsedd_kernels.norm.rms_kernel import rms_norm_rows
from fastsedd_kernels.runtime.inside_numba import caller, implements, is_absent, or_empty, or_new, require, require_out

_normalise, _scale, _softmax = caller(layer_norm_rows), caller(rms_norm_rows), caller(softmax_rows)


def _terms(x: Any, residual: Any, residual_out: Any) -> Any:
    """An njit function (out, residual, residual_out): the residual and where sums go as [rows, N], types checked."""
    require("residual", residual, (x.ndim,), optional=True)
    require_out(residual_out, (x.ndim,), called="residual_out")
    if is_absent(residual) and not is_absent(residual_out):
        raise TypingError("residual_out takes x + residual: there is no residual")
    residual_of = or_empty(residual, x.ndim)
    sums_of = or_empty(residual_out, x.ndim)

    @register_jitable
    def terms(out: Any, residual: Any, residual_out: Any) -> Any:
        width = out.shape[-1]
        other, sums = residual_of(residual), sums_of(residual_out)
        if (other.size > 0 and other.shape != out.shape) or (sums.size > 0 and sums.shape != out.shape):
            raise ValueError("residual and residual_out must have x's shape")
        return other.reshape((other.size // width, width)), sums.reshape((sums.size // width, width))

    return terms


@implements(layer_norm)
def _layer_norm(
    x: Any, weight: Any = None, bias: Any = None, shift: Any = None, scale: Any = None, eps: Any = 1e-5,
    out: Any = None, residual: Any = None, residual_out: Any = None,
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
    target, terms = or_new(out, np.float32), _terms(x, residual, residual_out)

    def implementation(
        x: Any, weight: Any = None, bias: Any = None, shift: Any = None, scale: Any = None, eps: Any = 1e-5,
        out: Any = None, residual: Any = None, residual_out: Any = None,
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
            other, sums = terms(result, residual, residual_out)
            affine, modulation = (factors, offsets, np.float32(eps)), (shifts, scales)
            _normalise(1, ((flat, other), affine, modulation, sums, result.reshape((rows, width)), np.intp(1)))
        return result

    return implementation


@implements(rms_norm)
def _rms_norm(
    x: Any, weight: Any = None, eps: Any = 1e-6, residual: Any = None, out: Any = None, residual_out: Any = None,
    offset: Any = 0.0,
) -> Any:  # fmt: skip
    require("x", x, (1, 2, 3, 4))
    require("weight", weight, (1,), optional=True)
    require_out(out, (x.ndim,))
    weight_of, target, terms = or_empty(weight, 1), or_new(out, np.float32), _terms(x, residual, residual_out)

    def implementation(
        x: Any, weight: Any = None, eps: Any = 1e-6, residual: Any = None, out: Any = None, residual_out: Any = None,
        offset: Any = 0.0,
    ) -> Any:  # fmt: skip
        result, factors = target(out, x.shape), weight_of(weight)
        width = x.shape[-1]
        if factors.size > 0 and factors.size != width:
            raise ValueError("weight must be [N]")
        if result.size > 0:
            rows = result.size // width
            other, sums = terms(result, residual, residual_out)
            given = (
                np.ascontiguousarray(x).reshape((1, 1, rows, width)),
                other.reshape((1, 1, other.shape[0], width)),
            )
            gain = (factors, np.float32(offset), np.float32(eps))
            kept = sums.reshape((1, 1, sums.shape[0], width))
            _scale(1, (given, gain, kept, result.reshape((1, 1, rows, width)), np.intp(1)))
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
