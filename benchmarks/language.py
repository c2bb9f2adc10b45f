"""Engines for one block of a masked language model behind tokens whose keys and values are kept, and whole texts.

A block is BLOCK tokens behind BEFORE, with the logits of all of them: attention is full within it, so that no engine
needs a mask. Each engine has read the same weights (`language_files`) and a process of its own, driven like those of
`engines`. transformers' models keep keys and values in arrays that are long enough; OpenVINO's graph joins those kept
and those of the block, as it has no such arrays. What takes minutes is kept in the folder of the weights: transformers'
keys and values of the tokens before, in float32, and OpenVINO's graph.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import engines
import language_files
import numpy as np
from language_files import BEFORE, BLOCK

OURS, EAGER, COMPILED = "fastsedd", "transformers", "torch.compile"
OPENVINO, LLAMA = "OpenVINO", "llama.cpp"

_GGUF = {"int8": "Q8_0", "int4": "Q4_0"}  # llama.cpp's type for each of our dtypes


def available(dtype: str) -> dict[str, str]:
    """The engines that have the dtype, each with the packages that are missing, "" where it is here."""
    needed = {
        EAGER: ("torch", "transformers"),
        COMPILED: ("torch", "transformers"),
        OPENVINO: ("torch", "transformers", "openvino"),
    }
    if dtype in _GGUF:
        needed = {LLAMA: ("llama_cpp", "gguf")}
    return {
        name: ", ".join(each for each in packages if not engines.installed(each)) for name, packages in needed.items()
    }


def prepare(engine: str, folder: str, dtype: str, commits: int = 0) -> engines.Run:
    """A block's logits [BLOCK, V] by that engine; commits : tokens that a step commits, of a whole text by ours"""
    if commits:
        return _Writing(folder, dtype, commits)
    if engine == OURS:
        return _ours(folder, dtype)
    if engine == LLAMA:
        return _llama(Path(folder) / f"{_GGUF[dtype]}.gguf")
    warnings.filterwarnings("ignore")
    return _openvino(folder, dtype) if engine == OPENVINO else _torch(folder, dtype, compiled=engine == COMPILED)


def _ours(folder: str, dtype: str) -> engines.Run:
    from fastsedd import checkpoint, models
    from fastsedd.block_layout import BlockLayout
    from fastsedd.models.backbone.session import Session

    read = checkpoint.read(folder)
    network: Any = models.build(read.config, read.tensors, dtype)
    session = Session(network, 1, BEFORE + BLOCK, BlockLayout(BLOCK), window=BLOCK)
    tokens, rows = language_files.tokens()[None], np.arange(BEFORE, BEFORE + BLOCK)

    def run() -> np.ndarray:
        session.run(tokens, BEFORE, BEFORE + BLOCK)
        return session.logits(rows)

    return run


class _Writing:
    """A block that is written behind BEFORE tokens, so many with each step; its turn is the mean seconds of a token.

    The first step, which reads the tokens before, does not count.
    """

    def __init__(self, folder: str, dtype: str, commits: int) -> None:
        import fastsedd

        self._model = fastsedd.load(folder, dtype)  # type: ignore[arg-type]
        self._commits = commits
        self._times: list[float] = []

    def __call__(self) -> np.ndarray:
        self._times.clear()
        before = dict(enumerate(language_files.tokens()[:BEFORE].tolist()))
        result = self._model.generate(
            fixed=before, length=BEFORE + BLOCK, steps=BLOCK // self._commits, seed=0, on_step=self._note
        )
        return result.tokens

    def _note(self, step: int, steps: int, tokens: np.ndarray) -> None:
        self._times.append(time.perf_counter())

    def turn(self) -> float:
        self()
        steps = len(self._times) - 1
        return (self._times[-1] - self._times[0]) / (steps * self._commits)


class _Kept:
    """Keys and values by layer, for transformers: those of a block are written behind `first`, and seen with them.

    Each is a tensor of its own: torch.compile copies what a slice is written to, all of it.
    """

    def __init__(self, layers: int, heads: int, dim: int, dtype: Any) -> None:
        import torch

        shape = (1, heads, BEFORE + BLOCK, dim)
        self._kept = [[torch.zeros(shape, dtype=dtype) for _ in range(2)] for _ in range(layers)]
        self.first = 0

    def update(self, keys: Any, values: Any, layer: int, *_: Any, **__: Any) -> tuple[Any, Any]:
        end = self.first + BLOCK
        for kept, new in zip(self._kept[layer], (keys, values), strict=True):
            kept[:, :, self.first : end] = new
        kept_keys, kept_values = self._kept[layer]
        return kept_keys[:, :, :end], kept_values[:, :, :end]

    def before(self) -> Any:
        """Keys and values of the tokens before the block: [layers, 2, 1, heads, BEFORE, dim]."""
        import torch

        return torch.stack([torch.stack([each[:, :, :BEFORE] for each in both]) for both in self._kept])

    def fill(self, before: Any) -> None:
        """Take over keys and values of the tokens before, as `before` gives them."""
        self.first = BEFORE
        for both, read in zip(self._kept, before, strict=True):
            for kept, each in zip(both, read, strict=True):
                kept[:, :, :BEFORE] = each

    def get_seq_length(self, *_: Any) -> int:
        return self.first


