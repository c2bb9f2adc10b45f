"""GGUF's types of tensors: bytes of a block of numbers, and its values in float32, each operation rounded once.

    Q8_0    34 bytes for 32 numbers    a half d; 32 signed bytes q                       d q
    Q4_0    18 bytes                   a half d; nibbles q, the first 16 are the lower   d (q - 8)
    Q4_1    20 bytes                   halves d, m; nibbles                              d q + m
    Q4_K    144 bytes for 256          halves d, m; 8 scales and 8 minima of 6 bits      (d s) q - (m t)
    Q6_K    210 bytes for 256          nibbles, pairs of bits, 16 signed scales, half d  (d s) (q - 32)

Source: ggml's block formats, as the `gguf` package of the llama.cpp project documents them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class BlockType:
    """count : numbers in a block; nbytes : of a block; values : uint8 [n, nbytes] to float32 [n, count]
    halves : bytes at which its halves begin, which alone decide whether its values are finite"""

    count: int
    nbytes: int
    values: Callable[[Bytes], Floats]
    halves: tuple[int, ...]

    def finite(self, blocks: Bytes) -> bool:
        """True if all values of these blocks, [n, nbytes], are finite."""
        return all(bool(np.isfinite(_halves(blocks, first)).all()) for first in self.halves)


def _halves(blocks: Bytes, first: int) -> Floats:
    """The half at a byte of each block: [n, 1]."""
    return np.ascontiguousarray(blocks[:, first : first + 2]).view("<f2").astype(np.float32)


def _nibbles(pairs: Bytes, width: int) -> Floats:
    """[n, bytes] as [n, 2 bytes]: of each `width` bytes all lower nibbles, then all upper ones."""
    bytes_ = pairs.reshape(len(pairs), -1, 1, width)
    return np.concatenate([bytes_ & 15, bytes_ >> 4], axis=2).reshape(len(pairs), -1).astype(np.float32)


def _q8_0(blocks: Bytes) -> Floats:
    return _halves(blocks, 0) * np.ascontiguousarray(blocks[:, 2:]).view(np.int8).astype(np.float32)


def _q4_0(blocks: Bytes) -> Floats:
    return _halves(blocks, 0) * (_nibbles(blocks[:, 2:], 16) - np.float32(8))


def _q4_1(blocks: Bytes) -> Floats:
    return _halves(blocks, 0) * _nibbles(blocks[:, 4:], 16) + _halves(blocks, 2)


def _q4_k(blocks: Bytes) -> Floats:
    """Twelve bytes hold 16 numbers of 6 bits: of the later eight, the upper two bits lie above the first eight."""
    scales, minima, rest = (blocks[:, first : first + 4] for first in (4, 8, 12))
    scales = np.concatenate([scales & 63, rest & 15 | scales >> 2 & 48], axis=1)
    minima = np.concatenate([minima & 63, rest >> 4 | minima >> 2 & 48], axis=1)
    steps = (_halves(blocks, 0) * scales.astype(np.float32))[..., None]
    offsets = (_halves(blocks, 2) * minima.astype(np.float32))[..., None]
    return (steps * _nibbles(blocks[:, 16:], 32).reshape(len(blocks), 8, 32) - offsets).reshape(len(blocks), 256)


def _q6_k(blocks: Bytes) -> Floats:
    nibbles, pairs = blocks[:, :128].reshape(-1, 2, 1, 64), blocks[:, 128:192].reshape(-1, 2, 1, 32)
    lower = np.concatenate([nibbles & 15, nibbles >> 4], axis=2).reshape(len(blocks), 8, 32)
    upper = np.concatenate([pairs >> shift & 3 for shift in (0, 2, 4, 6)], axis=2).reshape(len(blocks), 8, 32)
    codes = (lower | upper << 4).astype(np.float32) - np.float32(32)
    scales = np.ascontiguousarray(blocks[:, 192:208]).view(np.int8).astype(np.float32)
    steps: Floats = (_halves(blocks, 208) * scales)[..., None]
    values: Floats = steps * codes.reshape(len(blocks), 16, 16)
    return values.reshape(len(blocks), 256)


BLOCKS: dict[str, BlockType] = {
    "Q8_0": BlockType(32, 34, _q8_0, (0,)),
    "Q4_0": BlockType(32, 18, _q4_0, (0,)),
    "Q4_1": BlockType(32, 20, _q4_1, (0, 2)),
    "Q4_K": BlockType(256, 144, _q4_k, (0, 2)),
    "Q6_K": BlockType(256, 210, _q6_k, (208,)),
}
