"""The article's network: learned positions, attention twice per block, exact GELU (ash80, annotated diffusion)."""

from __future__ import annotations

from dataclasses import dataclass

import fastsedd_kernels as fk
import numpy as np
from numpy.typing import NDArray

from fastsedd.architectures.base import ModelConfig
from fastsedd.architectures.transformer import CHUNKS
from fastsedd.models.layers import Conditioning, Linear, Tensors, attend, chunks
from fastsedd.models.precision import Precision
from fastsedd.models.workspace import Rows, Workspace


@dataclass(frozen=True)
class _Block:
    ln_1: NDArray[np.float32]
    ln_2: NDArray[np.float32]
    c_attn: Linear
    c_proj: Linear
    mlp_fc: Linear
    mlp_proj: Linear
    attention: str  # dtype of its products

    @classmethod
    def read(cls, tensors: Tensors, name: str, precision: Precision) -> _Block:
        return cls(
            tensors[f"{name}.ln_1.weight"],
            tensors[f"{name}.ln_2.weight"],
            Linear.read(tensors, f"{name}.attn.c_attn", precision.blocks),
            Linear.read(tensors, f"{name}.attn.c_proj", precision.blocks),
            Linear.read(tensors, f"{name}.mlp.c_fc", precision.blocks),
            Linear.read(tensors, f"{name}.mlp.c_proj", precision.blocks),
            precision.attention,
        )

    def attend(self, scratch: Workspace, modulation: list[NDArray[np.float32]], heads: int) -> None:
        """From scratch.x to scratch.attended."""
        shift, scale = modulation[:2]
        normed = scratch.normed
        fk.layer_norm(scratch.x, self.ln_1, shift=shift, scale=scale, out=normed)
        self.c_attn(normed, scratch.qkv)
        self.c_proj(attend(scratch, heads, self.attention, rotary=False), normed)
        # The second pass has the same weights and norm, and is not modulated.
        fk.layer_norm(normed, self.ln_1, out=normed)
        self.c_attn(normed, scratch.qkv)
        attend(scratch, heads, self.attention, rotary=False)

    def finish(self, rows: Rows, modulation: list[NDArray[np.float32]]) -> None:
        """rows.x, in place, once attended."""
        gate, shift, scale, mlp_gate = modulation[2:]
        self.c_proj(rows.attended, rows.x, gate=gate, residual=rows.x)
        fk.layer_norm(rows.x, self.ln_2, shift=shift, scale=scale, out=rows.normed)
        self.mlp_fc(rows.normed, rows.hidden, activation="gelu")
        self.mlp_proj(rows.hidden, rows.x, gate=mlp_gate, residual=rows.x)


class Annotated:
    """The network; see `Network`."""

    def __init__(self, config: ModelConfig, tensors: Tensors, precision: Precision) -> None:
        self.config = config
        names = [f"transformer.h.{i}" for i in range(config.blocks)]
        self._tokens = tensors["transformer.wte.weight"]
        self._positions = tensors["transformer.wpe.weight"]
        self._blocks = tuple(_Block.read(tensors, name, precision) for name in names)
        self._ln_f = tensors["transformer.ln_f.weight"]
        self._norm_final = tensors["lm_head.norm_final.weight"]
        self.head = Linear.read(tensors, "lm_head.linear", precision.head)
        adaln = [f"{name}.adaLN_modulation" for name in names]
        self._conditioning = Conditioning.read(tensors, [*adaln, "lm_head.adaLN_modulation"])

    def trunk(self, scratch: Workspace) -> None:
        """See `Network`."""
        self._conditioning(scratch)
        fk.embedding(scratch.tokens, self._tokens, self._positions, out=scratch.x)
        for i, block in enumerate(self._blocks):
            if i > 0:
                self._blocks[i - 1].finish(scratch.all_rows(), chunks(scratch, CHUNKS * (i - 1), CHUNKS))
            block.attend(scratch, chunks(scratch, CHUNKS * i, CHUNKS), self.config.heads)

    def finish(self, scratch: Workspace, rows: Rows) -> NDArray[np.float32]:
        """See `Network`."""
        end = CHUNKS * len(self._blocks)
        self._blocks[-1].finish(rows, chunks(scratch, end - CHUNKS, CHUNKS))
        shift, scale = chunks(scratch, end, 2)
        fk.layer_norm(rows.x, self._ln_f, out=rows.normed)
        return fk.layer_norm(rows.normed, self._norm_final, shift=shift, scale=scale, out=rows.normed)


build = Annotated
