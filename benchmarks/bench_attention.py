"""Attention alone, of one text of the article's model and of SEDD small, against PyTorch's."""

from __future__ import annotations

from collections.abc import Callable

import contest
import engines
import fastsedd_kernels as fk
import numpy as np
import pytest


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(1, 6, 256, 64), (1, 12, 1024, 64)], ids=str)
def bench_attention(shape: tuple[int, ...], dtype: str, record: Callable[..., None]) -> None:
    q, k, v = np.random.default_rng(0).standard_normal((3, *shape)).astype(np.float32)
    out = fk.aligned_empty(shape)
    made: dict[str, Callable[[], object]] = {contest.OURS: lambda: fk.attention(q, k, v, out=out, dtype=dtype)}
    if engines.installed("torch"):
        made["PyTorch SDPA"] = _sdpa(q, k, v, dtype)
    _, heads, length, dim = shape
    work = 4 * heads * length * length * dim
    record(made, contest.peak("float32"), work, kind="attention", shape=list(shape), dtype=dtype)


def _sdpa(q: np.ndarray, k: np.ndarray, v: np.ndarray, dtype: str) -> Callable[[], object]:
    import torch

    torch.set_num_threads(fk.get_num_threads())
    operands = [torch.from_numpy(each).to(getattr(torch, dtype)) for each in (q, k, v)]

    def run() -> object:
        with torch.no_grad():
            return torch.nn.functional.scaled_dot_product_attention(*operands)

    expected, result = fk.attention(q, k, v), np.asarray(run().float())
    assert np.abs(result - expected).max() <= (1e-4 if dtype == "float32" else 0.05)
    return run
