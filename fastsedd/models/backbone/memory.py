"""Memory of a masked language model, told from its config: before anything is read."""

from __future__ import annotations

import math

from fastsedd.architectures.base import ModelConfig
from fastsedd.architectures.diffugpt import POSITIONS
from fastsedd.architectures.masked_language import backbone_of
from fastsedd.choices import Dtype
from fastsedd.models.precision import Precision

_BYTES = {"float32": 4, "bfloat16": 2}
_SCALES = 8  # bytes per output of an int8 layer: its scale and the sum of its weights
_GROUP, _GROUP_BYTES = 32, 18  # inputs of an int4 group; its codes and its scale


def weight_bytes(config: ModelConfig, dtype: Dtype, *, narrow: bool) -> int:
    """Packed weights and embedding, but for the padding of the last panels.

    narrow : whether the file's numbers are of 16 bits, as which an embedding beside its head is kept
    """
    precision = Precision(dtype)
    total = 0
    for name, shape in config.family.network_shapes(config).items():
        size = math.prod(shape)
        if name == "model.embed_tokens.weight":
            total += _embedding(config, size, precision, narrow=narrow)
        elif name == "lm_head.weight":
            total += size * _BYTES[precision.head]
        elif len(shape) == 2 and name != POSITIONS:
            total += _matrix(*shape, dtype)
        else:
            total += 4 * size
    return total


def cache_bytes(config: ModelConfig) -> int:
    """Keys and values of one position, which block-causal attention keeps, in float32."""
    backbone = backbone_of(config)
    return 4 * config.blocks * 2 * backbone.kv_heads * backbone.head_dim


def _matrix(outputs: int, inputs: int, dtype: Dtype) -> int:
    if dtype == "int4":
        return outputs * -(-inputs // _GROUP) * _GROUP_BYTES
    return outputs * (inputs + _SCALES if dtype == "int8" else inputs * _BYTES[dtype])


def _embedding(config: ModelConfig, size: int, precision: Precision, *, narrow: bool) -> int:
    head = _BYTES[precision.head] * size
    own = (2 if narrow else 4) * size
    if not backbone_of(config).tied:
        return own
    return head if precision.head == "float32" or narrow else head + own
