"""What stands between a transformer's products: RMS norm, rotary positions, SwiGLU; against PyTorch, and the limit.

The limit of the first two is the rate at which the same threads copy as many bytes, of the last that of multiply-adds.
"""

from __future__ import annotations

from collections.abc import Callable

import contest
import engines
import fastsedd_kernels as fk
import numpy as np
import pytest

SHAPES = [(32, 1024), (1024, 1024)]
DIM, FEATURES = 128, 3072

Run = Callable[[], object]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ["rms_norm", "rms_norm + residual", "rotary", "rms_norm + rotary", "SwiGLU"])
def bench_rows(name: str, shape: tuple[int, int], record: Callable[..., None]) -> None:
    x, residual = np.random.default_rng(0).standard_normal((2, *shape)).astype(np.float32)
    made, passes = _contenders(name, x, residual)
    if name == "SwiGLU":
        limit, work = contest.peak("float32"), 4 * x.size * FEATURES
    else:
        limit, work = (lambda: fk.copy_bandwidth(x.nbytes, contest.TURN)), passes * x.nbytes
    record(made, limit, work, kind="rows", name=name, shape=list(shape), dtype="float32")


def _contenders(name: str, x: np.ndarray, residual: np.ndarray) -> tuple[dict[str, Run], int]:
    """Ours and PyTorch's, held to each other; and how often x's bytes are read or written."""
    length, width = x.shape
    weight, out, sums = np.ones(width, np.float32), fk.aligned_empty(x.shape), fk.aligned_empty(x.shape)
    heads, turned = (each.reshape(length, width // DIM, DIM).transpose(1, 0, 2) for each in (x, out))
    table = fk.rotary_table(length, DIM)
    if name == "SwiGLU":
        pair = np.random.default_rng(1).standard_normal((2, FEATURES, width)).astype(np.float32) / np.float32(32)
        packed, out = fk.pack([pair[0], pair[1]]), fk.padded_empty((length, FEATURES))
        made: dict[str, Run] = {contest.OURS: lambda: fk.linear(x, packed, activation="silu", out=out)}
    else:
        pair = np.empty((2, 0, width), np.float32)
        made = {
            contest.OURS: {
                "rms_norm": lambda: fk.rms_norm(x, weight, out=out),
                "rms_norm + residual": lambda: fk.rms_norm(x, weight, residual=residual, out=out, residual_out=sums),
                "rotary": lambda: fk.rotary(heads, table=table, out=turned),
                "rms_norm + rotary": lambda: fk.rotary(heads, table=table, norm=weight[:DIM], out=turned),
            }[name]
        }
    made[contest.OURS]()
    if engines.installed("torch"):
        made["PyTorch"] = _torch(name, x, residual, pair, table)
        np.testing.assert_allclose(out, np.asarray(made["PyTorch"]()).reshape(out.shape), atol=1e-4)
    return made, 4 if "residual" in name else 2


def _torch(name: str, x: np.ndarray, residual: np.ndarray, pair: np.ndarray, table: fk.RotaryTable) -> Run:
    import torch
    from torch.nn import functional

    torch.set_num_threads(fk.get_num_threads())
    rows, other, both = (torch.from_numpy(each) for each in (x, residual, pair))
    heads = rows.view(len(x), -1, DIM)
    cosines, sines = (torch.from_numpy(np.concatenate((each, each), -1))[:, None] for each in table)

    def turn(heads: torch.Tensor) -> torch.Tensor:
        first, second = heads.chunk(2, -1)
        return heads * cosines + torch.cat((-second, first), -1) * sines

    def norm(of: torch.Tensor) -> torch.Tensor:
        return functional.rms_norm(of, of.shape[-1:], torch.ones(of.shape[-1]), 1e-6)

    calls: dict[str, Run] = {
        "rms_norm": lambda: norm(rows),
        "rms_norm + residual": lambda: norm(rows + other),
        "rotary": lambda: turn(heads),
        "rms_norm + rotary": lambda: turn(norm(heads)),
        "SwiGLU": lambda: functional.silu(functional.linear(rows, both[0])) * functional.linear(rows, both[1]),
    }

    def run() -> object:
        with torch.no_grad():
            return calls[name]()

    return run
