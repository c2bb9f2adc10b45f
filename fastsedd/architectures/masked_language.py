"""Masked language models on the transformer of Qwen2, Qwen3 and Llama: keys, tensors, and the family of each.

They are autoregressive models that were trained on to predict masks, without a causal mask or with one between blocks.
A family is a `model_type`: its attention, whether its logits are shifted, and how its authors unmask.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import msgspec

from fastsedd.architectures.backbone import Backbone, Origin, Unmasking
from fastsedd.architectures.base import Architecture, ModelConfig, Output, Shapes, Widths
from fastsedd.config import GenerationConfig, NoiseConfig


class Stored(msgspec.Struct, kw_only=True):
    """The keys that matter of these models' config.json, as transformers writes them; `shift` is fastsedd's own."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    max_position_embeddings: int = 32768
    rms_norm_eps: float = 1e-6
    rope_theta: float | None = None
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None
    tie_word_embeddings: bool = False
    attention_bias: bool | None = None
    mlp_bias: bool = False
    hidden_act: str = "silu"
    mask_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None
    block_size: int | None = None
    bd_size: int | None = None
    shift: bool | None = None


@dataclass(frozen=True)
class Traits:
    """A family's own facts.

    qkv_bias, output_bias : whether attention's projections have biases, where config.json does not say
    head_norms : Qwen3's norms of queries and keys; theta : where config.json does not say
    block : where config.json does not say, None for full attention; origin, shift, unmasking : see `Backbone`
    temperature, steps : the default ones; starts : whether config.json's `bos_token_id` stands before every text
    """

    qkv_bias: bool = False
    output_bias: bool = False
    head_norms: bool = False
    theta: float = 10000.0
    block: int | None = None
    origin: Origin = "start"
    shift: bool = False
    unmasking: Unmasking = field(default_factory=Unmasking)
    temperature: float = 0.0
    steps: int = 128
    starts: bool = False


class MaskedLanguageModel(Architecture):
    """A family of this transformer; its mask is one of its tokenizer's tokens."""

    network = "backbone"
    states = frozenset()
    predictor = "ddpm"
    ignored = frozenset({"lm_head.weight", "model.rotary_emb.inv_freq"})  # the former where it is the embedding
    mask_in_tokenizer = True
    mask_required = True
    may_ignore_time = True

    def __init__(self, name: str, traits: Traits, aliases: Mapping[str, str] = MappingProxyType({})) -> None:
        self.name, self.traits, self.aliases = name, traits, aliases

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MaskedLanguageModel) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)

    def recognises(self, model_type: str, inner_type: str) -> bool:
        return model_type == self.name

    def tensor_shapes(self, config: ModelConfig) -> Shapes:
        return {self.own_name(name): shape for name, shape in self.network_shapes(config).items()}

    def network_shapes(self, config: ModelConfig) -> Shapes:
        backbone, width = backbone_of(config), config.width
        queries, keys = config.heads * backbone.head_dim, backbone.kv_heads * backbone.head_dim
        found: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (config.vocab_size, width),
            "model.norm.weight": (width,),
        }
        if not backbone.tied:
            found["lm_head.weight"] = (config.vocab_size, width)
        for i in range(config.blocks):
            name = f"model.layers.{i}"
            found |= {f"{name}.input_layernorm.weight": (width,), f"{name}.post_attention_layernorm.weight": (width,)}
            for part, rows in (("q", queries), ("k", keys), ("v", keys)):
                found[f"{name}.self_attn.{part}_proj.weight"] = (rows, width)
                if backbone.qkv_bias:
                    found[f"{name}.self_attn.{part}_proj.bias"] = (rows,)
            found[f"{name}.self_attn.o_proj.weight"] = (width, queries)
            if backbone.output_bias:
                found[f"{name}.self_attn.o_proj.bias"] = (width,)
            if backbone.head_norms:
                found |= {f"{name}.self_attn.{part}_norm.weight": (backbone.head_dim,) for part in ("q", "k")}
            found |= {f"{name}.mlp.{part}_proj.weight": (backbone.hidden, width) for part in ("gate", "up")}
            found[f"{name}.mlp.down_proj.weight"] = (width, backbone.hidden)
        return found

    def widths(self, config: ModelConfig) -> Widths:
        backbone = backbone_of(config)
        queries = config.heads * backbone.head_dim
        return Widths(max(config.width, queries), queries, backbone.hidden, 0)

    def output(self, config: ModelConfig) -> Output:
        return "clean token"

    def sized(self, backbone: Backbone, cond_dim: int = 1, **fields: Any) -> ModelConfig:
        """The config of such sizes: a model of masks, which is not told the time."""
        return ModelConfig(
            family=self, cond_dim=cond_dim, graph="absorb", noise=NoiseConfig("loglinear"), time_conditioning=False,
            backbone=backbone, **fields,
        )  # fmt: skip


