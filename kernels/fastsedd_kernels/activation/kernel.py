"""exp, GELU and SiLU on vectors, as straight-line polynomials, and their elementwise kernels.

libm's functions are called one element at a time; these work on a whole register. Errors are measured against float64
over the whole float32 range in the tests.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import float32, types
from numpy.typing import ArrayLike, NDArray

from fastsedd_kernels.runtime.arrays import as_array, check_apart, contiguous, output_like
from fastsedd_kernels.runtime.jit import jit
from fastsedd_kernels.runtime.kernel import kernel
from fastsedd_kernels.runtime.scalar import pointer
from fastsedd_kernels.simd.vector import (
    LANES,
    fma,
    load_first,
    max_lanes,
    maximum,
    minimum,
    polynomial,
    power_of_two,
    splat,
    store_first,
    times_power_of_two,
    where_less,
)

_ONE = float32(1.0)
_LOG2_E = float32(1.4426950408889634)
_LN2_HIGH = float32(-0.693359375)  # -ln 2 in two parts: the first has trailing zeros, so n * _LN2_HIGH is exact
_LN2_LOW = float32(2.12194440e-4)
_TO_WHOLE = float32(12582912.0)  # 1.5 * 2^23: adding and subtracting it rounds to a whole number
_EXP_LEAST = float32(-86.64340)  # -125 ln 2
_EXP_MOST = float32(88.72283)
_INFINITY = float32(np.inf)


_expf = polynomial(
    5.0000001201e-1, 1.6666665459e-1, 4.1665795894e-2, 8.3334519073e-3, 1.3981999507e-3, 1.9875691500e-4
)  # (e^r - 1 - r) / r^2


@jit
def exp(x: Any) -> Any:
    """e^x of a vector, within 2 ulp; 0 below -86.6 (no subnormals), infinity above 88.7, NaN for NaN.

    Cody-Waite reduction to |r| <= ln(2)/2 and Cephes' expf polynomial (Moshier 1992).
    """
    limited = maximum(splat(_EXP_LEAST), minimum(splat(_EXP_MOST), x))  # in this order a NaN stays one
    n = fma(limited, splat(_LOG2_E), splat(_TO_WHOLE)) - _TO_WHOLE
    r = fma(n, splat(_LN2_LOW), fma(n, splat(_LN2_HIGH), limited))
    p = fma(_expf(r), r * r, r + _ONE)
    y = p * power_of_two(n - _ONE) * float32(2.0)  # 2^128 has no float32 of its own
    y = where_less(x, splat(_EXP_LEAST), splat(float32(0.0)), y)
    y = where_less(splat(_EXP_MOST), x, splat(_INFINITY), y)
    return y


_exp2 = polynomial(
    1.0000001192092896, 0.6931469440460205, 0.24022120237350464, 0.05550713464617729, 0.009675540961325169,
    0.0013276470126584172,
)  # fmt: skip
_EXP2_LEAST = float32(-126.0)


@jit
def exp2_of_negative(x: Any) -> Any:
    """2^x of a vector that is nowhere above 0, within 4 ulp; 2^-126 below that, NaN for NaN. Half the work of `exp`."""
    limited = maximum(splat(_EXP2_LEAST), x)  # in this order a NaN stays one
    shifted = limited + _TO_WHOLE
    return times_power_of_two(_exp2(limited - (shifted - _TO_WHOLE)), shifted)


@jit
def exp2_scalar(x: Any) -> Any:
    """2^x of one float32 that is not above 0, by the same arithmetic."""
    return max_lanes(exp2_of_negative(splat(x)))


# Beyond these, x times the polynomial is nearer to x or 0 than a float32 can tell from x.
_ERF_LIMIT = 5.1
_TANH_LIMIT = 5.0

# (Phi(x) - 1/2) / x and (sigmoid(2 u(x)) - 1/2) / x over 2 (x / limit)^2 - 1 in [-1, 1]: minimax fits, weighted for the
# error of x Phi(x), that overshoot at the limit: what is clamped there becomes 0 or x, not nearly so.
_erf_ratio = polynomial(
    0.1386052966117859, -0.06900271773338318, 0.05078164115548134, -0.040232863277196884, 0.031739357858896255,
    -0.023916073143482208, 0.017325473949313164, -0.012307001277804375, 0.007220346014946699, -0.002887882525101304,
    0.0019925106316804886, -0.0021046882029622793, 0.0008258233428932726,
)  # fmt: skip
_tanh_ratio = polynomial(
    0.1413785070180893, -0.07036582380533218, 0.05165810510516167, -0.0405418798327446, 0.031336165964603424,
    -0.023009972646832466, 0.016085177659988403, -0.010500585660338402, 0.005704800598323345, -0.002979403594508767,
    0.0026714231353253126, -0.002074329648166895, 0.00063783407676965,
)  # fmt: skip


@jit
def _limited(x: Any, limit: Any) -> Any:
    return maximum(splat(-limit), minimum(splat(limit), x))


@jit
def _position(limited: Any, limit: Any) -> Any:
    """2 (x / limit)^2 - 1"""
    return fma(limited * (float32(2.0) / (limit * limit)), limited, splat(-_ONE))


@jit
def _gate(x: Any, limited: Any, ratio: Any) -> Any:
    """x (1/2 + limited * ratio), where that sum is between 0 and 1."""
    return x * maximum(splat(float32(0.0)), fma(limited, ratio, splat(float32(0.5))))


@jit
def gelu_erf(x: Any) -> Any:
    """x * Phi(x) of a vector, exact form; absolute error below 4e-7 * max(1, |x|)."""
    limited = _limited(x, float32(_ERF_LIMIT))
    return _gate(x, limited, _erf_ratio(_position(limited, float32(_ERF_LIMIT))))


@jit
def gelu_tanh(x: Any) -> Any:
    """The tanh form of GELU of a vector, x * sigmoid(2 u) with u = sqrt(2/pi) (x + 0.044715 x^3); error as above."""
    limited = _limited(x, float32(_TANH_LIMIT))
    return _gate(x, limited, _tanh_ratio(_position(limited, float32(_TANH_LIMIT))))


@jit
def silu_vector(x: Any) -> Any:
    """x * sigmoid(x) of a vector."""
    return x / (exp(float32(0.0) - x) + _ONE)


GELU, GELU_TANH, SILU = range(1, 4)


@jit
def activate(x: Any, activation: int) -> Any:
    """The activation of that number, of a vector; any other number is the identity."""
    if activation == GELU:
        return gelu_erf(x)
    if activation == GELU_TANH:
        return gelu_tanh(x)
    if activation == SILU:
        return silu_vector(x)
    return x


CHUNK = 4096  # elements a task: long enough to hide a task's start, small enough to balance


@kernel(types.Array(types.float32, 1, "C", readonly=True), types.intp, types.float32[::1])
def activate_chunks(task: int, x: Any, activation: int, out: Any) -> None:
    for i in range(task * CHUNK, min((task + 1) * CHUNK, x.size), LANES):
        value = activate(load_first(pointer(x, i), x.size - i, float32(0.0)), activation)
        store_first(pointer(out, i), value, x.size - i)


def gelu(x: ArrayLike, approximate: str = "none", out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """GELU of every element: x * Phi(x), or its tanh form, as `torch.nn.functional.gelu` names them.

    x : float32, any shape; out : float32 of the same shape, C-contiguous, may be x itself
    approximate : "none" (erf) or "tanh"
    Raises ValueError for another `approximate`, dtype or shape.
    """
    if approximate not in ("none", "tanh"):
        raise ValueError(f"approximate is {approximate!r}, allowed are 'none' and 'tanh'")
    return _elementwise(GELU if approximate == "none" else GELU_TANH, x, out)


def silu(x: ArrayLike, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """SiLU of every element: x / (1 + e^-x). x and out as for `gelu`."""
    return _elementwise(SILU, x, out)


def _elementwise(activation: int, x: ArrayLike, out: NDArray[np.float32] | None) -> NDArray[np.float32]:
    x = contiguous(as_array("x", x))
    out = output_like("out", out, x.shape)
    check_apart(out, in_place=True, x=x)
    if x.size:
        activate_chunks(-(-x.size // CHUNK), x.reshape(-1), activation, out.reshape(-1))
    return out
