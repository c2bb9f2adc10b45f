"""Philox and the exact draw in plain NumPy integers and float64: the truth for tests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_WORD = 0xFFFFFFFF


def philox(seed: int, stream: int, block: int) -> tuple[int, int, int, int]:
    c = [block & _WORD, block >> 32, stream & _WORD, stream >> 32]
    k = [seed & _WORD, seed >> 32]
    for _ in range(10):
        low, high = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(high >> 32) ^ c[1] ^ k[0], high & _WORD, (low >> 32) ^ c[3] ^ k[1], low & _WORD]
        k = [(k[0] + 0x9E3779B9) & _WORD, (k[1] + 0xBB67AE85) & _WORD]
    return c[0], c[1], c[2], c[3]


def sample_categorical(probabilities: NDArray[np.float32], seed: int, offset: int = 0) -> NDArray[np.int32]:
    """The exact method, rows of a 2-D array."""
    drawn = []
    for r, row in enumerate(np.asarray(probabilities, np.float64)):
        blocks = [philox(seed, offset + r, block) for block in range(-(-len(row) // 4))]
        bits = np.array(blocks, np.float64).reshape(-1)[: len(row)]
        drawn.append(int(np.argmax(row / -np.log1p(-(bits + 0.5) / 2**32))))
    return np.array(drawn, np.int32)
