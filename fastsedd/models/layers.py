"""The layers that the architectures are built of: packed once when a model is loaded, read-only afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import fastsedd_kernels as fk
import numpy as np
from numpy.typing import NDArray

from fastsedd.models.workspace import Workspace

Tensors = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Linear:
    """A packed weight with its bias, if it has one."""

    weight: fk.PackedWeight
    bias: NDArray[np.float32] | None

    @classmethod
    def read(cls, tensors: Tensors, name: str, dtype: str = "float32") -> Linear:
        """From the tensors `name`.weight and, where there is one, `name`.bias."""
        return cls(fk.pack(tensors[f"{name}.weight"], dtype), tensors.get(f"{name}.bias"))

    @classmethod
    def stack(cls, tensors: Tensors, names: Sequence[str]) -> Linear:
        """Several layers over one input as one layer whose outputs follow each other."""
        weight = np.concatenate([tensors[f"{name}.weight"] for name in names])
        return cls(fk.pack(weight), np.concatenate([tensors[f"{name}.bias"] for name in names]))

    def __call__(
        self,
        x: NDArray[np.float32],
        out: NDArray[np.float32] | None = None,
        *,
        activation: str | None = None,
        gate: NDArray[np.float32] | None = None,
        residual: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        return fk.linear(x, self.weight, self.bias, activation, gate, residual, out)


@dataclass(frozen=True)
class Norm:
    """A layer norm's weight, with its bias, if it has one."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32] | None
    eps: float

    @classmethod
    def read(cls, tensors: Tensors, name: str, eps: float = 1e-5) -> Norm:
        return cls(tensors[f"{name}.weight"], tensors.get(f"{name}.bias"), eps)

    def __call__(
        self,
        x: NDArray[np.float32],
        out: NDArray[np.float32],
        shift: NDArray[np.float32] | None = None,
        scale: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        return fk.layer_norm(x, self.weight, self.bias, shift, scale, self.eps, out=out)


@dataclass(frozen=True)
class Conditioning:
    """Total noise to all the shifts, scales and gates of a network: the sigma embedding, then every adaLN layer.

    All adaLN layers read one small vector, so they are one product.
    """

    first: Linear
    second: Linear
    modulation: Linear

    @classmethod
    def read(cls, tensors: Tensors, adaln_layers: Sequence[str], prefix: str = "") -> Conditioning:
        return cls(
            Linear.read(tensors, f"{prefix}sigma_map.mlp.0"),
            Linear.read(tensors, f"{prefix}sigma_map.mlp.2"),
            Linear.stack(tensors, adaln_layers),
        )

    def __call__(self, scratch: Workspace) -> None:
        """From scratch.sinusoids to scratch.modulation, in the order of the adaLN layers and of their chunks."""
        embedded = self.second(self.first(scratch.sinusoids, activation="silu"), activation="silu")
        self.modulation(embedded, scratch.modulation)


def chunks(scratch: Workspace, first: int, count: int) -> list[NDArray[np.float32]]:
    """`count` of the shifts, scales and gates in scratch.modulation, each [S, 1, width]; or [1, width] if S is 1."""
    width = scratch.x.shape[-1]
    parts = scratch.modulation.reshape(len(scratch.modulation), -1, width)[:, None]
    return [parts[0, :, i] if len(parts) == 1 else parts[:, :, i] for i in range(first, first + count)]


def heads_of(qkv: NDArray[np.float32], heads: int) -> tuple[NDArray[np.float32], ...]:
    """Queries, keys and values: views [B, heads, L, dim] of a projection [B, L, 3 * width], laid out (3, head, dim)."""
    batch, length, triple = qkv.shape
    q, k, v = qkv.reshape(batch, length, 3, heads, triple // 3 // heads).transpose(2, 0, 3, 1, 4)
    return q, k, v


def attend(scratch: Workspace, heads: int, dtype: str, *, rotary: bool) -> NDArray[np.float32]:
    """Bidirectional attention over the projection in scratch.qkv; returns scratch.attended, [B, L, width].

    dtype : of its products, as `fk.attention` takes it
    """
    q, k, v = heads_of(scratch.qkv, heads)
    if rotary:
        fk.rotary(q, out=q)
        fk.rotary(k, out=k)
    batch, length, width = scratch.attended.shape
    out = scratch.attended.reshape(batch, length, heads, width // heads).transpose(0, 2, 1, 3)
    fk.attention(q, k, v, out=out, dtype=dtype)
    return scratch.attended
