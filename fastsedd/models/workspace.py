"""Memory of one forward pass, made once a request and used in every step of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import fastsedd_kernels as fk
import numpy as np
from numpy.typing import NDArray

from fastsedd.config import ModelConfig

FREQUENCIES = 256


@dataclass(frozen=True)
class Workspace:
    """Inputs: tokens : intp [B, L]; sinusoids : [S, FREQUENCIES], of noise that all samples share (S = 1) or of each
    sample (S = B). Output: log_score : [B, L, V].

    Between them, x, normed, attended : [B, L, width]; qkv : [B, L, 3 width]; hidden : [B, L, 4 width].
    """

    tokens: NDArray[np.intp]
    sinusoids: NDArray[np.float32]
    x: NDArray[np.float32]
    normed: NDArray[np.float32]
    attended: NDArray[np.float32]
    qkv: NDArray[np.float32]
    hidden: NDArray[np.float32]
    log_score: NDArray[np.float32]

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
            array(width), array(width), array(width), array(3 * width), array(4 * width), array(config.vocab_size),
        )  # fmt: skip
