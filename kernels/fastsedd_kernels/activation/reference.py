"""Activations in float64 NumPy: the truth for tests and benchmarks."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_BEYOND = -1e5  # below it each activation is 0 in float64


def _erfc(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.vectorize(math.erfc, otypes=[np.float64])(x))


def activate(x: NDArray[np.float64], activation: str | None) -> NDArray[np.float64]:
    """The activation, to the last digits of its tails too; at minus infinity its limit, 0."""
    limited = np.maximum(x, _BEYOND)
    if activation == "gelu":
        return np.asarray(limited * 0.5 * _erfc(-limited / math.sqrt(2)))
    if activation == "gelu_tanh":
        return np.asarray(limited * _sigmoid(2 * math.sqrt(2 / math.pi) * (limited + 0.044715 * limited**3)))
    return np.asarray(limited * _sigmoid(limited)) if activation == "silu" else x


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(-x)))
