"""How a kernel runs on several cores, and why it never takes the user's process down.

A kernel's body computes one task. Its entry holds no GIL and runs a range of tasks, or hands all of them to one
parallel region (prange on Numba's OpenMP or TBB layer), which is compiled once for all kernels. The region
runs under a lock that is never waited for: a caller that finds it taken, a child of a fork under OpenMP (where the
lock is never free) and a single task run serially, with equal results. A region may also run a whole program of
kernels, one step after the other. The number of threads of the caller's own Numba code is left as it was.
Numba's own fallback, workqueue, aborts the process when two threads meet in it and is never used: where neither OpenMP
nor TBB is there, serial entries share the tasks on a thread pool.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import inspect
import itertools
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba import types
from numba.core.compiler_lock import global_compiler_lock
from numba.np.ufunc.parallel import _check_tbb_version_compatible

from fastsedd_kernels.runtime.arrays import aligned_empty
from fastsedd_kernels.runtime.capture import is_recording, run
from fastsedd_kernels.runtime.cpu import available_cores
from fastsedd_kernels.runtime.jit import address_of, compile_entry, compile_symbol
from fastsedd_kernels.runtime.region import (
    COUNTERS,
    FAILED,
    LINE,
    await_tasks,
    caller_of_region,
    finish_task,
    is_mine,
    meet,
    new_counters,
    part,
)
from fastsedd_kernels.runtime.trampoline import KEPT_BYTES, call_task, keep_call, run_tasks

# Best first: TBB takes half as long again beside NumPy, whose threads stay awake (docs/promises.md).
_LAYERS = {"omp": "numba.np.ufunc.omppool", "tbb": "numba.np.ufunc.tbbpool"}

# Its own names start with an underscore, so that a body's parameters may have any name.
_ENTRY = """
def {name}_entry(_body, _place, _first, _last, {parameters}):
    if _place != 0:
        return keep_call(_body, _place, ({parameters},))
    return run_tasks(_body, _first, _last, ({parameters},))
"""
_LEADING = (types.uintp, types.uintp, types.intp, types.intp)

# Of the calling thread's own prange, as Numba keeps it; known to compiled code once a layer runs.
_threads_of_caller = types.ExternalFunction("get_num_threads", types.intp())  # as prange declares it
_set_threads_of_caller = types.ExternalFunction("set_num_threads", types.void(types.int32))

# A step of a region: the words of `keep_call`'s address, its place, and the number of tasks.
STEP_WORDS = 3


def _run_region(threads: int, steps: int, program: Any) -> Any:
    """The one parallel region: its threads share the tasks of each step, see `_region`. How many tasks failed."""
    total = 0
    for step in range(steps):
        total += program[step * STEP_WORDS + 2]
    counters = new_counters(COUNTERS + LINE * steps + total)
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

_region = threading.Lock()
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
            _region.acquire(blocking=False)
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
    most = numba.config.NUMBA_NUM_THREADS
    if not isinstance(count, (int, np.integer)) or not 1 <= count <= most:
        raise ValueError(f"threads is {count!r}, allowed are 1 to {most}")
    _threads = int(count)


def get_num_threads() -> int:
    """How many threads a kernel may use now."""
    return _threads


class Kernel:
    """A task body, compiled on first use, called as `kernel(tasks, *arguments)`.

    body : njit-able f(task, *arguments), which must write only what belongs to its task
    signature : Numba types of the arguments after `task`
    link : makes known what the body calls by name, if anything (`_jit.compile_symbol`)
    """

    def __init__(
        self, body: Callable[..., None], signature: tuple[Any, ...], link: Callable[[], None] | None = None
    ) -> None:
        self.__doc__ = body.__doc__
        self.name = body.__name__
        self._body = body
        self._signature = signature
        self._link = link
        self._code: Any = None  # of the body; the entry knows its address only
        self._entry: Callable[..., int] | None = None

    def __call__(self, tasks: int, *arguments: Any) -> None:
        run(self.share_out, tasks, *arguments)

    def share_out(self, tasks: int, *arguments: Any) -> None:
        """Run the tasks, on several threads where that may be, without taking the call down."""
        entry = self.compile()
        threads = min(_threads, tasks)
        if threads > 1 and threading_layer() == "pool":
            _run_on_pool(entry, tasks, threads, arguments)
        elif threads == 1 or not _run_in_region(threads, (self, tasks, arguments)):
            _check(entry(0, 0, tasks, *arguments))

    def keep(self, place: int, tasks: int, *arguments: Any) -> tuple[int, int, int]:
        """One step of a region's program: this call, kept in KEPT_BYTES at `place`. The arrays must outlive it."""
        return self.compile()(place, 0, 0, *arguments), place, tasks

    def compile(self) -> Callable[..., int]:
        """Compile body and entry, or load them from the cache, without running them; the entry."""
        if self._entry is not None:
            return self._entry
        with global_compiler_lock:
            if self._entry is None:
                if self._link is not None:
                    self._link()
                self._code = compile_entry(self._body, (types.intp, *self._signature), called_from="kernels")
                entry = compile_entry(self._written_out(), (*_LEADING, *self._signature))
                self._entry = functools.partial(entry, address_of(self._code))
        return self._entry

    def body_address(self) -> int:
        """Where the compiled body is, for code of Numba's calling convention (`_tasks.run_tasks`)."""
        self.compile()
        return address_of(self._code)

    def _written_out(self) -> Any:
        """The entry as source, with the body's parameters: Numba takes no *arguments."""
        body = self._body
        parameters = ", ".join(list(inspect.signature(body).parameters)[1:])
        namespace = {"run_tasks": run_tasks, "keep_call": keep_call, "__name__": body.__module__}
        source = _ENTRY.format(name=body.__name__, parameters=parameters)
        exec(compile(source, body.__code__.co_filename, "exec"), namespace)
        return namespace[f"{body.__name__}_entry"]


