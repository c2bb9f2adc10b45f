"""Product with a B that is not packed: a slab of it at a time is packed into scratch memory and multiplied.

A slab is KC deep and MAX_COLUMNS wide: it fits into L3, if the CPU has as much as most.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastsedd_kernels.gemm.blocking import MAX_COLUMNS, blocking, plan, threads_to_pack_and_multiply
from fastsedd_kernels.gemm.macrokernel import MULTIPLY_PLAIN
from fastsedd_kernels.gemm.pack_b import packing, panels_shape
from fastsedd_kernels.gemm.tuned_blocks import Limits, limits
from fastsedd_kernels.runtime.program import run_both
from fastsedd_kernels.runtime.scratch import scratch
from fastsedd_kernels.runtime.threads import get_num_threads


class _Slab(NamedTuple):
    """A slab of B, and how it is packed and multiplied: the shape of its panels, threads to pack, the Partition."""

    depth: slice
    columns: slice
    shape: tuple[int, int, int]
    threads: int
    partition: tuple[int, int, int, int, int]


def multiply_slabs(a: NDArray[Any], b: NDArray[Any], out: NDArray[Any]) -> None:
    """out [M, N] = a [M, K] . b [K, N], of any strides, float32 or float64; none of M, K and N is 0."""
    within = limits()
    slabs = _slabs(within.tiles, within.depth, get_num_threads(), *a.shape, b.shape[1], a.dtype)
    with scratch(math.prod(slabs[0].shape), a.dtype) as memory:
        for slab in slabs:
            _add_product(a, b, out, slab, memory)


def _add_product(a: NDArray[Any], b: NDArray[Any], out: NDArray[Any], slab: _Slab, memory: NDArray[Any]) -> None:
    """out (+)= a . b for one slab of b, of which memory takes the panels."""
    depth, columns, shape, threads, partition = slab
    panels: NDArray[Any] = np.ndarray(shape, memory.dtype, memory)
    if shape[1] < a.shape[1]:
        a, b = a[:, depth], b[depth]
    if columns.stop - columns.start < b.shape[1]:
        b, out = b[:, columns], out[:, columns]
    multiply = MULTIPLY_PLAIN[memory.dtype], partition[0] * partition[1], (a, panels, out, depth.start > 0, partition)
    run_both(packing(b.T, panels, threads), multiply)


@functools.lru_cache(1024)
def _slabs(
    tiles: int, max_depth: int, threads: int, rows: int, depth: int, width: int, dtype: np.dtype[Any]
) -> tuple[_Slab, ...]:
    """The slabs of a B [depth, width] for that many rows of A, the largest first; tiles, max_depth : the Limits."""
    kc = blocking(Limits(tiles, max_depth), depth, dtype)[1]
    slabs = []
    for first in range(0, width, MAX_COLUMNS):
        columns = slice(first, min(width, first + MAX_COLUMNS))
        for k in range(0, depth, kc):
            part = slice(k, min(depth, k + kc))
            shape = panels_shape(columns.stop - first, part.stop - k, dtype)
            sharing = threads_to_pack_and_multiply(threads, rows, (part.stop - k) * (columns.stop - first))
            arranged = plan(sharing, rows, part.stop - k, shape[0], dtype)
            slabs.append(_Slab(part, columns, shape, min(arranged[0] * arranged[1], sharing), arranged))
    return tuple(slabs)
