"""One categorical draw per row by exponential races (Gumbel-max): argmax over j of p[j] / E[j], E exponential."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import types

from fastsedd_kernels.runtime.jit import jit
from fastsedd_kernels.runtime.kernel import kernel
from fastsedd_kernels.sampling.rng import philox

_ROWS_PER_TASK = 16


@jit
def _exact_race(p: Any, bits: Any) -> Any:
    """p over an exponential from 32 random bits; log1p keeps the small exponentials, which decide races, exact."""
    return p / -math.log1p(-(np.float64(bits) + 0.5) * 2.0**-32)


@jit
def _official_race(p: Any, bits: Any) -> Any:
    """The published code's arithmetic: float32 and 24 bits, whose truncation sharpens the distribution."""
    small = np.float32(1e-10)
    u = np.float32(np.uint32(bits) >> np.uint32(8)) * np.float32(2.0**-24)
    return np.float64(np.float32(p) / (small - np.float32(math.log(u + small))))


@jit
def _draw(row: Any, seed: Any, stream: Any, official: bool) -> int:
    """Index of the winner, or -1 where no weight is positive. Weights of zero cannot win and are not raced."""
    best, winner = 0.0, -1
    for block in range((row.size + 3) // 4):
        first = 4 * block
        last = min(first + 4, row.size)
        racing = False
        for j in range(first, last):
            racing = racing or row[j] > 0.0
        if racing:
            bits = philox(seed, stream, np.uint64(block))
            for j in range(first, last):
                if row[j] > 0.0:
                    race = _official_race(row[j], bits[j - first]) if official else _exact_race(row[j], bits[j - first])
                    if race > best:
                        best, winner = race, j
    return winner


@kernel(
    types.Array(types.float32, 2, "C", readonly=True), types.Array(types.uint64, 1, "C", readonly=True),
    types.Array(types.uint64, 1, "C", readonly=True), types.boolean, types.int32[::1],
)  # fmt: skip
def draw_rows(task: int, probabilities: Any, seeds: Any, streams: Any, official: bool, out: Any) -> None:
    """out[r] = a draw from probabilities[r], with the random numbers of stream streams[r].

    probabilities : float32 [M, V], contiguous; seeds : uint64 [1] or [M]; streams : uint64 [M]
    out : int32 [M], apart from all
    Races are float64 (official: float32). An index is -1 where no weight is positive.
    """
    for r in range(task * _ROWS_PER_TASK, min((task + 1) * _ROWS_PER_TASK, out.size)):
        out[r] = _draw(probabilities[r], seeds[min(r, seeds.size - 1)], streams[r], official)


def tasks_for(rows: int) -> int:
    """Tasks that `draw_rows` shares so many rows into."""
    return -(-rows // _ROWS_PER_TASK)
