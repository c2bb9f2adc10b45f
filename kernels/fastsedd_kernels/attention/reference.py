"""Attention in float64 NumPy: the truth for tests and benchmarks."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray


def attention(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    scale: float | None = None,
    causal: bool = False,
    *,
    mask: ArrayLike | None = None,
    block: int | None = None,
    window: int | None = None,
    lengths: ArrayLike | None = None,
    start: int | None = 0,
) -> NDArray[np.float64]:
    """`api.attention` by its definition: all scores, hidden ones minus infinity, and a row of them alone 0."""
    q, k, v = (np.asarray(part, np.float64) for part in (q, k, v))
    group = q.shape[-3] // k.shape[-3]
    k, v = (np.repeat(part, group, axis=-3) for part in (k, v))
    scores = q @ np.swapaxes(k, -1, -2) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    if mask is not None:
        mask = np.asarray(mask)
        scores = scores + (np.where(mask, 0, -np.inf) if mask.dtype == bool else mask.astype(np.float64))
    held = np.asarray(k.shape[-2] if lengths is None else lengths)[..., None, None, None]
    seen = visible(q.shape[-2], k.shape[-2], held, causal, block, window, start)
    scores = np.where(seen, scores, -np.inf)
    top = scores.max(axis=-1, keepdims=True)
    weights = np.exp(scores - np.where(np.isneginf(top), 0, top))
    total = weights.sum(axis=-1, keepdims=True)
    return np.asarray(weights / np.where(total == 0, 1, total) @ v)


def visible(
    queries: int,
    keys: int,
    lengths: NDArray[np.int_],
    causal: bool = False,
    block: int | None = None,
    window: int | None = None,
    start: int | None = 0,
) -> NDArray[np.bool_]:
    """The keys that each query sees by its position; lengths : [..., 1, 1] -> [..., queries, keys]."""
    first = lengths - queries if start is None else start
    p, j = first + np.arange(queries)[:, None], np.arange(keys)
    seen: NDArray[np.bool_] = (j < lengths) & (p == p)
    if causal:
        seen = seen & (j <= p)
    if block is not None:
        seen = seen & (j // block <= p // block)
    if window is not None:
        seen = seen & (j > p - window)
        if not causal and block is None:
            seen = seen & (j < p + window)
    return seen
