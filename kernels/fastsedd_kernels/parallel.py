"""How a kernel runs on several cores, and why it never takes the user's process down.

A kernel's body computes one task. Two entries are made of it: a parallel one (prange over threads that share the
tasks, on Numba's TBB or OpenMP layer) and a serial one that holds no GIL. The parallel entry runs under a lock that is
never waited for: a caller that finds it taken, a child of a fork under OpenMP and a single task run serially, with
equal results.
Numba's own fallback, workqueue, aborts the process when two threads meet in it and is never used: where neither TBB
nor OpenMP is there, serial entries share the tasks on a thread pool.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

# libgomp's threads spin between regions and starve other libraries' threads; a short spin keeps both fast.
os.environ.setdefault("GOMP_SPINCOUNT", "6000")

import itertools

import numba
import numpy as np
from numba import types

from fastsedd_kernels._jit import compile_entry, jit
from fastsedd_kernels._region import COUNTERS, caller_of_region, is_mine, meet, part
from fastsedd_kernels.cpu import available_cores
from fastsedd_kernels.recording import run

_LAYERS = {"tbb": "numba.np.ufunc.tbbpool", "omp": "numba.np.ufunc.omppool"}

# The loops' own names start with an underscore, so that a body's parameters may have any name.
_PARALLEL = """
def {name}_parallel(_threads, _count, {parameters}):
    _counters = zeros(COUNTERS + _count, intp)
    _caller = caller_of_region()
    for _thread in prange(_threads):
        meet(_caller, _threads, _counters)
        for _step in range(_count):
            _task = (_count * _thread // _threads + _step) % _count
            if is_mine(_task, _counters):
                body(_task, {parameters})
        part(_caller, _counters)
"""

_SERIAL = """
def {name}_serial(_first, _last, {parameters}):
    for _task in range(_first, _last):
        body(_task, {parameters})
"""

# What the loops call.
_NAMES = {
    "prange": numba.prange,
    "zeros": np.zeros,
    "intp": np.intp,
    "COUNTERS": COUNTERS,
    "caller_of_region": caller_of_region,
    "meet": meet,
    "is_mine": is_mine,
    "part": part,
}

_region = threading.Lock()
_caller = threading.local()
_threads: int = min(available_cores(), numba.config.NUMBA_NUM_THREADS)


@functools.cache
def threading_layer() -> str:
    """ "tbb", "omp" or "pool": what runs this process's parallel kernels. Decided once, at first use."""
    for layer in _wanted_layers():
        try:
            importlib.import_module(_LAYERS[layer])
        except ImportError:
            continue
        numba.config.THREADING_LAYER = layer
        return layer
    return "pool"


def _wanted_layers() -> tuple[str, ...]:
    """The safe layers, best first: the one already running or chosen by the user, if any, leaves no choice."""
    try:
        running = numba.threading_layer()
    except ValueError:  # none yet
        running = numba.config.THREADING_LAYER
    if running in _LAYERS:
        return (running,)
    return () if running == "workqueue" else tuple(_LAYERS)


def set_num_threads(count: int) -> None:
    """Let kernels use `count` threads, 1 to the number of cores available when Numba was imported. Process-wide.

    Raises ValueError when count is out of that range. Results do not depend on it.
    """
    global _threads
    most = numba.config.NUMBA_NUM_THREADS
    if not isinstance(count, int) or not 1 <= count <= most:
        raise ValueError(f"threads is {count!r}, allowed are 1 to {most}")
    _threads = count


def get_num_threads() -> int:
    """How many threads a kernel may use now."""
    return _threads


class Kernel:
    """A task body, compiled on first use into a parallel and a serial entry, called as `kernel(tasks, *arguments)`.

    body : njit-able f(task, *arguments), which must write only what belongs to its task
    signature : Numba types of the arguments after `task`
    link : makes known what the body calls by name, if anything (`_jit.compile_symbol`)
    """

    def __init__(
        self, body: Callable[..., None], signature: tuple[Any, ...], link: Callable[[], None] | None = None
    ) -> None:
        self.__doc__ = body.__doc__
        self._body = body
        self._signature = signature
        self._link = link
        self._compiling = threading.Lock()
        self._parallel: Any = None
        self._serial: Any = None

    def __call__(self, tasks: int, *arguments: Any) -> None:
        run(self._share_out, tasks, *arguments)

    def _share_out(self, tasks: int, *arguments: Any) -> None:
        threads = min(_threads, tasks)
        if threads == 1:
            self._run_serial(0, tasks, *arguments)
        elif threading_layer() == "pool":
            self._run_pool(tasks, threads, *arguments)
        elif _region.acquire(blocking=False):
            try:
                self._run_parallel(tasks, threads, *arguments)
            finally:
                _region.release()
        else:
            self._run_serial(0, tasks, *arguments)

    def compile(self) -> None:
        """Compile both entries, or load them from the cache, without running either."""
        with self._compiling:
            if self._serial is None:
                self._serial = self._entry(_SERIAL, (types.intp, types.intp), parallel=False)
            if self._parallel is None and threading_layer() != "pool":
                self._parallel = self._entry(_PARALLEL, (types.intp, types.intp), parallel=True)

    def _run_parallel(self, tasks: int, threads: int, *arguments: Any) -> None:
        if self._parallel is None:
            with self._compiling:
                self._parallel = self._entry(_PARALLEL, (types.intp, types.intp), parallel=True)
        if getattr(_caller, "threads", None) != threads:
            numba.set_num_threads(threads)  # which Numba keeps per Python thread
            _caller.threads = threads
        self._parallel(threads, tasks, *arguments)

    def _run_serial(self, first: int, last: int, *arguments: Any) -> None:
        if self._serial is None:
            with self._compiling:
                self._serial = self._entry(_SERIAL, (types.intp, types.intp), parallel=False)
        self._serial(first, last, *arguments)

    def _run_pool(self, tasks: int, threads: int, *arguments: Any) -> None:
        bounds = [tasks * share // threads for share in range(threads + 1)]
        shares = [
            _pool().submit(self._run_serial, first, last, *arguments) for first, last in itertools.pairwise(bounds)
        ]
        self._run_serial(bounds[0], bounds[1], *arguments)
        for share in shares:
            share.result()

    def _entry(self, template: str, leading: tuple[Any, ...], *, parallel: bool) -> Any:
        """Numba caches no closure over a jitted function, so the loop around the body is written out as source."""
        if self._link is not None:
            self._link()
        body = self._body
        parameters = ", ".join(list(inspect.signature(body).parameters)[1:])
        source = template.format(name=body.__name__, parameters=parameters)
        namespace: dict[str, Any] = {**_NAMES, "body": jit(body), "__name__": body.__module__}
        exec(compile(source, body.__code__.co_filename, "exec"), namespace)
        function = namespace[f"{body.__name__}_{'parallel' if parallel else 'serial'}"]
        return compile_entry(function, (*leading, *self._signature), parallel=parallel)


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
    for done, each in enumerate(_kernels, start=1):
        each.compile()
        if progress is not None:
            progress(done, len(_kernels))


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(numba.config.NUMBA_NUM_THREADS, thread_name_prefix="fastsedd-kernel")


def _after_fork_in_child() -> None:
    """OpenMP's threads do not survive a fork and kill the child that calls on them; the pool's are merely gone."""
    global _region, _threads
    _region = threading.Lock()
    _pool.cache_clear()
    if threading_layer.cache_info().currsize and threading_layer() == "omp":
        _threads = 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
