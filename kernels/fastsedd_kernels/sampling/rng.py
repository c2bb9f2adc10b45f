"""Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): a number is a function of a
key and a counter, so any thread can draw any number in any order.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastsedd_kernels.runtime.jit import jit

_MULTIPLIER_0 = np.uint64(0xD2511F53)
_MULTIPLIER_1 = np.uint64(0xCD9E8D57)
_WEYL_0 = np.uint32(0x9E3779B9)
_WEYL_1 = np.uint32(0xBB67AE85)
_HALF = np.uint64(32)


@jit
def philox(seed: Any, stream: Any, block: Any) -> Any:
    """The four uint32 numbers of one block of a stream; seed, stream and block are uint64.

    The counter is (block, stream), the key is the seed, each as two words, low word first.
    """
    c0, c1 = np.uint32(block), np.uint32(block >> _HALF)
    c2, c3 = np.uint32(stream), np.uint32(stream >> _HALF)
    k0, k1 = np.uint32(seed), np.uint32(seed >> _HALF)
    for _ in range(10):
        low = np.uint64(c0) * _MULTIPLIER_0
        high = np.uint64(c2) * _MULTIPLIER_1
        # Numba widens uint32 ^ uint32, so every step is cast back
        c0, c2 = np.uint32(np.uint32(high >> _HALF) ^ c1 ^ k0), np.uint32(np.uint32(low >> _HALF) ^ c3 ^ k1)
        c1, c3 = np.uint32(high), np.uint32(low)
        k0, k1 = np.uint32(k0 + _WEYL_0), np.uint32(k1 + _WEYL_1)
    return c0, c1, c2, c3
