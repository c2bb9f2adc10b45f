"""Bidirectional attention with rotary positions, in PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def attend(qkv: Tensor, heads: int, rotation: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Bidirectional attention over a packed [B, L, 3 * width] projection, laid out as (three, head, dim)."""
    batch, length, triple = qkv.shape
    q, k, v = qkv.view(batch, length, 3, heads, triple // 3 // heads).permute(2, 0, 3, 1, 4)
    if rotation is not None:
        q, k = rotate(q, *rotation), rotate(k, *rotation)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, length, triple // 3)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding in its rotate-half form."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin
