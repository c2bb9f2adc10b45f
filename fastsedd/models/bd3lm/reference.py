"""BD3-LM's transformer in float64 NumPy, with every block computed from what it sees: the truth for tests."""

from __future__ import annotations

from typing import Any

import numpy as np
from fastsedd_kernels.attention.reference import attention
from fastsedd_kernels.rotary.reference import rotary
from numpy.typing import NDArray

from fastsedd.architectures.base import ModelConfig
from fastsedd.architectures.bd3lm import PREFIX
from fastsedd.architectures.masked_language import backbone_of
from fastsedd.block_layout import BlockLayout
from fastsedd.models.layers import Tensors
from fastsedd.models.reference_layers import Array, chunks, condition, linear, norm


def logits(config: ModelConfig, tensors: Tensors, tokens: NDArray[Any], blocks: BlockLayout | None = None) -> Array:
    """tokens [B, L] to logits [B, L, V]. blocks : of block-causal attention; None: it is full"""
    tensors = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
    embedded = condition(tensors, np.zeros(1)) if backbone_of(config).modulated else None
    x: Array = tensors["vocab_embed.embedding"][tokens].astype(np.float64)
    batch, length, width = x.shape
    for i in range(config.blocks):
        name = f"blocks.{i}"
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = chunks(tensors, name, embedded, 6)
        y = linear(tensors, f"{name}.attn_qkv", norm(tensors, f"{name}.norm1", x, shift, scale))
        q, k, v = y.reshape(batch, length, 3, config.heads, -1).transpose(2, 0, 3, 1, 4)
        y = attention(rotary(q), rotary(k), v, mask=_seen(length, blocks))
        y = y.transpose(0, 2, 1, 3).reshape(batch, length, width)
        x = x + gate * linear(tensors, f"{name}.attn_out", y)
        y = norm(tensors, f"{name}.norm2", x, mlp_shift, mlp_scale)
        x = x + mlp_gate * linear(tensors, f"{name}.mlp.2", linear(tensors, f"{name}.mlp.0", y, "gelu_tanh"))
    shift, scale = chunks(tensors, "output_layer", embedded, 2)
    return linear(tensors, "output_layer.linear", norm(tensors, "output_layer.norm_final", x, shift, scale))


def _seen(length: int, blocks: BlockLayout | None) -> NDArray[np.bool_]:
    """True where a query, a row, sees a key, a column: bool [length, length]."""
    if blocks is None:
        return np.ones((length, length), bool)
    rows, keys = range(length), np.arange(length)
    return np.array([(keys < blocks.end(i)) & (keys >= blocks.first_seen(i)) for i in rows])
