"""What stands between a transformer's products: RMS norm, rotary positions, SwiGLU; against PyTorch, and the limit.

The limit of the first two is the rate at which the same threads copy as many bytes, of the last that of multiply-adds.
A call from Python costs as much as a small norm: what kernels reach is seen in a recording, whose steps are one region
of threads, beside copies that are steps of one, too.
"""

from __future__ import annotations

from collections.abc import Callable

import contest
import engines
import fastsedd_kernels as fk
import numpy as np
import pytest
from fastsedd_kernels import roofline

SHAPES = [(32, 1024), (1024, 1024)]
DIM, FEATURES = 128, 3072
STEPS = 32  # of a recording

Run = Callable[[], object]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ["rms_norm", "rms_norm + residual", "rotary", "rms_norm + rotary", "SwiGLU"])
def bench_rows(name: str, shape: tuple[int, int], record: Callable[..., None]) -> None:
    x, residual = _random(shape), _random(shape)
    made, passes = _contenders(name, x, residual)
    if name == "SwiGLU":
        limit, work = contest.peak("float32"), 4 * x.size * FEATURES
    else:
        limit, work = (lambda: fk.copy_bandwidth(x.nbytes, contest.TURN)), passes * x.nbytes
    record(made, limit, work, kind="rows", name=name, shape=list(shape), dtype="float32")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ["rms_norm", "rms_norm + residual", "rotary", "rms_norm + rotary"])
def bench_rows_replayed(name: str, shape: tuple[int, int], record: Callable[..., None]) -> None:
    x, residual = _random(shape), _random(shape)
    made, passes = _contenders(name, x, residual)
    angles = shape[0] * DIM * 4 if "rotary" in name else 0  # bytes of the table
    work = STEPS * (passes * x.nbytes + angles)
    replay = {contest.OURS: _replayed(made[contest.OURS])}
    record(replay, _copies(x.nbytes), work, kind="rows replayed", name=name, shape=list(shape), dtype="float32")


def _random(shape: tuple[int, int]) -> np.ndarray:
    """Normal numbers from a cache line's edge on, as kernels leave them for each other."""
    array = fk.aligned_empty(shape)
    array[...] = np.random.default_rng(0).standard_normal(shape)
    return array


def _replayed(call: Run) -> Run:
    """STEPS calls in a recording, which replays them."""

    def repeated() -> None:
        for _ in range(STEPS):
            call()

    return fk.record(repeated).replay


def _copies(nbytes: int) -> Callable[[], float]:
    """Measures bytes a second, read and written, of STEPS copies in a recording; nbytes : of each array"""
    threads = fk.get_num_threads()
    source, target = (fk.aligned_empty((threads, nbytes // 4 // threads)) for _ in range(2))
    source.fill(1.0)
    copy = _replayed(lambda: roofline.copy(threads, source, target))
    return lambda: STEPS * 2 * nbytes / contest.turn(copy)


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
