"""A long life in one process: many generations, on several threads, of several models and dtypes."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import fastsedd

STATM = Path("/proc/self/statm")
DTYPES = ("float32", "bfloat16", "int8")
GENERATIONS, THREADS = 200, 4
GROWTH = 8 << 20  # bytes that allocators may keep, of the hundreds that a leak of one forward's memory would cost


def resident_bytes() -> int:
    gc.collect()
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.skipif(not STATM.is_file(), reason="there is no /proc to ask for the memory")
def test_soak(write_checkpoint, make_config, record_property: Callable[[str, object], None]) -> None:
    """Memory stays flat, and each text is the one that the same request gives alone."""
    folders = [
        None,
        *(write_checkpoint(make_config(*kind)) for kind in (("ddit", "uniform"), ("annotated", "uniform"))),
    ]
    models = [fastsedd.load(folder, dtype) for folder in folders for dtype in DTYPES]

    def generate(turn: int) -> list[list[int]]:
        model = models[turn % len(models)]
        few = model.config.length > 100
        result = model.generate(num_samples=1 + turn % 3, steps=3 if few else 9, seed=turn % 20, batch_size=2)
        return result.tokens.tolist()

    serial = [generate(turn) for turn in range(GENERATIONS)]
    with ThreadPoolExecutor(THREADS) as pool:
        assert list(pool.map(generate, range(GENERATIONS))) == serial  # by now every thread has what it keeps
        start = resident_bytes()
        for _ in range(3):
            assert list(pool.map(generate, range(GENERATIONS))) == serial
        end = resident_bytes()
    record_property("resident MiB at start and end", (start >> 20, end >> 20))
    print(f"resident: {start / 2**20:.1f} MiB at the start, {end / 2**20:.1f} MiB at the end")
    assert end - start <= GROWTH
