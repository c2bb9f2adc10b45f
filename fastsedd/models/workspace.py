"""Memory of one forward pass, allocated once per request and used in every step of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import fastsedd_kernels as fk
import numpy as np
from numpy.typing import NDArray

from fastsedd.architectures.base import ModelConfig
from fastsedd.config import FREQUENCIES

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Rows:
    """The positions that the end of a network still works on, each by itself: all of them, or some.

    attended : the output of attention in the last block, before its projection; x : the residual stream;
    normed, hidden : scratch memory. All are [..., stream], hidden [..., hidden]; attended and normed may be one.
    """

    attended: Floats
    x: Floats
    normed: Floats
    hidden: Floats


@dataclass(frozen=True)
class Workspace:
    """All arrays of a forward pass.

    Inputs: tokens : intp [B, L]; sinusoids : [S, FREQUENCIES], of noise that all samples share (S = 1) or of each
    sample (S = B).

    Between them and the end, x, normed, attended : [B, L, stream]; qkv : [B, L, qkv]; hidden : [B, L, hidden];
    modulation : [S, modulation], shifts, scales and gates of all layers; see `architectures.base.Widths`.
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

        stream, qkv, hidden, modulation = config.widths
        return cls(
            np.empty((batch, length), np.intp), np.empty((sigmas, FREQUENCIES), np.float32),
            fk.aligned_empty((sigmas, modulation)),
            array(stream), array(stream), array(stream), array(qkv), fk.padded_empty((batch, length, hidden)),
        )  # fmt: skip

    def all_rows(self) -> Rows:
        return Rows(self.attended, self.x, self.normed, self.hidden)

    def gather(self, chosen: NDArray[np.intp]) -> Rows:
        """Copies of the chosen positions, as if B L of them were one text: intp [n]. By kernels alone.

        They lie in the memory of qkv and normed, which are no longer needed.
        """
        count, width = len(chosen), self.x.shape[-1]
        batch, length, inner = self.hidden.shape
        hidden = self.hidden.reshape(batch * length, inner)[:count]
        normed = self.normed.reshape(-1, width)[:count]
        x = self.qkv.reshape(-1)[: count * width].reshape(count, width)
        fk.embedding(chosen, self.attended.reshape(-1, width), out=normed)
        fk.embedding(chosen, self.x.reshape(-1, width), out=x)
        return Rows(normed, x, normed, hidden)


def bytes_per_position(config: ModelConfig) -> int:
    """Scratch memory of one position of one text, without its share of the modulation."""
    widths = config.widths
    return 4 * (3 * widths.stream + widths.qkv + widths.hidden)
