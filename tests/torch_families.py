"""Tiny random models of transformers' families, with a padded batch: what each is given, and what it returns for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

_SMALL = {
    "vocab_size": 99, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 80,
}  # fmt: skip
_NO_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_ENCODER = {"encoder_layers": 2, "encoder_attention_heads": 4, "decoder_layers": 1, "decoder_attention_heads": 4}


def _causal(kind: str, **settings: Any) -> Callable[[Any], Any]:
    """A language model with two heads of keys, its texts padded on the left."""
    config = f"{kind}TextConfig" if kind == "Gemma3" else f"{kind}Config"

    def make(library: Any) -> Any:
        given = {**_SMALL, "num_key_value_heads": 2, **settings}
        return getattr(library, f"{kind}ForCausalLM")(getattr(library, config)(**given))

    return make


CAUSAL: dict[str, Callable[[Any], Any]] = {
    "Llama": _causal("Llama", rope_parameters={"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0,
        "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}),
    "Mistral": _causal("Mistral", sliding_window=8),
    "Qwen2": _causal("Qwen2"),
    "Qwen3": _causal("Qwen3", head_dim=16),
    "Gemma2": _causal("Gemma2", head_dim=16, sliding_window=8),
    "Gemma3": _causal("Gemma3", head_dim=16, sliding_window=8),
    "Phi": _causal("Phi"),
    "OPT": lambda library: library.OPTForCausalLM(
        library.OPTConfig(vocab_size=99, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, ffn_dim=80,
            word_embed_proj_dim=48, max_position_embeddings=64)),
}  # fmt: skip
ENCODERS: dict[str, Callable[[Any], Any]] = {
    "T5": lambda library: library.T5EncoderModel(
        library.T5Config(vocab_size=99, d_model=48, d_kv=12, d_ff=80, num_layers=2, num_heads=4,
            feed_forward_proj="gated-gelu")),
    "Whisper": lambda library: library.WhisperModel(
        library.WhisperConfig(vocab_size=99, d_model=48, encoder_ffn_dim=80, decoder_ffn_dim=80, num_mel_bins=8,
            max_source_positions=23, **_ENCODER, **_NO_TOKENS)).encoder,
    "CLIP": lambda library: library.CLIPTextModel(library.CLIPTextConfig(**_SMALL, **_NO_TOKENS)),
    "ModernBERT": lambda library: library.ModernBertModel(
        library.ModernBertConfig(**_SMALL, local_attention=8, cls_token_id=1, sep_token_id=2, **_NO_TOKENS)),
    "DistilBERT": lambda library: library.DistilBertModel(
        library.DistilBertConfig(vocab_size=99, dim=48, n_layers=2, n_heads=4, hidden_dim=80)),
    "Bert": lambda library: library.BertModel(library.BertConfig(**_SMALL)),
}  # fmt: skip


def made(name: str) -> tuple[Any, dict[str, Any], Any]:
    """The model, two texts of 23 and 15 tokens with their mask, and which of the outputs are not padding."""
    library = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)
    model = (CAUSAL | ENCODERS)[name](library).eval()
    for parameter in model.parameters():  # norms' too, which begin as ones or zeros
        parameter.data.add_(torch.randn_like(parameter), alpha=0.05)
    if name == "Whisper":
        return model, {"input_features": torch.randn(2, 8, 46)}, torch.ones(2, 23, dtype=torch.bool)
    mask = torch.ones(2, 23, dtype=torch.long)
    mask[1, 15:] = 0
    mask = mask.flip(1) if name in CAUSAL else mask
    return model, {"input_ids": torch.randint(3, 99, (2, 23)), "attention_mask": mask}, mask.bool()