# The program of a call, or of two, which the holder of the region's lock writes. (To ask NumPy for an address takes a
# microsecond.)
_KEPT = aligned_empty((2, KEPT_BYTES), np.uint8)
_KEPT_AT: list[int] = [place.ctypes.data for place in _KEPT]
_steps = (ctypes.c_ssize_t * (2 * STEP_WORDS))()
_STEPS_AT = ctypes.addressof(_steps)

KernelCall = tuple[Kernel, int, tuple[Any, ...]]  # the kernel, its tasks, its other arguments


def run_both(first: KernelCall, second: KernelCall) -> None:
    """Make two calls, one after the other: in one region, between whose steps no thread rests, where that may be."""
    calls = first, second
    threads = min(_threads, max(tasks for _, tasks, _ in calls))
    for kernel, _, _ in calls:
        kernel.compile()  # not while the region is held
    alone = threads == 1 or is_recording() or threading_layer() == "pool"
    if alone or not _run_in_region(threads, *calls):
        for kernel, tasks, arguments in calls:
            kernel(tasks, *arguments)


def _run_in_region(threads: int, *calls: KernelCall) -> bool:
    """Make one call or two in the region, one after the other, unless it is taken; whether they were made."""
    if not _region.acquire(blocking=False):
        return False
    try:
        for step, (kernel, tasks, arguments) in enumerate(calls):
            words = slice(step * STEP_WORDS, (step + 1) * STEP_WORDS)
            _steps[words] = list(kernel.keep(_KEPT_AT[step], tasks, *arguments))
        _run_region_at(_STEPS_AT, len(calls), threads)
    finally:
        _region.release()
    return True


def _run_region_at(program: int, steps: int, threads: int) -> None:
    """Run a program's steps, whose tasks the threads share. The caller holds the region's lock."""
    _check(_region_function()(threads, steps, program))


def _check(failed: int) -> None:
    if failed > 0:
        raise MemoryError("no memory for the scratch space of a kernel")