class LlamaKeys(MaskedLanguageModel):
    """A family whose config.json has the keys of Qwen2, Qwen3 and Llama."""

    Document = Stored

    def config(self, stored: Stored) -> ModelConfig:
        if stored.hidden_act != "silu" or stored.mlp_bias:
            raise ValueError(f"hidden_act is {stored.hidden_act!r}, mlp_bias {stored.mlp_bias}, allowed: 'silu', false")
        heads, traits = stored.num_attention_heads, self.traits
        if heads < 1:
            raise ValueError(f"num_attention_heads is {heads}, allowed: 1 or more")
        theta, scaling = _rope(stored, traits.theta)
        block = next((size for size in (stored.block_size, stored.bd_size, traits.block) if size is not None), None)
        backbone = Backbone(
            kv_heads=heads if stored.num_key_value_heads is None else stored.num_key_value_heads,
            head_dim=stored.hidden_size // heads if stored.head_dim is None else stored.head_dim,
            hidden=stored.intermediate_size, eps=stored.rms_norm_eps, theta=theta, scaling=scaling,
            tied=stored.tie_word_embeddings,
            qkv_bias=traits.qkv_bias if stored.attention_bias is None else stored.attention_bias,
            output_bias=traits.output_bias if stored.attention_bias is None else stored.attention_bias,
            head_norms=traits.head_norms, block=block, origin=traits.origin,
            shift=traits.shift if stored.shift is None else stored.shift,
            start=stored.bos_token_id if traits.starts else None, ends=tuple(several(stored.eos_token_id)),
            pad=stored.pad_token_id, unmasking=traits.unmasking,
        )  # fmt: skip
        if self.traits.qkv_bias and not self.traits.output_bias:  # Qwen2's biases are not an option
            backbone = replace(backbone, qkv_bias=True, output_bias=False)
        return self.sized(
            backbone, tokens=stored.vocab_size - 1, width=stored.hidden_size, blocks=stored.num_hidden_layers,
            heads=heads, length=stored.max_position_embeddings, mask=stored.mask_token_id,
            generation=GenerationConfig(traits.steps, traits.temperature),
        )  # fmt: skip

    def document(self, config: ModelConfig) -> dict[str, Any]:
        backbone = backbone_of(config)
        return {
            "model_type": self.name, "vocab_size": config.vocab_size, "hidden_size": config.width,
            "intermediate_size": backbone.hidden, "num_hidden_layers": config.blocks,
            "num_attention_heads": config.heads, "num_key_value_heads": backbone.kv_heads,
            "head_dim": backbone.head_dim, "max_position_embeddings": config.length, "rms_norm_eps": backbone.eps,
            "rope_theta": backbone.theta, "rope_scaling": dict(backbone.scaling) or None,
            "tie_word_embeddings": backbone.tied, "attention_bias": backbone.qkv_bias,
            "mask_token_id": config.mask_id, "bos_token_id": backbone.start,
            "eos_token_id": list(backbone.ends), "pad_token_id": backbone.pad,
            "block_size": backbone.block, "shift": backbone.shift,
        }  # fmt: skip


