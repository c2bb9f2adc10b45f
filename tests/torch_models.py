"""PyTorch models for the tests of `accelerate`: modules of all kinds, and small random ones of transformers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

RELATIVE = {"float32": 1e-5, "bfloat16": 0.03, "int8": 0.06, "int8g": 0.06, "int4": 0.25}


def error(found: Any, expected: Any) -> float:
    return float(torch.linalg.norm((found - expected).float()) / torch.linalg.norm(expected.float()))


class Attention(nn.Module):
    """Heads of a DiT: one product for q, k and v."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Any, mask: Any = None) -> Any:
        batch, length, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.proj(y.transpose(1, 2).reshape(batch, length, width))


class Mlp(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1, self.act, self.drop = nn.Linear(width, inner), nn.GELU(approximate="tanh"), nn.Dropout(0.1)
        self.norm, self.fc2 = nn.Identity(), nn.Linear(inner, width)

    def forward(self, x: Any) -> Any:
        return self.drop(self.fc2(self.norm(self.drop(self.act(self.fc1(x))))))


class DiTBlock(nn.Module):
    """Peebles and Xie's block: norms without parameters, modulated by the condition."""

    def __init__(self, width: int = 48, heads: int = 3) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width, elementwise_affine=False, eps=1e-6) for _ in range(2))
        self.attn, self.mlp = Attention(width, heads), Mlp(width, 4 * width)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Any, condition: Any) -> Any:
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = self.modulation(condition)[:, None].chunk(6, dim=-1)
        x = x + gate * self.attn(self.norm1(x) * (1 + scale) + shift)
        return x + gate_mlp * self.mlp(self.norm2(x) * (1 + scale_mlp) + shift_mlp)


class Odd(nn.Module):
    """What the kernels know beside what they do not, in shapes that fill no tile; all of it also by name."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(37, 29), nn.Linear(29, 53, bias=False)
        self.norm, self.no_bias = nn.LayerNorm(29), nn.LayerNorm(53, bias=False)
        self.gelu, self.silu, self.softmax, self.tanh = nn.GELU(), nn.SiLU(), nn.Softmax(dim=-1), nn.Tanh()
        self.planes = nn.LayerNorm((5, 53))

    def forward(self, x: Any) -> Any:
        x = self.norm(self.gelu(self.first(x)))
        x = self.planes(self.tanh(self.no_bias(self.silu(self.second(x)))))
        x = functional.silu(functional.gelu(x, approximate="tanh"))
        x = functional.layer_norm(x, (53,)) + torch.softmax(x, -1) + x.softmax(dim=-1) + functional.softmax(x, dim=-1)
        return self.softmax(x) + functional.softmax(x, dim=1)


MODELS: dict[str, Callable[[], tuple[Any, tuple[Any, ...]]]] = {
    "a DiT block": lambda: (DiTBlock(), (torch.randn(2, 19, 48), torch.randn(2, 48))),
    "an MLP": lambda: (Mlp(40, 72), (torch.randn(3, 7, 40),)),
    "odd shapes": lambda: (Odd(), (torch.randn(4, 5, 37),)),
    "a linear layer": lambda: (nn.Linear(20, 33), (torch.randn(20),)),
    "PyTorch's encoder": lambda: (
        nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 2, enable_nested_tensor=False),
        (torch.randn(2, 17, 32),),
    ),
}


def made(name: str) -> tuple[Any, tuple[Any, ...]]:
    torch.manual_seed(0)
    model, inputs = MODELS[name]()
    return model.eval(), inputs


def _bert(transformers: Any) -> tuple[Any, dict[str, Any]]:
    config = transformers.BertConfig(
        vocab_size=99, hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=80
    )
    return transformers.BertModel(config), {"input_ids": torch.randint(0, 99, (2, 23))}


def _roberta(transformers: Any) -> tuple[Any, dict[str, Any]]:
    config = transformers.RobertaConfig(
        vocab_size=99, hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=80
    )
    return transformers.RobertaForMaskedLM(config), {"input_ids": torch.randint(3, 99, (2, 23))}


def _gpt2(transformers: Any) -> tuple[Any, dict[str, Any]]:
    config = transformers.GPT2Config(vocab_size=99, n_embd=48, n_layer=2, n_head=3, n_positions=64)
    return transformers.GPT2LMHeadModel(config), {"input_ids": torch.randint(0, 99, (2, 23)), "use_cache": False}


def _vit(transformers: Any) -> tuple[Any, dict[str, Any]]:
    config = transformers.ViTConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=80, image_size=32, patch_size=8
    )
    return transformers.ViTModel(config), {"pixel_values": torch.randn(2, 3, 32, 32)}


def _siglip(transformers: Any) -> tuple[Any, dict[str, Any]]:
    config = transformers.SiglipVisionConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=80, image_size=32, patch_size=8
    )
    return transformers.SiglipVisionModel(config), {"pixel_values": torch.randn(2, 3, 32, 32)}


def _beit(transformers: Any) -> tuple[Any, dict[str, Any]]:
    """The document image transformer, which is called DiT too."""
    config = transformers.BeitConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=80, image_size=32, patch_size=8
    )
    return transformers.BeitModel(config), {"pixel_values": torch.randn(2, 3, 32, 32)}


TRANSFORMERS = {"Bert": _bert, "Roberta": _roberta, "GPT2": _gpt2, "ViT": _vit, "Siglip": _siglip, "Beit": _beit}
WHOLE_LAYERS = {"Bert": "BertLayer", "Roberta": "RobertaLayer", "GPT2": "GPT2Block", "ViT": "ViTLayer"}


def of_transformers(name: str) -> tuple[Any, dict[str, Any]]:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)
    model, inputs = TRANSFORMERS[name](transformers)
    return model.eval(), inputs
