"""A worker on its caller's core moves, once, and is not pinned by it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import fastsedd_kernels as fk
import numpy as np
import pytest
from fastsedd_kernels._placement import caller_of_region, leave_callers_core

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="placement is left to the scheduler elsewhere"),
    pytest.mark.skipif(fk.cpu_info().cores < 2, reason="there is one core"),
]


def test_a_worker_leaves_its_callers_core() -> None:
    before = os.sched_getaffinity(0)
    moved = 0
    for _ in range(20):
        thread, core = caller_of_region()
        leave_callers_core((thread ^ 1, core))  # as if the caller were another thread
        moved += caller_of_region()[1] != core
        assert os.sched_getaffinity(0) == before
    assert moved > 0


def test_the_caller_stays() -> None:
    thread, core = caller_of_region()
    leave_callers_core((thread, core))
    leave_callers_core((thread ^ 1, -1))
    assert caller_of_region()[0] == thread


def test_no_thread_is_pinned() -> None:
    for _ in range(50):
        fk.matmul(np.ones((200, 200), np.float32), np.ones((200, 200), np.float32))
    allowed = {
        line
        for status in Path("/proc/self/task").glob("*/status")
        for line in status.read_text().splitlines()
        if line.startswith("Cpus_allowed:")
    }
    assert len(allowed) == 1
