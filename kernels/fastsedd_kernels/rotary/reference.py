"""Rotary embedding in float64 NumPy: the truth for tests and benchmarks."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastsedd_kernels.norm.reference import rms_norm


def rotary(
    x: ArrayLike, base: float = 10000.0, frequencies: ArrayLike | None = None, positions: ArrayLike | None = None,
    interleaved: bool = False, norm: ArrayLike | None = None, eps: float = 1e-6, offset: float = 0.0,
) -> NDArray[np.float64]:  # fmt: skip
    """frequencies : [R / 2], of the first R elements, where they are not base^(-2 i / dim) for all."""
    x = np.asarray(x, np.float64) if norm is None else rms_norm(x, norm, eps, offset=offset)
    dim = x.shape[-1]
    f = base ** (-np.arange(0, dim, 2) / dim) if frequencies is None else np.asarray(frequencies, np.float64)
    places = np.arange(x.shape[-2]) if positions is None else np.asarray(positions)[..., None, :]
    angles = places[..., None] * f
    width = 2 * len(f)
    pairs = (slice(0, width, 2), slice(1, width, 2)) if interleaved else (slice(width // 2), slice(width // 2, width))
    first, second = (x[..., each] for each in pairs)
    out = x.copy()
    out[..., pairs[0]] = first * np.cos(angles) - second * np.sin(angles)
    out[..., pairs[1]] = second * np.cos(angles) + first * np.sin(angles)
    return out
