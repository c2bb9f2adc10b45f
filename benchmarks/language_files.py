"""Qwen3-0.6B's sizes with random weights on disk: safetensors in bfloat16 for most engines, GGUF for llama.cpp.

python benchmarks/language_files.py FOLDER [TYPE]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fastsedd.architectures.base import ModelConfig
from fastsedd.checkpoint import config_json, gguf_model

BLOCK = 32  # tokens of a block, which is written at once
BEFORE = 512  # tokens before it, whose keys and values are kept

DOCUMENT: dict[str, Any] = {
    "model_type": "a2d-qwen3", "vocab_size": 151936, "hidden_size": 1024, "intermediate_size": 3072,
    "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
    "max_position_embeddings": BEFORE + 2 * BLOCK, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "hidden_act": "silu",
    "tie_word_embeddings": True, "attention_bias": False, "mask_token_id": 151669, "block_size": BLOCK,
}  # fmt: skip


def config() -> ModelConfig:
    return config_json.from_document(Path("config.json"), DOCUMENT)


def tokens() -> np.ndarray:
    """A text of BEFORE + BLOCK random tokens, the mask not among them."""
    return np.random.default_rng(1).integers(0, 151643, BEFORE + BLOCK).astype(np.int32)


def flops() -> int:
    """Operations of the matrix products of one block, those of attention and of all its logits included."""
    of = config()
    matrices = sum(int(np.prod(shape)) for shape in of.tensor_shapes.values() if len(shape) == 2)
    return 2 * BLOCK * matrices + 4 * BLOCK * (BEFORE + BLOCK) * of.blocks * of.heads * of.head_dim


def write(folder: Path, kind: str = "") -> None:
    """kind : a type of blocks, for a GGUF file of it; "" for safetensors"""
    folder.mkdir(parents=True, exist_ok=True)
    if kind:
        _write_gguf(folder / f"{kind}.gguf", kind)
        return
    (folder / "config.json").write_text(json.dumps(DOCUMENT), encoding="utf-8")
    header: dict[str, Any] = {}
    end = 0
    for name, shape in config().tensor_shapes.items():
        begin, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    encoded = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for _, tensor in _tensors():
            file.write((tensor.view(np.uint32) >> 16).astype("<u2").data)


def _tensors() -> Iterator[tuple[str, np.ndarray]]:
    """Each in float32 numbers that bfloat16 holds: matrices with a deviation of 0.02, norms near one."""
    rng = np.random.default_rng(0)
    for name, shape in config().tensor_shapes.items():
        values = rng.standard_normal(shape, dtype=np.float32)
        values = np.float32(0.02) * values if len(shape) == 2 else 1 + np.float32(0.05) * values
        yield name, (values.view(np.uint32) & 0xFFFF0000).view(np.float32)


def _write_gguf(path: Path, kind: str) -> None:
    """A GGUF file as llama.cpp's converter lays it out, without a vocabulary; norms in float32."""
    import gguf

    of, number = config(), gguf.GGMLQuantizationType[kind]
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(of.vocab_size)
    writer.add_context_length(of.length)
    writer.add_embedding_length(of.width)
    writer.add_block_count(of.blocks)
    writer.add_feed_forward_length(DOCUMENT["intermediate_size"])
    writer.add_head_count(of.heads)
    writer.add_head_count_kv(DOCUMENT["num_key_value_heads"])
    writer.add_key_length(of.head_dim)
    writer.add_value_length(of.head_dim)
    writer.add_layer_norm_rms_eps(DOCUMENT["rms_norm_eps"])
    writer.add_rope_freq_base(DOCUMENT["rope_theta"])
    for name, values in _tensors():
        if values.ndim == 1:
            writer.add_tensor(gguf_model.file_name(name), values)
        else:
            writer.add_tensor(gguf_model.file_name(name), gguf.quants.quantize(values, number), raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    write(Path(sys.argv[1]), *sys.argv[2:])
