"""Networks: (tokens, sigma) -> log score. They call kernels and know nothing of diffusion."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fastsedd.config import ModelConfig
from fastsedd.models.annotated import Annotated
from fastsedd.models.ddit import DDiT
from fastsedd.models.layers import Tensors
from fastsedd.models.workspace import Workspace

__all__ = ["Network", "Workspace", "build"]


class Network(Protocol):
    """What a sampler needs of an architecture."""

    @property
    def config(self) -> ModelConfig: ...

    def log_score(
        self, tokens: NDArray[np.int32], sigma: NDArray[np.float64], scratch: Workspace
    ) -> NDArray[np.float32]:
        """tokens int32 [B, L], total noise sigma [B] to float32 [B, L, V], a view of the workspace."""


def build(config: ModelConfig, tensors: Tensors) -> Network:
    """The network of a checkpoint whose tensors have been checked against its config."""
    return Annotated(config, tensors) if config.architecture == "annotated" else DDiT(config, tensors)
