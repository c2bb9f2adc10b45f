"""The cost of taking turns with NumPy: python benchmarks/alternating.py

Both libraries keep threads awake for a while after a call, and neither knows of the other's. For each size, the mean
seconds of `fk.matmul` and `numpy.matmul` alone, of the two in turns, and the ratio: median of the rounds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import fastsedd_kernels as fk
import numpy as np

SIZES = (128, 256, 512, 768, 1024, 1536)
ROUNDS = 21
TURN = 0.3  # seconds of calls
PAUSE = 0.06  # seconds, until all threads sleep


def seconds(call: Callable[[], object]) -> float:
    """Mean of a call: what is lost now and then counts."""
    time.sleep(PAUSE)
    call()
    start = time.perf_counter()
    calls = 0
    while time.perf_counter() - start < TURN:
        call()
        calls += 1
    return (time.perf_counter() - start) / calls


def measure(size: int) -> tuple[float, float, float, float]:
    """Medians of (ours alone, NumPy's alone, the two in turns, the last over the sum of the others)."""
    a, b = np.random.default_rng(0).standard_normal((2, size, size), dtype=np.float32)
    ours, theirs = np.empty_like(a), np.empty_like(a)

    def both() -> None:
        fk.matmul(a, b, out=ours)
        np.matmul(a, b, out=theirs)

    rounds = []
    for _ in range(ROUNDS):
        alone = seconds(lambda: fk.matmul(a, b, out=ours)), seconds(lambda: np.matmul(a, b, out=theirs))
        turns = seconds(both)
        rounds.append((*alone, turns, turns / sum(alone)))
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * size)
    return tuple(statistics.median(column) for column in zip(*rounds, strict=True))  # type: ignore[return-value]


def main() -> None:
    print(f"layer {fk.threading_layer()}, {fk.get_num_threads()} threads")
    print("  size    ours   NumPy  in turns (µs)  ratio")
    for size in SIZES:
        mine, theirs, turns, ratio = measure(size)
        print(f"{size:6} {mine * 1e6:7.0f} {theirs * 1e6:7.0f} {turns * 1e6:9.0f} {ratio:12.2f}", flush=True)


if __name__ == "__main__":
    main()
