"""Layer norm, RMS norm and softmax in float64 NumPy: the truth for tests and benchmarks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def layer_norm(
    x: ArrayLike, weight: ArrayLike | None = None, bias: ArrayLike | None = None, shift: ArrayLike | None = None,
    scale: ArrayLike | None = None, eps: float = 1e-5, residual: ArrayLike | None = None,
) -> NDArray[np.float64]:  # fmt: skip
    x = np.asarray(x, np.float64)
    if residual is not None:
        x = x + np.asarray(residual, np.float64)
    y: Any = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)
    for part, combine in ((weight, np.multiply), (bias, np.add)):
        if part is not None:
            y = combine(y, np.asarray(part, np.float64))
    if shift is not None and scale is not None:
        y = y * (1 + np.asarray(scale, np.float64)) + np.asarray(shift, np.float64)
    return np.asarray(y)


def rms_norm(
    x: ArrayLike, weight: ArrayLike | None = None, eps: float = 1e-6, residual: ArrayLike | None = None,
    offset: float = 0.0,
) -> NDArray[np.float64]:  # fmt: skip
    x = np.asarray(x, np.float64)
    if residual is not None:
        x = x + np.asarray(residual, np.float64)
    y = x / np.sqrt(np.mean(x * x, -1, keepdims=True) + eps)
    return np.asarray(y if weight is None else y * (offset + np.asarray(weight, np.float64)))


def softmax(x: ArrayLike) -> NDArray[np.float64]:
    x = np.asarray(x, np.float64)
    e = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))
