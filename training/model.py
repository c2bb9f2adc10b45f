"""The architectures that are told the noise, in PyTorch, under the checkpoint's own tensor names.

Training needs gradients, so this is the one place of the project that speaks PyTorch. The shapes, names and formulas
are those that `fastsedd.models` reads; `state_dict()` of a network here is a checkpoint there.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.attention import attend
from training.radd import RADD

FREQUENCIES = 256


class LayerNorm(nn.Module):
    """Layer norm with a weight and no bias."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight)


class SigmaMap(nn.Module):
    """Total noise to conditioning vector: sinusoids of sigma, then a two-layer MLP. [B] -> [B, cond]."""

    def __init__(self, cond: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(FREQUENCIES, cond), nn.SiLU(), nn.Linear(cond, cond))
        half = FREQUENCIES // 2
        self.register_buffer("rates", torch.exp(-math.log(10000) * torch.arange(half) / half), persistent=False)

    def forward(self, sigma: Tensor) -> Tensor:
        angles = sigma[:, None] * self.rates
        return F.silu(self.mlp(torch.cat([angles.cos(), angles.sin()], -1)))


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale) + shift


def modulation(cond: int, width: int, chunks: int) -> nn.Linear:
    """adaLN's linear layer, starting at zero: shift 0, scale 0, and gates that open as training asks for them."""
    layer = nn.Linear(cond, chunks * width)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def zero_current(log_score: Tensor, tokens: Tensor) -> Tensor:
    """A token's ratio with itself is one, so its log score is zero by definition."""
    return log_score.scatter(-1, tokens[..., None], 0.0)


class OutputLayer(nn.Module):
    """Modulated layer norm and the linear head."""

    def __init__(self, width: int, cond: int, vocab_size: int) -> None:
        super().__init__()
        self.norm_final = LayerNorm(width)
        self.linear = nn.Linear(width, vocab_size)
        self.adaLN_modulation = modulation(cond, width, 2)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(condition)[:, None].chunk(2, -1)
        return self.linear(modulate(self.norm_final(x), shift, scale))


