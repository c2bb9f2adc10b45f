"""Keys and values put into the panels of a cache, from a place on.

Panels are those of `panels`, one set for each text and head of keys. Beyond the last key, the words that a product
reads are zeros: a weight of 0 times what lay there before could be NaN.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import float32, types, uint32
from numba.extending import overload

from fastsedd_kernels.attention.panels import ELEMENTS, empty
from fastsedd_kernels.gemm.layout import elements_per_word, words_of
from fastsedd_kernels.gemm.operands import Rows
from fastsedd_kernels.gemm.pack_a import take_rows
from fastsedd_kernels.runtime.jit import OVERLOAD, jit
from fastsedd_kernels.runtime.kernel import Kernel, kernel
from fastsedd_kernels.runtime.scalar import offset, pointer
from fastsedd_kernels.simd.narrow import store_pairs
from fastsedd_kernels.simd.vector import LANES, load_some, store_vector, transpose_square

_ZERO = float32(0.0)


def append(task: int, k: Any, v: Any, key_panels: Any, value_panels: Any, held: Any, tasks: int) -> None:
    """Put rows into the panels of the task's heads of keys, and zeros behind them.

    k, v : float32 [B, H_kv, N, D], rows contiguous, N may be 0
    key_panels : [B, H_kv, panels, words of D, NR]; value_panels : [B, H_kv, panels, words of keys, NR]
    held : intp [2], the number of keys after that, and the place of the first of these rows
    """
    batch, count, rows, _ = k.shape
    some = pointer(key_panels, 0)
    place, depth = held[1], key_panels.shape[3]
    words = empty((rows if elements_per_word(some) > 1 else 0, depth), key_panels.dtype)
    heads = batch * count
    for head in range(heads * task // tasks, heads * (task + 1) // tasks):
        b, h = head // count, head % count
        put_keys(k[b, h], words, place, key_panels[b, h])
        for p in range(value_panels.shape[2]):
            put_values(v[b, h], p * value_panels.shape[4], place, value_panels[b, h, p])


def put_keys(keys: Any, words: Any, place: int, panels: Any) -> None:
    """Columns of the panels from the place on. keys : float32 [N, D]; words : scratch, unused for float32"""
    raise NotImplementedError("for kernels only")


@overload(put_keys, **OVERLOAD)  # type: ignore[untyped-decorator]
def _typed_put_keys(keys: Any, words: Any, place: Any, panels: Any) -> Any:
    return _put_key_words if panels.dtype == uint32 else _put_key_floats


@jit
def _put_columns(keys: Any, place: int, panels: Any) -> None:
    """panels[p, d, j] = keys[i, d] where place + i = p * NR + j; by squares where whole registers are filled."""
    depth, nr = panels.shape[1], panels.shape[2]
    width, step = keys.shape[1], keys.strides[0] // keys.itemsize
    whole = width // LANES * LANES
    i = 0
    while i < keys.shape[0]:
        panel, column = (place + i) // nr, (place + i) % nr
        square = column % LANES == 0 and keys.shape[0] - i >= LANES
        if square:
            for d in range(0, whole, LANES):
                transpose_square(pointer(keys[i], d), step, pointer(panels[panel, d], column), nr)
        together, begun = LANES if square else 1, whole if square else 0
        for j in range(together):
            for d in range(begun, depth):
                panels[panel, d, column + j] = keys[i + j, d] if d < width else _ZERO
        i += together


def _put_key_floats(keys: Any, words: Any, place: int, panels: Any) -> None:
    _put_columns(keys, place, panels)


def _put_key_words(keys: Any, words: Any, place: int, panels: Any) -> None:
    unused = pointer(keys, 0)  # factors, of int8 only
    take_rows(keys, 0, keys.shape[0], Rows(pointer(words, 0), words.shape[1]), unused, False)
    _put_columns(words.view(np.float32), place, panels.view(np.float32))


def put_values(values: Any, first: int, place: int, panel: Any) -> None:
    """Rows of one panel from the place on: columns `first` on of the values, float32 [N, D]; zeros behind."""
    raise NotImplementedError("for kernels only")


@overload(put_values, **OVERLOAD)  # type: ignore[untyped-decorator]
def _typed_put_values(values: Any, first: Any, place: Any, panel: Any) -> Any:
    return _put_pairs if panel.dtype == uint32 else _put_floats


def _put_floats(values: Any, first: int, place: int, panel: Any) -> None:
    rows, dim = values.shape
    for i in range(rows):
        source = pointer(values[i], first)
        for d in range(0, panel.shape[1], LANES):
            store_vector(pointer(panel[place + i], d), load_some(offset(source, d), dim - first - d, _ZERO))


def _put_pairs(values: Any, first: int, place: int, panel: Any) -> None:
    """The first key of a pair is in the lower half of the words, so the one before it stays at an odd place."""
    rows, dim = values.shape
    nr, end = panel.shape[1], place + rows
    upper = np.empty(nr, np.uint32)
    for word in range(place // 2, words_of(end, pointer(panel, 0))):
        low, high = 2 * word - place, 2 * word + 1 - place
        some = dim - first if 0 <= low < rows else 0
        more = dim - first if 0 <= high < rows else 0
        kept = low < 0 and 2 * word < end
        if kept:
            for d in range(nr):
                upper[d] = panel[word, d] & np.uint32(0xFFFF)
        for d in range(0, nr, LANES):
            x = load_some(offset(pointer(values, 0), _start(values, low, first) + d), some - d, _ZERO)
            y = load_some(offset(pointer(values, 0), _start(values, high, first) + d), more - d, _ZERO)
            store_pairs(x, y, pointer(panel[word], d))
        if kept:
            for d in range(nr):
                panel[word, d] |= upper[d]


@jit
def _start(values: Any, row: int, first: int) -> int:
    """Elements from the values' first one to a row's `first`, or to none of them."""
    return row * (values.strides[0] // values.itemsize) + first if 0 <= row < values.shape[0] else 0


_ROWS = types.Array(float32, 4, "A", readonly=True)


def _kernel(element: Any) -> Kernel:
    panels, held = types.Array(element, 5, "C"), types.Array(types.intp, 1, "C", readonly=True)
    return kernel(_ROWS, _ROWS, panels, panels, held, types.intp)(append)


# By the dtype of the panels.
APPEND = {np.dtype(element.name): _kernel(element) for element in ELEMENTS}
