"""`fastsedd serve` as a process, for tests."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple


class Serving(NamedTuple):
    """A server that listens. address : http://127.0.0.1:PORT; said : its lines up to the one with the address"""

    process: subprocess.Popen[str]
    address: str
    said: list[str]


@contextmanager
def serving(*options: str) -> Iterator[Serving]:
    """Serve on a free port while the block runs."""
    command = [sys.executable, "-m", "fastsedd", "serve", "--port", "0", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            lines: list[str] = []
            while not lines or "http://" not in lines[-1]:
                lines.append(process.stderr.readline())
                assert lines[-1], lines
            address = re.search(r"http://127\.0\.0\.1:\d+", lines[-1])
            assert address is not None, lines
            yield Serving(process, address[0], lines)
        finally:
            process.kill()
