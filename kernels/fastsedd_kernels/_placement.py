"""Where a region's threads run: a worker that wakes on its caller's core moves off it.

A thread that slept between two regions may be woken on the core of the thread that wakes it, wait there until that one
has finished its share, and be woken there again the next time: a program of short regions then runs on one core while
others idle. (Seen for seconds on end on Linux 6.18 with two cores.) Spinning instead of sleeping avoids it, and starves
other libraries' threads. So each worker looks where it is, which costs some nanoseconds, and moves itself if need be.
Threads are not pinned: their affinity is what it was, once they have moved.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numba import types

from fastsedd_kernels._jit import jit
from fastsedd_kernels._simd import pointer

_WORDS = 16  # of an affinity mask: 1,024 CPUs, as in glibc's cpu_set_t
_BYTES = 8 * _WORDS

_sched_getcpu = types.ExternalFunction("sched_getcpu", types.int32())
_pthread_self = types.ExternalFunction("pthread_self", types.uintp())
_AFFINITY = types.int32(types.int32, types.uintp, types.CPointer(types.uint64))
_sched_getaffinity = types.ExternalFunction("sched_getaffinity", _AFFINITY)
_sched_setaffinity = types.ExternalFunction("sched_setaffinity", _AFFINITY)


@jit
def _caller_on_linux() -> Any:
    return np.uint64(_pthread_self()), np.int64(_sched_getcpu())


@jit
def _leave_on_linux(caller: Any) -> None:
    thread, core = caller
    if np.uint64(_pthread_self()) == thread or _sched_getcpu() != core or core < 0 or core >= 64 * _WORDS:
        return
    allowed, others = np.zeros(_WORDS, np.uint64), np.zeros(_WORDS, np.uint64)
    if _sched_getaffinity(0, _BYTES, pointer(allowed, 0)) < 0:
        return
    others[:] = allowed
    others[core // 64] &= ~(np.uint64(1) << np.uint64(core % 64))
    if others.any() and _sched_setaffinity(0, _BYTES, pointer(others, 0)) == 0:
        _sched_setaffinity(0, _BYTES, pointer(allowed, 0))


@jit
def _caller_elsewhere() -> Any:
    return np.uint64(0), np.int64(0)


@jit
def _stay(caller: Any) -> None:
    pass


_LINUX = sys.platform == "linux"

# The calling thread and its core, for its workers.
caller_of_region = _caller_on_linux if _LINUX else _caller_elsewhere

# Move the calling thread to another core if it is a worker on its caller's one and may.
leave_callers_core = _leave_on_linux if _LINUX else _stay
