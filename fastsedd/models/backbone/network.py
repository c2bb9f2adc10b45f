"""The transformer of Qwen2, Qwen3 and Llama on kernels: grouped queries, rotary positions, RMS norms and SwiGLU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import fastsedd_kernels as fk
import numpy as np
from numpy.typing import NDArray

from fastsedd.architectures.base import ModelConfig
from fastsedd.architectures.masked_language import backbone_of
from fastsedd.models.backbone import packing
from fastsedd.models.backbone.embedding import Embedding
from fastsedd.models.backbone.naming import Named
from fastsedd.models.layers import Linear, Norm, Tensors
from fastsedd.models.precision import Precision

Floats = NDArray[np.float32]


class Layer(Protocol):
    """One layer's weights, packed, as sessions run it.

    queries : to [heads * dim]; keys_values : to keys, then values, [2 * kv_heads * dim]
    query_norm, key_norm : [dim], None without
    """

    @property
    def queries(self) -> Linear: ...

    @property
    def keys_values(self) -> Linear: ...

    @property
    def query_norm(self) -> Floats | None: ...

    @property
    def key_norm(self) -> Floats | None: ...

    @property
    def nbytes(self) -> int:
        """Memory of the packed weights."""

    def take_in(self, x: Floats, normed: Floats) -> Floats:
        """The norm before attention: of x [..., width], into normed."""

    def finish(self, attended: Floats, x: Floats, normed: Floats, hidden: Floats) -> None:
        """The rest, once attended: x [..., width] in place. normed, hidden : scratch memory"""


@dataclass(frozen=True)
class LlamaLayer:
    """A `Layer` of Qwen2, Qwen3 and Llama; gate_up : a pair, whose `linear` is silu(gate) * up"""

    norm1: Floats
    norm2: Floats
    eps: float
    queries: Linear
    keys_values: Linear
    query_norm: Floats | None
    key_norm: Floats | None
    output: Linear
    gate_up: fk.PackedWeight
    down: Linear

    @classmethod
    def read(cls, tensors: Named, name: str, eps: float, dtype: str) -> LlamaLayer:
        attention, mlp = f"{name}.self_attn", f"{name}.mlp"
        gate_up = [f"{mlp}.{part}_proj.weight" for part in ("gate", "up")]
        return cls(
            norm1=tensors[f"{name}.input_layernorm.weight"],
            norm2=tensors[f"{name}.post_attention_layernorm.weight"],
            eps=eps,
            queries=_stacked(tensors, [f"{attention}.q_proj"], dtype),
            keys_values=_stacked(tensors, [f"{attention}.k_proj", f"{attention}.v_proj"], dtype),
            query_norm=tensors.get(f"{attention}.q_norm.weight"),
            key_norm=tensors.get(f"{attention}.k_norm.weight"),
            output=_stacked(tensors, [f"{attention}.o_proj"], dtype),
            gate_up=packing.pack(tensors, gate_up, dtype, paired=True),
            down=_stacked(tensors, [f"{mlp}.down_proj"], dtype),
        )

    @property
    def nbytes(self) -> int:
        layers = (self.queries, self.keys_values, self.output, self.down)
        return self.gate_up.nbytes + sum(layer.weight.nbytes for layer in layers)

    def take_in(self, x: Floats, normed: Floats) -> Floats:
        return fk.rms_norm(x, self.norm1, self.eps, out=normed)

    def finish(self, attended: Floats, x: Floats, normed: Floats, hidden: Floats) -> None:
        self.output(attended, x, residual=x)
        fk.rms_norm(x, self.norm2, self.eps, out=normed)
        fk.linear(normed, self.gate_up, activation="silu", out=hidden)
        self.down(hidden, x, residual=x)


@dataclass(frozen=True)
class GeluLayer:
    """The weights of a `Layer` with layer norms and an MLP of two products, without norms of heads."""

    norm1: Norm
    norm2: Norm
    queries: Linear
    keys_values: Linear
    output: Linear
    up: Linear
    down: Linear

    @property
    def query_norm(self) -> None:
        return None

    @property
    def key_norm(self) -> None:
        return None

    @property
    def nbytes(self) -> int:
        layers = (self.queries, self.keys_values, self.output, self.up, self.down)
        return sum(layer.weight.nbytes for layer in layers)


class Backbone:
    """The weights of a masked language model, read-only: any number of sessions run them, each in memory of its own.

    embedding : of tokens; head : from the width to a logit for each of them
    """

    layers: tuple[Layer, ...]
    head: Linear

    def __init__(self, config: ModelConfig, tensors: Tensors, precision: Precision) -> None:
        self.config = config
        self.sizes = backbone_of(config)
        self.attention = precision.attention
        named = Named(config, tensors)
        embedding, tied = "model.embed_tokens.weight", self.sizes.tied
        self.head = Linear(packing.pack(named, [embedding if tied else "lm_head.weight"], precision.head), None)
        self.embedding = Embedding.read(named, embedding, self.head.weight if tied else None)
        self.layers = tuple(
            LlamaLayer.read(named, f"model.layers.{i}", self.sizes.eps, precision.blocks) for i in range(config.blocks)
        )
        self.norm = named["model.norm.weight"]

    def rotary_table(self, length: int) -> fk.RotaryTable | None:
        """Angles of the positions 0 to length - 1; None where positions are not told by rotations."""
        return fk.rotary_table(length, self.sizes.head_dim, self.sizes.theta, dict(self.sizes.scaling) or None)

    @property
    def nbytes(self) -> int:
        """Memory of the packed weights and of the embedding."""
        return sum(layer.nbytes for layer in self.layers) + self.head.weight.nbytes + self.embedding.nbytes

    def embed(self, tokens: NDArray[np.int32], positions: NDArray[np.intp], x: Floats) -> None:
        """Write the first layer's input, of tokens [B, n] at positions [n] of their texts, into x [B * n, width]."""
        self.embedding(tokens.reshape(-1), x)

    def last_norm(self, x: Floats, out: Floats) -> Floats:
        """The norm before the head."""
        return fk.rms_norm(x, self.norm, self.sizes.eps, out=out)


def _stacked(tensors: Named, names: list[str], dtype: str) -> Linear:
    weight = packing.pack(tensors, [f"{name}.weight" for name in names], dtype)
    has_bias = f"{names[0]}.bias" in tensors
    bias = np.concatenate([tensors[f"{name}.bias"] for name in names]) if has_bias else None
    return Linear(weight, bias)


build = Backbone
