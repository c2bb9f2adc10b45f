"""BD3-LM's transformer on kernels, run by `models.backbone.session`: Lou et al.'s layers, at one noise.

The network is conditioned on a noise of 0 always, so that all shifts, scales and gates are constants of the weights:
they are computed once, when a model is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass

import fastsedd_kernels as fk
import numpy as np

from fastsedd.architectures.base import ModelConfig
from fastsedd.architectures.bd3lm import EMBEDDING, HEAD, PREFIX
from fastsedd.architectures.masked_language import backbone_of
from fastsedd.architectures.transformer import CHUNKS, HEAD_CHUNKS
from fastsedd.models.backbone import packing
from fastsedd.models.backbone.embedding import Embedding
from fastsedd.models.backbone.naming import Named
from fastsedd.models.backbone.network import Backbone, Floats, GeluLayer
from fastsedd.models.forward import sinusoids
from fastsedd.models.layers import Linear, Norm, Tensors
from fastsedd.models.precision import Precision

Modulation = tuple[Floats, ...] | tuple[None, ...]


@dataclass(frozen=True)
class Layer(GeluLayer):
    """One layer's weights, packed: see `models.backbone.network.Layer`.

    modulation : shift, scale and gate of attention, then of the MLP, each [1, width]; or None six times
    """

    modulation: Modulation

    @classmethod
    def read(cls, tensors: Tensors, name: str, modulation: Modulation, dtype: str) -> Layer:
        qkv = tensors[f"{name}.attn_qkv.weight"]
        width = qkv.shape[1]
        return cls(
            norm1=Norm.read(tensors, f"{name}.norm1"),
            norm2=Norm.read(tensors, f"{name}.norm2"),
            queries=Linear(fk.pack(qkv[:width], dtype), None),
            keys_values=Linear(fk.pack(qkv[width:], dtype), None),
            output=Linear.read(tensors, f"{name}.attn_out", dtype),
            up=Linear.read(tensors, f"{name}.mlp.0", dtype),
            down=Linear.read(tensors, f"{name}.mlp.2", dtype),
            modulation=modulation,
        )

    def take_in(self, x: Floats, normed: Floats) -> Floats:
        shift, scale = self.modulation[:2]
        return self.norm1(x, normed, shift, scale)

    def finish(self, attended: Floats, x: Floats, normed: Floats, hidden: Floats) -> None:
        gate, shift, scale, mlp_gate = self.modulation[2:]
        self.output(attended, x, gate=gate, residual=x)
        self.up(self.norm2(x, normed, shift, scale), hidden, activation="gelu_tanh")
        self.down(hidden, x, gate=mlp_gate, residual=x)


class BD3LM(Backbone):
    """The weights of a BD3-LM; see `Backbone`."""

    def __init__(self, config: ModelConfig, tensors: Tensors, precision: Precision) -> None:
        self.config, self.sizes, self.attention = config, backbone_of(config), precision.attention
        tensors = Named(config, tensors)
        last = f"{PREFIX}output_layer"
        self.embedding = Embedding.read(tensors, EMBEDDING, None)
        self.head = Linear(packing.pack(tensors, [HEAD], precision.head), tensors[f"{last}.linear.bias"])
        noise = _noise(tensors) if self.sizes.modulated else None
        names = [f"{PREFIX}blocks.{i}" for i in range(config.blocks)]
        self.layers = tuple(
            Layer.read(tensors, name, _modulation(tensors, name, noise, CHUNKS), precision.blocks) for name in names
        )
        self.final = Norm.read(tensors, f"{last}.norm_final")
        self._final_modulation = _modulation(tensors, last, noise, HEAD_CHUNKS)

    def last_norm(self, x: Floats, out: Floats) -> Floats:
        return self.final(x, out, *self._final_modulation)


def _noise(tensors: Tensors) -> Floats:
    """The embedding of no noise, [1, cond_dim]."""
    first, second = (Linear.read(tensors, f"{PREFIX}sigma_map.mlp.{i}") for i in (0, 2))
    return second(first(sinusoids(np.zeros(1)), activation="silu"), activation="silu")


def _modulation(tensors: Tensors, name: str, noise: Floats | None, count: int) -> Modulation:
    """A layer's adaLN of the noise: `count` arrays [1, width]; None each without noise."""
    if noise is None:
        return (None,) * count
    return tuple(np.split(Linear.read(tensors, f"{name}.adaLN_modulation")(noise), count, axis=1))


build = BD3LM
