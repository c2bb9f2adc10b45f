"""Scratch memory of large products, kept from call to call: fresh pages take the system as long to clear as to fill."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastsedd_kernels.runtime.arrays import aligned_empty
from fastsedd_kernels.runtime.capture import is_recording

MAX_KEPT = 256 << 20  # bytes

_lock = threading.Lock()
_kept: NDArray[np.uint8] | None = None  # one block, which the process holds on to


@contextlib.contextmanager
def scratch(elements: int, dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
    """Memory for that many elements, 1-D, from a cache line's edge on, with anything in it; the caller's alone, inside.

    What a recording takes down has memory of its own, since its replays write there too.
    """
    if is_recording():
        yield aligned_empty((elements,), dtype)
        return
    nbytes = elements * dtype.itemsize
    block = _take(nbytes)
    try:
        yield block[:nbytes].view(dtype)
    finally:
        _give(block)


def _take(nbytes: int) -> NDArray[np.uint8]:
    global _kept
    with _lock:
        if _kept is not None and len(_kept) >= nbytes:
            block, _kept = _kept, None
            return block
    return aligned_empty((nbytes,), np.uint8)


def _give(block: NDArray[np.uint8]) -> None:
    """Keep the largest of the blocks that come back, if it is not too large for that."""
    global _kept
    with _lock:
        if len(block) <= MAX_KEPT and (_kept is None or len(block) > len(_kept)):
            _kept = block
