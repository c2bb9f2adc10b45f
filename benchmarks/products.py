"""A matrix product as a contest: operands made, every contender's result checked against float64, work counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import contest
import fastsedd_kernels as fk
import numpy as np
from fastsedd_kernels.gemm import reference
from peers import Peer, Run
from shapes import Product

# The triple loop takes seconds beyond this many operations, and tells nothing more.
_MAX_NAIVE = 2**28
_CHECKED_ROWS = 64


def operands(shape: Product, dtype: str = "float32") -> tuple[np.ndarray, np.ndarray]:
    """x [m, k] and weight [n, k]."""
    random = np.random.default_rng(0)
    x, weight = random.standard_normal((shape.m, shape.k)), random.standard_normal((shape.n, shape.k))
    return x.astype(dtype), weight.astype(dtype)


def contenders(
    x: np.ndarray, weight: np.ndarray, ours: Callable[[np.ndarray], Run], peers: list[Peer]
) -> dict[str, Run]:
    """The project's own run and those of every peer that can take part, by name, checked to be right.

    All write to memory that begins on a cache line's edge, as `fk.linear` and `fk.matmul` themselves allocate it.
    """
    shape = (x.shape[0], weight.shape[0])
    made: dict[str, Run] = {}
    for name, prepare in [(contest.OURS, ours), *((peer.name, _bound(peer, x, weight)) for peer in peers)]:
        if name == "triple loop" and 2 * x.shape[0] * weight.size > _MAX_NAIVE:
            continue
        out = fk.aligned_empty(shape, x.dtype)
        out.fill(np.nan)
        run = prepare(out)
        run()
        assert_right(name, out, x, weight)
        made[name] = run
    return made


def _bound(peer: Peer, x: np.ndarray, weight: np.ndarray) -> Callable[[np.ndarray], Run]:
    assert peer.prepare is not None
    prepare = peer.prepare
    return lambda out: prepare(x, weight, out)


def assert_right(name: str, out: np.ndarray, x: np.ndarray, weight: np.ndarray) -> None:
    """The first rows and the last: an error anywhere in a tile shows there, and float64 takes long."""
    rows = np.unique(np.r_[:_CHECKED_ROWS, -_CHECKED_ROWS:0] % len(x))
    error = np.linalg.norm(out[rows] - reference.linear(x[rows], weight))
    bound = reference.error_bound(x[rows], weight, float(np.finfo(x.dtype).eps))
    assert error <= bound, f"{name} is wrong: {error:.1e} where {bound:.1e} is allowed"
    assert not np.isnan(out).any(), f"{name} left elements unwritten"


def packed(x: np.ndarray, weight: np.ndarray, **parts: Any) -> Callable[[np.ndarray], Run]:
    """`linear` with its weight packed beforehand."""
    prepared = fk.pack(weight)
    return lambda out: lambda: fk.linear(x, prepared, out=out, **parts)


def unpacked(x: np.ndarray, weight: np.ndarray) -> Callable[[np.ndarray], Run]:
    """`matmul` of operands as they lie."""
    return lambda out: lambda: fk.matmul(x, weight.T, out=out)
