"""A pool of threads that outlives a Ctrl-C.

`concurrent.futures` waits by conditions that are written in Python: an interrupt between two of their bytecodes leaves
a lock taken, and the thread that needs it next waits for ever. These queues lock in C, where nothing interrupts.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, NamedTuple


class _Call(NamedTuple):
    """function : returns a number; done : takes it, or 0, and what the function raised, if anything"""

    function: Callable[..., int]
    arguments: tuple[Any, ...]
    done: SimpleQueue[tuple[int, BaseException | None]]


class Pool:
    """A fixed number of threads, which end with the process."""

    def __init__(self, threads: int, name: str) -> None:
        self._calls: SimpleQueue[_Call] = SimpleQueue()
        for number in range(threads):
            threading.Thread(target=_serve, args=(self._calls,), name=f"{name}_{number}", daemon=True).start()

    def sum(self, function: Callable[..., int], calls: Sequence[tuple[Any, ...]]) -> int:
        """The sum of what the function returns for each call's arguments, shared among the threads.

        Raises what a call raised, once all are done. An interrupt ends the waiting; calls that have begun run on.
        """
        done: SimpleQueue[tuple[int, BaseException | None]] = SimpleQueue()
        for arguments in calls:
            self._calls.put(_Call(function, arguments, done))
        results = [done.get() for _ in calls]
        for _, error in results:
            if error is not None:
                raise error
        return sum(number for number, _ in results)


def _serve(calls: SimpleQueue[_Call]) -> None:
    """Take calls, for ever."""
    while True:
        function, arguments, done = calls.get()
        try:
            done.put((function(*arguments), None))
        except BaseException as error:
            done.put((0, error))
        del function, arguments, done  # not kept until the next call
