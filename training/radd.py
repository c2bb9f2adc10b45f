"""RADD's network (Ou et al. 2024) in PyTorch: a transformer that is not told the noise, under its tensor names."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.attention import attend


class Block(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn_qkv = nn.Linear(width, 3 * width, bias=False)
        self.attn_out = nn.Linear(width, width, bias=False)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))
        with torch.no_grad():  # small branches: the residual stream learns from the first step
            self.attn_out.weight.mul_(0.2)
            self.mlp[2].weight.mul_(0.2)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        y = self.attn_out(attend(self.attn_qkv(self.norm1(x)), self.heads, rotation))
        x = x + F.dropout(y, self.dropout, self.training)
        return x + F.dropout(self.mlp(self.norm2(x)), self.dropout, self.training)


class OutputLayer(nn.Module):
    """Layer norm and the linear head, which starts at zero."""

    def __init__(self, width: int, vocab_size: int) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(width)
        self.linear = nn.Linear(width, vocab_size)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.norm_final(x))


class RADD(nn.Module):
    """The distribution of clean tokens, given those that are not masked: tokens [B, L] -> logits [B, L, V].

    The last of the V = tokens + 1 logits is the mask's, which the loss and the engine leave out.
    """

    def __init__(self, vocab_size: int, width: int, blocks: int, heads: int, length: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.vocab_embed = nn.Module()
        self.vocab_embed.embedding = nn.Parameter(torch.randn(vocab_size, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(blocks))
        self.output_layer = OutputLayer(width, vocab_size)
        head_dim = width // heads
        rates = torch.exp(-math.log(10000) * torch.arange(0, head_dim, 2) / head_dim)
        angles = torch.outer(torch.arange(length), rates)
        angles = torch.cat((angles, angles), -1)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        x = self.vocab_embed.embedding[tokens]
        for block in self.blocks:
            x = block(x, (self.cos[:length], self.sin[:length]))
        return self.output_layer(x)
