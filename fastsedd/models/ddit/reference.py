"""Lou et al.'s network, and MDLM's and RADD's, in float64 NumPy: the truth for tests and benchmarks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastsedd.architectures.base import ModelConfig
from fastsedd.models.ddit.network import prefix_of
from fastsedd.models.layers import Tensors
from fastsedd.models.reference_layers import Array, attend, chunks, condition, linear, norm


def logits(config: ModelConfig, tensors: Tensors, tokens: NDArray[Any], sigma: Array) -> Array:
    """tokens [B, L], sigma [B] to logits [B, L, V]."""
    tensors = {name.removeprefix(prefix_of(config)): tensor for name, tensor in tensors.items()}
    embedded = condition(tensors, sigma) if config.widths.modulation else None
    x: Array = tensors["vocab_embed.embedding"][tokens].astype(np.float64)
    for i in range(config.blocks):
        name = f"blocks.{i}"
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = chunks(tensors, name, embedded, 6)
        y = norm(tensors, f"{name}.norm1", x, shift, scale)
        y = attend(linear(tensors, f"{name}.attn_qkv", y), config.heads, rotary=True)
        x = x + gate * linear(tensors, f"{name}.attn_out", y)
        y = norm(tensors, f"{name}.norm2", x, mlp_shift, mlp_scale)
        x = x + mlp_gate * linear(tensors, f"{name}.mlp.2", linear(tensors, f"{name}.mlp.0", y, "gelu_tanh"))
    shift, scale = chunks(tensors, "output_layer", embedded, 2)
    x = norm(tensors, "output_layer.norm_final", x, shift, scale)
    return linear(tensors, "output_layer.linear", x)
