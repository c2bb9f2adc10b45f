"""Thousands of random calls (`random_calls`) on each instruction set, in processes of their own; none may be wrong."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from other_cpus import Kernels

CALLS = Path(__file__).parent / "random_calls.py"
TARGETS = ("native", "haswell", "generic") if platform.machine() in ("x86_64", "AMD64") else ("native",)


def make_calls(target: str, first: int, count: int, *options: str, **variables: str) -> None:
    chosen = {} if target == "native" else {"NUMBA_CPU_NAME": target, "NUMBA_CPU_FEATURES": ""}
    command = [sys.executable, str(CALLS), "--first", str(first), "--count", str(count), *options]
    made = subprocess.run(
        command, env={**os.environ, **chosen, **variables}, capture_output=True, text=True, check=False
    )
    died = f"died by signal {-made.returncode}: --trace tells which call\n" if made.returncode < 0 else ""
    assert made.returncode == 0, f"on {target}: {died}{made.stdout}{made.stderr[-2000:]}"
    assert f"{count} calls" in made.stderr and ", 0 wrong" in made.stderr


@pytest.mark.parametrize(("target", "count"), [("native", 500), ("haswell", 1000), ("generic", 500)])
def test_two_thousand_calls(target: str, count: int, kernels_of_other_cpus: Kernels) -> None:
    if target not in TARGETS:
        pytest.skip("names of x86-64 CPUs")
    cache = {} if target == "native" else {"FASTSEDD_CACHE_DIR": kernels_of_other_cpus.cache(target)}
    make_calls(target, 0, count, "--no-njit", **cache)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_a_hundred_thousand_calls(target: str) -> None:
    make_calls(target, 1000, 100_000 // len(TARGETS) + 1)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_no_index_is_out_of_bounds(target: str) -> None:
    """Kernels compiled with Numba's checks: of all that is indexed. Pointers have the guards of every call."""
    make_calls(target, 0, 3000, "--no-njit", NUMBA_BOUNDSCHECK="1")
