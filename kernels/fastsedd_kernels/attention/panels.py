"""Keys and values of a head in panels, as the GEMM's micro-kernel reads them, and products with them.

    key_panels[p, d, j]   = keys[p * NR + j, d]      [ceil(S / NR), D, NR]
    value_panels[p, j, d] = values[j, p * NR + d]    [ceil(D / NR), S, NR]

in float32 or in words of two bfloat16, neighbours in d of a key, and in j of the values.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import float32, uint32
from numba.extending import overload

from fastsedd_kernels.gemm.dot_products import unit_of
from fastsedd_kernels.gemm.layout import words_of
from fastsedd_kernels.gemm.microkernel import multiply_tile, tile_columns, tile_rows_of, widest_columns
from fastsedd_kernels.gemm.operands import Rows, Start, no_prefetch
from fastsedd_kernels.gemm.pack_a import take_rows
from fastsedd_kernels.gemm.pack_b import pack_columns
from fastsedd_kernels.runtime.cpu import Unit
from fastsedd_kernels.runtime.jit import OVERLOAD, jit
from fastsedd_kernels.runtime.machines import CACHE_LINE
from fastsedd_kernels.runtime.scalar import offset, pointer
from fastsedd_kernels.simd.narrow import store_pairs
from fastsedd_kernels.simd.vector import LANES, lanes_at, load_some, store_vector

# What panels may be of: words where the CPU multiplies them. Nothing is gained by rounding what it would widen again.
ELEMENTS = (float32,) if unit_of(uint32) is Unit.WIDENED else (float32, uint32)

_MAX_KEYS = 288
_ZERO = np.float32(0.0)


class Panels(NamedTuple):
    """Panels of B for a product: a pointer to the first, elements from panel to panel, and NR."""

    pointer: Any
    stride: Any
    nr: Any


def key_block(columns: int) -> int:
    """Keys that pass by at a time: whole panels, and whole rows of tile registers."""
    return _MAX_KEYS // columns * columns


key_block_of = jit(key_block)


@jit
def granule_of(columns: int) -> int:
    """Keys whose multiples a tile of scores begins at: whole panels, and whole pairs of registers.

    From such a place on, the sums over a row's weights are the same wherever the tile begins.
    """
    return columns if columns % (2 * LANES) == 0 else 2 * columns


@jit
def panel_columns(dim: int, some: Any) -> Any:
    """NR of keys and of values: the widest tile's where a head is as wide, so that no narrow, slow tile is left."""
    widest = widest_columns(some)
    return widest if widest - lanes_at(some) < dim <= widest else tile_columns(some)


@jit
def empty(shape: Any, dtype: Any) -> Any:
    """numpy.empty from a cache line's edge on: a register that lies across two lines costs two accesses."""
    count = 1
    for size in shape:
        count *= size
    memory = np.empty(count + CACHE_LINE // 4, dtype)
    start = -memory.ctypes.data % CACHE_LINE // 4
    return memory[start : start + count].reshape(shape)


def pack_keys(keys: Any, words: Any, panels: Any) -> None:
    """Fill the panels that the keys [S, D] take, with zeros beside the last; words : scratch, unused for float32."""
    raise NotImplementedError("for kernels only")


@overload(pack_keys, **OVERLOAD)  # type: ignore[untyped-decorator]
def _typed_pack_keys(keys: Any, words: Any, panels: Any) -> Any:
    return _pack_key_words if panels.dtype == uint32 else _pack_key_floats


@jit
def _pack_columns(keys: Any, panels: Any) -> None:
    for p in range(-(-keys.shape[0] // panels.shape[2])):
        pack_columns(keys, p * panels.shape[2], panels[p])


def _pack_key_floats(keys: Any, words: Any, panels: Any) -> None:
    _pack_columns(keys, panels)


def _pack_key_words(keys: Any, words: Any, panels: Any) -> None:
    length, unused = keys.shape[0], pointer(keys, 0)  # factors, of int8 only
    take_rows(keys, 0, length, Rows(pointer(words, 0), words.shape[1]), unused, False)
    _pack_columns(words[:length].view(np.float32), panels.view(np.float32))


def pack_values(values: Any, panels: Any) -> None:
    """Fill the panels with the values [S, D], and with zeros beyond the head's width and, of pairs, the last key."""
    raise NotImplementedError("for kernels only")


@overload(pack_values, **OVERLOAD)  # type: ignore[untyped-decorator]
def _typed_pack_values(values: Any, panels: Any) -> Any:
    return _pack_pairs if panels.dtype == uint32 else _pack_floats


def _pack_floats(values: Any, panels: Any) -> None:
    length, dim = values.shape
    nr = panels.shape[2]
    for p in range(panels.shape[0]):
        for j in range(length):
            source = pointer(values[j], p * nr)
            for d in range(0, nr, LANES):
                store_vector(pointer(panels[p, j], d), load_some(offset(source, d), dim - p * nr - d, _ZERO))


def _pack_pairs(values: Any, panels: Any) -> None:
    length, dim = values.shape
    nr = panels.shape[2]
    for p in range(panels.shape[0]):
        for j in range(panels.shape[1]):
            first, second = (
                pointer(values[min(2 * j, length - 1)], p * nr),
                pointer(values[min(2 * j + 1, length - 1)], p * nr),
            )
            some, more = dim - p * nr if 2 * j < length else 0, dim - p * nr if 2 * j + 1 < length else 0
            for d in range(0, nr, LANES):
                x, y = load_some(offset(first, d), some - d, _ZERO), load_some(offset(second, d), more - d, _ZERO)
                store_pairs(x, y, pointer(panels[p, j], d))


@jit
def words_of_keys(keys: int, nr: int, some: Any) -> int:
    """Words, or floats, of a column of the value panels for so many keys: whole blocks of keys."""
    together = key_block_of(nr)
    return words_of(-(-keys // together) * together, some)


@jit
def multiply_block(rows: int, depth: int, a: Any, panels: Any, columns: int, c: Any, accumulate: bool) -> None:
    """c[0:rows] (+)= a[0:rows, 0:depth] . b, over the panels of b's `columns`. a, c : Rows; panels : Panels"""
    for panel in range(-(-columns // panels.nr)):
        b = Rows(offset(panels.pointer, panel * panels.stride), panels.nr)
        vectors = -(-min(panels.nr, columns - panel * panels.nr) // lanes_at(b.pointer))
        height = tile_rows_of(b.pointer, vectors)
        for top in range(0, rows, height):
            target = Rows(offset(c.pointer, top * c.stride + panel * panels.nr), c.stride)
            multiply_tile(
                min(height, rows - top),
                vectors,
                depth,
                Rows(offset(a.pointer, top * a.stride), a.stride),
                b,
                target,
                Start(accumulate, target.pointer, target.stride),
                no_prefetch(b, c),
            )
