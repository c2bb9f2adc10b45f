"""Arrays for the kernels' tests: random operands, poisoned outputs, and memory layouts of equal values."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable
from typing import Any

import numpy as np


def normal(seed: int, *shape: int, dtype: Any = np.float32) -> np.ndarray:
    """Standard normal values."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def poisoned(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    """An output or scratch array full of NaN: what a kernel leaves unwritten is seen, and so is what it reads."""
    return np.full(shape, np.nan, dtype)


def unaligned(x: np.ndarray) -> np.ndarray:
    """The values at an address that is no multiple of a vector's bytes, nor of a cache line's."""
    memory = np.empty(x.size + 1, x.dtype)
    view = memory[1:].reshape(x.shape)
    view[...] = x
    return view


def at_page(x: np.ndarray) -> np.ndarray:
    """The values at the start of a page, the one before which cannot be read. Not for Windows."""
    before = mmap.PAGESIZE
    memory = mmap.mmap(-1, before + x.nbytes)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert ctypes.CDLL(None, use_errno=True).mprotect(ctypes.c_void_p(address), ctypes.c_size_t(before), 0) == 0
    view = np.frombuffer(memory, x.dtype, x.size, before).reshape(x.shape)
    view[...] = x
    return view


# Ways for a matrix to lie in memory. Where there is memory between the elements, it is NaN.
LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "rows": np.ascontiguousarray,
    "columns": np.asfortranarray,
    "every other": lambda x: _spread(x)[::2, ::2],
    "backwards": lambda x: np.ascontiguousarray(x[::-1, ::-1])[::-1, ::-1],
    "wider": lambda x: np.pad(x, 5, constant_values=np.nan)[5:-5, 5:-5],
    "unaligned": unaligned,
}


def _spread(x: np.ndarray) -> np.ndarray:
    spread = np.full((2 * x.shape[0], 2 * x.shape[1]), np.nan, x.dtype)
    spread[::2, ::2] = x
    return spread
