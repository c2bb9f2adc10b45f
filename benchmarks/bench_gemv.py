"""Few rows: the matrix is read once, and the limit is the memory's."""

from __future__ import annotations

from collections.abc import Callable

import contest
import numpy as np
import products
import pytest
import shapes
from peers import Peer


@pytest.mark.parametrize("form", ["packed", "rows", "transposed"])
@pytest.mark.parametrize("shape", shapes.GEMV, ids=str)
def bench_gemv(shape: shapes.Product, form: str, record: Callable[..., None], all_peers: list[Peer]) -> None:
    x, weight = products.operands(shape)
    if form == "rows":
        weight = np.asfortranarray(weight)
    ours = products.packed(x, weight) if form == "packed" else products.unpacked(x, weight)
    made = products.contenders(x, weight, ours, [peer for peer in all_peers if peer.name != "triple loop"])
    record(made, contest.bandwidth(weight.nbytes), weight.nbytes, kind="gemv", shape=shape, dtype="float32", form=form)
