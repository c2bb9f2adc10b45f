"""Scratch memory of large products, kept from call to call: fresh pages take the system as long to clear as to fill."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastsedd_kernels.runtime.arrays import aligned_empty
from fastsedd_kernels.runtime.capture import is_recording

MAX_KEPT = 256 << 20  # bytes

_kept: list[NDArray[np.uint8]] = []  # one block at most, which the process holds on to


class scratch:
    """Memory for that many elements, 1-D, from a cache line's edge on, with anything in it; the caller's alone, inside.

    What a recording takes down has memory of its own, since its replays write there too.
    """

    __slots__ = ("_block", "_dtype", "_elements")

    def __init__(self, elements: int, dtype: np.dtype[Any]) -> None:
        self._elements, self._dtype = elements, dtype

    def __enter__(self) -> NDArray[Any]:
        nbytes = self._elements * self._dtype.itemsize
        self._block = aligned_empty((nbytes,), np.uint8) if is_recording() else _take(nbytes)
        return np.ndarray((self._elements,), self._dtype, self._block)

    def __exit__(self, *error: object) -> None:
        if not is_recording():
            _give(self._block)


def _take(nbytes: int) -> NDArray[np.uint8]:
    """The kept block, which another thread can then not take, or a new one if it is gone or too small."""
    try:
        block = _kept.pop()
    except IndexError:
        return aligned_empty((nbytes,), np.uint8)
    return block if len(block) >= nbytes else aligned_empty((nbytes,), np.uint8)


def _give(block: NDArray[np.uint8]) -> None:
    """Keep the largest of the blocks that come back, if it is not too large for that."""
    kept = _kept[:1]  # which another thread may take meanwhile
    if len(block) <= MAX_KEPT and (not kept or len(block) > len(kept[0])):
        _kept[:] = [block]
