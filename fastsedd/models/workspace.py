"""Scratch memory of one forward pass, made once a request and used in every step of it."""

from __future__ import annotations

from dataclasses import dataclass

import fastsedd_kernels as fk
import numpy as np
from numpy.typing import NDArray

from fastsedd.config import ModelConfig


@dataclass(frozen=True)
class Workspace:
    """x, normed, attended : [B, L, width]; qkv : [B, L, 3 width]; hidden : [B, L, 4 width]; log_score : [B, L, V]."""

    x: NDArray[np.float32]
    normed: NDArray[np.float32]
    attended: NDArray[np.float32]
    qkv: NDArray[np.float32]
    hidden: NDArray[np.float32]
    log_score: NDArray[np.float32]

    @classmethod
    def allocate(cls, config: ModelConfig, batch: int, length: int) -> Workspace:
        def array(width: int) -> NDArray[np.float32]:
            return fk.aligned_empty((batch, length, width))

        width = config.width
        return cls(
            array(width), array(width), array(width), array(3 * width), array(4 * width), array(config.vocab_size)
        )
