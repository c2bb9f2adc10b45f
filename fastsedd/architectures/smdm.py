"""SMDM (Nie et al. 2024, "Scaling up Masked Diffusion Models on Text"): Llama's transformer as lit_gpt names it.

Its files are weights alone. Every size follows from their shapes but the number of heads, which is that of the authors'
model of the same sizes, where there is one.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from fastsedd.architectures.backbone import Backbone, Unmasking
from fastsedd.architectures.base import ModelConfig, Shapes
from fastsedd.architectures.masked_language import MaskedLanguageModel, Traits, backbone_of, width_of_heads
from fastsedd.config import GenerationConfig

# Heads of the authors' models, of 6 million to 2.1 billion weights, by their width and that of their MLPs.
_HEADS = {
    (256, 1024): 4, (384, 1536): 6, (512, 2048): 8, (576, 2304): 9, (640, 2560): 10, (640, 1600): 8, (768, 3072): 12,
    (896, 3584): 14, (1024, 4096): 16, (1280, 5120): 10, (1408, 5632): 11, (1536, 6144): 12, (1792, 7168): 14,
    (2048, 8192): 16, (2176, 8704): 17,
}  # fmt: skip

_NAMES = {
    "model.embed_tokens.weight": "transformer.wte.weight",
    "model.norm.weight": "transformer.ln_f.weight",
    "lm_head.weight": "lm_head.weight",
}
_PARTS = {
    "input_layernorm": "norm_1",
    "post_attention_layernorm": "norm_2",
    "self_attn.q_proj": "attn.attn",
    "self_attn.k_proj": "attn.attn",
    "self_attn.v_proj": "attn.attn",
    "self_attn.o_proj": "attn.proj",
    "mlp.gate_proj": "mlp.swiglu.w1",
    "mlp.up_proj": "mlp.swiglu.w2",
    "mlp.down_proj": "mlp.swiglu.w3",
}
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)\.(\w+)")
MARK = "transformer.h.0.mlp.swiglu.w1.weight"  # a tensor that no other architecture has


class Stored(msgspec.Struct, kw_only=True):
    """The config of a converted model: lit_gpt's keys; padded_vocab_size is that of the head, without the mask."""

    n_layer: int
    n_head: int
    n_embd: int
    intermediate_size: int
    padded_vocab_size: int
    n_query_groups: int | None = None
    block_size: int = 2048
    norm_eps: float = 1e-5
    bos_token_id: int | None = 1
    eos_token_id: int | None = 2
    shift: bool | None = None


class SMDM(MaskedLanguageModel):
    """All of its sizes. The mask is the row behind the head's tokens; queries, keys and values are fused by group."""

    Document = Stored
    ignored = frozenset()
    mask_in_tokenizer = False
    mask_required = False

    def __init__(self) -> None:
        super().__init__("smdm", Traits(unmasking=Unmasking(block_length=None, order="independent", quota="smdm")))

    def config(self, stored: Stored) -> ModelConfig:
        heads = stored.n_head
        head_dim = width_of_heads("n_head", heads, "n_embd", stored.n_embd)
        backbone = Backbone(
            kv_heads=heads if stored.n_query_groups is None else stored.n_query_groups,
            head_dim=head_dim, hidden=stored.intermediate_size, eps=stored.norm_eps, theta=1e4,
            tied=False, shift=bool(stored.shift), start=stored.bos_token_id,
            ends=() if stored.eos_token_id is None else (stored.eos_token_id,), unmasking=self.traits.unmasking,
        )  # fmt: skip
        return self.sized(
            backbone, tokens=stored.padded_vocab_size, width=stored.n_embd, blocks=stored.n_layer, heads=heads,
            length=stored.block_size, generation=GenerationConfig(temperature=1.0),
        )  # fmt: skip

    def from_shapes(self, shapes: Shapes, heads: int | None) -> ModelConfig:
        """The config of weights alone. Raises ValueError where their heads cannot be known, or a tensor is missing."""
        missing = [name for name in (MARK, "lm_head.weight", "transformer.h.0.attn.attn.weight") if name not in shapes]
        if missing:
            raise ValueError(f"{missing[0]} is missing")
        (tokens, width), hidden = shapes["lm_head.weight"], shapes[MARK][0]
        known = _HEADS.get((width, hidden)) if heads is None else heads
        if known is None:
            raise ValueError(
                f"does not say how many heads share its width of {width}, allowed: the authors' sizes, or --heads N "
                "(heads=N)"
            )
        blocks = 1 + max(int(name.split(".")[2]) for name in shapes if name.startswith("transformer.h."))
        fused = shapes["transformer.h.0.attn.attn.weight"][0]
        groups = (fused * known // width - known) // 2
        stored = Stored(
            n_layer=blocks, n_head=known, n_embd=width, intermediate_size=hidden, padded_vocab_size=tokens,
            n_query_groups=groups, bos_token_id=1 if tokens > 1 else None, eos_token_id=2 if tokens > 2 else None,
        )  # fmt: skip
        return self.config(stored)

    def document(self, config: ModelConfig) -> dict[str, Any]:
        backbone = backbone_of(config)
        return {
            "model_type": self.name, "n_layer": config.blocks, "n_head": config.heads, "n_embd": config.width,
            "intermediate_size": backbone.hidden, "padded_vocab_size": config.tokens,
            "n_query_groups": backbone.kv_heads, "block_size": config.length, "norm_eps": backbone.eps,
            "bos_token_id": backbone.start, "eos_token_id": next(iter(backbone.ends), None), "shift": backbone.shift,
        }  # fmt: skip

    def own_name(self, name: str) -> str:
        found = _LAYER.fullmatch(name)
        if found is None:
            return _NAMES[name]
        layer, part, kind = found.groups()
        return f"transformer.h.{layer}.{_PARTS[part]}.{kind}"

    def tensor_shapes(self, config: ModelConfig) -> Shapes:
        backbone, width = backbone_of(config), config.width
        found = {self.own_name(name): shape for name, shape in self.network_shapes(config).items()}
        fused = (config.heads + 2 * backbone.kv_heads) * backbone.head_dim
        found |= {f"transformer.h.{i}.attn.attn.weight": (fused, width) for i in range(config.blocks)}
        return found | {"lm_head.weight": (config.tokens, width)}

    def rows(self, config: ModelConfig, name: str) -> list[int] | None:
        """Each group of heads has its queries, then its key, then its value; the mask, which is last, has no logit."""
        part = next((part for part in ("q", "k", "v") if name.endswith(f".self_attn.{part}_proj.weight")), None)
        if part is None:
            return None
        backbone = backbone_of(config)
        each, dim = config.heads // backbone.kv_heads, backbone.head_dim
        places = {"q": range(each), "k": range(each, each + 1), "v": range(each + 1, each + 2)}[part]
        heads = [group * (each + 2) + place for group in range(backbone.kv_heads) for place in places]
        return [head * dim + i for head in heads for i in range(dim)]
