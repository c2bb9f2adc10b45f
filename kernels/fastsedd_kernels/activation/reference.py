"""Activations in float64 NumPy: the truth for tests and benchmarks."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_BEYOND = -1e5  # below it each activation is 0 in float64


def _erfc(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.vectorize(math.erfc, otypes=[np.float64])(x))


def gelu(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """x * Phi(x), to the last digits of its tails; at minus infinity its limit, 0."""
    limited = np.maximum(x, _BEYOND)
    return np.asarray(limited * 0.5 * _erfc(-limited / math.sqrt(2)))


def gelu_tanh(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """x * sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3)), with the same limit."""
    limited = np.maximum(x, _BEYOND)
    return np.asarray(limited * _sigmoid(2 * math.sqrt(2 / math.pi) * (limited + 0.044715 * limited**3)))


def silu(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """x * sigmoid(x), with the same limit."""
    limited = np.maximum(x, _BEYOND)
    return np.asarray(limited * _sigmoid(limited))


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(-x)))
