"""The transformer of Qwen2, Qwen3 and Llama in float64 NumPy, in blocks or not: the truth for tests."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from fastsedd_kernels.norm.reference import rms_norm
from fastsedd_kernels.rotary.reference import rotary
from fastsedd_kernels.rotary.table import scaled_frequencies
from numpy.typing import NDArray

from fastsedd.architectures.base import ModelConfig
from fastsedd.architectures.masked_language import backbone_of
from fastsedd.block_layout import BlockLayout
from fastsedd.models.backbone.naming import Named
from fastsedd.models.layers import Tensors
from fastsedd.models.reference_layers import Array, linear


def logits(config: ModelConfig, tensors: Tensors, tokens: NDArray[Any], blocks: BlockLayout | None = None) -> Array:
    """tokens [B, L] to logits [B, L, V], not shifted. blocks : of block-causal attention; None: it is full"""
    backbone = backbone_of(config)
    tensors = Named(config, tensors)
    x: Array = tensors["model.embed_tokens.weight"][tokens].astype(np.float64)
    length = tokens.shape[1]
    of = np.zeros(length, int) if blocks is None else np.array([blocks.index(i) for i in range(length)])
    hidden = of[None, :] > of[:, None]  # keys of later blocks
    for i in range(config.blocks):
        name = f"model.layers.{i}"
        y = rms_norm(x, tensors[f"{name}.input_layernorm.weight"], backbone.eps)
        q, k, v = (_heads(linear(tensors, f"{name}.self_attn.{part}_proj", y), backbone.head_dim) for part in "qkv")
        norms = [tensors.get(f"{name}.self_attn.{part}_norm.weight") for part in "qk"]
        q, k = (_rotated(config, each, norm) for each, norm in zip((q, k), norms, strict=True))
        k, v = (np.repeat(each, config.heads // backbone.kv_heads, axis=1) for each in (k, v))
        weights = q @ k.swapaxes(-1, -2) / math.sqrt(backbone.head_dim)
        weights = np.where(hidden, -np.inf, weights)
        weights = np.exp(weights - weights.max(axis=-1, keepdims=True))
        attended = (weights / weights.sum(axis=-1, keepdims=True)) @ v
        joined = attended.swapaxes(1, 2).reshape(*x.shape[:2], -1)
        x = x + linear(tensors, f"{name}.self_attn.o_proj", joined)
        y = rms_norm(x, tensors[f"{name}.post_attention_layernorm.weight"], backbone.eps)
        gate, up = linear(tensors, f"{name}.mlp.gate_proj", y, "silu"), linear(tensors, f"{name}.mlp.up_proj", y)
        x = x + linear(tensors, f"{name}.mlp.down_proj", gate * up)
    y = rms_norm(x, tensors["model.norm.weight"], backbone.eps)
    return linear(tensors, "model.embed_tokens" if backbone.tied else "lm_head", y)


def _heads(x: Array, dim: int) -> Array:
    """[B, L, heads * dim] to [B, heads, L, dim]."""
    return x.reshape(*x.shape[:2], -1, dim).swapaxes(1, 2)


def _rotated(config: ModelConfig, x: Array, norm: Any) -> Array:
    backbone = backbone_of(config)
    frequencies, factor = scaled_frequencies(backbone.head_dim, backbone.theta, dict(backbone.scaling) or None)
    return factor * rotary(x, frequencies=frequencies, norm=norm, eps=backbone.eps)
