"""The threads that kernels run on: which layer starts them, how many there are, and what a fork costs.

Tasks run in one parallel region (prange on Numba's OpenMP or TBB layer), compiled once for all kernels. It is taken and
given back by its own machine code, where no interrupt comes between. A caller that finds it taken, a forked child under
OpenMP (where it always is) and a call with one task run serially, with equal results: the user's process is never
aborted. The thread count of the caller's own Numba code is left as it was. Numba's own fallback, workqueue, aborts the
process when two threads meet in it and is never used: with neither OpenMP nor TBB, serial entries share the tasks on a
thread pool.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import itertools
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba import types
from numba.core.compiler_lock import global_compiler_lock
from numba.np.ufunc.parallel import _check_tbb_version_compatible

from fastsedd_kernels.runtime.cores import available_cores
from fastsedd_kernels.runtime.jit import compile_symbol
from fastsedd_kernels.runtime.pool import Pool
from fastsedd_kernels.runtime.region import (
    COUNTERS,
    FAILED,
    LINE,
    await_tasks,
    caller_of_region,
    finish_task,
    give_back,
    is_mine,
    meet,
    new_counters,
    part,
    take,
)
from fastsedd_kernels.runtime.trampoline import call_task

# Best first: TBB takes half as long again beside NumPy, whose threads stay awake (docs/promises.md).
_LAYERS = {"omp": "numba.np.ufunc.omppool", "tbb": "numba.np.ufunc.tbbpool"}

# Of the calling thread's own prange, as Numba keeps it; known to compiled code once a layer runs.
_threads_of_caller = types.ExternalFunction("get_num_threads", types.intp())  # as prange declares it
_set_threads_of_caller = types.ExternalFunction("set_num_threads", types.void(types.int32))

# A step of a region: the words of `keep_call`'s address, its place, and the number of tasks.
STEP_WORDS = 3


_TAKEN = -1  # instead of a number of tasks


def _run_region(threads: int, steps: int, program: Any, taken: Any) -> Any:
    """The one parallel region: its threads share the tasks of each step, see `region`. How many tasks failed; or, if
    another thread has taken it, _TAKEN, and nothing is done."""
    total = 0
    for step in range(steps):
        total += program[step * STEP_WORDS + 2]
    counters = new_counters(COUNTERS + LINE * steps + total)
    if not take(taken):
        return _TAKEN
    caller = caller_of_region()
    before = _threads_of_caller()
    _set_threads_of_caller(np.int32(threads))
    for thread in numba.prange(threads):
        meet(caller, threads, counters)
        first = COUNTERS + LINE * steps
        for step in range(steps):
            function, memory = program[step * STEP_WORDS], program[step * STEP_WORDS + 1]
            tasks = program[step * STEP_WORDS + 2]
            done = COUNTERS + LINE * step
            for turn in range(tasks):
                task = (tasks * thread // threads + turn) % tasks
                if is_mine(first + task, counters):
                    finish_task(done, call_task(function, task, memory), counters)
            await_tasks(done, tasks, caller, counters)
            first += tasks
        part(caller, counters)
    _set_threads_of_caller(np.int32(before))
    give_back(taken)
    return counters[FAILED]


def _wanted_layers() -> tuple[str, ...]:
    """The safe layers, best first: the one already running or chosen by the user, if any, leaves no choice."""
    try:
        running = numba.threading_layer()
    except ValueError:  # none yet
        running = numba.config.THREADING_LAYER
    if running in _LAYERS:
        return (running,)
    return () if running == "workqueue" else tuple(_LAYERS)


def _load_openmp() -> None:
    """Load Numba's OpenMP layer, which starts nothing, and libgomp with it, if they are there and not loaded yet.

    libgomp's threads spin between regions and starve other libraries' threads; a short spin, of some 80 µs, keeps both
    fast. libgomp reads the variable when it is loaded; processes started later must not inherit it.
    """
    variable = "GOMP_SPINCOUNT"
    chosen = variable in os.environ
    if not chosen:
        os.environ[variable] = "2000"
    try:
        importlib.import_module(_LAYERS["omp"])
    except ImportError:
        pass  # a slim machine
    finally:
        if not chosen:
            del os.environ[variable]


if "omp" in _wanted_layers():
    _load_openmp()

_taken = ctypes.c_ssize_t(0)  # whether the region is
_forked = _forked_off_main = False  # whether this process is the child of a fork, and of another thread than the main
_forking_from_main = True
_threads: int = min(available_cores(), numba.config.NUMBA_NUM_THREADS)


@functools.cache
def threading_layer() -> str:
    """ "omp", "tbb" or "pool": what runs this process's parallel kernels. Decided once, at first use."""
    for layer in _wanted_layers():
        try:
            if layer == "tbb":
                _load_tbb()
            importlib.import_module(_LAYERS[layer])
        except ImportError:
            continue
        numba.config.THREADING_LAYER = layer
        if _is_lost(layer):
            _taken.value = 1
        return layer
    return "pool"


