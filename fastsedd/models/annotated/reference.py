"""The annotated network in float64 NumPy: the truth for tests and benchmarks."""

from __future__ import annotations

from typing import Any

import numpy as np
from fastsedd_kernels.norm import reference as norms
from numpy.typing import NDArray

from fastsedd.architectures.base import ModelConfig
from fastsedd.models.layers import Tensors
from fastsedd.models.reference_layers import Array, attend, chunks, condition, linear


def logits(config: ModelConfig, tensors: Tensors, tokens: NDArray[Any], sigma: Array) -> Array:
    """tokens [B, L], sigma [B] to logits [B, L, V]."""
    embedded = condition(tensors, sigma)
    x: Array = tensors["transformer.wte.weight"][tokens].astype(np.float64)
    x = x + tensors["transformer.wpe.weight"][: tokens.shape[1]]
    for i in range(config.blocks):
        name = f"transformer.h.{i}"
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = chunks(tensors, name, embedded, 6)
        first, second = tensors[f"{name}.ln_1.weight"], tensors[f"{name}.ln_2.weight"]
        y = norms.layer_norm(x, first, shift=shift, scale=scale)
        for again in (False, True):
            y = norms.layer_norm(y, first) if again else y
            y = attend(linear(tensors, f"{name}.attn.c_attn", y), config.heads, rotary=False)
            y = linear(tensors, f"{name}.attn.c_proj", y)
        x = x + gate * y
        y = norms.layer_norm(x, second, shift=mlp_shift, scale=mlp_scale)
        x = x + mlp_gate * linear(tensors, f"{name}.mlp.c_proj", linear(tensors, f"{name}.mlp.c_fc", y, "gelu"))
    shift, scale = chunks(tensors, "lm_head", embedded, 2)
    x = norms.layer_norm(x, tensors["transformer.ln_f.weight"])
    x = norms.layer_norm(x, tensors["lm_head.norm_final.weight"], shift=shift, scale=scale)
    return linear(tensors, "lm_head.linear", x)