class _Joined:
    """Keys and values by layer as they came in, joined with those of the block."""

    def __init__(self, kept: Any) -> None:
        self._kept = kept

    def update(self, keys: Any, values: Any, layer: int, *_: Any, **__: Any) -> tuple[Any, Any]:
        import torch

        before = self._kept[layer]
        return torch.cat([before[0], keys], dim=2), torch.cat([before[1], values], dim=2)

    def get_seq_length(self, *_: Any) -> int:
        return BEFORE


def _transformers(folder: str, dtype: str) -> tuple[Callable[..., Any], _Kept]:
    """forward(cache, tokens [1, BLOCK], positions) to logits, and the keys and values of the tokens before, filled."""
    import torch
    from safetensors.torch import load_file
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.set_num_threads(engines.available_cores())
    torch.set_grad_enabled(False)
    kind = getattr(torch, dtype)
    document = {key: value for key, value in language_files.DOCUMENT.items() if key != "model_type"}
    of = Qwen3Config(**document)
    with torch.device("meta"):
        model = Qwen3ForCausalLM(of).eval().requires_grad_(False)
    tensors = {name: tensor.to(kind) for name, tensor in load_file(f"{folder}/model.safetensors").items()}
    model.load_state_dict(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"]}, assign=True)
    model.model.rotary_emb = type(model.model.rotary_emb)(config=of)
    for layer in model.model.layers:
        layer.self_attn.is_causal = False

    def forward(cache: Any, tokens: Any, positions: Any) -> Any:
        features = model.model(
            input_ids=tokens, position_ids=positions, attention_mask={"full_attention": None}, cache=cache,
            use_cache=True,
        ).last_hidden_state  # fmt: skip
        return model.lm_head(features)

    kept = _Kept(of.num_hidden_layers, of.num_key_value_heads, of.head_dim, kind)
    path = Path(folder) / "before.npy"
    if dtype != "float32" and not path.exists():
        _transformers(folder, "float32")
    if not path.exists():
        for kept.first in range(0, BEFORE, BLOCK):
            forward(kept, *_operands(kept.first))
        np.save(path, kept.before().numpy())
    kept.fill(torch.from_numpy(np.load(path)))
    return forward, kept


def _operands(first: int) -> tuple[Any, Any]:
    import torch

    tokens = torch.from_numpy(language_files.tokens()).long()[None, first : first + BLOCK]
    return tokens, torch.arange(first, first + BLOCK)[None]


def _torch(folder: str, dtype: str, *, compiled: bool) -> engines.Run:
    import torch

    forward, kept = _transformers(folder, dtype)
    if compiled:
        forward = torch.compile(forward)
    operands = _operands(BEFORE)
    return lambda: np.asarray(forward(kept, *operands)[0].float())


def _openvino(folder: str, dtype: str) -> engines.Run:
    """The block by OpenVINO, which computes in float32, whatever it is told, where the CPU has no bfloat16."""
    import openvino

    path = Path(folder) / "block.xml"
    if not path.exists():
        _convert(folder, path)
    settings = {
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[dtype],
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": engines.available_cores(),
    }
    compiled = openvino.Core().compile_model(path, "CPU", settings)
    arrays = [*(each.numpy() for each in _operands(BEFORE)), np.load(path.with_name("before.npy"))]
    return lambda: np.asarray(next(iter(compiled(arrays, share_inputs=True).values())))[0]


def _convert(folder: str, path: Path) -> None:
    """OpenVINO's graph of a block, in float32."""
    import openvino
    import torch

    block, kept = _transformers(folder, "float32")

    class Block(torch.nn.Module):
        def forward(self, tokens: Any, positions: Any, before: Any) -> Any:
            return block(_Joined(before), tokens, positions)

    operands = (*_operands(BEFORE), kept.before())
    openvino.save_model(openvino.convert_model(Block(), example_input=operands), path, compress_to_fp16=False)


def _llama(path: Path) -> engines.Run:
    """Prefill of a block, without a causal mask, behind the blocks before; all of its logits are requested."""
    import ctypes

    import llama_cpp as llama

    model = llama.llama_model_load_from_file(str(path).encode(), llama.llama_model_default_params())
    settings = llama.llama_context_default_params()
    settings.n_ctx = settings.n_batch = settings.n_ubatch = BEFORE + BLOCK
    settings.n_threads = settings.n_threads_batch = engines.available_cores()
    context = llama.llama_init_from_model(model, settings)
    llama.llama_set_causal_attn(context, False)
    batch, tokens = llama.llama_batch_init(BLOCK, 0, 1), language_files.tokens()

    def decode(first: int) -> None:
        batch.n_tokens = BLOCK
        for i in range(BLOCK):
            batch.token[i], batch.pos[i] = int(tokens[first + i]), first + i
            batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = 1, 0, 1
        if llama.llama_decode(context, batch) != 0:
            raise RuntimeError("llama_decode failed")

    for first in range(0, BEFORE, BLOCK):
        decode(first)
    size = BLOCK * language_files.DOCUMENT["vocab_size"]

    def run() -> np.ndarray:
        llama.llama_memory_seq_rm(llama.llama_get_memory(context), 0, BEFORE, -1)
        decode(BEFORE)
        logits = llama.llama_get_logits(context)
        numbers = ctypes.cast(logits, ctypes.POINTER(ctypes.c_float * size)).contents
        return np.frombuffer(numbers, np.float32).reshape(BLOCK, -1)

    return run


def process(engine: str, folder: Path, dtype: str, commits: int = 0) -> engines.Process:
    return engines.Process([engine, str(folder), dtype, commits], __file__)


if __name__ == "__main__":
    engines.serve(lambda: prepare(*json.loads(sys.argv[1])))