def _load_tbb() -> None:
    """Make TBB known to the loader, which does not look where pip puts it. Raises ImportError where it is too old."""
    installed = Path(sys.prefix, "lib", "libtbb.so.12")
    if installed.is_file():
        try:
            ctypes.CDLL(str(installed), mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            raise ImportError(str(error)) from error
    _check_tbb_version_compatible()


def set_num_threads(count: int) -> None:
    """Let kernels use `count` threads, 1 to the number of cores available when Numba was imported. Process-wide.

    Raises ValueError when count is out of that range. Results do not depend on it.
    """
    global _threads
    largest = numba.config.NUMBA_NUM_THREADS
    if not isinstance(count, (int, np.integer)) or not 1 <= count <= largest:
        raise ValueError(f"threads is {count!r}, allowed: 1 to {largest}")
    _threads = int(count)


def get_num_threads() -> int:
    """The number of threads that a kernel may use now."""
    return _threads


def is_region_free() -> bool:
    """True if there is a region, rather than the pool, and nobody is in it now."""
    return threading_layer() != "pool" and _taken.value == 0


def run_region(program: int, steps: int, threads: int) -> bool:
    """Run a program's steps, whose tasks the threads share; False if there is nothing to share, or no region free."""
    if threads <= 1 or not is_region_free():
        return False
    failed = _region_function()(threads, steps, program, ctypes.addressof(_taken))
    check(failed)
    return failed != _TAKEN


def check(failed: int) -> None:
    """Raise MemoryError where tasks have failed: scratch memory is all that a task asks for."""
    if failed > 0:
        raise MemoryError("no memory for the scratch space of a kernel")


def run_on_pool(entry: Callable[..., int], tasks: int, threads: int, arguments: tuple[Any, ...]) -> bool:
    """Share the tasks on the thread pool where that is the layer; whether it is."""
    if threading_layer() != "pool":
        return False
    bounds = [tasks * share // threads for share in range(threads + 1)]
    check(_pool().sum(entry, [(0, first, last, *arguments) for first, last in itertools.pairwise(bounds)]))
    return True


def compile_region() -> None:
    """Compile the parallel region, or load it from the cache, where this process may use it."""
    if threading_layer() != "pool" and not _is_lost(threading_layer()):
        _region_function()


@functools.cache
def _region_function() -> Callable[[int, int, int, int], int]:
    """The parallel region, compiled or loaded at the first call. Not for the layer "pool"."""
    with _openmp_as_it_was():
        numba.get_num_threads()  # starts the layer
    address = compile_symbol("fastsedd_region", _run_region, _REGION, parallel=True)
    number, pointer = ctypes.c_ssize_t, ctypes.c_void_p
    return ctypes.CFUNCTYPE(number, number, number, pointer, pointer)(address)


@contextmanager
def _openmp_as_it_was() -> Iterator[None]:
    """Let threads of OpenMP open regions of their own afterwards only if they might before.

    Numba's layer allows it for all that shares its OpenMP. There PyTorch's attention, if imported later, then opens a
    region for each small product: it took 50 times as long.
    """
    library = ctypes.CDLL(importlib.import_module(_LAYERS[threading_layer()]).__file__)  # and what it is linked with
    get_levels = getattr(library, "omp_get_max_active_levels", None)
    if get_levels is None:  # TBB, or Windows' OpenMP 2.0
        yield
        return
    levels = get_levels()
    try:
        yield
    finally:
        library.omp_set_max_active_levels(levels)


_REGION = (types.intp, types.intp, types.CPointer(types.intp), types.CPointer(types.intp))


@functools.cache
def _pool() -> Pool:
    return Pool(numba.config.NUMBA_NUM_THREADS, "fastsedd-kernel")


def _is_lost(layer: str) -> bool:
    """True if a fork has cost this process that layer's threads, so that a call on them would hang or kill it.

    OpenMP's do not survive a fork, whoever started them; TBB is put in order by Numba if the main thread forks.
    """
    return (layer == "omp" and _forked) or (layer == "tbb" and _forked_off_main)


def _before_fork() -> None:
    """No fork happens while another thread compiles: the child would wait for it forever."""
    global _forking_from_main
    global_compiler_lock.acquire()
    _forking_from_main = threading.current_thread() is threading.main_thread()  # of the parent


def _after_fork_in_child() -> None:
    """The region stays taken where its threads are lost. The pool's are merely gone."""
    global _forked, _forked_off_main
    _forked, _forked_off_main = True, _forked_off_main or not _forking_from_main
    _pool.cache_clear()
    _taken.value = int(threading_layer.cache_info().currsize > 0 and _is_lost(threading_layer()))
    global_compiler_lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=global_compiler_lock.release, after_in_child=_after_fork_in_child
    )
