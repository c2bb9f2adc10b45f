"""A GGUF file as llama.cpp writes it -> a masked language model's config and tensors, under its family's own names.

Llama and LLaDA have the rows of queries and keys in another order there, so that neighbours are rotated with each
other: `StoredTensor.paired_heads` undoes it.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastsedd.architectures.base import ModelConfig
from fastsedd.checkpoint import config_json, gguf_file, gguf_tokenizer, mask, special_tokens
from fastsedd.checkpoint.gguf_facts import Facts
from fastsedd.checkpoint.gguf_tokenizer import Embedded
from fastsedd.checkpoint.stored import StoredTensor
from fastsedd.errors import CheckpointError

ARCHITECTURE = "general.architecture"
SHIFT = "diffusion.shift_logits"
# Keys that llama.cpp does not have: the family, the length of its blocks, all ids at which an answer ends.
MODEL_TYPE, BLOCK_SIZE, ENDS = "fastsedd.model_type", "fastsedd.block_size", "fastsedd.end_token_ids"

# Families of each architecture; the first where the file does not say.
FAMILIES = {
    "qwen2": ("qwen2", "a2d-qwen2", "Fast_dLLM_Qwen"),
    "qwen3": ("a2d-qwen3", "sdar"),
    "llama": ("a2d-llama",),
    "dream": ("Dream",),
    "llada": ("llada",),
}
PAIRED = ("llama", "llada")  # neighbours are rotated with each other

NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_FILE_NAMES = {network: name for name, network in NAMES.items()}
_FILE_PARTS = {network: part for part, network in PARTS.items()}
_LAYERS = "model.layers."
FREQUENCIES = "rope_freqs.weight"
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}

# LLaDA's keys for those of Llama.
_LLADA = {
    "d_model": "hidden_size", "n_heads": "num_attention_heads", "n_kv_heads": "num_key_value_heads",
    "n_layers": "num_hidden_layers", "mlp_hidden_size": "intermediate_size", "vocab_size": "vocab_size",
    "embedding_size": "vocab_size", "max_sequence_length": "max_position_embeddings", "rms_norm_eps": "rms_norm_eps",
    "rope_theta": "rope_theta", "weight_tying": "tie_word_embeddings", "include_qkv_bias": "attention_bias",
    "mask_token_id": "mask_token_id", "eos_token_id": "eos_token_id", "pad_token_id": "pad_token_id", "shift": "shift",
}  # fmt: skip


class Found(NamedTuple):
    """tensors : under the family's names; assumed : what the file does not say, one line, empty if nothing"""

    config: ModelConfig
    tensors: dict[str, StoredTensor]
    tokenizer: Embedded | None
    assumed: str


def read(path: Path) -> Found:
    """The model of a file. Raises CheckpointError, in one line, for a broken file and another architecture."""
    file = gguf_file.read(path)
    facts = Facts(path, file.metadata)
    architecture = facts.text(ARCHITECTURE)
    if architecture not in FAMILIES:
        allowed = ", ".join(map(repr, FAMILIES))
        raise CheckpointError(f"{path}: {ARCHITECTURE} is {architecture!r}, allowed: {allowed}")
    if (parts := facts.integer("split.count") or 1) > 1:
        raise CheckpointError(f"{path}: is one of {parts} parts, allowed: one file (llama-gguf-split --merge)")
    family = facts.text(MODEL_TYPE) or FAMILIES[architecture][0]
    if family not in FAMILIES[architecture]:
        allowed = ", ".join(map(repr, FAMILIES[architecture]))
        raise CheckpointError(f"{path}: {MODEL_TYPE} is {family!r}, allowed for {architecture}: {allowed}")
    tokenizer = gguf_tokenizer.read(facts)
    document = _document(facts, architecture, file.tensors) | _special(facts, tokenizer)
    if family == "llada":
        document = {own: document[key] for own, key in _LLADA.items() if document[key] is not None}
    config = config_json.from_document(path, {"model_type": family, **document})
    if tokenizer is not None and len(tokenizer.tokens) > config.vocab_size:
        raise CheckpointError(f"{path}: has {len(tokenizer.tokens)} tokens, but the model {config.vocab_size}")
    assumed = "" if facts.text(MODEL_TYPE) or len(FAMILIES[architecture]) == 1 else f"model_type {family!r}"
    return Found(config, _named(config, architecture, file.tensors), tokenizer, assumed)


def _document(facts: Facts, architecture: str, tensors: dict[str, StoredTensor]) -> dict[str, Any]:
    """A config.json with Llama's keys, of what metadata and tensors say."""
    embedding = tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise CheckpointError(f"{facts.path}: token_embd.weight is missing, or not a matrix")
    width = facts.required(f"{architecture}.embedding_length")
    heads = facts.integer(f"{architecture}.attention.head_count")
    if heads is None or heads < 1:
        raise CheckpointError(f"{facts.path}: {architecture}.attention.head_count is {heads}, allowed: 1 or more")
    head_dim = facts.integer(f"{architecture}.attention.key_length") or width // heads
    for key in ("attention.value_length", "rope.dimension_count"):
        if (facts.integer(f"{architecture}.{key}") or head_dim) != head_dim:
            raise CheckpointError(f"{facts.path}: {architecture}.{key} is not the heads' width, {head_dim}")
    theta = facts.number(f"{architecture}.rope.freq_base") or 10000.0
    return {
        "vocab_size": embedding.shape[0], "hidden_size": width,
        "intermediate_size": facts.required(f"{architecture}.feed_forward_length"),
        "num_hidden_layers": facts.required(f"{architecture}.block_count"), "num_attention_heads": heads,
        "num_key_value_heads": facts.integer(f"{architecture}.attention.head_count_kv"), "head_dim": head_dim,
        "max_position_embeddings": facts.required(f"{architecture}.context_length"),
        "rms_norm_eps": _rounded(facts.number(f"{architecture}.attention.layer_norm_rms_epsilon") or 1e-6),
        "rope_theta": _rounded(theta), "rope_scaling": _scaling(facts, architecture, tensors, theta, head_dim),
        "tie_word_embeddings": "output.weight" not in tensors, "attention_bias": "blk.0.attn_q.bias" in tensors,
        "block_size": facts.integer(BLOCK_SIZE), "shift": facts.boolean(SHIFT),
    }  # fmt: skip


