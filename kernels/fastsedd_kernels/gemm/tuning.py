"""The limits of a product's blocks, measured on this machine instead of taken as a rule."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastsedd_kernels.gemm.api import linear
from fastsedd_kernels.gemm.packed_weight import pack
from fastsedd_kernels.gemm.tuned_blocks import DEFAULT, Limits, store, use
from fastsedd_kernels.runtime.arrays import aligned_empty

DEPTHS = (256, 384, 512, 768, 1024, 2048)
TILES = (8, 16, 24, 32, 48, 64, 96)

# M, K, N of linear layers, whose operands together are many times the size of a second-level cache.
_SHAPES = ((1024, 768, 3072), (1024, 3072, 768), (1024, 1024, 4096), (1024, 4096, 1024))
_MIN_GAIN = 1.01  # below it the rule stands: a smaller gain is as likely luck
_ROUNDS = 7


@dataclass(frozen=True)
class Tuned:
    """limits : the best found; gain : speed with them over speed with the default; file : where they are kept."""

    limits: Limits
    gain: float
    file: Path


def tune(progress: Callable[[int, int], None] = lambda done, total: None) -> Tuned:
    """Measure the blocking of this CPU's products, about a minute, and keep what is better than the default.

    First the depth of a slab is chosen, then the height of a block; each candidate takes turns with the default. Speed
    is all that changes. progress : called as progress(done, total) after each candidate
    Raises OSError where the result cannot be kept.
    """
    calls = [_linear_call(*shape) for shape in _SHAPES]
    best, gain = DEFAULT, 1.0
    candidates = [Limits(depth=depth) for depth in DEPTHS if depth != DEFAULT.depth]
    total = len(candidates) + len(TILES) - 1
    for done in range(total):
        if done == len(DEPTHS) - 1:
            candidates += [Limits(tiles, best.depth) for tiles in TILES if tiles != DEFAULT.tiles]
        measured = _speed_over_default(candidates[done], calls)
        if measured > max(gain, _MIN_GAIN):
            best, gain = candidates[done], measured
        progress(done + 1, total)
    return Tuned(best, gain, store(best))


def _linear_call(rows: int, inputs: int, outputs: int) -> Callable[[], object]:
    random = np.random.default_rng(0)
    x = random.standard_normal((rows, inputs), dtype=np.float32)
    weight = pack(random.standard_normal((outputs, inputs), dtype=np.float32))
    out = aligned_empty((rows, outputs))
    return lambda: linear(x, weight, out=out)


def _speed_over_default(candidate: Limits, calls: list[Callable[[], object]]) -> float:
    """Geometric mean over the calls of the median ratio of their times, taken in turns."""
    ratios = []
    for call in calls:
        rounds = []
        for turn in range(_ROUNDS):
            order = (DEFAULT, candidate) if turn % 2 else (candidate, DEFAULT)
            seconds = {limits: _seconds(call, limits) for limits in order}
            rounds.append(seconds[DEFAULT] / seconds[candidate])
        ratios.append(statistics.median(rounds))
    return math.exp(statistics.fmean(map(math.log, ratios)))


def _seconds(call: Callable[[], object], limits: Limits) -> float:
    with use(limits):
        call()
        start = time.perf_counter()
        for _ in range(3):
            call()
        return time.perf_counter() - start
