"""The layers that both architectures are built of: packed once when a model is loaded, read-only afterwards."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import fastsedd_kernels as fk
import numpy as np
from numpy.typing import NDArray

from fastsedd.models.workspace import Workspace

Tensors = Mapping[str, NDArray[np.float32]]

FREQUENCIES = 256


@dataclass(frozen=True)
class Linear:
    """A packed weight with its bias, if it has one."""

    weight: fk.PackedWeight
    bias: NDArray[np.float32] | None

    @classmethod
    def read(cls, tensors: Tensors, name: str) -> Linear:
        """From the tensors `name`.weight and, where there is one, `name`.bias."""
        return cls(fk.pack(tensors[f"{name}.weight"]), tensors.get(f"{name}.bias"))

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
class Conditioning:
    """Total noise to all the shifts, scales and gates of a network: the sigma embedding, then every adaLN layer.

    All adaLN layers read one small vector, so they are one product.
    """

    first: Linear
    second: Linear
    modulation: Linear

    @classmethod
    def read(cls, tensors: Tensors, adaln_layers: Sequence[str]) -> Conditioning:
        return cls(
            Linear.read(tensors, "sigma_map.mlp.0"),
            Linear.read(tensors, "sigma_map.mlp.2"),
            Linear.stack(tensors, adaln_layers),
        )

    def __call__(self, sigma: NDArray[np.float64], width: int) -> list[NDArray[np.float32]]:
        """sigma [B] to a list of [B, 1, width], in the order of the adaLN layers and of their chunks."""
        embedded = self.second(self.first(sinusoids(sigma), activation="silu"), activation="silu")
        modulation = self.modulation(embedded)
        chunks = modulation.reshape(len(sigma), -1, width)
        return [np.ascontiguousarray(chunks[:, None, i]) for i in range(chunks.shape[1])]


def sinusoids(sigma: NDArray[np.float64]) -> NDArray[np.float32]:
    """[B] to [B, FREQUENCIES]: cosines, then sines, of sigma at geometrically spaced rates from 1 to 1/10000."""
    half = FREQUENCIES // 2
    angles = sigma[:, None] * np.exp(-math.log(10000.0) * np.arange(half) / half)
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def distinct_sigma(sigma: NDArray[np.float64]) -> NDArray[np.float64]:
    """The one value [1] that all samples share, or sigma [B] as it is: a sampler's batch is conditioned once."""
    return sigma[:1] if (sigma == sigma[0]).all() else sigma


def heads_of(qkv: NDArray[np.float32], heads: int) -> tuple[NDArray[np.float32], ...]:
    """Queries, keys and values: views [B, heads, L, dim] of a projection [B, L, 3 * width], laid out (3, head, dim)."""
    batch, length, triple = qkv.shape
    q, k, v = qkv.reshape(batch, length, 3, heads, triple // 3 // heads).transpose(2, 0, 3, 1, 4)
    return q, k, v


def attend(scratch: Workspace, heads: int, *, rotary: bool) -> NDArray[np.float32]:
    """Bidirectional attention over the projection in scratch.qkv; returns scratch.attended, [B, L, width]."""
    q, k, v = heads_of(scratch.qkv, heads)
    if rotary:
        fk.rotary(q, out=q)
        fk.rotary(k, out=k)
    batch, length, width = scratch.attended.shape
    out = scratch.attended.reshape(batch, length, heads, width // heads).transpose(0, 2, 1, 3)
    fk.attention(q, k, v, out=out)
    return scratch.attended


def zero_current(log_score: NDArray[np.float32], tokens: NDArray[np.int32]) -> None:
    """A token's ratio with itself is one: its log score is zero, in place."""
    np.put_along_axis(log_score, tokens[..., None], np.float32(0.0), axis=-1)
