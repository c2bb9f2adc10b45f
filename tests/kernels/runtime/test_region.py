"""The threads of a region: each task once, a worker moves off its caller's core, and nobody is pinned by it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import fastsedd_kernels as fk
import numba
import numpy as np
import pytest
from fastsedd_kernels.runtime import region as _region
from fastsedd_kernels.runtime.region import COUNTERS


@numba.njit
def is_mine(place, counters):
    return _region.is_mine(place, counters)


@numba.njit
def caller_of_region():
    return _region.caller_of_region()


@numba.njit
def meet(caller, threads, counters):
    _region.meet(caller, threads, counters)


@numba.njit
def part(caller, counters):
    _region.part(caller, counters)


def counters(tasks: int = 0) -> np.ndarray:
    return np.zeros(COUNTERS + tasks, np.intp)


def test_a_task_is_taken_once() -> None:
    region = counters(3)
    assert [is_mine(COUNTERS + task, region) for task in (2, 0, 2, 1, 0)] == [True, True, False, True, False]


@pytest.mark.skipif(sys.platform != "linux", reason="placement is left to the scheduler elsewhere")
@pytest.mark.skipif(fk.cpu_info().cores < 2, reason="there is one core")
def test_a_worker_leaves_its_callers_core() -> None:
    before = os.sched_getaffinity(0)
    moved = 0
    for _ in range(20):
        thread, core = caller_of_region()
        meet((thread ^ 1, core), 2, counters())  # as if the caller were another thread
        moved += caller_of_region()[1] != core
        assert os.sched_getaffinity(0) == before
    assert moved > 0


def test_a_caller_whose_workers_never_come_goes_on() -> None:
    region = counters()
    meet(caller_of_region(), 8, region)
    part(caller_of_region(), region)


def test_no_thread_is_pinned() -> None:
    if not Path("/proc/self/task").is_dir():
        pytest.skip("there is no /proc to look at")
    for _ in range(50):
        fk.matmul(np.ones((200, 200), np.float32), np.ones((200, 200), np.float32))
    allowed = {
        line
        for status in Path("/proc/self/task").glob("*/status")
        for line in status.read_text().splitlines()
        if line.startswith("Cpus_allowed:")
    }
    assert len(allowed) == 1