def _run_on_pool(entry: Callable[..., int], tasks: int, threads: int, arguments: tuple[Any, ...]) -> None:
    bounds = [tasks * share // threads for share in range(threads + 1)]
    shares = [_pool().submit(entry, 0, first, last, *arguments) for first, last in itertools.pairwise(bounds)]
    _check(sum([share.result() for share in shares]))


@functools.cache
def _region_function() -> Callable[[int, int, int], int]:
    """The parallel region, compiled or loaded at the first call. Not for the layer "pool"."""
    numba.get_num_threads()  # starts the layer
    address = compile_symbol("fastsedd_region", _run_region, _REGION, parallel=True)
    return ctypes.CFUNCTYPE(ctypes.c_ssize_t, ctypes.c_ssize_t, ctypes.c_ssize_t, ctypes.c_void_p)(address)


_REGION = (types.intp, types.intp, types.CPointer(types.intp))


class Program:
    """Calls of kernels kept, to be made again in one region: no thread rests between them, and no Python runs.

    calls : (kernel, tasks, arguments); what they read and write is what is in those arrays then
    """

    def __init__(self, calls: list[KernelCall]) -> None:
        self._calls = list(calls)  # which keep the arrays alive
        self._kept = aligned_empty((len(calls), KEPT_BYTES), np.uint8)
        self._places = [int(place.ctypes.data) for place in self._kept]
        steps = [
            kernel.keep(place, tasks, *arguments)
            for place, (kernel, tasks, arguments) in zip(self._places, calls, strict=True)
        ]
        self._steps = np.array(steps, np.intp).reshape(-1)
        self._most_tasks = max(tasks for _, tasks, _ in calls)

    def bind(self, step: int, arguments: tuple[Any, ...]) -> None:
        """Make that call with other arguments from now on."""
        kernel, tasks, _ = self._calls[step]
        self._calls[step] = kernel, tasks, arguments
        kernel.keep(self._places[step], tasks, *arguments)

    def release(self, step: int) -> None:
        """Keep the arrays of that call no longer alive: it must be bound before it runs."""
        kernel, tasks, _ = self._calls[step]
        self._calls[step] = kernel, tasks, ()

    def run(self) -> None:
        """Make the calls, one after the other."""
        threads = min(_threads, self._most_tasks)
        if threads > 1 and threading_layer() != "pool" and _region.acquire(blocking=False):
            try:
                _run_region_at(self._steps.ctypes.data, len(self._calls), threads)
            finally:
                _region.release()
        else:
            for kernel, tasks, arguments in self._calls:
                kernel.share_out(tasks, *arguments)


_kernels: list[Kernel] = []


def kernel(*signature: Any, link: Callable[[], None] | None = None) -> Callable[[Callable[..., None]], Kernel]:
    """Make a task body a Kernel: `@kernel(types of the arguments after task)`."""

    def decorate(body: Callable[..., None]) -> Kernel:
        made = Kernel(body, signature, link)
        _kernels.append(made)
        return made

    return decorate


def compile_all(progress: Callable[[int, int], None] | None = None) -> None:
    """Compile every kernel for this CPU, or load it from the cache; `progress(done, total)` is called after each."""
    if threading_layer() != "pool" and not _is_lost(threading_layer()):
        _region_function()
    for done, each in enumerate(_kernels, start=1):
        each.compile()
        if progress is not None:
            progress(done, len(_kernels))


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(numba.config.NUMBA_NUM_THREADS, thread_name_prefix="fastsedd-kernel")


def _is_lost(layer: str) -> bool:
    """Whether a fork has cost this process that layer's threads, so that a call on them would hang or kill it.

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
    global _region, _forked, _forked_off_main
    _forked, _forked_off_main = True, _forked_off_main or not _forking_from_main
    _region = threading.Lock()
    _pool.cache_clear()
    if threading_layer.cache_info().currsize and _is_lost(threading_layer()):
        _region.acquire()
    global_compiler_lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=global_compiler_lock.release, after_in_child=_after_fork_in_child
    )
