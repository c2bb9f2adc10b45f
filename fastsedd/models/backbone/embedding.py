"""A language model's embedding: rows of a table, kept in 16 bits or in a file's blocks where these hold it, or of the
head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import fastsedd_kernels as fk
import numpy as np
from numpy.typing import NDArray

from fastsedd.models.backbone.naming import Blocks, Named
from fastsedd.models.backbone.parts import spans


@dataclass(frozen=True)
class Embedding:
    """table : float32 [V, N]; or uint16, the upper halves of such numbers; or blocks; or the head's packed weight"""

    table: NDArray[Any] | fk.PackedWeight | Blocks

    @classmethod
    def read(cls, tensors: Named, name: str, head: fk.PackedWeight | None) -> Embedding:
        """head : the tensor of that name packed, if it is the head too"""
        blocks = tensors.blocks(name, 0, tensors.shape(name)[0])
        if blocks is not None:
            return cls(blocks)
        if head is not None and head.dtype == "float32":
            return cls(head)
        narrow = tensors.dtype_of(name) == "bfloat16" or _is_narrow(tensors, name)
        if narrow and head is not None and head.dtype == "bfloat16":
            return cls(head)
        return cls(_upper_halves(tensors, name) if narrow else tensors[name])

    def __call__(self, tokens: NDArray[Any], out: NDArray[np.float32]) -> None:
        """Rows of tokens, integers [n], into out, float32 [n, N]."""
        if not isinstance(self.table, np.ndarray):
            out[...] = self.table.rows(tokens)
        elif self.table.dtype == np.float32:
            np.take(self.table, tokens, axis=0, out=out)
        else:
            np.left_shift(self.table[tokens], 16, out=out.view(np.uint32), dtype=np.uint32, casting="unsafe")

    @property
    def nbytes(self) -> int:
        """Memory of its own, beside the head's."""
        if isinstance(self.table, fk.PackedWeight):
            return 0
        return self.table.nbytes if isinstance(self.table, np.ndarray) else self.table.data.nbytes


def _is_narrow(tensors: Named, name: str) -> bool:
    """True if every number is one of bfloat16: its lower half is 0."""
    return not any(
        (tensors.rows(name, first, last).view(np.uint32) & 0xFFFF).any() for first, last in spans(tensors.shape(name))
    )


def _upper_halves(tensors: Named, name: str) -> NDArray[np.uint16]:
    """The upper half of each number's bits, part by part: the table alone may have gigabytes."""
    halves = np.empty(tensors.shape(name), np.uint16)
    for first, last in spans(halves.shape):
        halves[first:last] = tensors.rows(name, first, last).view(np.uint32) >> 16
    return halves
