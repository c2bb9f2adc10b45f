"""Layers that several networks share, in float64 NumPy, written as their formulas read."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from fastsedd_kernels.attention import reference as attention
from fastsedd_kernels.gemm import reference as gemm
from fastsedd_kernels.norm import reference as norms
from fastsedd_kernels.rotary import reference as rotations
from numpy.typing import NDArray

from fastsedd.config import FREQUENCIES
from fastsedd.models.layers import Tensors

Array = NDArray[np.float64]


def linear(tensors: Tensors, name: str, x: Array, activation: str | None = None) -> Array:
    return gemm.linear(x, tensors[f"{name}.weight"], tensors.get(f"{name}.bias"), activation)


def condition(tensors: Tensors, sigma: Array) -> Array:
    half = FREQUENCIES // 2
    angles = sigma[:, None] * np.exp(-math.log(10000.0) * np.arange(half) / half)
    x = np.concatenate([np.cos(angles), np.sin(angles)], -1)
    return linear(tensors, "sigma_map.mlp.2", linear(tensors, "sigma_map.mlp.0", x, "silu"), "silu")


def chunks(tensors: Tensors, name: str, condition: Array | None, count: int) -> list[Any]:
    """Shifts, scales and gates; without conditioning, those that change nothing."""
    if condition is None:
        return [0.0, 0.0, 1.0] * (count // 3) if count > 2 else [0.0, 0.0]
    return np.split(linear(tensors, f"{name}.adaLN_modulation", condition)[:, None], count, axis=-1)


def norm(tensors: Tensors, name: str, x: Array, shift: Any, scale: Any) -> Array:
    return norms.layer_norm(x, tensors[f"{name}.weight"], tensors.get(f"{name}.bias"), shift=shift, scale=scale)


def attend(qkv: Array, heads: int, rotary: bool) -> Array:
    batch, length, triple = qkv.shape
    q, k, v = qkv.reshape(batch, length, 3, heads, -1).transpose(2, 0, 3, 1, 4)
    if rotary:
        q, k = rotations.rotary(q), rotations.rotary(k)
    return attention.attention(q, k, v).transpose(0, 2, 1, 3).reshape(batch, length, triple // 3)
