"""Weights from the blocks of a GGUF file: the same codes and scales, bit for bit, in panels.

    Q4_0    18 bytes for 32 inputs     half, 16 bytes of nibbles
    Q4_1    20 bytes                   half, half of the minimum, nibbles
    Q8_0    34 bytes                   half, 32 bytes with a sign
    Q4_K    144 bytes for 256 inputs   two halves; 8 scales and 8 minima of 6 bits; nibbles of two groups a byte

Source: ggml's block formats, as the `gguf` package of the llama.cpp project documents them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastsedd_kernels.gemm.group_scaled.microkernel import GROUP
from fastsedd_kernels.gemm.group_scaled.storage import MINIMUM, NESTED, SCALE, Quantised
from fastsedd_kernels.gemm.packed_weight import PackedWeight, from_groups
from fastsedd_kernels.runtime.arrays import as_array

Blocks = ArrayLike | bytes | memoryview

_SUPER = 256  # inputs of a block of Q4_K
_NUMBERS = {2: "Q4_0", 3: "Q4_1", 8: "Q8_0", 12: "Q4_K"}  # of GGMLQuantizationType


def pack_gguf(blocks: Blocks | Sequence[Blocks], type: Any, shape: Sequence[int]) -> PackedWeight:
    """Pack a tensor of a GGUF file for `linear`, as "int4" or, of Q8_0, "int8g".

    blocks : the tensor's data as the file has it, row by row: uint8 of any shape, or bytes; or two of one shape and
        type, [gate, up], as for `pack`
    type : "Q4_0", "Q4_1", "Q8_0" or "Q4_K", or its number or member of the gguf package's GGMLQuantizationType
    shape : (outputs, inputs), the reverse of a GGUF file's own order
    Memory per value: 4.5 bits of Q4_0, 5 of Q4_1, 8.5 of Q8_0, 4.63 of Q4_K.
    Raises ValueError for another type, inputs that are no multiple of its block, blocks of another size, and scales
    that are not finite.
    """
    name = _NUMBERS.get(type) if isinstance(type, int) else getattr(type, "name", type)
    if name not in _READERS:
        raise ValueError(f"type is {type!r}, allowed: {', '.join(map(repr, _READERS))}")
    nbytes, count, read = _READERS[name]
    if len(shape) != 2 or min(shape) < 1 or shape[1] % count != 0:
        raise ValueError(f"shape is {tuple(shape)}, must be (outputs, inputs), inputs a multiple of {count} for {name}")
    outputs, inputs = int(shape[0]), int(shape[1])
    pair = blocks if isinstance(blocks, (list, tuple)) and len(blocks) == 2 else [blocks]
    parts = []
    for given in pair:
        rows = _as_bytes(given)
        if rows.size != outputs * inputs // count * nbytes:
            expected = outputs * inputs // count * nbytes
            raise ValueError(f"blocks has {rows.size} bytes, must be {expected} for {name} of shape {tuple(shape)}")
        parts.append(read(rows.reshape(outputs, -1, nbytes)))
        if not np.isfinite(parts[-1].halves).all():
            raise ValueError("blocks holds a scale that is not finite")
    return from_groups(parts)


def _as_bytes(blocks: Any) -> NDArray[np.uint8]:
    if isinstance(blocks, (bytes, bytearray, memoryview)):
        return np.frombuffer(blocks, np.uint8)
    return np.ascontiguousarray(as_array("blocks", blocks, np.uint8))


def _halves(blocks: NDArray[np.uint8], count: int) -> NDArray[np.float16]:
    """The first halves of each block, [N, blocks, count]."""
    return np.ascontiguousarray(blocks[..., : 2 * count]).view(np.float16)


def _nibbles(pairs: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[..., n] bytes as [..., 2 n]: all lower nibbles, then all upper ones."""
    return np.concatenate([pairs & 15, pairs >> 4], axis=-1)


def _quantised(codes: NDArray[Any], halves: NDArray[np.float16], form: int) -> Quantised:
    """[N, groups, 32] codes with halves of their own."""
    outputs, groups, _ = codes.shape
    rows = codes.reshape(outputs, -1)
    return Quantised(rows, halves, np.empty((outputs, groups, 0), np.uint8), form, 1, rows.shape[1])


def _q4_0(blocks: NDArray[np.uint8]) -> Quantised:
    return _quantised(_nibbles(blocks[..., 2:]), _halves(blocks, 1), SCALE)


def _q4_1(blocks: NDArray[np.uint8]) -> Quantised:
    return _quantised(_nibbles(blocks[..., 4:]), _halves(blocks, 2), MINIMUM)


def _q8_0(blocks: NDArray[np.uint8]) -> Quantised:
    return _quantised(np.ascontiguousarray(blocks[..., 2:]).view(np.int8), _halves(blocks, 1), SCALE)


def _q4_k(blocks: NDArray[np.uint8]) -> Quantised:
    """Four bytes hold the lower six bits of scales 0 to 3, four those of minima 0 to 3; of 4 to 7, four bytes hold the
    lower four bits of both, and the upper two bits of the bytes before hold the rest."""
    outputs, count, _ = blocks.shape
    scales, minima, rest = (blocks[..., first : first + 4] for first in (4, 8, 12))
    small = np.stack(
        [
            np.concatenate([scales & 63, rest & 15 | scales >> 2 & 48], axis=2),
            np.concatenate([minima & 63, rest >> 4 | minima >> 2 & 48], axis=2),
        ],
        axis=3,
    )
    codes = _nibbles(blocks[..., 16:].reshape(outputs, -1, GROUP))
    groups = _SUPER // GROUP
    small = small.reshape(outputs, count * groups, 2)
    return Quantised(codes.reshape(outputs, -1), _halves(blocks, 2), small, NESTED, groups, count * _SUPER)


# Of each type: bytes and inputs of a block, and what reads [N, blocks, bytes].
_READERS: dict[str, tuple[int, int, Callable[[NDArray[np.uint8]], Quantised]]] = {
    "Q4_0": (18, GROUP, _q4_0),
    "Q4_1": (20, GROUP, _q4_1),
    "Q8_0": (34, GROUP, _q8_0),
    "Q4_K": (144, _SUPER, _q4_k),
}
