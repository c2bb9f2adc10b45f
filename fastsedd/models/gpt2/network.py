"""The transformer of GPT-2 on kernels, run by `models.backbone.session`: layer norms, learned positions, tanh GELU."""

from __future__ import annotations

import fastsedd_kernels as fk
import numpy as np
from numpy.typing import NDArray

from fastsedd.architectures.base import ModelConfig
from fastsedd.architectures.diffugpt import EMBEDDING, POSITIONS, TRUNK
from fastsedd.architectures.masked_language import backbone_of
from fastsedd.models.backbone import packing
from fastsedd.models.backbone.embedding import Embedding
from fastsedd.models.backbone.naming import Named
from fastsedd.models.backbone.network import Backbone, Floats, GeluLayer
from fastsedd.models.layers import Linear, Norm, Tensors
from fastsedd.models.precision import Precision


class Layer(GeluLayer):
    """One layer's weights, packed: see `models.backbone.network.Layer`."""

    @classmethod
    def read(cls, tensors: Tensors, name: str, eps: float, dtype: str) -> Layer:
        width = len(tensors[f"{name}.ln_1.weight"])
        weight, bias = tensors[f"{name}.attn.c_attn.weight"].T, tensors[f"{name}.attn.c_attn.bias"]
        queries, keys_values = (
            Linear(fk.pack(weight[some], dtype), bias[some]) for some in (slice(width), slice(width, None))
        )
        return cls(
            norm1=Norm.read(tensors, f"{name}.ln_1", eps),
            norm2=Norm.read(tensors, f"{name}.ln_2", eps),
            queries=queries,
            keys_values=keys_values,
            output=_conv(tensors, f"{name}.attn.c_proj", dtype),
            up=_conv(tensors, f"{name}.mlp.c_fc", dtype),
            down=_conv(tensors, f"{name}.mlp.c_proj", dtype),
        )

    def take_in(self, x: Floats, normed: Floats) -> Floats:
        return self.norm1(x, normed)

    def finish(self, attended: Floats, x: Floats, normed: Floats, hidden: Floats) -> None:
        self.output(attended, x, residual=x)
        self.up(self.norm2(x, normed), hidden, activation="gelu_tanh")
        self.down(hidden, x, residual=x)


class GPT2(Backbone):
    """The weights of a GPT-2 that unmasks; its head is the embedding."""

    def __init__(self, config: ModelConfig, tensors: Tensors, precision: Precision) -> None:
        self.config, self.sizes, self.attention = config, backbone_of(config), precision.attention
        tensors = Named(config, tensors)
        self.head = Linear(packing.pack(tensors, [EMBEDDING], precision.head), None)
        self.embedding = Embedding.read(tensors, EMBEDDING, self.head.weight)
        self.positions = tensors[POSITIONS]
        eps = self.sizes.eps
        self.layers = tuple(Layer.read(tensors, f"{TRUNK}.h.{i}", eps, precision.blocks) for i in range(config.blocks))
        self.final = Norm.read(tensors, f"{TRUNK}.ln_f", eps)

    def rotary_table(self, length: int) -> None:
        return None

    @property
    def nbytes(self) -> int:
        return super().nbytes + self.positions.nbytes

    def embed(self, tokens: NDArray[np.int32], positions: NDArray[np.intp], x: Floats) -> None:
        super().embed(tokens, positions, x)
        texts = x.reshape(*tokens.shape, -1)
        texts += self.positions[positions]

    def last_norm(self, x: Floats, out: Floats) -> Floats:
        return self.final(x, out)


def _conv(tensors: Tensors, name: str, dtype: str) -> Linear:
    """A Conv1D, whose weight is [inputs, outputs]."""
    return Linear(fk.pack(tensors[f"{name}.weight"].T, dtype), tensors[f"{name}.bias"])


build = GPT2