class DDiTBlock(nn.Module):
    def __init__(self, width: int, heads: int, cond: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm1, self.norm2 = LayerNorm(width), LayerNorm(width)
        self.attn_qkv = nn.Linear(width, 3 * width, bias=False)
        self.attn_out = nn.Linear(width, width, bias=False)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))
        self.adaLN_modulation = modulation(cond, width, 6)
        with torch.no_grad():  # open gates over small branches: the residual stream learns from the first step
            self.adaLN_modulation.bias[2 * width : 3 * width] = 1.0
            self.adaLN_modulation.bias[5 * width :] = 1.0
            self.attn_out.weight.mul_(0.2)
            self.mlp[2].weight.mul_(0.2)

    def forward(self, x: Tensor, condition: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.adaLN_modulation(condition)[:, None].chunk(6, -1)
        y = self.attn_out(attend(self.attn_qkv(modulate(self.norm1(x), shift, scale)), self.heads, rotation))
        x = x + gate * F.dropout(y, self.dropout, self.training)
        y = self.mlp(modulate(self.norm2(x), mlp_shift, mlp_scale))
        return x + mlp_gate * F.dropout(y, self.dropout, self.training)


class DDiT(nn.Module):
    """Lou et al.'s network: rotary positions, tanh GELU, head scaled by sigma. (tokens, sigma) -> log score."""

    def __init__(
        self,
        vocab_size: int,
        width: int,
        blocks: int,
        heads: int,
        cond: int,
        length: int,
        scale_by_sigma: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.scale_by_sigma = scale_by_sigma
        self.vocab_embed = nn.Module()
        self.vocab_embed.embedding = nn.Parameter(torch.randn(vocab_size, width) * 0.02)
        self.sigma_map = SigmaMap(cond)
        self.blocks = nn.ModuleList(DDiTBlock(width, heads, cond, dropout) for _ in range(blocks))
        self.output_layer = OutputLayer(width, cond, vocab_size)
        dim = width // heads
        angles = torch.arange(length)[:, None] * 10000.0 ** (-torch.arange(0, dim, 2) / dim)
        angles = torch.cat((angles, angles), -1)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, tokens: Tensor, sigma: Tensor) -> Tensor:
        length = tokens.shape[1]
        condition = self.sigma_map(sigma)
        x = self.vocab_embed.embedding[tokens]
        for block in self.blocks:
            x = block(x, condition, (self.cos[:length], self.sin[:length]))
        log_score = self.output_layer(x, condition).float()
        if self.scale_by_sigma:
            log_score = log_score - sigma.expm1().log()[:, None, None] - math.log(log_score.shape[-1] - 1)
        return zero_current(log_score, tokens)


class AnnotatedBlock(nn.Module):
    def __init__(self, width: int, heads: int, cond: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.ln_1, self.ln_2 = LayerNorm(width), LayerNorm(width)
        self.attn, self.mlp = nn.Module(), nn.Module()
        self.attn.c_attn = nn.Linear(width, 3 * width, bias=False)
        self.attn.c_proj = nn.Linear(width, width, bias=False)
        self.mlp.c_fc = nn.Linear(width, 4 * width, bias=False)
        self.mlp.c_proj = nn.Linear(4 * width, width, bias=False)
        self.adaLN_modulation = modulation(cond, width, 6)

    def attention(self, x: Tensor) -> Tensor:
        return F.dropout(self.attn.c_proj(attend(self.attn.c_attn(x), self.heads)), self.dropout, self.training)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.adaLN_modulation(condition)[:, None].chunk(6, -1)
        y = self.attention(modulate(self.ln_1(x), shift, scale))
        x = x + gate * self.attention(self.ln_1(y))  # the second pass, with the same weights, is not modulated
        y = self.mlp.c_proj(F.gelu(self.mlp.c_fc(modulate(self.ln_2(x), mlp_shift, mlp_scale))))
        return x + mlp_gate * F.dropout(y, self.dropout, self.training)


class Annotated(nn.Module):
    """The article's network: learned positions, attention twice per block, exact GELU, no sigma term in the head."""

    def __init__(
        self, vocab_size: int, width: int, blocks: int, heads: int, cond: int, length: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.sigma_map = SigmaMap(cond)
        self.transformer = nn.Module()
        self.transformer.wte = nn.Embedding(vocab_size, width)
        self.transformer.wpe = nn.Embedding(length, width)
        self.transformer.h = nn.ModuleList(AnnotatedBlock(width, heads, cond, dropout) for _ in range(blocks))
        self.transformer.ln_f = LayerNorm(width)
        self.lm_head = OutputLayer(width, cond, vocab_size)
        nn.init.normal_(self.transformer.wte.weight, std=0.02)
        nn.init.normal_(self.transformer.wpe.weight, std=0.02)

    def forward(self, tokens: Tensor, sigma: Tensor) -> Tensor:
        condition = self.sigma_map(sigma)
        x = self.transformer.wte(tokens) + self.transformer.wpe.weight[: tokens.shape[1]]
        for block in self.transformer.h:
            x = block(x, condition)
        return zero_current(self.lm_head(self.transformer.ln_f(x), condition).float(), tokens)


def build(config: dict) -> nn.Module:
    """The network that a checkpoint's config.json describes."""
    model = config["model"]
    absorb = config["graph"]["type"] == "absorb"
    sizes = {
        "vocab_size": config["tokens"] + absorb,
        "width": model["hidden_size"],
        "blocks": model["n_blocks"],
        "heads": model["n_heads"],
        "length": model["length"],
        "dropout": model["dropout"],
    }
    if model["type"] == "radd":
        return RADD(**sizes)
    sizes["cond"] = model["cond_dim"]
    if model["type"] == "annotated":
        return Annotated(**sizes)
    return DDiT(**sizes, scale_by_sigma=model["scale_by_sigma"])
