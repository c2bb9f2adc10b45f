"""Python in a process of its own, for tests of other CPUs, caches, forks and threading layers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

Variables = Mapping[str, str]

SECONDS = 300  # that any of them may take, on a busy machine that compiles everything first


def run_python(code: str, seconds: float = SECONDS, **environment: str) -> str:
    """Standard output of the code, which must end well; environment : variables to add or replace"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=seconds,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_together(runs: Sequence[tuple[str, Variables]]) -> list[str]:
    """`run_python` of several codes at once: what they mostly do is compile, on one core each."""
    with ThreadPoolExecutor(len(runs)) as pool:
        return list(pool.map(lambda each: run_python(each[0], **each[1]), runs))
