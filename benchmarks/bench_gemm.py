"""`linear` with packed weights on the layers of the models, and what its epilogues cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import contest
import fastsedd_kernels as fk
import numpy as np
import products
import pytest
import shapes
from peers import Peer


@pytest.mark.parametrize(("model", "shape"), shapes.LINEAR, ids=str)
def bench_linear(model: str, shape: shapes.Product, record: Callable[..., None], all_peers: list[Peer]) -> None:
    x, weight = products.operands(shape)
    made = products.contenders(x, weight, products.packed(x, weight), all_peers)
    record(made, contest.peak("float32"), shape.flops, kind="linear", model=model, shape=shape, dtype="float32")


EPILOGUES: dict[str, dict[str, Any]] = {
    "bias": {},
    "bias, GELU": {"activation": "gelu"},
    "bias, GELU (tanh)": {"activation": "gelu_tanh"},
    "bias, SiLU": {"activation": "silu"},
    "bias, gate, residual": {"gate": 0, "residual": 0},
}


@pytest.mark.parametrize("shape", shapes.EPILOGUES, ids=str)
@pytest.mark.parametrize("name", EPILOGUES)
def bench_epilogue(name: str, shape: shapes.Product, record: Callable[..., None]) -> None:
    """The bare product is the peer: its ratio is the share of the time that it takes."""
    x, weight = products.operands(shape)
    packed, out = fk.pack(weight), np.empty((shape.m, shape.n), np.float32)
    parts = {"bias": np.ones(shape.n, np.float32), **EPILOGUES[name]}
    if "gate" in parts:
        parts |= {"gate": np.ones(shape.n, np.float32), "residual": np.ones_like(out)}
    made = {
        contest.OURS: lambda: fk.linear(x, packed, out=out, **parts),
        "bare": lambda: fk.linear(x, packed, out=out),
    }
    record(made, contest.peak("float32"), shape.flops, kind="epilogue", name=name, shape=shape, dtype="float32")
