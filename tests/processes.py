"""Python in a process of its own, for tests of other CPUs, caches, forks and threading layers."""

from __future__ import annotations

import os
import subprocess
import sys

SECONDS = 300  # that any of them may take, on a busy machine that compiles everything first


def run_python(code: str, **environment: str) -> str:
    """Standard output of the code, which must end well; environment : variables to add or replace"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
