"""The transformer of GPT-2 in float64 NumPy, without a causal mask: the truth for tests."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from fastsedd_kernels.norm.reference import layer_norm
from numpy.typing import NDArray

from fastsedd.architectures.base import ModelConfig
from fastsedd.architectures.diffugpt import EMBEDDING, POSITIONS, TRUNK
from fastsedd.architectures.masked_language import backbone_of
from fastsedd.models.backbone.naming import Named
from fastsedd.models.layers import Tensors
from fastsedd.models.reference_layers import Array


def logits(config: ModelConfig, tensors: Tensors, tokens: NDArray[Any]) -> Array:
    """tokens [B, L] to logits [B, L, V], not shifted."""
    tensors, eps = Named(config, tensors), backbone_of(config).eps
    table = tensors[EMBEDDING].astype(np.float64)
    batch, length = tokens.shape
    x = table[tokens] + tensors[POSITIONS][:length]
    for i in range(config.blocks):
        name = f"{TRUNK}.h.{i}"
        y = _conv(tensors, f"{name}.attn.c_attn", _norm(tensors, f"{name}.ln_1", x, eps))
        q, k, v = y.reshape(batch, length, 3, config.heads, -1).transpose(2, 0, 3, 1, 4)
        weights = np.exp(q @ k.swapaxes(-1, -2) / math.sqrt(config.head_dim))
        attended = (weights / weights.sum(axis=-1, keepdims=True)) @ v
        x = x + _conv(tensors, f"{name}.attn.c_proj", attended.swapaxes(1, 2).reshape(batch, length, -1))
        y = _conv(tensors, f"{name}.mlp.c_fc", _norm(tensors, f"{name}.ln_2", x, eps))
        y = 0.5 * y * (1 + np.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))
        x = x + _conv(tensors, f"{name}.mlp.c_proj", y)
    return np.asarray(_norm(tensors, f"{TRUNK}.ln_f", x, eps) @ table.T)


def _conv(tensors: Tensors, name: str, x: Array) -> Array:
    return np.asarray(x @ tensors[f"{name}.weight"].astype(np.float64) + tensors[f"{name}.bias"])


def _norm(tensors: Tensors, name: str, x: Array, eps: float) -> Array:
    return layer_norm(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"], eps=eps)
