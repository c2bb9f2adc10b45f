"""Programs of kernel calls: kept in memory as addresses, made in one parallel region, no Python between them.

A call is a program of one step, and `run_both` makes one of two.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from fastsedd_kernels.runtime.arrays import aligned_empty
from fastsedd_kernels.runtime.capture import is_recording
from fastsedd_kernels.runtime.threads import STEP_WORDS, get_num_threads, is_region_free, run_region
from fastsedd_kernels.runtime.trampoline import KEPT_BYTES


class Shareable(Protocol):
    """A kernel, as programs see it (`kernel.Kernel`)."""

    def __call__(self, tasks: int, *arguments: Any) -> None: ...

    def compile(self) -> Callable[..., int]: ...

    def keep(self, place: int, tasks: int, *arguments: Any) -> tuple[int, int, int]: ...

    def share_out(self, tasks: int, *arguments: Any) -> None: ...


KernelCall = tuple[Shareable, int, tuple[Any, ...]]  # the kernel, its tasks, its other arguments


class _Steps:
    """Memory for the steps of a region's program. (To ask NumPy for an address takes a microsecond: once.)"""

    def __init__(self, count: int) -> None:
        self._kept = aligned_empty((count, KEPT_BYTES), np.uint8)
        self._places: list[int] = [place.ctypes.data for place in self._kept]
        self._words = (ctypes.c_ssize_t * (count * STEP_WORDS))()
        self._address = ctypes.addressof(self._words)

    def keep(self, step: int, call: KernelCall) -> None:
        """Write one call, whose arrays must outlive it, as that step."""
        kernel, tasks, arguments = call
        words = kernel.keep(self._places[step], tasks, *arguments)
        self._words[step * STEP_WORDS : (step + 1) * STEP_WORDS] = list(words)

    def run(self, count: int, threads: int) -> bool:
        """Run the first `count` steps; False where there is no region for them."""
        return run_region(self._address, count, threads)


_free: list[_Steps] = []  # of calls made once; each caller takes one, and another that is interrupted loses one


def run_in_region(threads: int, *calls: KernelCall) -> bool:
    """Make one call or two, one after the other, in the region unless it is taken; whether they were made.

    The kernels are compiled: nothing is compiled while the region is held.
    """
    if not is_region_free():
        return False
    try:
        steps = _free.pop()
    except IndexError:
        steps = _Steps(2)
    for step, call in enumerate(calls):
        steps.keep(step, call)
    made = steps.run(len(calls), threads)
    _free.append(steps)
    return made


def run_both(first: KernelCall, second: KernelCall) -> None:
    """Make two calls, one after the other: in one region, between whose steps no thread rests, where that may be."""
    threads = min(get_num_threads(), max(first[1], second[1]))
    if threads > 1 and not is_recording():
        for kernel, _, _ in (first, second):
            kernel.compile()
        if run_in_region(threads, first, second):
            return
    for kernel, tasks, arguments in (first, second):
        kernel(tasks, *arguments)


def _threads(calls: Sequence[KernelCall]) -> int:
    """Threads that a program of these calls can use: no more than the largest number of tasks."""
    return min(get_num_threads(), max(tasks for _, tasks, _ in calls))


class Program:
    """Calls of kernels kept, to be made again in one region: no thread rests between them, and no Python runs.

    calls : (kernel, tasks, arguments); what they read and write is what is in those arrays then
    """

    def __init__(self, calls: Sequence[KernelCall]) -> None:
        self._calls = list(calls)  # which keep the arrays alive
        self._steps = _Steps(len(calls))
        for step, call in enumerate(calls):
            self._steps.keep(step, call)

    def bind(self, step: int, arguments: tuple[Any, ...]) -> None:
        """Make that call with other arguments from now on."""
        kernel, tasks, _ = self._calls[step]
        self._calls[step] = kernel, tasks, arguments
        self._steps.keep(step, self._calls[step])

    def release(self, step: int) -> None:
        """Keep the arrays of that call no longer alive: it must be bound before it runs."""
        kernel, tasks, _ = self._calls[step]
        self._calls[step] = kernel, tasks, ()

    def run(self) -> None:
        """Make the calls, one after the other."""
        threads = _threads(self._calls)
        if not self._steps.run(len(self._calls), threads):
            for kernel, tasks, arguments in self._calls:
                kernel.share_out(tasks, *arguments)
