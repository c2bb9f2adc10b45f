"""Logits of any architecture in float64 NumPy: the truth for tests and benchmarks."""

from __future__ import annotations

from importlib import import_module
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from fastsedd.architectures.base import ModelConfig
from fastsedd.models.layers import Tensors


def logits(config: ModelConfig, tensors: Tensors, tokens: NDArray[Any], sigma: NDArray[Any]) -> NDArray[np.float64]:
    """tokens [B, L], sigma [B] to logits [B, L, V], by fastsedd/models/<family.network>/reference.py."""
    noise = np.asarray(sigma, np.float64)
    reference = import_module(f"fastsedd.models.{config.family.network}.reference")
    found = reference.logits(config, tensors, tokens, noise if config.time_conditioning else np.zeros_like(noise))
    return cast("NDArray[np.float64]", found)
