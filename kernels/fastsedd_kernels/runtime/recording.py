"""Calls recorded once and repeated without the checks, views and plans around them, nor the Python between them.

A network calls the same kernels on the same arrays with every step of a sampler. `record` keeps what depends on the
arrays' contents; the rest was found once and holds for as long as the arrays do. Kernels that follow each other are one
region of threads when they are replayed: a tenth of a small network's time is not spent on starting them.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastsedd_kernels.runtime.capture import Call, capture
from fastsedd_kernels.runtime.kernel import Kernel
from fastsedd_kernels.runtime.program import Program

# Kernels in one region: an interrupt waits until it ends.
_MAX_STEPS = 32

_Arguments = tuple[Any, ...]


class Recording:
    """A recording of calls, made by `record`. Any thread may replay it, one at a time."""

    def __init__(self, calls: list[Call], given: tuple[NDArray[Any], ...]) -> None:
        self._given = _kinds(given)
        self._runs: list[Program | _Single] = []
        self._bound: list[tuple[Program | _Single, int, _Arguments]] = []  # a run's step, and its arguments
        for run, steps in _joined(calls):
            self._runs.append(run)
            for step, arguments in enumerate(steps):
                placed = _placed(arguments, given)
                if placed is not arguments:
                    self._bound.append((run, step, placed))
        self._count = len(calls)
        if given:
            self._let_go()

    def __len__(self) -> int:
        """The number of calls that a replay makes."""
        return self._count

    def replay(self, *arrays: NDArray[Any]) -> None:
        """Repeat the recorded calls, with what the same arrays hold now.

        arrays : in place of those that `record` was given, as many, of their shapes and dtypes, C-contiguous, and as
            far apart from each other and from the rest as those were
        Raises ValueError for arrays of other shapes or dtypes, or not C-contiguous, and for values that a recorded
        check refuses.
        """
        kinds = _kinds(arrays)
        if kinds != self._given:
            raise ValueError(f"arrays are {_in_words(kinds)}, must be {_in_words(self._given)}: those of the recording")
        if not all(array.flags.c_contiguous and array.flags.aligned for array in arrays):
            raise ValueError("arrays must be C-contiguous, their elements at multiples of their size")
        try:
            for run, step, arguments in self._bound:
                run.bind(step, _filled(arguments, arrays))
            for run in self._runs:
                run.run()
        finally:
            if arrays:
                self._let_go()

    def _let_go(self) -> None:
        """Keep no array alive that the next replay is given another one for."""
        for run, step, _ in self._bound:
            run.release(step)


_Kind = tuple[tuple[int, ...], np.dtype[Any]]  # of an array: its shape and dtype


def _kinds(arrays: tuple[NDArray[Any], ...]) -> list[_Kind]:
    return [(array.shape, array.dtype) for array in arrays]


def _in_words(kinds: list[_Kind]) -> str:
    return ", ".join(f"{dtype} {shape}" for shape, dtype in kinds) or "none"


def record(function: Callable[[], Any], *arrays: NDArray[Any]) -> Recording:
    """Call `function` once and return a recording of all that this package's functions did in it on this thread.

    A replay reads and writes the very arrays of that call: inputs are to be written in place, and an array that was
    made on the way is filled anew. NumPy's own operations are not recorded, and numbers and lists are as they were.
    arrays : NumPy arrays that `function` uses and each replay is given others for, C-contiguous
    Raises RuntimeError within another `record`, ValueError for strided arrays, and what `function` raises.
    """
    if not all(array.flags.c_contiguous for array in arrays):
        raise ValueError(f"arrays are {_in_words(_kinds(arrays))}, must be C-contiguous")
    return Recording(capture(function), arrays)


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


class _Single:
    """A call of something else than a kernel: a copy, or a check."""

    def __init__(self, function: Callable[..., Any], arguments: _Arguments) -> None:
        self._function, self._arguments = function, arguments

    def bind(self, step: int, arguments: _Arguments) -> None:
        self._arguments = arguments

    def release(self, step: int) -> None:
        self._arguments = ()

    def run(self) -> None:
        self._function(*self._arguments)


def _joined(calls: list[Call]) -> Iterator[tuple[Program | _Single, list[_Arguments]]]:
    """The calls, with kernels that follow each other joined to programs; and the arguments of each of a run's steps."""
    for are_kernels, group in itertools.groupby(calls, lambda call: _kernel_of(call) is not None):
        if not are_kernels:
            for function, arguments in group:
                yield _Single(function, arguments), [arguments]
            continue
        kernels = [(kernel, call[1][0], call[1][1:]) for call in group if (kernel := _kernel_of(call)) is not None]
        for first in range(0, len(kernels), _MAX_STEPS):
            steps = kernels[first : first + _MAX_STEPS]
            yield Program(steps), [arguments for _, _, arguments in steps]


class _Place(NamedTuple):
    """A view of one of the arrays that a replay is given: which, and from which byte on."""

    slot: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype[Any]

    def of(self, arrays: tuple[NDArray[Any], ...]) -> NDArray[Any]:
        return np.ndarray(self.shape, self.dtype, arrays[self.slot].data, self.offset, self.strides)


def _placed(value: Any, given: tuple[NDArray[Any], ...]) -> Any:
    """The value with a _Place for each array in it that lies in one of those given; itself if there is none."""
    if isinstance(value, tuple):
        parts = tuple(_placed(each, given) for each in value)
        return value if all(part is each for part, each in zip(parts, value, strict=True)) else parts
    if isinstance(value, np.ndarray) and value.size > 0:
        for slot, array in enumerate(given):
            offset = value.ctypes.data - array.ctypes.data
            if 0 <= offset < array.nbytes:
                return _Place(slot, offset, value.shape, value.strides, value.dtype)
    return value


def _filled(value: Any, arrays: tuple[NDArray[Any], ...]) -> Any:
    """The value with the arrays that its places stand for."""
    if isinstance(value, _Place):
        return value.of(arrays)
    return tuple(_filled(each, arrays) for each in value) if isinstance(value, tuple) else value


def _kernel_of(call: Call) -> Kernel | None:
    owner = getattr(call[0], "__self__", None)
    return owner if isinstance(owner, Kernel) else None
