"""Products with weights in groups in float64 NumPy, of x rounded as the kernels round it."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastsedd_kernels.gemm.reference import whole_steps

BLOCK = 128  # inputs of x that share a scale


def rounded_rows(x: ArrayLike) -> NDArray[np.float64]:
    """x [M, K] in whole 127ths of the largest magnitude of each block of a row.

    Steps and quotients are float32, as in the kernels: they decide ties.
    """
    rows = np.asarray(x, np.float32)
    padded = np.pad(rows, ((0, 0), (0, -rows.shape[1] % BLOCK))).reshape(len(rows), -1, BLOCK)
    largest = np.abs(padded).max(axis=2, keepdims=True)
    scale = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=largest > 1e-36)
    values = whole_steps(padded, scale) * (largest / np.float32(127)).astype(np.float64)
    return np.asarray(values.reshape(len(rows), -1)[:, : rows.shape[1]])


def linear(x: ArrayLike, weight: ArrayLike) -> NDArray[np.float64]:
    """rounded x @ weight.T; weight : the values that are stored (`fk.unpack`)"""
    return rounded_rows(x) @ np.asarray(weight, np.float64).T


def error_bound(x: ArrayLike, magnitudes: ArrayLike, eps: float) -> NDArray[np.float64]:
    """Bound on the error of each element [M, N] beside `linear`: sums of integers are exact, all after them float32.

    magnitudes : [N, K], of what is added up for an element of the weight, |s q| + |m|, before it cancels
    A chain has at most three roundings for each group of 32, and two for each block of 128.
    """
    rows = np.abs(rounded_rows(x))
    roundings = 4 + 4 * (rows.shape[1] // 32 + 1)
    return np.asarray(roundings * eps * (rows @ np.asarray(magnitudes, np.float64).T))
