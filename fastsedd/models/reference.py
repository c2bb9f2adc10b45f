"""The networks in float64 NumPy, written as their formulas read: the truth for tests and benchmarks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from fastsedd_kernels.attention import reference as attention
from fastsedd_kernels.gemm import reference as gemm
from fastsedd_kernels.norm import reference as norm
from numpy.typing import NDArray

from fastsedd.config import FREQUENCIES, ModelConfig
from fastsedd.models.layers import Tensors

Array = NDArray[np.float64]


def log_score(config: ModelConfig, tensors: Tensors, tokens: NDArray[Any], sigma: NDArray[Any]) -> Array:
    """tokens [B, L], sigma [B] to log scores [B, L, V]."""
    sigma = np.asarray(sigma, np.float64)
    prefix = config.tensor_prefix
    tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    told = sigma if config.time_conditioning else np.zeros_like(sigma)
    forward = _annotated if config.architecture == "annotated" else _ddit
    score = forward(config, tensors, tokens, _condition(tensors, told) if config.modulations else None)
    if config.normalised:
        score = _of_clean_tokens(config.tokens, score, tokens, np.log(np.expm1(sigma))[:, None])
    if config.scale_by_sigma:
        score = score - (np.log(np.expm1(sigma)) + math.log(config.vocab_size - 1))[:, None, None]
    np.put_along_axis(score, tokens[..., None], 0.0, axis=-1)
    return score


def _of_clean_tokens(mask: int, logits: Array, tokens: NDArray[Any], log_odds: Array) -> Array:
    """Log scores from logits over the clean token: of a mask, log p - log(e^sigma - 1); none of any other."""
    score = np.full_like(logits, -np.inf)
    score[..., :mask] = np.log(norm.softmax(logits[..., :mask])) - log_odds[..., None]
    score[tokens != mask] = -np.inf
    score[..., mask] = log_odds
    return score


def _linear(tensors: Tensors, name: str, x: Array, activation: str | None = None) -> Array:
    return gemm.linear(x, tensors[f"{name}.weight"], tensors.get(f"{name}.bias"), activation)


def _condition(tensors: Tensors, sigma: Array) -> Array:
    half = FREQUENCIES // 2
    angles = sigma[:, None] * np.exp(-math.log(10000.0) * np.arange(half) / half)
    x = np.concatenate([np.cos(angles), np.sin(angles)], -1)
    return _linear(tensors, "sigma_map.mlp.2", _linear(tensors, "sigma_map.mlp.0", x, "silu"), "silu")


def _chunks(tensors: Tensors, name: str, condition: Array | None, count: int) -> list[Any]:
    """Shifts, scales and gates: without conditioning, what changes nothing."""
    if condition is None:
        return [0.0, 0.0, 1.0] * (count // 3) if count > 2 else [0.0, 0.0]
    return np.split(_linear(tensors, f"{name}.adaLN_modulation", condition)[:, None], count, axis=-1)


def _norm(tensors: Tensors, name: str, x: Array, shift: Any, scale: Any) -> Array:
    return norm.layer_norm(x, tensors[f"{name}.weight"], tensors.get(f"{name}.bias"), shift=shift, scale=scale)


def _attend(qkv: Array, heads: int, rotary: bool) -> Array:
    batch, length, triple = qkv.shape
    q, k, v = qkv.reshape(batch, length, 3, heads, -1).transpose(2, 0, 3, 1, 4)
    if rotary:
        q, k = attention.rotary(q), attention.rotary(k)
    return attention.attention(q, k, v).transpose(0, 2, 1, 3).reshape(batch, length, triple // 3)


def _annotated(config: ModelConfig, tensors: Tensors, tokens: NDArray[Any], condition: Array | None) -> Array:
    x: Array = tensors["transformer.wte.weight"][tokens].astype(np.float64)
    x = x + tensors["transformer.wpe.weight"][: tokens.shape[1]]
    for i in range(config.blocks):
        name = f"transformer.h.{i}"
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = _chunks(tensors, name, condition, 6)
        first, second = tensors[f"{name}.ln_1.weight"], tensors[f"{name}.ln_2.weight"]
        y = norm.layer_norm(x, first, shift=shift, scale=scale)
        for again in (False, True):
            y = norm.layer_norm(y, first) if again else y
            y = _attend(_linear(tensors, f"{name}.attn.c_attn", y), config.heads, rotary=False)
            y = _linear(tensors, f"{name}.attn.c_proj", y)
        x = x + gate * y
        y = norm.layer_norm(x, second, shift=mlp_shift, scale=mlp_scale)
        x = x + mlp_gate * _linear(tensors, f"{name}.mlp.c_proj", _linear(tensors, f"{name}.mlp.c_fc", y, "gelu"))
    shift, scale = _chunks(tensors, "lm_head", condition, 2)
    x = norm.layer_norm(x, tensors["transformer.ln_f.weight"])
    x = norm.layer_norm(x, tensors["lm_head.norm_final.weight"], shift=shift, scale=scale)
    return _linear(tensors, "lm_head.linear", x)


def _ddit(config: ModelConfig, tensors: Tensors, tokens: NDArray[Any], condition: Array | None) -> Array:
    x: Array = tensors["vocab_embed.embedding"][tokens].astype(np.float64)
    for i in range(config.blocks):
        name = f"blocks.{i}"
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = _chunks(tensors, name, condition, 6)
        y = _norm(tensors, f"{name}.norm1", x, shift, scale)
        y = _attend(_linear(tensors, f"{name}.attn_qkv", y), config.heads, rotary=True)
        x = x + gate * _linear(tensors, f"{name}.attn_out", y)
        y = _norm(tensors, f"{name}.norm2", x, mlp_shift, mlp_scale)
        x = x + mlp_gate * _linear(tensors, f"{name}.mlp.2", _linear(tensors, f"{name}.mlp.0", y, "gelu_tanh"))
    shift, scale = _chunks(tensors, "output_layer", condition, 2)
    x = _norm(tensors, "output_layer.norm_final", x, shift, scale)
    return _linear(tensors, "output_layer.linear", x)
