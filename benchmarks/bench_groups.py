"""`linear` with weights in groups of 32 inputs, of 4 and 8 bits, beside its float32 and int8, and llama.cpp's Q4_0 and
Q8_0 of the same matrix where `llama-cpp-python` is installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import contest
import fastsedd_kernels as fk
import ggml_products
import numpy as np
import products
import pytest
import shapes

_PEERS = ("float32", "int8")  # ours, too
_THEIRS = {"int4": "Q4_0", "int8g": "Q8_0"}  # llama.cpp's


@pytest.mark.parametrize("dtype", ["int4", "int8g"])
@pytest.mark.parametrize("shape", shapes.GROUPS, ids=str)
def bench_groups(shape: shapes.Product, dtype: str, record: Callable[..., None]) -> None:
    """One row is held to the memory's speed, or that of the cache which the weight fits; more to float32's peak."""
    x, weight = products.operands(shape)
    packed = fk.pack(weight, dtype)
    made: dict[str, Any] = {contest.OURS: _checked(x, packed)}
    made |= {peer: _checked(x, fk.pack(weight, peer)) for peer in _PEERS}
    if not ggml_products.absent():
        made["llama.cpp"] = _llama_cpp(x, weight, _THEIRS[dtype])
    streams = shape.m == 1
    work = packed.nbytes if streams else shape.flops
    limit = contest.bandwidth(packed.nbytes) if streams else contest.peak("float32")
    record(made, limit, work, kind="groups", shape=shape, dtype=dtype)


@pytest.mark.parametrize("dtype", ["int4", "int8g"])
def bench_groups_from_memory(dtype: str, record: Callable[..., None]) -> None:
    """One row times one weight after the other: no cache holds all, and memory is the limit.

    Ours replay a recording, as a model's layers do; and once more call by call, as llama.cpp's.
    """
    shape = shapes.GROUPS[0]
    x, weight = products.operands(shape)
    nbytes = shapes.LAYERS_IN_MEMORY * fk.pack(weight, dtype).nbytes
    calls = {
        kind: _each([_checked(x, fk.pack(weight, kind)) for _ in range(shapes.LAYERS_IN_MEMORY)])
        for kind in (dtype, *_PEERS)
    }
    replays = {kind: fk.record(call).replay for kind, call in calls.items()}
    made = {contest.OURS: replays.pop(dtype), "call by call": calls[dtype], **replays}
    if not ggml_products.absent():
        made["llama.cpp"] = _each([_llama_cpp(x, weight, _THEIRS[dtype]) for _ in range(shapes.LAYERS_IN_MEMORY)])
    layers = {"layers": shapes.LAYERS_IN_MEMORY}
    record(made, contest.bandwidth(nbytes), nbytes, kind="groups", shape=shape, dtype=dtype, **layers)


def _each(calls: list[Callable[[], object]]) -> Callable[[], object]:
    def run() -> None:
        for call in calls:
            call()

    return run


def _checked(x: np.ndarray, packed: fk.PackedWeight) -> Callable[[], object]:
    """The product with a packed weight, right beside float64's with the weight as it was rounded."""
    out = fk.aligned_empty((len(x), packed.shape[0]))
    out.fill(np.nan)
    fk.linear(x, packed, out=out)
    _assert_right(out, x, fk.unpack(packed))
    return lambda: fk.linear(x, packed, out=out)


def _llama_cpp(x: np.ndarray, weight: np.ndarray, kind: str) -> Callable[[], object]:
    import gguf

    number = gguf.GGMLQuantizationType[kind]
    blocks = gguf.quants.quantize(weight, number)
    out = np.full((len(x), len(weight)), np.nan, np.float32)
    run = ggml_products.product(x, blocks, kind, out, fk.get_num_threads())
    _assert_right(out, x, gguf.quants.dequantize(blocks, number))
    return run


def _assert_right(out: np.ndarray, x: np.ndarray, weight: np.ndarray) -> None:
    expected = x.astype(np.float64) @ weight.astype(np.float64).T
    error = np.linalg.norm(out - expected) / np.linalg.norm(expected)
    assert error <= 0.02, f"the product is wrong: {error:.1e}"  # x is rounded to bytes
