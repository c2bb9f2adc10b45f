"""Networks: (tokens, sigma) -> log score. They call kernels and know nothing of diffusion."""

from __future__ import annotations

from fastsedd.config import ModelConfig
from fastsedd.models.annotated import Annotated
from fastsedd.models.ddit import DDiT
from fastsedd.models.forward import Forward
from fastsedd.models.layers import Tensors
from fastsedd.models.network import Network

__all__ = ["Forward", "Network", "build"]


def build(config: ModelConfig, tensors: Tensors) -> Network:
    """The network of a checkpoint whose tensors have been checked against its config."""
    return Annotated(config, tensors) if config.architecture == "annotated" else DDiT(config, tensors)
