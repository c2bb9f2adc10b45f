"""The memory that a request takes: the weights as they are multiplied, and little besides."""

from __future__ import annotations

import subprocess
import sys

import pytest

import fastsedd

pytest.importorskip("resource", reason="the system does not tell of memory")

PROGRAM = """
import resource, sys
import fastsedd.engine
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
fastsedd.load(dtype=sys.argv[1]).generate(steps=3, seed=0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""

MOST_BESIDE_WEIGHTS = 64  # MiB: compiled kernels, scratch memory, a tensor on its way


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the unit is another")
@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("bfloat16", 2), ("int8", 1)])
def test_a_generation_of_the_shipped_model(dtype: str, size: int) -> None:
    """The peak of a process over what it has after importing; kernels are compiled by an earlier one."""
    command = [sys.executable, "-c", PROGRAM, dtype]
    subprocess.run(command, check=True, capture_output=True)
    peak = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) / 1024
    weights = size * fastsedd.load().parameters / (1 << 20)
    assert peak < weights + MOST_BESIDE_WEIGHTS
