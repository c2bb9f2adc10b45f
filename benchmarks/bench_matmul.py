"""`matmul` of operands as they lie: packing is part of the time."""

from __future__ import annotations

from collections.abc import Callable

import contest
import numpy as np
import products
import pytest
import shapes
from peers import Peer


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("transposed", [False, True], ids=["rows", "transposed"])
@pytest.mark.parametrize("shape", shapes.SQUARES, ids=str)
def bench_matmul(
    shape: shapes.Product, transposed: bool, dtype: str, record: Callable[..., None], all_peers: list[Peer]
) -> None:
    if dtype == "float64" and shape.m > 2048:
        pytest.skip("a float64 reference of that size takes minutes")
    x, weight = products.operands(shape, dtype)
    if not transposed:
        weight = np.asfortranarray(weight)  # B = weight.T then has adjacent elements in a row
    made = products.contenders(x, weight, products.unpacked(x, weight), all_peers)
    record(
        made, contest.peak(dtype), shape.flops, kind="matmul", shape=shape, dtype=dtype, transposed=transposed
    )  # fmt: skip