def _rounded(value: float) -> float:
    """The shortest decimal of a float32: 1e-6 where that was meant."""
    with np.errstate(over="ignore"):
        return float(str(np.float32(value)))


def _special(facts: Facts, tokenizer: Embedded | None) -> dict[str, Any]:
    """Mask, ends and pad. Raises CheckpointError where there is no mask."""
    found = gguf_tokenizer.special_ids(facts)
    ids = {} if tokenizer is None else tokenizer.ids()
    token = found.get("mask", next((ids[name] for name in mask.NAMES if name in ids), None))
    if token is None:
        raise CheckpointError(
            f"{facts.path}: names no mask, which a masked language model needs: {gguf_tokenizer.PREFIX}.mask_token_id, "
            f"or a token {' or '.join(mask.NAMES)}; a model without one is autoregressive"
        )
    ends = [*(facts.integers(ENDS) or ())]
    ends += [found[name] for name in ("eos", "eot") if name in found]
    ends += [ids[name] for name in special_tokens.ENDS_OF_TURNS if name in ids]
    return {"mask_token_id": token, "eos_token_id": list(dict.fromkeys(ends)), "pad_token_id": found.get("padding")}


def _scaling(
    facts: Facts, architecture: str, tensors: dict[str, StoredTensor], theta: float, head_dim: int
) -> dict[str, Any] | None:
    """The scaling of rotary positions as config.json states it."""
    if FREQUENCIES in tensors:
        return _llama3(tensors[FREQUENCIES], theta, head_dim)
    kind = facts.text(f"{architecture}.rope.scaling.type")
    if kind in (None, "none"):
        return None
    if kind not in ("linear", "yarn"):
        allowed = "'none', 'linear', 'yarn'"
        raise CheckpointError(f"{facts.path}: {architecture}.rope.scaling.type is {kind!r}, allowed: {allowed}")
    factor = facts.number(f"{architecture}.rope.scaling.factor")
    length = facts.integer(f"{architecture}.rope.scaling.original_context_length")
    if factor is None or (kind == "yarn" and length is None):
        raise CheckpointError(f"{facts.path}: a scaling of type {kind!r} lacks its factor or original_context_length")
    found: dict[str, Any] = {"rope_type": kind, "factor": factor}
    return found if kind == "linear" else found | {"original_max_position_embeddings": length}


def _llama3(stored: StoredTensor, theta: float, head_dim: int) -> dict[str, Any]:
    """Llama 3's scaling, of which the file has only what each frequency is divided by.

    Raises CheckpointError for other divisors than those of its published low and high factors and original length.
    """
    path = stored.file.path
    if stored.shape != (head_dim // 2,):
        raise CheckpointError(f"{path}: {FREQUENCIES} has shape {list(stored.shape)}, expected {[head_dim // 2]}")
    divisors = stored.read(FREQUENCIES).astype(np.float64)
    factor = float(divisors.max())
    if not factor >= 1 or not np.allclose(divisors, llama3_divisors(factor, theta, head_dim), rtol=1e-4):
        raise CheckpointError(f"{path}: {FREQUENCIES} is not Llama 3's scaling, allowed: no other")
    return {"rope_type": "llama3", "factor": factor, **LLAMA3}


def llama3_divisors(factor: float, theta: float, head_dim: int) -> NDArray[np.float64]:
    """The divisor of each frequency by Llama 3's scaling: [head_dim / 2]."""
    low, high, length = LLAMA3.values()
    turns = length / (2 * math.pi * theta ** (np.arange(0, head_dim, 2) / head_dim))
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    divisors: NDArray[np.float64] = 1 / ((1 - smooth) / factor + smooth)
    return divisors


def _named(config: ModelConfig, architecture: str, tensors: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Tensors under the family's names; those that it does not know keep their own."""
    names = config.family.network_shapes(config)
    assert config.backbone is not None
    heads = {"self_attn.q_proj": config.heads, "self_attn.k_proj": config.backbone.kv_heads}
    found = {}
    for name, tensor in tensors.items():
        network = network_name(name)
        part = network.rpartition(".")[0].split(".", 3)[-1]
        if architecture in PAIRED and part in heads:
            tensor = replace(tensor, paired_heads=heads[part])
        if name != FREQUENCIES:
            found[config.family.own_name(network) if network in names else name] = tensor
    return found


def network_name(name: str) -> str:
    """The network's name of a tensor that llama.cpp calls so; its own where it has none."""
    start, _, rest = name.removeprefix("blk.").partition(".")
    part, _, kind = rest.rpartition(".")
    if name.startswith("blk.") and part in PARTS:
        return f"{_LAYERS}{start}.{PARTS[part]}.{kind}"
    return NAMES.get(name, name)


def file_name(network: str) -> str:
    """The inverse of `network_name`, for the tensors of a network."""
    if network in _FILE_NAMES:
        return _FILE_NAMES[network]
    layer, _, rest = network.removeprefix(_LAYERS).partition(".")
    part, _, kind = rest.rpartition(".")
    return f"blk.{layer}.{_FILE_PARTS[part]}.{kind}"
