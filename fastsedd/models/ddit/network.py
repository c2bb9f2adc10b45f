"""Lou et al.'s network, a diffusion transformer with rotary positions and tanh GELU, and those that keep its trunk.

MDLM's (Sahoo et al. 2024) is the same under another name. RADD's (Ou et al. 2024) is not conditioned on noise: it has
neither a noise embedding nor modulation, and its norms have biases.
"""

from __future__ import annotations

from dataclasses import dataclass

import fastsedd_kernels as fk
import numpy as np
from numpy.typing import NDArray

from fastsedd.architectures.base import ModelConfig
from fastsedd.architectures.transformer import CHUNKS
from fastsedd.models.layers import Conditioning, Linear, Norm, Tensors, attend, chunks
from fastsedd.models.precision import Precision
from fastsedd.models.workspace import Rows, Workspace

EMBEDDING = "vocab_embed.embedding"

Modulation = list[NDArray[np.float32]] | list[None]


@dataclass(frozen=True)
class _Block:
    norm1: Norm
    norm2: Norm
    attn_qkv: Linear
    attn_out: Linear
    mlp_in: Linear
    mlp_out: Linear
    attention: str  # dtype of its products

    @classmethod
    def read(cls, tensors: Tensors, name: str, precision: Precision) -> _Block:
        return cls(
            Norm.read(tensors, f"{name}.norm1"),
            Norm.read(tensors, f"{name}.norm2"),
            Linear.read(tensors, f"{name}.attn_qkv", precision.blocks),
            Linear.read(tensors, f"{name}.attn_out", precision.blocks),
            Linear.read(tensors, f"{name}.mlp.0", precision.blocks),
            Linear.read(tensors, f"{name}.mlp.2", precision.blocks),
            precision.attention,
        )

    def attend(self, scratch: Workspace, modulation: Modulation, heads: int) -> None:
        """From scratch.x to scratch.attended."""
        shift, scale = modulation[:2]
        self.norm1(scratch.x, scratch.normed, shift, scale)
        self.attn_qkv(scratch.normed, scratch.qkv)
        attend(scratch, heads, self.attention, rotary=True)

    def finish(self, rows: Rows, modulation: Modulation) -> None:
        """rows.x, in place, once attended."""
        gate, shift, scale, mlp_gate = modulation[2:]
        self.attn_out(rows.attended, rows.x, gate=gate, residual=rows.x)
        self.norm2(rows.x, rows.normed, shift, scale)
        self.mlp_in(rows.normed, rows.hidden, activation="gelu_tanh")
        self.mlp_out(rows.hidden, rows.x, gate=mlp_gate, residual=rows.x)


def prefix_of(config: ModelConfig) -> str:
    """The beginning of the tensors' names, which differs between publishers."""
    return next(name for name in config.tensor_shapes if name.endswith(EMBEDDING)).removesuffix(EMBEDDING)


class DDiT:
    """The network; see `Network`."""

    def __init__(self, config: ModelConfig, tensors: Tensors, precision: Precision) -> None:
        self.config = config
        prefix = prefix_of(config)
        names = [f"{prefix}blocks.{i}" for i in range(config.blocks)]
        self._tokens = tensors[f"{prefix}{EMBEDDING}"]
        self._blocks = tuple(_Block.read(tensors, name, precision) for name in names)
        self._norm_final = Norm.read(tensors, f"{prefix}output_layer.norm_final")
        self.head = Linear.read(tensors, f"{prefix}output_layer.linear", precision.head)
        adaln = [f"{name}.adaLN_modulation" for name in (*names, f"{prefix}output_layer")]
        self._conditioning = Conditioning.read(tensors, adaln, prefix) if config.widths.modulation else None

    def trunk(self, scratch: Workspace) -> None:
        """See `Network`."""
        if self._conditioning is not None:
            self._conditioning(scratch)
        fk.embedding(scratch.tokens, self._tokens, out=scratch.x)
        for i, block in enumerate(self._blocks):
            if i > 0:
                self._blocks[i - 1].finish(scratch.all_rows(), self._modulation(scratch, CHUNKS * (i - 1)))
            block.attend(scratch, self._modulation(scratch, CHUNKS * i), self.config.heads)

    def finish(self, scratch: Workspace, rows: Rows) -> NDArray[np.float32]:
        """See `Network`."""
        end = CHUNKS * len(self._blocks)
        self._blocks[-1].finish(rows, self._modulation(scratch, end - CHUNKS))
        shift, scale = self._modulation(scratch, end, 2)
        return self._norm_final(rows.x, rows.normed, shift, scale)

    def _modulation(self, scratch: Workspace, first: int, count: int = CHUNKS) -> Modulation:
        return [None] * count if self._conditioning is None else chunks(scratch, first, count)


build = DDiT
