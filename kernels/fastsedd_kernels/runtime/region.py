"""The threads of a parallel region: they meet, take tasks and part, and each has a core for itself.

The scheduler may wake a worker on the core of the thread that wakes it. There it waits until its caller has finished,
and is woken there again the next time: a program of short regions runs on one core while others idle. (Seen for seconds
on end, on Linux 6.18 with two cores; it halves the speed.) Threads that never sleep avoid it, and starve those of other
libraries. So the caller yields until its workers have started, a worker that finds itself on its caller's core moves
off it, and the caller stays awake while they finish. Threads are not pinned: a worker's affinity is what it was, once
it has moved. Each thread begins with its own tasks, whose data may be in its cache, and then takes what others have not
begun: a worker that comes late holds nobody up. A region may have several steps; the next begins when all tasks of the
one before are done.

A worker may also be held up in the middle of a task, for milliseconds, by another library's thread that spins on its
core: OpenBLAS's do for 25 ms after a product. The caller, if it has waited in vain for a while, therefore sleeps for
moments: a core that falls idle is given a thread that waits for another one. (Nobody wakes it earlier: it would be
rescheduled on its worker's core, beside the thread that spins there, and the gain would be lost. Measured.)
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastsedd_kernels.runtime.jit import jit
from fastsedd_kernels.runtime.scalar import pointer

# Counters of a region, each on a cache line of its own; behind them one for each step, and then one for each task.
_STARTED, _FINISHED, FAILED = 0, 8, 16
COUNTERS = 24
LINE = 8  # counters in a cache line

# Times that a caller yields to workers that have not started: each may give a slice to another program instead.
_PATIENCE = 2
_LOOKS = 100  # at a counter, before yielding
_AWAKE = 20_000  # looks at a counter, some 130 µs, before falling asleep
_NAP = 100  # microseconds

_WORDS = 16  # of an affinity mask: 1,024 CPUs, as in glibc's cpu_set_t
_BYTES = 8 * _WORDS

_sched_getcpu = types.ExternalFunction("sched_getcpu", types.int32())
_sched_yield = types.ExternalFunction("sched_yield", types.int32())
_usleep = types.ExternalFunction("usleep", types.int32(types.uint32))
_pthread_self = types.ExternalFunction("pthread_self", types.uintp())
_AFFINITY = types.int32(types.int32, types.uintp, types.CPointer(types.uint64))
_sched_getaffinity = types.ExternalFunction("sched_getaffinity", _AFFINITY)
_sched_setaffinity = types.ExternalFunction("sched_setaffinity", _AFFINITY)


@intrinsic  # type: ignore[untyped-decorator]
def _count(typing_context: Any, counter: Any, amount: Any) -> Any:
    """The counter at a pointer, which is `amount` more afterwards; no two threads get the same value."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return builder.atomic_rmw("add", arguments[0], arguments[1], "seq_cst")

    return types.intp(counter, types.intp), codegen


@intrinsic  # type: ignore[untyped-decorator]
def _exchange(typing_context: Any, place: Any, value: Any) -> Any:
    """Put the value at a pointer; what was there before. No two threads come between each other."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return builder.atomic_rmw("xchg", arguments[0], arguments[1], "seq_cst")

    return types.intp(place, types.intp), codegen


@jit
def take(taken: Any) -> Any:
    """Try to take what that pointer stands for; True if nobody had."""
    return _exchange(taken, 1) == 0


@jit
def give_back(taken: Any) -> None:
    """Undo `take`."""
    _exchange(taken, 0)


@jit
def is_mine(place: int, counters: Any) -> Any:
    """True if the calling thread is the first to claim the task whose counter is there."""
    return _count(pointer(counters, place), 1) == 0


@jit
def new_counters(count: int) -> Any:
    """Counters at zero, intp [count]. (numpy.zeros takes Numba longer to compile.)"""
    counters = np.empty(count, np.intp)
    for i in range(count):
        counters[i] = 0
    return counters


@jit
def finish_task(place: int, failed: bool, counters: Any) -> None:
    """Count one task of a step as done, and whether it failed."""
    if failed:
        _count(pointer(counters, FAILED), 1)
    _count(pointer(counters, place), 1)


@jit
def _await_on_linux(place: int, tasks: int, caller: Any, counters: Any) -> None:
    looks = 0
    while _count(pointer(counters, place), 0) < tasks:
        looks += 1
        if looks >= _AWAKE and np.uint64(_pthread_self()) == caller[0]:
            _usleep(_NAP)
        elif looks % _AWAKE == 0:
            _sched_yield()


@jit
def _await_elsewhere(place: int, tasks: int, caller: Any, counters: Any) -> None:
    while _count(pointer(counters, place), 0) < tasks:
        pass


@jit
def _caller_on_linux() -> Any:
    return np.uint64(_pthread_self()), np.int64(_sched_getcpu())


@jit
def _leave_core(core: int) -> None:
    """Move the calling thread to another core than that one, if it may run on any other."""
    if 0 <= core < 64 * _WORDS:
        _leave(core, np.empty(2 * _WORDS, np.uint64))


@jit
def _leave(core: int, masks: Any) -> None:
    """`_leave_core`, with memory for two masks: its caller's, who keeps it until this is done."""
    allowed, others = pointer(masks, 0), pointer(masks, _WORDS)
    for i in range(_WORDS):
        allowed[i] = 0
    if _sched_getaffinity(0, _BYTES, allowed) < 0:
        return
    for i in range(_WORDS):  # arrays assigned as a whole take Numba three seconds to compile
        others[i] = allowed[i]
    others[core // 64] &= ~(np.uint64(1) << np.uint64(core % 64))
    if _sched_setaffinity(0, _BYTES, others) == 0:  # refused where no core is left
        _sched_setaffinity(0, _BYTES, allowed)


@jit
def _meet_on_linux(caller: Any, threads: int, counters: Any) -> None:
    thread, core = caller
    started = pointer(counters, _STARTED)
    if np.uint64(_pthread_self()) != thread:
        if _sched_getcpu() == core:
            _leave_core(core)
        _count(started, 1)
        return
    looks = 0
    while _count(started, 0) < threads - 1 and looks < _PATIENCE * _LOOKS:
        looks += 1
        if looks % _LOOKS == 0:
            _sched_yield()


@jit
def _part_on_linux(caller: Any, counters: Any) -> None:
    finished = pointer(counters, _FINISHED)
    if np.uint64(_pthread_self()) != caller[0]:
        _count(finished, 1)
        return
    looks = 0
    while looks < _AWAKE and _count(finished, 0) < _count(pointer(counters, _STARTED), 0):
        looks += 1


@jit
def _caller_elsewhere() -> Any:
    return np.uint64(0), np.int64(0)


@jit
def _meet_elsewhere(caller: Any, threads: int, counters: Any) -> None:
    pass


@jit
def _part_elsewhere(caller: Any, counters: Any) -> None:
    pass


_LINUX = sys.platform == "linux"

# The calling thread and its core: for its workers to know it by.
caller_of_region = _caller_on_linux if _LINUX else _caller_elsewhere

# First thing in a region, for the caller and each worker: see that all run, on cores of their own.
meet = _meet_on_linux if _LINUX else _meet_elsewhere

# After each step: a thread waits until all its tasks are done.
await_tasks = _await_on_linux if _LINUX else _await_elsewhere

# Last thing: the caller waits, awake, for the workers that have started.
part = _part_on_linux if _LINUX else _part_elsewhere
