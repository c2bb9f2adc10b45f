"""Memory of a masked language model, told from its config: before anything is read."""

from __future__ import annotations

import math
from collections.abc import Mapping

from fastsedd.architectures.base import ModelConfig
from fastsedd.architectures.diffugpt import POSITIONS
from fastsedd.architectures.masked_language import backbone_of
from fastsedd.architectures.transformer import is_conditioning
from fastsedd.choices import STORED, AnyDtype
from fastsedd.models.backbone.packing import kept
from fastsedd.models.precision import Precision

_BYTES = {"float32": 4, "bfloat16": 2}
_SCALES = 8  # bytes per output of an int8 layer: its scale and the sum of its weights
_GROUP = 32  # inputs of a group
_GROUPS = {"int4": 18, "int8g": 34, "Q4_1": 20, "Q4_K": 18.5}  # bytes of one: its codes, scales and minima
_IN_FILES = {"Q4_0": 18, "Q4_1": 20, "Q4_K": 18, "Q8_0": 34, "Q6_K": 26.25}  # of one in a GGUF file


def weight_bytes(config: ModelConfig, dtype: AnyDtype, *, narrow: bool, types: Mapping[str, str] | None = None) -> int:
    """Packed weights and embedding, but for the padding of the last panels.

    narrow : whether the file's numbers are of 16 bits, as which an embedding beside its head is kept
    types : stored dtypes or types of blocks by the names in the file, as far as they are not float32
    """
    precision = Precision(dtype)
    total = 0.0
    for name, shape in config.family.network_shapes(config).items():
        size, kind = math.prod(shape), (types or {}).get(config.family.own_name(name), "float32")
        if name == "model.embed_tokens.weight":
            total += _embedding(config, shape, precision, kind, narrow=narrow)
        elif name == "lm_head.weight":
            total += _matrix(shape, precision.head, kind)
        elif len(shape) == 2 and is_conditioning(name):
            pass  # what is kept of an adaLN layer is as long as its bias
        elif len(shape) == 2 and name != POSITIONS:
            total += _matrix(shape, dtype, kind)
        else:
            total += 4 * size
    return round(total)


def cache_bytes(config: ModelConfig) -> int:
    """Keys and values of one position, which block-causal attention keeps, in float32."""
    backbone = backbone_of(config)
    return 4 * config.blocks * 2 * backbone.kv_heads * backbone.head_dim


def _matrix(shape: tuple[int, ...], dtype: str, kind: str) -> float:
    """kind : as it is stored"""
    outputs, inputs = shape
    wanted = kept([kind]) if dtype == STORED else dtype
    groups = _GROUPS.get(kind if kept([kind]) == wanted else wanted, _GROUPS.get(wanted))
    if groups is not None:
        return outputs * -(-inputs // _GROUP) * groups
    return outputs * (inputs + _SCALES if wanted == "int8" else inputs * _BYTES[wanted])


def _embedding(config: ModelConfig, shape: tuple[int, ...], precision: Precision, kind: str, *, narrow: bool) -> float:
    size, tied = math.prod(shape), backbone_of(config).tied
    head = _matrix(shape, precision.head, kind) if tied else 0
    if kind in _IN_FILES:
        return head + size / _GROUP * _IN_FILES[kind]
    wanted = kept([kind]) if precision.head == STORED else precision.head
    shared = tied and (wanted == "float32" or (wanted == "bfloat16" and narrow))
    return head + (0 if shared else (2 if narrow else 4) * size)
