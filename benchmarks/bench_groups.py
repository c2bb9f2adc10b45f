"""`linear` with weights in groups of 32 inputs, of 4 and 8 bits, beside its float32 and int8."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import contest
import fastsedd_kernels as fk
import numpy as np
import products
import pytest
import shapes

_PEERS = ("float32", "int8")  # ours, too


@pytest.mark.parametrize("dtype", ["int4", "int8g"])
@pytest.mark.parametrize("shape", shapes.GROUPS, ids=str)
def bench_groups(shape: shapes.Product, dtype: str, record: Callable[..., None]) -> None:
    """One row is held to the memory's speed, or that of the cache which the weight fits; more to float32's peak."""
    x, weight = products.operands(shape)
    packed = fk.pack(weight, dtype)
    made: dict[str, Any] = {contest.OURS: _checked(x, packed)}
    made |= {peer: _checked(x, fk.pack(weight, peer)) for peer in _PEERS}
    streams = shape.m == 1
    work = packed.nbytes if streams else shape.flops
    limit = contest.bandwidth(packed.nbytes) if streams else contest.peak("float32")
    record(made, limit, work, kind="groups", shape=shape, dtype=dtype)


def _checked(x: np.ndarray, packed: fk.PackedWeight) -> Callable[[], object]:
    """The product with a packed weight, right beside float64's with the weight as it was rounded."""
    out = fk.aligned_empty((len(x), packed.shape[0]))
    out.fill(np.nan)
    fk.linear(x, packed, out=out)
    expected = x.astype(np.float64) @ fk.unpack(packed).astype(np.float64).T
    error = np.linalg.norm(out - expected) / np.linalg.norm(expected)
    assert error <= 0.02, f"the product is wrong: {error:.1e}"  # x is rounded to bytes
    return lambda: fk.linear(x, packed, out=out)
