"""Small random masked language models as GGUF files, written by the gguf package, and the values that they hold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import masked_models
import numpy as np
from safetensors.numpy import save_file

from fastsedd.checkpoint import config_json

ARCHITECTURES = {"a2d-qwen3": "qwen3", "a2d-qwen2": "qwen2", "a2d-llama": "llama", "Dream": "dream", "llada": "llada"}
PARTS = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
NAMES = {
    "model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}  # fmt: skip
SIZES = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}
LLADA_SIZES = {"d_model": 256, "mlp_hidden_size": 512}
TOKENS = 300

HALVES = {"Q8_0": (0,), "Q4_0": (0,), "Q4_1": (0, 2), "Q4_K": (0, 2), "Q6_K": (208,)}
STEPS = {"Q8_0": 5e-4, "Q4_0": 0.01, "Q4_1": 0.005, "Q4_K": 2e-4, "Q6_K": 6e-5}


@dataclass
class Written:
    """A GGUF file, and a folder of safetensors with the numbers that it holds."""

    file: Path
    folder: Path
    tensors: dict[str, np.ndarray]


def blocks_of(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Random blocks whose values are about as large as weights: uint8 [outputs, bytes of a row]."""
    count, nbytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    blocks = rng.integers(0, 256, (shape[0] * shape[1] // count, nbytes), np.uint8)
    for first in HALVES[kind]:
        sign = -7 if (kind, first) == ("Q4_1", 2) else 1
        halves = (STEPS[kind] * sign * rng.uniform(0.5, 1, (len(blocks), 1))).astype(np.float16)
        blocks[:, first : first + 2] = halves.view(np.uint8)
    return blocks.reshape(shape[0], -1)


def paired(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows as llama.cpp's converter lays those of Llama's queries and keys: row i of a head's second half behind row i
    of its first."""
    each = len(rows) // heads
    order = [h * each + half * each // 2 + i for h in range(heads) for i in range(each // 2) for half in (0, 1)]
    return rows[order]


def stored(kind: str, values: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A matrix in a type: its bytes, and the float32 values that these have."""
    number = gguf.GGMLQuantizationType[kind]
    if kind in ("F32", "F16", "BF16"):
        data = gguf.quants.quantize(values, number)
    else:
        data = blocks_of(kind, values.shape, rng)
    return data, gguf.quants.dequantize(data, number).astype(np.float32).reshape(values.shape)


def write(
    folder: Path, family: str = "a2d-qwen3", kind: str | Mapping[str, str] = "F32", *, metadata: Mapping[str, Any] = {},
    pre: str | None = "gpt-2", **changes: Any,
) -> Written:  # fmt: skip
    """kind : of all matrices, or by a part of their names; metadata : further keys, None for those that are left out"""
    folder.mkdir(parents=True, exist_ok=True)
    document = masked_models.document(family, **({} if family == "llada" else SIZES) | changes)
    if family == "llada":
        document |= LLADA_SIZES | changes
    config = config_json.from_document(folder / "config.json", document)
    rng = np.random.default_rng(7)
    writer = gguf.GGUFWriter(folder / "model.gguf", ARCHITECTURES[family])
    write_keys(writer, config, ARCHITECTURES[family], metadata)
    if pre is not None:
        write_tokenizer(writer, pre)
    names = {config.family.own_name(name): name for name in config.family.network_shapes(config)}
    tensors = {}
    for name, values in masked_models.tensors(config).items():
        network = names[name]
        own, heads = gguf_name(network), 0
        if ARCHITECTURES[family] in ("llama", "llada") and any(f"{part}_proj" in network for part in "qk"):
            heads = config.heads if "q_proj" in network else config.backbone.kv_heads
        wanted = kind if isinstance(kind, str) else next((v for k, v in kind.items() if k in own), "F32")
        if values.ndim == 1 or wanted == "F32":
            writer.add_tensor(own, paired(values, heads) if heads else values)
        else:
            data, values = stored(wanted, values, rng)
            writer.add_tensor(own, paired(data, heads) if heads else data, raw_dtype=gguf.GGMLQuantizationType[wanted])
        tensors[name] = values
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    beside = folder / "folder"
    beside.mkdir()
    (beside / "config.json").write_text(json.dumps(document))
    save_file(tensors, beside / "model.safetensors")
    return Written(folder / "model.gguf", beside, tensors)


def gguf_name(name: str) -> str:
    if name in NAMES:
        return NAMES[name]
    layer, _, rest = name.removeprefix("model.layers.").partition(".")
    part, _, kind = rest.rpartition(".")
    return f"blk.{layer}.{PARTS[part]}.{kind}"


def write_keys(writer: gguf.GGUFWriter, config: Any, architecture: str, metadata: Mapping[str, Any]) -> None:
    """The keys that llama.cpp's converter writes."""
    backbone = config.backbone
    writer.add_context_length(config.length)
    writer.add_embedding_length(config.width)
    writer.add_block_count(config.blocks)
    writer.add_feed_forward_length(backbone.hidden)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(backbone.kv_heads)
    writer.add_key_length(backbone.head_dim)
    writer.add_value_length(backbone.head_dim)
    writer.add_rope_dimension_count(backbone.head_dim)
    writer.add_layer_norm_rms_eps(backbone.eps)
    writer.add_rope_freq_base(backbone.theta)
    keys = {"tokenizer.ggml.mask_token_id": config.mask_id, "tokenizer.ggml.eos_token_id": 256} | dict(metadata)
    for key, value in keys.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        elif value is not None:
            writer.add_array(key, value)


def write_tokenizer(writer: gguf.GGUFWriter, pre: str) -> None:
    """Bytes, special tokens behind them, one merge, a token that a user defined, and names for the rest."""
    import tokenizers

    tokens = [*sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()), *masked_models.SPECIAL, "th", "<extra>"]
    types = [1] * 256 + [3] * len(masked_models.SPECIAL) + [1, 4]
    tokens += [f"[PAD{i}]" for i in range(len(tokens), TOKENS)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types + [5] * (TOKENS - len(types)))
    writer.add_token_merges(["t h"])
    writer.add_chat_template(masked_models.CHAT_TEMPLATE)
