"""Small random masked language models, written to disk as their authors write them."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from fastsedd import models
from fastsedd.architectures.base import ModelConfig
from fastsedd.checkpoint import config_json
from fastsedd.models.backbone.session import Session

LLAMAS = (
    "a2d-qwen3",
    "a2d-qwen2",
    "a2d-llama",
    "qwen2",
    "Fast_dLLM_Qwen",
    "sdar",
    "Dream",
    "llama",
)  # whose keys are Llama's
FAMILIES = (*LLAMAS, "llada", "gpt2", "smdm")

MASK, END, PAD, END_OF_TURN = "<|mask|>", "<|endoftext|>", "<|pad|>", "<|im_end|>"
SPECIAL = (END, "<|im_start|>", END_OF_TURN, MASK)

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

OWN_KEYS: dict[str, dict[str, Any]] = {
    "bd3lm": {
        "vocab_size": 260, "model_length": 32, "block_size": 4, "hidden_dim": 48, "cond_dim": 16, "n_blocks": 2,
        "n_heads": 4, "dropout": 0.1, "cross_attn": True, "adaln": True, "causal": False, "attn_backend": "flex",
        "time_conditioning": False, "var_min": True, "bos_token_id": 256,
    },
    "smdm": {
        "padded_vocab_size": 259, "n_embd": 48, "n_layer": 2, "n_head": 4, "n_query_groups": 2, "intermediate_size": 56,
        "block_size": 128, "norm_eps": 1e-5, "bos_token_id": 257, "eos_token_id": 256,
    },
    "gpt2": {
        "vocab_size": 300, "n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 128, "n_inner": None,
        "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "mask_token_id": 259, "bos_token_id": 256,
        "eos_token_id": 256, "architectures": ["DiscreteDiffusionModel"],
    },
    "llada": {
        "vocab_size": 300, "embedding_size": 300, "d_model": 48, "mlp_hidden_size": 56, "n_layers": 2, "n_heads": 4,
        "n_kv_heads": 2, "max_sequence_length": 128, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "weight_tying": False,
        "block_type": "llama", "activation_type": "silu", "layer_norm_type": "rms", "rope": True, "alibi": False,
        "include_bias": False, "bias_for_layer_norm": False, "mask_token_id": 259, "eos_token_id": 256,
    },
}  # fmt: skip
NORMS = ("norm.weight", "ln_f.weight", "ln_1.weight", "ln_2.weight", "norm1.weight", "norm2.weight")
EMBEDDINGS = ("embed", "lm_head", "wte", "transformer.ff_out")


def document(family: str, **changes: Any) -> dict[str, Any]:
    """A config.json of about ten thousand weights; a width that its heads do not divide, where it need not."""
    if family in OWN_KEYS:
        return {"model_type": family, **OWN_KEYS[family]} | changes
    found = {
        "model_type": family, "vocab_size": 300, "hidden_size": 36, "intermediate_size": 56, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 128,
        "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": family != "sdar",
        "mask_token_id": 259, "bos_token_id": 257, "eos_token_id": 256, "sliding_window": None, "use_cache": True,
    }  # fmt: skip
    return found | changes


def config(family: str, **changes: Any) -> ModelConfig:
    """The config of such a document."""
    return config_json.from_document(Path("config.json"), document(family, **changes))


def tensors(of: ModelConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Norms near one, the rest so large that tokens differ: logits of order one."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, shape in of.tensor_shapes.items():
        values = rng.standard_normal(shape)
        if len(shape) == 2:
            values *= 0.5 if any(part in name for part in EMBEDDINGS) else 0.2
        elif name.endswith(NORMS) or ".norm_" in name:
            values = 1 + 0.2 * values
        found[name] = values.astype(np.float32)
    return found


def full_logits(model: Any, tokens: np.ndarray) -> np.ndarray:
    """The logits of a model of transformers for ids [B, L], every position attending to all: an additive mask of 0"""
    import torch

    length = tokens.shape[1]
    with torch.no_grad():
        output = model(torch.tensor(tokens).long(), attention_mask=torch.zeros(len(tokens), 1, length, length))
    return output.logits.numpy()


def assert_logits(of: ModelConfig, expected: np.ndarray, tokens: np.ndarray, reference: ModuleType) -> None:
    """Both the reference and the kernels give such logits, within 1e-4 of 1 + |x|, for the weights of `tensors`."""
    weights = tensors(of)
    for found in (
        reference.logits(of, weights, tokens),
        Session(models.build(of, weights), *tokens.shape, None).all_logits(tokens),
    ):
        assert (np.abs(found - expected) <= 1e-4 * (1 + np.abs(expected))).all()


def write(folder: Path, family: str = "a2d-qwen3", *, template: str | None = CHAT_TEMPLATE, **changes: Any) -> Path:
    """A folder with config.json, weights and a tokenizer of bytes, special tokens behind them; template : of chats"""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(document(family, **changes)))
    of = config(family, **changes)
    save_file(tensors(of), folder / "model.safetensors")
    write_tokenizer(folder, template)
    return folder


def write_tokenizer(folder: Path, template: str | None = CHAT_TEMPLATE) -> None:
    """A byte-level tokenizer: ids 0 to 255 are bytes, then come the special ones."""
    import tokenizers

    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    model = tokenizers.models.BPE({piece: i for i, piece in enumerate(alphabet)}, [])
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.save(str(folder / "tokenizer.json"))
    stated = {"eos_token": END_OF_TURN, "pad_token": END, "mask_token": MASK}
    if template is not None:
        stated["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(stated))
