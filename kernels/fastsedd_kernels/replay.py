"""Calls recorded once and repeated without the checks, views and plans around them, nor the Python between them.

A network calls the same kernels on the same arrays with every step of a sampler. `record` keeps what depends on the
arrays' contents; the rest was found once and holds for as long as the arrays do. Kernels that follow each other are one
region of threads when they are replayed: a tenth of a small network's time is not spent on starting them.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

from fastsedd_kernels.parallel import Kernel, Program
from fastsedd_kernels.recording import Call, capture

# Kernels in one region: an interrupt waits until it ends.
_MOST_STEPS = 32


class Recording:
    """What `record` returns. Any thread may replay it, one at a time."""

    def __init__(self, calls: list[Call]) -> None:
        self._count = len(calls)
        self._runs = tuple(_joined(calls))

    def __len__(self) -> int:
        """How many calls a replay makes."""
        return self._count

    def replay(self) -> None:
        """Do again what was recorded, with what the same arrays hold now. Raises what a check of values raises."""
        for function, arguments in self._runs:
            function(*arguments)


def record(function: Callable[[], Any]) -> Recording:
    """Call `function` once and return a recording of all that this package's functions did in it on this thread.

    A replay reads and writes the very arrays of that call: inputs are to be written in place, and an array that was
    made on the way is filled anew. NumPy's own operations are not recorded, and numbers and lists are as they were.
    Raises RuntimeError within another `record`, and what `function` raises.
    """
    return Recording(capture(function))


def profile(function: Callable[[], Any], rounds: int = 20) -> dict[str, float]:
    """Seconds that each kernel takes in all of its calls in `function`, which calls it once to record them.

    The calls are made one by one, in their order and with what the ones before leave in the caches; of `rounds` rounds
    the median counts. A kernel's time is that of its calls from Python: a replay spares a part of it.
    """
    calls = [(kernel.name, *call) for call in capture(function) if (kernel := _kernel_of(call)) is not None]
    taken: dict[str, list[float]] = {name: [0.0] * rounds for name, _, _ in calls}
    for turn in range(rounds):
        for name, call, arguments in calls:
            start = time.perf_counter()
            call(*arguments)
            taken[name][turn] += time.perf_counter() - start
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def _joined(calls: list[Call]) -> list[Call]:
    """The calls, with kernels that follow each other joined to programs."""
    joined: list[Call] = []
    for are_kernels, group in itertools.groupby(calls, lambda call: _kernel_of(call) is not None):
        if not are_kernels:
            joined += group
            continue
        kernels = [(kernel, call[1][0], call[1][1:]) for call in group if (kernel := _kernel_of(call)) is not None]
        for first in range(0, len(kernels), _MOST_STEPS):
            joined.append((Program(kernels[first : first + _MOST_STEPS]).run, ()))
    return joined


def _kernel_of(call: Call) -> Kernel | None:
    owner = getattr(call[0], "__self__", None)
    return owner if isinstance(owner, Kernel) else None
