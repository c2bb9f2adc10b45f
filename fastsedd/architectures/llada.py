"""LLaDA: the transformer of Llama under the keys and names of OLMo, without a causal mask.

LLaDA 8B (Nie et al. 2025), LLaDA 1.5 and iLLaDA differ in weights and in the mask's id, which config.json states.
"""

from __future__ import annotations

from typing import Any

import msgspec

from fastsedd.architectures.backbone import Backbone, Unmasking
from fastsedd.architectures.base import ModelConfig
from fastsedd.architectures.masked_language import MaskedLanguageModel, Traits, backbone_of, several, width_of_heads
from fastsedd.config import GenerationConfig

# Keys with one value that is read, which is the published models'.
_FIXED: dict[str, Any] = {
    "block_type": "llama",
    "activation_type": "silu",
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "rope": True,
    "alibi": False,
    "attention_layer_norm": False,
    "input_emb_norm": False,
    "scale_logits": False,
    "include_bias": False,
    "bias_for_layer_norm": False,
    "block_group_size": 1,
}

_NAMES = {
    "model.embed_tokens.weight": "model.transformer.wte.weight",
    "model.norm.weight": "model.transformer.ln_f.weight",
    "lm_head.weight": "model.transformer.ff_out.weight",
}
_PARTS = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ff_norm",
    "self_attn.q_proj": "q_proj",
    "self_attn.k_proj": "k_proj",
    "self_attn.v_proj": "v_proj",
    "self_attn.o_proj": "attn_out",
    "mlp.gate_proj": "ff_proj",
    "mlp.up_proj": "up_proj",
    "mlp.down_proj": "ff_out",
}
_LAYERS = "model.layers."


class Stored(msgspec.Struct, kw_only=True):
    """The keys that matter of its config.json; where one is missing, the published models' value is meant."""

    d_model: int
    n_heads: int
    n_layers: int
    vocab_size: int
    n_kv_heads: int | None = None
    multi_query_attention: bool | None = None
    mlp_hidden_size: int | None = None
    mlp_ratio: int = 4
    embedding_size: int | None = None
    max_sequence_length: int = 4096
    rms_norm_eps: float = 1e-5
    rope_theta: float = 5e5
    weight_tying: bool = False
    include_qkv_bias: bool | None = None
    mask_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None
    shift: bool | None = None
    block_type: str | None = None
    activation_type: str | None = None
    layer_norm_type: str | None = None
    layer_norm_with_affine: bool | None = None
    rope: bool | None = None
    alibi: bool | None = None
    attention_layer_norm: bool | None = None
    input_emb_norm: bool | None = None
    scale_logits: bool | None = None
    include_bias: bool | None = None
    bias_for_layer_norm: bool | None = None
    block_group_size: int | None = None


class LLaDA(MaskedLanguageModel):
    """LLaDA's keys and names. Its answers are of 128 tokens in blocks of 32, as its authors' generate.py writes one."""

    Document = Stored
    ignored = frozenset({"model.transformer.ff_out.weight"})  # where it is the embedding

    def __init__(self) -> None:
        super().__init__("llada", Traits(theta=5e5, unmasking=Unmasking(quota="llada")))

    def config(self, stored: Stored) -> ModelConfig:
        for name, allowed in _FIXED.items():
            if getattr(stored, name) not in (None, allowed):
                raise ValueError(f"{name} is {getattr(stored, name)!r}, allowed: {allowed!r}")
        heads = stored.n_heads
        head_dim = width_of_heads("n_heads", heads, "d_model", stored.d_model)
        shared = 1 if stored.multi_query_attention else heads
        vocab_size = stored.embedding_size or stored.vocab_size
        backbone = Backbone(
            kv_heads=shared if stored.n_kv_heads is None else stored.n_kv_heads, head_dim=head_dim,
            hidden=stored.mlp_hidden_size or stored.mlp_ratio * stored.d_model,
            eps=stored.rms_norm_eps, theta=stored.rope_theta, tied=stored.weight_tying,
            qkv_bias=bool(stored.include_qkv_bias), shift=bool(stored.shift), ends=tuple(several(stored.eos_token_id)),
            pad=stored.pad_token_id, unmasking=self.traits.unmasking,
        )  # fmt: skip
        return self.sized(
            backbone, tokens=vocab_size - 1, width=stored.d_model, blocks=stored.n_layers, heads=heads,
            length=stored.max_sequence_length, mask=stored.mask_token_id, generation=GenerationConfig(temperature=0.0),
        )  # fmt: skip

    def document(self, config: ModelConfig) -> dict[str, Any]:
        backbone = backbone_of(config)
        return {
            "model_type": self.name, **_FIXED, "d_model": config.width, "n_heads": config.heads,
            "n_kv_heads": backbone.kv_heads, "n_layers": config.blocks, "mlp_hidden_size": backbone.hidden,
            "vocab_size": config.vocab_size, "embedding_size": config.vocab_size,
            "max_sequence_length": config.length, "rms_norm_eps": backbone.eps, "rope_theta": backbone.theta,
            "weight_tying": backbone.tied, "include_qkv_bias": backbone.qkv_bias, "mask_token_id": config.mask_id,
            "eos_token_id": list(backbone.ends), "pad_token_id": backbone.pad, "shift": backbone.shift,
        }  # fmt: skip

    def own_name(self, name: str) -> str:
        if not name.startswith(_LAYERS):
            return _NAMES[name]
        layer, _, rest = name.removeprefix(_LAYERS).partition(".")
        part, _, kind = rest.rpartition(".")
        return f"model.transformer.blocks.{layer}.{_PARTS.get(part, part)}.{kind}"
