"""Memory of one forward pass, made once a request and used in every step of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import fastsedd_kernels as fk
import numpy as np
from numpy.typing import NDArray

from fastsedd.config import FREQUENCIES, ModelConfig

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Rows:
    """The positions that the end of a network still works on, each by itself: all of them, or some.

    attended : what attention has made of them in the last block, before its projection; x : the residual stream;
    normed, hidden : scratch memory. All are [..., width], hidden [..., 4 width]; attended and normed may be one.
    """

    attended: Floats
    x: Floats
    normed: Floats
    hidden: Floats


@dataclass(frozen=True)
class Workspace:
    """Inputs: tokens : intp [B, L]; sinusoids : [S, FREQUENCIES], of noise that all samples share (S = 1) or of each
    sample (S = B).

    Between them and the end, x, normed, attended : [B, L, width]; qkv : [B, L, 3 width]; hidden : [B, L, 4 width];
    modulation : [S, shifts, scales and gates of all layers].
    """

    tokens: NDArray[np.intp]
    sinusoids: Floats
    modulation: Floats
    x: Floats
    normed: Floats
    attended: Floats
    qkv: Floats
    hidden: Floats

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in vars(self).values())

    @classmethod
    def allocate(cls, config: ModelConfig, batch: int, length: int, sigmas: int) -> Workspace:
        def array(width: int) -> NDArray[Any]:
            return fk.aligned_empty((batch, length, width))

        width = config.width
        return cls(
            np.empty((batch, length), np.intp), np.empty((sigmas, FREQUENCIES), np.float32),
            fk.aligned_empty((sigmas, config.modulations * width)),
            array(width), array(width), array(width), array(3 * width), fk.padded_empty((batch, length, 4 * width)),
        )  # fmt: skip

    def all_rows(self) -> Rows:
        return Rows(self.attended, self.x, self.normed, self.hidden)

    def gather(self, chosen: NDArray[np.intp]) -> Rows:
        """Copies of the chosen positions, as if B L of them were one text: intp [n]. By kernels alone.

        They lie in the memory of qkv and normed, which nothing needs any more.
        """
        count, width = len(chosen), self.x.shape[-1]
        normed, hidden = self.normed.reshape(-1, width)[:count], self.hidden.reshape(-1, 4 * width)[:count]
        x = self.qkv.reshape(-1)[: count * width].reshape(count, width)
        fk.embedding(chosen, self.attended.reshape(-1, width), out=normed)
        fk.embedding(chosen, self.x.reshape(-1, width), out=x)
        return Rows(normed, x, normed, hidden)
