"""Networks: (tokens, sigma) -> logits, or draws. They call kernels and know nothing of diffusion."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from fastsedd.architectures.base import ModelConfig
from fastsedd.models.forward import Forward
from fastsedd.models.layers import Tensors
from fastsedd.models.network import Network
from fastsedd.models.precision import Precision

__all__ = ["Forward", "Network", "Precision", "build"]


def build(config: ModelConfig, tensors: Tensors, dtype: str = "float32") -> Network:
    """The network of a checkpoint whose tensors have been checked against its config; dtype : see `Precision`.

    It is what `build` of fastsedd/models/<family.network>/network.py returns.
    """
    network = import_module(f"{__name__}.{config.family.network}.network")
    return cast(Network, network.build(config, tensors, Precision(dtype)))
