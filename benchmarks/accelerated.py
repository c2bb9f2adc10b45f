"""Models of transformers with random weights, as PyTorch runs them and as `accelerate` makes it run them.

Each contender has a process of its own, driven like the engines of `engines`: PyTorch's threads and ours then do not
wait for each other.
"""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any

import engines
import numpy as np

OURS, EAGER, WARM = "fastsedd", "PyTorch", "PyTorch, weights cast before"

QWEN3 = {
    "vocab_size": 151936, "hidden_size": 1024, "intermediate_size": 3072, "num_attention_heads": 16,
    "num_key_value_heads": 8, "head_dim": 128, "num_hidden_layers": 28, "rms_norm_eps": 1e-6,
}  # fmt: skip

# Class, config with its settings, keywords of a call, and tokens of each text.
CASES: dict[str, tuple[str, str, dict[str, Any], dict[str, Any], int]] = {
    "BERT base, 128 tokens": ("BertModel", "BertConfig", {}, {}, 128),
    "BERT base, 512 tokens": ("BertModel", "BertConfig", {}, {}, 512),
    "BERT base, 128 tokens, 40 of them padding": ("BertModel", "BertConfig", {}, {"padding": 40}, 128),
    "GPT-2 small, 512 tokens": ("GPT2LMHeadModel", "GPT2Config", {}, {"use_cache": False}, 512),
    "ViT-B/16, 224×224": ("ViTModel", "ViTConfig", {}, {}, 0),
    "Whisper base's encoder, 30 s": ("WhisperModel", "WhisperConfig", {}, {}, 0),
    "Qwen3-0.6B, prefill of 128": ("Qwen3ForCausalLM", "Qwen3Config", QWEN3, {"logits_to_keep": 1}, 128),
    "Qwen3-0.6B, prefill of 512": ("Qwen3ForCausalLM", "Qwen3Config", QWEN3, {"logits_to_keep": 1}, 512),
}


def contenders(dtype: str) -> tuple[str, ...]:
    """In bfloat16, PyTorch under autocast: once as one calls a model, and once with its weights cast beforehand.

    In the shorter dtypes, which it has none of, in float32.
    """
    return (OURS, EAGER, WARM) if dtype == "bfloat16" else (OURS, EAGER)


def prepare(contender: str, case: str, dtype: str) -> engines.Run:
    """A forward of batch 1, whose result is the first of what the model returns."""
    import torch
    import transformers

    warnings.filterwarnings("ignore")
    torch.set_num_threads(engines.available_cores())
    torch.set_grad_enabled(False)
    model, inputs = _model(torch, transformers, CASES[case])
    if contender == OURS:
        from fastsedd_kernels.torch import accelerate

        accelerate(model, dtype)
    shortened = contender != OURS and dtype == "bfloat16"
    if contender == WARM:
        torch.autocast("cpu", torch.bfloat16).__enter__()  # its casts of weights are kept until it is left

    def run() -> np.ndarray:
        with torch.autocast("cpu", torch.bfloat16, enabled=shortened):
            return np.asarray(model(**inputs)[0].float())

    return run


def _model(torch: Any, transformers: Any, case: tuple[str, str, dict[str, Any], dict[str, Any], int]) -> Any:
    """The model and the keywords of its call."""
    kind, config, settings, keywords, tokens = case
    torch.manual_seed(0)
    model = getattr(transformers, kind)(getattr(transformers, config)(**settings)).eval()
    if kind == "WhisperModel":
        return model.encoder, {"input_features": torch.randn(1, 80, 3000)}
    if not tokens:
        return model, {"pixel_values": torch.randn(1, 3, 224, 224)}
    inputs = {"input_ids": torch.randint(0, 30000, (1, tokens)), **keywords}
    padding = inputs.pop("padding", 0)
    if padding:
        inputs["attention_mask"] = (torch.arange(tokens) < tokens - padding).long()[None]
    return model, inputs


def flops(case: str) -> int:
    """Operations of the matrix products in a forward, those of attention included."""
    kind, _, _, _, tokens = CASES[case]
    if kind == "Qwen3ForCausalLM":
        projections = 1024 * (16 + 8 + 8 + 16) * 128 + 3 * 1024 * 3072
        layer = 2 * tokens * projections + 4 * tokens * tokens * 16 * 128
        return 28 * layer + 2 * 1024 * 151936
    length, width, layers = (1500, 512, 6) if kind == "WhisperModel" else (tokens or 197, 768, 12)
    head = 2 * length * width * 50257 if kind == "GPT2LMHeadModel" else 0
    return layers * (2 * length * 12 * width * width + 4 * length * length * width) + head


def process(contender: str, case: str, dtype: str) -> engines.Process:
    return engines.Process([contender, case, dtype], __file__)


if __name__ == "__main__":
    engines.serve(lambda: prepare(*json.loads(sys.argv[1])))
