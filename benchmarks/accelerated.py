"""Models of transformers with random weights, as PyTorch runs them and as `accelerate` makes it run them.

Each contender has a process of its own, driven like the engines of `engines`: PyTorch's threads and ours then do not
wait for each other.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from dataclasses import dataclass, field
from typing import Any

import engines
import numpy as np

OURS, EAGER, WARM = "fastsedd", "PyTorch", "PyTorch, weights cast before"


@dataclass(frozen=True)
class Case:
    """A model and what it is called with: one text, unless it takes pixels or a spectrogram.

    kind, config : classes of transformers; settings : of the config, where they are not its defaults
    keywords : of a call
    tokens, padding : of the text, and how many of them are padding
    """

    kind: str
    config: str
    settings: dict[str, Any] = field(default_factory=dict)
    tokens: int = 128
    padding: int = 0
    keywords: dict[str, Any] = field(default_factory=dict)


def _sizes(width: int, inner: int, heads: int, layers: int, keys: int = 0, **others: Any) -> dict[str, Any]:
    """A config's settings. keys : heads of keys, if they are others than of queries"""
    shared = {"num_key_value_heads": keys} if keys else {}
    names = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers")
    return dict(zip(names, (width, inner, heads, layers), strict=True), vocab_size=32000) | shared | others


_QWEN3 = _sizes(1024, 3072, 16, 28, 8, head_dim=128, vocab_size=151936)
_LAST = {"logits_to_keep": 1}
_WHISPER = {
    "d_model": 512, "encoder_ffn_dim": 2048, "encoder_attention_heads": 8, "encoder_layers": 6,
    "decoder_attention_heads": 8, "decoder_layers": 1,
}  # fmt: skip
_T5 = {"d_model": 768, "d_kv": 64, "d_ff": 2048, "num_layers": 12, "num_heads": 12, "feed_forward_proj": "gated-gelu"}

CASES = {
    "BERT base, 128 tokens": Case("BertModel", "BertConfig"),
    "BERT base, 512 tokens": Case("BertModel", "BertConfig", tokens=512),
    "GPT-2 small, 512 tokens": Case("GPT2LMHeadModel", "GPT2Config", tokens=512, keywords={"use_cache": False}),
    "ViT-B/16, 224×224": Case("ViTModel", "ViTConfig"),
    "Qwen3-0.6B, prefill of 128": Case("Qwen3ForCausalLM", "Qwen3Config", _QWEN3, keywords=_LAST),
    "Qwen3-0.6B, prefill of 512": Case("Qwen3ForCausalLM", "Qwen3Config", _QWEN3, tokens=512, keywords=_LAST),
}

# In float32 alone; of large models a few layers, without the head.
FAMILIES = {
    "BERT base, 128 tokens, 40 of them padding": Case("BertModel", "BertConfig", padding=40),
    "Whisper base's encoder, 30 s": Case("WhisperModel", "WhisperConfig", _WHISPER),
    "Llama 3.2 1B, 4 layers": Case("LlamaModel", "LlamaConfig", _sizes(2048, 8192, 32, 4, 8)),
    "Mistral 7B, 1 layer": Case("MistralModel", "MistralConfig", _sizes(4096, 14336, 32, 1, 8, sliding_window=4096)),
    "Qwen2 0.5B, 8 layers": Case("Qwen2Model", "Qwen2Config", _sizes(896, 4864, 14, 8, 2)),
    "Gemma 2 2B, 2 layers": Case("Gemma2Model", "Gemma2Config", _sizes(2304, 9216, 8, 2, 4, head_dim=256)),
    "Gemma 3 1B, 6 layers": Case(
        "Gemma3TextModel", "Gemma3TextConfig", _sizes(1152, 6912, 4, 6, 1, head_dim=256, sliding_window=512)
    ),
    "Phi 1.5, 4 layers": Case("PhiModel", "PhiConfig", _sizes(2048, 8192, 32, 4)),
    "OPT 125M": Case("OPTModel", "OPTConfig"),
    "T5 1.1 base's encoder": Case("T5EncoderModel", "T5Config", _T5),
    "CLIP ViT-B/32's text encoder, 77 tokens": Case("CLIPTextModel", "CLIPTextConfig", tokens=77),
    "ModernBERT base": Case("ModernBertModel", "ModernBertConfig"),
    "DistilBERT base": Case("DistilBertModel", "DistilBertConfig"),
}
ALL = CASES | FAMILIES


def contenders(dtype: str) -> tuple[str, ...]:
    """In bfloat16, PyTorch under autocast: once as one calls a model, and once with its weights cast beforehand.

    In the shorter dtypes, which it has none of, in float32.
    """
    return (OURS, EAGER, WARM) if dtype == "bfloat16" else (OURS, EAGER)


def prepare(contender: str, case: str, dtype: str) -> engines.Run:
    """A forward of batch 1, whose result is the first of what the model returns."""
    import torch

    warnings.filterwarnings("ignore")
    torch.set_num_threads(engines.available_cores())
    torch.set_grad_enabled(False)
    model, inputs = _model(ALL[case])
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


def _model(case: Case) -> tuple[Any, dict[str, Any]]:
    """The model and the keywords of its call."""
    import torch
    import transformers

    torch.manual_seed(0)
    model = getattr(transformers, case.kind)(getattr(transformers, case.config)(**case.settings)).eval()
    if case.kind == "WhisperModel":
        return model.encoder, {"input_features": torch.randn(1, 80, 3000)}
    if case.kind == "ViTModel":
        return model, {"pixel_values": torch.randn(1, 3, 224, 224)}
    inputs = {"input_ids": torch.randint(0, 30000, (1, case.tokens)), **case.keywords}
    if case.padding:
        inputs["attention_mask"] = (torch.arange(case.tokens) < case.tokens - case.padding).long()[None]
    return model, inputs


def flops(case: str) -> int:
    """Operations of the matrix products and convolutions in a forward, as PyTorch counts them; nothing is computed."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model, inputs = _model(ALL[case])
        model.set_attn_implementation("eager")
        model(**{name: each for name, each in inputs.items() if name not in ("attention_mask", "use_cache")})
    return int(counter.get_total_flops())


def process(contender: str, case: str, dtype: str) -> engines.Process:
    return engines.Process([contender, case, dtype], __file__)


if __name__ == "__main__":
    os.environ.pop("GOMP_SPINCOUNT", None)  # the suites set it for libraries that share a process; here none do
    engines.serve(lambda: prepare(*json.loads(sys.argv[1])))
