"""Networks: (tokens, sigma) -> log scores, or draws. They call kernels and know nothing of diffusion."""

from __future__ import annotations

from fastsedd.config import ModelConfig
from fastsedd.models.annotated import Annotated
from fastsedd.models.ddit import DDiT
from fastsedd.models.forward import Forward
from fastsedd.models.layers import Tensors
from fastsedd.models.network import Network, Precision

__all__ = ["Forward", "Network", "Precision", "build"]


def build(config: ModelConfig, tensors: Tensors, dtype: str = "float32") -> Network:
    """The network of a checkpoint whose tensors have been checked against its config; dtype : see `Precision`."""
    precision = Precision(dtype)
    if config.architecture == "annotated":
        return Annotated(config, tensors, precision)
    return DDiT(config, tensors, precision)
