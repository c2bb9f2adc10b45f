"""DiffuGPT: GPT-2 without a causal mask (Gong et al. 2024), under GPT-2's keys and its authors' names of tensors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec

from fastsedd.architectures.backbone import Backbone
from fastsedd.architectures.base import ModelConfig, Shapes, Widths
from fastsedd.architectures.masked_language import (
    BY_CHANCE,
    BY_CHANCE_STEPS,
    MaskedLanguageModel,
    Traits,
    backbone_of,
    several,
    width_of_heads,
)
from fastsedd.config import MAX_BLOCKS, GenerationConfig

TRUNK = "denoise_model"
POSITIONS = f"{TRUNK}.wpe.weight"
EMBEDDING = "model.embed_tokens.weight"  # the name that the network's memory is told by


class Stored(msgspec.Struct, kw_only=True):
    """The keys that matter of GPT-2's config.json; `shift` is fastsedd's own."""

    vocab_size: int
    n_embd: int
    n_layer: int
    n_head: int
    n_positions: int = 1024
    n_inner: int | None = None
    activation_function: str = "gelu_new"
    layer_norm_epsilon: float = 1e-5
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    tie_word_embeddings: bool = True
    mask_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None
    shift: bool | None = None


class DiffuGPT(MaskedLanguageModel):
    """DiffuGPT-s and -m. A GPT-2 whose files name no mask is an autoregressive one, and refused."""

    network = "gpt2"
    Document = Stored
    ignored = frozenset({"lm_head.weight"}) | {
        f"{TRUNK}.h.{i}.attn.{name}" for i in range(MAX_BLOCKS) for name in ("bias", "masked_bias")
    }

    def __init__(self) -> None:
        own = {"transformer.wte.": "embed_tokens.", "transformer.": f"{TRUNK}."}  # GPT-2's own names
        super().__init__("gpt2", Traits(shift=True, unmasking=BY_CHANCE), own)

    def config(self, stored: Stored) -> ModelConfig:
        allowed = {
            "activation_function": ("gelu_new", "gelu_pytorch_tanh"), "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False,), "tie_word_embeddings": (True,),
        }  # fmt: skip
        for name, values in allowed.items():
            if getattr(stored, name) not in values:
                raise ValueError(f"{name} is {getattr(stored, name)!r}, allowed: {' or '.join(map(repr, values))}")
        heads = stored.n_head
        head_dim = width_of_heads("n_head", heads, "n_embd", stored.n_embd)
        ends = several(stored.eos_token_id)
        start = stored.bos_token_id if stored.bos_token_id is not None else next(iter(ends), None)
        backbone = Backbone(
            kv_heads=heads, head_dim=head_dim, hidden=stored.n_inner or 4 * stored.n_embd,
            eps=stored.layer_norm_epsilon, theta=1e4, tied=True, qkv_bias=True, output_bias=True,
            shift=True if stored.shift is None else stored.shift, ends=tuple(ends), pad=stored.pad_token_id,
            start=start, unmasking=BY_CHANCE,
        )  # fmt: skip
        return self.sized(
            backbone, tokens=stored.vocab_size - 1, width=stored.n_embd, blocks=stored.n_layer, heads=heads,
            length=stored.n_positions, mask=stored.mask_token_id, generation=GenerationConfig(BY_CHANCE_STEPS, 0.95),
        )  # fmt: skip

    def document(self, config: ModelConfig) -> dict[str, Any]:
        backbone = backbone_of(config)
        return {
            "model_type": self.name, "vocab_size": config.vocab_size, "n_embd": config.width, "n_layer": config.blocks,
            "n_head": config.heads, "n_positions": config.length, "n_inner": backbone.hidden,
            "activation_function": "gelu_new", "layer_norm_epsilon": backbone.eps, "mask_token_id": config.mask_id,
            "bos_token_id": backbone.start, "eos_token_id": list(backbone.ends), "pad_token_id": backbone.pad,
            "shift": backbone.shift,
        }  # fmt: skip

    def own_name(self, name: str) -> str:
        return {EMBEDDING: "embed_tokens.weight"}.get(name, name)

    def network_shapes(self, config: ModelConfig) -> Shapes:
        width, hidden = config.width, backbone_of(config).hidden
        found: dict[str, tuple[int, ...]] = {EMBEDDING: (config.vocab_size, width), POSITIONS: (config.length, width)}
        for i in range(config.blocks):
            sizes = {"attn.c_attn": (width, 3 * width), "attn.c_proj": (width, width), "mlp.c_fc": (width, hidden),
                     "mlp.c_proj": (hidden, width), "ln_1": (width,), "ln_2": (width,)}  # fmt: skip
            for part, shape in sizes.items():  # of Conv1D: [inputs, outputs]
                found |= {f"{TRUNK}.h.{i}.{part}.weight": shape, f"{TRUNK}.h.{i}.{part}.bias": shape[-1:]}
        return found | {f"{TRUNK}.ln_f.{kind}": (width,) for kind in ("weight", "bias")}

    def widths(self, config: ModelConfig) -> Widths:
        return Widths(config.width, config.width, backbone_of(config).hidden, 0)

    def fitted(self, config: ModelConfig, shapes: Shapes) -> ModelConfig:
        """The mask, where it is a token of its own, came with a row that the config may not count."""
        rows = shapes.get(self.own_name(EMBEDDING), (config.vocab_size,))
        return replace(config, tokens=rows[0] - 1) if rows and rows[0] > config.vocab_size else config
