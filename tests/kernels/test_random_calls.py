"""Thousands of random calls (`random_calls`) on each instruction set, in processes of their own; none may be wrong."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fastsedd_kernels as fk
import pytest
from other_cpus import LESSER, Kernels

CALLS = Path(__file__).parent / "random_calls.py"
TARGETS = ("native", *LESSER) if platform.machine() in ("x86_64", "AMD64") else ("native",)


def make_calls(target: str, first: int, count: int, *options: str, **variables: str) -> None:
    chosen = {} if target == "native" else {"NUMBA_CPU_NAME": target, "NUMBA_CPU_FEATURES": ""}
    command = [sys.executable, str(CALLS), "--first", str(first), "--count", str(count), *options]
    made = subprocess.run(
        command, env={**os.environ, **chosen, **variables}, capture_output=True, text=True, check=False
    )
    died = f"died by signal {-made.returncode}: --trace tells which call\n" if made.returncode < 0 else ""
    assert made.returncode == 0, f"on {target}: {died}{made.stdout}{made.stderr[-2000:]}"
    assert f"{count} calls" in made.stderr and ", 0 wrong" in made.stderr


def test_a_thousand_calls(kernels_of_other_cpus: Kernels) -> None:
    """On all instruction sets at once: most of it is one thread's work."""

    def make(target: str) -> None:
        cache = {} if target == "native" else {"FASTSEDD_CACHE_DIR": kernels_of_other_cpus.cache(target)}
        avx2 = target == "haswell" or (target == "native" and fk.cpu_info().isa == "avx2")
        make_calls(target, 0, 1000 if avx2 else 500, "--no-njit", **cache)

    with ThreadPoolExecutor(len(TARGETS)) as pool:
        list(pool.map(make, TARGETS))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the variables are glibc's")
def test_memory_is_used_while_it_is_there() -> None:
    """Each allocation is a mapping of its own here, which ends when it is let go: later uses end the process.

    Numba lets an array go after the last use of its name, whatever pointers into it there are.
    """
    make_calls("native", 0, 100, "--no-njit", MALLOC_MMAP_THRESHOLD_="1", MALLOC_MMAP_MAX_="1000000")


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_a_hundred_thousand_calls(target: str) -> None:
    make_calls(target, 1000, 100_000 // len(TARGETS) + 1)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_no_index_is_out_of_bounds(target: str) -> None:
    """Kernels compiled with Numba's checks: of all that is indexed. Pointers have the guards of every call."""
    make_calls(target, 0, 3000, "--no-njit", NUMBA_BOUNDSCHECK="1")