def backbone_of(config: ModelConfig) -> Backbone:
    """The backbone of a config that has one."""
    if config.backbone is None:
        raise ValueError(f"backbone is missing, not allowed for the {config.architecture} architecture")
    return config.backbone


def width_of_heads(key: str, heads: int, of: str, width: int) -> int:
    """The width of each of so many heads of a network so wide. Raises ValueError, naming the keys that say so."""
    if heads < 1 or width % heads:
        raise ValueError(f"{key} is {heads}, allowed: divisors of {of}, {width}")
    return width // heads


def several(tokens: int | list[int] | None) -> list[int]:
    """The ids of a key that states one, several or none."""
    if tokens is None:
        return []
    return [tokens] if isinstance(tokens, int) else tokens


def _rope(stored: Stored, default: float) -> tuple[float, tuple[tuple[str, float | str], ...]]:
    """theta, and a scaling's keys, from whichever of the three keys state them."""
    parameters = dict(stored.rope_parameters or {}) | dict(stored.rope_scaling or {})
    inner = parameters.pop("rope_theta", None)
    theta = next((each for each in (stored.rope_theta, inner) if each is not None), default)
    if not isinstance(theta, (int, float)) or isinstance(theta, bool):
        raise ValueError(f"rope_theta is {theta!r}, allowed: a number")
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind == "default":
        return float(theta), ()
    kept = [(key, value) for key, value in parameters.items() if isinstance(value, (str, int, float))]
    return float(theta), tuple(sorted(kept))


# How DiffuGPT and DiffuLLaMA write: `generate_samples` of their model.py, as their quick starts call it.
BY_CHANCE = Unmasking(max_new_tokens=64, block_length=None, order="independent", of_draws=True, top_p=0.9)
BY_CHANCE_STEPS = 64

FAMILIES = [
    # dllm's conversions of Qwen and Llama: blocks where config.json states block_size, else full attention.
    LlamaKeys("a2d-qwen3", Traits(head_norms=True, theta=1e6, origin="prompt")),
    LlamaKeys("a2d-qwen2", Traits(qkv_bias=True, theta=1e6, origin="prompt")),
    LlamaKeys("a2d-llama", Traits(origin="prompt")),
    # Open-dCoder: Qwen2.5-Coder without a causal mask.
    LlamaKeys(
        "qwen2",
        Traits(
            qkv_bias=True,
            theta=1e6,
            shift=True,
            temperature=0.5,
            unmasking=Unmasking(block_length=None, order="p2", of_draws=True, top_k=200),
        ),
    ),
    # Fast-dLLM v2 writes in blocks of 8 within its blocks of 32.
    LlamaKeys(
        "Fast_dLLM_Qwen",
        Traits(qkv_bias=True, theta=1e6, block=32, shift=True, unmasking=Unmasking(block_length=8, threshold=0.9)),
    ),
    LlamaKeys(
        "sdar",
        Traits(
            head_norms=True,
            theta=1e6,
            block=4,
            temperature=1.0,
            unmasking=Unmasking(block_length=4, quota="llada", of_draws=True, threshold=0.85),
        ),
    ),
    LlamaKeys(
        "Dream",
        Traits(
            qkv_bias=True,
            theta=1e6,
            shift=True,
            temperature=0.2,
            unmasking=Unmasking(block_length=None, order="entropy", quota="dream", of_draws=True, top_p=0.95),
        ),
    ),
    # DiffuLLaMA: Llama 2 without a causal mask.
    LlamaKeys(
        "llama",
        Traits(shift=True, unmasking=BY_CHANCE, steps=BY_CHANCE_STEPS, temperature=0.9, starts=True),
        aliases={"denoise_model.": ""},
    ),
]
