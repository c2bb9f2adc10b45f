"""Products and their epilogues in float64 NumPy: the truth for tests and benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastsedd_kernels.activation.table import TABLE
from fastsedd_kernels.gemm.dot_products import SUMS_OF_PAIRS_FIT
from fastsedd_kernels.runtime.cpu import isa
from fastsedd_kernels.runtime.machines import PORTABLE


def activate(x: NDArray[np.float64], activation: str | None) -> NDArray[np.float64]:
    """The activation of that name; None is the identity."""
    return next((each.reference(x) for each in TABLE if each.name == activation), x)


def linear(
    x: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None, activation: str | None = None,
    gate: ArrayLike | None = None, residual: ArrayLike | None = None,
) -> NDArray[np.float64]:  # fmt: skip
    """residual + gate * activation(x @ weight.T + bias)"""
    y: Any = np.asarray(x, np.float64) @ np.asarray(weight, np.float64).T
    if bias is not None:
        y = y + np.asarray(bias, np.float64)
    y = activate(y, activation)
    if gate is not None:
        y = y * np.asarray(gate, np.float64)
    if residual is not None:
        y = y + np.asarray(residual, np.float64)
    return np.asarray(y)


def gated_linear(
    x: ArrayLike, weights: Sequence[ArrayLike], bias: ArrayLike | None = None, activation: str | None = None,
    gate: ArrayLike | None = None, residual: ArrayLike | None = None,
) -> NDArray[np.float64]:  # fmt: skip
    """residual + gate * activation(x @ weights[0].T + bias[:N]) * (x @ weights[1].T + bias[N:])"""
    halves = (None, None) if bias is None else np.split(np.asarray(bias, np.float64), 2)
    y: Any = linear(x, weights[0], halves[0], activation) * linear(x, weights[1], halves[1])
    if gate is not None:
        y = y * np.asarray(gate, np.float64)
    return np.asarray(y if residual is None else y + np.asarray(residual, np.float64))


def bfloat16(x: ArrayLike) -> NDArray[np.float64]:
    """Rounded to bfloat16, to nearest even; finite values only."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return rounded.astype(np.uint32).view(np.float32).astype(np.float64)


def int8_linear(x: ArrayLike, weight: ArrayLike, *, pairs: bool = SUMS_OF_PAIRS_FIT) -> NDArray[np.float64]:
    """x @ weight.T with each row of both in whole 127ths of its largest magnitude.

    pairs : of a weight's, of the largest sum of two neighbours of one sign instead, as on this CPU by default
    """
    a, b = np.asarray(x, np.float32), np.asarray(weight, np.float32)
    a_whole, a_step = _in_steps(a, np.abs(a).max(axis=1))
    b_whole, b_step = _in_steps(b, _pair_magnitudes(b) if pairs else np.abs(b).max(axis=1))
    return np.asarray((a_whole @ b_whole.T) * (a_step[:, None] * b_step))


def _pair_magnitudes(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """Largest |a| of each row's values, and |a + b| of its neighbours 2 i and 2 i + 1 of one sign."""
    largest = np.abs(rows).max(axis=1).astype(np.float64)
    even, odd = rows[:, 0 : rows.shape[1] // 2 * 2 : 2].astype(np.float64), rows[:, 1::2].astype(np.float64)
    sums = np.where(even * odd > 0, np.abs(even + odd), 0.0)
    return np.asarray(np.maximum(largest, sums.max(axis=1, initial=0.0)))


def _in_steps(x: NDArray[np.float32], largest: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Whole numbers, and a row's step. The steps and quotients are float32, as in the kernels: they decide ties."""
    magnitude = largest.astype(np.float64)
    scale = np.divide(127.0, magnitude, out=np.zeros_like(magnitude), where=magnitude > 0).astype(np.float32)
    return whole_steps(x, scale[:, None]), (magnitude / 127.0).astype(np.float32).astype(np.float64)


def whole_steps(values: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.float64]:
    """values * scale to the nearest whole number; a CPU without fused multiply-add rounds the product before that."""
    product = values.astype(np.float64) * scale
    return np.rint(product.astype(np.float32).astype(np.float64) if isa() is PORTABLE else product)


def error_bound(x: ArrayLike, weight: ArrayLike, eps: float) -> float:
    """K * eps * |A| |B| in Frobenius norms: the norm-wise error that any order of summation stays below."""
    a, b = np.asarray(x, np.float64), np.asarray(weight, np.float64)
    return float(a.shape[-1] * eps * np.linalg.norm(a) * np.linalg.norm(b))


def strassen_bound(a: ArrayLike, b: ArrayLike, levels: int, eps: float) -> float:
    """Bound on the error of every element of Strassen's product (Higham 2002, theorem 23.2, K in place of n)."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    depth = a.shape[-1]
    half = -(-depth // 2**levels)
    factor = 12**levels * (half**2 + 5 * half) - 5 * depth if levels > 0 else depth**2
    return float(factor * eps * np.abs(a).max() * np.abs(b).max())
