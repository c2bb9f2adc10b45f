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

CASES = {
    "BERT base, 128 tokens": ("BertModel", "BertConfig", {}, 128),
    "BERT base, 512 tokens": ("BertModel", "BertConfig", {}, 512),
    "GPT-2 small, 512 tokens": ("GPT2LMHeadModel", "GPT2Config", {"use_cache": False}, 512),
    "ViT-B/16, 224×224": ("ViTModel", "ViTConfig", {}, 0),
}


def contenders(dtype: str) -> tuple[str, ...]:
    """In bfloat16, PyTorch under autocast: once as one calls a model, and once with its weights cast beforehand."""
    return (OURS, EAGER) if dtype == "float32" else (OURS, EAGER, WARM)


def prepare(contender: str, case: str, dtype: str) -> engines.Run:
    """A forward of batch 1, whose result is the first of what the model returns."""
    import torch
    import transformers

    warnings.filterwarnings("ignore")
    torch.set_num_threads(engines.available_cores())
    torch.set_grad_enabled(False)
    model, inputs = _model(torch, transformers, *CASES[case])
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


def _model(torch: Any, transformers: Any, kind: str, config: str, settings: dict[str, Any], tokens: int) -> Any:
    torch.manual_seed(0)
    model = getattr(transformers, kind)(getattr(transformers, config)()).eval()
    if tokens:
        return model, {"input_ids": torch.randint(0, 30000, (1, tokens)), **settings}
    return model, {"pixel_values": torch.randn(1, 3, 224, 224)}


def flops(case: str) -> int:
    """Operations of the matrix products in a forward: all four have twelve layers of width 768."""
    length, width = CASES[case][3] or 197, 768
    head = 2 * length * width * 50257 if case.startswith("GPT-2") else 0
    return 12 * (2 * length * 12 * width * width + 4 * length * length * width) + head


def process(contender: str, case: str, dtype: str) -> engines.Process:
    return engines.Process([contender, case, dtype], __file__)


if __name__ == "__main__":
    engines.serve(lambda: prepare(*json.loads(sys.argv[1])))
