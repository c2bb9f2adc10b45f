"""Rotary position embedding in its rotate-half form (Su et al. 2021).

out[..., l, 0:D/2] = x[..., l, 0:D/2] cos - x[..., l, D/2:D] sin        angle(l, i) = l * base^(-2 i / D)
out[..., l, D/2:D] = x[..., l, D/2:D] cos + x[..., l, 0:D/2] sin
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import float32, types
from numpy.typing import ArrayLike, NDArray

from fastsedd_kernels.runtime.arrays import as_array, as_number, check_apart, strided_output_like
from fastsedd_kernels.runtime.kernel import kernel
from fastsedd_kernels.runtime.threads import get_num_threads

_ANY = types.Array(float32, 4, "A", readonly=True)
_TABLE = types.Array(float32, 2, "C", readonly=True)
_ELEMENTS_PER_TASK = 16384


@kernel(_ANY, _TABLE, _TABLE, types.Array(float32, 4, "A"), types.intp)
def rotate_rows(task: int, x: Any, cosines: Any, sines: Any, out: Any, tasks: int) -> None:
    """The task's share of the positions of x : [B, H, L, D], for all its batches and heads; out may be x."""
    batches, heads, length, dim = x.shape
    half = dim // 2
    for b in range(batches):
        for position in range(length * task // tasks, length * (task + 1) // tasks):
            for h in range(heads):
                for i in range(half):
                    first, second = x[b, h, position, i], x[b, h, position, half + i]
                    cosine, sine = cosines[position, i], sines[position, i]
                    out[b, h, position, i] = first * cosine - second * sine
                    out[b, h, position, half + i] = second * cosine + first * sine


@functools.lru_cache(maxsize=16)
def _tables(length: int, dim: int, base: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cosines and sines [L, D/2], from angles in float64."""
    angles = np.arange(length)[:, None] * base ** (-np.arange(0, dim, 2) / dim)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def rotary(x: ArrayLike, base: float = 10000.0, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """Rotate queries or keys by their position.

    x : float32 [..., heads, length, dim], dim even, any strides; positions are 0 to length - 1
    base : above 0; out : float32 of x's shape, any strides, may be x itself
    Raises ValueError for a wrong dtype or shape, naming the argument.
    """
    x = as_array("x", x)
    if x.ndim < 3 or x.shape[-1] % 2:
        raise ValueError(f"x has shape {x.shape}, must be [..., heads, length, dim] with an even dim")
    base = as_number("base", base)
    out = strided_output_like("out", out, x.shape)
    check_apart(out, in_place=True, x=x)
    if x.size == 0:
        return out
    tasks = max(1, min(get_num_threads(), x.shape[-2], x.size // _ELEMENTS_PER_TASK))
    for source, target in zip(_batches(x), _batches(out), strict=True):
        rotate_rows(tasks, source, *_tables(x.shape[-2], x.shape[-1], base), target, tasks)
    return out


def _batches(x: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Views of x as [B, H, L, D]: one where there is at most one batch dimension, else one for each of the others."""
    if x.ndim <= 4:
        return [x[(None,) * (4 - x.ndim)]]
    return [x[position] for position in np.ndindex(*x.shape[:-4])]
