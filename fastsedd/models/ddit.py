"""Lou et al.'s network: a diffusion transformer with rotary positions, tanh GELU and a head scaled by sigma."""

from __future__ import annotations

from dataclasses import dataclass

import fastsedd_kernels as fk
import numpy as np
from numpy.typing import NDArray

from fastsedd.config import ModelConfig
from fastsedd.models.layers import Conditioning, Linear, Tensors, attend
from fastsedd.models.network import Precision
from fastsedd.models.workspace import Workspace

CHUNKS = 6  # of a block's adaLN: shift, scale and gate of attention, then of the MLP


@dataclass(frozen=True)
class _Block:
    norm1: NDArray[np.float32]
    norm2: NDArray[np.float32]
    attn_qkv: Linear
    attn_out: Linear
    mlp_in: Linear
    mlp_out: Linear
    attention: str  # dtype of its products

    @classmethod
    def read(cls, tensors: Tensors, name: str, precision: Precision) -> _Block:
        return cls(
            tensors[f"{name}.norm1.weight"],
            tensors[f"{name}.norm2.weight"],
            Linear.read(tensors, f"{name}.attn_qkv", precision.blocks),
            Linear.read(tensors, f"{name}.attn_out", precision.blocks),
            Linear.read(tensors, f"{name}.mlp.0", precision.blocks),
            Linear.read(tensors, f"{name}.mlp.2", precision.blocks),
            precision.attention,
        )

    def __call__(self, scratch: Workspace, modulation: list[NDArray[np.float32]], heads: int) -> None:
        """scratch.x, in place."""
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = modulation
        x, normed = scratch.x, scratch.normed
        fk.layer_norm(x, self.norm1, shift=shift, scale=scale, out=normed)
        self.attn_qkv(normed, scratch.qkv)
        self.attn_out(attend(scratch, heads, self.attention, rotary=True), x, gate=gate, residual=x)
        fk.layer_norm(x, self.norm2, shift=mlp_shift, scale=mlp_scale, out=normed)
        self.mlp_in(normed, scratch.hidden, activation="gelu_tanh")
        self.mlp_out(scratch.hidden, x, gate=mlp_gate, residual=x)


class DDiT:
    """The network; see `Network`."""

    def __init__(self, config: ModelConfig, tensors: Tensors, precision: Precision) -> None:
        self.config = config
        names = [f"blocks.{i}" for i in range(config.blocks)]
        self._tokens = tensors["vocab_embed.embedding"]
        self._blocks = tuple(_Block.read(tensors, name, precision) for name in names)
        self._norm_final = tensors["output_layer.norm_final.weight"]
        self._head = Linear.read(tensors, "output_layer.linear", precision.head)
        adaln = [f"{name}.adaLN_modulation" for name in names]
        self._conditioning = Conditioning.read(tensors, [*adaln, "output_layer.adaLN_modulation"])

    def run(self, scratch: Workspace) -> None:
        """See `Network`."""
        modulation = self._conditioning(scratch.sinusoids, self.config.width)
        fk.embedding(scratch.tokens, self._tokens, out=scratch.x)
        for i, block in enumerate(self._blocks):
            block(scratch, modulation[CHUNKS * i : CHUNKS * (i + 1)], self.config.heads)
        shift, scale = modulation[CHUNKS * len(self._blocks) :]
        fk.layer_norm(scratch.x, self._norm_final, shift=shift, scale=scale, out=scratch.normed)
        self._head(scratch.normed, scratch.log_score)
