"""Attention alone, of one text of the article's model, of SEDD small and of Qwen3-0.6B, against PyTorch's."""

from __future__ import annotations

from collections.abc import Callable

import contest
import engines
import fastsedd_kernels as fk
import numpy as np
import pytest

# heads, heads of keys, queries, keys, dim, and options of ours
CASES: dict[str, tuple[int, int, int, int, int, dict[str, int]]] = {
    "annotated, 256": (6, 6, 256, 256, 64, {}),
    "SEDD small, 1,024": (12, 12, 1024, 1024, 64, {}),
    "16/8 heads of 128, 32 queries, 1,024 keys": (16, 8, 32, 1024, 128, {}),
    "16/8 heads of 128, 512": (16, 8, 512, 512, 128, {}),
    "16/8 heads of 128, 1,024": (16, 8, 1024, 1024, 128, {}),
    "16/8 heads of 128, 1,024, in blocks of 32": (16, 8, 1024, 1024, 128, {"block": 32}),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", CASES)
def bench_attention(name: str, dtype: str, record: Callable[..., None]) -> None:
    heads, groups, length, keys, dim, options = CASES[name]
    rng = np.random.default_rng(0)
    q = rng.standard_normal((1, heads, length, dim), dtype=np.float32)
    k, v = rng.standard_normal((2, 1, groups, keys, dim), dtype=np.float32)
    mask = _seen(length, keys, options)
    out = fk.aligned_empty(q.shape)
    if length < keys:
        cache = fk.KVCache(1, groups, dim, keys, dtype)
        cache.append(k, v)
        made: dict[str, Callable[[], object]] = {contest.OURS: lambda: cache.attend(q, out=out)}
    else:
        made = {contest.OURS: lambda: fk.attention(q, k, v, out=out, dtype=dtype, **options)}
    made[contest.OURS]()
    if engines.installed("torch"):
        shared = {"PyTorch SDPA": False, "PyTorch SDPA, keys repeated": True}
        made |= {name: _sdpa((q, k, v), mask, dtype, out, repeat) for name, repeat in shared.items()}
        if heads == groups:
            del made["PyTorch SDPA, keys repeated"]
    work = 4 * heads * dim * (length * keys if mask is None else int(mask.sum()))
    shape = [1, heads, length, dim]
    record(made, contest.peak("float32"), work, kind="attention", shape=shape, dtype=dtype, name=name)


def _seen(length: int, keys: int, options: dict[str, int]) -> np.ndarray | None:
    """The mask that says the same as the options, as PyTorch has to be told it."""
    if not options:
        return None
    block = options["block"]
    return np.arange(keys)[None] // block <= np.arange(length)[:, None] // block


def _sdpa(
    operands: tuple[np.ndarray, ...], mask: np.ndarray | None, dtype: str, expected: np.ndarray, repeat: bool
) -> Callable[[], object]:  # fmt: skip
    """PyTorch's, held to ours; repeat : keys and values for each head of queries, as models do."""
    import torch

    torch.set_num_threads(fk.get_num_threads())
    q, k, v = (torch.from_numpy(each).to(getattr(torch, dtype)) for each in operands)
    shown = None if mask is None else torch.from_numpy(mask)
    if repeat:
        k, v = (each.repeat_interleave(q.shape[1] // each.shape[1], 1) for each in (k, v))

    def run() -> object:
        with torch.no_grad():
            return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=shown, enable_gqa=not repeat)

    result = np.asarray(run().float())
    assert np.abs(result - expected).max() <= (1e-4 if dtype == "float32" else 0.05)
    return run
