"""Attention in float64 NumPy: the truth for tests and benchmarks."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastsedd_kernels.norm.reference import softmax


def attention(
    q: ArrayLike, k: ArrayLike, v: ArrayLike, scale: float | None = None, causal: bool = False
) -> NDArray[np.float64]:
    q, k, v = (np.asarray(part, np.float64) for part in (q, k, v))
    scores = q @ np.swapaxes(k, -1, -2) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    if causal:
        hidden = np.triu(np.ones(scores.shape[-2:], bool), k=1)
        scores = np.where(hidden, -np.inf, scores)
    return np.asarray(softmax(scores) @ v)
