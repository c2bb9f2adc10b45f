"""A step of a model of 8 billion weights in Q4_0, beside llama.cpp's on the same file.

    python benchmarks/eight_billion.py FILE         writes FILE first, 4.6 GB, if it is not there: Llama 3 8B's sizes
    python benchmarks/eight_billion.py FILE --layers 4 --tokens 32         fewer layers, where time or memory are short

A step is the network run over a text of so many tokens, and the logits of all of them. The two are held to each other
first; then they take turns, each in a process of its own, on all cores. llama.cpp comes with `llama-cpp-python`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import engines
import numpy as np

OURS, THEIRS = engines.OURS, "llama.cpp"
ROUNDS = 5

WIDTH, HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, TOKENS = 4096, 14336, 32, 32, 8, 128, 128256
MASK = TOKENS - 1
STEP = 0.004  # a block's scale: weights of a deviation of 0.02


def shapes(layers: int) -> dict[str, tuple[int, ...]]:
    """The tensors of Llama 3 8B, by llama.cpp's names."""
    found: dict[str, tuple[int, ...]] = {"token_embd.weight": (TOKENS, WIDTH)}
    for i in range(layers):
        keys = KV_HEADS * HEAD_DIM
        parts = {
            "attn_norm": (WIDTH,), "attn_q": (WIDTH, WIDTH), "attn_k": (keys, WIDTH), "attn_v": (keys, WIDTH),
            "attn_output": (WIDTH, WIDTH), "ffn_norm": (WIDTH,), "ffn_gate": (HIDDEN, WIDTH),
            "ffn_up": (HIDDEN, WIDTH), "ffn_down": (WIDTH, HIDDEN),
        }  # fmt: skip
        found |= {f"blk.{i}.{part}.weight": shape for part, shape in parts.items()}
    return found | {"output_norm.weight": (WIDTH,), "output.weight": (TOKENS, WIDTH)}


def write(path: Path, layers: int) -> None:
    """A model of random blocks, whose norms are 1."""
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    integers = {
        "llama.context_length": 8192, "llama.embedding_length": WIDTH, "llama.block_count": layers,
        "llama.feed_forward_length": HIDDEN, "llama.attention.head_count": HEADS, "llama.vocab_size": TOKENS,
        "llama.attention.head_count_kv": KV_HEADS, "llama.rope.dimension_count": HEAD_DIM, "general.file_type": 2,
        "general.quantization_version": 2, "tokenizer.ggml.mask_token_id": MASK,
    }  # fmt: skip
    for key, value in integers.items():
        writer.add_uint32(key, value)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_float32("llama.rope.freq_base", 5e5)
    writer.add_bool("llama.attention.causal", False)
    writer.add_string("tokenizer.ggml.model", "none")
    for name, shape in shapes(layers).items():
        kind = gguf.GGMLQuantizationType.F32 if len(shape) == 1 else gguf.GGMLQuantizationType.Q4_0
        count, nbytes = gguf.GGML_QUANT_SIZES[kind]
        writer.add_tensor_info(name, shape, np.float32, int(np.prod(shape)) // count * nbytes, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    rng = np.random.default_rng(0)
    for shape in shapes(layers).values():
        writer.write_tensor_data(np.ones(shape, np.float32) if len(shape) == 1 else _blocks(rng, shape))
    writer.close()


def _blocks(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Random blocks of Q4_0."""
    blocks = np.frombuffer(rng.bytes(shape[0] * shape[1] // 32 * 18), np.uint8).reshape(-1, 18).copy()
    blocks[:, :2] = np.array([STEP], np.float16).view(np.uint8)
    return blocks.reshape(shape[0], -1)


def tokens_of(count: int) -> list[int]:
    return np.random.default_rng(1).integers(0, MASK, count).tolist()  # type: ignore[no-any-return]


def prepare(engine: str, path: str, count: int) -> engines.Run:
    """A step's logits, [tokens, vocabulary]; how long loading took goes to standard error."""
    begin = time.perf_counter()
    run = (_ours if engine == OURS else _llama_cpp)(path, tokens_of(count))
    print(f"{engine} loads in {time.perf_counter() - begin:.1f} s", file=sys.stderr)
    return run


def _ours(path: str, tokens: list[int]) -> engines.Run:
    import fastsedd

    model = fastsedd.load(path, "stored")
    given = np.array([tokens])
    return lambda: model.logits(given)[0]


def _llama_cpp(path: str, tokens: list[int]) -> engines.Run:
    import llama_cpp as library

    library.llama_backend_init()
    reading = library.llama_model_default_params()
    reading.use_mmap = False  # it packs blocks anew, and would have them twice
    model = library.llama_model_load_from_file(path.encode(), reading)
    parameters = library.llama_context_default_params()
    parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = max(len(tokens), 32)
    parameters.n_threads = parameters.n_threads_batch = engines.available_cores()
    context = library.llama_init_from_model(model, parameters)
    batch = library.llama_batch_init(len(tokens), 0, 1)
    batch.n_tokens = len(tokens)
    for i, token in enumerate(tokens):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = token, i, 1, 0, 1

    def run() -> np.ndarray:
        library.llama_memory_clear(library.llama_get_memory(context), False)
        assert library.llama_decode(context, batch) == 0
        return np.ctypeslib.as_array(library.llama_get_logits(context), (len(tokens), TOKENS))

    return run


def compare(path: Path, count: int, rounds: int) -> dict[str, Any]:
    """Medians of seconds per step, and of the ratio in a round; bytes that each process has held at most."""
    made = {name: engines.Process([name, str(path), count], __file__) for name in (OURS, THEIRS)}
    try:
        mine, theirs = (made[name].result() for name in (OURS, THEIRS))
        error = float(np.linalg.norm(mine - theirs) / np.linalg.norm(theirs))
        assert error < 0.1, f"logits differ by {error:.2f} of their norm"
        seconds: dict[str, list[float]] = {name: [] for name in made}
        for i in range(rounds):
            for name in sorted(made, reverse=i % 2 == 1):
                begin = time.perf_counter()
                made[name]()
                seconds[name].append(time.perf_counter() - begin)
        ratios = [b / a for a, b in zip(seconds[OURS], seconds[THEIRS], strict=True)]
        return {
            "tokens": count, "error": error,
            "seconds": {name: statistics.median(each) for name, each in seconds.items()},
            "ratio": statistics.median(ratios), "ratios": ratios,
            "memory": {name: process.peak_memory() for name, process in made.items()},
        }  # fmt: skip
    finally:
        for process in made.values():
            process.close()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="A step of 8 billion weights in Q4_0, beside llama.cpp's.")
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--layers", type=int, default=LAYERS, help=f"of a file that is written ({LAYERS})")
    parser.add_argument("--tokens", type=int, default=128, help="of the text (128)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"of turns ({ROUNDS})")
    options = parser.parse_args(arguments)
    if not options.file.exists():
        write(options.file, options.layers)
    print(json.dumps(compare(options.file, options.tokens, options.rounds)))


if __name__ == "__main__":
    if sys.argv[1].startswith("["):
        engine, file, count = json.loads(sys.argv[1])
        engines.serve(lambda: prepare(engine, file, count))
    else:
        main()
