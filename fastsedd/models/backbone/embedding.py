"""A language model's embedding: rows of a table, kept in 16 bits or in a file's blocks where these hold it, or of the
head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import fastsedd_kernels as fk
import numpy as np
from numpy.typing import NDArray

from fastsedd.models.backbone.naming import Blocks

_ROWS = 1024  # that are looked at, or converted, at a time


@dataclass(frozen=True)
class Embedding:
    """table : float32 [V, N]; or uint16, the upper halves of such numbers; or blocks; or the head's packed weight"""

    table: NDArray[Any] | fk.PackedWeight | Blocks

    @classmethod
    def of(cls, weight: NDArray[np.float32], head: fk.PackedWeight | None) -> Embedding:
        """weight : float32 [V, N]; head : the same one packed, if it is the head too"""
        narrow = _is_narrow(weight)
        if head is not None and (head.dtype == "float32" or (head.dtype == "bfloat16" and narrow)):
            return cls(head)
        return cls(_upper_halves(weight) if narrow else weight)

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


def _is_narrow(weight: NDArray[np.float32]) -> bool:
    """True if every number is one of bfloat16: its lower half is 0."""
    words = weight.view(np.uint32)
    return not any((words[first : first + _ROWS] & 0xFFFF).any() for first in range(0, len(words), _ROWS))


def _upper_halves(weight: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The upper half of each number's bits, part by part: the table alone may have gigabytes."""
    words, halves = weight.view(np.uint32), np.empty(weight.shape, np.uint16)
    for first in range(0, len(words), _ROWS):
        halves[first : first + _ROWS] = words[first : first + _ROWS] >> 16
    return halves
