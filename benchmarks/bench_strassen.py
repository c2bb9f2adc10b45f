"""Strassen's product on operands as they lie, and of a packed layer; and what it costs in accuracy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import contest
import fastsedd_kernels as fk
import numpy as np
import products
import pytest
import shapes
from fastsedd_kernels.gemm import reference
from peers import Peer

LEVELS = {"classical": 0, "one level": 1, "two levels": 2}


def _unpacked(x: np.ndarray, weight: np.ndarray, levels: int | None) -> Callable[[np.ndarray], Callable[[], Any]]:
    return lambda out: lambda: fk.strassen_matmul(x, weight.T, levels, out)


def _packed(x: np.ndarray, weight: np.ndarray, levels: int) -> Callable[[np.ndarray], Callable[[], Any]]:
    packed = fk.pack(weight, strassen=levels)
    return lambda out: lambda: fk.linear(x, packed, out=out)


@pytest.mark.parametrize("shape", shapes.STRASSEN, ids=str)
def bench_strassen(shape: shapes.Product, record: Callable[..., None], all_peers: list[Peer]) -> None:
    """The level that is chosen by itself, against each level and OpenBLAS."""
    x, weight = products.operands(shape)
    weight = np.asfortranarray(weight)  # B = weight.T then has adjacent elements in a row
    levels = [Peer(name, lambda x, weight, out, n=n: _unpacked(x, weight, n)(out)) for name, n in LEVELS.items()]
    others = [peer for peer in all_peers if peer.name == "OpenBLAS"]
    made = products.contenders(x, weight, _unpacked(x, weight, None), levels + others)
    record(made, contest.peak("float32"), shape.flops, kind="strassen", shape=shape, dtype="float32")


@pytest.mark.parametrize("shape", shapes.STRASSEN_LAYERS, ids=str)
def bench_strassen_layer(shape: shapes.Product, record: Callable[..., None]) -> None:
    """A layer's constant weight, packed once with the sums of its blocks. Ours is one level, its peers the others."""
    x, weight = products.operands(shape)
    peers = [Peer(name, lambda x, weight, out, n=n: _packed(x, weight, n)(out)) for name, n in LEVELS.items() if n != 1]
    made = products.contenders(x, weight, _packed(x, weight, 1), peers)
    record(made, contest.peak("float32"), shape.flops, kind="strassen layer", shape=shape, dtype="float32")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [256, 1024, 4096])
def bench_strassen_error(n: int, dtype: str, benchmark: Any) -> None:
    """Each level's largest error on some rows, in eps |A| |B|, |.| the largest element; the bound likewise."""
    x, weight = products.operands(shapes.Product(n, n, n), dtype)
    rows = np.linspace(0, n - 1, 64).astype(int)
    real = np.longdouble if dtype == "float64" else np.float64
    exact = x[rows].astype(real) @ weight.T.astype(real)
    unit = float(np.finfo(dtype).eps) * float(np.abs(x).max()) * float(np.abs(weight).max())
    errors, bounds = {}, {}
    for name, levels in LEVELS.items():
        result = fk.strassen_matmul(x, weight.T, levels)
        errors[name] = float(np.abs(result[rows] - exact).max()) / unit
        bounds[name] = reference.strassen_bound(x, weight.T, levels, float(np.finfo(dtype).eps)) / unit
        assert errors[name] <= bounds[name]
    benchmark.extra_info.update(kind="strassen error", n=n, dtype=dtype, errors=errors, bounds=bounds)
    benchmark.pedantic(fk.strassen_matmul, (x, weight.T), rounds=1)
