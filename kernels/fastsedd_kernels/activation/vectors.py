"""exp, GELU and SiLU of vectors, as straight-line polynomials.

libm's functions are called one element at a time; these work on a whole register. Errors are measured against float64
over the whole float32 range in the tests.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import float32

from fastsedd_kernels.runtime.jit import jit
from fastsedd_kernels.simd.vector import (
    absolute,
    fma,
    max_lanes,
    maximum,
    minimum,
    polynomial,
    power_of_two,
    power_of_two_of_sum,
    splat,
    where_less,
)

_ZERO, _ONE = float32(0.0), float32(1.0)
_LOG2_E = float32(1.4426950408889634)
_LN2_HIGH = float32(-0.693359375)  # -ln 2 in two parts: the first has trailing zeros, so n * _LN2_HIGH is exact
_LN2_LOW = float32(2.12194440e-4)
_TO_WHOLE = float32(12582912.0)  # 1.5 * 2^23: adding and subtracting it rounds to a whole number
_EXP_MIN = float32(-86.64340)  # -125 ln 2
_EXP_MAX = float32(88.72283)
_INFINITY = float32(np.inf)
_SILU_MIN = float32(-89.0)  # e^89 is infinite


_expf = polynomial(
    5.0000001201e-1, 1.6666665459e-1, 4.1665795894e-2, 8.3334519073e-3, 1.3981999507e-3, 1.9875691500e-4
)  # (e^r - 1 - r) / r^2


@jit
def _exp_within(x: Any) -> Any:
    """e^x of a vector, within 2 ulp, for x from -125 ln 2 to 89, where it is infinite already; NaN for NaN.

    Cody-Waite reduction to |r| <= ln(2)/2 and Cephes' expf polynomial (Moshier 1992).
    """
    n = fma(x, splat(_LOG2_E), splat(_TO_WHOLE)) - _TO_WHOLE
    r = fma(n, splat(_LN2_LOW), fma(n, splat(_LN2_HIGH), x))
    p = fma(_expf(r), r * r, r + _ONE)
    return p * power_of_two(n - _ONE) * float32(2.0)  # 2^128 has no float32 of its own


@jit
def exp(x: Any) -> Any:
    """e^x of a vector, within 2 ulp; 0 below -125 ln 2 (no subnormals), infinity above 88.72283, NaN for NaN."""
    y = _exp_within(maximum(splat(_EXP_MIN), minimum(splat(_EXP_MAX), x)))  # in this order a NaN stays one
    y = where_less(x, splat(_EXP_MIN), splat(_ZERO), y)
    return where_less(splat(_EXP_MAX), x, splat(_INFINITY), y)


_exp2 = polynomial(
    1.0000001192092896, 0.6931469440460205, 0.24022120237350464, 0.05550713464617729, 0.009675540961325169,
    0.0013276470126584172,
)  # fmt: skip
_EXP2_MIN = float32(-126.0)
_TO_EXPONENT = float32(12582912.0 + 127.0)  # as _TO_WHOLE, and the sum's lowest bits are the exponent of 2^n


@jit
def exp2_of_negative(x: Any) -> Any:
    """2^x of a vector that is nowhere above 0, within 4 ulp; 2^-126 below that, NaN for NaN. Half the work of `exp`."""
    limited = maximum(splat(_EXP2_MIN), x)  # in this order a NaN stays one
    shifted = limited + _TO_EXPONENT
    return _exp2(limited - (shifted - _TO_EXPONENT)) * power_of_two_of_sum(shifted)


@jit
def exp2_scalar(x: Any) -> Any:
    """2^x of one float32 that is not above 0, by the same arithmetic."""
    return max_lanes(exp2_of_negative(splat(x)))


# (1 - Phi(z))^(1/8) and sigmoid(-2 u(z))^(1/8) for z >= 0: minimax fits, weighted for the error of z times the eighth
# power. Both are negative from a little below their limit on, so that what is clamped to 0 is exactly 0 there.
_erf_root = polynomial(
    0.91700405, -0.09145792, -0.031925596, -0.0006777672, 0.0015118464, 2.8634007e-05, -5.7690293e-05, 6.7961505e-06,
    -1.9786852e-07, -5.823011e-09,
)  # fmt: skip
_tanh_root = polynomial(
    0.91700405, -0.09145823, -0.031920537, -0.0006340759, 0.001665566, -0.00016967824, 0.00013610466, -0.00014456476,
    6.033234e-05, -1.2497591e-05, 1.3018017e-06, -5.479168e-08,
)  # fmt: skip
_ERF_LIMIT, _TANH_LIMIT = float32(7.5), float32(6.25)


@jit
def _less_tail(x: Any, distance: Any, root: Any) -> Any:
    """max(x, 0) - distance * root^8, where a root below 0 counts as 0; NaN for NaN, -0 for -0.

    distance : |x|, or a limit beyond which the root is negative: minus infinity then becomes 0, as its limit is.
    Nearly equal numbers are nowhere subtracted: the tail below 0 keeps its digits.
    """
    power = maximum(splat(_ZERO), root)
    power = power * power
    power = power * power
    return fma(distance * -_ONE, power * power, maximum(splat(_ZERO), x))


@jit
def gelu_erf(x: Any) -> Any:
    """x * Phi(x) of a vector, exact form; its error is what `gelu` says."""
    distance = minimum(splat(_ERF_LIMIT), absolute(x))
    return _less_tail(x, distance, _erf_root(distance))


@jit
def gelu_tanh(x: Any) -> Any:
    """The tanh form of GELU of a vector, x * sigmoid(2 u) with u = sqrt(2/pi) (x + 0.044715 x^3); error as above."""
    distance = minimum(splat(_TANH_LIMIT), absolute(x))
    return _less_tail(x, distance, _tanh_root(distance))


@jit
def silu_vector(x: Any) -> Any:
    """x * sigmoid(x) of a vector; its error is what `silu` says."""
    limited = maximum(splat(_SILU_MIN), x)  # the quotient of two infinities would be NaN
    return limited / (_exp_within(minimum(splat(-_EXP_MIN), limited) * -_ONE) + _ONE)
